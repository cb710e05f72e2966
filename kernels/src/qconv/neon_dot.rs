//! `qconv` for NEON with `sdot`: one instruction multiplies a quad's weights of 4 output channels by
//! the bytes of one register's lane.
//!
//! `sdot` takes signed bytes. Activations up to 127 are the same signed or not. Of others it takes
//! `x - 128`, which is `x` with its highest bit inverted, and every pixel's sum lacks 128 times the sum of
//! the weights; that is counted once per panel.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::{Arithmetic, panel};
use super::{Kernel, QUAD_LEN, Strip};
use crate::arrays::map;
use crate::isa::Isa;
use crate::requant::neon::Half;

/// The registry entry of the kernel for all activations.
pub const KERNEL: Kernel =
    Kernel::new("neon_dot-qconv-8x8", Isa::NeonDot, false, u8::MAX, panel::<Sdot<true>>);

/// The registry entry of the kernel for activations up to 127.
pub const KERNEL_7_BIT: Kernel =
    Kernel::new("neon_dot-qconv-8x8-u7", Isa::NeonDot, false, 127, panel::<Sdot<false>>);

/// Signed dot products, of activations minus 128 if `OFFSET`.
struct Sdot<const OFFSET: bool>;

impl<const OFFSET: bool> Arithmetic for Sdot<OFFSET> {
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
        unsafe {
            let x = lane_0(bytes);
            if OFFSET { invert_highest(x) } else { x }
        }
    }
    #[inline(always)]
    unsafe fn run(bytes: *const u8) -> Self::Bytes {
        // SAFETY: the caller's.
        unsafe {
            let x = vld1q_s8(bytes.cast());
            if OFFSET { invert_highest(x) } else { x }
        }
    }
    #[inline(always)]
    unsafe fn add<const LANE: i32>([low, high]: Half, w: Self::Weights, x: Self::Bytes) -> Half {
        // SAFETY: the trait's.
        unsafe { [dot::<LANE>(low, w[0], x), dot::<LANE>(high, w[1], x)] }
    }
    #[inline(always)]
    unsafe fn lacking(strip: &Strip) -> Half {
        // SAFETY: the trait's, and the caller's.
        unsafe {
            let mut acc = [vdupq_n_s32(0); 2];
            if OFFSET {
                // 128 fits no signed byte; -128 does.
                let x = vdupq_n_s8(i8::MIN);
                for q in 0..strip.nb_quads() {
                    let w = Self::weights(strip.weights.add(q * QUAD_LEN));
                    acc = Self::add::<0>(acc, w, x);
                }
            }
            map(acc, |acc| vnegq_s32(acc))
        }
    }
}

/// `x` with the highest bit of each byte inverted. In assembly, because the compiler would insert lanes
/// into constants instead, at twice the instructions.
///
/// # Safety
/// None: NEON is the target's baseline.
#[inline(always)]
unsafe fn invert_highest(mut x: int8x16_t) -> int8x16_t {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "eor {x:v}.16b, {x:v}.16b, {bits:v}.16b",
            x = inout(vreg) x,
            bits = in(vreg) vdupq_n_s8(i8::MIN),
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    x
}

/// 4 bytes in the first lane of 32 bits.
///
/// # Safety
/// They are readable.
#[inline(always)]
pub(super) unsafe fn lane_0(bytes: *const u8) -> int8x16_t {
    // SAFETY: the caller's.
    unsafe {
        let quad = bytes.cast::<i32>().read_unaligned();
        vreinterpretq_s8_s32(vsetq_lane_s32::<0>(quad, vdupq_n_s32(0)))
    }
}

/// `acc[o]` plus the products of `w[4o..4o + 4]` by the 4 bytes of a lane of `x`.
///
/// # Safety
/// The CPU has `dotprod`.
#[inline(always)]
unsafe fn dot<const LANE: i32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's; registers only.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}
