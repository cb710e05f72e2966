//! 3x3 convolutions of stride 1 by Winograd's minimal filtering: the driver around the transforms
//! and the products. See [`skipstone_kernels::winograd`] for the arithmetic.
//!
//! Two schedules, by what would be read too often otherwise:
//!
//! ```text
//! Tiles: many tiles, few channels. One step; each member has tiles of its own.
//!     for each block of T of the member's tiles:
//!         V = transform_input(block)                       in this member's scratch, in its L2
//!         products(V, all panels)
//!
//! Panels: few tiles, many channels. Two steps per pass of up to T tiles; V, in the arena, is shared.
//!     V = transform_input(pass)                            channels divided over members
//!     barrier
//!     products(V, the member's panels)
//!
//! products(V, panels):
//!     for each panel of 16 output channels:
//!         for each chunk of KC input channels:             all of them where U is ready
//!             U = transform_filter(chunk)                  unless U is ready
//!             for each of the t^2 points:
//!                 M[point] += V[point][chunk] * U[point]   a matrix product: T x KC x 16
//!         transform_output(M) -> dst                       with bias, residual and clamp
//! ```
//!
//! A tile's arithmetic is the same in any block, and its sums run over input channels in order, so results do
//! not depend on the schedule, the blocks, the division over members or the place in a batch.

use std::ops::Range;
use std::sync::Arc;

use skipstone_kernels::layout::{C_BLOCK, LayoutTag, OC_PANEL};
use skipstone_kernels::pack::ConvGeometry;
use skipstone_kernels::winograd::multiply::MR;
use skipstone_kernels::winograd::{
    FilterArgs, InputArgs, Kernel, MultiplyArgs, OutputArgs, Tile, Variant, point_stride,
};

use super::conv::{Split, WindowAttrs};
use super::{Act, Layout, Step, Worker, zero_frame};
use crate::graph::Clamp;
use crate::model::Weights;
use crate::tensor::AlignedBuf;
use crate::threads::share;

/// Filters as a step reads them.
pub(crate) enum Filters {
    /// Transformed: `U[panel][t^2][ic padded to 8][16]`, points at [`point_stride`].
    Ready(Weights),
    /// As packed, in [`LayoutTag::OIhw8i16o`]: each run transforms them, chunk by chunk, in L2.
    Packed(Weights),
}

/// Who computes what; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// Members have tiles of their own, in blocks of about this many.
    Tiles(usize),
    /// Members share passes of up to this many tiles and have panels of their own.
    Panels(usize),
}

/// Elements of the transformed filters of all panels.
pub(crate) fn filters_len(variant: Variant, geometry: &ConvGeometry) -> usize {
    geometry.nb_panels() * variant.nb_points() * filter_stride(geometry.ic().div_ceil(C_BLOCK))
}

/// Distance of the points of a panel's transformed filters, over `ic_blocks` blocks of 8 channels.
fn filter_stride(ic_blocks: usize) -> usize {
    point_stride(ic_blocks * C_BLOCK * OC_PANEL)
}

/// Transforms all filters: from [`LayoutTag::OIhw8i16o`] to what [`Filters::Ready`] holds.
///
/// # Panics
/// If a length is not what the geometry says, or the kernel's tier is missing.
pub(crate) fn transform_filters(
    kernel: &Kernel,
    geometry: &ConvGeometry,
    packed: &[f32],
    dst: &mut [f32],
) {
    assert!(kernel.isa.is_available());
    assert_eq!((geometry.kernel(), geometry.groups()), ([3, 3], 1));
    assert_eq!(packed.len(), geometry.packed_len(LayoutTag::OIhw8i16o));
    assert_eq!(dst.len(), filters_len(kernel.variant, geometry));
    assert!(dst.as_ptr().cast::<[f32; 8]>().align_offset(32) == 0);
    let ic_blocks = geometry.ic().div_ceil(C_BLOCK);
    let panel_len = kernel.variant.nb_points() * filter_stride(ic_blocks);
    let panels = packed.chunks_exact(geometry.panel_len(LayoutTag::OIhw8i16o));
    for (src, dst) in panels.zip(dst.chunks_exact_mut(panel_len)) {
        let args = FilterArgs {
            src: src.as_ptr(),
            nb_blocks: ic_blocks,
            dst: dst.as_mut_ptr(),
            point_stride: filter_stride(ic_blocks),
        };
        // SAFETY: the tier is available; a panel of a single group holds all input channels, and
        // `dst` a panel of points; it is borrowed uniquely.
        unsafe { kernel.transform_filter_raw(&args) };
    }
}

/// Everything that places a convolution.
pub(crate) struct WinogradSpec {
    pub(crate) kernel: Kernel,
    pub(crate) geometry: ConvGeometry,
    pub(crate) window: WindowAttrs,
    pub(crate) clamp: Clamp,
    pub(crate) filters: Filters,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) src: Act,
    pub(crate) residual: Option<Act>,
    pub(crate) dst: Act,
    pub(crate) members: usize,
    pub(crate) schedule: Schedule,
    /// Where V is in the arena; [`shared_len`] elements.
    pub(crate) shared: usize,
}

/// Tiles of a whole batch.
pub(crate) fn nb_tiles(variant: Variant, dst: &Act) -> usize {
    let m = variant.m();
    dst.batch * dst.shape.h.div_ceil(m) * dst.shape.w.div_ceil(m)
}

/// Elements of the arena that a schedule needs for V.
pub(crate) fn shared_len(variant: Variant, schedule: Schedule, src: &Act, dst: &Act) -> usize {
    match schedule {
        Schedule::Tiles(_) => 0,
        Schedule::Panels(pass) => {
            let tiles = pass.min(nb_tiles(variant, dst));
            variant.nb_points() * point_stride(src.nb_planes() * tiles * C_BLOCK)
        }
    }
}

/// The steps of one convolution.
///
/// # Panics
/// If an operand's description does not fit the others: a defect of the plan.
pub(crate) fn steps(spec: WinogradSpec) -> Vec<Box<dyn Step>> {
    let schedule = spec.schedule;
    let conv = Arc::new(Winograd::new(spec));
    let total = conv.tiles.len();
    match schedule {
        Schedule::Tiles(_) => vec![Box::new(TilesStep { conv })],
        Schedule::Panels(pass) => {
            let nb_passes = total.div_ceil(pass);
            let mut steps: Vec<Box<dyn Step>> = Vec::new();
            for i in 0..nb_passes {
                let tiles = share(total, i, nb_passes);
                steps.push(Box::new(InputStep { conv: conv.clone(), tiles: tiles.clone() }));
                steps.push(Box::new(PanelsStep { conv: conv.clone(), tiles }));
            }
            steps
        }
    }
}

/// What the steps of one convolution share.
struct Winograd {
    spec: WinogradSpec,
    tiles: Vec<Tile>,
    /// One bias per output channel of all panels.
    bias: AlignedBuf,
    /// Most tiles of a block.
    block: usize,
    /// Blocks of 8 input channels whose filters are transformed at a time.
    kc: usize,
    split: Split,
}

/// Blocks of 8 input channels of which a run transforms filters at a time: 36 points x 64 channels x
/// 16 x 4 bytes = 144 KiB, as much of V for 16 tiles, and 36 KiB of M lie in an L2 of 512 KiB.
const KC_BLOCKS: usize = 8;

impl Winograd {
    fn new(spec: WinogradSpec) -> Self {
        let WinogradSpec { geometry, src, dst, .. } = &spec;
        let variant = spec.kernel.variant;
        assert_eq!((geometry.kernel(), geometry.groups()), ([3, 3], 1));
        assert_eq!((spec.window.stride, spec.window.dilation), ([1, 1], [1, 1]));
        assert_eq!((src.shape.c, dst.shape.c), (geometry.ic(), geometry.oc()));
        assert_eq!((src.layout, dst.layout), (Layout::Blocked, Layout::Blocked));
        let expected = match &spec.filters {
            Filters::Ready(_) => filters_len(variant, geometry),
            Filters::Packed(_) => geometry.packed_len(LayoutTag::OIhw8i16o),
        };
        let (Filters::Ready(filters) | Filters::Packed(filters)) = &spec.filters;
        assert_eq!(filters.len(), expected);
        if let Some(res) = &spec.residual {
            assert_eq!((res.batch, res.shape, res.layout), (dst.batch, dst.shape, dst.layout));
        }
        let tiles = tiles(&spec);
        let mut bias = AlignedBuf::zeroed(geometry.nb_panels() * OC_PANEL);
        if let Some(values) = &spec.bias {
            bias[..values.len()].copy_from_slice(values);
        }
        let block = match spec.schedule {
            // A member's blocks are whole register tiles, so the last one may be that much larger.
            Schedule::Tiles(block) => {
                let longest = (0..spec.members).map(|m| share(tiles.len(), m, spec.members));
                let blocks = longest.flat_map(|own| blocks(own, block));
                blocks.map(|b| b.len()).max().unwrap_or(0)
            }
            Schedule::Panels(pass) => pass.min(tiles.len()),
        };
        let ic_blocks = src.nb_planes();
        let u_bytes = (geometry.packed_len(LayoutTag::OIhw8i16o) * size_of::<f32>()) as u64;
        let split = match spec.schedule {
            Schedule::Tiles(_) => Split { pixels: spec.members, channels: 1 },
            Schedule::Panels(_) => {
                Split::choose(spec.members, block, geometry.nb_panels(), 4 * u_bytes, src.bytes())
            }
        };
        let kc = ic_blocks.div_ceil(ic_blocks.div_ceil(KC_BLOCKS));
        Self { tiles, bias, block, kc, split, spec }
    }

    fn nb_points(&self) -> usize {
        self.spec.kernel.variant.nb_points()
    }

    fn ic_blocks(&self) -> usize {
        self.spec.src.nb_planes()
    }

    /// Distance of points in V and in M.
    fn v_stride(&self) -> usize {
        point_stride(self.ic_blocks() * self.block * C_BLOCK)
    }

    fn m_stride(&self) -> usize {
        point_stride(self.block * OC_PANEL)
    }

    /// Elements of M and of a chunk of U.
    fn products_len(&self) -> usize {
        let u = match self.spec.filters {
            Filters::Ready(_) => 0,
            Filters::Packed(_) => filter_stride(self.kc),
        };
        self.nb_points() * (self.m_stride() + u)
    }

    /// Transforms `planes` of `tiles` to their place in `v`.
    ///
    /// # Safety
    /// As [`Step::run`]; no other member accesses these planes of V.
    unsafe fn transform_input(
        &self,
        worker: &Worker<'_>,
        tiles: Range<usize>,
        planes: Range<usize>,
        v: *mut f32,
    ) {
        let src = &self.spec.src;
        let tiles = &self.tiles[tiles];
        assert!(tiles.len() <= self.block && planes.end <= self.ic_blocks());
        let block_stride = self.block * C_BLOCK;
        let args = InputArgs {
            src: worker.arena(src.base + planes.start * src.plane_stride()),
            row_stride: src.row_stride(),
            plane_stride: src.plane_stride(),
            nb_blocks: planes.len(),
            tiles: tiles.as_ptr(),
            nb_tiles: tiles.len(),
            dst: v.wrapping_add(planes.start * block_stride),
            block_stride,
            point_stride: self.v_stride(),
        };
        // SAFETY: the plan took the kernel from the registry for an available tier; `tiles` are
        // within the framed images (see `tiles`); V has `v_stride` for each point, which holds
        // all planes of a block of tiles.
        unsafe { self.spec.kernel.transform_input_raw(&args) };
    }

    /// Multiplies and transforms back.
    ///
    /// # Safety
    /// As [`Step::run`]; `v` holds the transformed `tiles`, `scratch` [`Self::products_len`]
    /// elements of this member's; no other member writes these tiles and panels of `dst`.
    unsafe fn products(
        &self,
        worker: &Worker<'_>,
        tiles: Range<usize>,
        panels: Range<usize>,
        v: *const f32,
        scratch: *mut f32,
    ) {
        let spec = &self.spec;
        let tiles = &self.tiles[tiles];
        let (m, chunk) = (scratch, scratch.wrapping_add(self.nb_points() * self.m_stride()));
        for panel in panels {
            match &spec.filters {
                Filters::Ready(u) => {
                    let stride = filter_stride(self.ic_blocks());
                    let u = &u[panel * self.nb_points() * stride..][..self.nb_points() * stride];
                    let all = 0..self.ic_blocks();
                    // SAFETY: the caller's; U holds a panel of points.
                    unsafe {
                        self.multiply(
                            tiles.len(),
                            all,
                            v,
                            (u.as_ptr(), stride),
                            m,
                            u.as_ptr_range().end,
                        );
                    }
                }
                Filters::Packed(filters) => {
                    let tap = C_BLOCK * OC_PANEL;
                    let filters = &filters[panel * self.ic_blocks() * 9 * tap..];
                    for first in (0..self.ic_blocks()).step_by(self.kc) {
                        let blocks = first..(first + self.kc).min(self.ic_blocks());
                        let src = &filters[first * 9 * tap..][..blocks.len() * 9 * tap];
                        let stride = filter_stride(self.kc);
                        let args = FilterArgs {
                            src: src.as_ptr(),
                            nb_blocks: blocks.len(),
                            dst: chunk,
                            point_stride: stride,
                        };
                        let next = src.as_ptr_range().end;
                        // SAFETY: the caller's; the chunk of U holds `kc` blocks of each point.
                        unsafe {
                            spec.kernel.transform_filter_raw(&args);
                            self.multiply(tiles.len(), blocks, v, (chunk, stride), m, next);
                        }
                    }
                }
            }
            // SAFETY: the caller's.
            unsafe { self.transform_output(worker, tiles, panel, m) };
        }
    }

    /// `M += V * U` over a chunk of input channels (blocks of 8), for all points.
    ///
    /// # Safety
    /// `v` holds `nb_tiles` transformed tiles, `u` these channels of a panel's points at its stride, and
    /// `m` [`Self::m_stride`] elements per point, of this member's.
    unsafe fn multiply(
        &self,
        nb_tiles: usize,
        blocks: Range<usize>,
        v: *const f32,
        (u, u_point_stride): (*const f32, usize),
        m: *mut f32,
        next: *const f32,
    ) {
        let v_block_stride = self.block * C_BLOCK;
        let args = MultiplyArgs {
            nb_points: self.nb_points(),
            v: v.wrapping_add(blocks.start * v_block_stride),
            v_point_stride: self.v_stride(),
            v_block_stride,
            nb_tiles,
            nb_blocks: blocks.len(),
            u,
            u_point_stride,
            m,
            m_point_stride: self.m_stride(),
            first: blocks.start == 0,
            next,
        };
        // SAFETY: the plan took the kernel from the registry for an available tier; a block of V
        // holds `block >= nb_tiles` tiles; the rest is the caller's.
        unsafe { self.spec.kernel.multiply_raw(&args) };
    }

    /// # Safety
    /// As [`Self::products`].
    unsafe fn transform_output(
        &self,
        worker: &Worker<'_>,
        tiles: &[Tile],
        panel: usize,
        m: *const f32,
    ) {
        let WinogradSpec { dst, residual, clamp, .. } = &self.spec;
        let args = OutputArgs {
            src: m,
            point_stride: self.m_stride(),
            tiles: tiles.as_ptr(),
            nb_tiles: tiles.len(),
            bias: self.bias[panel * OC_PANEL..][..OC_PANEL].as_ptr(),
            dst: worker.arena(dst.base + 2 * panel * dst.plane_stride()),
            dst_row_stride: dst.row_stride(),
            dst_block_stride: dst.plane_stride(),
            // Blocks of 8 channels that exist in the last panel.
            nb_blocks: (dst.nb_planes() - 2 * panel).min(2),
            residual: residual.map_or(std::ptr::null(), |res| {
                worker.arena(res.base + 2 * panel * res.plane_stride())
            }),
            res_row_stride: residual.map_or(0, |res| res.row_stride()),
            res_block_stride: residual.map_or(0, |res| res.plane_stride()),
            clamp: [clamp.min, clamp.max],
        };
        // SAFETY: the plan took the kernel from the registry for an available tier; `tiles` are
        // within `dst` and `residual` (see `tiles`); the rest is the caller's.
        unsafe { self.spec.kernel.transform_output_raw(&args) };
    }
}

/// The tiles of the whole batch, row by row.
fn tiles(spec: &WinogradSpec) -> Vec<Tile> {
    let WinogradSpec { src, dst, residual, window, .. } = spec;
    let (m, t) = (spec.kernel.variant.m(), spec.kernel.variant.t());
    let needed = window.frame(src.shape, dst.shape);
    let f = src.frame;
    assert!(
        f.top >= needed.top
            && f.left >= needed.left
            && f.bottom >= needed.bottom
            && f.right >= needed.right,
        "the plan frames {src:?} for {window:?}"
    );
    let len = |act: &Act| u32::try_from(act.len()).is_ok();
    assert!(len(src) && len(dst) && residual.as_ref().is_none_or(len), "offsets fit u32");
    // From a window's corner to the end of the rows and columns that any window reaches.
    let extent = |from: usize, size: usize, step: usize| (size - from).min(step) as u8;
    let mut tiles = Vec::with_capacity(nb_tiles(spec.kernel.variant, dst));
    for image in 0..dst.batch {
        for oh in (0..dst.shape.h).step_by(m) {
            for ow in (0..dst.shape.w).step_by(m) {
                let (y, x) = (oh + f.top - window.pad.top, ow + f.left - window.pad.left);
                let place = |act: &Act| act.pixel(image, 0, oh, ow) as u32;
                tiles.push(Tile {
                    src: src.framed_pixel(image, 0, y, x) as u32,
                    dst: place(dst),
                    res: residual.as_ref().map_or(0, place),
                    src_extent: [extent(oh, dst.shape.h + 2, t), extent(ow, dst.shape.w + 2, t)],
                    dst_extent: [extent(oh, dst.shape.h, m), extent(ow, dst.shape.w, m)],
                });
            }
        }
    }
    tiles
}

/// Divides a member's tiles into blocks of about `block`: whole register tiles, but for the end.
fn blocks(tiles: Range<usize>, block: usize) -> impl Iterator<Item = Range<usize>> {
    let units = tiles.len().div_ceil(MR);
    let per_block = (block / MR).max(1);
    let nb_blocks = ((units + per_block / 2) / per_block).max(1);
    (0..nb_blocks).map(move |i| {
        let part = share(units, i, nb_blocks);
        let end = (tiles.start + part.end * MR).min(tiles.end);
        (tiles.start + part.start * MR).min(end)..end
    })
}

/// All of a convolution, each member on its own tiles.
struct TilesStep {
    conv: Arc<Winograd>,
}

impl Step for TilesStep {
    fn scratch_len(&self) -> usize {
        self.conv.products_len() + self.conv.nb_points() * self.conv.v_stride()
    }

    unsafe fn run(&self, worker: &Worker<'_>) {
        let conv = &*self.conv;
        let Schedule::Tiles(block) = conv.spec.schedule else { unreachable!("see `steps`") };
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, &conv.spec.dst) };
        let scratch = worker.scratch(self.scratch_len());
        let v = scratch.wrapping_add(conv.products_len());
        for tiles in blocks(worker.share(conv.tiles.len()), block) {
            // SAFETY: V and M are this member's; members have disjoint tiles of `dst`.
            unsafe {
                conv.transform_input(worker, tiles.clone(), 0..conv.ic_blocks(), v);
                conv.products(worker, tiles, 0..conv.spec.geometry.nb_panels(), v, scratch);
            }
        }
    }
}

/// The first step of a pass: V, for all members.
struct InputStep {
    conv: Arc<Winograd>,
    tiles: Range<usize>,
}

impl Step for InputStep {
    unsafe fn run(&self, worker: &Worker<'_>) {
        let v = worker.arena(self.conv.spec.shared);
        let planes = worker.share(self.conv.ic_blocks());
        // SAFETY: the arena holds `shared_len` elements for V; members have disjoint planes.
        unsafe { self.conv.transform_input(worker, self.tiles.clone(), planes, v) };
    }
}

/// The second step of a pass: the result, from V.
struct PanelsStep {
    conv: Arc<Winograd>,
    tiles: Range<usize>,
}

impl Step for PanelsStep {
    fn scratch_len(&self) -> usize {
        self.conv.products_len()
    }

    unsafe fn run(&self, worker: &Worker<'_>) {
        let conv = &*self.conv;
        if self.tiles.start == 0 {
            // SAFETY: this step writes `dst`, and its frame only here.
            unsafe { zero_frame(worker, &conv.spec.dst) };
        }
        let nb_panels = conv.spec.geometry.nb_panels();
        let (part, panels) = conv.split.part(worker.member, self.tiles.len(), nb_panels);
        let tiles = self.tiles.start + part.start..self.tiles.start + part.end;
        let v = worker.arena(conv.spec.shared).wrapping_add(part.start * C_BLOCK);
        let scratch = worker.scratch(self.scratch_len());
        // SAFETY: V was made in the step before; members have disjoint tiles x panels of `dst`.
        unsafe { conv.products(worker, tiles, panels, v, scratch) };
    }
}
