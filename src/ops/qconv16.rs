//! Int8 convolution on operands widened to 16 bits: the driver around the `qconv16` micro-kernels.
//!
//! ```text
//! all of src, frame included, to 16 bits in the arena         once, divided over members
//! barrier
//! for each block of MC pixels (of this member's units):       its window of src stays in L2
//!     for each panel of 16 output channels (of this member's units):
//!         for each chunk of taps:
//!             its weights to 16 bits in scratch memory, in L1
//!             micro-kernel: MC pixels x 16 channels
//! ```
//!
//! Sums are those of [`qconv`](super::qconv), to the bit.

use std::ops::Range;
use std::sync::Arc;

use skipstone_kernels::layout::OC_PANEL;
use skipstone_kernels::pack::ConvGeometry;
use skipstone_kernels::qconv16::pack::panel_len;
use skipstone_kernels::qconv16::{Kernel, MR, PanelArgs, TAP_LEN};

use super::conv::{WindowAttrs, pixels_in_l2, tap_table};
use super::division::{Shares, Split, Unit, Work};
use super::qconv::{MACS_PER_BYTE, Operands};
use super::qsums::Sums;
use super::qwinograd::PackedFilters;
use super::{Act, Layout, Step, Worker, zero_frame};
use crate::threads::share;

/// Taps of a chunk: 16 KiB of widened weights stay in L1.
const CHUNK_TAPS: usize = (16 << 10) / (TAP_LEN * size_of::<i16>());

/// f32 of the arena that the widened source takes.
pub(crate) fn shared_len(src: &Act) -> usize {
    (src.len() * size_of::<i16>()).div_ceil(size_of::<f32>())
}

/// Everything that places a convolution.
pub(crate) struct Qconv16Spec {
    pub(crate) kernel: Kernel,
    pub(crate) geometry: ConvGeometry,
    pub(crate) window: WindowAttrs,
    pub(crate) weights: Arc<PackedFilters>,
    pub(crate) sums: Sums,
    /// The source is in blocks.
    pub(crate) operands: Operands,
    pub(crate) members: usize,
    /// Where the widened source is in the arena; [`shared_len`] elements.
    pub(crate) shared: usize,
}

/// The two steps of a convolution, and how the second divides its work.
///
/// # Panics
/// If an operand's description does not fit the others: a defect of the plan.
pub(crate) fn steps(spec: Qconv16Spec) -> ([Box<dyn Step>; 2], Split) {
    let widen = WidenStep { kernel: spec.kernel, src: spec.operands.src.0, shared: spec.shared };
    let step = Qconv16Step::new(spec);
    let split = step.split;
    ([Box::new(widen), Box::new(step)], split)
}

/// Widens the source.
struct WidenStep {
    kernel: Kernel,
    src: Act,
    shared: usize,
}

impl Step for WidenStep {
    unsafe fn run(&self, worker: &Worker<'_>) {
        let Range { start, end } = worker.share_lines(self.src.len());
        let per_f32 = size_of::<f32>() / size_of::<i16>();
        // SAFETY: no member writes the source in this step; members have disjoint lines of the copy,
        // of which this is the only slice.
        unsafe {
            let src = worker.read_u8(self.src.base, start, end - start);
            let dst = worker.write(self.shared + start / per_f32, (end - start) / per_f32);
            self.kernel.widen_pixels(src, bytemuck::cast_slice_mut(dst));
        }
    }
}

/// Convolves the widened source.
struct Qconv16Step {
    spec: Qconv16Spec,
    /// The offset of each tap from a window's corner.
    taps: Vec<u32>,
    nb_chunks: usize,
    split: Split,
    shares: Shares,
}

impl Qconv16Step {
    fn new(spec: Qconv16Spec) -> Self {
        let (geometry, src) = (&spec.geometry, &spec.operands.src.0);
        let nb_pixels = spec.operands.dst.1.len();
        spec.operands.check(geometry);
        assert_eq!((geometry.groups(), src.layout), (1, Layout::Blocked));
        let taps = tap_table(src, &spec.window, src.nb_planes());
        let [kh, kw] = geometry.kernel();
        let weights = spec.weights.packed().len();
        let nb_panels = geometry.nb_panels();
        assert_eq!(weights, nb_panels * panel_len(geometry.ic(), kh * kw));
        assert_eq!(weights, nb_panels * taps.len() * TAP_LEN);
        let widened = 2 * src.bytes();
        let work = Work {
            pixels: nb_pixels,
            tile: MR,
            panels: nb_panels,
            weights: weights as u64,
            src: widened,
            arithmetic: weights as f64 * nb_pixels as f64 / MACS_PER_BYTE,
        };
        let split = Split::choose(spec.members, &work);
        let block = pixels_in_l2(widened as usize, nb_pixels);
        let shares = Shares::new(split, (nb_pixels, MR), nb_panels, block);
        let nb_chunks = taps.len().div_ceil(CHUNK_TAPS);
        Self { taps, nb_chunks, split, shares, spec }
    }

    /// f32 of scratch memory for a chunk of widened weights.
    fn chunk_len(&self) -> usize {
        let longest = self.taps.len().div_ceil(self.nb_chunks);
        longest * TAP_LEN * size_of::<i16>() / size_of::<f32>()
    }

    /// The packed weights of a panel's chunk.
    fn weights(&self, panel: usize, chunk: usize) -> &[i8] {
        let taps = share(self.taps.len(), chunk, self.nb_chunks);
        let panel = &self.spec.weights.packed()[panel * self.taps.len() * TAP_LEN..];
        &panel[taps.start * TAP_LEN..taps.end * TAP_LEN]
    }
}

impl Step for Qconv16Step {
    fn scratch_len(&self) -> usize {
        let carried = self.nb_chunks > 1;
        self.chunk_len() + if carried { self.shares.longest_block() * OC_PANEL } else { 0 }
    }

    fn units(&self, member: usize) -> usize {
        self.shares.units(member)
    }

    unsafe fn run(&self, worker: &Worker<'_>) {
        let Qconv16Spec { kernel, sums, operands, shared, .. } = &self.spec;
        let Operands { src, dst, .. } = operands;
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, &dst.0) };
        let scratch = worker.scratch(self.scratch_len());
        let partial = scratch.wrapping_add(self.chunk_len()).cast::<i32>();
        for Unit { block, panel, .. } in self.shares.turns(worker) {
            let requant = sums.requant(worker, panel);
            for chunk in 0..self.nb_chunks {
                let packed = self.weights(panel, chunk);
                let taps = &self.taps[share(self.taps.len(), chunk, self.nb_chunks)];
                // SAFETY: scratch memory is this member's, and holds the longest chunk; the
                // slice ends with the statement.
                unsafe {
                    let weights = scratch.cast::<i16>();
                    let weights = std::slice::from_raw_parts_mut(weights, packed.len());
                    kernel.widen_weights(packed, weights);
                }
                let args = PanelArgs {
                    src: worker.arena(*shared).cast::<i16>(),
                    src_pixels: src.1[block.clone()].as_ptr(),
                    nb_pixels: block.len(),
                    taps: taps.as_ptr(),
                    nb_taps: taps.len(),
                    weights: scratch.cast::<i16>(),
                    next: packed.as_ptr_range().end,
                    bias: sums.bias(panel).as_ptr(),
                    requant,
                    dst_pixels: dst.1[block.clone()].as_ptr(),
                    res_pixels: operands.res_pixels(block.start),
                    partial,
                    first: chunk == 0,
                    last: chunk + 1 == self.nb_chunks,
                };
                // SAFETY:
                // - The plan took the kernel from the registry for an available tier.
                // - Tables were made for these activations (`window_table`, `tap_table`), whose
                //   offsets the widened source shares; slices above have the lengths that the
                //   kernel reads; scratch memory is aligned to cache lines.
                // - Units are disjoint pixels x panels of `dst`, and each is one member's; the widened source was made
                //   in the step before, and `residual` is another activation.
                unsafe { kernel.run_raw(&args) };
            }
        }
    }
}
