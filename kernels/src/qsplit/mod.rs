//! `qsplit`: u8 activations in two parts, so that weights certified for half their range serve all of it.
//!
//! `a = low + high` with `low = min(a, 128)`, so `high` is in `0..=127`. A convolution's sums are those
//! over `low`, by [`qconv`](crate::qconv) on weights that are certified for [`LOW_MAX`], and those
//! over `high`. After a ReLU few activations exceed half the range: [`Kernel::find`] lists the quads of a
//! run of pixels that have such a byte, and [`Kernel::add`] starts the sums of a panel from the products of
//! these alone. Where there are many, `high` is a source like any other, of the same weights.
//!
//! ```text
//! for each pixel m:
//!     partial[m][0..16] = bias
//! for each found (bytes, m, quad), for o in 0..16, i in 0..4:
//!     partial[m][o] += bytes[i] * weights[places[o / 8][quad]][o % 8][i]
//! ```
//!
//! No sum of two products leaves i16: 2 * 127 * 128 < 2^15. Sums of i32 wrap.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
pub mod portable;

use crate::isa::Isa;
use crate::layout::{C_BLOCK_U8, OC_PANEL};
use crate::qconv::{QUAD, QUAD_LEN};

/// The largest element of either part.
pub const LOW_MAX: u8 = 128;

/// A quad of `high` that is not zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Excess {
    /// Its bytes, each at most 127.
    pub bytes: [u8; QUAD],
    /// Which pixel's window it is in.
    pub pixel: u32,
    /// Where in the window: 4 times its tap, and its place among the tap's 16 channels.
    pub quad: u32,
}

/// Arguments of [`Kernel::add_raw`].
#[derive(Clone, Copy, Debug)]
pub struct AddArgs {
    /// The quads; `nb_found` of them.
    pub found: *const Excess,
    /// Number of quads.
    pub nb_found: usize,
    /// Weights, `[place][8 oc][4]`, 32-byte aligned.
    pub weights: *const i8,
    /// Of both halves of the panel's channels: the place of the weights of each quad of a window.
    pub places: [*const u32; 2],
    /// 16 biases.
    pub bias: *const i32,
    /// Number of pixels.
    pub nb_pixels: usize,
    /// The sums, `[nb_pixels][16]`, 32-byte aligned.
    pub partial: *mut i32,
}

/// What a search reads, by [`Kernel::find`].
#[derive(Clone, Copy, Debug)]
pub struct Windows<'a> {
    /// `high` of all activations.
    pub high: &'a [u8],
    /// Offset of each pixel's window.
    pub pixels: &'a [u32],
    /// Offset of each tap, of 16 channels, from a pixel's window.
    pub taps: &'a [u32],
}

/// The functions of a tier.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// `"{isa}-{op}"`.
    pub name: &'static str,
    /// The tier its instructions need.
    pub isa: Isa,
    split: unsafe fn(&[u8], &mut [u8], &mut [u8]),
    find: unsafe fn(&Windows<'_>, &mut [Excess]) -> Option<usize>,
    add: unsafe fn(&AddArgs),
}

impl Kernel {
    /// Splits activations into `low` and `high`.
    ///
    /// # Panics
    /// If the lengths differ, or the CPU lacks `self.isa`.
    pub fn split(&self, src: &[u8], low: &mut [u8], high: &mut [u8]) {
        assert!(self.isa.is_available(), "{} needs {}", self.name, self.isa);
        assert_eq!((src.len(), src.len()), (low.len(), high.len()));
        // SAFETY: the CPU has the tier.
        unsafe { (self.split)(src, low, high) }
    }

    /// Lists the quads of all windows that are not zero, and returns their number; none if they are more
    /// than `found` holds.
    ///
    /// # Panics
    /// If a window leaves `high`, or the CPU lacks `self.isa`.
    pub fn find(&self, windows: &Windows<'_>, found: &mut [Excess]) -> Option<usize> {
        assert!(self.isa.is_available(), "{} needs {}", self.name, self.isa);
        let max = |offsets: &[u32]| offsets.iter().copied().max().unwrap_or(0) as usize;
        let Windows { high, pixels, taps } = *windows;
        if pixels.is_empty() || taps.is_empty() {
            return Some(0);
        }
        assert!(max(pixels) + max(taps) + C_BLOCK_U8 <= high.len());
        // SAFETY: the CPU has the tier, and all windows are in `high`.
        unsafe { (self.find)(windows, found) }
    }

    /// Starts the sums of a panel from the bias and the products of what was found.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - The tables, `bias` and `partial` have the lengths that their fields document; each found `pixel` is
    ///   below `nb_pixels`, and each `quad` has a place in `places`, at which `weights` has a quad.
    /// - No other thread accesses `partial` during the call, or writes what is read.
    pub unsafe fn add_raw(&self, args: &AddArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.add)(args) }
    }

    /// [`Self::add_raw`] on slices.
    ///
    /// # Panics
    /// If the CPU lacks `self.isa`, or an offset leaves its slice.
    pub fn add(
        &self,
        found: &[Excess],
        (weights, places): (&[i8], [&[u32]; 2]),
        bias: &[i32; OC_PANEL],
        partial: &mut [i32],
    ) {
        assert!(self.isa.is_available(), "{} needs {}", self.name, self.isa);
        let nb_pixels = partial.len() / OC_PANEL;
        assert!(weights.as_ptr().addr().is_multiple_of(32));
        assert!(nb_pixels == 0 || partial.as_ptr().addr().is_multiple_of(32));
        for excess in found {
            assert!((excess.pixel as usize) < nb_pixels);
            let ends = places.map(|places| (places[excess.quad as usize] as usize + 1) * QUAD_LEN);
            assert!(ends.into_iter().all(|end| end <= weights.len()));
        }
        let args = AddArgs {
            found: found.as_ptr(),
            nb_found: found.len(),
            weights: weights.as_ptr(),
            places: places.map(<[u32]>::as_ptr),
            bias: bias.as_ptr(),
            nb_pixels,
            partial: partial.as_mut_ptr(),
        };
        // SAFETY: the assertions above are the contract; `partial` is borrowed uniquely.
        unsafe { self.add_raw(&args) }
    }
}

/// The two parts of an activation.
const fn parts(a: u8) -> [u8; 2] {
    let high = a.saturating_sub(LOW_MAX);
    [a - high, high]
}
