//! `QuantizeLinear`, `DequantizeLinear` and operators on quantized tensors.

use skipstone::graph::{Clamp, Conv, Op, Quantization};
use skipstone::import::onnx::proto::{TensorProto, dtype};

use crate::graph::attribute::{int, ints};
use crate::graph::{Graph, census, raw};

const POINT: &[i64] = &[];

fn bytes(name: &str, dims: &[i64], data: &[i8]) -> TensorProto {
    raw(name, dims, dtype::INT8, &data.iter().map(|v| *v as u8).collect::<Vec<_>>())
}

/// `x` stored as `q`, in halves around 10; `r` is what it stands for.
fn quantized_image(dims: &[i64]) -> Graph {
    Graph::new(13)
        .input("x", dims)
        .floats("s", POINT, &[0.5])
        .tensor(raw("z", POINT, dtype::UINT8, &[10]))
        .node("QuantizeLinear", "x s z", "q", [])
        .node("DequantizeLinear", "q s z", "r", [])
}

#[test]
fn a_pair_rounds_and_saturates() {
    let x = [-9.0, -0.25, 0.25, 0.75, 200.0];
    quantized_image(&[1, 5]).output("r").computes(&[&x], &[1, 5], &[-5.0, 0.0, 0.0, 1.0, 122.5]);
    let signed = Graph::new(13)
        .input("x", &[1, 5])
        .floats("s", POINT, &[0.5])
        .tensor(bytes("z", POINT, &[-2]))
        .node("QuantizeLinear", "x s z", "q", [])
        .node("DequantizeLinear", "q s z", "y", [])
        .output("y");
    signed.computes(&[&x], &[1, 5], &[-9.0, 0.0, 0.0, 1.0, 64.5]);
    // Without a zero point it is unsigned zero.
    let plain = Graph::new(13)
        .input("x", &[1, 5])
        .floats("s", POINT, &[0.5])
        .node("QuantizeLinear", "x s", "q", [])
        .node("DequantizeLinear", "q s", "y", [])
        .output("y");
    plain.computes(&[&x], &[1, 5], &[0.0, 0.0, 0.0, 1.0, 127.5]);
}

#[test]
fn an_integer_input_is_dequantized() {
    let graph = Graph::new(13)
        .input_of("x", &[1, 2], dtype::UINT8)
        .floats("s", POINT, &[0.5])
        .tensor(raw("z", POINT, dtype::UINT8, &[10]))
        .node("DequantizeLinear", "x s z", "y", [])
        .output("y");
    graph.computes(&[&[0.0, 255.0]], &[1, 2], &[-5.0, 122.5]);
}

/// `y = relu(conv(r) + bias)` with 8-bit weights of 2 output channels.
fn convolution(bias_scale: f32) -> Graph {
    quantized_image(&[1, 2, 1, 2])
        .tensor(bytes("w", &[2, 2, 1, 1], &[1, -2, 3, -128]))
        .floats("ws", &[2], &[0.5, 0.25])
        .tensor(bytes("wz", &[2], &[0, 0]))
        .node("DequantizeLinear", "w ws wz", "weights", [int("axis", 0)])
        .tensor(raw("b", &[2], dtype::INT32, &[4, 0, 0, 0, 8, 0, 0, 0]))
        .floats("bs", &[2], &[0.25 * bias_scale, 0.125 * bias_scale])
        .node("DequantizeLinear", "b bs", "bias", [int("axis", 0)])
        .node("Conv", "r weights bias", "sum", [])
        .node("Relu", "sum", "relu", [])
}

#[test]
fn a_convolution_between_them_computes_in_int8() {
    let x = [1.0, 2.0, -1.0, 0.5];
    let expected = [2.5, 1.5, 33.75, 0.0];
    let fused = convolution(1.0).output("relu").fused();
    assert_eq!(census(&fused), "Conv 1");
    let Op::Conv(conv) = &fused.graph.nodes[0].op else { panic!("a convolution") };
    assert_eq!(fused.data[conv.weights.0 as usize].i8(), [1, -2, 3, -128]);
    assert_eq!(fused.data[conv.bias.expect("a bias").0 as usize].i32(), [4, 8]);
    assert_eq!(fused.constant(conv.weight_scales.expect("int8")), [0.5, 0.25]);
    assert_eq!(conv.clamp, Clamp::RELU);
    let image = Some(Quantization { scale: 0.5, zero_point: 10, max: 255 });
    assert_eq!(fused.graph.quantization, [image, None]);
    convolution(1.0).output("relu").computes(&[&x], &[1, 2, 1, 2], &expected);
    // A bias with a scale of its own is brought to the sums' scale.
    convolution(2.0).output("relu").computes(&[&x], &[1, 2, 1, 2], &[3.5, 2.5, 34.75, 0.0]);

    let stored = convolution(1.0)
        .floats("ys", POINT, &[0.25])
        .node("QuantizeLinear", "relu ys", "yq", [])
        .node("DequantizeLinear", "yq ys", "y", [])
        .output("y");
    assert_eq!(census(&stored.fused()), "Conv 1");
}

#[test]
fn weights_that_are_no_8_bits_around_zero_compute_in_f32() {
    let graph = quantized_image(&[1, 1, 1, 1])
        .tensor(raw("w", &[1, 1, 1, 1], dtype::UINT8, &[255]))
        .floats("ws", POINT, &[0.5])
        .tensor(raw("wz", POINT, dtype::UINT8, &[100]))
        .node("DequantizeLinear", "w ws wz", "weights", [])
        .node("Conv", "r weights", "y", [])
        .output("y");
    let fused = graph.fused();
    let Op::Conv(Conv { weights, weight_scales: None, .. }) = fused.graph.nodes[0].op else {
        panic!("a convolution in f32")
    };
    assert_eq!(fused.constant(weights), [77.5]);
    // Around 128 they are the signed ones.
    let graph = quantized_image(&[1, 1, 1, 1])
        .tensor(raw("w", &[1, 1, 1, 1], dtype::UINT8, &[255]))
        .floats("ws", POINT, &[0.5])
        .tensor(raw("wz", POINT, dtype::UINT8, &[128]))
        .node("DequantizeLinear", "w ws wz", "weights", [])
        .node("Conv", "r weights", "y", [])
        .output("y");
    assert!(graph.fused().graph.nodes[0].is_int8());
}

#[test]
fn weights_stored_as_floats_are_quantized_at_import() {
    let graph = quantized_image(&[1, 2])
        .floats("w", &[2, 2], &[0.6, 1.0, -70.0, 0.25])
        .floats("ws", &[2], &[0.5, 0.25])
        .tensor(bytes("wz", &[2], &[0, 0]))
        .node("QuantizeLinear", "w ws wz", "wq", [int("axis", -1)])
        .node("DequantizeLinear", "wq ws wz", "weights", [int("axis", -1)])
        .node("MatMul", "r weights", "y", [])
        .output("y");
    let fused = graph.fused();
    let Op::Linear(linear) = &fused.graph.nodes[0].op else { panic!("a linear layer") };
    // Columns of the operand are rows of the layer.
    assert_eq!(fused.data[linear.weights.0 as usize].i8(), [1, -128, 4, 1]);
}

#[test]
fn constants_saturate_when_they_are_quantized() {
    let graph = Graph::new(13)
        .input("x", &[1, 3])
        .floats("c", &[3], &[3e38, -3e38, 0.25])
        .floats("s", POINT, &[1e-30])
        .floats("t", POINT, &[0.5])
        .tensor(bytes("z", POINT, &[7]))
        .node("QuantizeLinear", "c s z", "q", [])
        .node("DequantizeLinear", "q t z", "d", [])
        .node("Add", "x d", "y", [])
        .output("y");
    graph.computes(&[&[0.0; 3]], &[1, 3], &[60.0, -67.5, 60.0]);
}

#[test]
fn normalisation_after_int8_goes_into_scales_and_bias() {
    let graph = convolution(1.0)
        .floats("gamma", &[2], &[2.0, -1.0])
        .floats("beta", &[2], &[1.0, 0.5])
        .floats("mean", &[2], &[0.0, 2.0])
        .floats("var", &[2], &[1.0, 1.0])
        .node("BatchNormalization", "sum gamma beta mean var", "y", [])
        .output("y");
    let fused = graph.fused();
    assert_eq!(census(&fused), "Conv 1");
    assert!(fused.graph.nodes[0].is_int8());
}

/// A convolution of 2 channels, quantized to scale 1, plus its quantized input.
fn residual(relu: bool) -> Graph {
    let graph = convolution(1.0)
        .floats("ys", POINT, &[1.0])
        .tensor(raw("yz", POINT, dtype::UINT8, &[100]))
        .node("QuantizeLinear", "sum ys yz", "yq", [])
        .node("DequantizeLinear", "yq ys yz", "y", [])
        .node("Add", "r y", "added", []);
    let last = if relu { "last" } else { "added" };
    let graph = if relu { graph.node("Relu", "added", "last", []) } else { graph };
    graph
        .node("QuantizeLinear", &format!("{last} s z"), "oq", [])
        .node("DequantizeLinear", "oq s z", "out", [])
        .output("out")
}

#[test]
fn an_addition_keeps_the_rounding_before_it() {
    for relu in [false, true] {
        let fused = residual(relu).fused();
        assert_eq!(census(&fused), "Conv 1");
        let Op::Conv(conv) = &fused.graph.nodes[0].op else { panic!("a convolution") };
        let before = Quantization { scale: 1.0, zero_point: 100, max: 255 };
        assert_eq!((conv.residual, conv.before_add), (true, Some(before)));
    }
    // Sums 2.5, 1.5, 33.75, -15.5 are rounded to 2, 2, 34, -16.
    let x = [1.0, 2.0, -1.0, 0.5];
    residual(true).computes(&[&x], &[1, 2, 1, 2], &[3.0, 4.0, 33.0, 0.0]);
}

#[test]
fn pooling_and_flattening_keep_the_integers() {
    let graph = quantized_image(&[1, 2, 2, 2])
        .node("MaxPool", "r", "pooled", [ints("kernel_shape", &[2, 2])])
        .node("QuantizeLinear", "pooled s z", "pq", [])
        .node("Flatten", "pq", "fq", [])
        .node("DequantizeLinear", "fq s z", "y", [])
        .output("y");
    let fused = graph.fused();
    assert_eq!(census(&fused), "MaxPool 1, Flatten 1");
    assert!(fused.graph.quantization.iter().all(Option::is_some));
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let image = || quantized_image(&[1, 2, 1, 1]).floats("t", POINT, &[0.25]);
    image()
        .node("DequantizeLinear", "q t z", "y", [])
        .output("y")
        .refused("the DequantizeLinear (DequantizeLinear)", "scale 0.5 and zero point 10, but");
    image()
        .node("Relu", "q", "y", [])
        .output("y")
        .refused("the Relu (Relu)", "operand 0 'q' holds integers");
    image().output("q").refused("q (output)", "holds integers");
    let quantize = |graph: Graph, reason: &str| {
        let graph = graph.node("QuantizeLinear", "x a b", "y", []).output("y");
        graph.refused("the QuantizeLinear (QuantizeLinear)", reason);
    };
    let zero = |data_type: i32, data: &[u8]| raw("b", POINT, data_type, data);
    quantize(
        image().floats("a", &[2], &[1.0, 2.0]).tensor(raw("b", &[2], dtype::UINT8, &[0, 0])),
        "2 scales for an activation",
    );
    quantize(
        image().floats("a", POINT, &[1.0]).tensor(zero(dtype::UINT16, &[0, 0])),
        "element type 4; only 8 bits",
    );
    quantize(
        image().floats("a", POINT, &[-1.0]).tensor(zero(dtype::UINT8, &[0])),
        "a scale is not a positive number",
    );
    image()
        .node("DynamicQuantizeLinear", "x", "y", [])
        .output("y")
        .refused("the DynamicQuantizeLinear (DynamicQuantizeLinear)", "not supported");
    let mut pool =
        image().node("QLinearGlobalAveragePool", "q s z s z", "y", [int("channels_last", 1)]);
    pool.graph.node.last_mut().expect("a node").domain = "com.microsoft".to_owned();
    pool.output("y")
        .refused("the QLinearGlobalAveragePool (QLinearGlobalAveragePool)", "channels_last is set");
}
