//! Pointwise convolution in seven multiplications of quarters: the driver around the `strassen` and `sconv`
//! micro-kernels.
//!
//! ```text
//! for each block of pairs of pixels (of this member's units):
//!     sums of the source's quarters                           to this member's scratch, in L2
//!     for each pair of panels of 16 output channels (of this member's units):
//!         sums of the weights' quarters                       to scratch; where few, in the first block only
//!         for each product, for each chunk of taps:           its weights stay in L1
//!             micro-kernel: pairs x 16 channels, from and to sums, and to activations
//! ```
//!
//! A pair are pixels of one image, half of it apart: which ones is a matter of the image's size alone, so results
//! depend on neither the batch nor the division over threads. An odd image's middle pixel is its own partner. Halves
//! of the output channels are the even and the odd panels. Sums of weights are made in every run: kept, they would be
//! as many bytes as the weights again, to load and to hold.

use std::array::from_fn;
use std::ops::Range;
use std::ptr::{null, null_mut};

use skipstone_kernels::layout::{C_BLOCK, OC_PANEL};
use skipstone_kernels::sconv::{self, MR, PanelArgs};
use skipstone_kernels::strassen::{Kernel, SourceArgs, WeightArgs};

use super::conv::{ConvSpec, L1_BYTES, Segment, WindowAttrs, offsets};
use super::division::{Shares, Split, Unit, Work};
use super::{Act, Layout, Step, Worker, zero_frame};
use crate::cpu::planned_l2_bytes;
use crate::model::Weights;
use crate::tensor::AlignedBuf;

/// A product's left operand.
#[derive(Clone, Copy)]
enum Left {
    /// Of the source: the pixel of pairs, and the half of the channels.
    Source(usize, usize),
    /// S1 to S4, from 0 on.
    Sum(usize),
}

/// A product's right operand.
#[derive(Clone, Copy)]
enum Right {
    /// B11, B12, B21 or B22, from 0 on.
    Weights(usize),
    /// T1 to T4, from 0 on.
    Sum(usize),
}

/// What a product is added to.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    /// The even panel's bias.
    Bias,
    /// What the odd panel's bias is more.
    BiasDifference,
    /// [`Kept::Common`].
    Common,
}

/// Where sums are kept.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    /// P1, and P6 and P7 once they are added: what several results have in common.
    Common,
    /// P5.
    Fifth,
    /// Between chunks only.
    Temporary,
}

impl Kept {
    const COUNT: usize = 3;
}

/// A quarter of the result.
#[derive(Clone, Copy)]
struct Quarter {
    /// Which pixel of pairs, and which panel.
    pixel: usize,
    panel: usize,
    /// Whether P5 is added.
    fifth: bool,
}

struct Product {
    left: Left,
    right: Right,
    start: Start,
    kept: Kept,
    result: Option<Quarter>,
}

/// The products, in an order in which sums are there when they are needed; see [`skipstone_kernels::strassen`].
const PRODUCTS: [Product; 7] = {
    const fn product(left: Left, right: Right, start: Start, kept: Kept) -> Product {
        Product { left, right, start, kept, result: None }
    }
    const fn result(product: Product, pixel: usize, panel: usize, fifth: bool) -> Product {
        Product { result: Some(Quarter { pixel, panel, fifth }), ..product }
    }
    use {Kept::*, Left::Source, Start::*};
    let p1 = product(Source(0, 0), Right::Weights(0), Bias, Kept::Common);
    let p2 = product(Source(0, 1), Right::Weights(2), Start::Common, Temporary);
    let p3 = product(Left::Sum(3), Right::Weights(3), Start::Common, Temporary);
    let p4 = product(Source(1, 1), Right::Sum(3), Start::Common, Temporary);
    let p5 = product(Left::Sum(0), Right::Sum(0), BiasDifference, Fifth);
    let p6 = product(Left::Sum(1), Right::Sum(1), Start::Common, Kept::Common);
    let p7 = product(Left::Sum(2), Right::Sum(2), Start::Common, Kept::Common);
    [
        p1,
        result(p2, 0, 0, false),
        p6,
        p5,
        result(p3, 0, 1, true),
        result(p7, 1, 1, true),
        result(p4, 1, 0, false),
    ]
};

/// Taps of one half of a source's channels whose weights stay in L1 while a block of pairs passes.
struct Chunk {
    segment: usize,
    taps: Range<usize>,
    /// Elements of the chunk's weights, and where its sums are among a pair of panels' own.
    len: usize,
    sums: usize,
}

/// Left operands of one segment.
struct Operands {
    /// Offset of each pixel of a pair in the source.
    pixels: [Vec<u32>; 2],
    /// Offset of each plane of half of the source.
    taps: Vec<u32>,
    /// S1 to S4 in scratch memory, `[plane][pair][8]` each, and then A11, A12 and A22 if they are gathered.
    start: usize,
    gathered: bool,
    /// Elements of each.
    len: usize,
    /// Offset of each plane.
    sum_taps: Vec<u32>,
}

/// A planned convolution, or a sum of them.
pub(crate) struct StrassenStep {
    spec: ConvSpec,
    /// Of each segment.
    weights: Vec<Weights>,
    multiply: sconv::Kernel,
    add: Kernel,
    operands: Vec<Operands>,
    chunks: Vec<Chunk>,
    /// Of each pair of panels: the even one's, and what the odd one's are more.
    bias: AlignedBuf,
    /// Offset of each pair in a plane of sums.
    places: Vec<u32>,
    /// Of each pixel of a pair.
    dst_pixels: [Vec<u32>; 2],
    res_pixels: [Vec<u32>; 2],
    split: Split,
    /// Of pairs of pixels by pairs of panels.
    shares: Shares,
    /// Elements of a block's sums of products, and of a pair of panels' sums of weights.
    sums_len: usize,
    weights_len: usize,
    /// Whether sums of all panels' weights are kept from one block to the next.
    keeps_weights: bool,
    /// In scratch memory: sums of products, left operands, sums of weights.
    weights_start: usize,
    scratch_len: usize,
}

/// Bytes of L2 that are left for what passes while a block's operands stay.
const PASSING_BYTES: usize = 256 << 10;
/// Most bytes of sums of weights that a member keeps from one block to the next.
const KEPT_BYTES: usize = 1 << 20;
/// Fewest pairs of a block: enough to use weights on as they pass.
const MIN_BLOCK: usize = 4 * MR;

/// Whether a convolution divides into quarters.
pub(crate) fn fits(src: &Act, dst: &Act, window: &WindowAttrs, groups: usize) -> bool {
    src.layout == Layout::Blocked
        && window.kernel == [1, 1]
        && groups == 1
        && src.shape.c.is_multiple_of(2 * C_BLOCK)
        && dst.shape.c.is_multiple_of(2 * OC_PANEL)
}

/// The first and the second pixel of each pair, of a table over images of `len` pixels.
fn pairs(table: &[u32], len: usize) -> [Vec<u32>; 2] {
    let half = len.div_ceil(2);
    let mut pairs = [Vec::new(), Vec::new()];
    for image in table.chunks(len) {
        let (first, second) = image.split_at(half);
        pairs[0].extend_from_slice(first);
        pairs[1].extend_from_slice(second);
        if second.len() < half {
            pairs[1].push(image[half - 1]);
        }
    }
    pairs
}

/// The taps of half of the channels, in equal chunks.
fn chunks(segments: &[Segment]) -> Vec<Chunk> {
    let per_tap = C_BLOCK * OC_PANEL;
    let mut chunks = Vec::new();
    let mut sums = 0;
    for (segment, spec) in segments.iter().enumerate() {
        let nb_taps = spec.src.nb_planes() / 2;
        let nb_chunks = (nb_taps * per_tap * size_of::<f32>()).div_ceil(L1_BYTES);
        let kc = nb_taps.div_ceil(nb_chunks);
        for start in (0..nb_taps).step_by(kc) {
            let taps = start..(start + kc).min(nb_taps);
            let len = taps.len() * per_tap;
            chunks.push(Chunk { segment, taps, len, sums });
            sums += 4 * len;
        }
    }
    chunks
}

impl StrassenStep {
    /// Checks the tables against each other and chooses blocks and division.
    ///
    /// # Panics
    /// If an operand's description does not fit the others: a defect of the plan.
    pub(crate) fn new(
        (multiply, add): (sconv::Kernel, Kernel),
        spec: ConvSpec,
        weights: Vec<Weights>,
    ) -> Self {
        assert!(spec.fits(weights.iter().map(|w| w.len())));
        let dst = &spec.dst;
        let per_image = dst.shape.h * dst.shape.w;
        let nb_pixels = spec.dst_pixels.len();
        assert!(dst.layout == Layout::Blocked && spec.bias.len() == dst.shape.c);
        assert!(nb_pixels == dst.batch * per_image);
        if let (Some(res), Some(table)) = (&spec.residual, &spec.res_pixels) {
            assert!(res.shape == dst.shape && res.layout == Layout::Blocked);
            assert!(table.len() == nb_pixels);
        }
        let dst_pixels = pairs(&spec.dst_pixels, per_image);
        let res_pixels =
            spec.res_pixels.as_ref().map_or_else(Default::default, |t| pairs(t, per_image));
        let nb_pairs = dst_pixels[0].len();
        let mut bias = AlignedBuf::zeroed(spec.bias.len());
        for (i, (to, from)) in bias.iter_mut().zip(&spec.bias).enumerate() {
            let is_odd = i / OC_PANEL % 2 == 1;
            *to = if is_odd { from - spec.bias[i - OC_PANEL] } else { *from };
        }

        let weight_bytes: u64 = weights.iter().map(|w| size_of_val(&**w) as u64).sum();
        let src_bytes: u64 = spec.segments.iter().map(|s| s.src.bytes()).sum();
        let nb_panels = dst.shape.c / (2 * OC_PANEL);
        let work = Work::f32(nb_pairs, nb_panels, 2 * weight_bytes, src_bytes);
        let split = Split::of(spec.division, spec.members, &work);
        let planes: usize = spec.segments.iter().map(|s| s.src.nb_planes()).sum();
        // Four sums of quarters, and three quarters.
        let pair_bytes = 7 * planes / 2 * C_BLOCK * size_of::<f32>();
        // The more pairs share a sum of weights, the better: all of L2 but room for weights and results.
        let block = ((planned_l2_bytes() - PASSING_BYTES) / pair_bytes).max(MIN_BLOCK);
        let shares = Shares::new(split, (nb_pairs, MR), nb_panels, block);
        let longest = shares.longest_block();

        let chunks = chunks(&spec.segments);
        let sums_len = longest * OC_PANEL;
        let mut scratch_len = Kept::COUNT * sums_len;
        let mut operands = Vec::new();
        for segment in &spec.segments {
            let Segment { geometry, src, window, .. } = segment;
            assert!(fits(src, dst, window, 1));
            assert!(src.shape.c == geometry.ic() && dst.shape.c == geometry.oc());
            assert!(segment.src_pixels.len() == nb_pixels);
            let nb_taps = src.nb_planes() / 2;
            let gathered = segment.is_gathered();
            let len = nb_taps * longest * C_BLOCK;
            operands.push(Operands {
                pixels: pairs(&segment.src_pixels, per_image),
                taps: offsets(nb_taps, src.plane_stride()),
                start: scratch_len,
                gathered,
                len,
                sum_taps: offsets(nb_taps, longest * C_BLOCK),
            });
            scratch_len += if gathered { 7 } else { 4 } * len;
        }
        let weights_start = scratch_len;
        let weights_len = chunks.iter().map(|chunk| 4 * chunk.len).sum();
        let most = shares.most_panels();
        let keeps_weights =
            shares.most_blocks() > 1 && most * weights_len * size_of::<f32>() <= KEPT_BYTES;
        scratch_len += if keeps_weights { most } else { 1 } * weights_len;
        Self {
            multiply,
            add,
            weights,
            operands,
            chunks,
            bias,
            places: offsets(longest, C_BLOCK),
            dst_pixels,
            res_pixels,
            split,
            shares,
            sums_len,
            weights_len,
            keeps_weights,
            weights_start,
            scratch_len,
            spec,
        }
    }

    /// How the work is divided.
    pub(crate) fn split(&self) -> Split {
        self.split
    }

    /// Where a quarter of a chunk's weights starts, for a pair of panels.
    fn weights(&self, chunk: &Chunk, pair: usize, quarter: usize) -> *const f32 {
        // Panels follow each other, each in the order of input channels.
        const HALVES: [usize; 4] = [0, 2, 1, 3];
        let segment = &self.spec.segments[chunk.segment];
        let half_len = segment.geometry.ic() / 2 * OC_PANEL;
        let first = chunk.taps.start * C_BLOCK * OC_PANEL;
        self.weights[chunk.segment]
            .as_ptr()
            .wrapping_add((4 * pair + HALVES[quarter]) * half_len + first)
    }

    /// Adds quarters of a block of the sources.
    ///
    /// # Safety
    /// As [`Step::run`]; `scratch` is this member's.
    unsafe fn add_sources(&self, worker: &Worker<'_>, block: Range<usize>, scratch: *mut f32) {
        for (segment, operands) in self.spec.segments.iter().zip(&self.operands) {
            let Operands { start, gathered, len, .. } = *operands;
            let src = &segment.src;
            let half = src.nb_planes() / 2;
            let plane = |i: usize| worker.arena(src.base + i * src.plane_stride()).cast_const();
            for (tap, offset) in operands.sum_taps.iter().enumerate() {
                let sums = scratch.wrapping_add(start + *offset as usize);
                let args = SourceArgs {
                    planes: [plane(tap), plane(half + tap)],
                    pixels: from_fn(|i| operands.pixels[i][block.clone()].as_ptr()),
                    nb_pairs: block.len(),
                    sums,
                    copies: if gathered { sums.wrapping_add(4 * len) } else { null_mut() },
                    stride: len,
                };
                // SAFETY: the plan took the kernel from the registry for an available tier; tables were made for
                // this source (`window_table`), whose planes the arena holds, and nobody writes it in this step;
                // scratch memory has a place for each operand of the longest block.
                unsafe { self.add.add_source_raw(&args) };
            }
        }
    }

    /// Adds quarters of the weights of a pair of panels.
    ///
    /// # Safety
    /// `sums` is this member's scratch memory for them.
    unsafe fn add_weights(&self, pair: usize, sums: *mut f32) {
        for chunk in &self.chunks {
            let args = WeightArgs {
                quarters: from_fn(|quarter| self.weights(chunk, pair, quarter)),
                len: chunk.len,
                sums: sums.wrapping_add(chunk.sums),
                stride: chunk.len,
            };
            // SAFETY: the kernel's tier is available; `new` found the weights to be as many
            // as their geometry says, of which a quarter is within a panel; `sums` has a place for them.
            unsafe { self.add.add_weights_raw(&args) };
        }
    }

    /// Multiplies a block by a pair of panels; `next` is the pair that follows, and its sums if they are there.
    ///
    /// # Safety
    /// As [`Step::run`]; `scratch` is this member's, with the sums of both; the member has this part of `dst`.
    unsafe fn multiply_block(
        &self,
        worker: &Worker<'_>,
        block: Range<usize>,
        (pair, next): (usize, Option<(usize, Option<*mut f32>)>),
        (scratch, weight_sums): (*mut f32, *mut f32),
    ) {
        let spec = &self.spec;
        let dst = &spec.dst;
        let kept = |kept: Kept| scratch.wrapping_add(kept as usize * self.sums_len);
        for product in &PRODUCTS {
            for (i, chunk) in self.chunks.iter().enumerate() {
                let (first, last) = (i == 0, i + 1 == self.chunks.len());
                let (src, operands) =
                    (&spec.segments[chunk.segment].src, &self.operands[chunk.segment]);
                let gathered = |i: usize| scratch.wrapping_add(operands.start + i * operands.len);
                let (left, pixels, taps) = match product.left {
                    Left::Source(pixel, half) if !operands.gathered => {
                        let plane = half * operands.taps.len() * src.plane_stride();
                        let pixels = &operands.pixels[pixel][block.clone()];
                        (worker.arena(src.base + plane), pixels, &operands.taps)
                    }
                    Left::Source(pixel, half) => {
                        (gathered(4 + pixel + half), &*self.places, &operands.sum_taps)
                    }
                    Left::Sum(i) => (gathered(i), &*self.places, &operands.sum_taps),
                };
                let taps = &taps[chunk.taps.clone()];
                let weights = match product.right {
                    Right::Weights(quarter) => self.weights(chunk, pair, quarter),
                    Right::Sum(i) => weight_sums.wrapping_add(chunk.sums + i * chunk.len),
                };
                let start = match product.start {
                    _ if !first => kept(product.kept).cast_const(),
                    Start::Common => kept(Kept::Common).cast_const(),
                    Start::Bias | Start::BiasDifference => null(),
                };
                let bias = 2 * pair + usize::from(product.start == Start::BiasDifference);
                let result = product.result.filter(|_| last);
                let residual = spec.residual.as_ref().filter(|_| result.is_some());
                let Quarter { pixel, panel, fifth } =
                    result.unwrap_or(Quarter { pixel: 0, panel: 0, fifth: false });
                let plane = 2 * (2 * pair + panel);
                let args = PanelArgs {
                    src: left,
                    src_pixels: pixels.as_ptr(),
                    nb_pixels: block.len(),
                    taps: taps.as_ptr(),
                    nb_taps: taps.len(),
                    tap_len: C_BLOCK,
                    weights,
                    // What the same product will need next. B12 is part of sums only, which a product fetches
                    // that needs nothing else.
                    next_weights: match (product.right, next) {
                        (Right::Weights(quarter), Some((next, _))) => {
                            self.weights(chunk, next, quarter)
                        }
                        (Right::Sum(i), Some((_, Some(sums)))) => {
                            sums.wrapping_add(chunk.sums + i * chunk.len)
                        }
                        (Right::Sum(0), Some((next, None))) => self.weights(chunk, next, 1),
                        _ => weights,
                    },
                    bias: self.bias[bias * OC_PANEL..][..OC_PANEL].as_ptr(),
                    dst: result.map_or(null_mut(), |_| {
                        worker.arena(dst.base + plane * dst.plane_stride())
                    }),
                    dst_pixels: self.dst_pixels[pixel][block.clone()].as_ptr(),
                    dst_block_stride: dst.plane_stride(),
                    nb_blocks: 2,
                    residual: residual
                        .map_or(null(), |res| worker.arena(res.base + plane * res.plane_stride())),
                    res_pixels: residual
                        .map_or(null(), |_| self.res_pixels[pixel][block.clone()].as_ptr()),
                    res_block_stride: residual.map_or(0, Act::plane_stride),
                    clamp: [spec.clamp.min, spec.clamp.max],
                    start,
                    sums: if last && product.kept == Kept::Temporary {
                        null_mut()
                    } else {
                        kept(product.kept)
                    },
                    addend: if fifth { kept(Kept::Fifth) } else { null() },
                };
                // SAFETY:
                // - The plan took the kernel from the registry for an available tier.
                // - Tables were made for these activations (`window_table`), whose lengths the arena holds; sums
                //   of operands are as long as their tables say, and an earlier product has kept each sum that is read.
                // - Units are disjoint pairs x panels of `dst`. Where a pair is one pixel, its member writes the
                //   second result over the first. Sources and `residual` are other activations, not written in
                //   this step.
                unsafe { self.multiply.run_raw(&args) };
            }
        }
    }
}

impl Step for StrassenStep {
    fn scratch_len(&self) -> usize {
        self.scratch_len
    }

    fn units(&self, member: usize) -> usize {
        self.shares.units(member)
    }

    unsafe fn run(&self, worker: &Worker<'_>) {
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, &self.spec.dst) };
        let scratch = worker.scratch(self.scratch_len);
        for Unit { block, is_new_block, panel: pair, next, again } in self.shares.turns(worker) {
            let again = again && self.keeps_weights;
            let sums_of = |pair: usize| {
                let place = if self.keeps_weights { pair % self.shares.most_panels() } else { 0 };
                scratch.wrapping_add(self.weights_start + place * self.weights_len)
            };
            let next = next.map(|next| (next, Some(sums_of(next)).filter(|_| again)));
            // SAFETY: the caller's; scratch memory has places for these sums, and nothing else is in them.
            unsafe {
                if is_new_block {
                    self.add_sources(worker, block.clone(), scratch);
                }
                if !again {
                    self.add_weights(pair, sums_of(pair));
                }
                self.multiply_block(worker, block, (pair, next), (scratch, sums_of(pair)));
            }
        }
    }
}
