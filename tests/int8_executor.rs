//! Int8 networks on the executor against the reference interpreter, to the bit, by every method on every
//! instruction set that this CPU has; and the executor's promises for them.

mod common;

use common::quantized::choices;
use common::{Rng, packed};
use skipstone::graph::{
    AxisOrder, Clamp, Conv, Data, Linear, Network, Node, Op, Pad, Pool, PoolKind, Port,
    Quantization, Shape, Slice, ValueId, reference,
};
use skipstone::{Executor, ExecutorOptions, Isa, Runtime};

/// Runs `network` on all tiers, batches and thread counts by all methods, and compares the bits with the
/// reference.
#[track_caller]
fn check(network: &Network) {
    network.graph.validate().expect("the test's graph is valid");
    let model = packed(network);
    let shapes = network.graph.input_shapes();
    for (batch, threads) in [(1, 1), (3, 2)] {
        let mut rng = Rng(11);
        let inputs: Vec<Vec<f32>> = shapes
            .iter()
            .map(|s| rng.vec(batch * s.len()).into_iter().map(|v| v * 1.1).collect())
            .collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let expected = reference::run(network, &shapes, batch, &inputs).expect("reference runs");
        for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_available()) {
            let runtime = Runtime::builder().threads(threads).isa(isa).build().expect("starts");
            let options = ExecutorOptions { batch, ..Default::default() };
            for (method, tables) in choices(&model, &runtime, &options) {
                let name = format!("{} ({isa}, batch {batch}, {method})", network.graph.name);
                let options = ExecutorOptions { tables, ..options.clone() };
                let mut executor = Executor::new(&runtime, &model, &options).expect("plans");
                // Twice: a second run must not see what the first left behind.
                for _ in 0..2 {
                    executor.run(&inputs).expect("runs");
                }
                for (i, expected) in expected.iter().enumerate() {
                    let found = executor.output(i);
                    let differ =
                        found.iter().zip(expected).position(|(f, e)| f.to_bits() != e.to_bits());
                    if let Some(at) = differ {
                        let (found, expected) = (found[at], expected[at]);
                        panic!("{name}: output {i}, element {at}: {found}, expected {expected}");
                    }
                }
            }
        }
    }
}

/// A network under construction.
struct Build {
    network: Network,
    rng: Rng,
}

fn q(scale: f32, zero_point: u8, max: u8) -> Quantization {
    Quantization { scale, zero_point, max }
}

const X: ValueId = ValueId(0);

impl Build {
    fn new(name: &str, inputs: &[(Shape, Quantization)]) -> Self {
        let mut network = Network::default();
        network.graph.name = name.to_owned();
        for (i, (shape, quantization)) in inputs.iter().enumerate() {
            let value = ValueId(i as u32);
            network.graph.inputs.push(Port {
                name: format!("x{i}"),
                value,
                shape: *shape,
                axes: AxisOrder::nchw(),
            });
            network.graph.quantization.push(Some(*quantization));
        }
        Self { network, rng: Rng(name.len() as u64) }
    }

    fn constant(&mut self, shape: &[usize], data: impl Into<Data>) -> skipstone::graph::ConstId {
        self.network.add_constant("c", shape, data)
    }

    /// Weights of all magnitudes; among them whole channels of the largest.
    fn weights(&mut self, shape: &[usize]) -> skipstone::graph::ConstId {
        let per_channel: usize = shape[1..].iter().product();
        let mut weights = Vec::new();
        for _ in 0..shape[0] {
            let (limit, extreme) = ([128, 127, 30][self.rng.below(3)], self.rng.below(4) == 0);
            weights.extend((0..per_channel).map(|_| {
                if extreme {
                    -127i8
                } else {
                    (self.rng.below(2 * limit) as i32 - limit as i32) as i8
                }
            }));
        }
        self.constant(shape, weights)
    }

    /// A convolution whose results spread over about the range of `0..=127` times 1/64.
    fn conv(&mut self, shape: [usize; 4], groups: usize) -> Conv {
        let [oc, icg, kh, kw] = shape;
        let weights = self.weights(&shape);
        let bias: Vec<i32> = (0..oc).map(|_| self.rng.below(20_000) as i32 - 10_000).collect();
        let bias = self.constant(&[oc], bias);
        let spread = 1.0 / (icg * kh * kw) as f32;
        let scales: Vec<f32> = (0..oc).map(|_| (self.rng.f32() + 1.1) * 0.1 * spread).collect();
        let scales = self.constant(&[oc], scales);
        Conv { weight_scales: Some(scales), groups, ..Conv::pointwise(weights, Some(bias)) }
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], quantization: Option<Quantization>) -> ValueId {
        let graph = &mut self.network.graph;
        graph.nodes.push(Node { name: "node".to_owned(), op, inputs: inputs.to_vec() });
        let value = graph.value_of(graph.nodes.len() - 1);
        graph.set_quantization(value, quantization);
        value
    }

    fn output(&mut self, value: ValueId) {
        let graph = &mut self.network.graph;
        let shapes = graph.infer_shapes(&graph.input_shapes()).expect("shapes are inferred");
        graph.outputs.push(Port {
            name: "y".to_owned(),
            value,
            shape: shapes[value.0 as usize],
            axes: AxisOrder::nchw(),
        });
    }

    /// One node over all inputs, and its value as the output.
    #[track_caller]
    fn check_node(mut self, op: Op, quantization: Option<Quantization>) {
        let inputs: Vec<ValueId> =
            (0..self.network.graph.inputs.len() as u32).map(ValueId).collect();
        let value = self.node(op, &inputs, quantization);
        self.output(value);
        check(&self.network);
    }
}

fn pad(n: usize) -> Pad {
    Pad { top: n, left: n, bottom: n, right: n }
}

#[test]
fn convolutions_of_every_shape() {
    struct Case {
        ic: usize,
        oc: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        pad: Pad,
        dilation: [usize; 2],
        groups: usize,
        size: [usize; 2],
    }
    let plain = || Case {
        ic: 24,
        oc: 40,
        kernel: [3, 3],
        stride: [1, 1],
        pad: pad(1),
        dilation: [1, 1],
        groups: 1,
        size: [9, 7],
    };
    let cases = [
        plain(),
        Case { kernel: [1, 1], pad: pad(0), ..plain() },
        Case { kernel: [1, 1], pad: pad(0), stride: [2, 2], ..plain() },
        Case { stride: [2, 2], ..plain() },
        Case { stride: [2, 1], pad: Pad { top: 0, left: 2, bottom: 1, right: 0 }, ..plain() },
        Case { dilation: [2, 3], pad: pad(3), ..plain() },
        // The stem: rows of 21 bytes of an interleaved image.
        Case {
            ic: 3,
            oc: 17,
            kernel: [7, 7],
            stride: [2, 2],
            pad: pad(3),
            size: [17, 15],
            ..plain()
        },
        Case { ic: 1, oc: 5, kernel: [1, 1], pad: pad(0), ..plain() },
        Case { ic: 4, oc: 1, kernel: [2, 3], pad: pad(0), ..plain() },
        Case { ic: 3, oc: 16, dilation: [1, 2], ..plain() },
        // Several k-chunks, and more pixels than a block.
        Case { ic: 300, oc: 33, size: [5, 5], ..plain() },
        Case { ic: 1100, oc: 20, kernel: [1, 1], pad: pad(0), size: [4, 4], ..plain() },
        Case { ic: 16, oc: 16, size: [40, 50], ..plain() },
        // Groups: depthwise, of 4, and of widths that divide neither blocks nor quads.
        Case { ic: 40, oc: 40, groups: 40, ..plain() },
        Case { ic: 64, oc: 64, groups: 16, ..plain() },
        Case { ic: 33, oc: 21, groups: 3, ..plain() },
    ];
    for (i, case) in cases.into_iter().enumerate() {
        for (input, output) in [
            (q(1.0 / 64.0, 60, 127), Some(q(1.0 / 32.0, 64, 127))),
            (q(1.0 / 128.0, 128, 255), Some(q(1.0 / 50.0, 100, 255))),
            (q(1.0 / 100.0, 0, 127), None),
        ] {
            let Case { ic, oc, kernel: [kh, kw], stride, pad, dilation, groups, size: [h, w] } =
                case;
            let mut b = Build::new(&format!("case {i}"), &[(Shape::new(ic, h, w), input)]);
            let conv = b.conv([oc, ic / groups, kh, kw], groups);
            let clamp = [Clamp::NONE, Clamp::RELU, Clamp { min: -0.3, max: 1.2 }][i % 3];
            b.check_node(Op::Conv(Conv { stride, pad, dilation, clamp, ..conv }), output);
        }
    }
}

#[test]
fn residuals_and_their_rounding_before_the_sum() {
    let shape = Shape::new(20, 6, 5);
    for before_add in [None, Some(q(1.0 / 40.0, 30, 127)), Some(q(1.0 / 90.0, 128, 255))] {
        for output in [Some(q(1.0 / 30.0, 3, 127)), Some(q(1.0 / 60.0, 128, 255)), None] {
            let input = (shape, q(1.0 / 70.0, 64, 127));
            let residual = (shape, q(1.0 / 100.0, 90, 255));
            let mut b = Build::new("residual", &[input, residual]);
            let conv = b.conv([20, 20, 3, 3], 1);
            let conv = Conv { residual: true, pad: pad(1), clamp: Clamp::RELU, before_add, ..conv };
            b.check_node(Op::Conv(conv), output);
        }
    }
}

#[test]
fn linear_layers() {
    for (ic, oc, output) in [(70, 30, None), (16, 16, Some(q(0.02, 9, 127))), (2100, 10, None)] {
        let mut b = Build::new("linear", &[(Shape::vector(ic), q(1.0 / 127.0, 0, 127))]);
        let Conv { weights, bias, weight_scales, .. } = b.conv([oc, ic, 1, 1], 1);
        b.network.graph.constants[weights.0 as usize].shape.truncate(2);
        let clamp = Clamp { min: -0.5, max: 2.0 };
        b.check_node(Op::Linear(Linear { weights, bias, clamp, weight_scales }), output);
    }
}

#[test]
fn pools_sums_and_clamps() {
    let shape = Shape::new(19, 8, 9);
    let (a, b) = (q(1.0 / 60.0, 64, 127), q(1.0 / 99.0, 130, 255));
    let pool = |kind| {
        Op::Pool(Pool {
            kind,
            kernel: [3, 2],
            stride: [2, 2],
            pad: pad(1),
            dilation: [1, 1],
            ceil_mode: false,
        })
    };
    let one = || Build::new("one", &[(shape, a)]);
    let two = || Build::new("two", &[(shape, a), (shape, b)]);
    let clamp = Clamp { min: -0.2, max: 0.7 };
    one().check_node(pool(PoolKind::Max), Some(a));
    for output in [Some(a), Some(b), None] {
        for count_include_pad in [false, true] {
            one().check_node(pool(PoolKind::Average { count_include_pad }), output);
        }
        one().check_node(Op::GlobalAveragePool, output);
    }
    for output in [a, b] {
        two().check_node(Op::Add(clamp), Some(output));
        one().check_node(Op::Clamp(clamp), Some(output));
    }
}

#[test]
fn movement_keeps_or_changes_the_quantization() {
    let shape = Shape::new(19, 4, 5);
    let (a, b) = (q(1.0 / 60.0, 64, 127), q(1.0 / 99.0, 130, 255));
    for output in [Some(a), Some(b), None] {
        let two = Build::new("concat", &[(shape, a), (shape, b)]);
        two.check_node(Op::Concat, output);
        let one = || Build::new("one", &[(shape, a)]);
        one().check_node(Op::Flatten { channels_last: false }, output);
        one().check_node(Op::Flatten { channels_last: true }, output);
        one().check_node(Op::Pad { channels: [1, 2], frame: pad(1), value: 0.25 }, output);
        let slice = Slice { start: [1, 0, 1], step: [2, 2, 1], end: [9, 4, 4] };
        one().check_node(Op::Slice(slice), output);
    }
}

/// Values go through f32 and back: by way of an operator that has no integers.
#[test]
fn operators_without_integers_see_reals() {
    let shape = Shape::new(5, 6, 6);
    let a = q(1.0 / 64.0, 64, 127);
    let mut b = Build::new("softmax", &[(shape, a)]);
    let conv = b.conv([24, 5, 3, 3], 1);
    let y = b.node(Op::Conv(Conv { pad: pad(1), ..conv }), &[X], Some(a));
    // A maximum that changes its quantization goes by way of reals, exactly.
    let kind = PoolKind::Max;
    let pool = Pool {
        kind,
        kernel: [2, 2],
        stride: [2, 2],
        pad: pad(0),
        dilation: [1, 1],
        ceil_mode: false,
    };
    let z = b.node(Op::Pool(pool), &[y], Some(q(1.0 / 32.0, 10, 255)));
    // So does the clamp of an integer to a real.
    let w = b.node(Op::Clamp(Clamp::RELU), &[z], None);
    b.output(z);
    b.output(w);
    check(&b.network);
}

#[cfg(feature = "import")]
mod networks {
    use super::*;
    use common::quantized::{nb_quantized, quantized};
    use common::{bits, executor, synth_network};

    #[test]
    fn small_networks_equal_the_reference() {
        for arch in ["tiny_resnet", "tiny_vgg", "tiny_resnext", "resnet20_cifar"] {
            for max in [127, 255] {
                let network = quantized(&synth_network(arch), max);
                assert!(nb_quantized(&network.graph) > 3);
                check(&network);
            }
        }
    }

    #[test]
    fn any_number_of_threads_and_any_position_of_a_batch() {
        let model = packed(&quantized(&synth_network("resnet50"), 127));
        let mut expected: Option<Vec<u32>> = None;
        for (threads, batch) in [(1, 1), (2, 1), (3, 1), (2, 4)] {
            let mut executor = executor(&model, threads, batch);
            let image = Rng(9).vec(3 * 224 * 224);
            executor.run(&[&image.repeat(batch)]).expect("runs");
            for logits in executor.output(0).chunks(1000) {
                let expected = expected.get_or_insert_with(|| bits(logits));
                assert_eq!(&bits(logits), expected, "{threads} threads, batch {batch}");
            }
        }
    }
}
