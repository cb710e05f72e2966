//! What each operator computes.

use skipstone::graph::{Op, Pad, Pool, PoolKind};

use crate::graph::attribute::{float, int, ints, text};
use crate::graph::{Graph, assert_close, first_op, iota};

/// A 1-channel image of `h` x `w` through one node with weights `w` and bias `b`.
fn image_node<const N: usize>(
    op: &str,
    size: [i64; 2],
    weights: (&[i64], &[f32]),
    attributes: [skipstone::import::onnx::proto::AttributeProto; N],
) -> Graph {
    Graph::new(13)
        .input("x", &[1, 1, size[0], size[1]])
        .floats("w", weights.0, weights.1)
        .node(op, "x w", "y", attributes)
        .output("y")
}

#[test]
fn conv_with_stride_pads_and_dilation() {
    let weights = (&[1, 1, 2, 2][..], &[1.0, 10.0, 100.0, 1000.0][..]);
    image_node("Conv", [3, 3], weights, []).computes(
        &[&iota(9)],
        &[1, 1, 2, 2],
        &[4310.0, 5421.0, 7643.0, 8754.0],
    );
    image_node("Conv", [3, 3], weights, [ints("strides", &[2, 2]), ints("pads", &[1, 1, 0, 0])])
        .computes(&[&iota(9)], &[1, 1, 2, 2], &[0.0, 2100.0, 6030.0, 8754.0]);
    image_node("Conv", [3, 3], weights, [ints("dilations", &[2, 2])]).computes(
        &[&iota(9)],
        &[1, 1, 1, 1],
        &[8620.0],
    );
}

#[test]
fn conv_with_automatic_padding() {
    let weights = (&[1, 1, 2, 2][..], &[1.0, 10.0, 100.0, 1000.0][..]);
    let stride = || ints("strides", &[2, 2]);
    image_node("Conv", [3, 3], weights, [text("auto_pad", "SAME_UPPER"), stride()]).computes(
        &[&iota(9)],
        &[1, 1, 2, 2],
        &[4310.0, 502.0 + 0.0, 76.0, 8.0],
    );
    image_node("Conv", [3, 3], weights, [text("auto_pad", "SAME_LOWER"), stride()]).computes(
        &[&iota(9)],
        &[1, 1, 2, 2],
        &[0.0, 2100.0, 6030.0, 8754.0],
    );
    image_node("Conv", [3, 3], weights, [text("auto_pad", "VALID"), stride()]).computes(
        &[&iota(9)],
        &[1, 1, 1, 1],
        &[4310.0],
    );
}

#[test]
fn same_padding_of_a_strided_window_fixes_the_size() {
    let conv = |stride: i64| {
        let attributes = [text("auto_pad", "SAME_UPPER"), ints("strides", &[stride, stride])];
        let network = Graph::new(11)
            .input("x", &[0, 1, 0, 0])
            .floats("w", &[1, 1, 3, 3], &[1.0; 9])
            .node("Conv", "x w", "y", attributes)
            .output("y")
            .import()
            .unwrap();
        assert_eq!(network.graph.inputs[0].shape.h, 224);
        network.graph.fixed_size
    };
    assert!(!conv(1));
    assert!(conv(2));
}

#[test]
fn grouped_conv_with_bias() {
    Graph::new(13)
        .input("x", &[1, 4, 1, 2])
        .floats("w", &[2, 2, 1, 1], &[1.0, 10.0, 2.0, 20.0])
        .floats("b", &[2], &[0.5, -0.5])
        .node("Conv", "x w b", "y", [int("group", 2), ints("kernel_shape", &[1, 1])])
        .output("y")
        .computes(&[&iota(8)], &[1, 2, 1, 2], &[20.5, 31.5, 127.5, 149.5]);
}

#[test]
fn conv_of_one_dimension() {
    Graph::new(13)
        .input("x", &[0, 1, 4])
        .floats("w", &[1, 1, 2], &[1.0, 10.0])
        .node("Conv", "x w", "y", [ints("pads", &[1, 0]), ints("strides", &[1])])
        .output("y")
        .computes(&[&iota(4)], &[1, 1, 4], &[0.0, 10.0, 21.0, 32.0]);
}

#[test]
fn conv_over_width_and_height_in_this_order() {
    // [N, C, H, W] -> [N, C, W, H]: the kernel is turned, too.
    Graph::new(13)
        .input("x", &[1, 1, 2, 3])
        .floats("one", &[1, 1, 1, 1], &[1.0])
        .floats("w", &[1, 1, 2, 1], &[1.0, 10.0])
        .node("Conv", "x one", "same", [])
        .node("Transpose", "same", "turned", [ints("perm", &[0, 1, 3, 2])])
        .node("Conv", "turned w", "y", [])
        .output("y")
        .computes(&[&iota(6)], &[1, 1, 2, 2], &[10.0, 43.0, 21.0, 54.0]);
}

#[test]
fn max_pool() {
    let pool = |attributes: [_; 3]| {
        Graph::new(12).input("x", &[1, 1, 3, 3]).node("MaxPool", "x", "y", attributes).output("y")
    };
    let kernel = || ints("kernel_shape", &[2, 2]);
    let stride = || ints("strides", &[2, 2]);
    let negative: Vec<f32> = iota(9).iter().map(|v| v - 10.0).collect();
    // Padding never wins, also over negative numbers.
    pool([kernel(), stride(), ints("pads", &[1, 1, 0, 0])]).computes(
        &[&negative],
        &[1, 1, 2, 2],
        &[-10.0, -8.0, -4.0, -2.0],
    );
    pool([kernel(), stride(), int("ceil_mode", 1)]).computes(
        &[&iota(9)],
        &[1, 1, 2, 2],
        &[4.0, 5.0, 7.0, 8.0],
    );
    pool([kernel(), int("storage_order", 1), ints("dilations", &[2, 2])]).computes(
        &[&iota(9)],
        &[1, 1, 1, 1],
        &[8.0],
    );
}

#[test]
fn average_pool() {
    let pool = |attributes: [_; 4]| {
        Graph::new(19)
            .input("x", &[1, 1, 3, 3])
            .node("AveragePool", "x", "y", attributes)
            .output("y")
    };
    let kernel = || ints("kernel_shape", &[2, 2]);
    let stride = || ints("strides", &[2, 2]);
    let pads = || ints("pads", &[1, 1, 0, 0]);
    pool([kernel(), stride(), pads(), int("count_include_pad", 0)]).computes(
        &[&iota(9)],
        &[1, 1, 2, 2],
        &[0.0, 1.5, 4.5, 6.0],
    );
    pool([kernel(), stride(), pads(), int("count_include_pad", 1)]).computes(
        &[&iota(9)],
        &[1, 1, 2, 2],
        &[0.0, 0.75, 2.25, 6.0],
    );
    // What ceil_mode adds is no padding: it never counts.
    pool([kernel(), stride(), int("ceil_mode", 1), int("count_include_pad", 1)]).computes(
        &[&iota(9)],
        &[1, 1, 2, 2],
        &[2.0, 3.5, 6.5, 8.0],
    );
}

#[test]
fn pools_of_one_dimension_and_global() {
    Graph::new(11)
        .input("x", &[1, 2, 3])
        .node("MaxPool", "x", "y", [ints("kernel_shape", &[2])])
        .output("y")
        .computes(&[&iota(6)], &[1, 2, 2], &[1.0, 2.0, 4.0, 5.0]);
    Graph::new(11)
        .input("x", &[1, 2, 3])
        .node("GlobalAveragePool", "x", "y", [])
        .output("y")
        .computes(&[&iota(6)], &[1, 2, 1], &[1.0, 4.0]);
    Graph::new(11)
        .input("x", &[1, 2, 1, 3])
        .node("GlobalAveragePool", "x", "y", [])
        .output("y")
        .computes(&[&iota(6)], &[1, 2, 1, 1], &[1.0, 4.0]);
}

#[test]
fn reduce_mean() {
    let mean = |axes: &[i64], keep: i64| {
        Graph::new(13)
            .input("x", &[1, 2, 2, 2])
            .node("ReduceMean", "x", "y", [ints("axes", axes), int("keepdims", keep)])
            .output("y")
    };
    mean(&[2, 3], 1).computes(&[&iota(8)], &[1, 2, 1, 1], &[1.5, 5.5]);
    mean(&[-1, -2], 0).computes(&[&iota(8)], &[1, 2], &[1.5, 5.5]);
    mean(&[2], 0).computes(&[&iota(8)], &[1, 2, 2], &[1.0, 2.0, 5.0, 6.0]);
    mean(&[1, 2, 3], 0).computes(&[&iota(8)], &[1], &[3.5]);
    // From opset 18, the axes are an operand.
    Graph::new(18)
        .input("x", &[1, 2, 2, 2])
        .ints("axes", &[2, 3])
        .node("ReduceMean", "x axes", "y", [int("keepdims", 0)])
        .output("y")
        .computes(&[&iota(8)], &[1, 2], &[1.5, 5.5]);
    Graph::new(18)
        .input("x", &[1, 2])
        .node("ReduceMean", "x", "y", [int("noop_with_empty_axes", 1)])
        .output("y")
        .computes(&[&iota(2)], &[1, 2], &[0.0, 1.0]);
}

#[test]
fn a_mean_over_pixels_in_any_form_is_a_global_pool() {
    let network = Graph::new(13)
        .input("x", &[0, 8, 0, 0])
        .ints("shape", &[0, 0, -1])
        .node("Reshape", "x shape", "flat", [])
        .node("ReduceMean", "flat", "y", [ints("axes", &[2]), int("keepdims", 0)])
        .output("y")
        .fused();
    assert_eq!(*first_op(&network), Op::GlobalAveragePool);
    assert!(!network.graph.fixed_size);
}

#[test]
fn batch_normalization() {
    let network = |opset: i64, attributes: [_; 2]| {
        Graph::new(opset)
            .input("x", &[1, 2, 1, 2])
            .floats("scale", &[2], &[1.0, 2.0])
            .floats("bias", &[2], &[0.5, -0.5])
            .floats("mean", &[2], &[1.0, 2.0])
            .floats("var", &[2], &[4.0, 16.0])
            .node("BatchNormalization", "x scale bias mean var", "y", attributes)
            .output("y")
    };
    let expected = [0.0, 0.5, -0.5, 0.0];
    let epsilon = || float("epsilon", 0.0);
    network(7, [epsilon(), int("spatial", 1)]).computes(&[&iota(4)], &[1, 2, 1, 2], &expected);
    network(9, [epsilon(), float("momentum", 0.9)]).computes(&[&iota(4)], &[1, 2, 1, 2], &expected);
    network(15, [epsilon(), int("training_mode", 0)]).computes(
        &[&iota(4)],
        &[1, 2, 1, 2],
        &expected,
    );
}

#[test]
fn bounds() {
    let clip = |opset: i64| Graph::new(opset).input("x", &[1, 5]);
    let x = [-2.0, -1.0, 0.0, 3.0, 9.0];
    let expected = [-1.0, -1.0, 0.0, 3.0, 6.0];
    clip(7).node("Clip", "x", "y", [float("min", -1.0), float("max", 6.0)]).output("y").computes(
        &[&x],
        &[1, 5],
        &expected,
    );
    clip(11)
        .floats("min", &[], &[-1.0])
        .floats("max", &[], &[6.0])
        .node("Clip", "x min max", "y", [])
        .output("y")
        .computes(&[&x], &[1, 5], &expected);
    clip(13).floats("max", &[], &[6.0]).node("Clip", "x _ max", "y", []).output("y").computes(
        &[&x],
        &[1, 5],
        &[-2.0, -1.0, 0.0, 3.0, 6.0],
    );
    clip(13)
        .floats("six", &[1], &[6.0])
        .node("Relu", "x", "r", [])
        .node("Min", "r six", "y", [])
        .output("y")
        .computes(&[&x], &[1, 5], &[0.0, 0.0, 0.0, 3.0, 6.0]);
}

#[test]
fn arithmetic_with_constants() {
    let graph = |op: &str, operands: &str, dims: &[i64], data: &[f32]| {
        Graph::new(13)
            .input("x", &[1, 2, 1, 2])
            .floats("c", dims, data)
            .node(op, operands, "y", [])
            .output("y")
    };
    let x = iota(4);
    let dims = [1, 2, 1, 2];
    graph("Add", "x c", &[1, 2, 1, 1], &[10.0, 20.0]).computes(
        &[&x],
        &dims,
        &[10.0, 11.0, 22.0, 23.0],
    );
    graph("Add", "c x", &[2, 1, 1], &[10.0, 20.0]).computes(
        &[&x],
        &dims,
        &[10.0, 11.0, 22.0, 23.0],
    );
    graph("Sub", "x c", &[], &[1.0]).computes(&[&x], &dims, &[-1.0, 0.0, 1.0, 2.0]);
    graph("Sub", "c x", &[1], &[1.0]).computes(&[&x], &dims, &[1.0, 0.0, -1.0, -2.0]);
    graph("Mul", "x c", &[2, 1, 1], &[2.0, 3.0]).computes(&[&x], &dims, &[0.0, 2.0, 6.0, 9.0]);
    graph("Div", "x c", &[], &[2.0]).computes(&[&x], &dims, &[0.0, 0.5, 1.0, 1.5]);
    // A constant that varies over the image can still be added.
    graph("Add", "x c", &[2], &[10.0, 20.0]).computes(&[&x], &dims, &[10.0, 21.0, 12.0, 23.0]);
    graph("Sub", "x c", &[2, 1, 2], &[0.0, 0.0, 1.0, 2.0]).computes(
        &[&x],
        &dims,
        &[0.0, 1.0, 1.0, 1.0],
    );
}

#[test]
fn arithmetic_with_activations() {
    Graph::new(13)
        .input("x", &[1, 2])
        .input("y", &[1, 2])
        .floats("c", &[1, 2], &[100.0, 200.0])
        .node("Sum", "x c y x", "sum", [])
        .node("Sub", "sum y", "difference", [])
        .node("Neg", "difference", "z", [])
        .output("z")
        .computes(&[&[1.0, 2.0], &[10.0, 20.0]], &[1, 2], &[-102.0, -204.0]);
}

#[test]
fn gemm() {
    let graph = |weights: &[i64], bias: &[i64], attributes: [_; 3]| {
        let nb_biases = bias.iter().product::<i64>() as usize;
        Graph::new(11)
            .input("x", &[0, 2])
            .floats("w", weights, &iota(6))
            .floats("b", bias, &[10.0, 20.0, 30.0][..nb_biases])
            .node("Gemm", "x w b", "y", attributes)
            .output("y")
    };
    let x = [1.0, 2.0];
    let trans = |v: i64| int("transB", v);
    let (alpha, beta) = (|v| float("alpha", v), |v| float("beta", v));
    graph(&[3, 2], &[3], [trans(1), alpha(1.0), beta(1.0)]).computes(
        &[&x],
        &[1, 3],
        &[12.0, 28.0, 44.0],
    );
    graph(&[2, 3], &[1, 3], [trans(0), alpha(2.0), beta(0.5)]).computes(
        &[&x],
        &[1, 3],
        &[17.0, 28.0, 39.0],
    );
    graph(&[3, 2], &[], [trans(1), alpha(1.0), beta(1.0)]).computes(
        &[&x],
        &[1, 3],
        &[12.0, 18.0, 24.0],
    );
    graph(&[3, 2], &[1, 1], [trans(1), alpha(1.0), beta(0.0)]).computes(
        &[&x],
        &[1, 3],
        &[2.0, 8.0, 14.0],
    );
}

#[test]
fn gemm_with_a_bias_that_depends_on_the_input() {
    Graph::new(11)
        .input("x", &[0, 2])
        .floats("w", &[2, 2], &[1.0, 0.0, 0.0, 1.0])
        .node("Gemm", "x w x", "y", [float("beta", 2.0)])
        .output("y")
        .computes(&[&[1.0, 2.0]], &[1, 2], &[3.0, 6.0]);
}

#[test]
fn matmul() {
    Graph::new(13)
        .input("x", &[0, 2])
        .floats("w", &[2, 3], &iota(6))
        .floats("b", &[3], &[10.0, 20.0, 30.0])
        .node("MatMul", "x w", "xw", [])
        .node("Add", "xw b", "y", [])
        .output("y")
        .computes(&[&[1.0, 2.0]], &[1, 3], &[16.0, 29.0, 42.0]);
    // Over the channels of each pixel.
    Graph::new(13)
        .input("x", &[0, 2, 1, 2])
        .floats("w", &[2, 1], &[1.0, 10.0])
        .node("Transpose", "x", "nhwc", [ints("perm", &[0, 2, 3, 1])])
        .node("MatMul", "nhwc w", "y", [])
        .output("y")
        .computes(&[&iota(4)], &[1, 1, 2, 1], &[20.0, 31.0]);
}

#[test]
fn softmax() {
    let softmax = |opset: i64, op: &str, dims: &[i64], attributes: &[i64]| {
        let graph = Graph::new(opset).input("x", dims);
        let graph = match attributes {
            [axis] => graph.node(op, "x", "y", [int("axis", *axis)]),
            _ => graph.node(op, "x", "y", []),
        };
        graph.output("y")
    };
    let x = [0.0, 1.0, 2.0];
    let expected = [0.090_030_57, 0.244_728_47, 0.665_240_96];
    softmax(13, "Softmax", &[1, 3], &[]).computes(&[&x], &[1, 3], &expected);
    softmax(11, "Softmax", &[1, 3], &[]).computes(&[&x], &[1, 3], &expected);
    softmax(13, "Softmax", &[1, 3, 1, 1], &[1]).computes(&[&x], &[1, 3, 1, 1], &expected);
    softmax(13, "LogSoftmax", &[1, 3], &[1]).computes(&[&x], &[1, 3], &expected.map(f32::ln));
    // Before opset 13 all axes from `axis` on count as one.
    softmax(11, "Softmax", &[1, 3, 1, 1], &[]).computes(&[&x], &[1, 3, 1, 1], &expected);
    let image = [0.0, 1.0, 0.0, 1.0 + 2f32.ln()];
    softmax(13, "Softmax", &[1, 2, 1, 2], &[1]).computes(
        &[&image],
        &[1, 2, 1, 2],
        &[0.5, 1.0 / 3.0, 0.5, 2.0 / 3.0],
    );
}

#[test]
fn pad() {
    let padded = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 3.0];
    Graph::new(10)
        .input("x", &[1, 1, 2, 2])
        .node("Pad", "x", "y", [ints("pads", &[0, 0, 1, 1, 0, 0, 0, 0]), text("mode", "constant")])
        .output("y")
        .computes(&[&iota(4)], &[1, 1, 3, 3], &padded);
    Graph::new(13)
        .input("x", &[1, 1, 2, 2])
        .ints("pads", &[0, 0, 1, 1, 0, 0, 0, 0])
        .node("Pad", "x pads", "y", [])
        .output("y")
        .computes(&[&iota(4)], &[1, 1, 3, 3], &padded);
    Graph::new(18)
        .input("x", &[1, 1, 1, 2])
        .ints("pads", &[1, 0, 0, 1])
        .ints("axes", &[1, -1])
        .floats("value", &[], &[7.0])
        .node("Pad", "x pads value axes", "y", [])
        .output("y")
        .computes(&[&iota(2)], &[1, 2, 1, 3], &[7.0, 7.0, 7.0, 0.0, 1.0, 7.0]);
}

#[test]
fn zero_padding_joins_the_convolution_and_the_pool() {
    let padded = |op: &str, operands: &str, relu: bool| {
        let graph = Graph::new(13)
            .input("x", &[0, 1, 0, 0])
            .floats("w", &[1, 1, 3, 3], &iota(9))
            .ints("pads", &[0, 0, 1, 1, 0, 0, 1, 1]);
        let graph = if relu { graph.node("Relu", "x", "r", []) } else { graph };
        let input = if relu { "r pads" } else { "x pads" };
        graph
            .node("Pad", input, "p", [])
            .node(op, operands, "y", [ints("kernel_shape", &[3, 3])])
            .output("y")
            .import_with(&skipstone::import::ImportOptions { input_size: Some([8, 9]) })
            .map(|mut network| {
                skipstone::graph::fuse::fuse(&mut network).unwrap();
                network
            })
            .unwrap()
    };
    let Op::Conv(conv) = first_op(&padded("Conv", "p w", false)).clone() else { panic!() };
    assert_eq!(conv.pad, Pad::all(1));
    // A zero never wins over what a ReLU leaves, but may win over a negative number.
    let network = padded("MaxPool", "p", true);
    let Op::Pool(Pool { kind, pad, .. }) = network.graph.nodes[1].op else { panic!() };
    assert_eq!((kind, pad), (PoolKind::Max, Pad::all(1)));
    assert!(matches!(first_op(&padded("MaxPool", "p", false)), Op::Pad { .. }));
}

#[test]
fn concat_of_channels() {
    Graph::new(13)
        .input("x", &[1, 1, 1, 2])
        .floats("c", &[1, 2, 1, 2], &[10.0, 20.0, 30.0, 40.0])
        .node("Concat", "x c x", "y", [int("axis", -3)])
        .output("y")
        .computes(&[&[1.0, 2.0]], &[1, 4, 1, 2], &[1.0, 2.0, 10.0, 20.0, 30.0, 40.0, 1.0, 2.0]);
}

#[test]
fn slice() {
    let expected = [0.0, 2.0, 6.0, 8.0];
    Graph::new(9)
        .input("x", &[1, 1, 3, 3])
        .node(
            "Slice",
            "x",
            "y",
            [ints("starts", &[0, 1]), ints("ends", &[i64::MAX, -1]), ints("axes", &[2, 3])],
        )
        .output("y")
        .computes(&[&iota(9)], &[1, 1, 3, 1], &[1.0, 4.0, 7.0]);
    Graph::new(13)
        .input("x", &[1, 1, 3, 3])
        .ints("starts", &[0, 0])
        .ints("ends", &[i64::MAX, i64::from(i32::MAX)])
        .ints("axes", &[2, 3])
        .ints("steps", &[2, 2])
        .node("Slice", "x starts ends axes steps", "y", [])
        .output("y")
        .computes(&[&iota(9)], &[1, 1, 2, 2], &expected);
    // As `x[:, :, ::2, ::2]` exports it: the batch and the channels as they are.
    Graph::new(11)
        .input("x", &[0, 1, 3, 3])
        .ints("starts", &[0, 0, 0, 0])
        .ints("ends", &[i64::MAX; 4])
        .ints("axes", &[0, 1, 2, 3])
        .ints("steps", &[1, 1, 2, 2])
        .node("Slice", "x starts ends axes steps", "y", [])
        .output("y")
        .computes(&[&iota(9)], &[1, 1, 2, 2], &expected);
}

#[test]
fn operators_that_do_nothing() {
    Graph::new(13)
        .input("x", &[1, 2])
        .floats("ratio", &[], &[0.5])
        .tensor(crate::graph::raw("off", &[], 9, &[0]))
        .node("Dropout", "x ratio off", "d", [int("seed", 1)])
        .node("Identity", "d", "i", [])
        .node("Cast", "i", "half", [int("to", 10)])
        .node("Cast", "half", "y", [int("to", 1)])
        .output("y")
        .computes(&[&[1.0, 2.0]], &[1, 2], &[1.0, 2.0]);
    Graph::new(7)
        .input("x", &[1, 2])
        .node("Dropout", "x", "y mask", [float("ratio", 0.5)])
        .output("y")
        .computes(&[&[1.0, 2.0]], &[1, 2], &[1.0, 2.0]);
}

#[test]
fn bytes_are_floats_after_a_cast() {
    Graph::new(13)
        .input_of("x", &[1, 2], 2)
        .floats("c", &[], &[255.0])
        .node("Cast", "x", "f", [int("to", 1)])
        .node("Div", "f c", "y", [])
        .output("y")
        .computes(&[&[255.0, 51.0]], &[1, 2], &[1.0, 0.2]);
}

#[test]
fn several_inputs_and_outputs_and_batches() {
    let network = Graph::new(13)
        .input("a", &[1, 2])
        .input("b", &[0, 2])
        .node("Add", "a b", "sum", [])
        .node("Relu", "a", "relu", [])
        .output("relu")
        .output("sum")
        .import()
        .unwrap();
    let shapes = network.graph.input_shapes();
    let a = [1.0, -2.0, 3.0, -4.0];
    let b = [10.0, 20.0, 30.0, 40.0];
    let outputs = skipstone::graph::reference::run(&network, &shapes, 2, &[&a, &b]).unwrap();
    assert_close(&outputs[0], &[1.0, 0.0, 3.0, 0.0]);
    assert_close(&outputs[1], &[11.0, 18.0, 33.0, 36.0]);
    let names: Vec<&str> = network.graph.outputs.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["relu", "sum"]);
}
