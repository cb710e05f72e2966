//! Shape arithmetic: constant once the batch is known.

use crate::graph::attribute::{int, ints, tensor};
use crate::graph::{Graph, census, floats, ints as int_tensor, iota};

#[test]
fn flatten_as_pytorch_spells_it() {
    // x.view(x.size(0), -1)
    let graph = Graph::new(11)
        .input("x", &[0, 2, 1, 2])
        .node("Shape", "x", "shape", [])
        .node("Constant", "", "zero", [tensor("value", int_tensor("", &[], &[0]))])
        .node("Gather", "shape zero", "n", [int("axis", 0)])
        .node("Constant", "", "rest", [tensor("value", int_tensor("", &[1], &[-1]))])
        .node("Unsqueeze", "n", "n1", [ints("axes", &[0])])
        .node("Concat", "n1 rest", "target", [int("axis", 0)])
        .node("Reshape", "x target", "y", [])
        .output("y");
    graph.computes(&[&iota(4)], &[1, 4], &iota(4));
}

#[test]
fn flatten_with_a_computed_product() {
    // [N, C * H * W], as Keras spells it, with a Cast on the way.
    let network = Graph::new(13)
        .input("x", &[0, 2, 0, 0])
        .ints("from1", &[1])
        .ints("to4", &[4])
        .ints("from0", &[0])
        .ints("to1", &[1])
        .node("Shape", "x", "shape", [])
        .node("Cast", "shape", "shape32", [int("to", 6)])
        .node("Slice", "shape32 from0 to1", "n", [])
        .node("Slice", "shape32 from1 to4", "chw", [])
        .node("ReduceProd", "chw", "size", [int("keepdims", 1)])
        .node("Concat", "n size", "target32", [int("axis", 0)])
        .node("Cast", "target32", "target", [int("to", 7)])
        .node("Reshape", "x target", "y", [])
        .output("y")
        .import_with(&skipstone::import::ImportOptions { input_size: Some([3, 5]) })
        .unwrap();
    assert_eq!(census(&network), "Flatten 1");
    assert_eq!(network.graph.outputs[0].shape.c, 30);
}

#[test]
fn arithmetic_with_the_batch() {
    // [N * 2 / 2, 2] from N + N - N.
    Graph::new(13)
        .input("x", &[0, 2])
        .ints("two", &[2])
        .ints("zero", &[0])
        .node("Shape", "x", "shape", [])
        .node("Gather", "shape zero", "n", [])
        .node("Mul", "n two", "n2", [])
        .node("Div", "n2 two", "n3", [])
        .node("Add", "n3 n", "n4", [])
        .node("Sub", "n4 n", "n5", [])
        .node("Concat", "n5 two", "target", [int("axis", 0)])
        .node("Reshape", "x target", "y", [])
        .output("y")
        .computes(&[&[1.0, 2.0]], &[1, 2], &[1.0, 2.0]);
}

#[test]
fn part_of_a_shape() {
    Graph::new(15)
        .input("x", &[0, 2, 1, 1])
        .ints("rest", &[-1])
        .node("Shape", "x", "n", [int("start", 0), int("end", -3)])
        .node("Concat", "n rest", "target", [int("axis", 0)])
        .node("Reshape", "x target", "y", [])
        .output("y")
        .computes(&[&[1.0, 2.0]], &[1, 2], &[1.0, 2.0]);
}

#[test]
fn zeros_of_the_batchs_shape_are_channel_padding() {
    // torch.cat([x, x.new_zeros(n, c, h, w)], 1): the identity shortcut of the first ResNets.
    let network = Graph::new(13)
        .input("x", &[0, 2, 2, 2])
        .node("Shape", "x", "shape", [])
        .node("ConstantOfShape", "shape", "zeros", [tensor("value", floats("", &[1], &[0.0]))])
        .node("Concat", "x zeros", "y", [int("axis", 1)])
        .output("y")
        .fused();
    assert_eq!(census(&network), "Pad 1");
    assert_eq!(network.graph.outputs[0].shape.c, 4);
}

#[test]
fn sizes_of_images_fix_the_size_where_they_are_used_as_numbers() {
    let graph = |half: bool| {
        let graph = Graph::new(13)
            .input("x", &[0, 2, 0, 0])
            .ints("at", &[2])
            .ints("two", &[2])
            .ints("zero", &[0])
            .node("Shape", "x", "shape", [])
            .node("Gather", "shape at", "h", [])
            .node("Div", "h two", "half", []);
        let ends = if half { "x zero half at" } else { "x zero h at" };
        graph.node("Slice", ends, "y", []).output("y").import().unwrap().graph
    };
    assert!(graph(true).fixed_size);
    assert_eq!(graph(true).outputs[0].shape.h, 112);
    assert!(!graph(false).fixed_size);
}

#[test]
fn comparisons_and_choices() {
    // Expand's target as PyTorch spells it: where(shape == -1, 1, shape).
    Graph::new(13)
        .input("x", &[0, 2])
        .ints("shape", &[-1, 2])
        .ints("minus", &[-1])
        .ints("one", &[1])
        .floats("c", &[1, 2], &[10.0, 20.0])
        .node("Equal", "shape minus", "is_open", [])
        .node("Where", "is_open one shape", "target", [])
        .node("Expand", "c target", "constant", [])
        .node("Add", "x constant", "y", [])
        .output("y")
        .computes(&[&[1.0, 2.0]], &[1, 2], &[11.0, 22.0]);
}

#[test]
fn numbers_that_cannot_be_known() {
    let graph = |op: &str| {
        Graph::new(13)
            .input("x", &[0, 2])
            .ints("two", &[2, 3])
            .node("Shape", "x", "shape", [])
            .node(op, "shape two", "z", [])
            .node("Reshape", "x z", "y", [])
            .output("y")
    };
    graph("Div").refused("the Div (Div)", "N / 2 for an unknown batch N");
    graph("Equal").refused("the Equal (Equal)", "whether N equals 2");
    graph("Min").refused("the Min (Min)", "Min of N and 2");
    graph("Mul").refused("the Reshape (Reshape)", "[N, 2] to [2*N, 6]");
}
