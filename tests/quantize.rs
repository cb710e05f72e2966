//! A network that this library quantizes: what is stored in 8 bits, and how near its results are.

#![cfg(feature = "import")]

mod common;

use common::{Rng, bits, executor, synth_network};
use skipstone::format::{PackOptions, to_bytes, write};
use skipstone::graph::{Network, Op, reference};
use skipstone::quantize::{Calibration, Method, Options, Quantized, quantize};
use skipstone::{Model, Runtime, graph::PoolKind};

/// Of the largest logit. Random networks tell images apart by little, so that noise counts for much.
const MAX_ERROR: f32 = 0.15;

fn images(network: &Network, count: usize, seed: u64) -> Vec<Vec<f32>> {
    let len = network.graph.inputs[0].shape.len();
    let mut rng = Rng(seed);
    (0..count).map(|_| (0..len).map(|_| rng.normal()).collect()).collect()
}

fn calibrated(network: &Network) -> Calibration {
    let runtime = Runtime::builder().threads(1).build().expect("starts");
    let mut calibration = Calibration::new(&runtime, network).expect("plans");
    for image in images(network, 16, 1) {
        calibration.observe(&[&image]).expect("runs");
    }
    assert_eq!(calibration.nb_images(), 16);
    calibration
}

/// Largest difference of the logits over the largest logit, on images that were not observed.
fn error(network: &Network, quantized: &Network) -> f32 {
    let shapes = network.graph.input_shapes();
    let (mut difference, mut largest) = (0f32, 0f32);
    for image in images(network, 4, 2) {
        let run = |n: &Network| reference::run(n, &shapes, 1, &[&image]).expect("runs").remove(0);
        for (x, y) in run(quantized).iter().zip(run(network)) {
            difference = difference.max((x - y).abs());
            largest = largest.max(y.abs());
        }
    }
    difference / largest
}

fn with(network: &Network, options: &Options) -> Quantized {
    quantize(network, &calibrated(network), options).expect("quantizes")
}

#[test]
fn everything_between_the_image_and_the_logits_is_stored_in_8_bits() {
    for arch in ["tiny_bottleneck", "tiny_resnext", "tiny_preact", "tiny_vgg"] {
        let network = synth_network(arch);
        let Quantized { network: quantized, layers } = with(&network, &Options::default());
        let graph = &quantized.graph;
        let logits = graph.outputs[0].value;
        for v in (0..graph.nb_values() as u32).map(skipstone::graph::ValueId) {
            let quantization = graph.quantization_of(v);
            assert_eq!(quantization.is_some(), v != logits, "{arch}: value {}", v.0);
            assert!(quantization.is_none_or(|q| q.max == 127));
        }
        for node in &graph.nodes {
            let is_layer = matches!(node.op, Op::Conv(_) | Op::Linear(_));
            assert_eq!(node.is_int8(), is_layer, "{arch}: {}", node.name);
            if matches!(&node.op, Op::Pool(p) if p.kind == PoolKind::Max) {
                let own = graph.nodes.iter().position(|n| n == node).expect("its place");
                let kept = graph.kept_quantization(graph.value_of(own));
                assert_eq!(kept, graph.quantization_of(graph.value_of(own)));
            }
        }
        assert!(layers.iter().all(|l| l.is_int8 && l.decibels() > 15.0), "{arch}: {layers:?}");
        let error = error(&network, &quantized);
        assert!((1e-4..MAX_ERROR).contains(&error), "{arch}: {error}");
    }
}

#[test]
fn methods_and_bits_differ_in_their_error() {
    let network = synth_network("tiny_bottleneck");
    let calibration = calibrated(&network);
    let with = |options: &Options| {
        let quantized = quantize(&network, &calibration, options).expect("quantizes").network;
        error(&network, &quantized)
    };
    for method in [Method::MinMax, Method::Percentile(99.99), Method::Entropy, Method::Mse] {
        let error = with(&Options { method, ..Options::default() });
        assert!(error < MAX_ERROR, "{method:?}: {error}");
    }
    let options = Options { max: 255, ..Options::default() };
    assert!(with(&options) < with(&Options::default()), "8 bits are nearer than 7");
}

#[test]
fn biases_take_back_the_mean_error_of_weights() {
    let network = synth_network("tiny_bottleneck");
    let calibration = calibrated(&network);
    let bits = |correct_biases| {
        let options = Options { correct_biases, ..Options::default() };
        let quantized = quantize(&network, &calibration, &options).expect("quantizes").network;
        quantized
            .data
            .iter()
            .filter(|d| d.dtype() == skipstone::graph::Dtype::I32)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_ne!(bits(true), bits(false));
}

#[test]
fn excluded_layers_stay_in_float() {
    let network = synth_network("tiny_bottleneck");
    let is_conv = |n: &&skipstone::graph::Node| matches!(n.op, Op::Conv(_));
    let second = network.graph.nodes.iter().filter(is_conv).nth(1).expect("a layer").name.clone();
    let options = Options { exclude: vec![second.clone()], ..Options::default() };
    let Quantized { network: quantized, layers } = with(&network, &options);
    for layer in &layers {
        assert_eq!(layer.is_int8, layer.name != second);
    }
    let node = quantized.graph.nodes.iter().find(|n| n.name == second).expect("there");
    assert!(!node.is_int8());
    assert!(error(&network, &quantized) < MAX_ERROR);
}

#[test]
fn any_layer_may_stay_in_float_by_itself() {
    for arch in ["tiny_bottleneck", "tiny_preact"] {
        let network = synth_network(arch);
        let calibration = calibrated(&network);
        let image = images(&network, 1, 3).remove(0);
        let is_layer = |n: &&skipstone::graph::Node| matches!(n.op, Op::Conv(_) | Op::Linear(_));
        for node in network.graph.nodes.iter().filter(is_layer) {
            let options = Options { exclude: vec![node.name.clone()], ..Options::default() };
            let quantized = quantize(&network, &calibration, &options).expect("quantizes").network;
            let packed = to_bytes(&quantized, &PackOptions::default()).expect("packs");
            let mut executor = executor(&Model::from_bytes(&packed).expect("opens"), 1, 1);
            executor.run(&[&image]).expect("runs");
            let shapes = network.graph.input_shapes();
            let expected = reference::run(&quantized, &shapes, 1, &[&image]).expect("runs");
            let largest = expected[0].iter().fold(0f32, |a, x| a.max(x.abs()));
            for (x, y) in executor.output(0).iter().zip(&expected[0]) {
                assert!((x - y).abs() < 0.03 * largest, "{arch}, {}: {x} {y}", node.name);
            }
        }
    }
}

#[test]
fn files_are_little_more_than_a_quarter() {
    let network = synth_network("tiny_bottleneck");
    let quantized = with(&network, &Options::default()).network;
    let len = |n: &Network| to_bytes(n, &PackOptions::default()).expect("packs").len() as f64;
    let ratio = len(&quantized) / len(&network);
    assert!(ratio < 0.33, "{ratio}: this network is small, so names and structure count");
}

#[test]
fn pages_that_a_plan_let_go_are_read_again() {
    let network = with(&synth_network("tiny_bottleneck"), &Options::default()).network;
    let path = std::env::temp_dir().join(format!("skipstone-{}-pages.skip", std::process::id()));
    write(&network, &PackOptions::default(), &path).expect("writes");
    // SAFETY: nobody else knows of the file.
    let model = unsafe { Model::open_mmap(&path) }.expect("opens");
    let image = images(&network, 1, 3).remove(0);
    let mut executor = executor(&model, 1, 1);
    executor.run(&[&image]).expect("runs");
    let expected = reference::run(&network, &network.graph.input_shapes(), 1, &[&image]);
    assert_eq!(bits(executor.output(0)), bits(&expected.expect("runs")[0]));
    model.verify().expect("all bytes are as they were written");
    let again = model.to_network();
    assert!(again.data.iter().zip(&network.data).all(|(a, b)| a == b));
    std::fs::remove_file(path).expect("removes");
}

#[test]
fn wrong_arguments_are_errors() {
    let network = synth_network("tiny_bottleneck");
    let runtime = Runtime::builder().threads(1).build().expect("starts");
    let calibration = Calibration::new(&runtime, &network).expect("plans");
    let error = |c: &Calibration, options: &Options| {
        quantize(&network, c, options).expect_err("refused").to_string()
    };
    assert!(error(&calibration, &Options::default()).contains("no image was observed"));
    let calibration = calibrated(&network);
    let exclude = vec!["layer9".to_owned()];
    let options = Options { exclude, ..Options::default() };
    assert!(error(&calibration, &options).contains("no convolution or linear layer is called 'l"));
    let options = Options { method: Method::Percentile(0.5), ..Options::default() };
    assert!(error(&calibration, &options).contains("expected 50 to 100"));
    assert!(error(&calibration, &Options { max: 0, ..Options::default() }).contains("is 0"));
    let quantized = with(&network, &Options::default()).network;
    let again = Calibration::new(&runtime, &quantized).expect_err("refused").to_string();
    assert!(again.contains("quantized already"));
    let mut calibration = Calibration::new(&runtime, &network).expect("plans");
    let undefined = vec![f32::NAN; network.graph.inputs[0].shape.len()];
    let error = calibration.observe(&[&undefined]).expect_err("refused").to_string();
    assert!(error.contains("not a number"), "{error}");
}
