//! The header and the section table.

use std::fmt;

use super::fields::{Decoder, Encoder, Fields};
use super::{
    FIRST_WEIGHTS_ALIGN, MAX_CONSTANTS, MAX_FILE_LEN, MAX_OTHER_SECTIONS, SECTION_ALIGN, ensure,
    within,
};
use crate::error::{Error, ErrorKind, Result};

pub(crate) const HEADER_LEN: usize = 128;
pub(super) const ENTRY_LEN: usize = 64;
const MAGIC: [u8; 8] = *b"\x89SKP\r\n\x1a\n";
const ENDIAN_MARK: u32 = 0x0102_0304;
/// Section flag: a reader that does not know the kind refuses the file.
const REQUIRED: u32 = 1;

/// The header, without what is the same in all files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Header {
    pub(crate) minor: u16,
    pub(super) nb_sections: usize,
    pub(crate) file_len: u64,
    pub(crate) content_hash: [u8; 32],
    pub(super) table_crc: u32,
}

impl Header {
    pub(crate) const MAJOR: u16 = 1;

    /// The minor version of a file with these sections: the lowest that has all of them.
    pub(super) fn minor_version(sections: &[SectionEntry]) -> u16 {
        let later = [SectionKind::TUNE, SectionKind::QUANT];
        u16::from(sections.iter().any(|s| later.contains(&s.kind)))
    }

    pub(super) fn encode(mut self) -> Result<Vec<u8>> {
        let mut out = Encoder::default();
        self.identity(&mut out)?;
        self.fields(&mut out)?;
        let mut crc = crc32c::crc32c(&out.0);
        out.u32(&mut crc)?;
        Ok(out.0)
    }

    /// Reads the header of a file of `file_len` bytes and checks all that can be checked without
    /// the rest.
    pub(crate) fn decode(file: &[u8], file_len: usize) -> Result<Self> {
        let mut header = Self::default();
        let short = |e: Error| if file.len() < HEADER_LEN { truncated(file.len()) } else { e };
        header.identity(&mut Decoder::new(file)).map_err(short)?;
        let bytes = file.get(..HEADER_LEN).ok_or_else(|| truncated(file.len()))?;
        let mut record = Decoder::new(bytes);
        // The identity is checked; this only skips it.
        header.identity(&mut record)?;
        let fields = header.fields(&mut record);
        let mut crc = 0;
        Decoder::new(&bytes[HEADER_LEN - 4..]).u32(&mut crc)?;
        check_crc(crc, &bytes[..HEADER_LEN - 4], "the header")?;
        fields?;
        let max_sections = MAX_CONSTANTS + MAX_OTHER_SECTIONS;
        if header.nb_sections > max_sections {
            let n = header.nb_sections;
            return Err(Error::format(format!("{n} sections, expected at most {max_sections}")));
        }
        if header.file_len != file_len as u64 {
            return Err(Error::format(format!(
                "{file_len} bytes, the header says {}: truncated, or something was appended",
                header.file_len
            )));
        }
        if header.file_len > MAX_FILE_LEN || header.table_offset().is_none() {
            return Err(Error::format(format!("the header says {} bytes", header.file_len)));
        }
        Ok(header)
    }

    /// The fields that keep their place in every version.
    fn identity(&mut self, io: &mut impl Fields) -> Result<()> {
        let (mut magic, mut major, mut mark) = (MAGIC, Self::MAJOR, ENDIAN_MARK);
        io.bytes(&mut magic)?;
        if magic != MAGIC {
            return Err(Error::format("not a .skip file: the first 8 bytes are another format's"));
        }
        io.u16(&mut major)?;
        io.u16(&mut self.minor)?;
        if major != Self::MAJOR {
            return Err(Error::new(
                ErrorKind::Version,
                format!(
                    "format version {major}.{}, this library reads {}.x: convert the source model \
                     again, or use the release that wrote the file",
                    self.minor,
                    Self::MAJOR
                ),
            ));
        }
        io.u32(&mut mark)?;
        if mark != ENDIAN_MARK {
            return Err(Error::format(format!("the endian mark is {mark:#010x}")));
        }
        Ok(())
    }

    fn fields(&mut self, io: &mut impl Fields) -> Result<()> {
        let (mut header_len, mut required_flags, mut optional_flags) = (HEADER_LEN, 0, 0);
        io.size(&mut header_len)?;
        if header_len != HEADER_LEN {
            return Err(Error::format(format!("a header of {header_len} bytes")));
        }
        io.u32(&mut required_flags)?;
        if required_flags != 0 {
            return Err(Error::new(
                ErrorKind::Version,
                format!("the file needs features {required_flags:#x}, which this library lacks"),
            ));
        }
        io.u32(&mut optional_flags)?;
        io.size(&mut self.nb_sections)?;
        io.u64(&mut self.file_len)?;
        io.bytes(&mut self.content_hash)?;
        io.u32(&mut self.table_crc)?;
        io.reserved_to(HEADER_LEN - 4)
    }

    /// Where the section table starts, if the file is long enough for one.
    pub(super) fn table_offset(&self) -> Option<usize> {
        let len = usize::try_from(self.file_len).ok()?;
        let table = self.nb_sections.checked_mul(ENTRY_LEN)?;
        len.checked_sub(table).filter(|&at| at >= HEADER_LEN)
    }
}

fn truncated(len: usize) -> Error {
    Error::format(format!("truncated: {len} bytes, a header takes {HEADER_LEN}"))
}

/// Checks the bytes of `what` against their stored CRC32C; a fuzzer's mutations pass, or it would test
/// nothing else.
pub(super) fn check_crc(stored: u32, bytes: &[u8], what: impl fmt::Display) -> Result<()> {
    let found = crc32c::crc32c(bytes);
    if found != stored && !cfg!(fuzzing) {
        return Err(Error::new(
            ErrorKind::Checksum,
            format!("{what} is damaged: CRC32C {found:08x}, expected {stored:08x}"),
        ));
    }
    Ok(())
}

/// What a section holds; a file may have kinds that this version does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionKind(pub u32);

impl SectionKind {
    /// The network's structure.
    pub const GRAPH: Self = Self(1);
    /// Names.
    pub const STRINGS: Self = Self(2);
    /// Free metadata.
    pub const META: Self = Self(3);
    /// Preprocessing.
    pub const RECIPE: Self = Self(4);
    /// Class names.
    pub const LABELS: Self = Self(5);
    /// Outputs for a generated input.
    pub const TESTVEC: Self = Self(6);
    /// Measured choices.
    pub const TUNE: Self = Self(7);
    /// How values are stored in 8 bits.
    pub const QUANT: Self = Self(8);
    /// One constant's data.
    pub const WEIGHTS: Self = Self(16);

    /// Each known kind, its name and the length of its longest section.
    const KNOWN: [(Self, &str, u64); 9] = [
        (Self::GRAPH, "GRAPH", 8 << 20),
        (Self::STRINGS, "STRINGS", 4 << 20),
        (Self::META, "META", 64 << 10),
        (Self::RECIPE, "RECIPE", 64 << 10),
        (Self::LABELS, "LABELS", 4 << 20),
        (Self::TESTVEC, "TESTVEC", 4 << 20),
        (Self::TUNE, "TUNE", 1 << 20),
        (Self::QUANT, "QUANT", 1 << 20),
        (Self::WEIGHTS, "WEIGHTS", MAX_FILE_LEN),
    ];

    fn known(self) -> Option<(&'static str, u64)> {
        Self::KNOWN.iter().find(|(kind, ..)| *kind == self).map(|&(_, name, max)| (name, max))
    }

    /// Name in dumps, `"unknown"` for a kind of a later version.
    pub fn name(self) -> &'static str {
        self.known().map_or("unknown", |(name, _)| name)
    }

    /// Whether this version reads the kind.
    pub(super) fn is_known(self) -> bool {
        self.known().is_some()
    }

    /// Whether no reader may skip it.
    fn is_required(self) -> bool {
        [Self::GRAPH, Self::STRINGS, Self::QUANT, Self::WEIGHTS].contains(&self)
    }
}

/// An entry of the section table.
#[derive(Clone, Debug, Default)]
pub(crate) struct SectionEntry {
    pub(crate) kind: SectionKind,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// As stored; the kind of section gives it a meaning.
    pub(super) element_code: u32,
    /// As stored; the kind of section gives it a meaning.
    pub(super) layout_code: u32,
    pub(crate) crc: u32,
}

impl SectionEntry {
    /// One entry; `index` is its place in the table.
    pub(super) fn fields(&mut self, io: &mut impl Fields) -> Result<()> {
        let start = io.position();
        let mut flags = if self.kind.is_required() { REQUIRED } else { 0 };
        io.u32(&mut self.kind.0)?;
        io.u32(&mut flags)?;
        io.u64(&mut self.offset)?;
        io.u64(&mut self.len)?;
        io.u32(&mut self.element_code)?;
        io.u32(&mut self.layout_code)?;
        io.u32(&mut self.crc)?;
        io.reserved_to(start + ENTRY_LEN)?;
        if self.kind.is_known() {
            let expected = if self.kind.is_required() { REQUIRED } else { 0 };
            if flags != expected {
                return Err(Error::format(format!("flags {flags:#x}, expected {expected:#x}")));
            }
        } else if flags == REQUIRED {
            return Err(Error::new(
                ErrorKind::Version,
                format!("a required section of kind {}, which this library lacks", self.kind.0),
            ));
        } else if flags != 0 {
            return Err(Error::format(format!("flags {flags:#x} are not defined")));
        }
        if self.kind != SectionKind::WEIGHTS && (self.element_code, self.layout_code) != (0, 0) {
            return Err(Error::format("an element type or layout on a section without weights"));
        }
        Ok(())
    }

    /// Checks a section's kind, offset and length, after a section of kind `previous` that
    /// ends at `end`, in a file whose sections end by `limit`.
    pub(super) fn check_place(&self, end: u64, previous: SectionKind, limit: u64) -> Result<()> {
        let (kind, start) = (self.kind, section_start(end, self.kind, previous));
        ensure(kind > previous || kind == previous && kind == SectionKind::WEIGHTS, || {
            format!("kind {} after kind {}, expected ascending kinds", kind.0, previous.0)
        })?;
        ensure(self.offset == start, || format!("offset {}, expected {start}", self.offset))?;
        let room = limit.saturating_sub(start);
        let longest = kind.known().map_or(room, |(_, max)| max.min(room));
        ensure(self.len <= longest, || {
            format!("{} bytes of {}, expected at most {longest}", self.len, kind.name())
        })
    }

    /// Where the section lies in a file that [`read_table`] accepted.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.offset as usize..(self.offset + self.len) as usize
    }
}

/// Where a section of `kind` starts if the bytes before `end`, and the section of kind `previous`, are taken.
pub(super) fn section_start(end: u64, kind: SectionKind, previous: SectionKind) -> u64 {
    let first_weights = kind == SectionKind::WEIGHTS && previous != SectionKind::WEIGHTS;
    let align = if first_weights { FIRST_WEIGHTS_ALIGN } else { SECTION_ALIGN };
    end.next_multiple_of(align as u64)
}

/// Reads the section table of `file` and checks every offset and length, and that the bytes between
/// sections are zero.
pub(super) fn read_table(file: &[u8], header: &Header) -> Result<Vec<SectionEntry>> {
    let table_offset = header.table_offset().ok_or_else(|| Error::format("no room for a table"))?;
    let table = &file[table_offset..];
    check_crc(header.table_crc, table, "the section table")?;
    let mut io = Decoder::new(table);
    let mut sections = Vec::with_capacity(header.nb_sections);
    let (mut end, mut previous) = (HEADER_LEN as u64, SectionKind::default());
    for index in 0..header.nb_sections {
        let mut entry = SectionEntry::default();
        entry
            .fields(&mut io)
            .and_then(|()| entry.check_place(end, previous, table_offset as u64))
            .map_err(|e| within(&format!("section {index}"), e))?;
        check_zero(file, end, entry.offset)?;
        (end, previous) = (entry.offset + entry.len, entry.kind);
        sections.push(entry);
    }
    let table_start = section_start(end, SectionKind::default(), previous);
    if table_start != table_offset as u64 {
        return Err(Error::format(format!(
            "the section table is at {table_offset}, the sections end before {table_start}"
        )));
    }
    check_zero(file, end, table_start)?;
    Ok(sections)
}

/// Checks that the bytes from `start` to `end` are in the file and zero.
fn check_zero(file: &[u8], start: u64, end: u64) -> Result<()> {
    match file.get(start as usize..end as usize) {
        Some(gap) if gap.iter().all(|&b| b == 0) => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Checksum,
            format!("the bytes from {start} to {end} are not all zero"),
        )),
    }
}
