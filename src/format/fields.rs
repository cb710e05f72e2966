//! Records, each described once for both directions.
//!
//! A function that takes `&mut impl Fields` names a record's fields in file order. With an
//! [`Encoder`] it writes them, with a [`Decoder`] it fills them in, so the two cannot disagree.

use crate::error::{Error, Result};

/// One pass over the fields of a record.
pub(super) trait Fields {
    /// Writes the bytes, or replaces them by the record's.
    fn bytes(&mut self, bytes: &mut [u8]) -> Result<()>;

    /// Number of bytes passed so far.
    fn position(&self) -> usize;

    fn u16(&mut self, value: &mut u16) -> Result<()> {
        let mut bytes = value.to_le_bytes();
        self.bytes(&mut bytes)?;
        *value = u16::from_le_bytes(bytes);
        Ok(())
    }

    fn u32(&mut self, value: &mut u32) -> Result<()> {
        let mut bytes = value.to_le_bytes();
        self.bytes(&mut bytes)?;
        *value = u32::from_le_bytes(bytes);
        Ok(())
    }

    fn u64(&mut self, value: &mut u64) -> Result<()> {
        let mut bytes = value.to_le_bytes();
        self.bytes(&mut bytes)?;
        *value = u64::from_le_bytes(bytes);
        Ok(())
    }

    fn f32(&mut self, value: &mut f32) -> Result<()> {
        let mut bits = value.to_bits();
        self.u32(&mut bits)?;
        *value = f32::from_bits(bits);
        Ok(())
    }

    /// A size or index, stored as u32.
    fn size(&mut self, value: &mut usize) -> Result<()> {
        let mut stored = u32::try_from(*value).map_err(|_| {
            Error::unsupported(format!("{value} does not fit the format's 32 bits"))
        })?;
        self.u32(&mut stored)?;
        *value = stored as usize;
        Ok(())
    }

    fn sizes(&mut self, values: &mut [usize]) -> Result<()> {
        values.iter_mut().try_for_each(|v| self.size(v))
    }

    /// One of `all`, stored as its place.
    fn one_of<T: Copy + PartialEq>(&mut self, value: &mut T, all: &[T], what: &str) -> Result<()> {
        let mut code = all.iter().position(|v| v == value).unwrap_or(all.len());
        self.size(&mut code)?;
        *value = *all
            .get(code)
            .ok_or_else(|| Error::format(format!("{what} is {code}, expected 0..{}", all.len())))?;
        Ok(())
    }

    fn flag(&mut self, value: &mut bool, what: &str) -> Result<()> {
        self.one_of(value, &[false, true], what)
    }

    /// Zeros up to `end`, at most a record's length away.
    fn reserved_to(&mut self, end: usize) -> Result<()> {
        let start = self.position();
        let mut zeros = [0; 128];
        let zeros = &mut zeros[..end - start];
        self.bytes(zeros)?;
        match zeros.iter().position(|&b| b != 0) {
            Some(i) => {
                Err(Error::format(format!("reserved byte {} is {}, not 0", start + i, zeros[i])))
            }
            None => Ok(()),
        }
    }
}

/// Writes fields to memory.
#[derive(Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Fields for Encoder {
    fn bytes(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn position(&self) -> usize {
        self.0.len()
    }
}

/// Reads fields from memory.
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }
}

impl Fields for Decoder<'_> {
    fn bytes(&mut self, bytes: &mut [u8]) -> Result<()> {
        let rest = self.rest();
        let Some(found) = rest.get(..bytes.len()) else {
            return Err(Error::format(format!(
                "{} bytes are left where {} are expected",
                rest.len(),
                bytes.len()
            )));
        };
        bytes.copy_from_slice(found);
        self.position += bytes.len();
        Ok(())
    }

    fn position(&self) -> usize {
        self.position
    }
}
