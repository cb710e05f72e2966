//! The products between the transforms: per point, a matrix product of T tiles by 16 channels, of 16-bit
//! numbers in pairs of input channels, summed modulo 2^32.
//!
//! ```text
//! for each point p:
//!     for each tile t:
//!         acc[0..16] = first ? 0 : M[p][t]
//!         for each block b of 16 input channels, for i in 0..8:
//!             for o in 0..16:
//!                 acc[o] += V[p][b][t][2i] * U[p][8b + i][o][0] + V[p][b][t][2i + 1] * U[p][8b + i][o][1]
//!         M[p][t] = acc
//! ```

#[cfg(target_arch = "x86_64")]
pub mod avx2;
pub mod portable;

pub use crate::winograd::multiply::{MR, row_tiles};

/// Arguments of `multiply`. Lengths and strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct MultiplyArgs {
    /// Points, t^2.
    pub nb_points: usize,
    /// `V[nb_points][nb_blocks][nb_tiles][16]`.
    pub v: *const i16,
    /// Distance of points in `v`.
    pub v_point_stride: usize,
    /// Distance of blocks of 16 channels in `v`.
    pub v_block_stride: usize,
    /// Tiles.
    pub nb_tiles: usize,
    /// Blocks of 16 input channels of this chunk.
    pub nb_blocks: usize,
    /// `U[nb_points][8 * nb_blocks][16][2]`, 32-byte aligned.
    pub u: *const i16,
    /// Distance of points in `u`, a multiple of 16.
    pub u_point_stride: usize,
    /// `M[nb_points][nb_tiles][16]`, 32-byte aligned.
    pub m: *mut i32,
    /// Distance of points in `m`, a multiple of 8.
    pub m_point_stride: usize,
    /// Whether this is the first chunk: start from zero, not from what `m` holds.
    pub first: bool,
    /// What to prefetch, 36 lines of 64 bytes per block: the packed filters of the next chunk; any
    /// address.
    pub next: *const i8,
}
