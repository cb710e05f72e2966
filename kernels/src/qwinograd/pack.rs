//! Filters in the order that `transform_filter` reads them.

use crate::layout::{C_BLOCK_U8 as C_BLOCK, OC_PANEL};

/// Elements of `OIhw8i16o2i` filters.
pub const fn packed_len(oc: usize, ic: usize) -> usize {
    oc.div_ceil(OC_PANEL) * panel_len(ic)
}

/// Elements of one panel of 16 output channels.
pub const fn panel_len(ic: usize) -> usize {
    ic.div_ceil(C_BLOCK) * 9 * C_BLOCK * OC_PANEL
}

/// Packs filters from `[oc][ic][3][3]` to `OIhw8i16o2i`: panels of 16 output channels, and in each
/// `[ic/16][3][3][8][16 oc][2 ic]`, with zeros for channels that do not exist.
///
/// # Panics
/// If a length is not what the sizes say.
pub fn pack(oc: usize, ic: usize, src: &[i8], dst: &mut [i8]) {
    assert_eq!((src.len(), dst.len()), (oc * ic * 9, packed_len(oc, ic)));
    dst.fill(0);
    for (o, filters) in src.chunks_exact(ic * 9).enumerate() {
        let panel = &mut dst[o / OC_PANEL * panel_len(ic)..];
        for (i, filter) in filters.as_chunks::<9>().0.iter().enumerate() {
            for (tap, w) in filter.iter().enumerate() {
                let pair = (i / C_BLOCK * 9 + tap) * C_BLOCK / 2 + i % C_BLOCK / 2;
                panel[(pair * OC_PANEL + o % OC_PANEL) * 2 + i % 2] = *w;
            }
        }
    }
}
