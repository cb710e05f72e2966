//! Constants: how they are stored, and what is computed from them.

#[cfg(unix)]
use std::{ffi::CString, os::unix::ffi::OsStrExt};

use std::path::PathBuf;

use half::f16;
use skipstone::ErrorKind;
use skipstone::graph::Op;
use skipstone::import::onnx::proto::*;

use crate::graph::attribute::{float, floats as float_list, int, ints as int_list, tensor, text};
use crate::graph::{Graph, floats, import_in, ints, iota, raw};

/// `x + c` for a constant `c` of two elements.
fn add_constant(constant: TensorProto) -> Graph {
    Graph::new(13).input("x", &[1, 2]).tensor(constant).node("Add", "x c", "y", []).output("y")
}

/// `x + float(c)`.
fn add_cast(constant: TensorProto) -> Graph {
    Graph::new(13)
        .input("x", &[1, 2])
        .tensor(constant)
        .node("Cast", "c", "f", [int("to", 1)])
        .node("Add", "x f", "y", [])
        .output("y")
}

#[test]
fn every_element_type() {
    let check = |graph: Graph| graph.computes(&[&[10.0, 20.0]], &[1, 2], &[11.0, 18.0]);
    let le = |values: [f32; 2]| values.map(f32::to_le_bytes).concat();
    let typed = |data_type: i32| TensorProto {
        name: "c".to_owned(),
        dims: vec![2],
        data_type,
        ..Default::default()
    };
    check(add_constant(floats("c", &[2], &[1.0, -2.0])));
    check(add_constant(raw("c", &[2], dtype::FLOAT, &le([1.0, -2.0]))));
    check(add_constant(raw(
        "c",
        &[2],
        dtype::DOUBLE,
        &[1f64, -2.0].map(f64::to_le_bytes).concat(),
    )));
    check(add_constant(TensorProto { double_data: vec![1.0, -2.0], ..typed(dtype::DOUBLE) }));
    let halves = [1.0, -2.0].map(f16::from_f32);
    check(add_constant(raw("c", &[2], dtype::FLOAT16, &halves.map(f16::to_le_bytes).concat())));
    let bits = halves.map(|h| i32::from(h.to_bits())).to_vec();
    check(add_constant(TensorProto { int32_data: bits, ..typed(dtype::FLOAT16) }));

    check(add_cast(ints("c", &[2], &[1, -2])));
    check(add_cast(raw("c", &[2], dtype::INT64, &[1i64, -2].map(i64::to_le_bytes).concat())));
    check(add_cast(raw("c", &[2], dtype::INT32, &[1i32, -2].map(i32::to_le_bytes).concat())));
    check(add_cast(TensorProto { int32_data: vec![1, -2], ..typed(dtype::INT32) }));
    check(add_cast(raw("c", &[2], dtype::INT8, &[1, 0xfe])));
    add_cast(raw("c", &[2], dtype::UINT8, &[1, 0xfe])).computes(
        &[&[0.0, 0.0]],
        &[1, 2],
        &[1.0, 254.0],
    );
    add_cast(raw("c", &[2], dtype::BOOL, &[1, 0])).computes(&[&[0.0, 0.0]], &[1, 2], &[1.0, 0.0]);
    add_constant(raw("c", &[2], 8, &[0, 0])).refused("the Add (Add)", "tensor 'c': element type 8");
}

#[test]
fn every_form_of_constant_node() {
    let constant = |opset: i64, attribute: AttributeProto| {
        Graph::new(opset)
            .input("x", &[1, 2])
            .node("Constant", "", "c", [attribute])
            .node("Cast", "c", "f", [int("to", 1)])
            .node("Add", "x f", "y", [])
            .output("y")
    };
    let x = [10.0, 20.0];
    constant(7, tensor("value", floats("", &[2], &[1.0, 2.0]))).computes(
        &[&x],
        &[1, 2],
        &[11.0, 22.0],
    );
    constant(13, float("value_float", 1.0)).computes(&[&x], &[1, 2], &[11.0, 21.0]);
    constant(13, float_list("value_floats", &[1.0, 2.0])).computes(&[&x], &[1, 2], &[11.0, 22.0]);
    constant(13, int("value_int", 1)).computes(&[&x], &[1, 2], &[11.0, 21.0]);
    constant(13, int_list("value_ints", &[1, 2])).computes(&[&x], &[1, 2], &[11.0, 22.0]);
    constant(13, text("value_string", "1"))
        .refused("the Constant (Constant)", "attribute 'value_string' is not supported");
}

#[test]
fn weights_that_are_listed_as_inputs() {
    let network = Graph::new(7)
        .input("x", &[1, 2, 3, 3])
        .input("w", &[1, 2, 1, 1])
        .floats("w", &[1, 2, 1, 1], &[1.0, 2.0])
        .node("Conv", "x w", "y", [])
        .output("y")
        .import()
        .unwrap();
    assert_eq!(network.graph.inputs.len(), 1);
}

#[test]
fn weights_that_are_made_by_nodes() {
    Graph::new(9)
        .input("x", &[1, 2, 1, 1])
        .ints("shape", &[3, 2, 1, 1])
        .floats("half", &[], &[0.5])
        .node("ConstantOfShape", "shape", "ones", [tensor("value", floats("", &[1], &[1.0]))])
        .node("Mul", "ones half", "w", [])
        .node("Conv", "x w", "y", [])
        .output("y")
        .computes(&[&[1.0, 2.0]], &[1, 3, 1, 1], &[1.5, 1.5, 1.5]);
}

#[test]
fn computing_with_constants() {
    // Each graph computes a constant of shape [2] from these.
    let cases: [(&str, &str, &[AttributeProto], [f32; 2]); 22] = [
        ("Identity", "v", &[], [4.0, 9.0]),
        ("Neg", "v", &[], [-4.0, -9.0]),
        ("Sqrt", "v", &[], [2.0, 3.0]),
        ("Reciprocal", "v", &[], [0.25, 1.0 / 9.0]),
        ("Floor", "h", &[], [0.0, -2.0]),
        ("Ceil", "h", &[], [1.0, -1.0]),
        ("Abs", "h", &[], [0.5, 1.5]),
        ("Add", "v two", &[], [6.0, 11.0]),
        ("Sub", "two v", &[], [-2.0, -7.0]),
        ("Mul", "v v", &[], [16.0, 81.0]),
        ("Div", "v two", &[], [2.0, 4.5]),
        ("Min", "v h two", &[], [0.5, -1.5]),
        ("Max", "h two", &[], [2.0, 2.0]),
        ("Sum", "v v h", &[], [8.5, 16.5]),
        ("Gather", "m one", &[int("axis", 0)], [3.0, 4.0]),
        ("Gather", "m minus", &[int("axis", 1)], [2.0, 4.0]),
        ("Slice", "m one9 two9 axes", &[], [3.0, 4.0]),
        ("Slice", "v minus far zero minus", &[], [9.0, 4.0]),
        ("Concat", "half one_half", &[int("axis", 0)], [0.5, 1.5]),
        ("Transpose", "row", &[int_list("perm", &[1, 0])], [5.0, 6.0]),
        ("Expand", "half shape2", &[], [0.5, 0.5]),
        ("Squeeze", "row", &[], [5.0, 6.0]),
    ];
    for (op, operands, attributes, expected) in cases {
        let mut graph = Graph::new(13)
            .input("x", &[1, 2])
            .floats("v", &[2], &[4.0, 9.0])
            .floats("h", &[2], &[0.5, -1.5])
            .floats("two", &[], &[2.0])
            .floats("half", &[1], &[0.5])
            .floats("one_half", &[1], &[1.5])
            .floats("m", &[2, 2], &[1.0, 2.0, 3.0, 4.0])
            .floats("row", &[1, 2], &[5.0, 6.0])
            .tensor(ints("one", &[], &[1]))
            .ints("minus", &[-1])
            .ints("far", &[i64::MIN])
            .ints("zero", &[0])
            .ints("one9", &[1])
            .ints("two9", &[2])
            .ints("axes", &[0])
            .ints("shape2", &[2])
            .ints("flat", &[2])
            .node(op, operands, "c", [])
            .node("Reshape", "c flat", "f", [])
            .node("Add", "x f", "y", [])
            .output("y");
        graph.graph.node[0].attribute = attributes.to_vec();
        graph.computes(&[&[0.0, 0.0]], &[1, 2], &expected);
    }
}

#[test]
fn integers_round_towards_zero() {
    Graph::new(11)
        .input("x", &[1, 2])
        .ints("a", &[7, -7])
        .ints("b", &[2, 2])
        .node("Div", "a b", "c", [])
        .node("Cast", "c", "f", [int("to", 1)])
        .node("Add", "x f", "y", [])
        .output("y")
        .computes(&[&[0.0, 0.0]], &[1, 2], &[3.0, -3.0]);
    Graph::new(11)
        .input("x", &[1, 3])
        .tensor(ints("from", &[], &[5]))
        .tensor(ints("to", &[], &[-1]))
        .tensor(ints("by", &[], &[-2]))
        .node("Range", "from to by", "c", [])
        .node("Cast", "c", "f", [int("to", 1)])
        .node("Add", "x f", "y", [])
        .output("y")
        .computes(&[&[0.0, 0.0, 0.0]], &[1, 3], &[5.0, 3.0, 1.0]);
}

#[test]
fn an_output_that_does_not_depend_on_the_input() {
    let graph = || {
        Graph::new(13)
            .input("x", &[1, 1])
            .floats("c", &[1, 2], &[1.0, 2.0])
            .node("Add", "c c", "y", [])
            .output("y")
    };
    graph().computes(&[&[0.0]], &[1, 2], &[2.0, 4.0]);
    assert!(matches!(graph().fused().graph.nodes[0].op, Op::Constant(_)));
}

#[test]
fn nodes_that_no_output_needs_are_not_looked_at() {
    let network = Graph::new(13)
        .input("x", &[1, 2])
        .node("Relu", "x", "y", [])
        .node("NonMaxSuppression", "x", "z", [])
        .output("y")
        .import()
        .unwrap();
    assert_eq!(network.graph.nodes.len(), 1);
}

/// A folder of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("skipstone-{}-{name}", std::process::id()));
        std::fs::create_dir_all(path.join("model")).unwrap();
        Self(path)
    }

    fn model(&self) -> PathBuf {
        self.0.join("model")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `x + c` where `c` is in an external file.
fn external(entries: &[(&str, &str)]) -> Graph {
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    add_constant(TensorProto {
        external_data: entries.iter().map(entry).collect(),
        data_location: 1,
        ..raw("c", &[2], dtype::FLOAT, &[])
    })
}

#[test]
fn external_data_in_the_models_folder() {
    let scratch = Scratch::new("external");
    let data = [0f32, 1.0, 2.0].map(f32::to_le_bytes).concat();
    std::fs::write(scratch.model().join("weights.bin"), data).unwrap();
    for entries in [
        &[("location", "weights.bin"), ("offset", "4"), ("length", "8")][..],
        &[("location", "./weights.bin"), ("offset", "4")],
    ] {
        let network = import_in(&scratch.model(), external(entries)).unwrap();
        let Op::Affine(affine) = &network.graph.nodes[0].op else { panic!() };
        assert_eq!(network.constant(affine.shift), [1.0, 2.0]);
    }
}

#[test]
fn external_data_elsewhere_or_out_of_range_is_refused() {
    let scratch = Scratch::new("outside");
    std::fs::write(scratch.0.join("secret.bin"), [0; 64]).unwrap();
    std::fs::write(scratch.model().join("weights.bin"), [0; 12]).unwrap();
    std::fs::create_dir_all(scratch.model().join("folder")).unwrap();
    let absolute = scratch.0.join("secret.bin");
    let mut cases = vec![
        (vec![("location", "../secret.bin")], "not a relative path inside"),
        (vec![("location", "folder/../../secret.bin")], "not a relative path inside"),
        (vec![("location", absolute.to_str().unwrap())], "not a relative path inside"),
        (vec![("location", "absent.bin")], "cannot resolve"),
        (vec![("location", "folder"), ("length", "8")], "not a regular file"),
        (vec![("offset", "0")], "no location"),
        (vec![("location", "weights.bin"), ("offset", "8")], "offset 8 and length 8"),
        (vec![("location", "weights.bin"), ("length", "12")], "offset 0 and length 12"),
        (vec![("location", "weights.bin"), ("offset", "-4")], "offset '-4'"),
        (vec![("location", "weights.bin"), ("offset", "18446744073709551615")], "offset 18446744"),
    ];
    #[cfg(unix)]
    {
        let link = scratch.model().join("link.bin");
        std::os::unix::fs::symlink(scratch.0.join("secret.bin"), link).unwrap();
        cases.push((vec![("location", "link.bin")], "a link out of the model's folder"));
        let pipe = CString::new(scratch.model().join("pipe.bin").as_os_str().as_bytes()).unwrap();
        // SAFETY: a string that ends, and a mode.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        cases.push((vec![("location", "pipe.bin")], "not a regular file"));
    }
    for (entries, reason) in cases {
        let error = import_in(&scratch.model(), external(&entries)).expect_err(reason);
        assert!(error.to_string().contains(reason), "{entries:?}: {error}");
        assert!(error.to_string().contains("tensor 'c'"), "{error}");
    }
    let error = external(&[("location", "weights.bin")]).import().expect_err("no folder");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn uses_of_one_tensor_share_a_constant() {
    let network = Graph::new(13)
        .input("x", &[1, 2, 2, 2])
        .floats("w", &[2, 2, 1, 1], &iota(4))
        .node("Conv", "x w", "a", [])
        .node("Conv", "a w", "y", [])
        .output("y")
        .fused();
    assert_eq!(network.data.len(), 1);
}
