//! The arithmetic of folding: f64, rounded once.

use crate::graph::{Clamp, Pad};

/// The bounds of clamping to `first`, then to `then`.
pub(super) fn both_clamps(first: Clamp, then: Clamp) -> Clamp {
    let bound = |v: f32| v.max(then.min).min(then.max);
    Clamp { min: bound(first.min), max: bound(first.max) }
}

/// Padding inside padding.
pub(super) fn both_pads(a: Pad, b: Pad) -> Pad {
    Pad {
        top: a.top + b.top,
        left: a.left + b.left,
        bottom: a.bottom + b.bottom,
        right: a.right + b.right,
    }
}

/// `(x * scale1 + shift1) * scale2 + shift2` as one scale and shift per channel.
pub(super) fn affine_after_affine(
    first: (&[f32], &[f32]),
    second: (&[f32], &[f32]),
) -> (Vec<f32>, Vec<f32>) {
    let scale = first.0.iter().zip(second.0);
    let scale = scale.map(|(&a, &b)| (f64::from(a) * f64::from(b)) as f32).collect();
    (scale, scaled_bias(Some(first.1), second.0, second.1))
}

/// `bias * scale + shift`.
pub(super) fn scaled_bias(bias: Option<&[f32]>, scale: &[f32], shift: &[f32]) -> Vec<f32> {
    let Some(bias) = bias else { return shift.to_vec() };
    let values = bias.iter().zip(scale).zip(shift);
    values.map(|((&b, &a), &s)| (f64::from(b) * f64::from(a) + f64::from(s)) as f32).collect()
}

/// Multiplies output channel `i` of weights by `scale[i]`.
pub(super) fn scale_rows(weights: &mut [f32], scale: &[f32]) {
    let row = weights.len() / scale.len();
    for (row, &scale) in weights.chunks_exact_mut(row).zip(scale) {
        row.iter_mut().for_each(|w| *w = (f64::from(*w) * f64::from(scale)) as f32);
    }
}

/// Multiplies input channels of weights of `shape` (`[out, in / groups, kernel...]`) by their
/// scales, and returns the bias that their shifts amount to.
pub(super) fn scale_columns(
    weights: &mut [f32],
    shape: &[usize],
    groups: usize,
    (scale, shift): (&[f32], &[f32]),
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let (oc, icg) = (shape[0], shape[1]);
    let kernel: usize = shape[2..].iter().product();
    let mut sums = Vec::with_capacity(oc);
    for (o, row) in weights.chunks_exact_mut(icg * kernel).enumerate() {
        let first = o / (oc / groups) * icg;
        let mut sum = bias.map_or(0.0, |b| f64::from(b[o]));
        for (i, taps) in row.chunks_exact_mut(kernel).enumerate() {
            let (a, b) = (f64::from(scale[first + i]), f64::from(shift[first + i]));
            for w in taps {
                sum += f64::from(*w) * b;
                *w = (f64::from(*w) * a) as f32;
            }
        }
        sums.push(sum as f32);
    }
    sums
}
