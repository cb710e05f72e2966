//! String lists: names and labels.

use super::ensure;
use super::fields::{Decoder, Encoder, Fields};
use crate::error::{Error, Result};

/// Longest string in bytes.
const MAX_STRING_LEN: usize = 4096;

/// Lays out a list; refuses what [`decode`] would.
pub(super) fn encode<'a>(strings: impl Iterator<Item = &'a str> + Clone) -> Result<Vec<u8>> {
    let mut out = Encoder::default();
    out.size(&mut strings.clone().count())?;
    let mut end = 0;
    for s in strings.clone() {
        check(s)?;
        end += s.len();
        out.size(&mut end)?;
    }
    strings.for_each(|s| out.0.extend_from_slice(s.as_bytes()));
    Ok(out.0)
}

/// Reads a list of at most `max_count` strings.
pub(super) fn decode(bytes: &[u8], max_count: usize) -> Result<Vec<&str>> {
    let mut io = Decoder::new(bytes);
    let mut count = 0;
    io.size(&mut count)?;
    ensure(count <= max_count, || format!("{count} strings, expected at most {max_count}"))?;
    let table = count * size_of::<u32>();
    let text = io.rest().get(table..).ok_or_else(|| Error::format("no room for the strings"))?;
    let mut strings = Vec::with_capacity(count);
    let (mut start, mut end) = (0, 0);
    for i in 0..count {
        io.size(&mut end)?;
        let bytes = text
            .get(start..end)
            .ok_or_else(|| Error::format(format!("string {i} runs from {start} to {end}")))?;
        let s = std::str::from_utf8(bytes)
            .map_err(|e| Error::format(format!("string {i} is not UTF-8")).caused_by(e))?;
        check(s)?;
        strings.push(s);
        start = end;
    }
    ensure(end == text.len(), || format!("{} bytes after the last string", text.len() - end))?;
    Ok(strings)
}

fn check(s: &str) -> Result<()> {
    ensure(s.len() <= MAX_STRING_LEN, || {
        format!("a name of {} bytes, expected at most {MAX_STRING_LEN}", s.len())
    })?;
    ensure(!s.contains(char::is_control), || format!("a control character in the name {s:?}"))
}
