//! 3x3 convolutions by Winograd's minimal filtering: the driver around the transforms
//! and the products, for any [`Arithmetic`]: that of f32 ([`skipstone_kernels::winograd`]), and that of
//! integers ([`skipstone_kernels::qwinograd`]).
//!
//! Three schedules, by what would be read too often otherwise:
//!
//! ```text
//! Tiles: enough for every member. One step; each member has tiles of its own.
//!     for each block of T tiles of the member's units:
//!         V = transform_input(block)                       in this member's scratch
//!         products(V, all panels)
//!
//! Panels: few tiles. Two steps per pass of up to T tiles; V, in the arena, is shared.
//!     V = transform_input(pass)                            channels divided over members
//!     barrier
//!     products(V, the member's units)
//!
//! Copies: few tiles and members. One step; V is in each member's scratch, so that no member waits for another
//! or reads what another wrote.
//!     for each block of T tiles:
//!         V = transform_input(block)
//!         products(V, the member's units)
//!
//! products(V, panels):
//!     for each panel of 16 output channels:
//!         for each chunk of KC input channels:             all of them where U is ready
//!             U = transform_filter(chunk)                  unless U is ready
//!             for each of the t^2 points:                 fewer of partial tiles
//!                 M[point] += V[point][chunk] * U[point]   a matrix product: T x KC x 16
//!         transform_output(M) -> dst                       with bias, residual and clamp
//! ```
//!
//! A tile's arithmetic is the same in any block, and its sums run over input channels in order, so results do
//! not depend on the schedule, the blocks, the division over members or the place in a batch.

use std::ops::Range;
use std::sync::Arc;

use skipstone_kernels::layout::OC_PANEL;
use skipstone_kernels::pack::ConvGeometry;
use skipstone_kernels::winograd::multiply::MR;
use skipstone_kernels::winograd::{
    FilterArgs, InputArgs, MultiplyArgs, Tile, TileRun, Variant, point_stride,
};

use super::conv::WindowAttrs;
use super::division::{Shares, Split, Unit, Work};
use super::{Act, Layout, Step, Worker, zero_frame};
use crate::graph::Shape;
use crate::threads::share;

/// Filters as a step reads them.
pub(crate) enum Filters<R, P> {
    /// Transformed: `U[panel][t^2][block][16]`, points at [`filter_stride`].
    Ready(R),
    /// As packed, `[panel][block][3][3][16]`: each run transforms them, chunk by chunk, in L2.
    Packed(P),
}

/// What the loops compute with. A block of channels of one tile is [`V_BLOCK_BYTES`] of V, whatever the type.
pub(crate) trait Arithmetic: Send + Sync + 'static {
    /// An element of the source, of packed filters, of U and V, and of M.
    type Pixel;
    /// See above.
    type Weight: Send + Sync;
    /// See above.
    type Factor: Send + Sync;
    /// See above.
    type Sum;

    /// Input channels of a block.
    const BLOCK: usize = V_BLOCK_BYTES / size_of::<Self::Factor>();

    /// Size of the tile.
    fn variant(&self) -> Variant;

    /// The filters.
    fn filters(&self) -> Filters<&[Self::Factor], &[Self::Weight]>;

    /// Transforms filters.
    ///
    /// # Safety
    /// As the kernel's.
    unsafe fn transform_filter(&self, args: &FilterArgs<Self::Weight, Self::Factor>);

    /// Transforms tiles of the input.
    ///
    /// # Safety
    /// As the kernel's.
    unsafe fn transform_input(&self, args: &InputArgs<Self::Pixel, Self::Factor>);

    /// Multiplies.
    ///
    /// # Safety
    /// As the kernel's.
    unsafe fn multiply(&self, args: &MultiplyArgs<Self::Factor, Self::Sum>);

    /// Transforms back, and ends a panel of some tiles.
    ///
    /// # Safety
    /// As [`Step::run`]; `products` is readable, and no other member writes these tiles and this panel.
    unsafe fn transform_output(&self, worker: &Worker<'_>, products: &Products<'_, Self::Sum>);
}

/// M of some tiles and a panel.
pub(crate) struct Products<'a, M> {
    /// `M[t^2][tile][16]`.
    pub(crate) m: *const M,
    /// Distance of the points in `m`.
    pub(crate) point_stride: usize,
    pub(crate) tiles: &'a [Tile],
    pub(crate) panel: usize,
}

/// Bytes of a block of channels of one tile in V: a vector of 8 f32 or of 16 i16.
pub(crate) const V_BLOCK_BYTES: usize = 32;

/// Elements of `T` in the same.
const fn v_block<T>() -> usize {
    V_BLOCK_BYTES / size_of::<T>()
}

/// Who computes what; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// Members have tiles of their own, in blocks of about this many.
    Tiles(usize),
    /// Members share passes of up to this many tiles and have panels of their own.
    Panels(usize),
    /// Members have panels of their own, and each transforms all tiles, in blocks of about this many.
    Copies(usize),
}

/// Elements of type `U` in the transformed filters of all panels, over `ic_blocks` blocks of channels.
pub(crate) fn filters_len<U>(variant: Variant, nb_panels: usize, ic_blocks: usize) -> usize {
    nb_panels * variant.nb_points() * filter_stride::<U>(ic_blocks)
}

/// Distance of the points of a panel's transformed filters.
pub(crate) fn filter_stride<U>(ic_blocks: usize) -> usize {
    point_stride::<U>(ic_blocks * v_block::<U>() * OC_PANEL)
}

/// Everything that places a convolution.
pub(crate) struct Placement {
    pub(crate) geometry: ConvGeometry,
    pub(crate) window: WindowAttrs,
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

/// Products of an image by a filter, per input channel.
pub(crate) fn nb_products(variant: Variant, dst: Shape) -> usize {
    let m = variant.m();
    let side = |size: usize| {
        let last = size % m;
        size / m * variant.t() + if last > 0 { variant.points(last) } else { 0 }
    };
    side(dst.h) * side(dst.w)
}

/// Elements of the arena that a schedule needs for V.
pub(crate) fn shared_len(variant: Variant, schedule: Schedule, src: &Act, dst: &Act) -> usize {
    match schedule {
        Schedule::Tiles(_) | Schedule::Copies(_) => 0,
        Schedule::Panels(pass) => {
            let tiles = pass.min(nb_tiles(variant, dst));
            variant.nb_points() * point_stride::<f32>(src.nb_planes() * tiles * v_block::<f32>())
        }
    }
}

/// The steps of one convolution.
///
/// # Panics
/// If an operand's description does not fit the others: a defect of the plan.
pub(crate) fn steps<A: Arithmetic>(arithmetic: A, place: Placement) -> Vec<Box<dyn Step>> {
    let schedule = place.schedule;
    let conv = Arc::new(Winograd::new(arithmetic, place));
    let total = conv.tiles.len();
    match schedule {
        Schedule::Tiles(_) | Schedule::Copies(_) => {
            let shares = shares(&conv.place, conv.split, total);
            vec![Box::new(OwnStep { conv, shares })]
        }
        Schedule::Panels(pass) => {
            let nb_passes = total.div_ceil(pass);
            let mut steps: Vec<Box<dyn Step>> = Vec::new();
            for i in 0..nb_passes {
                let tiles = share(total, i, nb_passes);
                steps.push(Box::new(InputStep { conv: conv.clone(), tiles: tiles.clone() }));
                let shares = shares(&conv.place, conv.split, tiles.len());
                steps.push(Box::new(PanelsStep { conv: conv.clone(), tiles, shares }));
            }
            steps
        }
    }
}

/// How `nb_tiles` tiles of a convolution are divided.
fn shares(place: &Placement, split: Split, nb_tiles: usize) -> Shares {
    let nb_panels = place.geometry.nb_panels();
    match place.schedule {
        // To take over a block is to transform its input again, which takes as long as the products of some panels.
        Schedule::Tiles(block) => {
            Shares::new(split, (nb_tiles, 1), nb_panels, block).with_least(nb_panels.div_ceil(2))
        }
        Schedule::Copies(block) => Shares::new(split, (nb_tiles, 1), nb_panels, block),
        Schedule::Panels(_) => Shares::new(split, (nb_tiles, MR), nb_panels, usize::MAX),
    }
}

/// What the steps of one convolution share.
struct Winograd<A> {
    arithmetic: A,
    place: Placement,
    tiles: Vec<Tile>,
    /// Most tiles of a block.
    block: usize,
    /// Blocks of input channels whose filters are transformed at a time.
    kc: usize,
    split: Split,
}

/// Blocks of input channels of which a run transforms filters at a time: 36 points x 8 blocks x 16 output
/// channels x 32 bytes = 144 KiB, as much of V for 16 tiles, and 36 KiB of M lie in an L2 of 512 KiB.
const KC_BLOCKS: usize = 8;

impl<A: Arithmetic> Winograd<A> {
    fn new(arithmetic: A, place: Placement) -> Self {
        let Placement { geometry, src, dst, .. } = &place;
        let variant = arithmetic.variant();
        assert_eq!((geometry.kernel(), geometry.groups()), ([3, 3], 1));
        assert_eq!((place.window.stride, place.window.dilation), ([variant.stride(); 2], [1, 1]));
        assert_eq!((src.shape.c, dst.shape.c), (geometry.ic(), geometry.oc()));
        assert_eq!((src.layout, dst.layout), (Layout::Blocked, Layout::Blocked));
        assert_eq!((src.elements.size(), src.pixel_len()), (size_of::<A::Pixel>(), A::BLOCK));
        let (nb_panels, ic_blocks) = (geometry.nb_panels(), src.nb_planes());
        let packed_len = nb_panels * ic_blocks * 9 * A::BLOCK * OC_PANEL;
        match arithmetic.filters() {
            Filters::Ready(u) => {
                assert_eq!(u.len(), filters_len::<A::Factor>(variant, nb_panels, ic_blocks));
            }
            Filters::Packed(g) => assert_eq!(g.len(), packed_len),
        }
        if let Some(res) = &place.residual {
            assert_eq!((res.batch, res.shape, res.layout), (dst.batch, dst.shape, dst.layout));
        }
        let tiles = tiles(variant, &place);
        let (total, members) = (tiles.len(), place.members);
        let split = match place.schedule {
            Schedule::Tiles(_) => Split { pixels: members, channels: 1 },
            Schedule::Copies(_) => Split { pixels: 1, channels: members },
            Schedule::Panels(pass) => {
                let u_bytes = (packed_len * size_of::<A::Weight>()) as u64;
                let work = Work::f32(pass.min(total), nb_panels, 4 * u_bytes, src.bytes());
                Split::choose(members, &work)
            }
        };
        let block = match place.schedule {
            // Blocks are whole register tiles, so one may be that much larger.
            Schedule::Tiles(_) | Schedule::Copies(_) => {
                shares(&place, split, total).longest_block()
            }
            Schedule::Panels(pass) => pass.min(total),
        };
        let kc = ic_blocks.div_ceil(ic_blocks.div_ceil(KC_BLOCKS));
        Self { arithmetic, tiles, block, kc, split, place }
    }

    fn nb_points(&self) -> usize {
        self.arithmetic.variant().nb_points()
    }

    fn ic_blocks(&self) -> usize {
        self.place.src.nb_planes()
    }

    /// Distance of blocks in V, of points in V, and of points in M.
    fn v_block_stride(&self) -> usize {
        self.block * A::BLOCK
    }

    fn v_stride(&self) -> usize {
        point_stride::<A::Factor>(self.ic_blocks() * self.v_block_stride())
    }

    fn m_stride(&self) -> usize {
        point_stride::<A::Sum>(self.block * OC_PANEL)
    }

    /// Bytes of V, of M, and of a chunk of U.
    fn v_bytes(&self) -> usize {
        self.nb_points() * self.v_stride() * size_of::<A::Factor>()
    }

    fn m_bytes(&self) -> usize {
        self.nb_points() * self.m_stride() * size_of::<A::Sum>()
    }

    fn chunk_bytes(&self) -> usize {
        match self.arithmetic.filters() {
            Filters::Ready(_) => 0,
            Filters::Packed(_) => {
                self.nb_points() * filter_stride::<A::Factor>(self.kc) * size_of::<A::Factor>()
            }
        }
    }

    /// f32 of scratch memory for M and a chunk of U.
    fn products_len(&self) -> usize {
        (self.m_bytes() + self.chunk_bytes()) / size_of::<f32>()
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
        v: *mut A::Factor,
    ) {
        let src = &self.place.src;
        let tiles = &self.tiles[tiles];
        assert!(tiles.len() <= self.block && planes.end <= self.ic_blocks());
        let pixels = worker.arena(src.base).cast::<A::Pixel>();
        let args = InputArgs {
            src: pixels.wrapping_add(planes.start * src.plane_stride()),
            row_stride: src.row_stride(),
            plane_stride: src.plane_stride(),
            nb_blocks: planes.len(),
            tiles: tiles.as_ptr(),
            nb_tiles: tiles.len(),
            dst: v.wrapping_add(planes.start * self.v_block_stride()),
            block_stride: self.v_block_stride(),
            point_stride: self.v_stride(),
        };
        // SAFETY: `tiles` are within the framed images (see `tiles`); V has `v_stride` for each
        // point, which holds all planes of a block of tiles.
        unsafe { self.arithmetic.transform_input(&args) };
    }

    /// Some consecutive ones of all tiles.
    fn run(&self, tiles: &[Tile]) -> TileRun {
        let variant = self.arithmetic.variant();
        let mut counts = [0; 4];
        tiles.iter().for_each(|tile| counts[kind(variant, tile)] += 1);
        let [bottom, whole, right, corner] = counts;
        let Shape { h, w, .. } = self.place.dst.shape;
        // Of the last row and column of tiles.
        let points = [h, w].map(|size| variant.points((size - 1) % variant.m() + 1));
        TileRun { bottom, whole, right, corner, points }
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
        panel: usize,
        v: *const A::Factor,
        scratch: *mut f32,
    ) {
        let tiles = &self.tiles[tiles];
        let run = self.run(tiles);
        let m = scratch.cast::<A::Sum>();
        let chunk = scratch.cast::<u8>().wrapping_add(self.m_bytes()).cast::<A::Factor>();
        match self.arithmetic.filters() {
            Filters::Ready(u) => {
                let stride = filter_stride::<A::Factor>(self.ic_blocks());
                let u = &u[panel * self.nb_points() * stride..][..self.nb_points() * stride];
                let (all, next) = (0..self.ic_blocks(), u.as_ptr_range().end.cast());
                // SAFETY: the caller's; U holds a panel of points.
                unsafe { self.multiply(run, all, v, (u.as_ptr(), stride), m, next) };
            }
            Filters::Packed(filters) => {
                let block = 9 * A::BLOCK * OC_PANEL;
                let filters = &filters[panel * self.ic_blocks() * block..];
                for first in (0..self.ic_blocks()).step_by(self.kc) {
                    let blocks = first..(first + self.kc).min(self.ic_blocks());
                    let src = &filters[first * block..][..blocks.len() * block];
                    let stride = filter_stride::<A::Factor>(self.kc);
                    let args = FilterArgs {
                        src: src.as_ptr(),
                        nb_blocks: blocks.len(),
                        dst: chunk,
                        point_stride: stride,
                    };
                    let next = src.as_ptr_range().end.cast();
                    // SAFETY: the caller's; the chunk of U holds `kc` blocks of each point.
                    unsafe {
                        self.arithmetic.transform_filter(&args);
                        self.multiply(run, blocks, v, (chunk, stride), m, next);
                    }
                }
            }
        }
        let products = Products { m, point_stride: self.m_stride(), tiles, panel };
        // SAFETY: the caller's; `tiles` are within `dst` and `residual` (see `tiles`).
        unsafe { self.arithmetic.transform_output(worker, &products) };
    }

    /// `M += V * U` over a chunk of input channels, for all points.
    ///
    /// # Safety
    /// `v` holds these transformed tiles, `u` these blocks of a panel's points at its stride, and
    /// `m` [`Self::m_stride`] elements per point, of this member's.
    unsafe fn multiply(
        &self,
        tiles: TileRun,
        blocks: Range<usize>,
        v: *const A::Factor,
        (u, u_point_stride): (*const A::Factor, usize),
        m: *mut A::Sum,
        next: *const u8,
    ) {
        let args = MultiplyArgs {
            t: self.arithmetic.variant().t(),
            v: v.wrapping_add(blocks.start * self.v_block_stride()),
            v_point_stride: self.v_stride(),
            v_block_stride: self.v_block_stride(),
            tiles,
            nb_blocks: blocks.len(),
            u,
            u_point_stride,
            m,
            m_point_stride: self.m_stride(),
            first: blocks.start == 0,
            next,
        };
        // SAFETY: a block of V holds `block >= tiles.len()` tiles; the rest is the caller's.
        unsafe { self.arithmetic.multiply(&args) };
    }
}

/// Which of the parts of a [`TileRun`] a tile belongs to.
fn kind(variant: Variant, tile: &Tile) -> usize {
    let is_partial = |extent: u8| variant.points(usize::from(extent)) < variant.t();
    match tile.dst_extent.map(is_partial) {
        [true, false] => 0,
        [false, false] => 1,
        [false, true] => 2,
        [true, true] => 3,
    }
}

/// The tiles of the whole batch, row by row, and those together that are taken at as many points.
fn tiles(variant: Variant, place: &Placement) -> Vec<Tile> {
    let Placement { src, dst, residual, window, .. } = place;
    let (m, t) = (variant.m(), variant.t());
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
    let reach = [dst.shape.h, dst.shape.w].map(|size| variant.reach(size));
    // From a window's corner to the end of the rows and columns that any window reaches.
    let extent = |from: usize, size: usize, step: usize| (size - from).min(step) as u8;
    let mut tiles = Vec::with_capacity(nb_tiles(variant, dst));
    for image in 0..dst.batch {
        for oh in (0..dst.shape.h).step_by(m) {
            for ow in (0..dst.shape.w).step_by(m) {
                let corner = [oh, ow].map(|at| at * variant.stride());
                let (y, x) =
                    (corner[0] + f.top - window.pad.top, corner[1] + f.left - window.pad.left);
                let place = |act: &Act| act.pixel(image, 0, oh, ow) as u32;
                tiles.push(Tile {
                    src: src.framed_pixel(image, 0, y, x) as u32,
                    dst: place(dst),
                    res: residual.as_ref().map_or(0, place),
                    src_extent: [extent(corner[0], reach[0], t), extent(corner[1], reach[1], t)],
                    dst_extent: [extent(oh, dst.shape.h, m), extent(ow, dst.shape.w, m)],
                });
            }
        }
    }
    let of_kind = |wanted| tiles.iter().filter(move |tile| kind(variant, tile) == wanted).copied();
    (0..4).flat_map(of_kind).collect()
}

/// All of a convolution: each member transforms what it multiplies.
struct OwnStep<A> {
    conv: Arc<Winograd<A>>,
    shares: Shares,
}

impl<A: Arithmetic> Step for OwnStep<A> {
    fn scratch_len(&self) -> usize {
        self.conv.products_len() + self.conv.v_bytes() / size_of::<f32>()
    }

    fn units(&self, member: usize) -> usize {
        self.shares.units(member)
    }

    unsafe fn run(&self, worker: &Worker<'_>) {
        let conv = &*self.conv;
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, &conv.place.dst) };
        let scratch = worker.scratch(self.scratch_len());
        let v = scratch.wrapping_add(conv.products_len()).cast::<A::Factor>();
        for Unit { block, is_new_block, panel, .. } in self.shares.turns(worker) {
            // SAFETY: V and M are this member's; units are disjoint tiles x panels of `dst`, and each is one member's.
            unsafe {
                if is_new_block {
                    conv.transform_input(worker, block.clone(), 0..conv.ic_blocks(), v);
                }
                conv.products(worker, block, panel, v, scratch);
            }
        }
    }
}

/// The first step of a pass: V, for all members.
struct InputStep<A> {
    conv: Arc<Winograd<A>>,
    tiles: Range<usize>,
}

impl<A: Arithmetic> Step for InputStep<A> {
    unsafe fn run(&self, worker: &Worker<'_>) {
        let v = worker.arena(self.conv.place.shared).cast::<A::Factor>();
        let planes = worker.share(self.conv.ic_blocks());
        // SAFETY: the arena holds `shared_len` elements for V; members have disjoint planes.
        unsafe { self.conv.transform_input(worker, self.tiles.clone(), planes, v) };
    }
}

/// The second step of a pass: the result, from V.
struct PanelsStep<A> {
    conv: Arc<Winograd<A>>,
    tiles: Range<usize>,
    shares: Shares,
}

impl<A: Arithmetic> Step for PanelsStep<A> {
    fn scratch_len(&self) -> usize {
        self.conv.products_len()
    }

    fn units(&self, member: usize) -> usize {
        self.shares.units(member)
    }

    unsafe fn run(&self, worker: &Worker<'_>) {
        let conv = &*self.conv;
        if self.tiles.start == 0 {
            // SAFETY: this step writes `dst`, and its frame only here.
            unsafe { zero_frame(worker, &conv.place.dst) };
        }
        let scratch = worker.scratch(self.scratch_len());
        let v = worker.arena(conv.place.shared).cast::<A::Factor>();
        for Unit { block, panel, .. } in self.shares.turns(worker) {
            let v = v.wrapping_add(block.start * A::BLOCK);
            let tiles = self.tiles.start + block.start..self.tiles.start + block.end;
            // SAFETY: V was made in the step before; units are disjoint tiles x panels of `dst`, and each is one
            // member's.
            unsafe { conv.products(worker, tiles, panel, v, scratch) };
        }
    }
}
