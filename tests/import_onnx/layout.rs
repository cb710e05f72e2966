//! Transposes, reshapes and NHWC graphs: book-keeping, no work.

use skipstone::graph::{Axis, AxisOrder, Op, Shape};
use skipstone::import::ImportOptions;

use crate::graph::attribute::{int, ints, text};
use crate::graph::{Graph, census, first_op, iota};

/// Input NHWC, transposed, convolved 1x1 from 2 to 3 channels.
fn nhwc_conv() -> Graph {
    Graph::new(13)
        .input("x", &[0, 2, 2, 2])
        .floats("w", &[3, 2, 1, 1], &[1.0, 0.0, 0.0, 1.0, 1.0, 10.0])
        .node("Transpose", "x", "nchw", [ints("perm", &[0, 3, 1, 2])])
        .node("Conv", "nchw w", "c", [])
}

#[test]
fn nhwc_graph_has_no_transpose_left() {
    let graph =
        || nhwc_conv().node("Transpose", "c", "y", [ints("perm", &[0, 2, 3, 1])]).output("y");
    let network = graph().fused();
    assert_eq!(census(&network), "Conv 1");
    assert_eq!(network.graph.inputs[0].axes, AxisOrder::nhwc());
    assert_eq!(network.graph.inputs[0].shape, Shape::new(2, 2, 2));
    assert_eq!(network.graph.outputs[0].axes, AxisOrder::nhwc());
    graph().computes(
        &[&iota(8)],
        &[1, 2, 2, 3],
        &[0.0, 1.0, 10.0, 2.0, 3.0, 32.0, 4.0, 5.0, 54.0, 6.0, 7.0, 76.0],
    );
}

#[test]
fn layout_of_an_input_is_seen_through_elementwise_nodes() {
    let network = Graph::new(13)
        .input("x", &[0, 0, 0, 3])
        .floats("mean", &[3], &[0.1, 0.2, 0.3])
        .floats("w", &[1, 3, 1, 1], &[1.0; 3])
        .ints("pads", &[0, 1, 1, 0, 0, 1, 1, 0])
        .node("Sub", "x mean", "s", [])
        .node("Pad", "s pads", "p", [])
        .node("Transpose", "p", "t", [ints("perm", &[0, 3, 1, 2])])
        .node("Conv", "t w", "y", [])
        .output("y")
        .import_with(&ImportOptions { input_size: Some([4, 6]) })
        .unwrap();
    assert_eq!(network.graph.inputs[0].axes, AxisOrder::nhwc());
    assert_eq!(network.graph.inputs[0].shape, Shape::new(3, 4, 6));
    assert_eq!(network.graph.outputs[0].shape, Shape::new(1, 6, 8));
}

#[test]
fn layout_of_an_input_is_seen_from_a_mean() {
    let network = Graph::new(13)
        .input("x", &[0, 5, 6, 3])
        .node("ReduceMean", "x", "y", [ints("axes", &[1, 2]), int("keepdims", 0)])
        .output("y")
        .fused();
    assert_eq!(*first_op(&network), Op::GlobalAveragePool);
    assert_eq!(network.graph.inputs[0].axes, AxisOrder::nhwc());
    assert_eq!(network.graph.outputs[0].axes, AxisOrder::nc());
}

#[test]
fn open_channels_are_taken_from_the_weights() {
    let network = Graph::new(13)
        .input("x", &[0, 0, 0, 0])
        .floats("w", &[2, 2, 1, 1], &[1.0; 4])
        .node("Conv", "x w", "y", [int("group", 2)])
        .output("y")
        .import()
        .unwrap();
    assert_eq!(network.graph.inputs[0].shape, Shape::new(4, 224, 224));
}

#[test]
fn flatten_keeps_the_source_order() {
    Graph::new(13).input("x", &[1, 2, 1, 2]).node("Flatten", "x", "y", []).output("y").computes(
        &[&iota(4)],
        &[1, 4],
        &[0.0, 1.0, 2.0, 3.0],
    );
    // [N, H, W, C] of 2x2 pixels with 3 channels.
    let graph = nhwc_conv()
        .node("Transpose", "c", "nhwc", [ints("perm", &[0, 2, 3, 1])])
        .ints("shape", &[-1, 12])
        .node("Reshape", "nhwc shape", "y", [])
        .output("y");
    let network = graph.fused();
    assert_eq!(census(&network), "Conv 1, Flatten 1");
    assert!(matches!(network.graph.nodes[1].op, Op::Flatten { channels_last: true }));
}

#[test]
fn flattening_a_vector_is_nothing() {
    let vector = |op: &str, operands: &str| {
        Graph::new(13)
            .input("x", &[0, 2, 0, 0])
            .ints("shape", &[0, -1])
            .floats("w", &[2, 3], &iota(6))
            .node("GlobalAveragePool", "x", "g", [])
            .node(op, operands, "f", [])
            .node("MatMul", "f w", "y", [])
            .output("y")
    };
    for graph in [vector("Flatten", "g"), vector("Reshape", "g shape"), vector("Squeeze", "g axes")]
    {
        let network = graph.ints("axes", &[2, 3]).fused();
        assert_eq!(census(&network), "GlobalAveragePool 1, Linear 1");
        assert!(!network.graph.fixed_size);
    }
}

#[test]
fn a_pool_that_only_happens_to_leave_one_pixel_is_still_flattened() {
    let graph = |flatten: &str, operands: &str| {
        Graph::new(11)
            .input("x", &[0, 2, 3, 3])
            .ints("shape", &[-1, 2])
            .node("AveragePool", "x", "p", [ints("kernel_shape", &[3, 3])])
            .node(flatten, operands, "y", [])
            .output("y")
    };
    for graph in [graph("Flatten", "p"), graph("Reshape", "p shape")] {
        let network = graph.fused();
        assert_eq!(census(&network), "AveragePool 1, Flatten 1");
        // At another size there are more pixels, which the port has no axes for but a flattened
        // vector does.
        let shapes = network.graph.infer_shapes(&[Shape::new(2, 4, 4)]).unwrap();
        assert_eq!(shapes[2], Shape::vector(8));
    }
}

#[test]
fn axes_of_extent_one_come_and_go() {
    Graph::new(11)
        .input("x", &[0, 3])
        .floats("w", &[2, 3, 1, 1], &iota(6))
        .node("Unsqueeze", "x", "image", [ints("axes", &[2, 3])])
        .node("Conv", "image w", "c", [])
        .node("Squeeze", "c", "y", [ints("axes", &[-1, -2])])
        .output("y")
        .computes(&[&[1.0, 1.0, 1.0]], &[1, 2], &[3.0, 12.0]);
    Graph::new(13)
        .input("x", &[0, 3])
        .ints("axes", &[1])
        .node("Unsqueeze", "x axes", "y", [])
        .output("y")
        .computes(&[&[1.0, 2.0, 3.0]], &[1, 1, 3], &[1.0, 2.0, 3.0]);
    Graph::new(11).input("x", &[0, 1, 1, 3]).node("Squeeze", "x", "y", []).output("y").computes(
        &[&[1.0, 2.0, 3.0]],
        &[1, 3],
        &[1.0, 2.0, 3.0],
    );
}

#[test]
fn a_batch_of_one_may_be_dropped_and_come_back() {
    let network = Graph::new(11)
        .input("x", &[1, 3, 1, 1])
        .node("Squeeze", "x", "y", [])
        .output("y")
        .import()
        .unwrap();
    assert_eq!(network.graph.outputs[0].axes, AxisOrder(vec![Axis::C]));
    Graph::new(11)
        .input("x", &[1, 3])
        .floats("w", &[3, 1], &[1.0, 10.0, 100.0])
        .ints("flat", &[3])
        .node("Reshape", "x flat", "f", [])
        .node("Unsqueeze", "f", "u", [ints("axes", &[0])])
        .node("Gemm", "u w", "y", [])
        .output("y")
        .computes(&[&[1.0, 2.0, 3.0]], &[1, 1], &[321.0]);
}

#[test]
fn a_batch_fixed_in_the_file_is_free() {
    let (dims, output) = Graph::new(11)
        .input("x", &[1, 2, 1, 1])
        .ints("shape", &[1, 2])
        .node("Reshape", "x shape", "f", [])
        .node("Relu", "f", "y", [])
        .output("y")
        .run_batch(3, &[&[1.0, -2.0, 3.0, -4.0, 5.0, -6.0]]);
    assert_eq!(dims, [3, 2]);
    assert_eq!(output, [1.0, 0.0, 3.0, 0.0, 5.0, 0.0]);
}

#[test]
fn rows_of_pixels_pass_through_a_matrix() {
    // As dense layers on images are exported: [N*H*W, C] x [C, M], and back.
    Graph::new(13)
        .input("x", &[0, 2, 1, 2])
        .floats("w", &[2, 1], &[1.0, 10.0])
        .ints("rows", &[-1, 2])
        .ints("image", &[-1, 1, 2, 1])
        .node("Transpose", "x", "t", [ints("perm", &[0, 2, 3, 1])])
        .node("Reshape", "t rows", "r", [])
        .node("MatMul", "r w", "m", [])
        .node("Reshape", "m image", "y", [])
        .output("y")
        .computes(&[&iota(4)], &[1, 1, 2, 1], &[20.0, 31.0]);
}

#[test]
fn merged_axes_can_be_split_again() {
    Graph::new(14)
        .input("x", &[0, 2, 1, 3])
        .ints("flat", &[0, 0, -1])
        .ints("image", &[-1, 2, 1, 3])
        .node("Reshape", "x flat", "f", [int("allowzero", 0)])
        .node("Relu", "f", "r", [])
        .node("Reshape", "r image", "y", [])
        .output("y")
        .computes(&[&iota(6)], &[1, 2, 1, 3], &iota(6));
}

#[test]
fn the_size_is_fixed_where_a_slice_counts_from_the_end() {
    let slice = |end: i64| {
        Graph::new(13)
            .input("x", &[0, 1, 0, 0])
            .ints("starts", &[0])
            .ints("ends", &[end])
            .ints("axes", &[2])
            .node("Slice", "x starts ends axes", "y", [])
            .output("y")
            .import()
            .unwrap()
            .graph
            .fixed_size
    };
    assert!(slice(-1));
    assert!(!slice(100));
    assert!(!slice(i64::MAX));
}

#[test]
fn explicit_and_automatic_padding_in_a_turned_image() {
    // SAME padding of an image whose axes were exchanged pads the right ones.
    let network = Graph::new(13)
        .input("x", &[0, 1, 6, 7])
        .floats("one", &[1, 1, 1, 1], &[1.0])
        .node("Conv", "x one", "c", [])
        .node("Transpose", "c", "t", [ints("perm", &[0, 1, 3, 2])])
        .node(
            "MaxPool",
            "t",
            "y",
            [
                text("auto_pad", "SAME_UPPER"),
                ints("kernel_shape", &[3, 2]),
                ints("strides", &[2, 2]),
            ],
        )
        .output("y")
        .import()
        .unwrap();
    let Op::Pool(pool) = &network.graph.nodes[1].op else { panic!() };
    assert_eq!(pool.kernel, [2, 3]);
    assert_eq!((pool.pad.left, pool.pad.right, pool.pad.top, pool.pad.bottom), (1, 1, 0, 0));
    assert_eq!(network.graph.outputs[0].shape, Shape::new(1, 3, 4));
}
