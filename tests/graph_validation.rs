//! What a graph must fulfil, whoever made it.

use skipstone::graph::{
    Axis, AxisOrder, Clamp, ConstId, ConstSpec, Conv, Dtype, Graph, Node, Op, Pad, Pool, PoolKind,
    Port, Quantization, Shape, ValueId,
};

/// `y = clamp(conv(x))` over images of 2 channels.
fn graph() -> Graph {
    let port = |name: &str, value: u32, shape: Shape| Port {
        name: name.to_owned(),
        value: ValueId(value),
        shape,
        axes: AxisOrder::nchw(),
    };
    let node = |name: &str, op: Op, input: u32| Node {
        name: name.to_owned(),
        op,
        inputs: vec![ValueId(input)],
    };
    Graph {
        name: "test".to_owned(),
        inputs: vec![port("x", 0, Shape::new(2, 5, 4))],
        nodes: vec![
            node("conv", Op::Conv(Conv::pointwise(ConstId(0), None)), 0),
            node("clamp", Op::Clamp(Clamp::RELU), 1),
        ],
        outputs: vec![port("y", 2, Shape::new(3, 5, 4))],
        constants: vec![ConstSpec {
            name: "w".to_owned(),
            shape: vec![3, 2, 1, 1],
            dtype: Dtype::F32,
        }],
        fixed_size: false,
        quantization: Vec::new(),
    }
}

#[track_caller]
fn refused(change: impl Fn(&mut Graph), reason: &str) {
    let mut graph = graph();
    graph.validate().unwrap();
    change(&mut graph);
    let error = graph.validate().expect_err(reason).to_string();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn values_are_computed_before_their_use() {
    refused(|g| g.nodes[0].inputs[0] = ValueId(2), "conv (Conv): an operand is not computed");
    refused(|g| g.nodes[1].inputs[0] = ValueId(2), "clamp (Clamp): an operand is not computed");
    refused(|g| g.inputs[0].value = ValueId(1), "input 'x' has value 1");
    refused(|g| g.outputs[0].value = ValueId(3), "output 'y' names no value");
    refused(|g| g.outputs.clear(), "no output");
    refused(|g| g.nodes[1].inputs.clear(), "0 operands, expected 1");
}

#[test]
fn constants_have_reasonable_extents() {
    for shape in [vec![3, 2, 0, 1], vec![usize::MAX, 2, 1, 1], vec![1 << 20, 1 << 20, 1, 1]] {
        refused(|g| g.constants[0].shape = shape.clone(), "constant 'w' has shape");
    }
    refused(|g| g.constants[0].shape = vec![3, 2], "expected 4 axes");
    refused(|g| g.constants.clear(), "constant 0 does not exist");
}

#[test]
fn shapes_fit() {
    refused(|g| g.inputs[0].shape.c = 3, "input has 3 channels, the weights expect 2");
    refused(|g| g.inputs[0].shape.h = 1 << 40, "shape 2x");
    refused(|g| g.outputs[0].shape.h = 6, "declared 3x6x4 but computes 3x5x4");
    refused(|g| g.outputs[0].axes = AxisOrder::nc(), "does not fit a tensor with axes NC");
    refused(|g| g.inputs[0].axes = AxisOrder(vec![Axis::C, Axis::N]), "not an order of N, C, H, W");
}

#[test]
fn attributes_are_in_range() {
    let pool = |pad: usize| {
        Op::Pool(Pool {
            kind: PoolKind::Max,
            kernel: [2; 2],
            stride: [1; 2],
            pad: Pad::all(pad),
            dilation: [1; 2],
            ceil_mode: false,
        })
    };
    refused(|g| g.nodes[1].op = pool(2), "not smaller than the window");
    refused(|g| g.nodes[1].op = Op::Clamp(Clamp { min: f32::NAN, max: 0.0 }), "not a number");
    refused(
        |g| {
            let Op::Conv(conv) = &mut g.nodes[0].op else { panic!() };
            conv.stride[0] = 0;
        },
        "stride is 0",
    );
}

#[test]
fn a_fixed_size_is_the_only_one() {
    let mut graph = graph();
    let other = [Shape::new(2, 6, 4)];
    assert_eq!(graph.infer_shapes(&other).unwrap()[2], Shape::new(3, 6, 4));
    graph.fixed_size = true;
    graph.validate().unwrap();
    let error = graph.infer_shapes(&other).expect_err("another size").to_string();
    assert!(error.contains("computes only 2x5x4"), "{error}");
}

/// An int8 convolution of 2 channels, and a linear layer in f32.
fn int8_graph() -> Graph {
    let mut graph = graph();
    let constant = |name: &str, shape: &[usize], dtype: Dtype| ConstSpec {
        name: name.to_owned(),
        shape: shape.to_vec(),
        dtype,
    };
    graph.constants = vec![
        constant("w", &[3, 2, 1, 1], Dtype::I8),
        constant("b", &[3], Dtype::I32),
        constant("s", &[3], Dtype::F32),
    ];
    let conv = Conv::pointwise(ConstId(0), Some(ConstId(1)));
    graph.nodes[0].op = Op::Conv(Conv { weight_scales: Some(ConstId(2)), ..conv });
    let quantization = Some(Quantization { scale: 0.5, zero_point: 3, max: 127 });
    graph.quantization = vec![quantization, None, None];
    graph
}

#[test]
fn int8_nodes_have_int8_operands_and_constants() {
    let refused = |change: fn(&mut Graph), reason: &str| {
        let mut graph = int8_graph();
        graph.validate().unwrap();
        change(&mut graph);
        let error = graph.validate().expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    };
    refused(
        |g| g.quantization[0] = None,
        "conv (Conv): operand 0 of an int8 node is not quantized",
    );
    refused(|g| g.quantization.truncate(2), "2 quantizations, expected one for each of 3 values");
    refused(|g| g.constants[0].dtype = Dtype::F32, "weight 'w' is f32, expected i8");
    refused(|g| g.constants[1].dtype = Dtype::F32, "bias 'b' is f32, expected i32");
    refused(|g| g.constants[2].dtype = Dtype::I32, "weight scale 's' is i32, expected f32");
    refused(|g| g.constants[2].shape = vec![2], "weight scale 's' has shape [2]");
    refused(|g| g.nodes[0].op = Op::Conv(Conv::pointwise(ConstId(0), None)), "expected f32");
    let many = |g: &mut Graph| {
        (g.inputs[0].shape.c, g.constants[0].shape[1]) = (140_000, 140_000);
    };
    refused(many, "sums of 140000 products may exceed 32 bits");
    for (quantization, reason) in [
        ((0.0, 0, 127), "scale is 0"),
        ((f32::NAN, 0, 127), "scale is NaN"),
        ((-1.0, 0, 127), "scale is -1"),
        ((f32::INFINITY, 0, 127), "scale is inf"),
        ((1.0, 128, 127), "zero point 128 in 0..=127"),
        ((1.0, 0, 0), "zero point 0 in 0..=0"),
    ] {
        let (scale, zero_point, max) = quantization;
        let mut graph = int8_graph();
        graph.quantization[2] = Some(Quantization { scale, zero_point, max });
        let error = graph.validate().expect_err(reason).to_string();
        assert!(error.contains("clamp (Clamp): the quantization"), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn only_residual_int8_convolutions_round_before_they_add() {
    let before_add = Some(Quantization { scale: 0.5, zero_point: 0, max: 127 });
    for (mut graph, residual) in [(int8_graph(), false), (graph(), true)] {
        let Op::Conv(conv) = &mut graph.nodes[0].op else { panic!("a convolution") };
        (conv.before_add, conv.residual) = (before_add, residual);
        if residual {
            graph.nodes[0].inputs.push(ValueId(0));
        }
        let error = graph.validate().expect_err("no addition").to_string();
        assert!(error.contains("rounds before an addition"), "{error}");
    }
}
