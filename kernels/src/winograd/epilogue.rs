//! What follows the output transform: bias, residual, clamp, store.

use super::tiles::{Grid, Sink};
use super::vector::Vector;
use super::{OutputArgs, Tile};
use crate::layout::C_BLOCK;

/// The end of one output tile, for the channels of a vector; `RESIDUAL` where there may be one.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<V, const RESIDUAL: bool> {
    bias: V,
    min: V,
    max: V,
    dst: *mut f32,
    dst_row_stride: usize,
    /// Or null.
    residual: *const f32,
    res_row_stride: usize,
}

impl<V: Vector, const RESIDUAL: bool> Epilogue<V, RESIDUAL> {
    /// # Safety
    /// As [`transform_output_raw`](super::Kernel::transform_output_raw) and [`Vector`];
    /// `lane < 8 * nb_blocks`, and there is no residual unless `RESIDUAL`.
    #[inline(always)]
    pub(super) unsafe fn new(args: &OutputArgs, tile: &Tile, lane: usize) -> Self {
        let (block, lane) = (lane / C_BLOCK, lane % C_BLOCK);
        // SAFETY: addresses within the tile's corner pixel, and within the biases.
        unsafe {
            Self {
                bias: V::load(args.bias.add(block * C_BLOCK + lane)),
                min: V::splat(args.clamp[0]),
                max: V::splat(args.clamp[1]),
                dst: args.dst.add(tile.dst as usize + block * args.dst_block_stride + lane),
                dst_row_stride: args.dst_row_stride,
                residual: if RESIDUAL && !args.residual.is_null() {
                    args.residual.add(tile.res as usize + block * args.res_block_stride + lane)
                } else {
                    std::ptr::null()
                },
                res_row_stride: args.res_row_stride,
            }
        }
    }

    /// Finishes the pixel at row `i` and column `j` of the tile.
    ///
    /// # Safety
    /// As [`Self::new`], and the tile has that pixel.
    #[inline(always)]
    pub(super) unsafe fn store(&self, i: usize, j: usize, y: V) {
        // SAFETY: the caller's.
        unsafe {
            let mut y = y.add(self.bias);
            if RESIDUAL && !self.residual.is_null() {
                y = y.add(V::load(self.residual.add(i * self.res_row_stride + j * C_BLOCK)));
            }
            let dst = self.dst.add(i * self.dst_row_stride + j * C_BLOCK);
            y.clamp(self.min, self.max).store(dst);
        }
    }

    /// Finishes the pixels that `tile` has, of the whole tile `y`.
    ///
    /// # Safety
    /// As [`Self::new`], for this tile; `y` is readable.
    #[inline(always)]
    pub(super) unsafe fn store_extent(&self, tile: &Tile, y: Grid<*const f32>) {
        for i in 0..usize::from(tile.dst_extent[0]) {
            for j in 0..usize::from(tile.dst_extent[1]) {
                // SAFETY: the caller's.
                unsafe { self.store(i, j, y.load(i, j)) }
            }
        }
    }
}

impl<V: Vector, const RESIDUAL: bool> Sink<V> for Epilogue<V, RESIDUAL> {
    #[inline(always)]
    unsafe fn put<const N: usize>(&self, i: usize, row: [V; N]) {
        for (j, y) in row.into_iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { self.store(i, j, y) }
        }
    }
}
