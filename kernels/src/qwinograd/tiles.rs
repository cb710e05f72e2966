//! The loops over tiles and channels around the transforms of one tile.

use super::bounds::{inverse, shift};
use super::vector::{Longs, Words};
use super::{FilterArgs, InputArgs, OutputArgs, Tile, Variant};
use crate::arrays::from_fn;
use crate::layout::{C_BLOCK as C_BLOCK_F32, C_BLOCK_U8 as C_BLOCK, OC_PANEL};
use crate::requant::{Dst, HALF};

/// Where vectors come from.
pub(super) trait Source<V>: Copy {
    /// The vector at row `i` and column `j`.
    ///
    /// # Safety
    /// The source has that element, and as the loads of `V`.
    unsafe fn get(&self, i: usize, j: usize) -> V;
}

/// Where results go.
pub(super) trait Sink<V> {
    /// Takes the whole row `i`.
    ///
    /// # Safety
    /// The sink has that row, and as the stores of `V`.
    unsafe fn put<const N: usize>(&self, i: usize, row: [V; N]);
}

/// Elements at two strides.
#[derive(Clone, Copy)]
struct Grid<P> {
    start: P,
    row_stride: usize,
    column_stride: usize,
}

impl<P> Grid<P> {
    fn offset(&self, i: usize, j: usize) -> usize {
        i * self.row_stride + j * self.column_stride
    }
}

/// Pixels.
impl<V: Words> Source<V> for Grid<*const u8> {
    #[inline(always)]
    unsafe fn get(&self, i: usize, j: usize) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_u8(self.start.add(self.offset(i, j))) }
    }
}

/// Sums of products.
impl<V: Longs> Source<V> for Grid<*const i32> {
    #[inline(always)]
    unsafe fn get(&self, i: usize, j: usize) -> V {
        // SAFETY: the caller's.
        unsafe { V::load(self.start.add(self.offset(i, j))) }
    }
}

impl<V: Words> Sink<V> for Grid<*mut i16> {
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, i: usize, row: [V; N]) {
        for (j, v) in row.into_iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { v.store(self.start.add(self.offset(i, j))) }
        }
    }
}

/// The taps of filters.
impl<V: Words> Source<V> for Grid<*const i8> {
    #[inline(always)]
    unsafe fn get(&self, i: usize, j: usize) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_i8(self.start.add(self.offset(i, j))) }
    }
}

/// The end of one output tile, whole or not, for half a panel.
#[derive(Clone, Copy)]
struct Epilogue<'a, V, const WHOLE: bool> {
    args: &'a OutputArgs,
    tile: &'a Tile,
    variant: Variant,
    half: usize,
    bias: V,
}

impl<V: Longs, const WHOLE: bool> Epilogue<'_, V, WHOLE> {
    /// Finishes `N` pixels of row `i` from column `j` on, from the convolution's sums.
    ///
    /// # Safety
    /// The tile has them; as [`transform_output_raw`](super::Kernel::transform_output_raw).
    #[inline(always)]
    unsafe fn finish<const N: usize>(&self, i: usize, j: usize, sums: [V; N]) {
        let OutputArgs { requant, dst_row_stride, res_row_stride, .. } = self.args;
        let step = match requant.dst {
            Dst::U8 { .. } => C_BLOCK,
            Dst::F32 { .. } => C_BLOCK_F32,
        };
        let dst = self.tile.dst as usize + i * dst_row_stride + j * step;
        let res = self.tile.res as usize + i * res_row_stride + j * C_BLOCK;
        let (dst, res) = (from_fn(|j| dst + j * step), from_fn(|j| res + j * C_BLOCK));
        // SAFETY: the caller's.
        unsafe { V::requantize(sums, requant, self.half, dst, res) }
    }
}

impl<V: Longs, const WHOLE: bool> Sink<V> for Epilogue<'_, V, WHOLE> {
    /// Divides by the transforms' scale; see the module above.
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, i: usize, row: [V; N]) {
        let [rows, columns] = self.tile.dst_extent.map(usize::from);
        if !WHOLE && i >= rows {
            return;
        }
        // SAFETY: the caller's; a tile has up to 4 columns.
        unsafe {
            let sums: [V; N] = from_fn(|j| {
                let sum = match self.variant {
                    Variant::F2 => row[j].sra::<{ shift(Variant::F2) as i32 }>(),
                    Variant::F4 => {
                        let v = row[j].mul(V::splat(inverse(Variant::F4)));
                        v.sra::<{ shift(Variant::F4) as i32 }>()
                    }
                };
                sum.add(self.bias)
            });
            if WHOLE || columns == N {
                self.finish::<N>(i, 0, sums);
            } else {
                // One by one: code for each number of them would be large.
                for j in 0..columns {
                    self.finish(i, j, [sums[j]]);
                }
            }
        }
    }
}

/// The transforms of one tile, for the channels of a vector.
///
/// # Safety
/// As [`Words`] and [`Longs`]; sources and sinks are as large as the transform's matrices.
pub(super) trait Transform {
    /// Which.
    const VARIANT: Variant;
    /// Whether partial tiles are taken at fewer points; else as whole ones.
    const HAS_PARTIAL: bool = Self::VARIANT.tile().points(1) < Self::VARIANT.t();

    /// From a 3x3 filter to t x t points.
    unsafe fn filter<V: Words>(g: impl Source<V>, u: impl Sink<V>);
    /// From t x t pixels to as many points.
    unsafe fn input<V: Words>(d: impl Source<V>, v: impl Sink<V>);
    /// From t x t points to m x m pixels, s^2 times too large.
    unsafe fn output<V: Longs>(m: impl Source<V>, y: impl Sink<V>);

    /// `input` of one row or column of a tile, partial or whole: from as many pixels to `n` points. Takes all before it
    /// gives any.
    unsafe fn input_side<V: Words>(n: usize, d: impl Fn(usize) -> V, v: impl Fn(usize, V)) {
        let _ = (n, d, v);
        unreachable!("{:?} has no partial tiles", Self::VARIANT)
    }
    /// `output` of the same: from `n` points to fewer pixels.
    unsafe fn output_side<V: Longs>(n: usize, m: impl Fn(usize) -> V, y: impl Fn(usize, V)) {
        let _ = (n, m, y);
        unreachable!("{:?} has no partial tiles", Self::VARIANT)
    }
}

/// Rows and columns of the largest tile.
const T: usize = Variant::F4.t();

/// `input` of a tile that has `rows` rows and `columns` columns, which are as many points: its columns, then their rows.
///
/// # Safety
/// As [`Transform`].
#[inline(always)]
unsafe fn partial_input<F: Transform, V: Words>(
    d: Grid<*const u8>,
    [rows, columns]: [usize; 2],
    v: Grid<*mut i16>,
) {
    let pixel = |i: usize, j: usize| {
        // SAFETY: the caller's: the tile has this pixel.
        unsafe { d.get(i.min(rows - 1), j.min(columns - 1)) }
    };
    let mut tile: [[V; T]; T] = from_fn(|i| from_fn(|j| pixel(i, j)));
    let start = tile.as_mut_ptr().cast::<V>();
    for (n, row, count, column) in [(rows, T, columns, 1), (columns, 1, rows, T)] {
        for k in 0..count {
            let at = |i: usize| start.wrapping_add(i * row + k * column);
            // SAFETY: the caller's; places are within `tile`.
            unsafe { F::input_side(n, |i| at(i).read(), |i, x: V| at(i).write(x)) }
        }
    }
    for i in 0..rows {
        // SAFETY: the caller's.
        unsafe { v.put(i, tile[i]) }
    }
}

/// `output` of a tile that is taken at `rows` rows and `columns` columns of points, and has `height` rows: its columns,
/// then their rows.
///
/// # Safety
/// As [`Transform`].
#[inline(always)]
unsafe fn partial_output<F: Transform, V: Longs>(
    m: Grid<*const i32>,
    [rows, columns]: [usize; 2],
    height: usize,
    y: impl Sink<V>,
) {
    const M: usize = Variant::F4.m();
    let product = |i: usize, j: usize| {
        // SAFETY: the caller's: M has this point.
        unsafe { m.get(i.min(rows - 1), j.min(columns - 1)) }
    };
    let mut tile: [[V; T]; T] = from_fn(|i| from_fn(|j| product(i, j)));
    let start = tile.as_mut_ptr().cast::<V>();
    for (n, row, count, column) in [(rows, T, columns, 1), (columns, 1, height, T)] {
        for k in 0..count {
            let at = |i: usize| start.wrapping_add(i * row + k * column);
            // SAFETY: the caller's; places are within `tile`.
            unsafe { F::output_side(n, |i| at(i).read(), |i, x: V| at(i).write(x)) }
        }
    }
    for i in 0..height {
        // SAFETY: the caller's.
        unsafe { y.put::<M>(i, from_fn(|j| tile[i][j])) }
    }
}

/// The points of a transformed tile.
#[inline(always)]
fn points<F: Transform, P>(start: P, point_stride: usize) -> Grid<P> {
    Grid { start, row_stride: F::VARIANT.t() * point_stride, column_stride: point_stride }
}

/// # Safety
/// As [`transform_filter_raw`](super::Kernel::transform_filter_raw) and [`Words`].
#[inline(always)]
pub(super) unsafe fn transform_filter<F: Transform, V: Words>(args: &FilterArgs) {
    /// Weights of a block of input channels at one tap, and at one point.
    const TAP: usize = C_BLOCK * OC_PANEL;
    for block in 0..args.nb_blocks {
        for at in (0..TAP).step_by(V::LANES) {
            // SAFETY: within the block of `src`, and within `nb_blocks * 256` of each point.
            unsafe {
                let start = args.src.add(block * 9 * TAP + at);
                let g = Grid { start, row_stride: 3 * TAP, column_stride: TAP };
                let dst = args.dst.add(block * TAP + at);
                F::filter::<V>(g, points::<F, _>(dst, args.point_stride));
            }
        }
    }
}

/// Elements of the largest tile.
const TILE_LEN: usize = Variant::F4.nb_points() * C_BLOCK;

/// # Safety
/// As [`transform_input_raw`](super::Kernel::transform_input_raw) and [`Words`].
#[inline(always)]
pub(super) unsafe fn transform_input<F: Transform, V: Words>(args: &InputArgs) {
    let t = F::VARIANT.t();
    let mut whole = [0u8; TILE_LEN];
    for block in 0..args.nb_blocks {
        for index in 0..args.nb_tiles {
            // SAFETY: addresses are those of the contract.
            unsafe {
                let tile = &*args.tiles.add(index);
                let start = args.src.add(tile.src as usize + block * args.plane_stride);
                let mut src = Grid { start, row_stride: args.row_stride, column_stride: C_BLOCK };
                let is_whole = tile.src_extent == [t as u8; 2];
                if !is_whole && !F::HAS_PARTIAL {
                    src = copy_existing(src, tile.src_extent, t, &mut whole);
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

/// Copies what exists of a tile. What does not only reaches pixels that do not exist either, so that
/// `whole` may hold anything there.
///
/// # Safety
/// The pixels within `extent` are readable.
#[inline(always)]
unsafe fn copy_existing(
    src: Grid<*const u8>,
    extent: [u8; 2],
    t: usize,
    whole: &mut [u8; TILE_LEN],
) -> Grid<*const u8> {
    let [rows, columns] = extent.map(usize::from);
    for (i, row) in whole.chunks_exact_mut(t * C_BLOCK).take(rows).enumerate() {
        // SAFETY: the caller's: a row's pixels are contiguous; `whole` is a local of this thread.
        unsafe {
            let from = src.start.add(src.offset(i, 0));
            from.copy_to_nonoverlapping(row.as_mut_ptr(), columns * C_BLOCK);
        }
    }
    Grid { start: whole.as_ptr(), row_stride: t * C_BLOCK, column_stride: C_BLOCK }
}

/// # Safety
/// As [`transform_output_raw`](super::Kernel::transform_output_raw) and [`Longs`].
#[inline(always)]
pub(super) unsafe fn transform_output<F: Transform, V: Longs>(args: &OutputArgs) {
    for index in 0..args.nb_tiles {
        for half in 0..args.requant.dst.nb_halves() {
            // SAFETY: addresses are those of the contract.
            unsafe {
                let src = args.src.add(index * OC_PANEL + half * HALF);
                let m = points::<F, _>(src, args.point_stride);
                let (tile, variant) = (&*args.tiles.add(index), F::VARIANT);
                let bias = V::load(args.bias.add(half * HALF));
                if tile.dst_extent == [variant.m() as u8; 2] {
                    let whole = Epilogue::<V, true> { args, tile, variant, half, bias };
                    F::output::<V>(m, whole);
                    continue;
                }
                let partial = Epilogue::<V, false> { args, tile, variant, half, bias };
                if F::HAS_PARTIAL {
                    let [h, w] = tile.dst_extent.map(usize::from);
                    let taken = [h, w].map(|extent| variant.tile().points(extent));
                    partial_output::<F, V>(m, taken, h, partial);
                } else {
                    F::output::<V>(m, partial);
                }
            }
        }
    }
}
