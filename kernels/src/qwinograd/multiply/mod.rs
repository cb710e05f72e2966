//! The products between the transforms: per point, a matrix product of T tiles by 16 channels, of 16-bit
//! numbers in pairs of input channels, summed modulo 2^32.
//!
//! ```text
//! for each point p:
//!     for each tile t that is taken at p:
//!         acc[0..16] = first ? 0 : M[p][t]
//!         for each block b of 16 input channels, for i in 0..8:
//!             for o in 0..16:
//!                 acc[o] += V[p][b][t][2i] * U[p][8b + i][o][0] + V[p][b][t][2i + 1] * U[p][8b + i][o][1]
//!         M[p][t] = acc
//! ```

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;

pub use super::MultiplyArgs;
pub use crate::winograd::multiply::{MR, row_tiles};
