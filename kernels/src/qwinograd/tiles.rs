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
pub(super) struct Grid<P> {
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

/// The end of one output tile, for half a panel.
#[derive(Clone, Copy)]
struct Epilogue<'a, V> {
    args: &'a OutputArgs,
    tile: &'a Tile,
    variant: Variant,
    half: usize,
    bias: V,
}

impl<V: Longs> Epilogue<'_, V> {
    /// Finishes the first `K` pixels of row `i`, from the convolution's sums.
    ///
    /// # Safety
    /// The tile has them; as [`transform_output_raw`](super::Kernel::transform_output_raw).
    #[inline(always)]
    unsafe fn finish<const K: usize, const N: usize>(&self, i: usize, sums: [V; N]) {
        let OutputArgs { requant, dst_row_stride, res_row_stride, .. } = self.args;
        let step = match requant.dst {
            Dst::U8 { .. } => C_BLOCK,
            Dst::F32 { .. } => C_BLOCK_F32,
        };
        let dst = self.tile.dst as usize + i * dst_row_stride;
        let res = self.tile.res as usize + i * res_row_stride;
        // SAFETY: the caller's; `K <= N`.
        unsafe {
            let sums: [V; K] = from_fn(|j| sums[j]);
            let (dst, res) = (from_fn(|j| dst + j * step), from_fn(|j| res + j * C_BLOCK));
            V::requantize(sums, requant, self.half, dst, res);
        }
    }
}

impl<V: Longs> Sink<V> for Epilogue<'_, V> {
    /// Divides by the transforms' scale; see the module above.
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, i: usize, row: [V; N]) {
        let [rows, columns] = self.tile.dst_extent.map(usize::from);
        if i >= rows {
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
            match columns {
                _ if columns == N => self.finish::<N, N>(i, sums),
                3 => self.finish::<3, N>(i, sums),
                2 => self.finish::<2, N>(i, sums),
                _ => self.finish::<1, N>(i, sums),
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

    /// From a 3x3 filter to t x t points.
    unsafe fn filter<V: Words>(g: impl Source<V>, u: impl Sink<V>);
    /// From t x t pixels to as many points.
    unsafe fn input<V: Words>(d: impl Source<V>, v: impl Sink<V>);
    /// From t x t points to m x m pixels, s^2 times too large.
    unsafe fn output<V: Longs>(m: impl Source<V>, y: impl Sink<V>);

    /// `input` of a tile that has `extent` rows and columns: from them to all points at which it is taken, and to
    /// others. What does not exist only reaches pixels that do not exist either.
    #[inline(always)]
    unsafe fn partial_input<V: Words>(d: Grid<*const u8>, extent: [usize; 2], v: impl Sink<V>) {
        let mut whole = [0u8; TILE_LEN];
        let row_stride = Self::VARIANT.t() * C_BLOCK;
        // SAFETY: the caller's; `whole` is a local of this thread.
        unsafe {
            for (i, row) in whole.chunks_exact_mut(row_stride).take(extent[0]).enumerate() {
                for (j, pixel) in row.chunks_exact_mut(C_BLOCK).take(extent[1]).enumerate() {
                    let from = d.start.add(d.offset(i, j));
                    from.copy_to_nonoverlapping(pixel.as_mut_ptr(), V::LANES);
                }
            }
            let start = whole.as_ptr();
            Self::input(Grid { start, row_stride, column_stride: C_BLOCK }, v);
        }
    }

    /// `output` of a tile that is taken at `points` rows and columns: all pixels that it has, and others.
    #[inline(always)]
    unsafe fn partial_output<V: Longs>(m: impl Source<V>, points: [usize; 2], y: impl Sink<V>) {
        debug_assert_eq!(points, [Self::VARIANT.t(); 2]);
        // SAFETY: the caller's.
        unsafe { Self::output(m, y) }
    }
}

/// Bytes of the largest tile.
const TILE_LEN: usize = Variant::F4.nb_points() * C_BLOCK;

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

/// # Safety
/// As [`transform_input_raw`](super::Kernel::transform_input_raw) and [`Words`].
#[inline(always)]
pub(super) unsafe fn transform_input<F: Transform, V: Words>(args: &InputArgs) {
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
/// As [`transform_output_raw`](super::Kernel::transform_output_raw) and [`Longs`].
#[inline(always)]
pub(super) unsafe fn transform_output<F: Transform, V: Longs>(args: &OutputArgs) {
    for index in 0..args.nb_tiles {
        for half in 0..args.requant.dst.nb_halves() {
            // SAFETY: addresses are those of the contract.
            unsafe {
                let src = args.src.add(index * OC_PANEL + half * HALF);
                let tile = &*args.tiles.add(index);
                let bias = V::load(args.bias.add(half * HALF));
                let epilogue = Epilogue { args, tile, variant: F::VARIANT, half, bias };
                let src = points::<F, _>(src, args.point_stride);
                if tile.dst_extent == [F::VARIANT.m() as u8; 2] {
                    F::output::<V>(src, epilogue);
                } else {
                    let points = |extent| F::VARIANT.tile().points(usize::from(extent));
                    F::partial_output::<V>(src, tile.dst_extent.map(points), epilogue);
                }
            }
        }
    }
}
