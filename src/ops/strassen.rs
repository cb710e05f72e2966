//! Pointwise convolution in seven multiplications of quarters: the driver around the `strassen` and `sconv`
//! micro-kernels.
//!
//! ```text
//! for each block of pairs of pixels (of this member's):
//!     left operands of all products, from the source                  to this member's scratch, in L2
//!     for each pair of panels of 16 output channels (of this member's):
//!         for each product, for each chunk of taps:
//!             right operand: weights as they are, or their sum            to scratch, in L1
//!             micro-kernel: pairs x 16 channels, from and to sums or activations
//! ```
//!
//! A pair are pixels of one image, half of it apart: which ones is a matter of the image's size alone, so results
//! depend on neither the batch nor the division over threads. An odd image's middle pixel is its own partner. Halves
//! of the output channels are the even and the odd panels; sums of weights are made anew for each block, since they
//! would be three quarters more bytes to stream and to keep.

use std::array::from_fn;
use std::ops::Range;
use std::ptr::{null, null_mut};

use skipstone_kernels::layout::{C_BLOCK, OC_PANEL};
use skipstone_kernels::sconv::{MR, PanelArgs};
use skipstone_kernels::strassen::{Kernel, NB_PRODUCTS, SourceArgs, WeightArgs, WeightSum};

use super::conv::{ConvSpec, L1_BYTES, Segment, Split, Work, WindowAttrs, blocks, longest_block};
use super::{Act, Layout, Step, Worker, zero_frame};
use crate::tensor::AlignedBuf;

/// What a product's sums start from.
#[derive(Clone, Copy)]
enum Start {
    /// The bias of the even panel.
    Even,
    /// What the bias of the odd panel is more than that of the even one.
    Difference,
    /// The sum of P1, and of P6 and P7 once they are there.
    Common,
}

/// Where a product's sums are kept.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    /// As [`Start::Common`].
    Common = 0,
    /// P5.
    Fifth = 1,
    /// Between chunks only.
    Not = 2,
}

/// A product's right operand.
#[derive(Clone, Copy)]
enum Right {
    /// B11, B12, B21 or B22.
    Packed(usize),
    Sum(WeightSum),
}

/// A quarter of the result.
#[derive(Clone, Copy)]
struct Quarter {
    /// Of the pixels of pairs.
    pixel: usize,
    /// Of the panels of pairs.
    panel: usize,
    /// Whether P5 is added.
    fifth: bool,
}

struct Product {
    /// The left operand, by its place in [`SourceArgs::dst`].
    left: usize,
    right: Right,
    start: Start,
    kept: Kept,
    result: Option<Quarter>,
}

/// The products in an order in which each sum is at hand; see [`skipstone_kernels::strassen`].
const PRODUCTS: [Product; NB_PRODUCTS] = {
    use {Right::*, WeightSum::*};
    const fn quarter(pixel: usize, panel: usize, fifth: bool) -> Option<Quarter> {
        Some(Quarter { pixel, panel, fifth })
    }
    const fn product(
        left: usize,
        right: Right,
        start: Start,
        kept: Kept,
        result: Option<Quarter>,
    ) -> Product {
        Product { left, right, start, kept, result }
    }
    [
        product(0, Packed(0), Start::Even, Kept::Common, None),
        product(1, Packed(2), Start::Common, Kept::Not, quarter(0, 0, false)),
        product(5, Sum(T2), Start::Common, Kept::Common, None),
        product(4, Sum(T1), Start::Difference, Kept::Fifth, None),
        product(2, Packed(3), Start::Common, Kept::Not, quarter(0, 1, true)),
        product(6, Sum(T3), Start::Common, Kept::Common, quarter(1, 1, true)),
        product(3, Sum(T4), Start::Common, Kept::Not, quarter(1, 0, false)),
    ]
};

/// Taps of one half of a source's channels whose weights stay in L1 while a block of pairs passes.
struct Chunk {
    segment: usize,
    taps: Range<usize>,
}

/// Left operands of one segment in scratch memory, `[product][plane][pair][8]`.
struct Operands {
    start: usize,
    /// Offset of each pixel of a pair in the source.
    pixels: [Vec<u32>; 2],
    /// Offset of each plane of an operand.
    taps: Vec<u32>,
    /// Elements of an operand.
    len: usize,
}

/// A planned convolution, or a sum of them.
pub(crate) struct StrassenStep {
    spec: ConvSpec<f32>,
    kernel: Kernel,
    operands: Vec<Operands>,
    chunks: Vec<Chunk>,
    /// Of each pair of panels: the even one's, and what the odd one's are more.
    bias: AlignedBuf,
    /// Offset of each pair in a plane of an operand.
    places: Vec<u32>,
    /// Of each pixel of a pair.
    dst_pixels: [Vec<u32>; 2],
    res_pixels: [Vec<u32>; 2],
    split: Split,
    /// About how many pairs a block has.
    block: usize,
    /// Elements of a block's sums.
    sums_len: usize,
    /// In scratch memory: three blocks of sums, then a sum of weights, then left operands.
    weights_start: usize,
    scratch_len: usize,
}

/// Bytes of left operands that a block may keep in L2, of the 512 KiB of the smallest among target CPUs.
const OPERAND_BYTES: usize = 384 << 10;
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
    let first = table.chunks(len).flat_map(|image| &image[..half]);
    let second = table.chunks(len).flat_map(|image| {
        let middle = if len % 2 == 1 { Some(&image[half - 1]) } else { None };
        image[half..].iter().chain(middle)
    });
    [first.copied().collect(), second.copied().collect()]
}

impl StrassenStep {
    /// Checks the tables against each other and chooses blocks and division.
    ///
    /// # Panics
    /// If an operand's description does not fit the others: a defect of the plan.
    pub(crate) fn new(spec: ConvSpec<f32>, kernel: Kernel) -> Self {
        let dst = &spec.dst;
        let per_image = dst.shape.h * dst.shape.w;
        let nb_pixels = spec.dst_pixels.len();
        assert_eq!((dst.layout, spec.bias.len()), (Layout::Blocked, dst.shape.c));
        assert_eq!(nb_pixels, dst.batch * per_image);
        if let (Some(res), Some(table)) = (&spec.residual, &spec.res_pixels) {
            assert_eq!((res.shape, res.layout), (dst.shape, Layout::Blocked));
            assert_eq!(table.len(), nb_pixels);
        }
        let dst_pixels = pairs(&spec.dst_pixels, per_image);
        let res_pixels =
            spec.res_pixels.as_ref().map_or_else(Default::default, |t| pairs(t, per_image));
        let nb_pairs = dst_pixels[0].len();

        let mut bias = AlignedBuf::zeroed(spec.bias.len());
        for (to, from) in bias.chunks_mut(2 * OC_PANEL).zip(spec.bias.chunks(2 * OC_PANEL)) {
            to.copy_from_slice(from);
            for i in 0..OC_PANEL {
                to[OC_PANEL + i] -= to[i];
            }
        }
        let weight_bytes: u64 = spec.segments.iter().map(|s| size_of_val(&*s.weights) as u64).sum();
        let src_bytes: u64 = spec.segments.iter().map(|s| s.src.bytes()).sum();
        let nb_panels = dst.shape.c / (2 * OC_PANEL);
        let work = Work::f32(nb_pairs, nb_panels, 2 * weight_bytes, src_bytes);
        let split = match spec.division {
            Some(division) => Split::by(division, spec.members),
            None => Split::choose(spec.members, &work),
        };
        let planes: usize = spec.segments.iter().map(|s| s.src.nb_planes()).sum();
        let pair_bytes = NB_PRODUCTS * planes / 2 * C_BLOCK * size_of::<f32>();
        let block = (OPERAND_BYTES / pair_bytes).max(MIN_BLOCK);
        let parts = (0..spec.members).map(|m| split.part(m, (nb_pairs, MR), nb_panels).0);
        let longest = longest_block(parts, block);

        let mut chunks = Vec::new();
        let mut longest_chunk = 0;
        for (segment, spec) in spec.segments.iter().enumerate() {
            let nb_taps = spec.src.nb_planes() / 2;
            let tap_bytes = C_BLOCK * OC_PANEL * size_of::<f32>();
            // Equal chunks.
            let nb_chunks = (nb_taps * tap_bytes).div_ceil(L1_BYTES);
            let kc = nb_taps.div_ceil(nb_chunks);
            longest_chunk = longest_chunk.max(kc);
            let starts = (0..nb_taps).step_by(kc);
            chunks.extend(starts.map(|t| Chunk { segment, taps: t..(t + kc).min(nb_taps) }));
        }
        let sums_len = longest * OC_PANEL;
        let weights_start = 3 * sums_len;
        let mut scratch_len = weights_start + longest_chunk * C_BLOCK * OC_PANEL;
        let mut operands = Vec::new();
        for segment in &spec.segments {
            let Segment { geometry, src, window, .. } = segment;
            assert!(fits(src, dst, window, 1));
            assert_eq!((src.shape.c, dst.shape.c), (geometry.ic(), geometry.oc()));
            assert_eq!(segment.weights.len(), geometry.ic() * geometry.oc());
            assert_eq!(segment.src_pixels.len(), nb_pixels);
            let nb_taps = src.nb_planes() / 2;
            let len = nb_taps * longest * C_BLOCK;
            operands.push(Operands {
                start: scratch_len,
                pixels: pairs(&segment.src_pixels, per_image),
                taps: (0..nb_taps).map(|tap| (tap * longest * C_BLOCK) as u32).collect(),
                len,
            });
            scratch_len += NB_PRODUCTS * len;
        }
        Self {
            operands,
            kernel,
            chunks,
            bias,
            places: (0..longest).map(|pair| (pair * C_BLOCK) as u32).collect(),
            dst_pixels,
            res_pixels,
            split,
            block,
            sums_len,
            weights_start,
            scratch_len,
            spec,
        }
    }

    /// How the work is divided.
    pub(crate) fn split(&self) -> Split {
        self.split
    }

    /// The quarters of the weights in one chunk of a pair of panels.
    fn quarters(&self, chunk: &Chunk, pair: usize) -> [&[f32]; 4] {
        let segment = &self.spec.segments[chunk.segment];
        let half_len = segment.geometry.ic() / 2 * OC_PANEL;
        let per_tap = C_BLOCK * OC_PANEL;
        // Panels follow each other, each in the order of input channels.
        let halves = &segment.weights[pair * 4 * half_len..];
        [0, 2, 1, 3].map(|half| {
            &halves[half * half_len..][chunk.taps.start * per_tap..chunk.taps.end * per_tap]
        })
    }

    /// Makes the left operands of a block.
    ///
    /// # Safety
    /// As [`Step::run`]; `scratch` is this member's.
    unsafe fn split_source(&self, worker: &Worker<'_>, block: Range<usize>, scratch: *mut f32) {
        for (segment, operands) in self.spec.segments.iter().zip(&self.operands) {
            let src = &segment.src;
            let half = src.nb_planes() / 2;
            let plane = |i: usize| worker.arena(src.base + i * src.plane_stride()).cast_const();
            for (tap, offset) in operands.taps.iter().enumerate() {
                let args = SourceArgs {
                    planes: [plane(tap), plane(half + tap)],
                    pixels: from_fn(|i| operands.pixels[i][block.clone()].as_ptr()),
                    nb_pairs: block.len(),
                    dst: scratch.wrapping_add(operands.start + *offset as usize),
                    dst_stride: operands.len,
                };
                // SAFETY: the plan took the kernel from the registry for an available tier; tables were made for
                // this source (`window_table`), whose planes the arena holds, and nobody writes it in this step;
                // scratch memory has a place for each operand of the longest block.
                unsafe { self.kernel.split_source_raw(&args) };
            }
        }
    }
}

impl Step for StrassenStep {
    fn scratch_len(&self) -> usize {
        self.scratch_len
    }

    unsafe fn run(&self, worker: &Worker<'_>) {
        let spec = &self.spec;
        let dst = &spec.dst;
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, dst) };
        let nb_pairs = self.dst_pixels[0].len();
        let nb_panels = self.bias.len() / (2 * OC_PANEL);
        let (pairs, panels) = self.split.part(worker.member, (nb_pairs, MR), nb_panels);
        let scratch = worker.scratch(self.scratch_len);
        let sums_at = |kept: Kept| scratch.wrapping_add(kept as usize * self.sums_len);
        let weights_sum = scratch.wrapping_add(self.weights_start);
        for block in blocks(pairs, self.block) {
            // SAFETY: the caller's.
            unsafe { self.split_source(worker, block.clone(), scratch) };
            for pair in panels.clone() {
                for (number, product) in PRODUCTS.iter().enumerate() {
                    for (i, chunk) in self.chunks.iter().enumerate() {
                        let operands = &self.operands[chunk.segment];
                        let quarters = self.quarters(chunk, pair);
                        let weights = match product.right {
                            Right::Packed(quarter) => quarters[quarter].as_ptr(),
                            Right::Sum(sum) => {
                                let args = WeightArgs {
                                    sum,
                                    quarters: quarters.map(<[f32]>::as_ptr),
                                    len: quarters[0].len(),
                                    dst: weights_sum,
                                };
                                // SAFETY: the kernel's tier is available; quarters are whole taps, and scratch
                                // memory has a place for the longest chunk's.
                                unsafe { self.kernel.add_weights_raw(&args) };
                                weights_sum.cast_const()
                            }
                        };
                        // Four of the products fetch a quarter each of the next panels' weights.
                        let next = match number {
                            0..4 if pair + 1 < panels.end => {
                                self.quarters(chunk, pair + 1)[number].as_ptr()
                            }
                            _ => weights,
                        };
                        let (first, last) = (i == 0, i + 1 == self.chunks.len());
                        let start = match product.start {
                            _ if !first => sums_at(product.kept).cast_const(),
                            Start::Common => sums_at(Kept::Common).cast_const(),
                            Start::Even | Start::Difference => null(),
                        };
                        let bias = 2 * pair + usize::from(matches!(product.start, Start::Difference));
                        let kept = !last || product.kept != Kept::Not;
                        let result = product.result.filter(|_| last);
                        let Quarter { pixel, panel, fifth } = result.unwrap_or(Quarter {
                            pixel: 0,
                            panel: 0,
                            fifth: false,
                        });
                        let panel = 2 * pair + panel;
                        let taps = &operands.taps[chunk.taps.clone()];
                        let left = operands.start + product.left * operands.len;
                        let residual = spec.residual.as_ref().filter(|_| result.is_some());
                        let args = PanelArgs {
                            src: scratch.wrapping_add(left),
                            src_pixels: self.places.as_ptr(),
                            nb_pixels: block.len(),
                            taps: taps.as_ptr(),
                            nb_taps: taps.len(),
                            tap_len: C_BLOCK,
                            weights,
                            next_weights: next,
                            bias: self.bias[bias * OC_PANEL..][..OC_PANEL].as_ptr(),
                            dst: result.map_or(null_mut(), |_| {
                                worker.arena(dst.base + 2 * panel * dst.plane_stride())
                            }),
                            dst_pixels: self.dst_pixels[pixel][block.clone()].as_ptr(),
                            dst_block_stride: dst.plane_stride(),
                            nb_blocks: 2,
                            residual: residual.map_or(null(), |res| {
                                worker.arena(res.base + 2 * panel * res.plane_stride())
                            }),
                            res_pixels: residual.map_or(null(), |_| {
                                self.res_pixels[pixel][block.clone()].as_ptr()
                            }),
                            res_block_stride: residual.map_or(0, |res| res.plane_stride()),
                            clamp: [spec.clamp.min, spec.clamp.max],
                            start,
                            sums: if kept { sums_at(product.kept) } else { null_mut() },
                            addend: if fifth { sums_at(Kept::Fifth) } else { null_mut() },
                        };
                        // SAFETY:
                        // - The plan took the kernel from the registry for an available tier.
                        // - Left operands of the block are in scratch memory, and so is every sum that is read: an
                        //   earlier product has kept it.
                        // - Tables were made for these activations (`window_table`), whose lengths the arena holds.
                        // - Members have disjoint pairs x panels of `dst`, and of a pair that is one pixel this one
                        //   writes the second result after the first; `residual` is another activation, not
                        //   written in this step.
                        unsafe { spec.kernel.run_raw(&args) };
                    }
                }
            }
        }
    }
}
