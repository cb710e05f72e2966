//! Requantization: what becomes of the i32 accumulators of int8 kernels.
//!
//! ```text
//! t = acc as f32 * scale[channel]
//! t = rne(clamp(t, before.bounds)) * before.scale              (with `before_add`)
//! t = t + (residual - residual.zero_point) as f32 * residual.scale     (with `residual`)
//! u8:   rne(clamp(t, [lo - zero_point, hi - zero_point])) + zero_point
//! f32:  clamp(t, bounds)
//! ```
//!
//! All in f32, each operation rounded once, none fused; `rne` rounds to the nearest integer, ties to
//! even. What is no number becomes the lower bound. Since the bounds of a u8 are integers, clamping before or after `rne` is the same. So every
//! instruction set gives the same bytes.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;

use crate::layout::C_BLOCK_U8;

/// Requantization of one panel of 16 output channels. Addresses are of the panel's first block.
#[derive(Clone, Copy, Debug)]
pub struct Requant {
    /// 16 factors. For a u8 result, the step of an accumulator in steps of the result.
    pub scale: *const f32,
    /// A rounding before the residual is added.
    pub before_add: Option<BeforeAdd>,
    /// What is added.
    pub residual: Option<Residual>,
    /// The result.
    pub dst: Dst,
}

/// A sum that is rounded to a quantized value of its own before something is added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeforeAdd {
    /// Smallest and largest number of steps: minus its zero point, and its maximum minus that.
    pub bounds: [f32; 2],
    /// Its step in steps of the result.
    pub scale: f32,
}

/// A residual operand: u8, in blocks of 16 channels.
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    /// Its activations.
    pub src: *const u8,
    /// What stands for zero.
    pub zero_point: u8,
    /// Its step in steps of the result.
    pub scale: f32,
}

/// Where a result goes.
#[derive(Clone, Copy, Debug)]
pub enum Dst {
    /// To u8, in blocks of 16 channels, all of which are written.
    U8 {
        /// Activations.
        dst: *mut u8,
        /// What stands for zero.
        zero_point: u8,
        /// Smallest and largest result.
        bounds: [u8; 2],
    },
    /// To f32, in blocks of 8 channels.
    F32 {
        /// Activations.
        dst: *mut f32,
        /// Distance of the panel's second block.
        block_stride: usize,
        /// Blocks to write: 1 or 2.
        nb_blocks: usize,
        /// Smallest and largest result.
        bounds: [f32; 2],
    },
}

impl Dst {
    /// Halves of the panel's 16 channels that are written.
    pub fn nb_halves(&self) -> usize {
        match *self {
            Self::U8 { .. } => C_BLOCK_U8 / HALF,
            Self::F32 { nb_blocks, .. } => nb_blocks,
        }
    }
}

/// Channels of half a panel.
pub const HALF: usize = 8;
