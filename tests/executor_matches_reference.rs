//! The executor against the reference interpreter: every operator with awkward attributes, and small
//! whole networks, on every instruction set that this CPU has.

mod common;

use common::{Rng, bits, packed, strassen_tolerance};
use skipstone::graph::{
    Affine, AxisOrder, Clamp, Conv, Linear, Network, Node, Op, Pad, Pool, PoolKind, Port, Shape,
    Slice, ValueId, reference,
};
use skipstone::plan::{Algorithm, Numerics};
use skipstone::{Executor, ExecutorOptions, Isa, Runtime};

/// Relative to the largest output, through a small network: rounding of direct sums in f32, or of
/// Winograd's transforms.
fn tolerance(numerics: Numerics) -> f32 {
    match numerics {
        Numerics::Strict => 1e-5,
        Numerics::Fast => 5e-5,
        Numerics::Relaxed => 5e-4,
    }
}

/// Runs `network` on all tiers, batches and thread counts, and compares with the reference.
fn check(network: &Network, input_size: Option<[usize; 2]>) {
    network.graph.validate().expect("the test's graph is valid");
    let model = packed(network);
    let mut shapes = network.graph.input_shapes();
    if let Some([h, w]) = input_size {
        (shapes[0].h, shapes[0].w) = (h, w);
    }
    for (batch, threads) in [(1, 1), (3, 2)] {
        let mut rng = Rng(11);
        let inputs: Vec<Vec<f32>> = shapes.iter().map(|s| rng.vec(batch * s.len())).collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let expected = reference::run(network, &shapes, batch, &inputs).expect("reference runs");
        let tiers = Isa::ALL.iter().copied().filter(|isa| isa.is_available());
        for (isa, numerics) in tiers.flat_map(|isa| Numerics::ALL.map(|n| (isa, n))) {
            let runtime = Runtime::builder().threads(threads).isa(isa).build().expect("starts");
            let options = ExecutorOptions { batch, input_size, numerics, ..Default::default() };
            let mut executor = Executor::new(&runtime, &model, &options).expect("plans");
            // Twice: a second run must not see what the first left behind.
            for _ in 0..2 {
                executor.run(&inputs).expect("runs");
            }
            for (i, expected) in expected.iter().enumerate() {
                let found = executor.output(i);
                assert_eq!(found.len(), expected.len());
                let scale = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
                for (at, (f, e)) in found.iter().zip(expected).enumerate() {
                    assert!(
                        (f - e).abs() <= tolerance(numerics) * scale,
                        "{} ({isa}, {numerics}, batch {batch}): output {i}, element {at}: {f}, expected {e}",
                        network.graph.name
                    );
                }
            }
        }
    }
}

/// A network under construction; every operator's value becomes an output if `output` is called.
struct Build {
    network: Network,
    rng: Rng,
}

impl Build {
    fn new(name: &str, inputs: &[Shape]) -> Self {
        let mut network = Network::default();
        network.graph.name = name.to_owned();
        for (i, shape) in inputs.iter().enumerate() {
            network.graph.inputs.push(Port {
                name: format!("x{i}"),
                value: ValueId(i as u32),
                shape: *shape,
                axes: AxisOrder::nchw(),
            });
        }
        Self { network, rng: Rng(name.len() as u64) }
    }

    fn constant(&mut self, shape: &[usize]) -> skipstone::graph::ConstId {
        let len: usize = shape.iter().product();
        let scale = (len as f32 / shape[0] as f32).sqrt().recip();
        let data: Vec<f32> = self.rng.vec(len).into_iter().map(|v| v * scale).collect();
        self.network.add_constant("c", shape, data)
    }

    fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let graph = &mut self.network.graph;
        graph.nodes.push(Node { name: "node".to_owned(), op, inputs: inputs.to_vec() });
        graph.value_of(graph.nodes.len() - 1)
    }

    fn output(&mut self, value: ValueId, axes: AxisOrder) {
        let graph = &mut self.network.graph;
        let shapes = graph.infer_shapes(&graph.input_shapes()).expect("shapes are inferred");
        graph.outputs.push(Port {
            name: "y".to_owned(),
            value,
            shape: shapes[value.0 as usize],
            axes,
        });
    }
}

const X: ValueId = ValueId(0);

#[derive(Clone, Copy)]
struct ConvCase {
    ic: usize,
    oc: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    pad: Pad,
    dilation: [usize; 2],
    groups: usize,
    size: [usize; 2],
}

const PLAIN: ConvCase = ConvCase {
    ic: 8,
    oc: 16,
    kernel: [3, 3],
    stride: [1, 1],
    pad: Pad { top: 1, left: 1, bottom: 1, right: 1 },
    dilation: [1, 1],
    groups: 1,
    size: [9, 7],
};

fn check_conv(name: &str, case: ConvCase) {
    for residual in [false, true] {
        let clamp = Clamp { min: -0.5, max: 0.6 };
        check(&conv_network(name, case, residual.then_some(clamp)), None);
    }
}

/// A convolution; with `added` one that adds another, of the same attributes and input, before it clamps.
fn conv_network(name: &str, case: ConvCase, added: Option<Clamp>) -> Network {
    let ConvCase { ic, oc, kernel, stride, pad, dilation, groups, size } = case;
    let mut b = Build::new(name, &[Shape::new(ic, size[0], size[1])]);
    let weights = b.constant(&[oc, ic / groups, kernel[0], kernel[1]]);
    let bias = added.map(|_| b.constant(&[oc]));
    let conv = Conv { stride, pad, dilation, groups, ..Conv::pointwise(weights, bias) };
    let first = b.node(Op::Conv(conv.clone()), &[X]);
    let mut last = first;
    if let Some(clamp) = added {
        let conv = Conv { residual: true, clamp, ..conv };
        last = b.node(Op::Conv(conv), &[X, first]);
    }
    b.output(last, AxisOrder::nchw());
    b.network
}

#[test]
fn convolutions() {
    let p = PLAIN;
    check_conv("3x3", p);
    check_conv("1x1", ConvCase { kernel: [1, 1], pad: Pad::all(0), ..p });
    check_conv("1x1 strided", ConvCase { kernel: [1, 1], pad: Pad::all(0), stride: [2, 2], ..p });
    check_conv("1x1 padded", ConvCase { kernel: [1, 1], pad: Pad::all(1), ..p });
    check_conv("odd channels", ConvCase { ic: 13, oc: 21, ..p });
    check_conv("one block in the last panel", ConvCase { ic: 16, oc: 40, ..p });
    check_conv(
        "stem",
        ConvCase {
            ic: 3,
            oc: 64,
            kernel: [7, 7],
            stride: [2, 2],
            pad: Pad::all(3),
            size: [35, 29],
            ..p
        },
    );
    check_conv("gray stem", ConvCase { ic: 1, oc: 10, kernel: [5, 5], pad: Pad::all(2), ..p });
    check_conv("dilated stem", ConvCase { ic: 3, dilation: [2, 2], ..p });
    check_conv(
        "uneven",
        ConvCase {
            kernel: [2, 5],
            stride: [3, 2],
            pad: Pad { top: 0, left: 3, bottom: 2, right: 1 },
            dilation: [2, 1],
            size: [17, 14],
            ..p
        },
    );
    check_conv("wide padding", ConvCase { pad: Pad::all(4), ..p });
    check_conv("rows that no window reaches", ConvCase { stride: [4, 4], size: [12, 12], ..p });
    check_conv("groups of 4", ConvCase { ic: 128, oc: 128, groups: 32, ..p });
    check_conv("groups of 8", ConvCase { ic: 64, oc: 64, groups: 8, stride: [2, 2], ..p });
    check_conv("uneven groups", ConvCase { ic: 15, oc: 25, groups: 5, ..p });
    check_conv("depthwise", ConvCase { ic: 20, oc: 20, groups: 20, ..p });
    check_conv("depthwise multiplier", ConvCase { ic: 3, oc: 9, groups: 3, ..p });
    check_conv("one pixel", ConvCase { size: [1, 1], ..p });
    check_conv("several chunks of k", ConvCase { ic: 200, oc: 24, size: [20, 20], ..p });
    let strided = ConvCase { kernel: [1, 1], pad: Pad::all(0), stride: [2, 2], ..p };
    let blocks = ConvCase { ic: 200, oc: 40, size: [61, 61], ..strided };
    check_conv("several blocks that are gathered", blocks);
    let groups = ConvCase { ic: 64, oc: 64, groups: 4, stride: [1, 3], ..strided };
    check_conv("gathered groups", groups);
    check_conv("gathered padding", ConvCase { pad: Pad::all(2), ..strided });
}

/// Strassen's algorithm within its tolerance, where a plan would take it and where it would not: whatever the batch and
/// the number of threads, with the same bits.
#[test]
fn strassen() {
    let added = Some(Clamp { min: -1.5, max: 2.0 });
    let p = ConvCase { ic: 32, oc: 64, kernel: [1, 1], pad: Pad::all(0), size: [7, 7], ..PLAIN };
    check_strassen(&conv_network("odd image", p, None));
    check_strassen(&conv_network("a branch that joins", p, added));
    for size in [[1, 1], [1, 2], [3, 1], [14, 14]] {
        check_strassen(&conv_network("size", ConvCase { ic: 16, oc: 32, size, ..p }, added));
    }
    for size in [[13, 13], [14, 14]] {
        let strided = ConvCase { stride: [2, 2], size, ..p };
        check_strassen(&conv_network("gathered", strided, added));
    }
    check_strassen(&conv_network("padded", ConvCase { pad: Pad::all(1), ..p }, added));
    let large = ConvCase { oc: 96, size: [15, 15], ..p };
    let chunks = ConvCase { ic: 560, ..large };
    check_strassen(&conv_network("several chunks and blocks", chunks, None));
    let joined = ConvCase { ic: 272, ..large };
    check_strassen(&conv_network("several blocks and a branch", joined, added));
    let wide = ConvCase { ic: 32, oc: 2048, size: [40, 40], ..p };
    check_strassen(&conv_network("sums of weights that are not kept", wide, None));

    let mut b = Build::new("residual", &[Shape::new(64, 9, 5)]);
    let (weights, bias) = (b.constant(&[64, 64, 1, 1]), b.constant(&[64]));
    let conv = Conv { residual: true, clamp: Clamp::RELU, ..Conv::pointwise(weights, Some(bias)) };
    let y = b.node(Op::Conv(conv), &[X, X]);
    b.output(y, AxisOrder::nchw());
    check_strassen(&b.network);

    let mut b = Build::new("another algorithm beside it", &[Shape::new(16, 14, 14)]);
    let (branch, weights) = (b.constant(&[72, 16, 1, 1]), b.constant(&[72, 16, 1, 1]));
    let branch = b.node(Op::Conv(Conv::pointwise(branch, None)), &[X]);
    let conv = Conv { residual: true, ..Conv::pointwise(weights, None) };
    let y = b.node(Op::Conv(conv), &[X, branch]);
    b.output(y, AxisOrder::nchw());
    // 72 channels are no multiple of 32.
    let model = packed(&b.network);
    let runtime = Runtime::builder().threads(1).build().expect("starts");
    let mut options = ExecutorOptions::default();
    options.algorithms.insert("node".to_owned(), Algorithm::Strassen);
    let error = Executor::new(&runtime, &model, &options).expect_err("it does not fit");
    assert!(error.to_string().contains("Strassen a 1x1 window"), "{error}");
}

/// Compares with the reference, all convolutions by Strassen's algorithm.
fn check_strassen(network: &Network) {
    const IMAGES: usize = 3;
    let model = packed(network);
    let shapes = network.graph.input_shapes();
    let len = shapes[0].len();
    let input = Rng(12).vec(IMAGES * len);
    let expected = reference::run(network, &shapes, IMAGES, &[&input]).expect("reference runs");
    let scale = expected[0].iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_available()) {
        let mut first: Option<Vec<u32>> = None;
        for (batch, threads) in [(IMAGES, 1), (IMAGES, 2), (1, 1), (1, 3)] {
            let runtime = Runtime::builder().threads(threads).isa(isa).build().expect("starts");
            let mut options = ExecutorOptions { batch, ..ExecutorOptions::default() };
            options.algorithms.insert("node".to_owned(), Algorithm::Strassen);
            let mut executor = Executor::new(&runtime, &model, &options).expect("plans");
            let steps = &executor.plan().steps;
            assert!(steps.iter().any(|s| s.algorithm == "strassen"), "{steps:?}");
            let mut found = Vec::new();
            for images in input.chunks(batch * len) {
                executor.run(&[images]).expect("runs");
                found.extend_from_slice(executor.output(0));
            }
            for (at, (f, e)) in found.iter().zip(&expected[0]).enumerate() {
                assert!(
                    (f - e).abs() <= strassen_tolerance() as f32 * scale,
                    "{} ({isa}, batch {batch}): element {at}: {f}, expected {e}",
                    network.graph.name
                );
            }
            let first = first.get_or_insert_with(|| bits(&found));
            let name = &network.graph.name;
            assert_eq!(&bits(&found), first, "{name}, {isa}, batch {batch}, {threads} threads");
        }
    }
}

#[test]
fn convolutions_at_random() {
    let mut rng = Rng(77);
    for i in 0..150 {
        let groups = [1, 1, 1, 2, 3][rng.below(5)];
        let kernel = [1 + rng.below(4), 1 + rng.below(4)];
        let case = ConvCase {
            ic: groups * (1 + rng.below(20)),
            oc: groups * (1 + rng.below(20)),
            kernel,
            stride: [1 + rng.below(3), 1 + rng.below(3)],
            pad: Pad {
                top: rng.below(3),
                left: rng.below(3),
                bottom: rng.below(3),
                right: rng.below(3),
            },
            dilation: [1 + rng.below(2), 1 + rng.below(2)],
            groups,
            size: [7 + rng.below(11), 7 + rng.below(11)],
        };
        check_conv(&format!("random {i}"), case);
    }
}

#[test]
fn pools() {
    for kind in [
        PoolKind::Max,
        PoolKind::Average { count_include_pad: false },
        PoolKind::Average { count_include_pad: true },
    ] {
        for (kernel, stride, pad, dilation, ceil_mode) in [
            ([3, 3], [2, 2], Pad::all(1), [1, 1], false),
            ([3, 3], [2, 2], Pad::all(1), [1, 1], true),
            ([2, 2], [2, 2], Pad::all(0), [1, 1], true),
            ([2, 3], [1, 3], Pad { top: 1, left: 0, bottom: 0, right: 2 }, [2, 1], false),
            ([1, 1], [2, 2], Pad::all(0), [1, 1], false),
        ] {
            let mut b = Build::new("pool", &[Shape::new(11, 13, 10)]);
            let pool = Pool { kind, kernel, stride, pad, dilation, ceil_mode };
            let y = b.node(Op::Pool(pool), &[X]);
            b.output(y, AxisOrder::nchw());
            let y = b.node(Op::GlobalAveragePool, &[y]);
            b.output(y, AxisOrder::nc());
            check(&b.network, None);
        }
    }
}

#[test]
fn elementwise_and_movement() {
    let mut b = Build::new("mixed", &[Shape::new(11, 6, 5), Shape::new(11, 6, 5)]);
    let sum = b.node(Op::Add(Clamp::RELU), &[X, ValueId(1)]);
    b.output(sum, AxisOrder::nhwc());
    let (scale, shift) = (b.constant(&[11]), b.constant(&[11]));
    let affine = b.node(Op::Affine(Affine { scale, shift, clamp: Clamp::NONE }), &[sum]);
    let clamp = b.node(Op::Clamp(Clamp { min: -0.1, max: 0.2 }), &[affine]);
    let concat = b.node(Op::Concat, &[affine, clamp, sum]);
    b.output(concat, AxisOrder::nchw());
    let frame = Pad { top: 1, left: 2, bottom: 0, right: 3 };
    let padded = b.node(Op::Pad { channels: [2, 3], frame, value: 0.25 }, &[clamp]);
    b.output(padded, AxisOrder::nchw());
    let slice = Slice { start: [1, 0, 1], step: [2, 2, 3], end: [30, 100, 4] };
    let sliced = b.node(Op::Slice(slice), &[concat]);
    b.output(sliced, AxisOrder::nchw());
    let constant = b.constant(&[11, 6, 5]);
    let constant = b.node(Op::Constant(constant), &[]);
    let sum = b.node(Op::Add(Clamp::NONE), &[constant, clamp]);
    b.output(sum, AxisOrder::nchw());
    for channels_last in [false, true] {
        let flat = b.node(Op::Flatten { channels_last }, &[sum]);
        b.output(flat, AxisOrder::nc());
        let weights = b.constant(&[19, 330]);
        let linear = Linear::new(weights, None);
        let linear = b.node(Op::Linear(linear), &[flat]);
        b.output(linear, AxisOrder::nc());
        for log in [false, true] {
            let softmax = b.node(Op::Softmax { log }, &[linear]);
            b.output(softmax, AxisOrder::nc());
        }
    }
    let softmax = b.node(Op::Softmax { log: false }, &[concat]);
    b.output(softmax, AxisOrder::nchw());
    check(&b.network, None);
}

#[cfg(feature = "import")]
#[test]
fn small_networks_at_any_size() {
    for arch in ["tiny_resnet", "tiny_preact", "tiny_resnext"] {
        let network = common::synth_network(arch);
        for size in [None, Some([40, 33]), Some([64, 64])] {
            check(&network, size);
        }
    }
    check(&common::synth_network("tiny_vgg"), None);
    check(&common::synth_network("resnet20_cifar"), None);
}

#[test]
fn wrong_arguments_are_errors() {
    let mut b = Build::new("vgg-like", &[Shape::new(3, 8, 8)]);
    let flat = b.node(Op::Flatten { channels_last: false }, &[X]);
    let weights = b.constant(&[10, 192]);
    let linear = b.node(Op::Linear(Linear::new(weights, None)), &[flat]);
    b.output(linear, AxisOrder::nc());
    let model = packed(&b.network);
    let runtime = Runtime::builder().threads(1).build().expect("starts");
    let plan = |batch, input_size| {
        let options = ExecutorOptions { batch, input_size, ..Default::default() };
        Executor::new(&runtime, &model, &options)
    };
    let error = plan(1, Some([9, 8])).expect_err("the linear layer fixes the size");
    assert!(error.to_string().contains("node (Linear)"), "{error}");
    assert!(plan(0, None).is_err());
    assert!(plan(1 << 20, None).is_err());
    assert!(plan(1, Some([1 << 20, 1 << 20])).is_err());
    let mut executor = plan(2, None).expect("plans");
    let short = [0.0; 192];
    let error = executor.run(&[&short]).expect_err("one image of two");
    assert!(error.to_string().contains("expected 384"), "{error}");
    assert!(executor.run(&[]).is_err());
    assert!(executor.run_into(&[&[0.0; 384]], &mut [&mut [0.0; 19]]).is_err());
}
