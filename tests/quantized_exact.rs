//! Networks that other tools quantized compute what ONNX Runtime computes from the same file, with
//! the file's own scales and zero points.

#![cfg(feature = "import")]

use std::fs;
use std::path::Path;

use skipstone::graph::{Network, Op, reference};
use skipstone::import::{ImportOptions, onnx_file};

const BATCH: usize = 8;

fn golden(name: &str, extension: &str) -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quantized");
    folder.join(format!("{name}.{extension}"))
}

/// As `seeded_input` of `tools/golden/common.py`.
fn seeded_input(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 40) as i32 - (1 << 23)) as f32 / (1 << 22) as f32
    };
    (0..len).map(|_| next()).collect()
}

/// The f32 values of a `.npy` file.
fn read_npy(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).expect("the golden file is there");
    let header = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let data = bytes[10 + header..].as_chunks().0;
    data.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// How many nodes there are, compute in int8, and add a residual after an own rounding.
fn census(network: &Network) -> [usize; 3] {
    let nodes = &network.graph.nodes;
    let rounds =
        |op: &Op| matches!(op, Op::Conv(conv) if conv.residual && conv.before_add.is_some());
    [
        nodes.len(),
        nodes.iter().filter(|n| n.is_int8()).count(),
        nodes.iter().filter(|n| rounds(&n.op)).count(),
    ]
}

/// Imports the file, and compares with ONNX Runtime: the largest difference, in scales of the logits
/// if these are quantized, else relative to the largest logit.
#[track_caller]
fn check(name: &str, expected: [usize; 3], tolerance: f32) {
    let network = onnx_file(&golden(name, "onnx"), &ImportOptions::default()).expect("imports");
    let graph = &network.graph;
    assert_eq!(census(&network), expected, "nodes, int8 nodes, residuals");
    assert!(graph.quantization_of(graph.inputs[0].value).is_some(), "the image is quantized");
    let shapes = graph.input_shapes();
    let input = seeded_input(20, BATCH * shapes[0].len());
    let found = reference::run(&network, &shapes, BATCH, &[&input]).expect("runs").remove(0);
    let wanted = read_npy(&golden(name, "npy"));
    let largest = wanted.iter().fold(0f32, |a, v| a.max(v.abs()));
    let unit = graph.quantization_of(graph.outputs[0].value).map_or(largest, |q| q.scale);
    let difference = found.iter().zip(&wanted).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
    assert!(difference <= tolerance * unit, "{} units of {unit}", difference / unit);
    let top = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
    for (x, y) in found.chunks(10).zip(wanted.chunks(10)) {
        assert_eq!(top(x), top(y));
    }
}

#[test]
fn qdq_with_unsigned_activations_and_a_scale_per_channel() {
    check("qdq-u8s8-channel", [9, 7, 2], 0.0);
}

#[test]
fn qdq_with_signed_symmetric_activations() {
    check("qdq-s8s8-tensor", [9, 7, 2], 0.0);
}

/// Weights whose zero point leaves the 8 bits around zero are computed in f32.
#[test]
fn qdq_with_asymmetric_weights() {
    check("qdq-u8u8-tensor", [11, 1, 0], 2.0);
}

#[test]
fn operators_on_quantized_tensors() {
    check("qoperator-u8s8-channel", [9, 7, 2], 0.0);
    check("qoperator-s8s8-tensor", [9, 7, 2], 0.0);
}

#[test]
fn qdq_of_nncf() {
    check("nncf", [9, 7, 2], 1e-3);
}
