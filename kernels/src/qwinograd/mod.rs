//! `qwinograd`: minimal filtering F(m x m, 3 x 3) on integers, exact to the bit.
//!
//! The arithmetic is that of [`winograd`], with matrices of integers: points 0, 1, -1
//! (F(2x2)), 2, -2 (F(4x4)) and infinity. The denominators of `A`, `B` and `G` are multiplied out,
//! s = 2 and 24 per side, so that what the output transform finds is `s^2` times the convolution:
//!
//! ```text
//! s^2 Y = A^T ( sum over ic of (G g G^T) * (B^T d B) ) A         s^2 = 4 or 576 = 64 * 9
//!                              \___U___/   \___V___/
//! ```
//!
//! # Exactness
//! `U` and `V` fit 16 bits for all weights in -128..=127 and all activations in 0..=255: their magnitudes are at most
//! 18,432 and 17,340 (F(2x2): 1,152 and 1,020). Their products are summed and transformed modulo 2^32, where sums, differences
//! and products with integers are exact, whatever overflows on the way. So is division by 9: 9 is odd, and a
//! factor of the exact value, so multiplying with its inverse modulo 2^32 divides. What is left is a power of two
//! times the convolution, modulo 2^32: the number itself if it fits, and then a shift ends it. For F(4x4)
//! that is 64 times a sum of `ic * 9` terms, which the weights [bound](certified) for all inputs:
//! sums below 2^25 = 33,554,432 are right (2^29 for F(2x2)).
//!
//! # Memory
//! ```text
//! d: u8,  nChw16c, framed          activations, as they are: a zero point belongs to the bias
//! g: i8,  OIhw8i16o2i              filters
//! U: i16, [t^2][ic/2][16 oc][2 ic] transformed filters of a panel     transform_filter
//! V: i16, [t^2][ic/16][T][16]      transformed input of T tiles       transform_input
//! M: i32, [t^2][T][16]             their products, of a panel         multiply
//! y: u8,  nChw16c (or f32, nChw8c)                                    transform_output
//! ```
//! Each of U, V and M has a stride between points that the caller chooses; it should be an odd number of cache lines:
//! [`point_stride`]. Partial tiles of F(4x4) are taken at fewer points, as in [`winograd`](winograd#partial-tiles): the
//! products of p - q that go into their `A^T` are integers, and s is the same.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
mod bounds;
mod f2x2_3x3;
mod f4x4_3x3;
pub mod multiply;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod pack;
pub mod portable;
pub mod reference;
mod tiles;
mod vector;

use crate::isa::Isa;
use crate::requant::Requant;
use crate::winograd;
pub use crate::winograd::{Tile, TileRun, point_stride};
pub use bounds::certified;

/// Size of the output tile: those of [`winograd::Variant`] whose integers fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// F(2x2, 3x3).
    F2,
    /// F(4x4, 3x3).
    F4,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::F2, Self::F4];

    /// The same tile in any arithmetic.
    pub const fn tile(self) -> winograd::Variant {
        match self {
            Self::F2 => winograd::Variant::F2,
            Self::F4 => winograd::Variant::F4,
        }
    }

    /// The variant of a tile, if there is one.
    pub fn of(tile: winograd::Variant) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.tile() == tile)
    }

    /// m: rows and columns of an output tile.
    pub const fn m(self) -> usize {
        self.tile().m()
    }

    /// t: rows and columns of an input tile.
    pub const fn t(self) -> usize {
        self.tile().t()
    }

    /// Points of the plane at which products are taken: t^2.
    pub const fn nb_points(self) -> usize {
        self.tile().nb_points()
    }
}

/// Arguments of `transform_filter`: a block is 16 input channels, in pairs, `[8][16 oc][2 ic]`.
pub type FilterArgs = crate::winograd::FilterArgs<i8, i16>;
/// Arguments of `transform_input`: a block is 16 channels, activations are `nChw16c`.
pub type InputArgs = crate::winograd::InputArgs<u8, i16>;
/// Arguments of `multiply`: a block is 16 input channels, in U in pairs, `[8][16 oc][2 ic]`.
pub type MultiplyArgs = crate::winograd::MultiplyArgs<i16, i32>;

/// Arguments of `transform_output`. Lengths and strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct OutputArgs {
    /// `M[t^2][nb_tiles][16]`, 32-byte aligned.
    pub src: *const i32,
    /// Distance of the points in `src`, a multiple of 8.
    pub point_stride: usize,
    /// The tiles.
    pub tiles: *const Tile,
    /// Number of tiles.
    pub nb_tiles: usize,
    /// What is added to the 16 sums of a pixel, the input's zero point included.
    pub bias: *const i32,
    /// What becomes of the sums.
    pub requant: Requant,
    /// Distance of rows in the destination.
    pub dst_row_stride: usize,
    /// Distance of rows in the residual, if there is one.
    pub res_row_stride: usize,
}

/// The three transforms of one variant, and the products between them, on one tier.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// `"{isa}-{op}-{tile}"`.
    pub name: &'static str,
    /// The tier its instructions need.
    pub isa: Isa,
    /// Size of the tile.
    pub variant: Variant,
    pub(crate) filter: unsafe fn(&FilterArgs),
    pub(crate) input: unsafe fn(&InputArgs),
    pub(crate) output: unsafe fn(&OutputArgs),
    pub(crate) multiply: unsafe fn(&MultiplyArgs),
}

impl Kernel {
    /// `U = G g G^T` for all channels.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - `src` is readable for `nb_blocks * 9 * 256` elements.
    /// - For all points p: `nb_blocks * 256` elements at `dst + p * point_stride` are writable, and
    ///   no other thread accesses them during the call. `dst` has the documented alignment.
    #[inline]
    pub unsafe fn transform_filter_raw(&self, args: &FilterArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.filter)(args) }
    }

    /// `V = B^T d B` for all tiles and channels. What V holds of a partial tile at points at which it is not taken
    /// means nothing.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - For all tiles, blocks b, and rows i and columns j within `src_extent`: 16 elements at
    ///   `src + tile.src + b * plane_stride + i * row_stride + 16 * j` are readable.
    /// - Extents of F(4x4) are 3 to t: those of [`winograd::Variant::reach`].
    /// - For all points p, blocks b and tiles t: 16 elements at
    ///   `dst + p * point_stride + b * block_stride + 16 * t` are writable, and no other thread
    ///   accesses them during the call. `dst` and strides have the documented alignment.
    /// - `tiles` is readable for `nb_tiles`, with extents in their ranges.
    #[inline]
    pub unsafe fn transform_input_raw(&self, args: &InputArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.input)(args) }
    }

    /// `y = requantize(A^T M A / s^2 + bias)` for all tiles.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - For all points p: `nb_tiles * 16` elements at `src + p * point_stride` are readable, and 16
    ///   of `bias`. `src` and strides have the documented alignment.
    /// - For all tiles, rows i and columns j within `dst_extent`, and halves that the destination has: what
    ///   [`store`](crate::requant::portable::store) needs for the pixel at `tile.dst + i * dst_row_stride + c * j`,
    ///   where c is 16 in a u8 destination and 8 in one of f32, and for the residual's at
    ///   `tile.res + i * res_row_stride + 16 * j`. No other thread writes them during the call.
    /// - `tiles` is readable for `nb_tiles`, with extents in their ranges.
    #[inline]
    pub unsafe fn transform_output_raw(&self, args: &OutputArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.output)(args) }
    }

    /// `M += V * U` for all points, over a chunk of input channels.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - For all points p: `nb_blocks * 256` elements at `u + p * u_point_stride` are readable, and
    ///   for all blocks b `nb_tiles * 16` at `v + p * v_point_stride + b * v_block_stride`.
    /// - For all points p: `nb_tiles * 16` elements at `m + p * m_point_stride` are readable and
    ///   writable, and no other thread accesses them during the call. Alignment is as documented.
    #[inline]
    pub unsafe fn multiply_raw(&self, args: &MultiplyArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.multiply)(args) }
    }
}
