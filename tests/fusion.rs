//! Simplification keeps what a network computes, and leaves the nodes it should.

#![cfg(feature = "import")]

mod common;

use common::Rng;
use skipstone::ErrorKind;
use skipstone::graph::{
    Affine, AxisOrder, Clamp, Conv, Graph, Linear, Network, Node, Op, Pad, Pool, PoolKind, Port,
    Shape, Slice, ValueId, fuse, reference,
};
use skipstone::import::onnx;
use skipstone::import::synth::{SynthOptions, synth};
use skipstone::import::zoo::architectures;

/// Difference relative to the largest value.
const TOLERANCE: f32 = 1e-5;

fn random_inputs(network: &Network, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = Rng(seed);
    network.graph.input_shapes().iter().map(|s| rng.vec(s.len())).collect()
}

fn outputs(network: &Network, inputs: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    reference::run(network, &network.graph.input_shapes(), 1, &inputs).unwrap()
}

/// Fuses, and checks that the outputs stay.
#[track_caller]
fn fused(network: &Network, what: &str) -> Network {
    let mut fused = network.clone();
    fuse::fuse(&mut fused).unwrap_or_else(|e| panic!("{what}: {e}"));
    fused.graph.validate().unwrap();
    let inputs = random_inputs(network, 7);
    let (before, after) = (outputs(network, &inputs), outputs(&fused, &inputs));
    for (before, after) in before.iter().zip(&after) {
        let scale = before.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        let error = before.iter().zip(after).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale;
        assert!(error <= TOLERANCE, "{what}: {error:e}\n{network:#?}\n{fused:#?}");
    }
    fused
}

/// How often each operator occurs, in order of first occurrence.
fn census(network: &Network) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for kind in network.graph.nodes.iter().map(|n| n.op.kind()) {
        match counts.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, count)) => *count += 1,
            None => counts.push((kind, 1)),
        }
    }
    let entries: Vec<String> = counts.iter().map(|(k, n)| format!("{k} {n}")).collect();
    entries.join(", ")
}

fn synthetic(arch: &str, input_size: Option<[usize; 2]>) -> Network {
    let options = SynthOptions { input_size, classes: Some(10) };
    let model = synth(arch, 1, &options).unwrap();
    onnx::network(model, None, &Default::default()).unwrap()
}

#[test]
fn resnets_are_left_with_convolutions_and_little_else() {
    let head = "GlobalAveragePool 1, Linear 1";
    for (arch, convs) in [("resnet18", 20), ("resnet50", 53), ("resnext50_32x4d", 53)] {
        let fused = fused(&synthetic(arch, Some([33, 32])), arch);
        assert_eq!(census(&fused), format!("Conv {convs}, MaxPool 1, {head}"));
        let residuals =
            fused.graph.nodes.iter().filter(|n| matches!(&n.op, Op::Conv(c) if c.residual));
        assert_eq!(residuals.count(), if convs == 20 { 8 } else { 16 });
        assert!(!fused.graph.fixed_size);
    }
}

#[test]
fn tiny_networks_of_every_kind() {
    for arch in architectures().iter().filter(|a| a.name.starts_with("tiny")) {
        fused(&synthetic(arch.name, None), arch.name);
    }
}

/// A network under construction: one node after another.
struct Builder {
    network: Network,
    shapes: Vec<Shape>,
}

impl Builder {
    fn new(input: Shape) -> Self {
        let port =
            Port { name: "x".to_owned(), value: ValueId(0), shape: input, axes: AxisOrder::nchw() };
        let graph = Graph { inputs: vec![port], ..Default::default() };
        Self { network: Network { graph, data: Vec::new() }, shapes: vec![input] }
    }

    fn constant(&mut self, shape: &[usize], data: Vec<f32>) -> skipstone::graph::ConstId {
        self.network.add_constant("c", shape, data)
    }

    fn node(&mut self, op: Op, inputs: &[usize]) -> usize {
        self.try_node(op, inputs).expect("operands that fit")
    }

    /// Adds the node if its operands fit.
    fn try_node(&mut self, op: Op, inputs: &[usize]) -> Option<usize> {
        let inputs = inputs.iter().map(|&i| ValueId(i as u32)).collect();
        let name = format!("n{}", self.shapes.len());
        self.network.graph.nodes.push(Node { name, op, inputs });
        match self.network.graph.infer_shapes(&[self.shapes[0]]) {
            Ok(shapes) if shapes.iter().all(|s| s.len() <= 4096) => {
                self.shapes = shapes;
                Some(self.shapes.len() - 1)
            }
            _ => {
                self.network.graph.nodes.pop();
                None
            }
        }
    }

    fn conv(&mut self, rng: &mut Rng, x: usize, oc: usize, kernel: usize, pad: usize) -> Conv {
        let ic = self.shapes[x].c;
        let groups =
            if oc.is_multiple_of(2) && ic.is_multiple_of(2) { 1 + rng.below(2) } else { 1 };
        let shape = [oc, ic / groups, kernel, kernel];
        let weights = rng.vec(shape.iter().product());
        let weights = self.constant(&shape, weights);
        let bias = (rng.below(2) == 0).then(|| rng.vec(oc)).map(|b| self.constant(&[oc], b));
        Conv { pad: Pad::all(pad), groups, ..Conv::pointwise(weights, bias) }
    }

    fn affine(&mut self, rng: &mut Rng, x: usize) -> Affine {
        let c = self.shapes[x].c;
        let (scale, shift) = match rng.below(4) {
            0 => (vec![1.0; c], vec![0.0; c]),
            1 => (rng.vec(c), vec![0.0; c]),
            _ => (rng.vec(c), rng.vec(c)),
        };
        let (scale, shift) = (self.constant(&[c], scale), self.constant(&[c], shift));
        Affine { scale, shift, clamp: Clamp::NONE }
    }

    fn output(&mut self, value: usize) {
        let port = Port {
            name: format!("y{value}"),
            value: ValueId(value as u32),
            shape: self.shapes[value],
            axes: AxisOrder::nchw(),
        };
        self.network.graph.outputs.push(port);
    }
}

/// A random node on recent values; `None` if it happens not to fit.
fn random_node(b: &mut Builder, rng: &mut Rng) -> Option<usize> {
    let recent = |b: &Builder, rng: &mut Rng| {
        let nb = b.shapes.len();
        nb - 1 - rng.below(nb.min(3))
    };
    let x = recent(b, rng);
    let shape = b.shapes[x];
    let op = match rng.below(14) {
        0..=2 => {
            let oc = if rng.below(2) == 0 { shape.c } else { 2 + rng.below(4) };
            let kernel = 1 + 2 * rng.below(2);
            let pad = rng.below(2) * (kernel / 2);
            Op::Conv(b.conv(rng, x, oc, kernel, pad))
        }
        3..=5 => Op::Affine(b.affine(rng, x)),
        6 | 7 => {
            let clamps = [
                Clamp::RELU,
                Clamp { min: -0.5, max: 0.5 },
                Clamp::NONE,
                Clamp { min: 0.1, max: 6.0 },
            ];
            Op::Clamp(clamps[rng.below(4)])
        }
        8 => {
            let same: Vec<usize> = (0..b.shapes.len()).filter(|&i| b.shapes[i] == shape).collect();
            let y = same[rng.below(same.len())];
            return b.try_node(Op::Add(Clamp::NONE), &[y, x]);
        }
        9 => {
            let frame = Pad { top: rng.below(2), left: rng.below(2), bottom: 1, right: 0 };
            let value = if rng.below(3) == 0 { 0.5 } else { 0.0 };
            Op::Pad { channels: [rng.below(2) * rng.below(2), 0], frame, value }
        }
        10 => {
            let average = PoolKind::Average { count_include_pad: rng.below(2) == 0 };
            Op::Pool(Pool {
                kind: if rng.below(3) == 0 { average } else { PoolKind::Max },
                kernel: [3, 2],
                stride: [1 + rng.below(2); 2],
                pad: Pad { top: rng.below(2), left: 0, bottom: 0, right: rng.below(2) },
                dilation: [1; 2],
                ceil_mode: rng.below(2) == 0,
            })
        }
        11 => {
            // A constant image: often one number per channel, or one in all.
            let data = match rng.below(3) {
                0 => vec![0.5; shape.len()],
                1 => (0..shape.len()).map(|i| (i / (shape.h * shape.w)) as f32).collect(),
                _ => rng.vec(shape.len()),
            };
            let constant = b.constant(&[shape.c, shape.h, shape.w], data);
            let constant = b.try_node(Op::Constant(constant), &[])?;
            let mut operands = [constant, x];
            operands.rotate_left(rng.below(2));
            let op = if rng.below(2) == 0 { Op::Concat } else { Op::Add(Clamp::NONE) };
            return b.try_node(op, &operands);
        }
        12 => {
            Op::Slice(Slice { start: [0, rng.below(2), 0], step: [1, 1, 2], end: [usize::MAX; 3] })
        }
        _ => match rng.below(4) {
            0 => Op::GlobalAveragePool,
            1 => Op::Flatten { channels_last: rng.below(2) == 0 },
            2 => Op::Softmax { log: rng.below(2) == 0 },
            _ => {
                let c = shape.c;
                let weights = rng.vec(3 * c);
                let weights = b.constant(&[3, c], weights);
                Op::Linear(Linear::new(weights, None))
            }
        },
    };
    b.try_node(op, &[x])
}

#[test]
fn random_networks() {
    let mut nb_removed = 0;
    for seed in 0..400 {
        let mut rng = Rng(seed);
        let mut b = Builder::new(Shape::new(4, 6, 5));
        for _ in 0..12 {
            random_node(&mut b, &mut rng);
        }
        let nb = b.shapes.len();
        b.output(nb - 1);
        if nb > 4 {
            b.output(nb - 1 - rng.below(3));
        }
        let after = fused(&b.network, &format!("seed {seed}"));
        nb_removed += b.network.graph.nodes.len() - after.graph.nodes.len();
    }
    assert!(nb_removed > 1000, "{nb_removed} nodes removed");
}

#[test]
fn of_two_branches_the_later_one_takes_the_sum() {
    let mut rng = Rng(1);
    let mut b = Builder::new(Shape::new(2, 3, 3));
    let conv = b.conv(&mut rng, 0, 2, 3, 1);
    let main = b.node(Op::Conv(conv), &[0]);
    let conv = b.conv(&mut rng, 0, 2, 1, 0);
    let shortcut = b.node(Op::Conv(conv), &[0]);
    let sum = b.node(Op::Add(Clamp::NONE), &[main, shortcut]);
    let relu = b.node(Op::Clamp(Clamp::RELU), &[sum]);
    b.output(relu);
    let fused = fused(&b.network, "two branches");
    assert_eq!(census(&fused), "Conv 2");
    let Op::Conv(conv) = &fused.graph.nodes[1].op else { panic!() };
    assert!(conv.residual && conv.clamp == Clamp::RELU);
    assert_eq!(fused.graph.nodes[1].inputs, [ValueId(0), ValueId(1)]);
    assert_eq!(fused.graph.nodes[1].name, "n2", "the name of the convolution that does the work");
}

#[test]
fn a_value_used_twice_is_not_absorbed() {
    let mut rng = Rng(2);
    let mut b = Builder::new(Shape::new(2, 3, 3));
    let conv = b.conv(&mut rng, 0, 2, 1, 0);
    let conv = b.node(Op::Conv(conv), &[0]);
    let relu = b.node(Op::Clamp(Clamp::RELU), &[conv]);
    b.output(conv);
    b.output(relu);
    assert_eq!(census(&fused(&b.network, "used twice")), "Conv 1, Clamp 1");
}

#[test]
fn a_shift_before_a_padded_convolution_stays() {
    for (pad, expected) in [(0, "Conv 1"), (1, "Affine 1, Conv 1")] {
        let mut rng = Rng(3);
        let mut b = Builder::new(Shape::new(2, 4, 4));
        let (scale, shift) = (b.constant(&[2], vec![2.0, 3.0]), b.constant(&[2], vec![1.0, -1.0]));
        let affine = b.node(Op::Affine(Affine { scale, shift, clamp: Clamp::NONE }), &[0]);
        let conv = b.conv(&mut rng, affine, 3, 3, pad);
        let conv = b.node(Op::Conv(conv), &[affine]);
        b.output(conv);
        assert_eq!(census(&fused(&b.network, "shift")), expected);
    }
}

#[test]
fn weights_shared_by_convolutions_are_not_scaled() {
    let mut b = Builder::new(Shape::new(2, 3, 3));
    let weights = b.constant(&[2, 2, 1, 1], vec![1.0, 2.0, 3.0, 4.0]);
    let mut x = 0;
    for scale in [2.0, 3.0] {
        x = b.node(Op::Conv(Conv::pointwise(weights, None)), &[x]);
        let (scale, shift) = (b.constant(&[2], vec![scale; 2]), b.constant(&[2], vec![1.0; 2]));
        x = b.node(Op::Affine(Affine { scale, shift, clamp: Clamp::NONE }), &[x]);
    }
    b.output(x);
    let fused = fused(&b.network, "shared");
    assert_eq!(census(&fused), "Conv 2, Affine 2");
    assert_eq!(fused.data.len(), 4, "one filter, two scales, one shift");
}

#[test]
fn constants_are_numbered_in_execution_order() {
    let network = synthetic("tiny_bottleneck", None);
    let fused = fused(&network, "tiny_bottleneck");
    let used: Vec<u32> =
        fused.graph.nodes.iter().flat_map(|n| n.op.constants()).map(|id| id.0).collect();
    let expected: Vec<u32> = (0..fused.data.len() as u32).collect();
    assert_eq!(used, expected);
}

/// `x * scale` over 1 channel.
fn scaled(scale: f32) -> Network {
    let mut b = Builder::new(Shape::new(1, 1, 1));
    let (scale, shift) = (b.constant(&[1], vec![scale]), b.constant(&[1], vec![1.0]));
    let y = b.node(Op::Affine(Affine { scale, shift, clamp: Clamp::NONE }), &[0]);
    b.output(y);
    b.network
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    for scale in [f32::NAN, f32::INFINITY] {
        let error = fuse::fuse(&mut scaled(scale)).expect_err("an error");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.node(), Some("n1 (Affine)"));
    }
}

#[test]
fn denormal_weights_become_zero() {
    let mut network = scaled(f32::MIN_POSITIVE / 2.0);
    fuse::fuse(&mut network).unwrap();
    assert_eq!(network.data[0].f32(), [0.0]);
}

#[test]
fn an_invalid_network_is_refused() {
    let mut network = scaled(1.0);
    network.graph.nodes[0].inputs[0] = ValueId(1);
    assert_eq!(fuse::fuse(&mut network).expect_err("an error").kind(), ErrorKind::Format);
}
