//! Convolution and fully connected layers: the driver around the `sconv` micro-kernels.
//!
//! ```text
//! for each block of MC pixels (of this member's units):       its window of src stays in L2
//!     gather the pixels of strided 1x1 windows                to this member's scratch
//!     for each panel of 16 output channels (of this member's units), or pair of panels:
//!         for each chunk of KC taps:                          its weights stay in L1
//!             micro-kernel: MC pixels x 16 channels           of a pair, both
//! ```
//!
//! Panels pair where a block's window takes so much of L2 that weights and results push it out: then each chunk of it
//! is loaded once for both.
//!
//! Pixels run through the whole batch, so a layer with few pixels per image still fills tiles.
//! Sums over k run in one order, whatever MC, KC and the division over threads are.

use std::ops::{Deref, Range};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use half::f16;
use skipstone_kernels::layout::{C_BLOCK, LayoutTag, OC_PANEL};
use skipstone_kernels::pack::ConvGeometry;
use skipstone_kernels::sconv::{Kernel, MR, PanelArgs};
use skipstone_kernels::winograd;

use super::division::{Division, Shares, Split, Unit, Work};
use super::{Act, Layout, Step, Worker, zero_frame};
use crate::cpu::planned_l2_bytes;
use crate::graph::{Clamp, Pad, Shape};
use crate::model::{HalfWeights, Weights};
use crate::tensor::AlignedBuf;

/// The window's geometry: attributes that place taps and pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WindowAttrs {
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    pub(crate) dilation: [usize; 2],
    pub(crate) pad: Pad,
}

impl WindowAttrs {
    /// A 1x1 window: fully connected layers.
    pub(crate) const POINT: Self = Self {
        kernel: [1, 1],
        stride: [1, 1],
        dilation: [1, 1],
        pad: Pad { top: 0, left: 0, bottom: 0, right: 0 },
    };

    /// Zeros that the windows over `output` pixels touch around an image of `input` pixels. Rows
    /// and columns that no window reaches are not counted.
    pub(crate) fn frame(&self, input: Shape, output: Shape) -> Pad {
        let after = |axis: usize, out: usize, size: usize, before: usize| {
            let extent = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
            ((out - 1) * self.stride[axis] + extent).saturating_sub(before + size)
        };
        Pad {
            top: self.pad.top,
            left: self.pad.left,
            bottom: after(0, output.h, input.h, self.pad.top),
            right: after(1, output.w, input.w, self.pad.left),
        }
    }
}

/// Where the pixels of an activation are, for every pixel of an output.
pub(crate) type PixelTable = Arc<[u32]>;

/// The offset, from `act.base` and in plane 0, of each output pixel's window corner, for all images.
///
/// # Panics
/// If `act`'s frame does not hold the windows, or offsets exceed `u32`.
pub(crate) fn window_table(act: &Act, window: &WindowAttrs, output: Shape) -> PixelTable {
    let needed = window.frame(act.shape, output);
    let (f, n) = (act.frame, needed);
    assert!(
        f.top >= n.top && f.left >= n.left && f.bottom >= n.bottom && f.right >= n.right,
        "the plan frames {act:?} for {window:?}"
    );
    assert!(u32::try_from(act.len()).is_ok(), "the plan limits activations to u32 offsets");
    let mut table = Vec::with_capacity(act.batch * output.h * output.w);
    for image in 0..act.batch {
        for oh in 0..output.h {
            for ow in 0..output.w {
                let y = oh * window.stride[0] + f.top - window.pad.top;
                let x = ow * window.stride[1] + f.left - window.pad.left;
                table.push(act.framed_pixel(image, 0, y, x) as u32);
            }
        }
    }
    table.into()
}

/// The offset of each tap from a window's corner, in the order of the packed weights.
pub(super) fn tap_table(act: &Act, window: &WindowAttrs, ic_blocks: usize) -> Vec<u32> {
    let [kh, kw] = window.kernel;
    let row = |i: usize| i * window.dilation[0] * act.row_stride();
    match act.layout {
        Layout::Interleaved => (0..kh).map(|i| row(i) as u32).collect(),
        Layout::Blocked => {
            let mut taps = Vec::with_capacity(ic_blocks * kh * kw);
            for block in 0..ic_blocks {
                for i in 0..kh {
                    for j in 0..kw {
                        let column = j * window.dilation[1] * act.pixel_len();
                        taps.push((block * act.plane_stride() + row(i) + column) as u32);
                    }
                }
            }
            taps
        }
    }
}

/// About how many of `nb_pixels` pixels a block has whose source, of `bytes` for all, stays in L2: in a quarter of it. Weights,
/// results and, on shared cores, other threads use the rest.
pub(super) fn pixels_in_l2(bytes: usize, nb_pixels: usize) -> usize {
    // Fewest pixels of a block: enough to use weights on as they pass.
    const MIN_BLOCK: usize = 8 * MR;
    (planned_l2_bytes() / 4 / bytes.div_ceil(nb_pixels).max(1)).max(MIN_BLOCK)
}

/// Bytes of weights that a chunk of taps may keep in L1: half of the smallest among target CPUs (32 KiB).
pub(super) const L1_BYTES: usize = 16 << 10;

/// An element type of weights for arithmetic in f32.
pub(crate) trait WeightType: Copy + Send + Sync + 'static {
    /// What keeps them.
    type Weights: Deref<Target = [Self]> + Send + Sync + 'static;

    /// Transforms filters for Winograd.
    ///
    /// # Safety
    /// As [`winograd::Kernel::transform_filter_raw`].
    unsafe fn transform_filter(kernel: &winograd::Kernel, args: &winograd::FilterArgs<Self>);
}

impl WeightType for f32 {
    type Weights = Weights;

    unsafe fn transform_filter(kernel: &winograd::Kernel, args: &winograd::FilterArgs) {
        // SAFETY: the caller's.
        unsafe { kernel.transform_filter_raw(args) }
    }
}

impl WeightType for f16 {
    type Weights = HalfWeights;

    unsafe fn transform_filter(kernel: &winograd::Kernel, args: &winograd::FilterArgs<f16>) {
        // SAFETY: the caller's.
        unsafe { kernel.transform_half_filter_raw(args) }
    }
}

/// One product of a sum: a convolution's source and window, and how its weights lie.
pub(crate) struct Segment {
    pub(crate) geometry: ConvGeometry,
    pub(crate) window: WindowAttrs,
    pub(crate) layout: LayoutTag,
    pub(crate) src: Act,
    /// The table of `src` for this window.
    pub(crate) src_pixels: PixelTable,
}

/// Everything that places a convolution, or a sum of convolutions of equal output: a bottleneck's
/// last one and its downsample branch, whose result then never exists in memory.
pub(crate) struct ConvSpec {
    pub(crate) clamp: Clamp,
    /// In the order of summation; at least one.
    pub(crate) segments: Vec<Segment>,
    /// One per output channel.
    pub(crate) bias: Vec<f32>,
    pub(crate) residual: Option<Act>,
    pub(crate) dst: Act,
    /// Tables of `residual` and `dst`.
    pub(crate) res_pixels: Option<PixelTable>,
    pub(crate) dst_pixels: PixelTable,
    pub(crate) members: usize,
    /// How members divide the work; see [`Split::of`].
    pub(crate) division: Option<Division>,
}

impl ConvSpec {
    /// Whether weights of these lengths are those of the segments.
    pub(super) fn fits(&self, lengths: impl Iterator<Item = usize>) -> bool {
        lengths.eq(self.segments.iter().map(|s| s.geometry.packed_len(s.layout)))
    }
}

/// A block's pixels of a source, side by side in scratch memory: `[plane][pixel][8]`.
struct Gathered {
    /// Start in scratch memory.
    start: usize,
    /// Distance of planes.
    plane_stride: usize,
    /// Offset of each pixel in its plane.
    pixels: Vec<u32>,
}

/// Taps whose weights stay in L1 while a block of pixels passes.
struct Chunk {
    segment: usize,
    taps: Range<usize>,
}

/// Which weights.
#[derive(Clone, Copy)]
struct Place<'a> {
    panel: usize,
    chunk: &'a Chunk,
}

/// Gets the place of weights, the one that most likely follows, and all else that a kernel needs.
type Multiply<'a> = dyn Fn(Place<'_>, Option<Place<'_>>, PanelArgs<()>) + 'a;

/// A planned convolution.
pub(crate) struct ConvStep<W: WeightType> {
    kernel: Kernel<W>,
    /// Of each segment.
    weights: Vec<W::Weights>,
    plan: ConvPlan,
}

/// What is planned whatever the type of weights.
struct ConvPlan {
    spec: ConvSpec,
    /// Of each segment, where it is gathered.
    gathered: Vec<Option<Gathered>>,
    /// One table of taps per segment.
    taps: Vec<Vec<u32>>,
    chunks: Vec<Chunk>,
    /// One bias per output channel of all panels.
    bias: AlignedBuf,
    split: Split,
    shares: Shares,
    /// Panels of a unit.
    group: usize,
    /// Elements for the sums of a block and a panel, where they are carried from chunk to chunk.
    sums_len: usize,
    /// Elements for the sums of a unit, and for what is gathered.
    scratch_len: usize,
}

impl Segment {
    /// Whether pixels are gathered: 1x1 windows of a stride use half of each cache line, or less, and all panels
    /// would read those lines again.
    pub(super) fn is_gathered(&self) -> bool {
        let WindowAttrs { kernel, stride, .. } = self.window;
        self.src.layout == Layout::Blocked && kernel == [1, 1] && stride[1] > 1
    }

    /// Bytes of the source that windows reach: all rows but those that they step over, or all pixels that are
    /// gathered.
    fn bytes_read(&self) -> usize {
        if self.is_gathered() {
            return self.src_pixels.len() * self.src.nb_planes() * C_BLOCK * size_of::<f32>();
        }
        let ([rows, _], [step, _]) = (self.window.kernel, self.window.stride);
        self.src.bytes() as usize * rows.min(step) / step
    }

    /// Gathers the pixels of a block.
    ///
    /// # Safety
    /// As [`Step::run`]; `scratch` is this member's, and holds `gathered`.
    unsafe fn gather(
        &self,
        worker: &Worker<'_>,
        block: Range<usize>,
        gathered: &Gathered,
        scratch: *mut f32,
    ) {
        let src = &self.src;
        let pixels = &self.src_pixels[block];
        assert!(pixels.len() <= gathered.pixels.len());
        for plane in 0..src.nb_planes() {
            let from = worker.arena(src.base + plane * src.plane_stride());
            let to = scratch.wrapping_add(gathered.start + plane * gathered.plane_stride);
            for (&pixel, &place) in pixels.iter().zip(&gathered.pixels) {
                // SAFETY: `src_pixels` is a table of this source (`window_table`), whose planes the arena holds,
                // and nobody writes it in this step; scratch memory holds as many planes of the longest block.
                unsafe {
                    let (from, to) = (from.add(pixel as usize), to.add(place as usize));
                    std::ptr::copy_nonoverlapping(from, to, C_BLOCK);
                }
            }
        }
    }

    /// Consecutive elements per tap.
    fn tap_len(&self) -> usize {
        match self.layout {
            LayoutTag::Ohwi16o => self.geometry.kernel()[1] * self.geometry.ic(),
            _ => C_BLOCK,
        }
    }

    /// The taps' table, once the operands are found to fit each other.
    ///
    /// # Panics
    /// If they do not: a defect of the plan.
    fn taps(&self, dst: &Act, nb_pixels: usize) -> Vec<u32> {
        let (geometry, src) = (&self.geometry, &self.src);
        assert_eq!(self.src_pixels.len(), nb_pixels);
        assert_eq!((src.shape.c, dst.shape.c), (geometry.ic(), geometry.oc()));
        let interleaved = match self.layout {
            LayoutTag::OIhw8i16o => false,
            LayoutTag::Ohwi16o => true,
            other => unreachable!("{other:?} is not a panel layout of direct convolution"),
        };
        assert_eq!(src.layout == Layout::Interleaved, interleaved);
        // Windows and taps stay inside the source: `window_table` checked the frame, and a panel's
        // channel window ends inside the activation's planes.
        let ic_blocks = if interleaved { 1 } else { geometry.panel_ic_blocks() };
        assert!(ic_blocks <= src.nb_planes());
        let taps = tap_table(src, &self.window, ic_blocks);
        assert_eq!(taps.len() * self.tap_len() * OC_PANEL, geometry.panel_len(self.layout));
        taps
    }
}

impl ConvPlan {
    /// Checks the tables against each other and chooses blocks and division.
    ///
    /// # Panics
    /// If an operand's description does not fit the others: a defect of the plan.
    fn new(spec: ConvSpec, weight_bytes: u64) -> Self {
        let dst = &spec.dst;
        let nb_pixels = spec.dst_pixels.len();
        assert_eq!((dst.layout, spec.bias.len()), (Layout::Blocked, dst.shape.c));
        if let (Some(res), Some(table)) = (&spec.residual, &spec.res_pixels) {
            assert_eq!((res.shape, res.layout), (dst.shape, Layout::Blocked));
            assert_eq!(table.len(), nb_pixels);
        }
        let mut taps: Vec<_> = spec.segments.iter().map(|s| s.taps(dst, nb_pixels)).collect();

        let nb_panels = dst.shape.c.div_ceil(OC_PANEL);
        let mut bias = AlignedBuf::zeroed(nb_panels * OC_PANEL);
        bias[..spec.bias.len()].copy_from_slice(&spec.bias);
        let src_bytes: u64 = spec.segments.iter().map(|s| s.src.bytes()).sum();
        let work = Work::f32(nb_pixels, nb_panels, weight_bytes, src_bytes);
        let split = Split::of(spec.division, spec.members, &work);
        let read: usize = spec.segments.iter().map(Segment::bytes_read).sum();
        let block = pixels_in_l2(read, nb_pixels);
        let mut chunks = Vec::new();
        for (segment, (spec, taps)) in spec.segments.iter().zip(&taps).enumerate() {
            // Weights of any type as if they were f32: longer chunks would push out the source.
            let tap_bytes = spec.tap_len() * OC_PANEL * size_of::<f32>();
            // Equal chunks.
            let nb_chunks = (taps.len() * tap_bytes).div_ceil(L1_BYTES);
            let kc = taps.len().div_ceil(nb_chunks);
            let starts = (0..taps.len()).step_by(kc);
            chunks.extend(starts.map(|t| Chunk { segment, taps: t..(t + kc).min(taps.len()) }));
        }
        // Where there are fewer pixels than a block could have, as in fully connected layers, they are all.
        let block_bytes = (block.min(nb_pixels) * read).div_ceil(nb_pixels.max(1));
        let group = if chunks.len() > 1 && block_bytes > planned_l2_bytes() / 2 { 2 } else { 1 };
        let shares = Shares::new(split, (nb_pixels, MR), nb_panels.div_ceil(group), block);
        let longest = shares.longest_block();
        let sums_len = if chunks.len() > 1 { longest * OC_PANEL } else { 0 };
        let mut scratch_len = group * sums_len;
        let mut gathered = Vec::new();
        for (segment, taps) in spec.segments.iter().zip(&mut taps) {
            gathered.push(segment.is_gathered().then(|| {
                let (start, plane_stride) = (scratch_len, longest * C_BLOCK);
                scratch_len += segment.src.nb_planes() * plane_stride;
                // A tap is a plane.
                *taps = offsets(taps.len(), plane_stride);
                let pixels = offsets(longest, C_BLOCK);
                Gathered { start, plane_stride, pixels }
            }));
        }
        Self { gathered, taps, chunks, bias, split, shares, group, sums_len, scratch_len, spec }
    }
}

/// `n` offsets, `stride` apart.
pub(super) fn offsets(n: usize, stride: usize) -> Vec<u32> {
    (0..n).map(|i| (i * stride) as u32).collect()
}

impl<W: WeightType> ConvStep<W> {
    /// A step of planned blocks and division; `weights` are those of each segment.
    ///
    /// # Panics
    /// If an operand's description does not fit the others: a defect of the plan.
    pub(crate) fn new(kernel: Kernel<W>, spec: ConvSpec, weights: Vec<W::Weights>) -> Self {
        assert!(spec.fits(weights.iter().map(|w| w.len())));
        let weight_bytes = weights.iter().map(|w| size_of_val(&**w) as u64).sum();
        Self { kernel, weights, plan: ConvPlan::new(spec, weight_bytes) }
    }

    /// How the work is divided.
    pub(crate) fn split(&self) -> Split {
        self.plan.split
    }

    /// The weights of one chunk of a panel.
    fn weights(&self, Place { panel, chunk }: Place<'_>) -> &[W] {
        let segment = &self.plan.spec.segments[chunk.segment];
        let panel_len = segment.geometry.panel_len(segment.layout);
        let per_tap = segment.tap_len() * OC_PANEL;
        &self.weights[chunk.segment][panel * panel_len..]
            [chunk.taps.start * per_tap..chunk.taps.end * per_tap]
    }
}

impl<W: WeightType> Step for ConvStep<W> {
    fn scratch_len(&self) -> usize {
        self.plan.scratch_len
    }

    fn units(&self, member: usize) -> usize {
        self.plan.shares.units(member)
    }

    unsafe fn run(&self, worker: &Worker<'_>) {
        let multiply = |at: Place<'_>, next: Option<Place<'_>>, args: PanelArgs<()>| {
            let weights = self.weights(at);
            let next = next.map_or(weights.as_ptr_range().end, |next| self.weights(next).as_ptr());
            // SAFETY: the plan took the kernel from the registry for an available tier, and these are the weights of
            // the taps in `args`, for whose rest `ConvPlan::run` vouches.
            unsafe { self.kernel.run_raw(&args.with_weights(weights.as_ptr(), next)) };
        };
        // SAFETY: the caller's.
        unsafe { self.plan.run(worker, &multiply) }
    }
}

impl ConvPlan {
    /// Walks this member's share.
    ///
    /// # Safety
    /// As [`Step::run`].
    unsafe fn run(&self, worker: &Worker<'_>, multiply: &Multiply<'_>) {
        let spec = &self.spec;
        let dst = &spec.dst;
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, dst) };
        let scratch = worker.scratch(self.scratch_len);
        let residual = spec.residual.as_ref().zip(spec.res_pixels.as_ref());
        let nb_panels = self.bias.len() / OC_PANEL;
        for Unit { block, is_new_block, panel: group, .. } in self.shares.turns(worker) {
            if is_new_block {
                for (segment, gathered) in spec.segments.iter().zip(&self.gathered) {
                    if let Some(gathered) = gathered {
                        // SAFETY: the caller's; scratch memory has a place for it, and no kernel runs.
                        unsafe { segment.gather(worker, block.clone(), gathered, scratch) };
                    }
                }
            }
            let panels = group * self.group..((group + 1) * self.group).min(nb_panels);
            for (i, chunk) in self.chunks.iter().enumerate() {
                let is_last = i + 1 == self.chunks.len();
                let segment = &spec.segments[chunk.segment];
                let (src, pixels) = (&segment.src, &segment.src_pixels[block.clone()]);
                let taps = &self.taps[chunk.segment][chunk.taps.clone()];
                for panel in panels.clone() {
                    let first_block = match src.layout {
                        Layout::Blocked => segment.geometry.panel_first_ic_block(panel),
                        Layout::Interleaved => 0,
                    };
                    let (first, pixels) = match &self.gathered[chunk.segment] {
                        Some(g) => {
                            let first = g.start + first_block * g.plane_stride;
                            (scratch.wrapping_add(first), &g.pixels[..block.len()])
                        }
                        None => (worker.arena(src.base + first_block * src.plane_stride()), pixels),
                    };
                    let sums = scratch.wrapping_add((panel - panels.start) * self.sums_len);
                    let dst_plane = worker.arena(dst.base + 2 * panel * dst.plane_stride());
                    // - Tables were made for these activations (`window_table`, `tap_table`), whose
                    //   lengths the arena holds; slices here have the lengths the kernel reads.
                    // - Units are disjoint pixels x panels of `dst`, and each is one member's; sources and
                    //   `residual` are other activations, not written in this step.
                    let args = PanelArgs {
                        src: first,
                        src_pixels: pixels.as_ptr(),
                        nb_pixels: block.len(),
                        taps: taps.as_ptr(),
                        nb_taps: taps.len(),
                        tap_len: segment.tap_len(),
                        weights: null(),
                        next_weights: null(),
                        bias: self.bias[panel * OC_PANEL..][..OC_PANEL].as_ptr(),
                        dst: if is_last { dst_plane } else { null_mut() },
                        dst_pixels: spec.dst_pixels[block.clone()].as_ptr(),
                        dst_block_stride: dst.plane_stride(),
                        // Blocks of 8 channels that exist in the last panel.
                        nb_blocks: (dst.nb_planes() - 2 * panel).min(2),
                        residual: residual.map_or(null(), |(res, _)| {
                            worker.arena(res.base + 2 * panel * res.plane_stride())
                        }),
                        res_pixels: residual.map_or(null(), |(_, t)| t[block.clone()].as_ptr()),
                        res_block_stride: residual.map_or(0, |(res, _)| res.plane_stride()),
                        clamp: [spec.clamp.min, spec.clamp.max],
                        start: if i == 0 { null() } else { sums },
                        sums: if is_last { null_mut() } else { sums },
                        addend: null(),
                    };
                    let next = if panel + 1 < panels.end {
                        Some(Place { panel: panel + 1, chunk })
                    } else if is_last {
                        let chunk = &self.chunks[0];
                        (panel + 1 < nb_panels).then_some(Place { panel: panel + 1, chunk })
                    } else {
                        Some(Place { panel: panels.start, chunk: &self.chunks[i + 1] })
                    };
                    multiply(Place { panel, chunk }, next, args);
                }
            }
        }
    }
}
