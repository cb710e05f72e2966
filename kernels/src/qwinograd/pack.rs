//! Filters in the order that `transform_filter` reads them.

use crate::qconv16;

/// Elements of `OIhw8i16o2i` filters.
pub const fn packed_len(oc: usize, ic: usize) -> usize {
    qconv16::pack::packed_len(oc, ic, 9)
}

/// Elements of one panel of 16 output channels.
pub const fn panel_len(ic: usize) -> usize {
    qconv16::pack::panel_len(ic, 9)
}

/// Packs filters from `[oc][ic][3][3]` to `OIhw8i16o2i`: panels of 16 output channels, and in each
/// `[ic/16][3][3][8][16 oc][2 ic]`, with zeros for channels that do not exist.
///
/// # Panics
/// If a length is not what the sizes say.
pub fn pack(oc: usize, ic: usize, src: &[i8], dst: &mut [i8]) {
    qconv16::pack::pack([oc, ic, 9], src, dst);
}
