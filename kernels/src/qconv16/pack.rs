//! Weights in the order that kernels read them, before they are widened.

use super::TAP_LEN;
use crate::layout::{C_BLOCK_U8 as C_BLOCK, OC_PANEL};

/// Elements of `OIhw8i16o2i` weights of a window of `window` pixels.
pub const fn packed_len(oc: usize, ic: usize, window: usize) -> usize {
    oc.div_ceil(OC_PANEL) * panel_len(ic, window)
}

/// Elements of one panel of 16 output channels.
pub const fn panel_len(ic: usize, window: usize) -> usize {
    ic.div_ceil(C_BLOCK) * window * TAP_LEN
}

/// Packs weights from `[oc][ic][window]` to `OIhw8i16o2i`: panels of 16 output channels, and in each
/// `[ic/16][window][8][16 oc][2 ic]`, with zeros for channels that do not exist.
///
/// # Panics
/// If a length is not what the sizes say.
pub fn pack([oc, ic, window]: [usize; 3], src: &[i8], dst: &mut [i8]) {
    assert_eq!((src.len(), dst.len()), (oc * ic * window, packed_len(oc, ic, window)));
    dst.fill(0);
    for (o, channels) in src.chunks_exact(ic * window).enumerate() {
        let panel = &mut dst[o / OC_PANEL * panel_len(ic, window)..];
        for (i, weights) in channels.chunks_exact(window).enumerate() {
            for (at, w) in weights.iter().enumerate() {
                let pair = (i / C_BLOCK * window + at) * C_BLOCK / 2 + i % C_BLOCK / 2;
                panel[(pair * OC_PANEL + o % OC_PANEL) * 2 + i % 2] = *w;
            }
        }
    }
}
