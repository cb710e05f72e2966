//! Weight packing: from row-major `OIHW` to the panels that micro-kernels stream, and back.
//!
//! A packed tensor is a sequence of *panels*, one per [`OC_PANEL`] output channels, all of one
//! length. The last panel is filled up with zero output channels. With `panel = oc / 16`:
//!
//! - [`LayoutTag::OIhw8i16o`]: `[panel][ic block][kh][kw][8 ic][16 oc]`. A panel holds
//!   [`ConvGeometry::panel_ic_blocks`] blocks of 8 input channels, from block
//!   [`ConvGeometry::panel_first_ic_block`] on; weights for input channels that do not exist, or
//!   that are outside the output channel's own group, are zero.
//! - [`LayoutTag::Ohwi16o`]: `[panel][kh][kw][ic][16 oc]` over all input channels, zero outside
//!   the output channel's own group.
//!
//! # The input window of a grouped panel
//! A panel's output channels belong to the groups `g0..=g1`, which read the input channels
//! `g0 * icg .. (g1 + 1) * icg` where `icg = ic / groups`. Widened to whole blocks of 8 these are
//! the blocks the panel *needs*. All panels hold as many blocks as the neediest one. A panel
//! starts at the first block it needs, or earlier where that is necessary for its window to end
//! inside the `ceil(ic / 8)` blocks of the activation. So a window never leaves the activation. With
//! one group every window is the whole activation.

use crate::layout::{C_BLOCK, LayoutTag, OC_PANEL};

/// The sizes of a convolution's weights; a linear layer is a 1x1 convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvGeometry {
    oc: usize,
    ic: usize,
    kh: usize,
    kw: usize,
    groups: usize,
    panel_ic_blocks: usize,
}

impl ConvGeometry {
    /// A geometry with `ic` input channels in all groups together, if all sizes are positive,
    /// `groups` divides both channel counts, and every layout fits the address space.
    pub fn new(oc: usize, ic: usize, kh: usize, kw: usize, groups: usize) -> Option<Self> {
        if [oc, ic, kh, kw, groups].contains(&0)
            || !oc.is_multiple_of(groups)
            || !ic.is_multiple_of(groups)
        {
            return None;
        }
        // No layout is longer than the dense one, with one group and padded channels.
        let padded = |n: usize, to: usize| n.checked_next_multiple_of(to);
        padded(oc, OC_PANEL)?
            .checked_mul(padded(ic, C_BLOCK)?)?
            .checked_mul(kh)?
            .checked_mul(kw)?
            .checked_mul(size_of::<f32>())
            .filter(|&bytes| isize::try_from(bytes).is_ok())?;
        let mut geometry = Self { oc, ic, kh, kw, groups, panel_ic_blocks: 0 };
        let needed = (0..geometry.nb_panels()).map(|p| geometry.needed_ic_blocks(p).len());
        geometry.panel_ic_blocks = needed.max()?;
        Some(geometry)
    }

    /// Output channels.
    pub fn oc(&self) -> usize {
        self.oc
    }

    /// Input channels, all groups together.
    pub fn ic(&self) -> usize {
        self.ic
    }

    /// Kernel height and width.
    pub fn kernel(&self) -> [usize; 2] {
        [self.kh, self.kw]
    }

    /// Channel groups.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Number of panels.
    pub fn nb_panels(&self) -> usize {
        self.oc.div_ceil(OC_PANEL)
    }

    /// Blocks of 8 input channels in each panel of [`LayoutTag::OIhw8i16o`].
    pub fn panel_ic_blocks(&self) -> usize {
        self.panel_ic_blocks
    }

    /// The first block of 8 input channels that a panel of [`LayoutTag::OIhw8i16o`] reads.
    pub fn panel_first_ic_block(&self, panel: usize) -> usize {
        let last_start = self.ic.div_ceil(C_BLOCK) - self.panel_ic_blocks;
        self.needed_ic_blocks(panel).start.min(last_start)
    }

    /// Elements of one panel; in [`LayoutTag::RowMajor`], of up to [`OC_PANEL`] output channels.
    pub fn panel_len(&self, layout: LayoutTag) -> usize {
        let inputs = match layout {
            LayoutTag::RowMajor => self.ic / self.groups,
            LayoutTag::OIhw8i16o => self.panel_ic_blocks * C_BLOCK,
            LayoutTag::Ohwi16o => self.ic,
        };
        inputs * self.kh * self.kw * OC_PANEL
    }

    /// Elements of the whole tensor.
    pub fn packed_len(&self, layout: LayoutTag) -> usize {
        match layout {
            LayoutTag::RowMajor => self.oc * (self.ic / self.groups) * self.kh * self.kw,
            _ => self.nb_panels() * self.panel_len(layout),
        }
    }

    fn needed_ic_blocks(&self, panel: usize) -> std::ops::Range<usize> {
        let (ocg, icg) = (self.oc / self.groups, self.ic / self.groups);
        let first = panel * OC_PANEL;
        let last = (first + OC_PANEL).min(self.oc) - 1;
        (first / ocg * icg) / C_BLOCK..((last / ocg + 1) * icg).div_ceil(C_BLOCK)
    }

    /// Calls `f` with the row-major and the packed index of every weight. Both directions of
    /// packing are this one map, so they cannot disagree.
    fn for_each(&self, layout: LayoutTag, mut f: impl FnMut(usize, usize)) {
        let (ocg, icg, taps) = (self.oc / self.groups, self.ic / self.groups, self.kh * self.kw);
        let panel_len = self.panel_len(layout);
        let mut row_major = 0;
        for oc in 0..self.oc {
            let (panel, lane) = (oc / OC_PANEL, oc % OC_PANEL);
            let group = oc / ocg;
            let window = self.panel_first_ic_block(panel) * C_BLOCK;
            for ic in group * icg..(group + 1) * icg {
                // Where tap 0 of (oc, ic) is, and how far apart taps are.
                let (first, stride) = match layout {
                    LayoutTag::RowMajor => (row_major, 1),
                    LayoutTag::OIhw8i16o => {
                        let (block, i) = ((ic - window) / C_BLOCK, (ic - window) % C_BLOCK);
                        let row = block * taps * C_BLOCK + i;
                        (panel * panel_len + row * OC_PANEL + lane, C_BLOCK * OC_PANEL)
                    }
                    LayoutTag::Ohwi16o => {
                        (panel * panel_len + ic * OC_PANEL + lane, self.ic * OC_PANEL)
                    }
                };
                for tap in 0..taps {
                    f(row_major + tap, first + tap * stride);
                }
                row_major += taps;
            }
        }
    }
}

/// Packs row-major `OIHW` weights.
///
/// # Panics
/// If `oihw` or `dst` does not have the length that `geometry` gives its layout.
pub fn pack<T: Copy + Default>(
    geometry: &ConvGeometry,
    layout: LayoutTag,
    oihw: &[T],
    dst: &mut [T],
) {
    assert_eq!(oihw.len(), geometry.packed_len(LayoutTag::RowMajor), "source length");
    assert_eq!(dst.len(), geometry.packed_len(layout), "packed length");
    dst.fill(T::default());
    geometry.for_each(layout, |r, p| dst[p] = oihw[r]);
}

/// Unpacks to row-major `OIHW`; the inverse of [`pack`].
///
/// # Panics
/// If `src` or `oihw` does not have the length that `geometry` gives its layout.
pub fn unpack<T: Copy>(geometry: &ConvGeometry, layout: LayoutTag, src: &[T], oihw: &mut [T]) {
    assert_eq!(src.len(), geometry.packed_len(layout), "packed length");
    assert_eq!(oihw.len(), geometry.packed_len(LayoutTag::RowMajor), "destination length");
    geometry.for_each(layout, |r, p| oihw[r] = src[p]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(oc, ic, kh, kw, groups)`: below, at and above block and panel, and networks' own shapes.
    const SIZES: &[(usize, usize, usize, usize, usize)] = &[
        (1, 1, 1, 1, 1),
        (16, 8, 1, 1, 1),
        (17, 9, 3, 3, 1),
        (15, 7, 5, 1, 1),
        (64, 3, 7, 7, 1),
        (33, 4, 1, 7, 1),
        (1000, 70, 1, 1, 1),
        // Depthwise, with one and several panels, aligned and not.
        (5, 5, 3, 3, 5),
        (32, 32, 3, 3, 32),
        (40, 40, 3, 3, 40),
        (48, 24, 3, 3, 24),
        // ResNeXt's 32 groups of 4.
        (128, 128, 3, 3, 32),
        // Group widths that do not divide blocks or panels.
        (36, 20, 3, 1, 4),
        (21, 33, 2, 2, 3),
        (34, 34, 1, 1, 2),
        (51, 15, 1, 3, 3),
        (7, 77, 1, 1, 7),
    ];

    fn geometries() -> impl Iterator<Item = ConvGeometry> {
        SIZES.iter().map(|&(oc, ic, kh, kw, groups)| {
            ConvGeometry::new(oc, ic, kh, kw, groups).expect("a valid geometry")
        })
    }

    #[test]
    fn unpack_inverts_pack() {
        for g in geometries() {
            let len = g.packed_len(LayoutTag::RowMajor);
            let source: Vec<u32> = (1..=len as u32).collect();
            for layout in LayoutTag::ALL {
                let mut packed = vec![u32::MAX; g.packed_len(layout)];
                pack(&g, layout, &source, &mut packed);
                let nonzero = packed.iter().filter(|v| **v != 0).count();
                assert_eq!(nonzero, len, "{g:?} {layout:?}: each weight once, else zeros");
                let mut back = vec![0; len];
                unpack(&g, layout, &packed, &mut back);
                assert_eq!(source, back, "{g:?} {layout:?}");
            }
        }
    }

    /// Reads the packed forms the way a kernel does, by the documented formulas.
    #[test]
    fn packed_weights_are_where_the_kernel_looks() {
        for g in geometries() {
            let ([kh, kw], icg) = (g.kernel(), g.ic() / g.groups());
            let source: Vec<u32> = (1..=g.packed_len(LayoutTag::RowMajor) as u32).collect();
            let expected = |oc: usize, ic: usize, y: usize, x: usize| {
                let own = oc < g.oc() && ic < g.ic() && ic / icg == oc / (g.oc() / g.groups());
                if own { source[((oc * icg + ic % icg) * kh + y) * kw + x] } else { 0 }
            };
            let mut blocked = vec![0; g.packed_len(LayoutTag::OIhw8i16o)];
            pack(&g, LayoutTag::OIhw8i16o, &source, &mut blocked);
            let mut interleaved = vec![0; g.packed_len(LayoutTag::Ohwi16o)];
            pack(&g, LayoutTag::Ohwi16o, &source, &mut interleaved);
            let (mut b, mut i) = (blocked.into_iter(), interleaved.into_iter());
            for panel in 0..g.nb_panels() {
                for block in 0..g.panel_ic_blocks() {
                    for (y, x) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                        for (ii, oo) in (0..8).flat_map(|ii| (0..16).map(move |oo| (ii, oo))) {
                            let ic = (g.panel_first_ic_block(panel) + block) * 8 + ii;
                            assert_eq!(
                                b.next(),
                                Some(expected(panel * 16 + oo, ic, y, x)),
                                "{g:?}"
                            );
                        }
                    }
                }
                for (y, x) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                    for (ic, oo) in (0..g.ic()).flat_map(|ic| (0..16).map(move |oo| (ic, oo))) {
                        assert_eq!(i.next(), Some(expected(panel * 16 + oo, ic, y, x)), "{g:?}");
                    }
                }
            }
            assert_eq!((b.next(), i.next()), (None, None));
        }
    }

    #[test]
    fn windows_stay_inside_the_activation() {
        for g in geometries() {
            for panel in 0..g.nb_panels() {
                let end = g.panel_first_ic_block(panel) + g.panel_ic_blocks();
                assert!(end <= g.ic().div_ceil(8), "{g:?} panel {panel}");
            }
        }
        let resnext = ConvGeometry::new(128, 128, 3, 3, 32).expect("a valid geometry");
        assert_eq!(resnext.panel_ic_blocks(), 2);
        assert_eq!(resnext.panel_first_ic_block(7), 14);
    }

    #[test]
    fn impossible_geometries_are_refused() {
        assert_eq!(ConvGeometry::new(0, 1, 1, 1, 1), None);
        assert_eq!(ConvGeometry::new(6, 4, 1, 1, 4), None);
        assert_eq!(ConvGeometry::new(4, 6, 1, 1, 4), None);
        assert_eq!(ConvGeometry::new(usize::MAX, 1, 1, 1, 1), None);
        assert_eq!(ConvGeometry::new(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1), None);
        assert_eq!(ConvGeometry::new(1, usize::MAX / 64, 1, 1, 1), None);
    }
}
