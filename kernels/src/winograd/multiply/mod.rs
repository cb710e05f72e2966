//! The products between the transforms: per point, a matrix product of T tiles by 16 channels.
//!
//! ```text
//! for each point p:
//!     for each tile t:
//!         acc[0..16] = first ? 0 : M[p][t]
//!         for each block b of 8 input channels, for i in 0..8:
//!             acc[0..16] += V[p][b][t][i] * U[p][8b + i][0..16]
//!         M[p][t] = acc
//! ```
//!
//! `sconv` without its tables: tiles lie one after the other, so that one address and constants reach
//! all rows of a register tile, and the filters' next chunk is fetched meanwhile, a few lines per
//! block. Sums run over channels in order for every height of a register tile.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;

/// Tallest register tile, in tiles.
pub const MR: usize = 6;

/// Arguments of `multiply`. Lengths and strides are in elements; a block is 8 input channels.
#[derive(Clone, Copy, Debug)]
pub struct MultiplyArgs<U = f32, M = f32> {
    /// Points, t^2.
    pub nb_points: usize,
    /// `V[nb_points][nb_blocks][nb_tiles][block]`.
    pub v: *const U,
    /// Distance of points in `v`.
    pub v_point_stride: usize,
    /// Distance of blocks of channels in `v`.
    pub v_block_stride: usize,
    /// Tiles.
    pub nb_tiles: usize,
    /// Blocks of input channels of this chunk.
    pub nb_blocks: usize,
    /// `U[nb_points][nb_blocks][block][16]`, 32-byte aligned.
    pub u: *const U,
    /// Distance of points in `u`, a multiple of 32 bytes.
    pub u_point_stride: usize,
    /// `M[nb_points][nb_tiles][16]`, 32-byte aligned.
    pub m: *mut M,
    /// Distance of points in `m`, a multiple of 32 bytes.
    pub m_point_stride: usize,
    /// Whether this is the first chunk: start from zero, not from what `m` holds.
    pub first: bool,
    /// What to prefetch, as many bytes as the blocks' packed filters: those of the next chunk; any
    /// address.
    pub next: *const u8,
}

/// Divides tiles into as few register tiles as possible, as even as possible: heights from 4 up hide
/// the FMA's latency (12 accumulators best), and no remainder is thin. Returns how many have
/// which height, and how many are one less.
pub const fn row_tiles(nb_tiles: usize) -> (usize, usize, usize) {
    let count = nb_tiles.div_ceil(MR);
    if count == 0 {
        return (0, 1, 0);
    }
    let (height, taller) = (nb_tiles / count, nb_tiles % count);
    (taller, height + 1, count - taller)
}
