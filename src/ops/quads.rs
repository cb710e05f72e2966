//! Packing of int8 weights: quads, grouped under a certificate.
//!
//! A panel of 16 output channels is two strips of 8. The quads of a strip (see
//! [`skipstone_kernels::qconv`]) may come in any order, which is used here:
//!
//! 1. Quads whose weights are all zero are left out; so are other groups' channels.
//! 2. Strips that read nearly the same are paired: both get all quads of either, in one order.
//! 3. A quad of which even a single product of two may exceed i16 is split: `w = w/2 + (w - w/2)`,
//!    two quads that read the same bytes.
//! 4. Quads are collected into groups of 4, each quad into the first open group that stays within
//!    the certificate. What is left over forms groups of 3, of 2, and single quads.
//!
//! So every sum is exact for every input, and nearly all multiplications are the cheapest.

use std::ops::Range;

use skipstone_kernels::layout::{C_BLOCK_U8, OC_PANEL};
use skipstone_kernels::pack::ConvGeometry;
use skipstone_kernels::qconv::{GROUPS, QUAD, QUAD_LEN, QUADS_PER_BLOCK};
use skipstone_kernels::requant::HALF;

use super::Layout;
use crate::tensor::AlignedBuf;

/// Strips of a panel.
pub(crate) const STRIPS: usize = OC_PANEL / HALF;
/// Quads of a strip's k-chunk: with both strips, 16 KiB of weights stay in L1.
const CHUNK_QUADS: usize = (16 << 10) / (STRIPS * QUAD_LEN);
/// Panels of a sample.
const SAMPLED_PANELS: usize = 4;
/// Most quads of paired strips, in percent of those that they need apart: pairs take that much less time.
const MAX_PAIRED_PERCENT: usize = 105;
/// Groups that are open at a time.
const OPEN_GROUPS: usize = 32;

/// How a convolution's weights are to be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Packing {
    /// The layout of the source.
    pub(crate) layout: Layout,
    /// The largest source element, if the kernel adds groups in i16.
    pub(crate) certified_max: Option<u8>,
}

/// One k-chunk of a strip.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StripQuads {
    /// The first of its quads among all.
    pub(crate) first: usize,
    /// Numbers of groups, of the sizes [`GROUPS`].
    pub(crate) groups: [usize; 4],
}

/// One k-chunk of a panel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelQuads {
    pub(crate) strips: [StripQuads; STRIPS],
    /// Whether the strips' quads read the same, in the same groups.
    pub(crate) paired: bool,
}

/// Packed weights.
#[derive(Debug)]
pub(crate) struct Quads {
    /// `[quad][8 oc][4]`, panels, then k-chunks, then strips one after the other; behind them a quad of zeros.
    weights: AlignedBuf,
    /// What each quad reads: its place in [`Quads::sources`].
    pub(crate) sources: Vec<u32>,
    /// `[panel][chunk]`.
    panels: Vec<PanelQuads>,
    /// K-chunks of each panel.
    pub(crate) nb_chunks: usize,
    /// Of each output channel, modulo 2^32.
    pub(crate) weight_sums: Vec<i32>,
}

impl Quads {
    /// Packs row-major `OIHW` weights.
    pub(crate) fn pack(geometry: &ConvGeometry, packing: Packing, oihw: &[i8]) -> Self {
        let source = Source::new(geometry, packing.layout, oihw);
        let mut panels: Vec<Vec<StripList>> =
            (0..geometry.nb_panels()).map(|panel| source.strips(panel, packing)).collect();
        let longest = panels.iter().flatten().map(|list| list.quads.len()).max().unwrap_or(0);
        let nb_chunks = longest.div_ceil(CHUNK_QUADS).max(1);
        let mut packed = Packed::default();
        for lists in &mut panels {
            for chunk in 0..nb_chunks {
                packed.panel(lists, packing.certified_max, |list| {
                    let share = crate::threads::share(list.quads.len(), chunk, nb_chunks);
                    &list.quads[share]
                });
            }
            *lists = Vec::new();
        }
        let per_channel =
            geometry.packed_len(skipstone_kernels::layout::LayoutTag::RowMajor) / geometry.oc();
        let sum = |w: &[i8]| w.iter().fold(0i32, |sum, w| sum.wrapping_add(i32::from(*w)));
        Self {
            weights: packed.aligned(),
            sources: packed.sources,
            panels: packed.panels,
            nb_chunks,
            weight_sums: oihw.chunks(per_channel).map(sum).collect(),
        }
    }

    /// How many quads of a sample of panels [`Quads::pack`] would put in groups of each of the sizes
    /// [`GROUPS`], and how many there are before any is split.
    pub(crate) fn sample(
        geometry: &ConvGeometry,
        packing: Packing,
        oihw: &[i8],
    ) -> ([usize; 4], usize) {
        let source = Source::new(geometry, packing.layout, oihw);
        let nb_panels = geometry.nb_panels();
        let mut total = 0;
        let mut packed = Packed::default();
        for i in 0..nb_panels.min(SAMPLED_PANELS) {
            let lists = source.strips(i * nb_panels / nb_panels.min(SAMPLED_PANELS), packing);
            let sampled = |list: &StripList| list.quads.len().min(CHUNK_QUADS);
            total += lists.iter().map(|list| list.strips.len() * sampled(list)).sum::<usize>();
            packed.panel(&lists, packing.certified_max, |list| &list.quads[..sampled(list)]);
        }
        (quads_by_group(&packed.panels), total)
    }

    /// A panel's k-chunk.
    pub(crate) fn panel(&self, panel: usize, chunk: usize) -> &PanelQuads {
        &self.panels[panel * self.nb_chunks + chunk]
    }

    /// All weights, [`QUAD_LEN`] for each quad.
    pub(crate) fn weights(&self) -> &[i8] {
        bytemuck::cast_slice(&self.weights)
    }

    /// The place of a quad whose weights are all zero.
    pub(crate) fn zero_quad(&self) -> u32 {
        self.sources.len() as u32
    }

    /// Bytes of the weights and of what places them.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.weights) + size_of_val(&*self.sources)
    }

    /// Quads in groups of each of the sizes [`GROUPS`].
    pub(crate) fn quads_by_group(&self) -> [usize; 4] {
        quads_by_group(&self.panels)
    }
}

fn quads_by_group(panels: &[PanelQuads]) -> [usize; 4] {
    let mut quads = [0; GROUPS.len()];
    for strip in panels.iter().flat_map(|panel| &panel.strips) {
        for i in 0..GROUPS.len() {
            quads[i] += strip.groups[i] * GROUPS[i];
        }
    }
    quads
}

/// 4 weights for each of a panel's output channels, and what they are multiplied with.
#[derive(Clone, Copy)]
struct Quad {
    source: u32,
    weights: [[i8; QUAD_LEN]; STRIPS],
}

/// The quads of one strip, which are zero for the other, or of two that are paired.
struct StripList {
    strips: Range<usize>,
    quads: Vec<Quad>,
}

/// Row-major weights, as quads of a source see them.
struct Source<'a> {
    geometry: &'a ConvGeometry,
    layout: Layout,
    oihw: &'a [i8],
}

impl<'a> Source<'a> {
    fn new(geometry: &'a ConvGeometry, layout: Layout, oihw: &'a [i8]) -> Self {
        assert!(layout == Layout::Blocked || geometry.groups() == 1);
        Self { geometry, layout, oihw }
    }

    /// The quads of a panel's strips, of both together where they can be paired.
    fn strips(&self, panel: usize, packing: Packing) -> Vec<StripList> {
        let quads = self.quads_of(panel * OC_PANEL..(panel + 1) * OC_PANEL);
        let needs = |quad: &Quad, strip: usize| quad.weights[strip] != [0; QUAD_LEN];
        let of_strip = |strip: usize| {
            let own = quads.iter().filter(|quad| needs(quad, strip)).map(|quad| {
                let mut own = Quad { weights: [[0; QUAD_LEN]; STRIPS], ..*quad };
                own.weights[strip] = quad.weights[strip];
                own
            });
            StripList { strips: strip..strip + 1, quads: own.collect() }
        };
        let apart: usize =
            (0..STRIPS).map(|strip| quads.iter().filter(|quad| needs(quad, strip)).count()).sum();
        let pays = quads.len() * STRIPS * 100 <= apart * MAX_PAIRED_PERCENT;
        if packing.certified_max.is_some() && pays {
            vec![StripList { strips: 0..STRIPS, quads }]
        } else {
            (0..STRIPS).map(of_strip).collect()
        }
    }

    /// The quads that are not zero for all output channels of a panel.
    fn quads_of(&self, channels: Range<usize>) -> Vec<Quad> {
        let geometry = self.geometry;
        let taps = self.taps();
        let (icg, ocg) = (geometry.ic() / geometry.groups(), geometry.oc() / geometry.groups());
        // Of each output channel: the first input channel of its group, and its weights.
        let rows: Vec<(usize, &[i8])> = channels
            .take_while(|o| *o < geometry.oc())
            .map(|o| (o / ocg * icg, &self.oihw[o * icg * taps..][..icg * taps]))
            .collect();
        let quads = (0..nb_sources(geometry, self.layout)).map(|source| {
            let mut weights = [[0; QUAD_LEN]; STRIPS];
            let fours = weights.as_flattened_mut();
            for i in 0..QUAD {
                let Some((c, tap)) = self.place(source, i) else { continue };
                for ((first, row), four) in rows.iter().zip(fours.chunks_exact_mut(QUAD)) {
                    // The group's own channels; absent ones have no weights.
                    if (*first..first + icg).contains(&c) {
                        four[i] = row[(c - first) * taps + tap];
                    }
                }
            }
            Quad { source: source as u32, weights }
        });
        quads.filter(|quad| *quad.weights.as_flattened() != [0; STRIPS * QUAD_LEN]).collect()
    }

    /// The input channel and the tap of byte `i` of a source quad, but for bytes past a row's end.
    fn place(&self, source: usize, i: usize) -> Option<(usize, usize)> {
        let ([_, kw], ic) = (self.geometry.kernel(), self.geometry.ic());
        match self.layout {
            Layout::Blocked => {
                let (pixel, quad) = (source / QUADS_PER_BLOCK, source % QUADS_PER_BLOCK);
                let block = pixel / self.taps();
                Some((block * C_BLOCK_U8 + quad * QUAD + i, pixel % self.taps()))
            }
            Layout::Interleaved => {
                let per_row = (kw * ic).div_ceil(QUAD);
                let (ky, element) = (source / per_row, source % per_row * QUAD + i);
                (element < kw * ic).then(|| (element % ic, ky * kw + element / ic))
            }
        }
    }

    fn taps(&self) -> usize {
        self.geometry.kernel().iter().product()
    }
}

/// Quads of a window of the source. In blocks: `[block][ky][kx][quad]`; of an interleaved image
/// `[ky][quad of the row]`.
pub(crate) fn nb_sources(geometry: &ConvGeometry, layout: Layout) -> usize {
    let [kh, kw] = geometry.kernel();
    match layout {
        Layout::Blocked => geometry.ic().div_ceil(C_BLOCK_U8) * kh * kw * QUADS_PER_BLOCK,
        Layout::Interleaved => kh * (kw * geometry.ic()).div_ceil(QUAD),
    }
}

#[derive(Default)]
struct Packed {
    weights: Vec<[i8; QUAD_LEN]>,
    sources: Vec<u32>,
    panels: Vec<PanelQuads>,
}

impl Packed {
    /// Appends a panel's k-chunk: the quads that `chunk` gives of each list.
    fn panel<'l>(
        &mut self,
        lists: &'l [StripList],
        certified_max: Option<u8>,
        chunk: impl Fn(&'l StripList) -> &'l [Quad],
    ) {
        let mut strips = [StripQuads::default(); STRIPS];
        for list in lists {
            let quads = chunk(list);
            let grouped = match certified_max {
                Some(max) => group(quads, &Limits::new(max)),
                None => [Vec::new(), Vec::new(), Vec::new(), quads.to_vec()],
            };
            let groups = std::array::from_fn(|i| grouped[i].len() / GROUPS[i]);
            for strip in list.strips.clone() {
                strips[strip] = StripQuads { first: self.sources.len(), groups };
                self.weights.extend(grouped.iter().flatten().map(|quad| quad.weights[strip]));
                self.sources.extend(grouped.iter().flatten().map(|quad| quad.source));
            }
        }
        self.panels.push(PanelQuads { strips, paired: lists.len() == 1 });
    }

    fn aligned(&self) -> AlignedBuf {
        let weights = self.weights.as_flattened();
        let mut buf = AlignedBuf::zeroed((weights.len() + QUAD_LEN) / size_of::<f32>());
        bytemuck::cast_slice_mut(&mut buf)[..weights.len()].copy_from_slice(weights);
        buf
    }
}

/// Sums of weights that a group's i16 sums may have for one largest source element.
struct Limits {
    positive: i16,
    negative: i16,
}

/// Sums in i16 of a panel's quad: two for each output channel.
const LANES: usize = STRIPS * QUAD_LEN / 2;

/// Of each i16 sum: its positive weights, and the magnitudes of its negative ones.
#[derive(Clone, Copy)]
struct Sums([[i16; LANES]; 2]);

impl Limits {
    fn new(max: u8) -> Self {
        let limit = |bound: i32| (bound / i32::from(max.max(1))) as i16;
        Self { positive: limit(i32::from(i16::MAX)), negative: limit(-i32::from(i16::MIN)) }
    }

    fn hold(&self, sums: &Sums) -> bool {
        let [positive, negative] = sums.0;
        let mut within = true;
        for lane in 0..LANES {
            within &= positive[lane] <= self.positive && negative[lane] <= self.negative;
        }
        within
    }
}

impl Sums {
    const ZERO: Self = Self([[0; LANES]; 2]);

    fn of(quad: &Quad) -> Self {
        let mut sums = Self::ZERO;
        for (lane, pair) in quad.weights.as_flattened().as_chunks::<2>().0.iter().enumerate() {
            for w in pair {
                sums.0[0][lane] += i16::from(*w).max(0);
                sums.0[1][lane] -= i16::from(*w).min(0);
            }
        }
        sums
    }

    fn plus(&self, other: &Self) -> Self {
        let mut sums = *self;
        for i in 0..2 {
            for lane in 0..LANES {
                sums.0[i][lane] += other.0[i][lane];
            }
        }
        sums
    }
}

/// Splits quads whose own sums exceed the limits.
fn split(quads: &[Quad], limits: &Limits) -> Vec<Quad> {
    let mut all = Vec::with_capacity(quads.len());
    for quad in quads {
        let zeros = [[0; QUAD_LEN]; STRIPS];
        let (mut first, mut second) = (*quad, Quad { weights: zeros, ..*quad });
        let (halves, rest) = (first.weights.as_flattened_mut(), second.weights.as_flattened_mut());
        let sums = Sums::of(quad);
        for lane in 0..LANES {
            if sums.0[0][lane] > limits.positive || sums.0[1][lane] > limits.negative {
                for i in [2 * lane, 2 * lane + 1] {
                    let whole = halves[i];
                    halves[i] = whole / 2;
                    rest[i] = whole - halves[i];
                }
            }
        }
        all.push(first);
        if second.weights != zeros {
            all.push(second);
        }
    }
    all
}

/// A group that is being filled.
struct Open {
    quads: Vec<Quad>,
    sums: Sums,
}

/// The quads in groups of each of the sizes [`GROUPS`].
fn group(quads: &[Quad], limits: &Limits) -> [Vec<Quad>; 4] {
    let mut left = split(quads, limits);
    let [four, three, two, _] = GROUPS;
    let [fours, threes, twos] = [four, three, two].map(|size| {
        let full;
        (full, left) = collect(std::mem::take(&mut left), size, limits);
        full
    });
    [fours, threes, twos, left]
}

/// The quads of full groups of `size`, and those of others.
fn collect(quads: Vec<Quad>, size: usize, limits: &Limits) -> (Vec<Quad>, Vec<Quad>) {
    let (mut full, mut left) = (Vec::new(), Vec::new());
    let mut open: Vec<Open> = Vec::with_capacity(OPEN_GROUPS + 1);
    for quad in quads {
        let own = Sums::of(&quad);
        let fits = open.iter().position(|group| limits.hold(&group.sums.plus(&own)));
        let Some(i) = fits else {
            if open.len() == OPEN_GROUPS {
                left.append(&mut open.remove(0).quads);
            }
            open.push(Open { quads: vec![quad], sums: own });
            continue;
        };
        open[i].sums = open[i].sums.plus(&own);
        open[i].quads.push(quad);
        if open[i].quads.len() == size {
            full.append(&mut open.remove(i).quads);
        }
    }
    open.iter_mut().for_each(|group| left.append(&mut group.quads));
    (full, left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skipstone_kernels::qconv::{fits, nb_quads};

    /// Weights of one seed, of three magnitudes.
    fn weights(len: usize) -> Vec<i8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as i32
        };
        (0..len).map(|_| (next() % 256 - 128) as i8 / [1, 2, 8][next() as usize % 3]).collect()
    }

    /// What output channel `o` multiplies with byte `i` of a quad of blocks.
    fn weight(geometry: &ConvGeometry, oihw: &[i8], o: usize, source: usize, i: usize) -> i32 {
        let [kh, kw] = geometry.kernel();
        let (icg, ocg) = (geometry.ic() / geometry.groups(), geometry.oc() / geometry.groups());
        let (pixel, quad) = (source / QUADS_PER_BLOCK, source % QUADS_PER_BLOCK);
        let c = pixel / (kh * kw) * C_BLOCK_U8 + quad * QUAD + i;
        let [ky, kx] = [pixel / kw % kh, pixel % kw];
        if o >= geometry.oc() || c / icg != o / ocg {
            return 0;
        }
        i32::from(oihw[((o * icg + c % icg) * kh + ky) * kw + kx])
    }

    #[test]
    fn groups_hold_the_certificate_and_add_up_to_the_weights() {
        for (oc, ic, kh, kw, groups) in
            [(40, 70, 3, 3, 1), (16, 2000, 1, 1, 1), (32, 32, 3, 3, 32), (24, 12, 2, 3, 2)]
        {
            let geometry = ConvGeometry::new(oc, ic, kh, kw, groups).expect("valid");
            let oihw = weights(oc * ic / groups * kh * kw);
            for certified_max in [None, Some(127), Some(255)] {
                let packing = Packing { layout: Layout::Blocked, certified_max };
                let packed = Quads::pack(&geometry, packing, &oihw);
                let nb_sources = nb_sources(&geometry, Layout::Blocked);
                let mut sums = vec![[0i32; QUAD]; geometry.nb_panels() * OC_PANEL * nb_sources];
                for panel in 0..geometry.nb_panels() {
                    for chunk in 0..packed.nb_chunks {
                        let quads = packed.panel(panel, chunk);
                        let [a, b] = quads.strips.map(|s| (s.groups, nb_quads(s.groups), s.first));
                        let same = a.0 == b.0
                            && packed.sources[a.2..][..a.1] == packed.sources[b.2..][..b.1];
                        assert!(same || !quads.paired);
                        // The last panel of 40 channels has one strip; strips of other groups read other channels.
                        let alike = groups == 1 && (panel + 1) * OC_PANEL <= oc;
                        assert_eq!(quads.paired, alike && certified_max.is_some());
                        for (half, strip) in quads.strips.iter().enumerate() {
                            let mut quad = strip.first;
                            for (n, size) in strip.groups.into_iter().zip(GROUPS) {
                                for _ in 0..n {
                                    let group =
                                        &packed.weights()[quad * QUAD_LEN..][..size * QUAD_LEN];
                                    assert!(certified_max.is_none_or(|max| fits(max, group)));
                                    for own in group.chunks(QUAD_LEN) {
                                        let at = packed.sources[quad] as usize;
                                        for (o, four) in own.chunks(QUAD).enumerate() {
                                            let o = panel * OC_PANEL + half * HALF + o;
                                            let sums = &mut sums[o * nb_sources + at];
                                            (0..QUAD).for_each(|i| sums[i] += i32::from(four[i]));
                                        }
                                        quad += 1;
                                    }
                                }
                            }
                        }
                    }
                }
                for (at, sums) in sums.iter().enumerate() {
                    let (o, at) = (at / nb_sources, at % nb_sources);
                    assert_eq!(*sums, std::array::from_fn(|i| weight(&geometry, &oihw, o, at, i)));
                }
            }
        }
    }

    #[test]
    fn a_row_of_an_image_is_whole_quads() {
        let geometry = ConvGeometry::new(1, 3, 2, 3, 1).expect("valid");
        let oihw: Vec<i8> = (1..=18).collect();
        let packing = Packing { layout: Layout::Interleaved, certified_max: None };
        let packed = Quads::pack(&geometry, packing, &oihw);
        // Rows of 9 bytes: 3 quads, the last of one byte.
        assert_eq!(packed.sources, [0, 1, 2, 3, 4, 5]);
        let of_channel_0: Vec<i8> =
            packed.weights().chunks(QUAD_LEN).flat_map(|quad| quad[..QUAD].to_vec()).collect();
        let (of_channel_0, zeros) = of_channel_0.split_at(packed.zero_quad() as usize * QUAD);
        assert_eq!(zeros, [0; QUAD]);
        let row = |first: i8| {
            let element = |e: i8| first + e % 3 * 6 + e / 3;
            (0..12).map(|e| if e < 9 { element(e) } else { 0 }).collect::<Vec<_>>()
        };
        assert_eq!(of_channel_0, [row(1), row(4)].concat());
        assert_eq!(packed.weight_sums, [(1..=18).sum::<i32>()]);
    }
}
