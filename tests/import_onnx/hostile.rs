//! Graphs made to do harm: errors, in little time and memory, and no panic.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use skipstone::ErrorKind;
use skipstone::import::onnx::{self, proto::*};

use crate::graph::attribute::{int, ints, tensor};
use crate::graph::{Graph, floats, ints as int_tensor, iota, raw};
use crate::metered::within;

#[test]
fn unsorted_nodes_are_sorted() {
    Graph::new(13)
        .input("x", &[1, 2])
        .node("Neg", "b", "y", [])
        .node("Relu", "a", "b", [])
        .node("Neg", "x", "a", [])
        .output("y")
        .computes(&[&[1.0, -2.0]], &[1, 2], &[0.0, -2.0]);
}

#[test]
fn cycles() {
    Graph::new(13)
        .input("x", &[1, 2])
        .node("Add", "x c", "a", [])
        .node("Relu", "a", "c", [])
        .output("c")
        .refused("the Add (Add)", "cycle");
    Graph::new(13).node("Relu", "y", "y", []).output("y").refused("the Relu (Relu)", "cycle");
}

#[test]
fn names_defined_twice_or_never() {
    let graph = || Graph::new(13).input("x", &[1, 2]).node("Relu", "x", "y", []).output("y");
    graph().node("Neg", "x", "y", []).refused("the Neg (Neg)", "'y' is computed twice");
    for graph in [
        graph().input("x", &[1, 2]),
        graph().input("y", &[1, 2]),
        graph().floats("y", &[1], &[0.0]),
        graph().floats("c", &[1], &[0.0]).floats("c", &[1], &[0.0]),
    ] {
        assert_eq!(graph.import().expect_err("an error").kind(), ErrorKind::Format);
    }
    Graph::new(13)
        .input("x", &[1, 2])
        .node("Add", "x nothing", "y", [])
        .output("y")
        .refused("the Add (Add)", "'nothing' is not defined");
    let mut graph = graph();
    graph.graph.node[0].input.clear();
    graph.refused("the Relu (Relu)", "not supported on constants");
}

#[test]
fn tensors_whose_data_do_not_fit() {
    let add = |c: TensorProto| {
        Graph::new(13).input("x", &[1, 2]).tensor(c).node("Add", "x c", "y", []).output("y")
    };
    let label = "the Add (Add)";
    add(floats("c", &[3], &[0.0; 2])).refused(label, "tensor 'c': 2 elements of data for 3");
    add(raw("c", &[2], dtype::FLOAT, &[0; 7])).refused(label, "7 bytes of data for 2 elements");
    add(floats("c", &[-2], &[0.0; 2])).refused(label, "negative extent");
    add(floats("c", &[i64::MAX, i64::MAX], &[])).refused(label, "elements");
    add(floats("c", &[0, i64::MAX], &[])).refused(label, "elements");
    add(floats("c", &[1 << 31], &[])).refused(label, "0 elements of data for");
    add(floats("c", &[0], &[])).refused(label, "would change the shape");
}

#[test]
fn small_graphs_that_ask_for_much_memory() {
    let of_shape = |dims: &[i64]| {
        Graph::new(13)
            .input("x", &[1, 2])
            .ints("shape", dims)
            .node("ConstantOfShape", "shape", "c", [tensor("value", floats("", &[1], &[1.0]))])
            .node("Add", "x c", "y", [])
            .output("y")
    };
    let label = "the ConstantOfShape (ConstantOfShape)";
    of_shape(&[1 << 30]).refused(label, "constants that this graph computes");
    of_shape(&[i64::MAX; 4]).refused(label, "elements");
    of_shape(&[-1]).refused(label, "extent -1");

    // An outer product.
    Graph::new(13)
        .input("x", &[1, 2])
        .floats("c", &[1 << 16, 1], &vec![1.0; 1 << 16])
        .floats("r", &[1, 1 << 16], &vec![1.0; 1 << 16])
        .node("Mul", "c r", "m", [])
        .node("Add", "x m", "y", [])
        .output("y")
        .refused("the Mul (Mul)", "elements");
}

#[test]
fn absurd_numbers() {
    let pool = |attribute: AttributeProto| {
        Graph::new(13)
            .input("x", &[1, 1, 4, 4])
            .node("MaxPool", "x", "y", [ints("kernel_shape", &[2, 2]), attribute])
            .output("y")
            .import()
            .expect_err("an error")
    };
    pool(ints("strides", &[i64::MAX, 1]));
    pool(ints("pads", &[i64::MAX; 4]));
    pool(ints("dilations", &[i64::MAX, i64::MAX]));
    let mut graph = Graph::new(13)
        .input("x", &[1, 1, 4, 4])
        .node(
            "MaxPool",
            "x",
            "y",
            [
                ints("kernel_shape", &[i64::MAX, i64::MAX]),
                crate::graph::attribute::text("auto_pad", "SAME_UPPER"),
            ],
        )
        .output("y");
    graph.graph.node[0].attribute.push(ints("dilations", &[i64::MAX, 3]));
    graph.refused("the MaxPool (MaxPool)", "");
    Graph::new(13)
        .input("x", &[1 << 40, 1 << 40, 1 << 40, 1 << 40])
        .node("Relu", "x", "y", [])
        .output("y")
        .refused("x (input)", "shape");
    for (op, attribute) in [
        ("Flatten", int("axis", i64::MIN)),
        ("Flatten", int("axis", i64::MAX)),
        ("Softmax", int("axis", i64::MIN)),
        ("Transpose", ints("perm", &[0, 0])),
        ("Transpose", ints("perm", &[0, i64::MIN])),
        ("Concat", int("axis", i64::MAX)),
    ] {
        Graph::new(13)
            .input("x", &[1, 2])
            .node(op, "x", "y", [attribute])
            .output("y")
            .import()
            .expect_err(op);
    }
    for numbers in [[i64::MAX, i64::MAX], [i64::MIN, -1], [3, 0], [-1, -1], [-2, 2], [1, 5]] {
        for op in ["Reshape", "Unsqueeze", "Squeeze"] {
            let result = Graph::new(13)
                .input("x", &[1, 2])
                .ints("a", &numbers)
                .node(op, "x a", "y", [])
                .output("y")
                .import();
            assert!(result.is_err(), "{op} {numbers:?}");
        }
    }
}

#[test]
fn windows_that_leave_the_image() {
    let conv = |attribute: AttributeProto| {
        Graph::new(13)
            .input("x", &[1, 4, 4, 4])
            .floats("w", &[4, 4, 1, 1], &iota(16))
            .node("Conv", "x w", "y", [attribute])
            .output("y")
    };
    let label = "the Conv (Conv)";
    for pads in [[-1, 0, 0, 0], [0, 0, 0, -1], [i64::MIN; 4]] {
        conv(ints("pads", &pads)).refused(label, "attribute 'pads'");
    }
    for pad in [i64::MAX, 1 << 30] {
        conv(ints("pads", &[pad; 4])).refused(label, "padding is");
    }
    for strides in [[0, 1], [-1, 1], [i64::MIN, i64::MAX]] {
        conv(ints("strides", &strides)).refused(label, "stride");
        conv(ints("dilations", &strides)).refused(label, "dilation");
    }
    for group in [0, -1, 3, 5, i64::MAX, i64::MIN] {
        conv(int("group", group)).refused(label, "group");
    }
    for kind in ["MaxPool", "AveragePool"] {
        Graph::new(13)
            .input("x", &[1, 1, 4, 4])
            .node(kind, "x", "y", [ints("kernel_shape", &[2, 2]), ints("pads", &[0, -1, 0, 0])])
            .output("y")
            .refused(&format!("the {kind} ({kind})"), "attribute 'pads'");
    }
}

#[test]
fn channels_that_do_not_match() {
    let graph = || Graph::new(13).input("x", &[1, 3, 4, 4]).output("y");
    graph()
        .floats("w", &[2, 2, 1, 1], &iota(4))
        .node("Conv", "x w", "y", [])
        .refused("the Conv (Conv)", "input has 3 channels, the weights expect 2");
    graph()
        .floats("w", &[2, 3, 1, 1], &iota(6))
        .floats("b", &[3], &iota(3))
        .node("Conv", "x w b", "y", [])
        .refused("the Conv (Conv)", "bias");
    graph()
        .floats("w", &[4, 1 << 20], &[])
        .node("GlobalAveragePool", "x", "p", [])
        .node("Flatten", "p", "f", [])
        .node("MatMul", "f w", "y", [])
        .refused("the MatMul (MatMul)", "0 elements of data for");
    graph()
        .floats("w", &[4, 2], &iota(8))
        .node("GlobalAveragePool", "x", "p", [])
        .node("Flatten", "p", "f", [])
        .node("Gemm", "f w", "y", [])
        .refused("the Gemm (Gemm)", "3");
}

#[test]
fn integers_that_mean_nothing() {
    let label = "the DequantizeLinear (DequantizeLinear)";
    let weights = |scales: &[f32], zeros: &[u8], axis: i64| {
        let count = [scales.len() as i64];
        Graph::new(13)
            .input("x", &[1, 2, 4, 4])
            .tensor(raw("wq", &[2, 2, 1, 1], dtype::INT8, &[1; 4]))
            .floats("s", &count, scales)
            .tensor(raw("z", &[zeros.len() as i64], dtype::INT8, zeros))
            .node("DequantizeLinear", "wq s z", "w", [int("axis", axis)])
            .node("Conv", "x w", "y", [])
            .output("y")
    };
    weights(&[1.0; 2], &[0; 2], 0).import().expect("scales of the output channels");
    for axis in [4, -5, i64::MAX, i64::MIN] {
        weights(&[1.0; 2], &[0; 2], axis).refused(label, "axis");
    }
    weights(&[1.0; 3], &[0; 3], 0).refused(label, "3 scales");
    weights(&[1.0; 2], &[0; 3], 0).refused(label, "differ in length");
    for scale in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
        weights(&[1.0, scale], &[0; 2], 0).refused(label, "a scale is not a positive number");
    }
    let operator = |op: &str, operands: &str| {
        let mut graph = Graph::new(13)
            .input("x", &[1, 2, 4, 4])
            .tensor(raw("w", &[2, 3, 1, 1], dtype::INT8, &[1; 6]))
            .tensor(raw("i", &[2], dtype::INT32, &[255; 8]))
            .floats("s", &[], &[0.5])
            .floats("big", &[], &[f32::MAX])
            .tensor(raw("z", &[], dtype::UINT8, &[10]))
            .node("QuantizeLinear", "x s z", "q", [])
            .node(op, operands, "o", [])
            .node("DequantizeLinear", "o s z", "y", [])
            .output("y");
        if op != "QLinearConv" {
            graph.graph.node[1].domain = "com.microsoft".to_owned();
        }
        graph.refused(&format!("the {op} ({op})"), "");
    };
    for operands in [
        "q s z w s z s z",
        "q s z w s z s z i",
        "q s z q s z s z",
        "q s z w s w s z",
        "q big z w big z big z",
        "q s z w s z",
        "q _ z w s z s z",
        "x s z w s z s z",
    ] {
        operator("QLinearConv", operands);
    }
    for operands in ["q s z w s z s z", "q s z q s z", "x s z q s z s z", "q s z q s s s z"] {
        operator("QLinearAdd", operands);
    }
}

#[test]
fn many_nodes_in_the_wrong_order() {
    let mut graph = Graph::new(13).input("x", &[1, 2]).node("Relu", "x", "n0", []);
    let count = 100_000;
    for i in 1..=count {
        graph = graph.node("Relu", &format!("n{}", i - 1), &format!("n{i}"), []);
    }
    graph.graph.node.reverse();
    let mut model = graph.output(&format!("n{count}")).model();
    let import = |model: &ModelProto| {
        let import = || onnx::network(model.clone(), None, &Default::default());
        within(512 << 20, Duration::from_secs(2), import)
    };
    assert_eq!(import(&model).expect("a chain").graph.nodes.len(), count + 1);
    // The last of them closes a circle.
    let nodes = &mut model.graph.as_mut().expect("a graph").node;
    nodes[count].input = vec![format!("n{count}")];
    assert!(import(&model).expect_err("a circle").to_string().contains("cycle"));
}

#[test]
fn arithmetic_that_overflows() {
    let arithmetic = |op: &str, a: i64, b: i64| {
        Graph::new(13)
            .input("x", &[1, 2])
            .ints("a", &[a])
            .ints("b", &[b])
            .node(op, "a b", "c", [])
            .node("Cast", "c", "f", [int("to", 1)])
            .node("Add", "x f", "y", [])
            .output("y")
            .refused(&format!("the {op} ({op})"), "overflows or divides by zero");
    };
    arithmetic("Add", i64::MAX, 1);
    arithmetic("Sub", i64::MIN, 1);
    arithmetic("Mul", i64::MAX, 2);
    arithmetic("Div", 1, 0);
    arithmetic("Div", i64::MIN, -1);
}

#[test]
fn slices_and_ranges_at_the_ends_of_the_integers() {
    for [start, end, step] in [
        [i64::MIN, i64::MAX, i64::MAX],
        [i64::MAX, i64::MIN, i64::MIN],
        [i64::MIN, i64::MIN, 1],
        [i64::MAX, i64::MAX, -1],
        [0, 1, 0],
    ] {
        let graph = |op: &str, operands: &str| {
            Graph::new(13)
                .input("x", &[1, 4])
                .floats("c", &[4], &iota(4))
                .ints("start", &[start])
                .ints("end", &[end])
                .ints("axis", &[-1])
                .ints("step", &[step])
                .tensor(int_tensor("from", &[], &[start]))
                .tensor(int_tensor("to", &[], &[end]))
                .tensor(int_tensor("by", &[], &[step]))
                .node(op, operands, "s", [])
                .node("Cast", "s", "f", [int("to", 1)])
                .node("Add", "f x", "y", [])
                .output("y")
        };
        // Whether they are accepted differs; that none panics is the point.
        let _ = graph("Slice", "c start end axis step").import();
        let _ = graph("Slice", "x start end axis step").import();
        let _ = graph("Range", "from to by").import();
    }
}

#[test]
fn a_truncated_or_changed_file_never_panics() {
    let model = Graph::new(13)
        .input("x", &[0, 2, 4, 4])
        .floats("w", &[2, 2, 3, 3], &iota(36))
        .floats("c", &[2, 1, 1], &[1.0, 2.0])
        .ints("shape", &[0, -1])
        .node("Conv", "x w", "a", [ints("pads", &[1; 4]), ints("strides", &[2, 2])])
        .node("Mul", "a c", "b", [])
        .node("Concat", "b b", "d", [int("axis", 1)])
        .node("GlobalAveragePool", "d", "e", [])
        .node("Reshape", "e shape", "f", [])
        .node("Softmax", "f", "y", [])
        .output("y")
        .model()
        .encode_to_vec();
    let import = |bytes: &[u8]| {
        let model = ModelProto::decode(Bytes::copy_from_slice(bytes));
        let Ok(model) = model else { return };
        let Ok(mut network) = onnx::network(model, None, &Default::default()) else { return };
        let _ = skipstone::graph::fuse::fuse(&mut network);
    };
    import(&model);
    for len in 0..model.len() {
        import(&model[..len]);
    }
    let mut bytes = model.clone();
    for i in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff] {
            bytes[i] ^= change;
            import(&bytes);
            bytes[i] ^= change;
        }
    }
}
