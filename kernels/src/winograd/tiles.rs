//! The loops over tiles and channels around the transforms of one tile.

use std::mem::MaybeUninit;

use super::epilogue::Epilogue;
use super::vector::{Source, Vector};
use super::{FilterArgs, InputArgs, OutputArgs, Variant};
use crate::layout::{C_BLOCK, OC_PANEL};

/// Vectors at two strides.
#[derive(Clone, Copy)]
pub(super) struct Grid<P> {
    pub(super) start: P,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<S: Source> Grid<*const S> {
    /// # Safety
    /// As [`Vector::load`].
    #[inline(always)]
    pub(super) unsafe fn load<V: Vector>(&self, i: usize, j: usize) -> V {
        // SAFETY: the caller's.
        unsafe { S::load(self.start.add(i * self.row_stride + j * self.column_stride)) }
    }
}

/// Where results go.
pub(super) trait Sink<V> {
    /// Takes the whole row `i`.
    ///
    /// # Safety
    /// The sink has that row, and as [`Vector::store`].
    unsafe fn put<const N: usize>(&self, i: usize, row: [V; N]);
}

impl<V: Vector> Sink<V> for Grid<*mut f32> {
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, i: usize, row: [V; N]) {
        for (j, v) in row.into_iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { self.store(i, j, v) }
        }
    }
}

impl<P> Grid<P> {
    /// Rows as columns.
    fn transposed(self) -> Self {
        let Self { start, row_stride, column_stride } = self;
        Self { start, row_stride: column_stride, column_stride: row_stride }
    }
}

impl Grid<*mut f32> {
    fn cast_const(self) -> Grid<*const f32> {
        let Self { start, row_stride, column_stride } = self;
        Grid { start: start.cast_const(), row_stride, column_stride }
    }

    /// # Safety
    /// As [`Vector::store`].
    #[inline(always)]
    unsafe fn store<V: Vector>(&self, i: usize, j: usize, v: V) {
        // SAFETY: the caller's.
        unsafe { v.store(self.start.add(i * self.row_stride + j * self.column_stride)) }
    }
}

/// The transforms of one tile, for the channels of a vector.
///
/// # Safety
/// As [`Vector`]; sources and sinks are as large as the transform's matrices.
pub(super) trait Transform {
    /// Which.
    const VARIANT: Variant;
    /// Whether partial tiles are taken at fewer points; else as whole ones.
    const HAS_PARTIAL: bool = Self::VARIANT.points(1) < Self::VARIANT.t();

    /// From a 3x3 filter to t x t points.
    unsafe fn filter<V: Vector, S: Source>(g: Grid<*const S>, u: impl Sink<V>);
    /// From t x t pixels to as many points.
    unsafe fn input<V: Vector>(d: Grid<*const f32>, v: impl Sink<V>);
    /// From t x t points to m x m pixels.
    unsafe fn output<V: Vector>(m: Grid<*const f32>, y: impl Sink<V>);

    /// `input` of one row or column of a tile, partial or whole: from as many pixels to `n` points.
    unsafe fn input_side<V: Vector>(n: usize, d: impl Fn(usize) -> V, v: impl Fn(usize, V)) {
        let _ = (n, d, v);
        unreachable!("{:?} has no partial tiles", Self::VARIANT)
    }
    /// `output` of the same: from `n` points to fewer pixels.
    unsafe fn output_side<V: Vector>(n: usize, m: impl Fn(usize) -> V, y: impl Fn(usize, V)) {
        let _ = (n, m, y);
        unreachable!("{:?} has no partial tiles", Self::VARIANT)
    }
}

/// Elements of the largest whole tile.
const TILE_LEN: usize = Variant::F6.nb_points() * C_BLOCK;

/// The points of a transformed tile.
#[inline(always)]
fn points<F: Transform, P>(start: P, point_stride: usize) -> Grid<P> {
    Grid { start, row_stride: F::VARIANT.t() * point_stride, column_stride: point_stride }
}

/// # Safety
/// As [`transform_filter_raw`](super::Kernel::transform_filter_raw) and [`Vector`].
#[inline(always)]
pub(super) unsafe fn transform_filter<F: Transform, V: Vector, S: Source>(args: &FilterArgs<S>) {
    /// Elements of a block of filters at one tap.
    const TAP: usize = C_BLOCK * OC_PANEL;
    for block in 0..args.nb_blocks {
        for at in (0..TAP).step_by(V::LANES) {
            // SAFETY: within the block of `src`, and within `nb_blocks * 128` of each point.
            unsafe {
                let src = args.src.add(block * 9 * TAP + at);
                let g = Grid { start: src, row_stride: 3 * TAP, column_stride: TAP };
                let dst = args.dst.add(block * TAP + at);
                F::filter::<V, S>(g, points::<F, _>(dst, args.point_stride));
            }
        }
    }
}

/// # Safety
/// As [`transform_input_raw`](super::Kernel::transform_input_raw) and [`Vector`].
#[inline(always)]
pub(super) unsafe fn transform_input<F: Transform, V: Vector>(args: &InputArgs) {
    let t = F::VARIANT.t();
    let mut whole = [0.0f32; TILE_LEN];
    for block in 0..args.nb_blocks {
        for index in 0..args.nb_tiles {
            // SAFETY: addresses are those of the contract.
            unsafe {
                let tile = &*args.tiles.add(index);
                let start = args.src.add(tile.src as usize + block * args.plane_stride);
                let mut src = Grid { start, row_stride: args.row_stride, column_stride: C_BLOCK };
                let is_whole = tile.src_extent == [t as u8; 2];
                if !is_whole && !F::HAS_PARTIAL {
                    src = fill_up::<V>(src, tile.src_extent, t, &mut whole);
                }
                let dst = args.dst.add(block * args.block_stride + index * C_BLOCK);
                for lane in (0..C_BLOCK).step_by(V::LANES) {
                    let src = Grid { start: src.start.add(lane), ..src };
                    let v = points::<F, _>(dst.add(lane), args.point_stride);
                    if is_whole || !F::HAS_PARTIAL {
                        F::input::<V>(src, v);
                    } else {
                        partial_input::<F, V>(src, tile.src_extent.map(usize::from), v);
                    }
                }
            }
        }
    }
}

/// `input` of a tile that has `rows` rows and `columns` columns, which are as many points: its columns, then their rows.
///
/// # Safety
/// As [`Transform`].
#[inline(always)]
unsafe fn partial_input<F: Transform, V: Vector>(
    d: Grid<*const f32>,
    [rows, columns]: [usize; 2],
    v: Grid<*mut f32>,
) {
    let mut half = MaybeUninit::<[f32; TILE_LEN]>::uninit();
    let start = half.as_mut_ptr().cast();
    let half = Grid { start, row_stride: F::VARIANT.t() * C_BLOCK, column_stride: C_BLOCK };
    let sides =
        [(rows, columns, d, half), (columns, rows, half.cast_const().transposed(), v.transposed())];
    for (n, count, from, to) in sides {
        for k in 0..count {
            // SAFETY: the caller's; `half` holds t x t vectors, of which those that are read were written.
            unsafe { F::input_side::<V>(n, |i| from.load(i, k), |i, x| to.store(i, k, x)) }
        }
    }
}

/// `output` of a tile that is taken at `rows` rows and `columns` columns of points, and has `height` rows: its columns,
/// then their rows.
///
/// # Safety
/// As [`Transform`].
#[inline(always)]
unsafe fn partial_output<F: Transform, V: Vector>(
    m: Grid<*const f32>,
    [rows, columns]: [usize; 2],
    height: usize,
    y: Grid<*mut f32>,
) {
    let mut half = MaybeUninit::<[f32; TILE_LEN]>::uninit();
    let start = half.as_mut_ptr().cast();
    let half = Grid { start, row_stride: F::VARIANT.t() * C_BLOCK, column_stride: C_BLOCK };
    let sides = [
        (rows, columns, m, half),
        (columns, height, half.cast_const().transposed(), y.transposed()),
    ];
    for (n, count, from, to) in sides {
        for k in 0..count {
            // SAFETY: the caller's; `half` holds t x t vectors, of which those that are read were written.
            unsafe { F::output_side::<V>(n, |i| from.load(i, k), |i, x| to.store(i, k, x)) }
        }
    }
}

/// Copies what exists of a tile, with zeros for what does not.
///
/// # Safety
/// The pixels within `extent` are readable, and as [`Vector`].
#[inline(always)]
unsafe fn fill_up<V: Vector>(
    src: Grid<*const f32>,
    extent: [u8; 2],
    t: usize,
    whole: &mut [f32; TILE_LEN],
) -> Grid<*const f32> {
    let [rows, columns] = extent.map(usize::from);
    let start = whole.as_mut_ptr();
    for i in 0..t {
        for j in 0..t {
            for lane in (0..C_BLOCK).step_by(V::LANES) {
                // SAFETY: `whole` holds t x t pixels; the rest is the caller's.
                unsafe {
                    let exists = i < rows && j < columns;
                    let from = Grid { start: src.start.wrapping_add(lane), ..src };
                    let v = if exists { from.load(i, j) } else { V::splat(0.0) };
                    v.store(start.add((i * t + j) * C_BLOCK + lane));
                }
            }
        }
    }
    Grid { start, row_stride: t * C_BLOCK, column_stride: C_BLOCK }
}

/// # Safety
/// As [`transform_output_raw`](super::Kernel::transform_output_raw) and [`Vector`].
#[inline(always)]
pub(super) unsafe fn transform_output<F: Transform, V: Vector>(args: &OutputArgs) {
    // SAFETY: the contract is the caller's.
    unsafe {
        // Vectors of whole blocks have code of their own for no residual; elsewhere that would only be more code.
        if V::LANES == C_BLOCK && args.residual.is_null() {
            whole_tiles::<F, V, false>(args);
        } else {
            whole_tiles::<F, V, true>(args);
        }
        partial_tiles::<F, V>(args);
    }
}

/// The tiles that the destination has whole.
///
/// # Safety
/// As [`transform_output`]; there is no residual unless `RESIDUAL`.
#[inline(always)]
unsafe fn whole_tiles<F: Transform, V: Vector, const RESIDUAL: bool>(args: &OutputArgs) {
    let m = F::VARIANT.m() as u8;
    for index in 0..args.nb_tiles {
        for lane in (0..args.nb_blocks * C_BLOCK).step_by(V::LANES) {
            // SAFETY: addresses are those of the contract.
            unsafe {
                let tile = &*args.tiles.add(index);
                if tile.dst_extent == [m; 2] {
                    let src = args.src.add(index * OC_PANEL + lane);
                    let epilogue = Epilogue::<V, RESIDUAL>::new(args, tile, lane);
                    F::output(points::<F, _>(src, args.point_stride), epilogue);
                }
            }
        }
    }
}

/// The others: what exists of them.
///
/// # Safety
/// As [`transform_output`].
#[inline(always)]
unsafe fn partial_tiles<F: Transform, V: Vector>(args: &OutputArgs) {
    let m = F::VARIANT.m();
    let (row_stride, column_stride) = (m * C_BLOCK, C_BLOCK);
    let mut whole = [0.0f32; TILE_LEN];
    for index in 0..args.nb_tiles {
        // SAFETY: addresses are those of the contract; `whole` holds m x m pixels.
        unsafe {
            let tile = &*args.tiles.add(index);
            if tile.dst_extent == [m as u8; 2] {
                continue;
            }
            for lane in (0..args.nb_blocks * C_BLOCK).step_by(V::LANES) {
                let src = args.src.add(index * OC_PANEL + lane);
                let start = whole.as_mut_ptr();
                let y = Grid { start, row_stride, column_stride };
                let src = points::<F, _>(src, args.point_stride);
                if F::HAS_PARTIAL {
                    let [h, w] = tile.dst_extent.map(usize::from);
                    let taken = [h, w].map(|extent| F::VARIANT.points(extent));
                    partial_output::<F, V>(src, taken, h, y);
                } else {
                    F::output::<V>(src, y);
                }
                Epilogue::<V, true>::new(args, tile, lane).store_extent(tile, y.cast_const());
            }
        }
    }
}
