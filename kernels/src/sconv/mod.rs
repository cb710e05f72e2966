//! `sconv` and `hconv`: f32 convolution as a matrix product without a materialised patch matrix, with
//! weights in f32 (`sconv`) or IEEE half (`hconv`), which a kernel widens as it loads them.
//!
//! A micro-kernel computes a run of output pixels of one panel of 16 output channels:
//!
//! ```text
//! for each pixel m:
//!     acc[0..16] = bias                                  (or start[m], where there is a start)
//!     for each tap t:                                    taps address the window and the channels
//!         for k in 0..tap_len:
//!             acc[0..16] += src[src_pixels[m] + taps[t] + k] * weights[(t*tap_len + k)*16 ..][0..16]
//!     sums[m] = acc                                      (if sums are kept)
//!     dst[dst_pixels[m] + b*dst_block_stride ..][0..8] = (if there is a destination)
//!         clamp(acc[8b..8b+8] + addend[m][8b..8b+8]
//!               + residual[res_pixels[m] + b*res_block_stride ..][0..8])
//! ```
//!
//! Sums are kept from one k-chunk to the next, and where one product is part of several results
//! ([`strassen`](crate::strassen)).
//!
//! That one loop nest serves every dense convolution: pixels and taps are offsets in elements, made
//! once per plan, so stride, dilation, padding (a zeroed frame around the source) and the image's
//! row ends cost nothing here. A tap is 8 consecutive channels of `nChw8c`, or a window's row of an
//! interleaved image. Sums run over taps in order for every tile height, so results do not depend
//! on how pixels are grouped into tiles. The indirection follows Dukhan, "The Indirect Convolution
//! Algorithm" (arXiv 1907.02129), with one offset per pixel and per tap in place of their product.
//!
//! Half weights are half the bytes to stream, which is the limit where few pixels share a weight. Widening is
//! exact, so `hconv` gives the bits of `sconv` on the widened weights.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;

use crate::isa::Isa;
use crate::layout::{C_BLOCK, OC_PANEL};

/// Tallest register tile, in pixels.
pub const MR: usize = 6;

/// Arguments of a micro-kernel with weights of type `W`. Lengths and strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct PanelArgs<W = f32> {
    /// Source activations.
    pub src: *const f32,
    /// Offset of each pixel's window in `src`; `nb_pixels` of them.
    pub src_pixels: *const u32,
    /// Number of pixels.
    pub nb_pixels: usize,
    /// Offset of each tap from its pixel's window; `nb_taps` of them.
    pub taps: *const u32,
    /// Number of taps in this k-chunk.
    pub nb_taps: usize,
    /// Consecutive elements per tap.
    pub tap_len: usize,
    /// Weights, `[nb_taps * tap_len][16]`, aligned to 8 of them.
    pub weights: *const W,
    /// Start of the weights that will be used next, to prefetch; any address.
    pub next_weights: *const W,
    /// 16 biases.
    pub bias: *const f32,
    /// Destination activations, `nChw8c`, or null.
    pub dst: *mut f32,
    /// Offset of each pixel in `dst`; `nb_pixels` of them.
    pub dst_pixels: *const u32,
    /// Distance of the panel's second block of 8 channels in `dst`.
    pub dst_block_stride: usize,
    /// Blocks of 8 channels to store: 1 or 2.
    pub nb_blocks: usize,
    /// Activations added before the clamp, or null.
    pub residual: *const f32,
    /// Offset of each pixel in `residual`; `nb_pixels` of them.
    pub res_pixels: *const u32,
    /// Distance of the panel's second block of 8 channels in `residual`.
    pub res_block_stride: usize,
    /// Bounds of the result.
    pub clamp: [f32; 2],
    /// Sums to start from in place of the bias, `[nb_pixels][16]`, 32-byte aligned, or null.
    pub start: *const f32,
    /// Where to keep the sums, likewise, or null. May be `start`.
    pub sums: *mut f32,
    /// Sums to add to the result, likewise, or null.
    pub addend: *const f32,
}

impl PanelArgs<()> {
    /// The same with weights.
    pub fn with_weights<W>(self, weights: *const W, next_weights: *const W) -> PanelArgs<W> {
        PanelArgs {
            src: self.src,
            src_pixels: self.src_pixels,
            nb_pixels: self.nb_pixels,
            taps: self.taps,
            nb_taps: self.nb_taps,
            tap_len: self.tap_len,
            weights,
            next_weights,
            bias: self.bias,
            dst: self.dst,
            dst_pixels: self.dst_pixels,
            dst_block_stride: self.dst_block_stride,
            nb_blocks: self.nb_blocks,
            residual: self.residual,
            res_pixels: self.res_pixels,
            res_block_stride: self.res_block_stride,
            clamp: self.clamp,
            start: self.start,
            sums: self.sums,
            addend: self.addend,
        }
    }
}

/// A micro-kernel for weights of type `W`, f32 or [`half::f16`], and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<W = f32> {
    /// `"{isa}-{op}-{tile}"`.
    pub name: &'static str,
    /// The tier its instructions need.
    pub isa: Isa,
    raw: unsafe fn(&PanelArgs<W>),
}

impl<W> Kernel<W> {
    pub(crate) const fn new(name: &'static str, isa: Isa, raw: unsafe fn(&PanelArgs<W>)) -> Self {
        Self { name, isa, raw }
    }

    /// Runs the kernel on raw addresses.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - For all pixels `m`, taps `t`: `src_pixels[m] + taps[t] + tap_len` elements of `src` are
    ///   readable; the tables have the lengths their fields document; `weights` and `bias` too.
    /// - Unless `dst` is null, for all pixels `m` and blocks `b < nb_blocks`: 8 elements of `dst` at
    ///   `dst_pixels[m] + b * dst_block_stride` are writable, and likewise readable in a non-null
    ///   `residual`.
    /// - `start`, `sums` and `addend`, where not null, are valid for `nb_pixels * 16` elements and aligned.
    /// - No other thread accesses those elements of `dst` and `sums` during the call, or writes
    ///   what is read.
    #[inline]
    pub unsafe fn run_raw(&self, args: &PanelArgs<W>) {
        // SAFETY: passed on to the caller.
        unsafe { (self.raw)(args) }
    }

    /// Runs the kernel on slices: from bias to result.
    ///
    /// # Panics
    /// If the CPU lacks `self.isa`, or an offset leaves its slice.
    pub fn run(&self, job: PanelJob<'_, W>) {
        assert!(self.isa.is_available(), "{} needs {}", self.name, self.isa);
        let nb_blocks = job.nb_blocks;
        assert!((1..=2).contains(&nb_blocks));
        let max = |offsets: &[u32]| offsets.iter().copied().max().unwrap_or(0) as usize;
        let nb_pixels = job.src_pixels.len();
        assert_eq!(nb_pixels, job.dst_pixels.len());
        if nb_pixels == 0 {
            return;
        }
        assert!(max(job.src_pixels) + max(job.taps) + job.tap_len <= job.src.len());
        assert!(job.weights.len() >= job.taps.len() * job.tap_len * OC_PANEL);
        assert!((job.weights.as_ptr() as usize).is_multiple_of(8 * size_of::<W>()));
        let reach =
            |pixels: &[u32], stride: usize| max(pixels) + (nb_blocks - 1) * stride + C_BLOCK;
        assert!(reach(job.dst_pixels, job.dst_block_stride) <= job.dst.len());
        if let Some((residual, pixels, stride)) = job.residual {
            assert_eq!(pixels.len(), nb_pixels);
            assert!(reach(pixels, stride) <= residual.len());
        }
        let (residual, res_pixels, res_block_stride) =
            job.residual.map_or((std::ptr::null(), std::ptr::null(), 0), |(r, p, stride)| {
                (r.as_ptr(), p.as_ptr(), stride)
            });
        let args = PanelArgs {
            src: job.src.as_ptr(),
            src_pixels: job.src_pixels.as_ptr(),
            nb_pixels,
            taps: job.taps.as_ptr(),
            nb_taps: job.taps.len(),
            tap_len: job.tap_len,
            weights: job.weights.as_ptr(),
            next_weights: job.weights.as_ptr(),
            bias: job.bias.as_ptr(),
            dst: job.dst.as_mut_ptr(),
            dst_pixels: job.dst_pixels.as_ptr(),
            dst_block_stride: job.dst_block_stride,
            nb_blocks,
            residual,
            res_pixels,
            res_block_stride,
            clamp: job.clamp,
            start: std::ptr::null(),
            sums: std::ptr::null_mut(),
            addend: std::ptr::null(),
        };
        // SAFETY: the assertions above are the contract; `dst` is borrowed uniquely.
        unsafe { self.run_raw(&args) }
    }
}

/// [`PanelArgs`] over slices, for [`Kernel::run`].
#[derive(Debug)]
pub struct PanelJob<'a, W = f32> {
    /// See [`PanelArgs::src`].
    pub src: &'a [f32],
    /// See [`PanelArgs::src_pixels`].
    pub src_pixels: &'a [u32],
    /// See [`PanelArgs::taps`].
    pub taps: &'a [u32],
    /// See [`PanelArgs::tap_len`].
    pub tap_len: usize,
    /// See [`PanelArgs::weights`].
    pub weights: &'a [W],
    /// See [`PanelArgs::bias`].
    pub bias: &'a [f32; OC_PANEL],
    /// See [`PanelArgs::dst`].
    pub dst: &'a mut [f32],
    /// See [`PanelArgs::dst_pixels`].
    pub dst_pixels: &'a [u32],
    /// See [`PanelArgs::dst_block_stride`].
    pub dst_block_stride: usize,
    /// See [`PanelArgs::nb_blocks`].
    pub nb_blocks: usize,
    /// Residual, its pixel offsets and its block stride.
    pub residual: Option<(&'a [f32], &'a [u32], usize)>,
    /// See [`PanelArgs::clamp`].
    pub clamp: [f32; 2],
}

/// Splits a run of pixels into register tiles: heights in order, from [`MR`] down, balanced so that
/// no tile is short where that can be avoided (13 = 5+4+4, not 6+6+1: a tile below 4 rows has
/// too few accumulators to hide the FMA's latency).
///
/// Returns the numbers of 6-, 5- and 4-row tiles and the rows of a last shorter one (0 to 3; not 0
/// only for 1, 2, 3 and 7 pixels).
pub const fn row_tiles(nb_pixels: usize) -> [usize; 4] {
    let (q, r) = (nb_pixels / MR, nb_pixels % MR);
    match r {
        0 => [q, 0, 0, 0],
        5 => [q, 1, 0, 0],
        4 => [q, 0, 1, 0],
        3 if q >= 1 => [q - 1, 1, 1, 0],
        2 if q >= 1 => [q - 1, 0, 2, 0],
        1 if q >= 2 => [q - 2, 1, 2, 0],
        1 if q == 1 => [0, 0, 1, 3],
        _ => [q, 0, 0, r],
    }
}
