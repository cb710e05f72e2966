//! `strassen`: operands of a matrix product in seven multiplications of quarters, in place of eight.
//!
//! The product of pixels by channels is split in halves of the pixels, of the input channels and of the output
//! channels. Winograd's form of Strassen's algorithm needs 4 sums of the source's quarters, 4 of the weights'
//! and 7 of products (Strassen, "Gaussian elimination is not optimal", 1969; Winograd, 1971; the schedule is that of
//! Douglas, Heroux, Slishman and Smith, "GEMMW", 1994, with `T4` negated, so that products are only added):
//!
//! ```text
//! S1 = A21 + A22    T1 = B12 - B11    P1 = A11 B11    P5 = S1 T1    C11 = P1 + P2
//! S2 = S1 - A11     T2 = B22 - T1     P2 = A12 B21    P6 = S2 T2    C12 = P1 + P6 + P5 + P3
//! S3 = A11 - A21    T3 = B22 - B12    P3 = S4 B22     P7 = S3 T3    C21 = P1 + P6 + P7 + P4
//! S4 = A12 - S2     T4 = B21 - T2     P4 = A22 T4                   C22 = P1 + P6 + P7 + P5
//! ```
//!
//! `A11` is the first half of the pixels and of the input channels, `A12` has the other channels; `B12` is the
//! first half of the input channels and the second of the output channels. Here are the sums of operands;
//! [`sconv`](crate::sconv) multiplies, and adds the products while they are in registers.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
pub mod portable;

use crate::isa::Isa;
use crate::layout::C_BLOCK;

/// Arguments of [`Kernel::add_source_raw`]: a plane of 8 channels of each half, and pairs of pixels. Lengths
/// and strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct SourceArgs {
    /// A plane of the first half of the channels, and one of the second.
    pub planes: [*const f32; 2],
    /// Offset in its plane of the first pixel of each pair, and of the second; `nb_pairs` of either.
    pub pixels: [*const u32; 2],
    /// Number of pairs.
    pub nb_pairs: usize,
    /// S1 to S4, `[4][nb_pairs][8]`, 32-byte aligned.
    pub sums: *mut f32,
    /// A11, A12 and A22, likewise, or null.
    pub copies: *mut f32,
    /// Distance of operands in `sums` and `copies`, a multiple of 8.
    pub stride: usize,
}

/// Arguments of [`Kernel::add_weights_raw`].
#[derive(Clone, Copy, Debug)]
pub struct WeightArgs {
    /// `B11`, `B12`, `B21` and `B22`, 32-byte aligned.
    pub quarters: [*const f32; 4],
    /// Elements of each, a multiple of 8.
    pub len: usize,
    /// T1 to T4, `[4][len]`, 32-byte aligned.
    pub sums: *mut f32,
    /// Distance of sums, a multiple of 8.
    pub stride: usize,
}

/// The functions of a tier.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// `"{isa}-{op}"`.
    pub name: &'static str,
    /// The tier its instructions need.
    pub isa: Isa,
    add_source: unsafe fn(&SourceArgs),
    add_weights: unsafe fn(&WeightArgs),
}

impl Kernel {
    /// Adds quarters of the source.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - For every pair, 8 elements at the offset of either pixel are readable in both planes; the tables have the
    ///   lengths that their fields document; `sums`, and `copies` unless null, are writable and aligned as theirs
    ///   document.
    /// - No other thread accesses `sums` and `copies` during the call, or writes what is read.
    pub unsafe fn add_source_raw(&self, args: &SourceArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.add_source)(args) }
    }

    /// Adds quarters of the weights.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - `quarters` are readable, and `sums` is writable, as long and as aligned as their fields document.
    /// - No other thread accesses `sums` during the call, or writes what is read.
    pub unsafe fn add_weights_raw(&self, args: &WeightArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.add_weights)(args) }
    }

    /// [`Self::add_source_raw`] on slices; `sums` is `[4][nb_pairs][8]`, `copies` `[3][nb_pairs][8]`.
    ///
    /// # Panics
    /// If the CPU lacks `self.isa`, a slice is not as long or aligned as it must be, or an offset leaves its plane.
    pub fn add_source(
        &self,
        planes: [&[f32]; 2],
        pixels: [&[u32]; 2],
        sums: &mut [f32],
        copies: Option<&mut [f32]>,
    ) {
        assert!(self.isa.is_available(), "{} needs {}", self.name, self.isa);
        let nb_pairs = pixels[0].len();
        assert_eq!(pixels[1].len(), nb_pairs);
        for offset in pixels.into_iter().flatten() {
            assert!(planes.iter().all(|plane| *offset as usize + C_BLOCK <= plane.len()));
        }
        let aligned = |p: *const f32| nb_pairs == 0 || p.addr().is_multiple_of(32);
        assert!(sums.len() == 4 * nb_pairs * C_BLOCK && aligned(sums.as_ptr()));
        let copies = copies.map_or(std::ptr::null_mut(), |copies| {
            assert!(copies.len() == 3 * nb_pairs * C_BLOCK && aligned(copies.as_ptr()));
            copies.as_mut_ptr()
        });
        let args = SourceArgs {
            planes: planes.map(<[f32]>::as_ptr),
            pixels: pixels.map(<[u32]>::as_ptr),
            nb_pairs,
            sums: sums.as_mut_ptr(),
            copies,
            stride: nb_pairs * C_BLOCK,
        };
        // SAFETY: the assertions above are the contract; `sums` and `copies` are borrowed uniquely.
        unsafe { self.add_source_raw(&args) }
    }

    /// [`Self::add_weights_raw`] on slices; `sums` is `[4][len]`.
    ///
    /// # Panics
    /// If the CPU lacks `self.isa`, or a slice is not as long or aligned as it must be.
    pub fn add_weights(&self, quarters: [&[f32]; 4], sums: &mut [f32]) {
        assert!(self.isa.is_available(), "{} needs {}", self.name, self.isa);
        let len = quarters[0].len();
        assert!(len.is_multiple_of(C_BLOCK) && quarters.iter().all(|q| q.len() == len));
        assert_eq!(sums.len(), 4 * len);
        let starts = quarters.map(<[f32]>::as_ptr).into_iter().chain([sums.as_ptr()]);
        assert!(len == 0 || starts.into_iter().all(|p| p.addr().is_multiple_of(32)));
        let quarters = quarters.map(<[f32]>::as_ptr);
        let args = WeightArgs { quarters, len, sums: sums.as_mut_ptr(), stride: len };
        // SAFETY: the assertions above are the contract; `sums` is borrowed uniquely.
        unsafe { self.add_weights_raw(&args) }
    }
}
