//! The loops over tiles and channels around the transforms of one tile.

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
                if tile.src_extent != [t as u8; 2] {
                    src = fill_up::<V>(src, tile.src_extent, t, &mut whole);
                }
                let dst = args.dst.add(block * args.block_stride + index * C_BLOCK);
                for lane in (0..C_BLOCK).step_by(V::LANES) {
                    let src = Grid { start: src.start.add(lane), ..src };
                    F::input::<V>(src, points::<F, _>(dst.add(lane), args.point_stride));
                }
            }
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
                F::output::<V>(points::<F, _>(src, args.point_stride), y);
                let y = Grid { start: start.cast_const(), row_stride, column_stride };
                Epilogue::<V, true>::new(args, tile, lane).store_extent(tile, y);
            }
        }
    }
}
