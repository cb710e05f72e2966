//! Networks for the packed format's tests.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod forged;

use skipstone::Recipe;
use skipstone::format::{PackOptions, TestVector, WeightDtype};
use skipstone::graph::{
    Affine, AxisOrder, Clamp, Conv, Linear, Network, Node, Op, Pad, Pool, PoolKind, Port,
    Quantization, Shape, Slice, ValueId,
};

/// Builds a network node by node.
struct Builder {
    network: Network,
    seed: u32,
}

impl Builder {
    /// A constant with values that f16 represents.
    fn constant(&mut self, name: &str, shape: &[usize]) -> skipstone::graph::ConstId {
        let values = (0..shape.iter().product()).map(|_| {
            self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((self.seed >> 22) as f32 - 512.0) / 256.0
        });
        let values: Vec<f32> = values.collect();
        self.network.add_constant(name, shape, values)
    }

    fn integers(&mut self, name: &str, shape: &[usize]) -> skipstone::graph::ConstId {
        let values = (0..shape.iter().product()).map(|i| (i * 97 % 255) as i8);
        self.network.add_constant(name, shape, values.collect::<Vec<_>>())
    }

    fn node(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
        let graph = &mut self.network.graph;
        graph.nodes.push(Node { name: name.to_owned(), op, inputs: inputs.to_vec() });
        graph.value_of(graph.nodes.len() - 1)
    }
}

fn port(name: &str, value: ValueId, shape: Shape, axes: AxisOrder) -> Port {
    Port { name: name.to_owned(), value, shape, axes }
}

/// A small network with every operator, every kind of constant, two inputs and two outputs.
pub(crate) fn every_op() -> Network {
    let mut b = Builder { network: Network::default(), seed: 1 };
    let (image, vector) = (ValueId(0), ValueId(1));
    b.network.graph.name = "every operator, ünïcode".to_owned();
    b.network.graph.inputs = vec![
        port("image", image, Shape::new(3, 9, 8), AxisOrder::nhwc()),
        port("vector", vector, Shape::vector(5), AxisOrder::nc()),
    ];
    let stem = Conv {
        weights: b.constant("stem.weight", &[6, 3, 3, 3]),
        bias: Some(b.constant("stem.bias", &[6])),
        stride: [2, 2],
        pad: Pad { top: 1, left: 1, bottom: 0, right: 1 },
        dilation: [1, 1],
        groups: 1,
        residual: false,
        clamp: Clamp::RELU,
        weight_scales: None,
        before_add: None,
    };
    let stem = b.node("stem", Op::Conv(stem), &[image]); // 6x4x4
    let grouped = Conv {
        weights: b.constant("grouped.weight", &[6, 2, 3, 1]),
        bias: None,
        stride: [1, 1],
        pad: Pad { top: 2, left: 0, bottom: 2, right: 0 },
        dilation: [2, 3],
        groups: 3,
        residual: true,
        clamp: Clamp { min: -1.5, max: 6.0 },
        weight_scales: None,
        before_add: None,
    };
    let grouped = b.node("grouped", Op::Conv(grouped), &[stem, stem]);
    let pool = |kind, ceil_mode| {
        Op::Pool(Pool {
            kind,
            kernel: [3, 2],
            stride: [1, 2],
            pad: Pad { top: 1, left: 0, bottom: 1, right: 0 },
            dilation: [1, 1],
            ceil_mode,
        })
    };
    let max = b.node("max", pool(PoolKind::Max, false), &[grouped]); // 6x4x2
    let average = PoolKind::Average { count_include_pad: true };
    let average = b.node("average", pool(average, true), &[grouped]);
    let average_inside = PoolKind::Average { count_include_pad: false };
    let average_inside = b.node("average.inside", pool(average_inside, false), &[grouped]);
    let affine = Affine {
        scale: b.constant("affine.scale", &[6]),
        shift: b.constant("affine.shift", &[6]),
        clamp: Clamp::NONE,
    };
    let affine = b.node("affine", Op::Affine(affine), &[max]);
    let sum = b.node("sum", Op::Add(Clamp::RELU), &[affine, average]);
    let frame = Pad { top: 0, left: 1, bottom: 0, right: 1 };
    let padded = Op::Pad { channels: [1, 1], frame, value: -0.0 };
    let padded = b.node("padded", padded, &[average_inside]); // 8x4x4
    let slice = Slice { start: [1, 0, 0], step: [1, 1, 2], end: [7, 4, u32::MAX as usize] };
    let sliced = b.node("sliced", Op::Slice(slice), &[padded]); // 6x4x2
    let plane = b.constant("plane", &[1, 4, 2]);
    let plane = b.node("plane", Op::Constant(plane), &[]);
    let all = b.node("all", Op::Concat, &[sum, sliced, plane]); // 13x4x2
    let clamped = b.node("", Op::Clamp(Clamp { min: -2.0, max: f32::INFINITY }), &[all]);
    let mean = b.node("mean", Op::GlobalAveragePool, &[clamped]); // 13
    let flat = b.node("flat", Op::Flatten { channels_last: true }, &[clamped]); // 104
    let joined = b.node("joined", Op::Concat, &[mean, flat]); // 117
    let weights = b.constant("fc.weight", &[5, 117]);
    let linear = Linear::new(weights, Some(b.constant("fc.bias", &[5])));
    let linear = b.node("fc", Op::Linear(linear), &[joined]);
    let logits = b.node("logits", Op::Add(Clamp::NONE), &[linear, vector]);
    let softmax = b.node("softmax", Op::Softmax { log: false }, &[logits]);
    let log_softmax = b.node("log_softmax", Op::Softmax { log: true }, &[logits]);
    b.network.graph.outputs = vec![
        port("probabilities", softmax, Shape::vector(5), AxisOrder::nc()),
        port("log", log_softmax, Shape::vector(5), AxisOrder::nc()),
    ];
    b.network
}

/// A small network with 8-bit values: a convolution of an 8-bit image, one with a residual that
/// rounds before it adds, and a linear layer with real results.
#[allow(dead_code, reason = "not every test that has these networks quantizes")]
pub(crate) fn int8() -> Network {
    let quantization = |scale, zero_point, max| Some(Quantization { scale, zero_point, max });
    let mut b = Builder { network: Network::default(), seed: 3 };
    b.network.graph.name = "int8".to_owned();
    b.network.graph.inputs = vec![port("x", ValueId(0), Shape::new(2, 4, 5), AxisOrder::nchw())];
    let conv = |b: &mut Builder, ic: usize| {
        let weights = b.integers("weight", &[3, ic, 3, 3]);
        let bias = b.network.add_constant("bias", &[3], vec![100, -70_000, i32::MAX]);
        let scales = b.network.add_constant("scale", &[3], vec![0.5, 0.25, 1e-6]);
        Conv {
            pad: Pad::all(1),
            weight_scales: Some(scales),
            clamp: Clamp::RELU,
            ..Conv::pointwise(weights, Some(bias))
        }
    };
    let first = conv(&mut b, 2);
    let first = b.node("first", Op::Conv(first), &[ValueId(0)]);
    let before_add = quantization(0.75, 128, 255);
    let second = Conv { residual: true, before_add, ..conv(&mut b, 3) };
    let second = b.node("second", Op::Conv(second), &[first, first]);
    let mean = b.node("mean", Op::GlobalAveragePool, &[second]);
    let weights = b.integers("fc.weight", &[4, 3]);
    let scales = b.network.add_constant("fc.scale", &[4], vec![1.0, 2.0, 3.0, 4.0]);
    let linear = Linear { weight_scales: Some(scales), ..Linear::new(weights, None) };
    let linear = b.node("fc", Op::Linear(linear), &[mean]);
    let graph = &mut b.network.graph;
    graph.outputs = vec![port("y", linear, Shape::vector(4), AxisOrder::nc())];
    graph.quantization = vec![
        quantization(1.0 / 255.0, 0, 255),
        quantization(64.0, 0, 127),
        quantization(96.0, 1, 127),
        quantization(32.0, 0, 127),
        None,
    ];
    b.network
}

/// Everything a file can carry, for [`every_op`].
pub(crate) fn all_options(dtype: WeightDtype) -> PackOptions {
    let metadata = [("licence", "CC0-1.0\nsee there"), ("source", "every_op.onnx")];
    PackOptions {
        dtype,
        labels: Some(
            ["tench", "goldfish", "", "großer weißer Hai", "hen"].map(String::from).into(),
        ),
        recipe: Some(Recipe::imagenet()),
        metadata: metadata.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        test_vector: Some(TestVector {
            seed: 7,
            outputs: vec![vec![0.25, 0.5, 0.125, 0.125, 0.0], vec![-1.0; 5]],
        }),
    }
}
