//! Requantization with NEON, which rounds to the nearest integer, ties to even, in one instruction.

use std::arch::aarch64::*;

use super::{Dst, HALF, Requant};
use crate::arrays::map;

/// The sums of half a panel.
pub type Half = [int32x4_t; 2];

/// Stores channels `8*half..8*half + 8` of `ROWS` pixels.
///
/// # Safety
/// As [`super::portable::store`] for each pixel.
#[inline(always)]
pub unsafe fn store<const ROWS: usize>(
    q: &Requant,
    acc: &[Half; ROWS],
    half: usize,
    dst_pixels: &[usize; ROWS],
    res_pixels: &[usize; ROWS],
) {
    // SAFETY: the contract is the caller's.
    unsafe {
        let scale = q.scale.add(half * HALF);
        let scale = [vld1q_f32(scale), vld1q_f32(scale.add(4))];
        for r in 0..ROWS {
            let mut t = map([0, 1], |i| vmulq_f32(vcvtq_f32_s32(acc[r][i]), scale[i]));
            if let Some(before) = q.before_add {
                let [min, max] = before.bounds;
                t = map(t, |t| vmulq_n_f32(vrndnq_f32(clamp(t, min, max)), before.scale));
            }
            if let Some(residual) = q.residual {
                let steps = vmovl_u8(vld1_u8(residual.src.add(res_pixels[r] + half * HALF)));
                let steps = vsubq_s16(
                    vreinterpretq_s16_u16(steps),
                    vdupq_n_s16(i16::from(residual.zero_point)),
                );
                let steps = [vmovl_s16(vget_low_s16(steps)), vmovl_high_s16(steps)];
                t = [0, 1]
                    .map(|i| vaddq_f32(t[i], vmulq_n_f32(vcvtq_f32_s32(steps[i]), residual.scale)));
            }
            match q.dst {
                Dst::U8 { dst, zero_point, bounds } => {
                    let zero = i16::from(zero_point);
                    let [min, max] = map(bounds, |b| f32::from(i16::from(b) - zero));
                    let [low, high] = map(t, |t| vcvtnq_s32_f32(clamp(t, min, max)));
                    let steps = vcombine_s16(vmovn_s32(low), vmovn_s32(high));
                    let bytes = vqmovun_s16(vaddq_s16(steps, vdupq_n_s16(zero)));
                    vst1_u8(dst.add(dst_pixels[r] + half * HALF), bytes);
                }
                Dst::F32 { dst, block_stride, bounds: [min, max], .. } => {
                    let dst = dst.add(dst_pixels[r] + half * block_stride);
                    vst1q_f32(dst, clamp(t[0], min, max));
                    vst1q_f32(dst.add(4), clamp(t[1], min, max));
                }
            }
        }
    }
}

/// `min(max(v, min), max)`; `min` where `v` is no number.
///
/// # Safety
/// None: NEON is the target's baseline.
#[inline(always)]
unsafe fn clamp(v: float32x4_t, min: f32, max: f32) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vminq_f32(vmaxnmq_f32(v, vdupq_n_f32(min)), vdupq_n_f32(max)) }
}
