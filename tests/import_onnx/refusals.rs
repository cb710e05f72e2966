//! What is refused, naming the node, the operator and the reason.

use skipstone::ErrorKind;
use skipstone::import::onnx;
use skipstone::import::onnx::proto::AttributeProto;

use crate::graph::Graph;
use crate::graph::attribute::{float, int, ints, text};

/// `x` of `dims` through one node with one more operand `c` of shape [2].
fn one<const N: usize>(
    opset: i64,
    dims: &[i64],
    op: &str,
    operands: &str,
    attributes: [AttributeProto; N],
) -> Graph {
    Graph::new(opset)
        .input("x", dims)
        .floats("c", &[2], &[1.0, 2.0])
        .node(op, operands, "y", attributes)
        .output("y")
}

#[test]
fn operators() {
    one(13, &[1, 2], "Sigmoid", "x", [])
        .refused("the Sigmoid (Sigmoid)", "the operator is not supported");
    one(13, &[1, 2], "MatMul", "c x", []).refused("the MatMul (MatMul)", "is constant");
    one(13, &[1, 2], "Mul", "x x", []).refused("the Mul (Mul)", "both operands depend");
    one(13, &[1, 2], "Div", "c x", []).refused("the Div (Div)", "operand 0 'c' is constant");
    let mut graph = one(13, &[1, 2], "Gelu", "x", []);
    graph.graph.node[0].domain = "com.microsoft".to_owned();
    graph.refused("the Gelu (Gelu)", "domain 'com.microsoft'");
    // A node without a name is named by its output.
    let mut graph = one(13, &[1, 2], "Sigmoid", "x", []);
    graph.graph.node[0].name.clear();
    graph.refused("y (Sigmoid)", "not supported");
}

#[test]
fn opsets() {
    for (opset, supported) in [(6, false), (7, true), (21, true), (22, false)] {
        let result = one(opset, &[1, 2], "Relu", "x", []).import();
        assert_eq!(result.is_ok(), supported, "opset {opset}");
    }
    let mut model = one(13, &[1, 2], "Relu", "x", []).model();
    model.opset_import.clear();
    let error = onnx::network(model, None, &Default::default()).expect_err("no opset");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn attributes() {
    one(13, &[1, 2, 4, 4], "MaxPool", "x", [ints("kernel_shape", &[2, 2]), int("new", 1)])
        .refused("the MaxPool (MaxPool)", "attribute 'new' is not supported");
    one(13, &[1, 2, 4, 4], "MaxPool", "x", [int("kernel_shape", 2)])
        .refused("the MaxPool (MaxPool)", "attribute 'kernel_shape' has the wrong type");
    one(13, &[1, 2, 4, 4], "MaxPool", "x", []).refused("the MaxPool (MaxPool)", "is missing");
    one(13, &[1, 2, 4, 4], "MaxPool", "x", [ints("kernel_shape", &[2])])
        .refused("the MaxPool (MaxPool)", "expected 2 numbers");
    one(13, &[1, 2, 4, 4], "MaxPool", "x", [ints("kernel_shape", &[2, 2]), ints("pads", &[2; 4])])
        .refused("the MaxPool (MaxPool)", "is not smaller than the window");
    one(13, &[1, 2, 4, 4], "AveragePool", "x", [ints("kernel_shape", &[0, 2])])
        .refused("the AveragePool (AveragePool)", "of 0");
    one(13, &[1, 2, 4, 4], "AveragePool", "x", [ints("kernel_shape", &[-1, 2])])
        .refused("the AveragePool (AveragePool)", "attribute 'kernel_shape' is [-1, 2]");
    one(
        13,
        &[1, 2, 4, 4],
        "MaxPool",
        "x",
        [ints("kernel_shape", &[2, 2]), text("auto_pad", "SAME_MIDDLE")],
    )
    .refused("the MaxPool (MaxPool)", "auto_pad 'SAME_MIDDLE'");
    one(10, &[1, 2, 4, 4], "Pad", "x", [ints("pads", &[0; 8]), text("mode", "reflect")])
        .refused("the Pad (Pad)", "mode 'reflect'");
    one(10, &[1, 2, 4, 4], "Pad", "x", [ints("pads", &[0, 0, -1, 0, 0, 0, 0, 0])])
        .refused("the Pad (Pad)", "negative pad -1");
    one(10, &[1, 2, 4, 4], "Pad", "x", [ints("pads", &[1, 0, 0, 0, 0, 0, 0, 0])])
        .refused("the Pad (Pad)", "the batch is padded");
    one(11, &[2, 2], "Gemm", "x c", [int("transA", 1)]).refused("the Gemm (Gemm)", "transA is set");
    one(13, &[1, 2], "Cast", "x", [int("to", 7)])
        .refused("the Cast (Cast)", "cast of an activation to element type 7");
    one(9, &[1, 2], "Clip", "x", [float("min", f32::NAN)])
        .refused("the Clip (Clip)", "not a number");
    one(13, &[1, 2], "Dropout", "x c c", [])
        .refused("the Dropout (Dropout)", "expected one number");
}

#[test]
fn batch_normalization() {
    let graph = |opset: i64, dims: &[i64], attribute: AttributeProto| {
        one(opset, dims, "BatchNormalization", "x c c c c", [attribute])
    };
    let label = "the BatchNormalization (BatchNormalization)";
    graph(15, &[1, 2, 4, 4], int("training_mode", 1)).refused(label, "training_mode is set");
    graph(7, &[1, 2, 4, 4], int("spatial", 0)).refused(label, "attribute 'spatial' is 0");
    graph(9, &[1, 3, 4, 4], float("epsilon", 0.0)).refused(label, "scale has shape [2]");
    graph(9, &[1, 2, 4, 4], float("epsilon", -3.0)).refused(label, "infinite or not a number");
}

#[test]
fn a_second_output_that_is_used() {
    let mut graph = one(12, &[1, 2, 4, 4], "MaxPool", "x", [ints("kernel_shape", &[2, 2])])
        .node("Cast", "indices", "z", [int("to", 1)])
        .output("z");
    graph.graph.node[0].output.push("indices".to_owned());
    graph.refused("the MaxPool (MaxPool)", "output 'indices' is used");
}

#[test]
fn shapes() {
    one(13, &[1, 3, 4, 4], "Add", "x x2", [])
        .input("x2", &[1, 3, 1, 1])
        .refused("the Add (Add)", "operands have shapes 3x4x4 and 3x1x1");
    one(13, &[1, 3], "Add", "x c", []).refused("the Add (Add)", "would change the shape");
    one(13, &[2, 3], "Add", "x d", [])
        .floats("d", &[2, 3], &[1.0; 6])
        .refused("the Add (Add)", "differs between the images");
    one(13, &[1, 2, 4, 4], "Mul", "x d", [])
        .floats("d", &[4, 4], &[1.0; 16])
        .refused("the Mul (Mul)", "does not vary along the channels alone");
    one(13, &[1, 2, 4, 4], "Concat", "x x", [int("axis", 2)])
        .node("GlobalAveragePool", "x", "z", [])
        .output("z")
        .refused("the Concat (Concat)", "only channels can be concatenated");
    one(13, &[1, 2, 4, 4], "Conv", "x w", [])
        .floats("w", &[1, 3, 1, 1], &[1.0; 3])
        .refused("the Conv (Conv)", "input has 2 channels, the weights expect 3");
    one(13, &[1, 2, 4, 4], "Conv", "x w", [])
        .floats("w", &[1, 2, 9, 9], &[1.0; 162])
        .refused("the Conv (Conv)", "does not fit");
    one(13, &[1, 2, 4, 4], "Conv", "x w", [ints("kernel_shape", &[3, 3])])
        .floats("w", &[1, 2, 1, 1], &[1.0; 2])
        .refused("the Conv (Conv)", "kernel_shape [3, 3], but the weights are [1, 1]");
    one(13, &[1, 2, 4, 4], "Conv", "x w", [])
        .floats("w", &[1, 2, 1], &[1.0; 2])
        .refused("the Conv (Conv)", "weights of shape [1, 2, 1] for 2 spatial axes");
    one(13, &[1, 2, 4, 4], "Softmax", "x", [int("axis", 0)])
        .refused("the Softmax (Softmax)", "only softmax over the channels");
    one(11, &[1, 2, 4, 4], "Softmax", "x", [])
        .refused("the Softmax (Softmax)", "only softmax over the channels");
    one(13, &[4, 2], "ReduceMean", "x", [])
        .refused("the ReduceMean (ReduceMean)", "over the batch");
    one(13, &[1, 2, 4, 4], "Squeeze", "x a", [])
        .ints("a", &[2])
        .refused("the Squeeze (Squeeze)", "axis 2 has extent 4, not 1");
    one(13, &[0, 2, 4, 4], "Reshape", "x a", [])
        .ints("a", &[-1, 4, 4, 2])
        .refused("the Reshape (Reshape)", "[N, 2, 4, 4] to [N, 4, 4, 2]");
    one(13, &[0, 2, 4, 4], "Slice", "x a b z", [])
        .ints("a", &[1])
        .ints("b", &[2])
        .ints("z", &[0])
        .refused("the Slice (Slice)", "the batch is sliced");
    one(13, &[0, 2, 4, 4], "Slice", "x a b b a", [])
        .ints("a", &[-1])
        .ints("b", &[2])
        .refused("the Slice (Slice)", "step -1");
    one(13, &[0, 2, 4, 4], "Conv", "t w", [])
        .floats("w", &[4, 4, 1, 1], &[1.0; 16])
        .floats("one", &[2, 2, 1, 1], &[1.0; 4])
        .node("Conv", "x one", "known", [])
        .node("Transpose", "known", "t", [ints("perm", &[0, 2, 1, 3])])
        .refused("the Conv (Conv)", "expected N, C and one or two spatial ones");
}

#[test]
fn ports() {
    one(13, &[1, 2, 3, 4, 5], "Relu", "x", []).refused("x (input)", "5 axes");
    one(13, &[0, 0], "Relu", "x", []).refused("x (input)", "says the channels");
    one(13, &[1, 2], "Relu", "x", []).output("z").refused("z (output)", "'z' is not defined");
    one(13, &[1, 2, 3], "Transpose", "x", []).refused("y (output)", "not an order of N, C, H, W");
    one(13, &[2, 2], "Relu", "x", [])
        .input("x2", &[3, 2])
        .node("Relu", "x2", "z", [])
        .output("z")
        .refused("x2 (input)", "batch 3, another input has batch 2");
    one(13, &[2, 2], "Flatten", "x", [int("axis", 2)]).refused("y (output)", "merges [N, C]");
    Graph::new(13)
        .input_of("x", &[1, 2], 8)
        .node("Relu", "x", "y", [])
        .output("y")
        .refused("x (input)", "element type 8");
    Graph::new(13)
        .input_of("x", &[1, 2], 2)
        .node("Relu", "x", "y", [])
        .output("y")
        .refused("the Relu (Relu)", "holds integers");
}
