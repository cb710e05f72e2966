//! Element-wise kernels over runs of `nChw8c` pixels (or of plain elements), on `wide`.
//!
//! They are bound by memory, not arithmetic, so one portable form serves every tier.

use wide::f32x8;

use crate::layout::C_BLOCK;

/// `min(max(v, bounds[0]), bounds[1])`; NaN passes through.
#[inline(always)]
pub fn clamp(v: f32x8, bounds: [f32; 2]) -> f32x8 {
    let (min, max) = (f32x8::splat(bounds[0]), f32x8::splat(bounds[1]));
    let v = v.simd_lt(min).select(min, v);
    v.simd_gt(max).select(max, v)
}

/// `dst = clamp(a + b)`.
///
/// # Panics
/// If the lengths differ or are no multiple of 8.
pub fn add(a: &[f32], b: &[f32], bounds: [f32; 2], dst: &mut [f32]) {
    assert!(a.len() == dst.len() && b.len() == dst.len());
    let ((a, []), (b, []), (dst, [])) =
        (a.as_chunks::<8>(), b.as_chunks::<8>(), dst.as_chunks_mut::<8>())
    else {
        panic!("length is a multiple of 8")
    };
    for ((a, b), d) in a.iter().zip(b).zip(dst) {
        *d = clamp(f32x8::from(*a) + f32x8::from(*b), bounds).to_array();
    }
}

/// `dst = clamp(src * scale + shift)` with one scale and shift per channel of a block.
///
/// # Panics
/// If the lengths differ or are no multiple of 8.
pub fn affine(
    src: &[f32],
    scale: &[f32; C_BLOCK],
    shift: &[f32; C_BLOCK],
    bounds: [f32; 2],
    dst: &mut [f32],
) {
    assert_eq!(src.len(), dst.len());
    let ((src, []), (dst, [])) = (src.as_chunks::<8>(), dst.as_chunks_mut::<8>()) else {
        panic!("length is a multiple of 8")
    };
    let (scale, shift) = (f32x8::from(*scale), f32x8::from(*shift));
    for (s, d) in src.iter().zip(dst) {
        *d = clamp(f32x8::from(*s) * scale + shift, bounds).to_array();
    }
}

/// Softmax of `values` in place, or its logarithm: `x - max - ln(sum(exp(x - max)))`.
///
/// Sums in f64, so the result does not depend on the values' order beyond f32 rounding.
pub fn softmax(values: &mut [f32], log: bool) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in values.iter_mut() {
        *v -= max;
        sum += f64::from(*v).exp();
    }
    if log {
        let ln = sum.ln();
        values.iter_mut().for_each(|v| *v = (f64::from(*v) - ln) as f32);
    } else {
        values.iter_mut().for_each(|v| *v = (f64::from(*v).exp() / sum) as f32);
    }
}
