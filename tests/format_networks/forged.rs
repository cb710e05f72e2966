//! Files with right checksums and wrong contents.

use std::ops::Range;

/// A file taken apart by the specification, to be changed behind its checksums.
#[derive(Clone)]
pub(crate) struct Forged(pub(crate) Vec<u8>);

impl Forged {
    pub(crate) const HEADER: Range<usize> = 0..128;
    const ENTRY: usize = 64;

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("4 bytes"))
    }

    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn nb_sections(&self) -> usize {
        self.u32(28) as usize
    }

    /// Where a section's table entry is.
    pub(crate) fn entry(&self, section: usize) -> usize {
        self.0.len() - Self::ENTRY * (self.nb_sections() - section)
    }

    pub(crate) fn section(&self, section: usize) -> Range<usize> {
        let entry = self.entry(section);
        let start = self.u32(entry + 8) as usize;
        start..start + self.u32(entry + 16) as usize
    }

    /// Makes all checksums right again, as far as the table makes sense.
    pub(crate) fn seal(mut self) -> Vec<u8> {
        let table = Self::ENTRY * self.nb_sections().min(1000);
        if let Some(table) = self.0.len().checked_sub(table).filter(|&at| at >= 128) {
            for section in 0..self.nb_sections() {
                let range = self.section(section);
                if let Some(bytes) = self.0.get(range) {
                    let crc = crc32c::crc32c(bytes);
                    self.set_u32(self.entry(section) + 32, crc);
                }
            }
            self.set_u32(72, crc32c::crc32c(&self.0[table..]));
        }
        let hash = blake3::hash(&self.0[128..]);
        self.0[40..72].copy_from_slice(hash.as_bytes());
        self.set_u32(124, crc32c::crc32c(&self.0[..124]));
        self.0
    }
}
