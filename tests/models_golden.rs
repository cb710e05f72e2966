//! Whole networks against ONNX Runtime: `max |difference| <= 2e-4 * max |reference|` for every output.
//!
//! `tests/golden/cases.tsv` lists the cases; `tools/golden/make.py` made it and the outputs.

#![cfg(feature = "import")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use skipstone::graph::Network;
use skipstone::import::synth::SynthOptions;
use skipstone::import::{self, ImportOptions};
use skipstone::{Executor, ExecutorOptions, Model, Runtime, format};

/// As `LOGIT_TOLERANCE` in `tools/golden/common.py`.
const LOGIT_TOLERANCE: f64 = 2e-4;

/// One test per case, so that a failure names its network and cases run in parallel.
macro_rules! cases {
    ($($test:ident = $case:literal,)*) => {
        $(#[test]
        fn $test() {
            check($case);
        })*

        #[test]
        fn every_case_has_a_test() {
            let tested: BTreeSet<_> = [$($case),*].into();
            let listed = table();
            let listed: BTreeSet<_> = listed.iter().map(|c| c.name.as_str()).collect();
            assert_eq!(tested, listed);
        }
    };
}

cases! {
    resnet18 = "resnet18",
    resnet18_odd_size = "resnet18-odd-size",
    resnet34 = "resnet34",
    resnet50 = "resnet50",
    resnet50_odd_size = "resnet50-odd-size",
    resnet50_v1 = "resnet50-v1",
    resnet50_v2 = "resnet50-v2",
    resnet101 = "resnet101",
    resnet152 = "resnet152",
    resnext50 = "resnext50",
    wide_resnet50_2 = "wide-resnet50-2",
    plain34 = "plain34",
    vgg16 = "vgg16",
    cifar_resnet20_option_a = "cifar-resnet20-option-a",
    light_resnet50 = "light-resnet50",
    light_vgg19 = "light-vgg19",
    tf2onnx_v1 = "tf2onnx-v1",
    tf2onnx_v1_odd_size = "tf2onnx-v1-odd-size",
    tf2onnx_v2 = "tf2onnx-v2",
    tf2onnx_features = "tf2onnx-features",
    torchscript = "torchscript",
    torch_dynamo = "torch-dynamo",
}

/// A line of `cases.tsv`.
struct Case {
    name: String,
    graph: String,
    graph_hash: String,
    input_shape: Vec<usize>,
    input_seed: u64,
    nb_outputs: usize,
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn table() -> Vec<Case> {
    let text = fs::read_to_string(golden().join("cases.tsv")).unwrap();
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [name, graph, graph_hash, shape, seed, nb_outputs] = fields[..] else {
                panic!("cases.tsv: {line}")
            };
            Case {
                name: name.to_owned(),
                graph: graph.to_owned(),
                graph_hash: graph_hash.to_owned(),
                input_shape: shape.split('x').map(|d| d.parse().unwrap()).collect(),
                input_seed: seed.parse().unwrap(),
                nb_outputs: nb_outputs.parse().unwrap(),
            }
        })
        .collect()
}

fn check(name: &str) {
    let case = table().into_iter().find(|c| c.name == name).expect("a line in cases.tsv");
    let (batch, input_size) = match case.input_shape[..] {
        [n, h, w, 3] | [n, 3, h, w] => (n, Some([h, w])),
        _ => panic!("{name}: {:?} is not a shape of RGB images", case.input_shape),
    };
    let network = import_case(&case, input_size);
    let bytes = format::to_bytes(&network, &format::PackOptions::default()).unwrap();
    drop(network);
    let model = Model::from_bytes(&bytes).unwrap();
    drop(bytes);

    let runtime = Runtime::builder().build().unwrap();
    let options = ExecutorOptions { batch, input_size, ..Default::default() };
    let mut executor = Executor::new(&runtime, &model, &options).unwrap();
    assert_eq!(executor.input_dims(0), case.input_shape);
    executor.run(&[&seeded_input(case.input_seed, &case.input_shape)]).unwrap();

    assert_eq!(model.graph().outputs.len(), case.nb_outputs);
    for i in 0..case.nb_outputs {
        let (shape, reference) = read_npy(&golden().join(format!("outputs/{name}.{i}.npy")));
        assert_eq!(executor.output_dims(i), shape, "output {i}");
        let error = relative_error(executor.output(i), &reference);
        assert!(error <= LOGIT_TOLERANCE, "{name}, output {i}: relative error {error:.2e}");
    }
}

/// Imports the case's graph, after making sure that it is the one ONNX Runtime saw.
///
/// Committed graphs are imported for the case's image size. Synthetic ones are imported for their
/// own, so that another size is left to the executor.
fn import_case(case: &Case, input_size: Option<[usize; 2]>) -> Network {
    let (path, options, _scratch) = match case.graph.strip_prefix("synth ") {
        None => (golden().join(&case.graph), ImportOptions { input_size }, None),
        Some(arguments) => {
            let (arch, seed) = arguments.split_once(' ').expect("synth ARCH SEED");
            let seed = seed.parse().unwrap();
            let scratch = Scratch::new(&format!("golden-{}.onnx", case.name));
            let onnx = import::synth::synth(arch, seed, &SynthOptions::default()).unwrap();
            import::synth::write_onnx(&onnx, &scratch.0).unwrap();
            (scratch.0.clone(), ImportOptions::default(), Some(scratch))
        }
    };
    let hash = blake3::hash(&fs::read(&path).unwrap()).to_hex();
    assert_eq!(
        hash.as_str(),
        case.graph_hash,
        "{} is not the graph that the golden outputs belong to: run tools/golden/make.py again",
        case.graph
    );
    import::onnx_file(&path, &options).unwrap()
}

/// A file that is removed at the end of the test, also of a failing one.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// As `seeded_input` in `tools/golden/common.py`, bit for bit.
fn seeded_input(seed: u64, shape: &[usize]) -> Vec<f32> {
    let mut state = seed;
    let count = shape.iter().product();
    std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        ((z >> 40) as i32 - (1 << 23)) as f32 / (1 << 22) as f32
    })
    .take(count)
    .collect()
}

#[test]
fn inputs_are_the_generators() {
    // From tools/golden/common.py: seeded_input(7, (4,)).
    let expected = [-0.440_681_22, -1.932_847, 1.603_042_6, 0.331_721_07];
    assert_eq!(seeded_input(7, &[4]), expected);
}

/// `max |difference| / max |reference|`; infinite where either side is not finite.
fn relative_error(ours: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let all_finite = ours.iter().chain(reference).all(|x| x.is_finite());
    if !all_finite {
        return f64::INFINITY;
    }
    let largest = |values: &mut dyn Iterator<Item = f64>| values.map(f64::abs).fold(0.0, f64::max);
    let difference =
        largest(&mut ours.iter().zip(reference).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / largest(&mut reference.iter().map(|x| f64::from(*x))).max(1e-30)
}

/// Shape and values of a NumPy file of little-endian `f32` in C order, as `numpy.save` writes it.
fn read_npy(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "{}", path.display());
    let header_end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..header_end]).unwrap();
    assert!(header.contains("'descr': '<f4', 'fortran_order': False"), "{header}");
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
    let shape = shape.split(',').map(str::trim).filter(|d| !d.is_empty());
    let shape: Vec<usize> = shape.map(|d| d.parse().unwrap()).collect();
    let values: Vec<f32> =
        bytes[header_end..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(values.len(), shape.iter().product::<usize>());
    (shape, values)
}
