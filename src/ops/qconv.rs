//! Int8 convolution and fully connected layers: the driver around the `qconv` micro-kernels.
//!
//! The loop nest is that of [`conv`](super::conv), over packed quads in place of taps:
//!
//! ```text
//! for each block of MC pixels (of this member's pixels):      its window of src stays in L2
//!     for each panel of 16 output channels (of this member's):
//!         for each k-chunk of quads:                          its weights stay in L1
//!             micro-kernel: MC pixels x 16 channels
//! ```

use std::sync::Arc;

use skipstone_kernels::layout::OC_PANEL;
use skipstone_kernels::pack::ConvGeometry;
use skipstone_kernels::qconv::{Kernel, MR, PanelArgs, QUAD, QUAD_LEN, Strip, nb_quads};
use skipstone_kernels::requant::{BeforeAdd, Dst, Requant, Residual};

use super::conv::{L2_BYTES, PixelTable, Split, WindowAttrs, Work};
use super::quads::{QUADS_PER_BLOCK, Quads, StripQuads, nb_sources};
use super::{Act, Elements, Layout, Step, Worker, zero_frame};
use crate::graph::{Clamp, Quantization};

/// Multiply-accumulates in int8 that take as long as moving a byte, roughly.
const MACS_PER_BYTE: f64 = 20.0;

/// An operand of a convolution.
pub(crate) struct Operand {
    pub(crate) act: Act,
    pub(crate) quantization: Quantization,
    pub(crate) pixels: PixelTable,
}

/// Everything that places an int8 convolution.
pub(crate) struct QconvSpec {
    pub(crate) kernel: Kernel,
    pub(crate) geometry: ConvGeometry,
    pub(crate) window: WindowAttrs,
    pub(crate) quads: Arc<Quads>,
    /// One per output channel, in steps of an accumulator.
    pub(crate) bias: Option<Vec<i32>>,
    /// One per output channel.
    pub(crate) weight_scales: Vec<f32>,
    pub(crate) clamp: Clamp,
    /// What the sum is rounded to before the residual is added.
    pub(crate) before_add: Option<Quantization>,
    /// With the table of windows.
    pub(crate) src: Operand,
    pub(crate) residual: Option<Operand>,
    pub(crate) dst: Act,
    /// The result's; f32 if absent.
    pub(crate) quantization: Option<Quantization>,
    pub(crate) dst_pixels: PixelTable,
    pub(crate) members: usize,
}

/// A planned int8 convolution.
pub(crate) struct QconvStep {
    spec: QconvSpec,
    /// The offset of each quad from a window's corner.
    taps: Vec<u32>,
    /// Per output channel of all panels: biases with the source's zero point in them, and what makes
    /// an accumulator a result.
    bias: Vec<i32>,
    scale: Vec<f32>,
    split: Split,
    /// Pixels per block, a multiple of [`MR`].
    mc: usize,
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
        let (geometry, src, dst) = (&spec.geometry, &spec.src.act, &spec.dst);
        let nb_pixels = spec.dst_pixels.len();
        assert_eq!((src.shape.c, dst.shape.c), (geometry.ic(), geometry.oc()));
        assert_eq!(spec.src.pixels.len(), nb_pixels);
        assert!(matches!(src.elements, Elements::U8 { .. }));
        assert_eq!(dst.elements == Elements::F32, spec.quantization.is_none());
        assert_eq!((dst.layout, spec.weight_scales.len()), (Layout::Blocked, dst.shape.c));
        if let Some(res) = &spec.residual {
            assert_eq!((res.act.shape, res.act.layout), (dst.shape, Layout::Blocked));
            assert!(matches!(res.act.elements, Elements::U8 { .. }));
            assert_eq!(res.pixels.len(), nb_pixels);
        }
        let offsets = source_offsets(src, &spec.window, geometry);
        let taps = spec.quads.sources.iter().map(|source| offsets[*source as usize]).collect();

        let zero_point = i32::from(spec.src.quantization.zero_point);
        let nb_panels = geometry.nb_panels();
        let mut bias = spec.bias.clone().unwrap_or_else(|| vec![0; dst.shape.c]);
        for (bias, sum) in bias.iter_mut().zip(&spec.quads.weight_sums) {
            *bias = bias.wrapping_sub(sum.wrapping_mul(zero_point));
        }
        bias.resize(nb_panels * OC_PANEL, 0);
        let result = spec.before_add.or(spec.quantization);
        let factor = |weight_scale: &f32| {
            let factor = spec.src.quantization.scale * weight_scale;
            result.map_or(factor, |q| factor / q.scale)
        };
        let mut scale: Vec<f32> = spec.weight_scales.iter().map(factor).collect();
        scale.resize(nb_panels * OC_PANEL, 0.0);

        let weights = spec.quads.weights().len();
        let work = Work {
            pixels: nb_pixels,
            tile: MR,
            panels: nb_panels,
            weights: weights as u64,
            src: src.bytes(),
            arithmetic: weights as f64 * nb_pixels as f64 / MACS_PER_BYTE,
        };
        let split = Split::choose(spec.members, &work);
        let bytes_per_pixel = (src.bytes() as usize).div_ceil(nb_pixels);
        let mc = (L2_BYTES / bytes_per_pixel.max(1) / MR * MR).max(8 * MR);
        Self { taps, bias, scale, split, mc, spec }
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
        let [first, second] = quads.strips(panel, chunk);
        let end = second.first + nb_quads(second.groups);
        let weights = &quads.weights()[first.first * QUAD_LEN..end * QUAD_LEN];
        (weights.as_ptr(), weights.len())
    }

    /// What becomes of a panel's sums.
    fn requant(&self, worker: &Worker<'_>, panel: usize) -> Requant {
        let spec = &self.spec;
        let steps = |scale: f32| spec.quantization.map_or(scale, |q| scale / q.scale);
        let dst = &spec.dst;
        Requant {
            scale: self.scale[panel * OC_PANEL..][..OC_PANEL].as_ptr(),
            before_add: spec
                .before_add
                .map(|q| BeforeAdd { bounds: q.bounds(Clamp::NONE), scale: steps(q.scale) }),
            residual: spec.residual.as_ref().map(|res| Residual {
                src: worker.arena_u8(res.act.base, panel * res.act.plane_stride()),
                zero_point: res.quantization.zero_point,
                scale: steps(res.quantization.scale),
            }),
            dst: match spec.quantization {
                Some(q) => Dst::U8 {
                    dst: worker.arena_u8(dst.base, panel * dst.plane_stride()),
                    zero_point: q.zero_point,
                    // Integers of 0..=255.
                    bounds: q
                        .bounds(spec.clamp)
                        .map(|steps| (steps + f32::from(q.zero_point)) as u8),
                },
                None => Dst::F32 {
                    dst: worker.arena(dst.base + 2 * panel * dst.plane_stride()),
                    block_stride: dst.plane_stride(),
                    nb_blocks: (dst.nb_planes() - 2 * panel).min(2),
                    bounds: [spec.clamp.min, spec.clamp.max],
                },
            },
        }
    }
}

impl Step for QconvStep {
    fn scratch_len(&self) -> usize {
        if self.spec.quads.nb_chunks > 1 { self.mc * OC_PANEL } else { 0 }
    }

    unsafe fn run(&self, worker: &Worker<'_>) {
        let spec = &self.spec;
        let quads = &spec.quads;
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, &spec.dst) };
        let nb_pixels = spec.dst_pixels.len();
        let (pixels, panels) = self.split.part(worker.member, (nb_pixels, MR), self.nb_panels());
        let partial = worker.scratch(self.scratch_len()).cast::<i32>();
        for start in pixels.clone().step_by(self.mc) {
            let block = start..(start + self.mc).min(pixels.end);
            for panel in panels.clone() {
                let requant = self.requant(worker, panel);
                for chunk in 0..quads.nb_chunks {
                    let args = PanelArgs {
                        src: worker.arena_u8(spec.src.act.base, 0),
                        src_pixels: spec.src.pixels[block.clone()].as_ptr(),
                        nb_pixels: block.len(),
                        strips: quads.strips(panel, chunk).each_ref().map(|s| self.strip(s)),
                        next_weights: self.next_weights(panel, chunk),
                        bias: self.bias[panel * OC_PANEL..][..OC_PANEL].as_ptr(),
                        requant,
                        dst_pixels: spec.dst_pixels[block.clone()].as_ptr(),
                        res_pixels: spec
                            .residual
                            .as_ref()
                            .map_or(std::ptr::null(), |res| res.pixels[block.clone()].as_ptr()),
                        partial,
                        first: chunk == 0,
                        last: chunk + 1 == quads.nb_chunks,
                    };
                    // SAFETY:
                    // - The plan took the kernel from the registry for an available tier.
                    // - Tables were made for these activations (`window_table`, `source_offsets`),
                    //   whose lengths the arena holds, the slack of interleaved images included;
                    //   slices above have the lengths the kernel reads.
                    // - Members have disjoint pixels x panels of `dst`; sources and `residual` are
                    //   other activations, not written in this step.
                    unsafe { spec.kernel.run_raw(&args) };
                }
            }
        }
    }
}
