//! `qconv16`: int8 convolution on operands that were widened to 16 bits, exact for all inputs.
//!
//! The sums are those of [`qconv`](crate::qconv), without groups and certificates: `vpmaddwd` multiplies
//! 16-bit numbers and adds two products in 32 bits, where no u8 and no i8 overflows. Activations are widened once for
//! all output channels, weights a k-chunk at a time for a block of pixels. A micro-kernel computes a run
//! of output pixels of one panel of 16 output channels; a *tap* is 16 consecutive input channels.
//!
//! ```text
//! for each pixel m:
//!     acc[0..16] = bias                                   (first k-chunk; else acc = partial[m])
//!     for each tap t, for i in 0..8, for o in 0..16:
//!         acc[o] += src[src_pixels[m] + taps[t] + 2i]     * weights[t][i][o][0]
//!                 + src[src_pixels[m] + taps[t] + 2i + 1] * weights[t][i][o][1]
//!     partial[m] = acc                                    (not the last k-chunk)
//!     requantize acc to dst[dst_pixels[m]]                (see `requant`)
//! ```
//!
//! Sums of i32 wrap.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
pub mod pack;
pub mod portable;

use crate::isa::Isa;
use crate::layout::{C_BLOCK_U8, OC_PANEL};
use crate::qconv::{JobDst, requant_over};
use crate::requant::{BeforeAdd, Requant};

/// Weights of a tap.
pub const TAP_LEN: usize = C_BLOCK_U8 * OC_PANEL;
/// Tallest register tile, in pixels.
pub const MR: usize = crate::winograd::multiply::MR;

/// Arguments of a micro-kernel. Lengths and strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct PanelArgs {
    /// Source activations, widened: 0..=255.
    pub src: *const i16,
    /// Offset of each pixel's window in `src`; `nb_pixels` of them.
    pub src_pixels: *const u32,
    /// Number of pixels.
    pub nb_pixels: usize,
    /// Offset of each tap from a pixel's window; `nb_taps` of them.
    pub taps: *const u32,
    /// Number of taps.
    pub nb_taps: usize,
    /// Widened weights, `[nb_taps][8][16 oc][2]`, 32-byte aligned; -128..=127.
    pub weights: *const i16,
    /// What to prefetch, `nb_taps * TAP_LEN` bytes: the packed weights of the next k-chunk; any address.
    pub next: *const i8,
    /// 16 biases.
    pub bias: *const i32,
    /// What becomes of the sums.
    pub requant: Requant,
    /// Offset of each pixel in the destination; `nb_pixels` of them.
    pub dst_pixels: *const u32,
    /// Offset of each pixel in the residual, if there is one; `nb_pixels` of them.
    pub res_pixels: *const u32,
    /// Sums carried between k-chunks, `[nb_pixels][16]`, 32-byte aligned; unused for a single chunk.
    pub partial: *mut i32,
    /// Whether this is the first k-chunk (start from the bias).
    pub first: bool,
    /// Whether this is the last k-chunk (requantize).
    pub last: bool,
}

/// A micro-kernel and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// `"{isa}-{op}-{tile}"`.
    pub name: &'static str,
    /// The tier its instructions need.
    pub isa: Isa,
    raw: unsafe fn(&PanelArgs),
    widen_pixels: unsafe fn(&[u8], &mut [i16]),
    widen_weights: unsafe fn(&[i8], &mut [i16]),
}

impl Kernel {
    /// Runs the kernel on raw addresses.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - For all pixels `m` and taps `t`: 16 elements of `src` at `src_pixels[m] + taps[t]` are
    ///   readable; the tables, `weights` and `bias` have the lengths that their fields document.
    /// - If `last`: for all pixels `m`, what [`portable::store`](crate::requant::portable::store)
    ///   needs at `dst_pixels[m]` and `res_pixels[m]`, for all halves that the destination has.
    /// - `partial` is valid for `nb_pixels * 16` elements unless `first && last`.
    /// - No other thread accesses those elements of the destination and of `partial` during the
    ///   call, or writes what is read.
    #[inline]
    pub unsafe fn run_raw(&self, args: &PanelArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.raw)(args) }
    }

    /// Widens activations.
    ///
    /// # Panics
    /// If the lengths differ, or the CPU lacks `self.isa`.
    pub fn widen_pixels(&self, src: &[u8], dst: &mut [i16]) {
        assert!(self.isa.is_available(), "{} needs {}", self.name, self.isa);
        assert_eq!(src.len(), dst.len());
        // SAFETY: the CPU has the tier.
        unsafe { (self.widen_pixels)(src, dst) }
    }

    /// Widens weights.
    ///
    /// # Panics
    /// As [`Self::widen_pixels`].
    pub fn widen_weights(&self, src: &[i8], dst: &mut [i16]) {
        assert!(self.isa.is_available(), "{} needs {}", self.name, self.isa);
        assert_eq!(src.len(), dst.len());
        // SAFETY: the CPU has the tier.
        unsafe { (self.widen_weights)(src, dst) }
    }

    /// Runs the kernel on slices: one k-chunk from bias to result.
    ///
    /// # Panics
    /// If the CPU lacks `self.isa`, or an offset leaves its slice.
    pub fn run(&self, job: PanelJob<'_>) {
        assert!(self.isa.is_available(), "{} needs {}", self.name, self.isa);
        let max = |offsets: &[u32]| offsets.iter().copied().max().unwrap_or(0) as usize;
        let (nb_pixels, nb_taps) = (job.src_pixels.len(), job.taps.len());
        if nb_pixels == 0 {
            return;
        }
        assert_eq!(job.weights.len(), nb_taps * TAP_LEN);
        assert!(nb_taps == 0 || job.weights.as_ptr().addr().is_multiple_of(32));
        let reach = max(job.src_pixels) + max(job.taps) + C_BLOCK_U8;
        assert!(nb_taps == 0 || reach <= job.src.len());
        let (requant, res_pixels) =
            requant_over((job.scale, job.before_add), job.residual, job.dst, job.dst_pixels);
        assert_eq!(nb_pixels, job.dst_pixels.len());
        let args = PanelArgs {
            src: job.src.as_ptr(),
            src_pixels: job.src_pixels.as_ptr(),
            nb_pixels,
            taps: job.taps.as_ptr(),
            nb_taps,
            weights: job.weights.as_ptr(),
            next: job.weights.as_ptr().cast(),
            bias: job.bias.as_ptr(),
            requant,
            dst_pixels: job.dst_pixels.as_ptr(),
            res_pixels,
            partial: std::ptr::null_mut(),
            first: true,
            last: true,
        };
        // SAFETY: the assertions above are the contract; `dst` is borrowed uniquely.
        unsafe { self.run_raw(&args) }
    }
}

/// [`PanelArgs`] over slices, for [`Kernel::run`].
#[derive(Debug)]
pub struct PanelJob<'a> {
    /// See [`PanelArgs::src`].
    pub src: &'a [i16],
    /// See [`PanelArgs::src_pixels`].
    pub src_pixels: &'a [u32],
    /// See [`PanelArgs::taps`].
    pub taps: &'a [u32],
    /// See [`PanelArgs::weights`].
    pub weights: &'a [i16],
    /// See [`PanelArgs::bias`].
    pub bias: &'a [i32; OC_PANEL],
    /// See [`Requant::scale`].
    pub scale: &'a [f32; OC_PANEL],
    /// See [`Requant::before_add`].
    pub before_add: Option<BeforeAdd>,
    /// Residual, its pixel offsets, zero point and scale.
    pub residual: Option<(&'a [u8], &'a [u32], u8, f32)>,
    /// The result.
    pub dst: JobDst<'a>,
    /// See [`PanelArgs::dst_pixels`].
    pub dst_pixels: &'a [u32],
}
