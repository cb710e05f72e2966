//! Int8 convolution and fully connected layers: the driver around the `qconv` micro-kernels.
//!
//! The loop nest is that of [`conv`](super::conv), over packed quads in place of taps:
//!
//! ```text
//! for each block of MC pixels (of this member's units):       its window of src stays in L2
//!     for each panel of 16 output channels (of this member's units):
//!         for each k-chunk of quads:                          its weights stay in L1
//!             micro-kernel: MC pixels x 16 channels
//! ```

use std::sync::Arc;

use skipstone_kernels::layout::OC_PANEL;
use skipstone_kernels::pack::ConvGeometry;
use skipstone_kernels::qconv::{
    Kernel, MR, PanelArgs, QUAD, QUAD_LEN, QUADS_PER_BLOCK, Strip, nb_quads,
};

use super::conv::{PixelTable, WindowAttrs, pixels_in_l2};
use super::division::{Division, Shares, Split, Unit, Work};
use super::qsplit::{Excesses, Parts};
use super::qsums::Sums;
use super::quads::{Quads, StripQuads, nb_sources};
use super::{Act, Elements, Layout, Step, Worker, zero_frame};

/// Multiply-accumulates in int8 that take as long as moving a byte, roughly.
pub(super) const MACS_PER_BYTE: f64 = 20.0;

/// The activations of an int8 convolution, each with its table.
pub(crate) struct Operands {
    /// With the table of windows.
    pub(crate) src: (Act, PixelTable),
    pub(crate) residual: Option<(Act, PixelTable)>,
    pub(crate) dst: (Act, PixelTable),
}

impl Operands {
    /// Checks them against each other.
    ///
    /// # Panics
    /// If they do not fit: a defect of the plan.
    pub(super) fn check(&self, geometry: &ConvGeometry) {
        let (src, dst, nb_pixels) = (&self.src.0, &self.dst.0, self.dst.1.len());
        assert_eq!((src.shape.c, dst.shape.c), (geometry.ic(), geometry.oc()));
        assert_eq!(self.src.1.len(), nb_pixels);
        assert!(matches!(src.elements, Elements::U8 { .. }));
        assert_eq!(dst.layout, Layout::Blocked);
        if let Some((res, pixels)) = &self.residual {
            assert_eq!((res.shape, res.layout), (dst.shape, Layout::Blocked));
            assert!(matches!(res.elements, Elements::U8 { .. }));
            assert_eq!(pixels.len(), nb_pixels);
        }
    }

    /// What the table says of the residual's pixels, from `first` on; null where there is none.
    pub(super) fn res_pixels(&self, first: usize) -> *const u32 {
        self.residual.as_ref().map_or(std::ptr::null(), |(_, pixels)| pixels[first..].as_ptr())
    }
}

/// Everything that places an int8 convolution.
pub(crate) struct QconvSpec {
    pub(crate) kernel: Kernel,
    pub(crate) geometry: ConvGeometry,
    pub(crate) window: WindowAttrs,
    pub(crate) quads: Arc<Quads>,
    pub(crate) sums: Sums,
    pub(crate) operands: Operands,
    pub(crate) members: usize,
    /// How members divide the work; see [`Split::of`].
    pub(crate) division: Option<Division>,
    /// The source's two parts, if a step before makes them.
    pub(crate) parts: Option<Parts>,
}

/// A planned int8 convolution.
pub(crate) struct QconvStep {
    spec: QconvSpec,
    /// The offset of each quad from a window's corner.
    taps: Vec<u32>,
    split: Split,
    shares: Shares,
    /// For a source in two parts.
    excesses: Option<Excesses>,
}

/// Offsets from a window's corner of everything a quad can read.
fn source_offsets(src: &Act, window: &WindowAttrs, geometry: &ConvGeometry) -> Vec<u32> {
    let [kh, kw] = window.kernel;
    let row = |i: usize| i * window.dilation[0] * src.row_stride();
    let offset = |source: usize| match src.layout {
        Layout::Interleaved => {
            let per_row = (kw * geometry.ic()).div_ceil(QUAD);
            row(source / per_row) + source % per_row * QUAD
        }
        Layout::Blocked => {
            let (tap, quad) = (source / QUADS_PER_BLOCK, source % QUADS_PER_BLOCK);
            let column = tap % kw * window.dilation[1] * src.pixel_len();
            tap / (kh * kw) * src.plane_stride() + row(tap / kw % kh) + column + quad * QUAD
        }
    };
    (0..nb_sources(geometry, src.layout)).map(|source| offset(source) as u32).collect()
}

impl QconvStep {
    /// Checks the operands against each other and chooses blocks and division.
    ///
    /// # Panics
    /// If an operand's description does not fit the others: a defect of the plan.
    pub(crate) fn new(spec: QconvSpec) -> Self {
        let (geometry, src) = (&spec.geometry, &spec.operands.src.0);
        let nb_pixels = spec.operands.dst.1.len();
        spec.operands.check(geometry);
        let offsets = source_offsets(src, &spec.window, geometry);
        let taps = spec.quads.sources.iter().map(|source| offsets[*source as usize]).collect();
        let nb_panels = geometry.nb_panels();
        let weights = spec.quads.weights().len();
        let work = Work {
            pixels: nb_pixels,
            tile: MR,
            panels: nb_panels,
            weights: weights as u64,
            src: src.bytes(),
            arithmetic: weights as f64 * nb_pixels as f64 / MACS_PER_BYTE,
        };
        let split = Split::of(spec.division, spec.members, &work);
        let block = pixels_in_l2(src.bytes() as usize, nb_pixels);
        let shares = Shares::new(split, (nb_pixels, MR), nb_panels, block);
        let excesses =
            spec.parts.map(|parts| Excesses::new(parts, geometry, &spec.window, &spec.quads));
        Self { taps, split, shares, excesses, spec }
    }

    /// How the work is divided.
    pub(crate) fn split(&self) -> Split {
        self.split
    }

    fn nb_panels(&self) -> usize {
        self.spec.geometry.nb_panels()
    }

    /// A strip's addresses.
    fn strip(&self, strip: &StripQuads) -> Strip {
        let nb_quads = nb_quads(strip.groups);
        Strip {
            weights: self.spec.quads.weights()[strip.first * QUAD_LEN..][..nb_quads * QUAD_LEN]
                .as_ptr(),
            taps: self.taps[strip.first..][..nb_quads].as_ptr(),
            groups: strip.groups,
        }
    }

    /// The weights that follow those of a panel's k-chunk.
    fn next_weights(&self, panel: usize, chunk: usize) -> (*const i8, usize) {
        let quads = &self.spec.quads;
        let (panel, chunk) =
            if chunk + 1 < quads.nb_chunks { (panel, chunk + 1) } else { (panel + 1, 0) };
        if panel == self.nb_panels() {
            return (std::ptr::null(), 0);
        }
        let [first, second] = &quads.panel(panel, chunk).strips;
        let end = second.first + nb_quads(second.groups);
        let weights = &quads.weights()[first.first * QUAD_LEN..end * QUAD_LEN];
        (weights.as_ptr(), weights.len())
    }
}

impl Step for QconvStep {
    fn scratch_len(&self) -> usize {
        let carried = self.spec.quads.nb_chunks > 1 || self.excesses.is_some();
        let longest = self.shares.longest_block();
        let found = self.excesses.as_ref().map_or(0, |excesses| excesses.scratch_len(longest));
        (if carried { longest * OC_PANEL } else { 0 }) + found
    }

    fn units(&self, member: usize) -> usize {
        self.shares.units(member)
    }

    unsafe fn run(&self, worker: &Worker<'_>) {
        let spec = &self.spec;
        let (quads, Operands { src, dst, .. }) = (&spec.quads, &spec.operands);
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, &dst.0) };
        let partial = worker.scratch(self.scratch_len()).cast::<i32>();
        // The few large activations of the block, if they are few.
        let mut found = None;
        for Unit { block, is_new_block, panel, .. } in self.shares.turns(worker) {
            let src_pixels = &src.1[block.clone()];
            if let Some(excesses) = &self.excesses
                && is_new_block
            {
                let sums_len = self.shares.longest_block() * OC_PANEL;
                // SAFETY: the parts are of the step before; scratch memory has a place for this behind
                // the sums, and the next block is the next to use it.
                found = unsafe {
                    let scratch = partial.wrapping_add(sums_len).cast();
                    excesses.find(worker, src_pixels, scratch).map(|found| (excesses, found))
                };
            }
            // Which activations to sum over, and what to start from.
            let sources = match &self.excesses {
                None => std::slice::from_ref(&src.0),
                Some(excesses) => excesses.sources(found.is_none()),
            };
            let nb_runs = quads.nb_chunks * sources.len();
            let requant = spec.sums.requant(worker, panel);
            let bias = spec.sums.bias(panel);
            if let Some((excesses, found)) = found {
                let sums = (partial, block.len());
                // SAFETY: it found them in this block; scratch memory starts with the sums.
                unsafe { excesses.add(found, (quads, panel), bias, sums) };
            }
            for run in 0..nb_runs {
                let (chunk, source) = (run / sources.len(), run % sources.len());
                let own = quads.panel(panel, chunk);
                let args = PanelArgs {
                    src: worker.arena_u8(sources[source].base, 0),
                    src_pixels: src_pixels.as_ptr(),
                    nb_pixels: block.len(),
                    strips: own.strips.each_ref().map(|s| self.strip(s)),
                    paired: own.paired,
                    next_weights: self.next_weights(panel, chunk),
                    bias: bias.as_ptr(),
                    requant,
                    dst_pixels: dst.1[block.clone()].as_ptr(),
                    res_pixels: spec.operands.res_pixels(block.start),
                    partial,
                    first: run == 0 && found.is_none(),
                    last: run + 1 == nb_runs,
                };
                // SAFETY:
                // - The plan took the kernel from the registry for an available tier.
                // - Tables were made for these activations (`window_table`, `source_offsets`),
                //   whose lengths the arena holds, the slack of interleaved images included;
                //   slices above have the lengths the kernel reads.
                // - Units are disjoint pixels x panels of `dst`, and each is one member's; sources and `residual` are
                //   other activations, not written in this step.
                unsafe { spec.kernel.run_raw(&args) };
            }
        }
    }
}
