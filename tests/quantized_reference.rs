//! The arithmetic of 8-bit values, by numbers worked out by hand.

use skipstone::graph::{
    AxisOrder, Clamp, ConstId, Conv, Data, Linear, Network, Node, Op, Pad, Pool, PoolKind, Port,
    Quantization, Shape, ValueId, reference,
};

fn q(scale: f32, zero_point: u8, max: u8) -> Option<Quantization> {
    Some(Quantization { scale, zero_point, max })
}

/// A network with one node over inputs of one shape, and its constants.
struct One {
    network: Network,
    shape: Shape,
}

impl One {
    fn new(shape: Shape, inputs: &[Option<Quantization>]) -> Self {
        let mut network = Network::default();
        for i in 0..inputs.len() {
            network.graph.inputs.push(port("x", ValueId(i as u32), shape));
        }
        network.graph.quantization = inputs.to_vec();
        Self { network, shape }
    }

    fn constant(&mut self, shape: &[usize], data: impl Into<Data>) -> ConstId {
        self.network.add_constant("c", shape, data)
    }

    /// The result of `op`, stored as `quantization` says.
    #[track_caller]
    fn gives(
        &mut self,
        op: Op,
        quantization: Option<Quantization>,
        inputs: &[&[f32]],
        expected: &[f32],
    ) {
        let graph = &mut self.network.graph;
        let nb_inputs = graph.inputs.len();
        let operands = (0..nb_inputs as u32).map(ValueId).collect();
        graph.nodes = vec![Node { name: "n".to_owned(), op, inputs: operands }];
        graph.quantization.truncate(nb_inputs);
        graph.quantization.push(quantization);
        graph.outputs.clear();
        let shapes = vec![self.shape; nb_inputs];
        let output = graph.infer_shapes(&shapes).expect("fits")[nb_inputs];
        graph.outputs = vec![port("y", ValueId(nb_inputs as u32), output)];
        graph.validate().expect("valid");
        let found = reference::run(&self.network, &shapes, 1, inputs).expect("runs");
        assert_eq!(found[0], expected);
    }
}

fn port(name: &str, value: ValueId, shape: Shape) -> Port {
    Port { name: name.to_owned(), value, shape, axes: AxisOrder::nchw() }
}

#[test]
fn reals_are_stored_as_the_nearest_integer_ties_to_even() {
    let mut one = One::new(Shape::new(1, 1, 8), &[None]);
    let x = [-9.0, -0.75, -0.25, 0.25, 0.75, 1.25, 62.0, f32::INFINITY];
    // In halves, from -3 to 124.
    let expected = [-1.5, -1.0, 0.0, 0.0, 1.0, 1.0, 62.0, 62.0];
    one.gives(Op::Clamp(Clamp::NONE), q(0.5, 3, 127), &[&x], &expected);
    let undefined = [f32::NAN; 8];
    one.gives(Op::Clamp(Clamp::NONE), q(0.5, 3, 127), &[&undefined], &[-1.5; 8]);
}

#[test]
fn clamps_bound_before_rounding() {
    let mut one = One::new(Shape::new(1, 1, 4), &[q(1.0, 100, 255)]);
    let x = [-50.0, 0.0, 3.0, 50.0];
    let clamp = Op::Clamp(Clamp { min: 0.0, max: 6.0 });
    one.gives(clamp.clone(), q(2.0, 0, 127), &[&x], &[0.0, 0.0, 4.0, 6.0]);
    // The bound itself is rounded: 6 / 4 is 2 (4s).
    one.gives(clamp.clone(), q(4.0, 9, 127), &[&x], &[0.0, 0.0, 4.0, 8.0]);
    one.gives(clamp, None, &[&x], &[0.0, 0.0, 3.0, 6.0]);
}

#[test]
fn convolutions_sum_exactly_and_round_once() {
    let shape = Shape::new(2, 1, 3);
    let mut one = One::new(shape, &[q(0.5, 2, 127)]);
    let weights = one.constant(&[2, 2, 1, 3], vec![1i8, 2, 3, 0, 0, 0, -128, 127, 0, 1, 0, 1]);
    let bias = one.constant(&[2], vec![10, -1]);
    let scales = one.constant(&[2], vec![0.25f32, 2.0]);
    let conv = Conv {
        pad: Pad { left: 1, right: 1, ..Pad::default() },
        weight_scales: Some(scales),
        ..Conv::pointwise(weights, Some(bias))
    };
    let x = [0.5, 1.0, -1.0, 62.5, 0.0, 0.5]; // centred: 1 2 -2, 125 0 1
    // Padding is zero. Accumulators: [10+2+6, 10+1+4-6, 10+2-4], [-1+127+0, -1-128+254+125+1, ...].
    let accumulators = [18.0, 9.0, 8.0, 126.0, 251.0, -1.0 - 256.0 - 254.0];
    let real: Vec<f32> =
        accumulators.iter().zip([0.125, 0.125, 0.125, 1.0, 1.0, 1.0]).map(|(a, s)| a * s).collect();
    one.gives(Op::Conv(conv.clone()), None, &[&x], &real);
    // In scales of 2: 1.125, 0.5625, 0.5, 63, 125.5, and the lowest, -1.
    one.gives(Op::Conv(conv.clone()), q(2.0, 1, 127), &[&x], &[2.0, 2.0, 0.0, 126.0, 252.0, -2.0]);
    let relu = Conv { clamp: Clamp { min: 0.0, max: 100.0 }, ..conv };
    one.gives(Op::Conv(relu), q(2.0, 1, 127), &[&x], &[2.0, 2.0, 0.0, 100.0, 100.0, 0.0]);
}

#[test]
fn accumulators_are_modulo_2_to_the_32() {
    let mut one = One::new(Shape::new(1, 1, 1), &[q(1.0, 0, 255)]);
    let weights = one.constant(&[1, 1], vec![127i8]);
    let bias = one.constant(&[1], vec![i32::MAX]);
    let scales = one.constant(&[1], vec![1.0f32]);
    let linear = Linear { weight_scales: Some(scales), ..Linear::new(weights, Some(bias)) };
    let wrapped = (i64::from(i32::MAX) + 127 * 255 - (1 << 32)) as f32;
    one.gives(Op::Linear(linear), None, &[&[255.0]], &[wrapped]);
}

#[test]
fn a_residual_is_added_before_the_one_rounding_or_after_an_earlier_one() {
    let mut one = One::new(Shape::new(1, 1, 2), &[q(1.0, 0, 255), q(0.25, 0, 127)]);
    let weights = one.constant(&[1, 1, 1, 1], vec![1i8]);
    let scales = one.constant(&[1], vec![0.375f32]);
    let conv =
        Conv { weight_scales: Some(scales), residual: true, ..Conv::pointwise(weights, None) };
    let x: [&[f32]; 2] = [&[2.0, 4.0], &[0.75, 0.25]]; // 0.75 + 0.75, 1.5 + 0.25
    one.gives(Op::Conv(conv.clone()), None, &x, &[1.5, 1.75]);
    one.gives(Op::Conv(conv.clone()), q(1.0, 5, 127), &x, &[2.0, 2.0]);
    // 0.75 and 1.5 become 1 and 2.
    let conv = Conv { before_add: q(1.0, 128, 255), ..conv };
    one.gives(Op::Conv(conv.clone()), None, &x, &[1.75, 2.25]);
    one.gives(Op::Conv(conv), q(0.5, 5, 127), &x, &[2.0, 2.0]);
}

#[test]
fn additions_and_means_take_the_integers() {
    let shape = Shape::new(1, 1, 4);
    let mut one = One::new(shape, &[q(0.5, 3, 127), q(0.25, 100, 255)]);
    let (a, b): ([f32; 4], [f32; 4]) = ([0.5, 1.0, -1.5, 2.0], [0.25, -25.0, 0.5, 0.5]);
    let add = Op::Add(Clamp { min: -1.0, max: 2.0 });
    one.gives(add.clone(), q(0.5, 9, 127), &[&a, &b], &[1.0, -1.0, -1.0, 2.0]);
    one.gives(add, None, &[&a, &b], &[0.75, -1.0, -1.0, 2.0]);

    let mut one = One::new(shape, &[q(0.5, 3, 127)]);
    one.gives(Op::GlobalAveragePool, None, &[&a], &[0.5]);
    one.gives(Op::GlobalAveragePool, q(0.2, 0, 255), &[&a], &[2.0 * 0.2]); // 2.5 to even
    let pool = |kind, pad| Pool {
        kind,
        kernel: [1, 2],
        stride: [1, 2],
        pad: Pad { left: pad, right: pad, ..Pad::default() },
        dilation: [1; 2],
        ceil_mode: false,
    };
    let average = |count_include_pad| pool(PoolKind::Average { count_include_pad }, 1);
    one.gives(Op::Pool(average(true)), q(0.25, 7, 127), &[&a], &[0.25, -0.25, 1.0]);
    one.gives(Op::Pool(average(false)), None, &[&a], &[0.5, -0.25, 2.0]);
    one.gives(Op::Pool(pool(PoolKind::Max, 0)), q(0.5, 3, 127), &[&a], &[1.0, 2.0]);
}
