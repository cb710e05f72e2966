//! The products between the transforms: per point, a matrix product of T tiles by 16 channels.
//!
//! ```text
//! for each point p:
//!     for each tile t that is taken at p:
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

use std::ops::Range;

/// Tallest register tile, in tiles.
pub const MR: usize = 6;

/// Tiles one after the other, in an order in which those that are taken at any point follow each other.
#[derive(Clone, Copy, Debug)]
pub struct TileRun {
    /// First, tiles that have fewer rows of output than m, and all columns.
    pub bottom: usize,
    /// Whole tiles.
    pub whole: usize,
    /// Tiles that have fewer columns.
    pub right: usize,
    /// Tiles that have fewer rows and columns.
    pub corner: usize,
    /// Rows and columns of points at which those are taken that have fewer rows, or columns.
    pub points: [usize; 2],
}

impl TileRun {
    /// Tiles that are taken at all points.
    pub const fn whole(nb_tiles: usize) -> Self {
        Self { bottom: 0, whole: nb_tiles, right: 0, corner: 0, points: [0; 2] }
    }

    /// Number of tiles.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub const fn len(&self) -> usize {
        self.bottom + self.whole + self.right + self.corner
    }

    /// The tiles that are taken at the point in row `i` and column `j`.
    pub const fn at(&self, i: usize, j: usize) -> Range<usize> {
        let (all_rows, all_columns) = (i < self.points[0], j < self.points[1]);
        let start = if all_rows { 0 } else { self.bottom };
        let end = match (all_rows, all_columns) {
            (true, true) => self.len(),
            (false, true) => self.len() - self.corner,
            (_, false) => self.bottom + self.whole,
        };
        start..end
    }
}

/// Arguments of `multiply`. Lengths and strides are in elements; a block is 8 input channels.
#[derive(Clone, Copy, Debug)]
pub struct MultiplyArgs<U = f32, M = f32> {
    /// t: rows and columns of points.
    pub t: usize,
    /// `V[t^2][nb_blocks][tiles][block]`.
    pub v: *const U,
    /// Distance of points in `v`.
    pub v_point_stride: usize,
    /// Distance of blocks of channels in `v`.
    pub v_block_stride: usize,
    /// Tiles.
    pub tiles: TileRun,
    /// Blocks of input channels of this chunk.
    pub nb_blocks: usize,
    /// `U[t^2][nb_blocks][block][16]`, 32-byte aligned.
    pub u: *const U,
    /// Distance of points in `u`, a multiple of 32 bytes.
    pub u_point_stride: usize,
    /// `M[t^2][tiles][16]`, 32-byte aligned.
    pub m: *mut M,
    /// Distance of points in `m`, a multiple of 32 bytes.
    pub m_point_stride: usize,
    /// Whether this is the first chunk: start from zero, not from what `m` holds.
    pub first: bool,
    /// What to prefetch, as many bytes as the blocks' packed filters: those of the next chunk; any
    /// address.
    pub next: *const u8,
}

impl<U, M> MultiplyArgs<U, M> {
    /// All points: each one's place, and the tiles that are taken there.
    pub(crate) fn points(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let (t, tiles) = (self.t, self.tiles);
        (0..t).flat_map(move |i| (0..t).map(move |j| (i * t + j, tiles.at(i, j))))
    }
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
