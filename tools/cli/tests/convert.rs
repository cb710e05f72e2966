//! `synth`, `convert`, `inspect` and `verify`.

mod common;

use std::fs;

use common::Folder;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use skipstone::import::synth::{SynthOptions, synth, write_onnx};

/// Small enough to run in a moment; with strides, shortcuts and odd sizes.
const ARCH: &str = "tiny_resnet";

#[test]
fn synth_is_repeatable() {
    let folder = Folder::new("synth");
    let make = |output: &str, seed: &str| {
        folder.skipstone(&["synth", ARCH, "-o", output, "--seed", seed]).ok();
        fs::read(folder.path(output)).unwrap()
    };
    let first = make("a.onnx", "3");
    assert_eq!(first, make("b.onnx", "3"));
    assert_ne!(first, make("c.onnx", "4"));
    assert!(folder.skipstone(&["synth", "--list"]).ok().contains("resnet50"));
    folder.skipstone(&["synth", "resnet51"]).fails(2, &["resnet51", "resnet50"]);
    folder.skipstone(&["synth"]).exits(2);
}

#[test]
fn converts_and_tells_what_it_did() {
    let folder = Folder::new("convert");
    folder.synth(ARCH);
    let input = format!("{ARCH}.onnx");
    let stdout = folder.skipstone(&["convert", &input]).ok();
    for word in ["tiny_resnet.skip", "nodes", "parameters", "MACs", "input", "logits"] {
        assert!(stdout.contains(word), "{word}: {stdout}");
    }
    let first = fs::read(folder.path("tiny_resnet.skip")).unwrap();
    folder.skipstone(&["convert", &input, "-o", "again.skip"]).ok();
    assert_eq!(first, fs::read(folder.path("again.skip")).unwrap());
    folder.skipstone(&["pack", &input, "-o", "half.skip", "--dtype", "f16"]).ok();
    assert!(fs::metadata(folder.path("half.skip")).unwrap().len() < first.len() as u64);
}

#[test]
fn safetensors_need_an_architecture() {
    let folder = Folder::new("safetensors");
    let model = synth("resnet18", 5, &SynthOptions::default()).unwrap();
    let tensors = model.graph.as_ref().unwrap().initializer.iter().map(|t| {
        let shape = t.dims.iter().map(|d| *d as usize).collect();
        (t.name.as_str(), TensorView::new(Dtype::F32, shape, &t.raw_data).unwrap())
    });
    folder.write("weights.safetensors", safetensors::serialize(tensors, None).unwrap());
    write_onnx(&model, &folder.path("graph.onnx")).unwrap();

    folder.skipstone(&["convert", "weights.safetensors"]).fails(2, &["--arch"]);
    folder.skipstone(&["convert", "graph.onnx", "--arch", "resnet18"]).fails(2, &["--arch"]);
    folder
        .skipstone(&["convert", "weights.safetensors", "--arch", "resnet34"])
        .fails(2, &["weights.safetensors", "resnet18"]);
    folder
        .skipstone(&["convert", "weights.safetensors", "--arch", "resnet19"])
        .fails(2, &["resnet19"]);
    folder.skipstone(&["convert", "weights.safetensors", "--arch", "resnet18"]).ok();
    folder.skipstone(&["convert", "graph.onnx"]).ok();

    let inspect = |file| folder.skipstone(&["inspect", file, "--json"]).json();
    let (weights, graph) = (inspect("weights.skip"), inspect("graph.skip"));
    assert_eq!(weights["metadata"]["architecture"], "resnet18");
    assert_eq!(weights["parameters"], graph["parameters"]);
    assert_eq!(weights["plan"]["layers"], graph["plan"]["layers"]);
}

#[test]
fn everything_that_is_packed_is_inspected() {
    let folder = Folder::new("inspect");
    let labels: Vec<_> = (0..10).map(|i| format!("class number {i}")).collect();
    folder.write("labels.txt", labels.join("\n"));
    let options =
        ["--labels", "labels.txt", "--recipe", "imagenet-v2", "--license", "CC0", "--self-test"];
    folder.pack(ARCH, &options);
    let file = format!("{ARCH}.skip");

    let json = folder.skipstone(&["inspect", &file, "--json", "--batch", "3"]).json();
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["labels"], 10);
    assert_eq!(json["self_test"], true);
    assert_eq!(json["metadata"]["license"], "CC0");
    assert_eq!(json["metadata"]["source"], "tiny_resnet.onnx");
    assert_eq!(json["recipe"]["crop"], serde_json::json!([35, 29]));
    assert_eq!(json["inputs"][0]["axes"], "NCHW");
    assert_eq!(json["inputs"][0]["shape"], serde_json::json!([1, 3, 35, 29]));
    assert_eq!(json["plan"]["inputs"], serde_json::json!([[3, 3, 35, 29]]));
    assert_eq!(json["plan"]["outputs"], serde_json::json!([[3, 10]]));
    let layers = json["plan"]["layers"].as_array().unwrap();
    let macs: u64 = layers.iter().map(|l| l["macs"].as_u64().unwrap()).sum();
    assert_eq!(json["plan"]["macs"], macs);
    assert_eq!(json["macs_per_image"].as_u64().unwrap() * 3, macs);
    for layer in layers {
        for key in ["name", "op", "algorithm", "kernel", "split"] {
            assert!(layer[key].is_string(), "{key} in {layer}");
        }
        assert!(layer["activation_bytes"].as_u64().unwrap() > 0, "{layer}");
    }

    let text = folder.skipstone(&["inspect", &file, "--layers"]).ok();
    for word in ["CC0", "[1, 3, 35, 29]", "centre crop 35x29", "self-test   yes", "algorithm"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let text = folder.skipstone(&["verify", &file]).ok();
    assert!(text.contains("checksums   ok") && text.contains("self-test   ok"), "{text}");
}

#[test]
fn damage_is_found() {
    let folder = Folder::new("verify");
    folder.pack(ARCH, &[]);
    let good = fs::read(folder.path("tiny_resnet.skip")).unwrap();

    let text = folder.skipstone(&["verify", "tiny_resnet.skip"]).ok();
    assert!(text.contains("the file has none"), "{text}");
    let mut flipped = good.clone();
    // In the last weights: their tail is zero.
    let at = flipped.len() - 100;
    flipped[at] ^= 1;
    folder.write("flipped.skip", &flipped);
    folder.skipstone(&["verify", "flipped.skip"]).fails(4, &["flipped.skip", "CRC32C"]);
    folder.skipstone(&["inspect", "flipped.skip", "--no-mmap"]).fails(3, &["hint:"]);

    folder.write("cut.skip", &good[..good.len() / 2]);
    folder.skipstone(&["verify", "cut.skip"]).fails(3, &["cut.skip"]);
    folder.skipstone(&["bench", "cut.skip"]).fails(3, &["cut.skip"]);
    folder.write("empty.skip", []);
    folder.skipstone(&["inspect", "empty.skip"]).fails(3, &["empty.skip"]);
}

#[test]
fn errors_say_what_to_do() {
    let folder = Folder::new("errors");
    folder.pack(ARCH, &[]);
    let convert = |args: &[&str]| folder.skipstone(&[&["convert"], args].concat());
    let onnx = "tiny_resnet.onnx";

    folder.skipstone(&["inspect", onnx]).fails(3, &["hint:", "skipstone convert"]);
    folder.skipstone(&["inspect", "missing.skip"]).fails(1, &["missing.skip"]);
    folder.skipstone(&["inspect"]).exits(2);
    folder.skipstone(&["frobnicate"]).exits(2);
    folder.skipstone(&["bench", "tiny_resnet.skip", "--threads", "0"]).exits(2);
    folder.skipstone(&["bench", "tiny_resnet.skip", "--input-size", "axb"]).exits(2);
    folder
        .skipstone(&["bench", "tiny_resnet.skip"])
        .env("SKIPSTONE_ISA", "mmx")
        .fails(2, &["mmx", "avx2"]);

    convert(&["missing.onnx"]).fails(1, &["missing.onnx"]);
    convert(&[onnx, "-o", onnx]).fails(2, &["overwrite"]);
    convert(&[onnx, "-o", "./tiny_resnet.onnx"]).fails(2, &["overwrite"]);
    convert(&[onnx, "-o", "missing/x.skip"]).fails(1, &["missing/x.skip"]);
    convert(&[onnx, "--recipe", "imagenet-v9"]).fails(1, &["imagenet-v9", "imagenet-v2"]);
    folder.write("recipe.json", r#"{"resize": null}"#);
    convert(&[onnx, "--recipe", "recipe.json"]).fails(2, &["recipe.json"]);
    folder.write("labels.txt", "one\ntwo\n");
    convert(&[onnx, "--labels", "labels.txt"]).fails(2, &["2 labels"]);
    folder.write("noise.onnx", b"\xff\xff\xff\xff not protobuf");
    convert(&["noise.onnx"]).fails(3, &["noise.onnx", "not an ONNX model"]);
    assert!(!folder.path("noise.skip").exists());
}

#[test]
fn a_closed_pipe_ends_quietly() {
    use std::process::Stdio;
    let folder = Folder::new("pipe");
    folder.pack(ARCH, &[]);
    for args in [
        &["inspect", "tiny_resnet.skip", "--layers"][..],
        &["completions", "bash"],
        &["synth", "--list"],
    ] {
        let mut run = folder.skipstone(args);
        run.0.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = run.0.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

#[test]
fn doctor_knows_this_machine() {
    let folder = Folder::new("doctor");
    let json = folder.skipstone(&["doctor", "--json"]).json();
    assert!(json["threads"]["chosen"].as_u64().unwrap() >= 1);
    assert!(!json["threads"]["reason"].as_str().unwrap().is_empty());
    let available = json["isa"]["available"].as_array().unwrap();
    assert!(available.contains(&json["isa"]["chosen"]));
    let knobs: Vec<_> = json["knobs"].as_array().unwrap().iter().map(|k| &k["name"]).collect();
    assert_eq!(knobs.len(), skipstone::knobs::ALL.len());

    let forced = folder.skipstone(&["doctor"]).env("SKIPSTONE_THREADS", "1").ok();
    assert!(forced.contains("threads     1: "), "{forced}");
    folder.skipstone(&["doctor"]).env("SKIPSTONE_THREADS", "many").fails(2, &["many"]);
    assert!(folder.skipstone(&["completions", "zsh"]).ok().contains("#compdef skipstone"));
    assert!(folder.skipstone(&["--version"]).ok().contains(env!("CARGO_PKG_VERSION")));
}
