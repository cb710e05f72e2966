//! The reference interpreter: obvious loops that nobody optimises. It is what tests trust.
//!
//! Real activations are f64 throughout, so that its own rounding is far below that of any kernel.
//! What is computed in int8 follows `quantized` to the bit.

mod quantized;

use self::quantized::Value;
use super::{Affine, Clamp, Conv, Linear, Network, Op, Pad, Pool, PoolKind, Shape, Slice};
use crate::error::{Error, Result};

/// Runs `batch` images through `network`.
///
/// `shapes` are the shapes of one image of each input (`network.graph.input_shapes()` for the
/// defaults). Inputs and outputs are dense, in their port's axis order, images one after another.
///
/// # Errors
/// Inputs of the wrong number or length; operands that do not fit, naming the node.
pub fn run(
    network: &Network,
    shapes: &[Shape],
    batch: usize,
    inputs: &[&[f32]],
) -> Result<Vec<Vec<f32>>> {
    let graph = &network.graph;
    let shapes = graph.infer_shapes(shapes)?;
    let mut outputs: Vec<Vec<f32>> = vec![Vec::new(); graph.outputs.len()];
    if inputs.len() != graph.inputs.len() {
        return Err(Error::invalid(format!("{} inputs given", inputs.len())));
    }
    for (port, input) in graph.inputs.iter().zip(inputs) {
        let len = batch * shapes[port.value.0 as usize].len();
        if input.len() != len {
            return Err(Error::invalid(format!(
                "input '{}' has {} elements, expected {len}",
                port.name,
                input.len()
            )));
        }
    }
    for n in 0..batch {
        let mut values: Vec<Value> = Vec::with_capacity(graph.nb_values());
        for (port, input) in graph.inputs.iter().zip(inputs) {
            let shape = shapes[port.value.0 as usize];
            let image = &input[n * shape.len()..][..shape.len()];
            let (c, h, w) = port.axes.strides(shape);
            let image = pixels(shape).map(|[ic, ih, iw]| image[ic * c + ih * h + iw * w].into());
            values.push(Value::stored(image.collect(), graph.quantization_of(port.value)));
        }
        for (i, node) in graph.nodes.iter().enumerate() {
            let (own, operands) = (graph.value_of(i), node.inputs.iter());
            let operands = operands.map(|v| (&values[v.0 as usize], shapes[v.0 as usize]));
            let (operands, output) = (operands.collect::<Vec<_>>(), shapes[own.0 as usize]);
            let quantization = graph.quantization_of(own);
            values.push(quantized::apply(network, node, &operands, (output, quantization)));
        }
        for (port, output) in graph.outputs.iter().zip(&mut outputs) {
            let shape = shapes[port.value.0 as usize];
            let (c, h, w) = port.axes.strides(shape);
            let mut image = vec![0.0; shape.len()];
            for ([ic, ih, iw], v) in pixels(shape).zip(&*values[port.value.0 as usize].real()) {
                image[ic * c + ih * h + iw * w] = *v as f32;
            }
            output.extend(image);
        }
    }
    Ok(outputs)
}

/// Coordinates `[c, h, w]` of an image in memory order.
fn pixels(shape: Shape) -> impl Iterator<Item = [usize; 3]> {
    (0..shape.len()).map(move |i| {
        let plane = shape.h * shape.w;
        [i / plane, i % plane / shape.w, i % shape.w]
    })
}

/// One operator on one image; `output` is its shape.
pub(super) fn apply(network: &Network, op: &Op, x: &[(&[f64], Shape)], output: Shape) -> Vec<f64> {
    let constant = |id| network.constant(id).iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    match op {
        Op::Conv(conv) => {
            let [_, _, kh, kw] = network.graph.constant(conv.weights).shape[..] else {
                unreachable!("checked by Op::check")
            };
            let bias = conv.bias.map_or_else(|| vec![0.0; output.c], constant);
            let weights = constant(conv.weights);
            let mut y = convolve(conv, [kh, kw], &weights, &bias, x[0], output);
            if conv.residual {
                y.iter_mut().zip(x[1].0).for_each(|(y, r)| *y += r);
            }
            clamp(y, conv.clamp)
        }
        Op::Pool(p) => pool(p, x[0], output),
        Op::GlobalAveragePool => {
            let plane = x[0].1.h * x[0].1.w;
            x[0].0.chunks(plane).map(|c| c.iter().sum::<f64>() / plane as f64).collect()
        }
        Op::Linear(Linear { weights, bias, clamp: bounds, .. }) => {
            let bias = bias.map_or_else(|| vec![0.0; output.c], constant);
            let weights = constant(*weights);
            let rows = weights.chunks(x[0].0.len()).zip(bias);
            let dot = |w: &[f64]| w.iter().zip(x[0].0).map(|(w, x)| w * x).sum::<f64>();
            clamp(rows.map(|(w, b)| dot(w) + b).collect(), *bounds)
        }
        Op::Add(bounds) => clamp(x[0].0.iter().zip(x[1].0).map(|(a, b)| a + b).collect(), *bounds),
        Op::Affine(Affine { scale, shift, clamp: bounds }) => {
            let (scale, shift) = (constant(*scale), constant(*shift));
            let values = pixels(output).zip(x[0].0);
            clamp(values.map(|([c, ..], v)| v * scale[c] + shift[c]).collect(), *bounds)
        }
        Op::Clamp(bounds) => clamp(x[0].0.to_vec(), *bounds),
        Op::Concat => x.iter().flat_map(|(data, _)| *data).copied().collect(),
        Op::Pad { channels, frame, value } => {
            let Shape { c, h, w } = x[0].1;
            let at = |[oc, oh, ow]: [usize; 3]| {
                let (ic, ih, iw) = (
                    oc.wrapping_sub(channels[0]),
                    oh.wrapping_sub(frame.top),
                    ow.wrapping_sub(frame.left),
                );
                match ic < c && ih < h && iw < w {
                    true => x[0].0[(ic * h + ih) * w + iw],
                    false => f64::from(*value),
                }
            };
            pixels(output).map(at).collect()
        }
        Op::Slice(Slice { start, step, .. }) => {
            let Shape { h, w, .. } = x[0].1;
            let at = |o: [usize; 3]| {
                let [ic, ih, iw] = [0, 1, 2].map(|i| start[i] + o[i] * step[i]);
                x[0].0[(ic * h + ih) * w + iw]
            };
            pixels(output).map(at).collect()
        }
        Op::Flatten { channels_last: false } => x[0].0.to_vec(),
        Op::Flatten { channels_last: true } => {
            let Shape { c, h, w } = x[0].1;
            (0..c * h * w).map(|i| x[0].0[i % c * h * w + i / c]).collect()
        }
        Op::Softmax { log } => softmax(x[0], *log),
        Op::Constant(id) => constant(*id),
    }
}

fn clamp(mut y: Vec<f64>, bounds: Clamp) -> Vec<f64> {
    let (min, max) = (f64::from(bounds.min), f64::from(bounds.max));
    y.iter_mut().for_each(|v| *v = v.max(min).min(max));
    y
}

fn convolve(
    conv: &Conv,
    [kh, kw]: [usize; 2],
    weights: &[f64],
    bias: &[f64],
    (x, input): (&[f64], Shape),
    output: Shape,
) -> Vec<f64> {
    let (icg, ocg) = (input.c / conv.groups, output.c / conv.groups);
    let mut y = Vec::with_capacity(output.len());
    for oc in 0..output.c {
        let mut plane = vec![bias[oc]; output.h * output.w];
        for i in 0..icg {
            let ic = oc / ocg * icg + i;
            for ky in 0..kh {
                for kx in 0..kw {
                    let w = weights[((oc * icg + i) * kh + ky) * kw + kx];
                    for oh in 0..output.h {
                        let ih = oh * conv.stride[0] + ky * conv.dilation[0];
                        let Some(ih) = inside(ih, conv.pad.top, input.h) else { continue };
                        for ow in 0..output.w {
                            let iw = ow * conv.stride[1] + kx * conv.dilation[1];
                            let Some(iw) = inside(iw, conv.pad.left, input.w) else { continue };
                            plane[oh * output.w + ow] += w * x[(ic * input.h + ih) * input.w + iw];
                        }
                    }
                }
            }
        }
        y.extend(plane);
    }
    y
}

/// The image's coordinate of a padded one; `None` in the padding.
fn inside(padded: usize, before: usize, size: usize) -> Option<usize> {
    padded.checked_sub(before).filter(|&i| i < size)
}

/// What a pool reads for one output element.
struct Window {
    /// Indices of the elements inside the image.
    inside: Vec<usize>,
    /// What a mean's sum is divided by.
    divisor: usize,
}

fn window(p: &Pool, input: Shape, [c, oh, ow]: [usize; 3]) -> Window {
    let Pad { top, left, bottom, right } = p.pad;
    let (mut elements, mut nb_padded) = (Vec::new(), 0);
    for ky in 0..p.kernel[0] {
        for kx in 0..p.kernel[1] {
            let ih = oh * p.stride[0] + ky * p.dilation[0];
            let iw = ow * p.stride[1] + kx * p.dilation[1];
            if ih < top + input.h + bottom && iw < left + input.w + right {
                nb_padded += 1;
            }
            if let (Some(ih), Some(iw)) = (inside(ih, top, input.h), inside(iw, left, input.w)) {
                elements.push((c * input.h + ih) * input.w + iw);
            }
        }
    }
    let divisor = match p.kind {
        PoolKind::Average { count_include_pad: true } => nb_padded,
        _ => elements.len(),
    };
    Window { inside: elements, divisor }
}

fn pool(p: &Pool, (x, input): (&[f64], Shape), output: Shape) -> Vec<f64> {
    let at = |o: [usize; 3]| {
        let Window { inside, divisor } = window(p, input, o);
        let values = inside.iter().map(|i| x[*i]);
        match p.kind {
            PoolKind::Max => values.fold(f64::NEG_INFINITY, f64::max),
            PoolKind::Average { .. } => values.sum::<f64>() / divisor as f64,
        }
    };
    pixels(output).map(at).collect()
}

/// Over channels, at each pixel.
fn softmax((x, shape): (&[f64], Shape), log: bool) -> Vec<f64> {
    let plane = shape.h * shape.w;
    let mut y = vec![0.0; x.len()];
    for p in 0..plane {
        let channel = |c: usize| x[c * plane + p];
        let max = (0..shape.c).map(channel).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..shape.c).map(|c| (channel(c) - max).exp()).sum();
        for c in 0..shape.c {
            let shifted = channel(c) - max;
            y[c * plane + p] = if log { shifted - sum.ln() } else { shifted.exp() / sum };
        }
    }
    y
}
