//! Weights in 8 bits, biases in units of their sums.

use super::decibels;
use crate::graph::{ConstId, Data, Network, Node, Op, Quantization};

/// Largest integer of a weight; symmetric.
const MAX_WEIGHT: f32 = 127.0;
/// What biases, and sums of products, stay below.
const MAX_SUM: f64 = (1u32 << 30) as f64;

/// Whether a layer's sums fit 32 bits whatever its weights and input are.
pub(super) fn sums_fit(network: &Network, node: &Node) -> bool {
    let weights = node.op.constants().next().map(|id| network.graph.constant(id));
    weights.is_some_and(|w| {
        let inputs: usize = w.shape[1..].iter().product();
        inputs as f64 * f64::from(u8::MAX) * f64::from(MAX_WEIGHT) < MAX_SUM
    })
}

/// Makes node `i` compute in int8, and returns its weights' signal over noise in dB. With `means` of the
/// input's channels the bias takes back the mean error of the rounded weights.
pub(super) fn quantize(
    network: &mut Network,
    i: usize,
    input: &Quantization,
    means: Option<&[f64]>,
) -> f64 {
    let (op, name) = (network.graph.nodes[i].op.clone(), network.graph.nodes[i].name.clone());
    let (weights, bias, groups) = match &op {
        Op::Conv(conv) => (conv.weights, conv.bias, conv.groups),
        Op::Linear(linear) => (linear.weights, linear.bias, 1),
        _ => unreachable!("a layer"),
    };
    let shape = network.graph.constant(weights).shape.clone();
    let (outputs, row_len) = (shape[0], shape[1..].iter().product::<usize>());
    let taps = row_len / shape[1];
    let source = network.constant(weights);
    let (mut integers, mut scales, mut sums) = (Vec::with_capacity(source.len()), vec![], vec![]);
    let (mut signal, mut noise) = (0.0, 0.0);
    for (o, row) in source.chunks(row_len).enumerate() {
        let real_bias = bias.map_or(0.0, |id| f64::from(network.constant(id)[o]));
        let scale = scale_of(row, real_bias, input.scale);
        let first = o / (outputs / groups) * shape[1];
        let mut shift = 0.0;
        for (k, w) in row.iter().enumerate() {
            let q = (w / scale).round_ties_even().clamp(-MAX_WEIGHT, MAX_WEIGHT);
            let error = f64::from(q * scale) - f64::from(*w);
            signal += f64::from(*w) * f64::from(*w);
            noise += error * error;
            shift += means.map_or(0.0, |means| error * means[first + k / taps]);
            integers.push(q as i8);
        }
        let unit = f64::from(input.scale * scale);
        sums.push(((real_bias - shift) / unit).round_ties_even().clamp(-MAX_SUM, MAX_SUM) as i32);
        scales.push(scale);
    }
    let weights = network.add_constant(&format!("{name}.weight"), &shape, integers);
    let bias = network.add_constant(&format!("{name}.bias"), &[outputs], sums);
    let scales = network.add_constant(&format!("{name}.scale"), &[outputs], scales);
    match &mut network.graph.nodes[i].op {
        Op::Conv(conv) => {
            (conv.weights, conv.bias, conv.weight_scales) = (weights, Some(bias), Some(scales));
        }
        Op::Linear(linear) => {
            (linear.weights, linear.bias, linear.weight_scales) =
                (weights, Some(bias), Some(scales));
        }
        _ => unreachable!("a layer"),
    }
    decibels(signal, noise)
}

/// A row's scale: its largest weight is 127, and its bias fits.
fn scale_of(row: &[f32], bias: f64, input_scale: f32) -> f32 {
    let largest = row.iter().fold(0f32, |a, w| a.max(w.abs()));
    let for_bias = 2.0 * bias.abs() / (f64::from(input_scale) * MAX_SUM);
    (largest / MAX_WEIGHT).max(for_bias as f32).max(f32::MIN_POSITIVE / input_scale.min(1.0))
}

/// Drops constants that no node uses any more.
pub(super) fn drop_unused(network: &mut Network) {
    let mut number: Vec<Option<ConstId>> = vec![None; network.data.len()];
    let mut old: Vec<Data> = std::mem::take(&mut network.data);
    let specs = std::mem::take(&mut network.graph.constants);
    let mut nodes = std::mem::take(&mut network.graph.nodes);
    for id in nodes.iter_mut().flat_map(|n| n.op.constants_mut()) {
        let i = id.0 as usize;
        let new = number[i].unwrap_or_else(|| {
            let data = std::mem::take(&mut old[i]);
            network.add_constant(&specs[i].name, &specs[i].shape, data)
        });
        number[i] = Some(new);
        *id = new;
    }
    network.graph.nodes = nodes;
}
