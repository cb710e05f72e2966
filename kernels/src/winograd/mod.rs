//! `winograd`: minimal filtering F(m x m, 3 x 3) for 3x3 convolutions.
//!
//! An output tile `Y` of m x m pixels comes from an input tile `d` of t x t, t = m + 2 for stride 1:
//!
//! ```text
//! Y = A^T ( sum over ic of (G g G^T) * (B^T d B) ) A         `*` is element by element
//!         \______________  __________________/
//!                        \/    t^2 independent products over ic: a batch of t^2 matrix products
//! ```
//!
//! so an output pixel costs t^2/m^2 multiplications per input channel in place of 9: 4 for m = 2,
//! 2.25 for m = 4 and 1.78 for m = 6 (Winograd 1980; Lavin and Gray, arXiv 1509.09308).
//!
//! # The matrices
//! A row of a correlation, `y[i] = sum over j of g[j] d[i + j]`, is the transpose of the product of
//! polynomials g (degree 2) and h (degree m - 1). That product has degree t - 2 + 1, so its values
//! at t - 1 points and at infinity (its leading coefficient) determine it: evaluate both factors
//! (`G` and `A`, Vandermonde matrices), multiply, interpolate (Lagrange, whose transpose is `B^T`).
//! With `N_p` the product of p - q over the other finite points q:
//!
//! ```text
//! G[p]   = [1, p, p^2]                           G[inf]      = [0, 0, 1]
//! B^T[p] = coefficients of prod (x - q), q != p  B^T[inf]    = coefficients of prod (x - q)
//! A^T[i][p] = p^i / N_p                          A^T[i][inf] = (i == m - 1)
//! ```
//!
//! `1 / N_p` may go with any of the three. F(2x2) leaves it in `A^T`, whose entries are multiplied
//! by a constant anyway; F(4x4) and F(6x6) move it to `G[p]`, where pairs of points share a term of it.
//!
//! # The points, and the error
//! F(2x2) takes 0, 1, -1: all constants are powers of two. F(4x4) takes 0, +-1/sqrt(2), +-sqrt(2):
//! their even parts (p^2 = 1/2 and 2, whose product is 1) are exact, and products of inputs and filters at
//! the four points have a similar size, so that less cancels in `A^T`. With ReLU-like inputs and
//! 256 channels the largest error over the largest output is 2e-6, a quarter of what 0, +-1, +-2
//! gives; a direct sum has 5e-7, F(2x2) 6e-7. F(6x6) takes 0, +-1, +-2, +-1/2 and has 1.3e-5: closer points,
//! or points with roots, are worse.
//!
//! # Stride 2
//! F(2x2, 3x3) of stride 2 has tiles of 5 x 5 and costs 6.25 multiplications per output pixel in place of 9: the even
//! rows of an image, and of the filter, are a convolution of stride 1 that F(2, 2) computes with 3 multiplications
//! for 2 outputs, the odd ones one of a single tap; columns likewise. A single row or column of output takes 3.
//!
//! # Partial tiles
//! A tile at the bottom or the right end that has n < m rows or columns of output needs n + 2 points in that
//! direction. Any n + 2 do, infinity among them, so partial tiles of F(4x4) take the first ones of 0, infinity,
//! +-1/sqrt(2), +-sqrt(2), on the same filters: a value of `G` is off by the product of p - q over the points q that the
//! tile does not take, which goes into its `A^T`. 14 rows are 4 + 4 + 4 + 2 and cost 6 + 6 + 6 + 4 in place of 24, 7
//! rows 6 + 5 in place of 12: in both directions 16 % fewer products. So do those of stride 2 (below). Other variants
//! take partial tiles at all points, with zeros for what does not exist.
//!
//! # Memory
//! ```text
//! U[t^2][ic][16]        transformed filters of a panel       transform_filter, from OIhw8i16o
//! V[t^2][ic/8][T][8]    transformed input of T tiles         transform_input
//! M[t^2][T][16]         their products, of a panel           multiply
//! ```
//! Each has a stride between points that the caller chooses. A transform touches all points at once, so
//! that stride should be an odd number of cache lines: [`point_stride`].
//!
//! Nothing of the framed image or the output is read or written that a partial tile does not have. Each tile's arithmetic is the same wherever it
//! is and with whichever tiles it shares a call.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
mod epilogue;
mod f2x2_3x3;
mod f2x2_3x3_s2;
mod f4x4_3x3;
mod f6x6_3x3;
pub mod multiply;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;
pub mod reference;
mod tiles;
mod vector;

use half::f16;

use crate::isa::Isa;
pub use multiply::{MultiplyArgs, TileRun};

/// Size of the output tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// F(2x2, 3x3).
    F2,
    /// F(4x4, 3x3).
    F4,
    /// F(6x6, 3x3).
    F6,
    /// F(2x2, 3x3) of stride 2.
    F2S2,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F2, Self::F4, Self::F6, Self::F2S2];

    /// m: rows and columns of an output tile.
    pub const fn m(self) -> usize {
        match self {
            Self::F2 | Self::F2S2 => 2,
            Self::F4 => 4,
            Self::F6 => 6,
        }
    }

    /// The convolution's stride.
    pub const fn stride(self) -> usize {
        match self {
            Self::F2 | Self::F4 | Self::F6 => 1,
            Self::F2S2 => 2,
        }
    }

    /// t: rows and columns of an input tile.
    pub const fn t(self) -> usize {
        self.reach(self.m())
    }

    /// Rows or columns that the windows of `size` consecutive ones of the output reach.
    pub const fn reach(self, size: usize) -> usize {
        (size - 1) * self.stride() + 3
    }

    /// Points of the plane at which products are taken: t^2.
    pub const fn nb_points(self) -> usize {
        self.t() * self.t()
    }

    /// Rows or columns of points, the first ones, at which a tile is taken that has `extent` rows or columns of output,
    /// 1 to m; see [the module](self#partial-tiles).
    pub const fn points(self, extent: usize) -> usize {
        match self {
            Self::F4 | Self::F2S2 => self.reach(extent),
            Self::F2 | Self::F6 => self.t(),
        }
    }

    /// Name in plans and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F2 => "winograd-f2",
            Self::F4 => "winograd-f4",
            Self::F6 => "winograd-f6",
            Self::F2S2 => "winograd-s2-f2",
        }
    }
}

/// Elements of type `T` between two points' matrices of `len` elements: an odd number of 64-byte lines, so that
/// the t^2 lines that a transform touches together lie in different sets of the cache.
pub const fn point_stride<T>(len: usize) -> usize {
    let line = 64 / size_of::<T>();
    (len.div_ceil(line) | 1) * line
}

/// One tile: where it is in the source, the destination and the residual, and what of it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Offset of the input tile's corner in plane 0 of the source.
    pub src: u32,
    /// Offset of the output tile's corner in plane 0 of the destination.
    pub dst: u32,
    /// Offset of the output tile's corner in plane 0 of the residual.
    pub res: u32,
    /// Rows and columns of the input tile that the source has, 1 to t.
    pub src_extent: [u8; 2],
    /// Rows and columns of the output tile that the destination has, 1 to m.
    pub dst_extent: [u8; 2],
}

/// Arguments of `transform_filter`. Lengths and strides are in elements; a block is 8 input channels.
#[derive(Clone, Copy, Debug)]
pub struct FilterArgs<G = f32, U = f32> {
    /// Filters of a panel, `[nb_blocks][3][3][block][16 oc]`: a run of `OIhw8i16o`.
    pub src: *const G,
    /// Blocks of input channels.
    pub nb_blocks: usize,
    /// `U[t^2][nb_blocks][block][16]`, 32-byte aligned.
    pub dst: *mut U,
    /// Distance of the points in `dst`, a multiple of 32 bytes.
    pub point_stride: usize,
}

/// Arguments of `transform_input`. Lengths and strides are in elements; a block is 8 channels.
#[derive(Clone, Copy, Debug)]
pub struct InputArgs<D = f32, V = f32> {
    /// Source activations, `nChw8c`, framed.
    pub src: *const D,
    /// Distance of rows.
    pub row_stride: usize,
    /// Distance of blocks of channels.
    pub plane_stride: usize,
    /// Blocks of channels.
    pub nb_blocks: usize,
    /// The tiles.
    pub tiles: *const Tile,
    /// Number of tiles.
    pub nb_tiles: usize,
    /// `V[t^2][nb_blocks][nb_tiles][block]`, 32-byte aligned.
    pub dst: *mut V,
    /// Distance of blocks in `dst`, at least `nb_tiles` blocks of channels and a multiple of them.
    pub block_stride: usize,
    /// Distance of the points in `dst`, a multiple of 32 bytes.
    pub point_stride: usize,
}

/// Arguments of `transform_output`. Lengths and strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct OutputArgs {
    /// `M[t^2][nb_tiles][16]`, 32-byte aligned.
    pub src: *const f32,
    /// Distance of the points in `src`, a multiple of 8.
    pub point_stride: usize,
    /// The tiles.
    pub tiles: *const Tile,
    /// Number of tiles.
    pub nb_tiles: usize,
    /// 16 biases.
    pub bias: *const f32,
    /// Destination activations, `nChw8c`, from the panel's first block on.
    pub dst: *mut f32,
    /// Distance of rows in `dst`.
    pub dst_row_stride: usize,
    /// Distance of blocks of 8 channels in `dst`.
    pub dst_block_stride: usize,
    /// Blocks of 8 channels to store: 1 or 2.
    pub nb_blocks: usize,
    /// Activations added before the clamp, from the panel's first block on, or null.
    pub residual: *const f32,
    /// Distance of rows in `residual`.
    pub res_row_stride: usize,
    /// Distance of blocks of 8 channels in `residual`.
    pub res_block_stride: usize,
    /// Bounds of the result.
    pub clamp: [f32; 2],
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
    pub(crate) half_filter: unsafe fn(&FilterArgs<f16>),
    pub(crate) input: unsafe fn(&InputArgs),
    pub(crate) output: unsafe fn(&OutputArgs),
    pub(crate) multiply: unsafe fn(&MultiplyArgs),
}

impl Kernel {
    /// `U = G g G^T` for all channels.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - `src` is readable for `nb_blocks * 9 * 128` elements.
    /// - For all points p: `nb_blocks * 128` elements at `dst + p * point_stride` are writable, and
    ///   no other thread accesses them during the call. `dst` has the documented alignment.
    #[inline]
    pub unsafe fn transform_filter_raw(&self, args: &FilterArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.filter)(args) }
    }

    /// The same from filters in IEEE half, widened as they are loaded.
    ///
    /// # Safety
    /// As [`Self::transform_filter_raw`].
    #[inline]
    pub unsafe fn transform_half_filter_raw(&self, args: &FilterArgs<f16>) {
        // SAFETY: passed on to the caller.
        unsafe { (self.half_filter)(args) }
    }

    /// `V = B^T d B` for all tiles and channels. What V holds of a partial tile at points at which it is not taken
    /// means nothing.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - For all tiles, blocks b, and rows i and columns j within `src_extent`: 8 elements at
    ///   `src + tile.src + b * plane_stride + i * row_stride + 8 * j` are readable.
    /// - Extents of variants with partial tiles are those of [`Variant::reach`].
    /// - For all points p, blocks b and tiles t: 8 elements at
    ///   `dst + p * point_stride + b * block_stride + 8 * t` are writable, and no other thread
    ///   accesses them during the call. `dst` and strides have the documented alignment.
    /// - `tiles` is readable for `nb_tiles`, with extents in their ranges.
    #[inline]
    pub unsafe fn transform_input_raw(&self, args: &InputArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.input)(args) }
    }

    /// `Y = clamp(A^T M A + bias + residual)` for all tiles.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - For all points p: `nb_tiles * 16` elements at `src + p * point_stride` are readable, and 16
    ///   of `bias`. `src` and strides have the documented alignment.
    /// - For all tiles, blocks b < `nb_blocks`, and rows i and columns j within `dst_extent`: 8 elements at
    ///   `dst + tile.dst + b * dst_block_stride + i * dst_row_stride + 8 * j` are writable, and no
    ///   other thread accesses them during the call; likewise readable in a non-null `residual`.
    /// - `tiles` is readable for `nb_tiles`, with extents in their ranges.
    #[inline]
    pub unsafe fn transform_output_raw(&self, args: &OutputArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.output)(args) }
    }

    /// `M += V * U` for all points and the tiles that are taken there, over a chunk of input channels.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - For all points p: `nb_blocks * 128` elements at `u + p * u_point_stride` are readable, and
    ///   for all blocks b `tiles.len() * 8` at `v + p * v_point_stride + b * v_block_stride`.
    /// - For all points p: `tiles.len() * 16` elements at `m + p * m_point_stride` are readable and
    ///   writable, and no other thread accesses them during the call. Alignment is as documented.
    #[inline]
    pub unsafe fn multiply_raw(&self, args: &MultiplyArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.multiply)(args) }
    }
}
