//! Safetensors files with torchvision's names: what is read, and how everything else is refused.

#![cfg(feature = "import")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use common::metered::{Counting, within};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use skipstone::graph::{Network, Shape, fuse};
use skipstone::import::onnx::proto::ModelProto;
use skipstone::import::synth::{SynthOptions, synth};
use skipstone::import::{ImportOptions, onnx, safetensors_file};
use skipstone::{Error, ErrorKind, Result};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A file in the temporary folder, removed in the end.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let name = format!("skipstone-{}-{name}.safetensors", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn import(&self, arch: &str) -> Result<Network> {
        safetensors_file(&self.0, arch, &ImportOptions::default())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// Tensors by name: type, shape, little-endian data.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn serialize(tensors: &Tensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn tensors_of(model: &ModelProto) -> Tensors {
    let initializers = &model.graph.as_ref().unwrap().initializer;
    let tensor = |t: &skipstone::import::onnx::proto::TensorProto| {
        let shape = t.dims.iter().map(|&d| d as usize).collect();
        (t.name.clone(), (Dtype::F32, shape, t.raw_data.to_vec()))
    };
    initializers.iter().map(tensor).collect()
}

fn resnet18(classes: usize) -> ModelProto {
    let options = SynthOptions { classes: Some(classes), ..Default::default() };
    synth("resnet18", 3, &options).unwrap()
}

fn import(model: ModelProto) -> Network {
    let mut network = onnx::network(model, None, &ImportOptions::default()).unwrap();
    fuse::fuse(&mut network).unwrap();
    network
}

/// Zeros of every tensor of ResNet-18 for `classes`.
fn zeros(classes: usize) -> Tensors {
    let mut tensors = tensors_of(&resnet18(classes));
    tensors.values_mut().for_each(|(_, _, data)| data.fill(0));
    tensors
}

/// The error of a file, found in little memory beside its own, and little time.
fn refusal(name: &str, bytes: &[u8], arch: &str) -> Error {
    let file = TempFile::new(name, bytes);
    let import = || file.import(arch);
    let error = within(bytes.len() + (16 << 20), Duration::from_millis(250), import).unwrap_err();
    assert!(error.file().is_some(), "{error}");
    error
}

#[test]
fn weights_arrive_as_in_onnx() {
    let model = resnet18(7);
    let mut tensors = tensors_of(&model);
    let tracked = (Dtype::I64, vec![], vec![0; 8]);
    tensors.insert("bn1.num_batches_tracked".into(), tracked);
    let file = TempFile::new("f32", &serialize(&tensors));
    let network = file.import("resnet18").unwrap();
    assert_eq!(network.graph.outputs[0].shape, Shape::vector(7));
    assert!(network == import(model));
    let options = ImportOptions { input_size: Some([160, 96]) };
    let network = safetensors_file(&file.0, "resnet18", &options).unwrap();
    assert_eq!(network.graph.input_shapes(), [Shape::new(3, 160, 96)]);
}

#[test]
fn other_float_types_are_converted() {
    type Store = fn(f32) -> Vec<u8>;
    type Load = fn(f32) -> f32;
    let types: [(Dtype, Store, Load); 3] = [
        (Dtype::F16, |v| f16::from_f32(v).to_le_bytes().into(), |v| f16::from_f32(v).to_f32()),
        (Dtype::BF16, |v| bf16::from_f32(v).to_le_bytes().into(), |v| bf16::from_f32(v).to_f32()),
        (Dtype::F64, |v| f64::from(v).to_le_bytes().into(), |v| v),
    ];
    for (dtype, store, load) in types {
        let mut model = resnet18(2);
        let mut tensors = tensors_of(&model);
        for t in &mut model.graph.as_mut().unwrap().initializer {
            let (elements, _) = t.raw_data.as_chunks();
            let values: Vec<f32> = elements.iter().map(|&e| f32::from_le_bytes(e)).collect();
            let stored = tensors.get_mut(&t.name).unwrap();
            stored.0 = dtype;
            stored.2 = values.iter().flat_map(|&v| store(v)).collect();
            t.raw_data = values.iter().flat_map(|&v| load(v).to_le_bytes()).collect();
        }
        let file = TempFile::new(&dtype.to_string(), &serialize(&tensors));
        assert!(file.import("resnet18").unwrap() == import(model), "{dtype}");
    }
}

#[test]
fn differences_are_named() {
    let mut tensors = zeros(10);
    let check = |name: &str, tensors: &Tensors, parts: &[&str]| {
        let error = refusal(name, &serialize(tensors), "resnet18");
        assert_eq!(error.kind(), ErrorKind::Format, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{part} is not in: {error}");
        }
    };
    let removed = tensors.remove("layer2.0.conv1.weight").unwrap();
    check("missing", &tensors, &["1 missing: layer2.0.conv1.weight [128, 64, 3, 3]"]);

    let wrong = (Dtype::F32, vec![128, 64, 1, 1], vec![0; 128 * 64 * 4]);
    tensors.insert("layer2.0.conv1.weight".into(), wrong);
    let part = "1 of another shape: layer2.0.conv1.weight [128, 64, 1, 1] instead of \
                [128, 64, 3, 3]";
    check("misshapen", &tensors, &[part]);

    tensors.insert("layer2.0.conv1.weight".into(), removed);
    tensors.insert("extra\u{1b}[31m".into(), (Dtype::U8, vec![2], vec![0; 2]));
    check("unexpected", &tensors, &["1 unexpected: extra\\u{1b}[31m [2]"]);

    let prefixed: Tensors =
        tensors.iter().map(|(k, v)| (format!("module.{k}"), v.clone())).collect();
    check(
        "prefixed",
        &prefixed,
        &["missing: conv1.weight", "unexpected: ", "module.bn1.bias", "..."],
    );

    tensors.remove("extra\u{1b}[31m");
    tensors.insert("fc.bias".into(), (Dtype::I32, vec![10], vec![0; 40]));
    let error = refusal("dtype", &serialize(&tensors), "resnet18");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("fc.bias has type I32"), "{error}");
}

#[test]
fn another_architecture_is_recognised() {
    let error = refusal("other", &serialize(&zeros(10)), "resnet34");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().ends_with("this looks like resnet18"), "{error}");
}

#[test]
fn architectures_without_torchvision_weights_are_refused() {
    for arch in ["tiny_resnet", "resnet50_v1", "resnet51"] {
        let file = TempFile::new(arch, b"");
        let error = file.import(arch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains("resnet50"), "{error}");
    }
}

#[test]
fn hostile_files_are_refused() {
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let one = |dtype: &str, shape: &str, offsets: &str| {
        let tensor = format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#);
        format!(r#"{{"fc.weight":{tensor}}}"#)
    };
    let cases = [
        ("empty", vec![]),
        ("short", vec![1, 2, 3]),
        ("header-beyond-file", 100u64.to_le_bytes().to_vec()),
        ("huge-header", u64::MAX.to_le_bytes().to_vec()),
        ("big-header", (5u64 << 20).to_le_bytes().to_vec()),
        ("no-json", file("{", 0)),
        ("no-utf8", [1u64.to_le_bytes().as_slice(), &[0xff]].concat()),
        ("no-tensors", file("{}", 0)),
        ("trailing", file("{}", 9)),
        ("deep", file(&"[".repeat(100_000), 0)),
        ("overflow", file(&one("F32", "[4294967296,4294967296,16]", "[0,0]"), 0)),
        ("huge-empty", file(&one("F32", "[9223372036854775807,0]", "[0,0]"), 0)),
        ("huge-classes", file(&one("F32", "[1048577]", "[0,4194308]"), 4_194_308)),
        ("negative", file(&one("F32", "[-1]", "[0,4]"), 4)),
        ("scalar", file(&one("F32", "[]", "[0,4]"), 4)),
        ("reversed", file(&one("F32", "[1]", "[4,0]"), 4)),
        ("beyond", file(&one("F32", "[2]", "[0,8]"), 4)),
        ("unknown-type", file(&one("F31", "[1]", "[0,4]"), 4)),
        (
            "overlapping",
            file(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                    "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                12,
            ),
        ),
        (
            "twice",
            file(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                    "a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
            ),
        ),
    ];
    for (name, bytes) in cases {
        let error = refusal(name, &bytes, "resnet18");
        assert_eq!(error.kind(), ErrorKind::Format, "{name}: {error}");
    }
    let folder = safetensors_file(&std::env::temp_dir(), "resnet18", &ImportOptions::default());
    assert_eq!(folder.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let path = std::env::temp_dir().join("skipstone-no-such-file");
    let missing = safetensors_file(&path, "resnet18", &ImportOptions::default());
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn headers_cost_what_their_network_costs() {
    let header_of = |bytes: u64, file_len: u64| {
        let file = TempFile::new(&format!("sparse-{bytes}"), &bytes.to_le_bytes());
        // A hole: the file occupies a page.
        fs::File::options().write(true).open(&file.0).unwrap().set_len(file_len).unwrap();
        let error = within(1 << 20, Duration::from_millis(50), || file.import("resnet18"));
        error.unwrap_err().to_string()
    };
    let error = header_of(100_000_000, 100_000_008);
    assert!(error.contains("its header would have 100000000 bytes"), "{error}");
    let error = header_of(2, 100 << 30);
    assert!(error.contains("107374182400 bytes, expected at most"), "{error}");

    // As many tensors as a header holds.
    let tensors: Tensors =
        (0..50_000).map(|i| (format!("t{i}"), (Dtype::U8, vec![0], vec![]))).collect();
    let file = TempFile::new("many", &serialize(&tensors));
    let many = within(48 << 20, Duration::from_millis(250), || file.import("resnet18"));
    let error = many.unwrap_err().to_string();
    assert!(error.contains("unexpected"), "{error}");
}

#[test]
fn truncation_is_refused_at_every_length_of_the_header() {
    let bytes = serialize(&zeros(1));
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for len in (0..header).step_by(97).chain([header, header + 1, bytes.len() - 1]) {
        let error = refusal("truncated", &bytes[..len], "resnet18");
        assert_eq!(error.kind(), ErrorKind::Format, "{len} of {} bytes: {error}", bytes.len());
    }
}
