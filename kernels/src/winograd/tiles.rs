//! The loops over tiles and channels around the transforms of one tile.

use super::epilogue::Epilogue;
use super::vector::{Source, Vector};
use super::{FilterArgs, InputArgs, OutputArgs, Variant};
use crate::arrays::from_fn;
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
            unsafe { v.store(self.start.add(i * self.row_stride + j * self.column_stride)) }
        }
    }
}

/// The transforms of one tile, for the channels of a vector.
///
/// # Safety
/// As [`Vector`]; sources and sinks are as large as the transform's matrices.
pub(super) trait Transform {
    /// Which.
    const VARIANT: Variant;

    /// From a 3x3 filter to t x t points.
    unsafe fn filter<V: Vector, S: Source>(g: Grid<*const S>, u: impl Sink<V>);
    /// From t x t pixels to as many points.
    unsafe fn input<V: Vector>(d: Grid<*const f32>, v: impl Sink<V>);
    /// From t x t points to m x m pixels.
    unsafe fn output<V: Vector>(m: Grid<*const f32>, y: impl Sink<V>);

    /// `input` of a tile that has `extent` rows and columns: from them to all points at which it is taken, and to
    /// others.
    #[inline(always)]
    unsafe fn partial_input<V: Vector>(d: Grid<*const f32>, extent: [usize; 2], v: impl Sink<V>) {
        let mut whole = [0.0f32; TILE_LEN];
        let (row_stride, column_stride) = (Self::VARIANT.t() * C_BLOCK, C_BLOCK);
        // SAFETY: `whole` holds t x t pixels; the rest is the caller's.
        unsafe {
            let start = whole.as_mut_ptr();
            for i in 0..extent[0] {
                for j in 0..extent[1] {
                    d.load::<V>(i, j).store(start.add(i * row_stride + j * column_stride));
                }
            }
            Self::input(Grid { start: start.cast_const(), row_stride, column_stride }, v);
        }
    }

    /// `output` of a tile that is taken at `points` rows and columns: all pixels that it has, and others.
    #[inline(always)]
    unsafe fn partial_output<V: Vector>(m: Grid<*const f32>, points: [usize; 2], y: impl Sink<V>) {
        debug_assert_eq!(points, [Self::VARIANT.t(); 2]);
        // SAFETY: the caller's.
        unsafe { Self::output(m, y) }
    }
}

/// A variant's transforms of one row or column, of whole tiles and of those that are taken at the first `n` points of T.
///
/// # Safety
/// As [`Vector`].
pub(super) trait Side<const M: usize, const T: usize> {
    /// From as many pixels to `n` points. Of the rest of `d` it takes nothing, and the rest of what it gives means nothing.
    unsafe fn input<V: Vector>(n: usize, d: [V; T]) -> [V; T];
    /// From `n` points to what they give of M pixels, likewise.
    unsafe fn output<V: Vector>(n: usize, m: [V; T]) -> [V; M];
}

/// [`Transform::partial_input`] by sides.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn partial_input<S: Side<M, T>, V: Vector, const M: usize, const T: usize>(
    d: Grid<*const f32>,
    [rows, columns]: [usize; 2],
    v: impl Sink<V>,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut half = [[V::splat(0.0); T]; T];
        match rows {
            3 => input_columns::<S, V, M, T, 3>(d, columns, &mut half),
            4 => input_columns::<S, V, M, T, 4>(d, columns, &mut half),
            5 => input_columns::<S, V, M, T, 5>(d, columns, &mut half),
            _ => input_columns::<S, V, M, T, T>(d, columns, &mut half),
        }
        let half = &half[..rows];
        match columns {
            3 => input_rows::<S, V, M, T, 3>(half, v),
            4 => input_rows::<S, V, M, T, 4>(half, v),
            5 => input_rows::<S, V, M, T, 5>(half, v),
            _ => input_rows::<S, V, M, T, T>(half, v),
        }
    }
}

/// [`Transform::partial_output`] by sides.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn partial_output<S: Side<M, T>, V: Vector, const M: usize, const T: usize>(
    m: Grid<*const f32>,
    [rows, columns]: [usize; 2],
    y: impl Sink<V>,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut half = [[V::splat(0.0); T]; M];
        match rows {
            3 => output_columns::<S, V, M, T, 3>(m, columns, &mut half),
            4 => output_columns::<S, V, M, T, 4>(m, columns, &mut half),
            5 => output_columns::<S, V, M, T, 5>(m, columns, &mut half),
            _ => output_columns::<S, V, M, T, T>(m, columns, &mut half),
        }
        for (i, row) in half.into_iter().enumerate() {
            y.put(i, S::output(columns, row));
        }
    }
}

/// Each column of a tile of `N` rows; as all `N` here, it is a constant.
#[inline(always)]
unsafe fn input_columns<
    S: Side<M, T>,
    V: Vector,
    const M: usize,
    const T: usize,
    const N: usize,
>(
    d: Grid<*const f32>,
    columns: usize,
    half: &mut [[V; T]; T],
) {
    for j in 0..columns {
        // SAFETY: the caller's.
        let column = unsafe { S::input(N, from_fn(|i| d.load(i.min(N - 1), j))) };
        (0..N).for_each(|i| half[i][j] = column[i]);
    }
}

/// Each row of `N` columns.
#[inline(always)]
unsafe fn input_rows<S: Side<M, T>, V: Vector, const M: usize, const T: usize, const N: usize>(
    half: &[[V; T]],
    v: impl Sink<V>,
) {
    for (i, row) in half.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            let row = S::input(N, *row);
            v.put::<N>(i, from_fn(|j| row[j]));
        }
    }
}

/// Each column at `N` rows of points.
#[inline(always)]
unsafe fn output_columns<
    S: Side<M, T>,
    V: Vector,
    const M: usize,
    const T: usize,
    const N: usize,
>(
    m: Grid<*const f32>,
    columns: usize,
    half: &mut [[V; T]; M],
) {
    for j in 0..columns {
        // SAFETY: the caller's.
        let column = unsafe { S::output(N, from_fn(|p| m.load(p.min(N - 1), j))) };
        (0..M).for_each(|i| half[i][j] = column[i]);
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
    for block in 0..args.nb_blocks {
        for index in 0..args.nb_tiles {
            // SAFETY: addresses are those of the contract.
            unsafe {
                let tile = &*args.tiles.add(index);
                let src = args.src.add(tile.src as usize + block * args.plane_stride);
                let dst = args.dst.add(block * args.block_stride + index * C_BLOCK);
                for lane in (0..C_BLOCK).step_by(V::LANES) {
                    let start = src.add(lane);
                    let d = Grid { start, row_stride: args.row_stride, column_stride: C_BLOCK };
                    let v = points::<F, _>(dst.add(lane), args.point_stride);
                    if tile.src_extent == [t as u8; 2] {
                        F::input::<V>(d, v);
                    } else {
                        F::partial_input::<V>(d, tile.src_extent.map(usize::from), v);
                    }
                }
            }
        }
    }
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
                let points_of = |extent| F::VARIANT.points(usize::from(extent));
                let src = points::<F, _>(src, args.point_stride);
                F::partial_output::<V>(src, tile.dst_extent.map(points_of), y);
                let y = Grid { start: start.cast_const(), row_stride, column_stride };
                Epilogue::<V, true>::new(args, tile, lane).store_extent(tile, y);
            }
        }
    }
}
