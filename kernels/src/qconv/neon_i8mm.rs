//! `qconv` for NEON with `usdot`, which multiplies unsigned by signed bytes.

use std::arch::aarch64::*;
use std::arch::asm;

use super::Kernel;
use super::neon::{Arithmetic, panel};
use super::neon_dot::lane_0;
use crate::isa::Isa;
use crate::requant::neon::Half;

/// The kernel's registry entry.
pub const KERNEL: Kernel =
    Kernel::new("neon_i8mm-qconv-8x8", Isa::NeonI8mm, false, u8::MAX, panel::<Usdot>);

/// Dot products of unsigned by signed bytes.
struct Usdot;

impl Arithmetic for Usdot {
    type Weights = [int8x16_t; 2];
    type Bytes = int8x16_t;
    const HAS_RUNS: bool = true;

    #[inline(always)]
    unsafe fn weights(weights: *const i8) -> Self::Weights {
        // SAFETY: the caller's.
        unsafe { [vld1q_s8(weights), vld1q_s8(weights.add(16))] }
    }
    #[inline(always)]
    unsafe fn quad(bytes: *const u8) -> Self::Bytes {
        // SAFETY: the caller's.
        unsafe { lane_0(bytes) }
    }
    #[inline(always)]
    unsafe fn run(bytes: *const u8) -> Self::Bytes {
        // SAFETY: the caller's.
        unsafe { vld1q_s8(bytes.cast()) }
    }
    #[inline(always)]
    unsafe fn add<const LANE: i32>([low, high]: Half, w: Self::Weights, x: Self::Bytes) -> Half {
        // SAFETY: the trait's.
        unsafe { [dot::<LANE>(low, w[0], x), dot::<LANE>(high, w[1], x)] }
    }
}

/// `acc[o]` plus the products of `w[4o..4o + 4]`, signed, by the 4 bytes of a lane of `x`, unsigned.
///
/// # Safety
/// The CPU has `i8mm`.
#[inline(always)]
unsafe fn dot<const LANE: i32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's; registers only. `sudot` is `usdot` with its sources exchanged.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "sudot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}
