//! What a graph must fulfil, whoever made it.

use skipstone::graph::{
    Axis, AxisOrder, Clamp, ConstId, ConstSpec, Conv, Graph, Node, Op, Pad, Pool, PoolKind, Port,
    Shape, ValueId,
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
        constants: vec![ConstSpec { name: "w".to_owned(), shape: vec![3, 2, 1, 1] }],
        fixed_size: false,
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
