//! The arithmetic of networks with 8-bit values: what every kernel computes to the bit.
//!
//! `q`, `zp`, `s` are a value's integer, zero point and scale; `y` is the result. Every operation
//! on reals here is one f32 operation, rounded on its own (no fused multiply-add), in this order.
//!
//! - **Storing a real `x` in u8**: `t = x / s_y`.
//! - **Convolution, linear layer**: `acc = bias + sum((q_a - zp_a) * w)` in i32, modulo 2^32; padding
//!   is `zp_a`. `t = f32(acc) * ((s_a * s_w) / s_y)`. A residual adds `f32(q_r - zp_r) * (s_r / s_y)`.
//!   With [`Conv::before_add`] `i`, first `u = f32(acc) * ((s_a * s_w) / s_i)`, bounded and rounded as
//!   integers of `i` are, then `t = u * (s_i / s_y)`, plus the residual's term.
//!   A real result is `f32(acc) * (s_a * s_w)`, plus `f32(q_r - zp_r) * s_r`; with `before_add`
//!   `u * s_i` stands for the first term.
//! - **Addition** of two quantized operands: the sum of their `f32(q - zp) * (s / s_y)`.
//! - **Clamp** of a quantized operand: `t = f32(q - zp) * (s / s_y)`.
//! - **Average over `n` elements** (of a window: those that its divisor counts): `t = f32(sum(q - zp)) *
//!   ((s / f32(n)) / s_y)`. A real result is `f32(sum(q - zp)) * (s / f32(n))`.
//! - **Maximum, and operators that move elements**, with operands quantized as their result: on the integers.
//! - **Everything else**: operands are dequantized, `f32(q - zp) * s`, and a real result is stored.
//!
//! Then `t` is bounded by [`Quantization::bounds`] of the operator's clamp, rounded to the nearest
//! integer, ties to even, and `zp_y` is added. A real result is clamped.

use std::borrow::Cow;

use super::{Shape, Window, clamp, inside, pixels};
use crate::graph::{Clamp, Conv, Linear, Network, Node, Op, PoolKind, Quantization};

/// An image's integers, as distances from zero, and their scale.
type Centred = (Vec<i32>, f32);

/// One image of a value.
pub(super) enum Value {
    Real(Vec<f64>),
    Quantized(Vec<u8>, Quantization),
}

impl Value {
    /// Real numbers as a value with this quantization holds them.
    pub(super) fn stored(real: Vec<f64>, quantization: Option<Quantization>) -> Self {
        match quantization {
            Some(q) => Self::Quantized(real.iter().map(|x| q.quantize(*x as f32)).collect(), q),
            None => Self::Real(real),
        }
    }

    pub(super) fn real(&self) -> Cow<'_, [f64]> {
        match self {
            Self::Real(values) => Cow::Borrowed(values),
            Self::Quantized(values, q) => {
                Cow::Owned(values.iter().map(|v| f64::from(q.dequantize(*v))).collect())
            }
        }
    }

    fn centred(&self) -> Option<Centred> {
        match self {
            Self::Real(_) => None,
            Self::Quantized(values, q) => {
                Some((values.iter().map(|v| q.centred(*v)).collect(), q.scale))
            }
        }
    }
}

/// One node on one image.
pub(super) fn apply(
    network: &Network,
    node: &Node,
    x: &[(&Value, Shape)],
    (output, quantization): (Shape, Option<Quantization>),
) -> Value {
    let centred: Option<Vec<_>> = x.iter().map(|(value, _)| value.centred()).collect();
    if let Some(operands) = centred {
        let shapes = (x.first().map_or(output, |(_, shape)| *shape), output);
        if let Some(value) = apply_to_integers(network, &node.op, &operands, shapes, quantization) {
            return value;
        }
    }
    let reals: Vec<Cow<'_, [f64]>> = x.iter().map(|(value, _)| value.real()).collect();
    let operands: Vec<_> = reals.iter().map(|r| &**r).zip(x.iter().map(|(_, s)| *s)).collect();
    Value::stored(super::apply(network, &node.op, &operands, output), quantization)
}

/// An operator that does not go by way of real operands; `None` for the others.
fn apply_to_integers(
    network: &Network,
    op: &Op,
    x: &[Centred],
    (input, output): (Shape, Shape),
    quantization: Option<Quantization>,
) -> Option<Value> {
    let scale = quantization.map(|q| q.scale);
    let mean = |sum: i32, n: usize| sum as f32 * in_scales(x[0].1 / n as f32, scale);
    match op {
        Op::Conv(conv) => {
            let scales = conv.weight_scales?;
            let accumulators = convolve(network, conv, &x[0].0, input, output);
            let scales = (x[0].1, network.constant(scales));
            let mut terms = scaled(&accumulators, scales, conv.before_add, scale);
            if conv.residual {
                add(&mut terms, &x[1], scale);
            }
            Some(bounded(terms, conv.clamp, quantization))
        }
        Op::Linear(Linear { weights, bias, clamp, weight_scales }) => {
            let scales = (*weight_scales)?;
            let conv = Conv::pointwise(*weights, *bias);
            let accumulators = convolve(network, &conv, &x[0].0, input, output);
            let terms = scaled(&accumulators, (x[0].1, network.constant(scales)), None, scale);
            Some(bounded(terms, *clamp, quantization))
        }
        Op::Add(bounds) | Op::Clamp(bounds) if scale.is_some() => {
            let mut terms = vec![0.0; output.len()];
            x.iter().for_each(|operand| add(&mut terms, operand, scale));
            Some(bounded(terms, *bounds, quantization))
        }
        Op::GlobalAveragePool => {
            let planes = x[0].0.chunks(input.h * input.w);
            let means = planes.map(|plane| mean(plane.iter().sum(), plane.len()));
            Some(bounded(means.collect(), Clamp::NONE, quantization))
        }
        Op::Pool(pool) if pool.kind != PoolKind::Max => {
            let windows = pixels(output).map(|o| super::window(pool, input, o));
            let means = windows.map(|Window { inside, divisor }| {
                mean(inside.iter().map(|i| x[0].0[*i]).sum(), divisor)
            });
            Some(bounded(means.collect(), Clamp::NONE, quantization))
        }
        _ => None,
    }
}

/// A factor that makes reals of integers; for a result in u8, in its scales.
fn in_scales(factor: f32, scale: Option<f32>) -> f32 {
    scale.map_or(factor, |scale| factor / scale)
}

fn add(terms: &mut [f32], (centred, operand_scale): &Centred, scale: Option<f32>) {
    let factor = in_scales(*operand_scale, scale);
    terms.iter_mut().zip(centred).for_each(|(t, q)| *t += *q as f32 * factor);
}

fn bounded(terms: Vec<f32>, bounds: Clamp, quantization: Option<Quantization>) -> Value {
    match quantization {
        Some(q) => {
            let bounds = q.bounds(bounds);
            Value::Quantized(terms.iter().map(|t| q.round(*t, bounds)).collect(), q)
        }
        None => Value::Real(clamp(terms.into_iter().map(f64::from).collect(), bounds)),
    }
}

/// Accumulators of an image in terms of the result.
fn scaled(
    accumulators: &[i32],
    (input_scale, weight_scales): (f32, &[f32]),
    before_add: Option<Quantization>,
    scale: Option<f32>,
) -> Vec<f32> {
    let plane = accumulators.len() / weight_scales.len();
    let planes = accumulators.chunks(plane).zip(weight_scales);
    let term = |acc: i32, weight_scale: f32| {
        let factor = input_scale * weight_scale;
        let Some(first) = before_add else { return acc as f32 * in_scales(factor, scale) };
        let rounded = first.round(acc as f32 * (factor / first.scale), first.bounds(Clamp::NONE));
        first.centred(rounded) as f32 * in_scales(first.scale, scale)
    };
    planes.flat_map(|(plane, w)| plane.iter().map(move |acc| term(*acc, *w))).collect()
}

/// The sums of an int8 convolution.
fn convolve(network: &Network, conv: &Conv, x: &[i32], input: Shape, output: Shape) -> Vec<i32> {
    let weights = network.data[conv.weights.0 as usize].i8();
    let bias = conv.bias.map(|id| network.data[id.0 as usize].i32());
    let [kh, kw] = match network.graph.constant(conv.weights).shape[2..] {
        [kh, kw] => [kh, kw],
        _ => [1, 1],
    };
    let (icg, ocg) = (input.c / conv.groups, output.c / conv.groups);
    let at = |[o, oh, ow]: [usize; 3]| {
        let mut acc = bias.map_or(0, |bias| bias[o]);
        for i in 0..icg {
            for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
                let ih = oh * conv.stride[0] + ky * conv.dilation[0];
                let iw = ow * conv.stride[1] + kx * conv.dilation[1];
                let ih = inside(ih, conv.pad.top, input.h);
                let (Some(ih), Some(iw)) = (ih, inside(iw, conv.pad.left, input.w)) else {
                    continue;
                };
                let w = i32::from(weights[((o * icg + i) * kh + ky) * kw + kx]);
                let q = x[((o / ocg * icg + i) * input.h + ih) * input.w + iw];
                acc = acc.wrapping_add(w * q);
            }
        }
        acc
    };
    pixels(output).map(at).collect()
}
