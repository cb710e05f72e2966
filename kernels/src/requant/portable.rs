//! Requantization for any CPU.

use std::array::from_fn;

use super::{Dst, HALF, Requant};

/// Adding it, and taking it away again, rounds an f32 of a smaller magnitude than 2^22 to an
/// integer, ties to even: the sum has no bits below 1.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// `v` to the nearest integer, ties to even, for `|v| < 2^22`.
#[inline(always)]
pub(crate) fn rne(v: f32) -> f32 {
    (v + ROUND) - ROUND
}

/// Stores channels `8*half..8*half + 8` of one pixel: at `dst_pixel` of the destination, after
/// adding those at `res_pixel` of the residual.
///
/// # Safety
/// - 16 elements of `scale` are readable.
/// - 8 elements of the residual at `res_pixel + 8*half` are readable.
/// - 8 elements of a u8 destination at `dst_pixel + 8*half`, or of an f32 destination at
///   `dst_pixel + half*block_stride`, are writable, and no other thread accesses them.
#[inline(never)]
pub unsafe fn store(
    q: &Requant,
    acc: [i32; HALF],
    half: usize,
    dst_pixel: usize,
    res_pixel: usize,
) {
    // SAFETY: the contract is the caller's; arrays of f32 and of u8 have their elements' alignment.
    unsafe {
        let scale = q.scale.add(half * HALF).cast::<[f32; HALF]>().read();
        let mut t: [f32; HALF] = from_fn(|i| acc[i] as f32 * scale[i]);
        if let Some(before) = q.before_add {
            let [min, max] = before.bounds;
            t = t.map(|t| rne(t.max(min).min(max)) * before.scale);
        }
        if let Some(r) = q.residual {
            let bytes = r.src.add(res_pixel + half * HALF).cast::<[u8; HALF]>().read();
            let zero = i32::from(r.zero_point);
            t = from_fn(|i| t[i] + (i32::from(bytes[i]) - zero) as f32 * r.scale);
        }
        match q.dst {
            Dst::U8 { dst, zero_point, bounds } => {
                let zero = i32::from(zero_point);
                let [min, max] = bounds.map(|b| (i32::from(b) - zero) as f32);
                let bytes = t.map(|t| (rne(t.max(min).min(max)) as i32 + zero) as u8);
                dst.add(dst_pixel + half * HALF).cast::<[u8; HALF]>().write(bytes);
            }
            Dst::F32 { dst, block_stride, bounds: [min, max], .. } => {
                let t = t.map(|t| t.max(min).min(max));
                dst.add(dst_pixel + half * block_stride).cast::<[f32; HALF]>().write(t);
            }
        }
    }
}
