//! Networks built by name: their published sizes, their import, and what synthetic weights do.

#![cfg(feature = "import")]

mod common;

use common::Rng;
use prost::Message;
use skipstone::graph::{Network, Shape, fuse, reference};
use skipstone::import::onnx::proto::ModelProto;
use skipstone::import::synth::{SynthOptions, synth, write_onnx};
use skipstone::import::zoo::{Architecture, architectures};
use skipstone::import::{ImportOptions, onnx};
use skipstone::{ErrorKind, Result};

fn import(model: ModelProto) -> Result<Network> {
    let mut network = onnx::network(model, None, &ImportOptions::default())?;
    fuse::fuse(&mut network)?;
    Ok(network)
}

fn tiny() -> impl Iterator<Item = &'static Architecture> {
    architectures().iter().filter(|a| a.name.starts_with("tiny_"))
}

/// Checks that `arch` imports, computes what it says it does, and keeps no batch normalisation.
fn check_import(arch: &Architecture) {
    let network = import(synth(arch.name, 7, &SynthOptions::default()).unwrap()).unwrap();
    let graph = &network.graph;
    assert_eq!(graph.name, arch.name);
    assert_eq!(graph.input_shapes(), [arch.input], "{}", arch.name);
    assert_eq!(graph.outputs.len(), 1);
    assert_eq!(graph.outputs[0].shape, Shape::vector(arch.classes), "{}", arch.name);
    let shapes = graph.infer_shapes(&graph.input_shapes()).unwrap();
    let outputs = &shapes[graph.inputs.len()..];
    let macs: u64 =
        graph.nodes.iter().zip(outputs).map(|(n, &out)| n.op.macs(&graph.constants, out)).sum();
    assert_eq!(macs, arch.macs(), "{}", arch.name);
}

#[test]
fn sizes_are_the_published_ones() {
    // Parameters as torchvision documents them; multiply-accumulates in millions, rounded.
    let published = [
        ("resnet18", 11_689_512, 1814),
        ("resnet34", 21_797_672, 3664),
        ("resnet50", 25_557_032, 4089),
        ("resnet101", 44_549_160, 7801),
        ("resnet152", 60_192_808, 11_514),
        ("wide_resnet50_2", 68_883_240, 11_398),
        ("wide_resnet101_2", 126_886_696, 22_753),
        ("resnext50_32x4d", 25_028_904, 4230),
        ("resnext101_32x8d", 88_791_336, 16_414),
        ("resnext101_64x4d", 83_455_272, 15_460),
        ("vgg11", 132_863_336, 7609),
        ("vgg13", 133_047_848, 11_308),
        ("vgg16", 138_357_544, 15_470),
        ("vgg19", 143_667_240, 19_632),
        ("vgg11_bn", 132_868_840, 7609),
        ("vgg13_bn", 133_053_736, 11_308),
        ("vgg16_bn", 138_365_992, 15_470),
        ("vgg19_bn", 143_678_248, 19_632),
    ];
    for (name, parameters, mmacs) in published {
        let arch = Architecture::by_name(name).unwrap();
        assert_eq!(arch.nb_parameters(), parameters, "{name}");
        assert_eq!((arch.macs() + 500_000) / 1_000_000, mmacs, "{name}");
    }
    assert_eq!(architectures().iter().filter(|a| a.torchvision).count(), published.len());
    // As the papers have them, or by removal of the shortcuts.
    for (name, parameters) in
        [("resnet20_cifar", 269_722), ("resnet56_cifar", 853_018), ("resnet110_cifar", 1_727_962)]
    {
        assert_eq!(Architecture::by_name(name).unwrap().nb_parameters(), parameters, "{name}");
    }
    assert_eq!(Architecture::by_name("plain34").unwrap().nb_parameters(), 21_797_672 - 173_824);
    assert_eq!(Architecture::by_name("resnet50_v1").unwrap().nb_parameters(), 25_557_032);
}

#[test]
fn small_architectures_import() {
    architectures().iter().filter(|a| a.nb_parameters() < 15_000_000).for_each(check_import);
}

#[test]
#[ignore = "two thousand million weights: half a minute"]
fn large_architectures_import() {
    architectures().iter().filter(|a| a.nb_parameters() >= 15_000_000).for_each(check_import);
}

#[test]
fn names_are_unique_and_unknown_ones_are_refused() {
    let mut names: Vec<_> = architectures().iter().map(|a| a.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), architectures().len());
    let error = synth("resnet51", 0, &SynthOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("resnet50"), "{error}");
}

#[test]
fn files_are_the_same_everywhere() {
    // Other bytes mean other weights: what was made from these networks, golden files among it,
    // has to be made anew.
    let pinned = [
        ("tiny_resnet", "a06ff08f8f0068682982d6fccc8c64641962d7fe8a1735299eddf1157fb3358b"),
        (
            "tiny_preact_bottleneck",
            "a10f619824df6e1ee7e662a9a70f9b2297997c8590d0a865b4e3b50f9f55f9d4",
        ),
        ("tiny_cifar", "9ac87dc24b728974dab9f175c152153905985318c620ec4b2686446e33b7965c"),
        ("tiny_vgg_bn", "b8a155cd0b7e6650b33ae51d29b83ed9bfde70e98bcc3a4f0ce2515502f16da0"),
        ("resnet20_cifar", "95c23fed992a03abb81d37419bf80832ddeb9df19e813757a86243695cdef5b6"),
        ("resnet18", "ff5d3830bc5987aa5ebb653710ccd40e1eedc9423284a378f74251d32f6fb5d9"),
    ];
    let path = std::env::temp_dir().join(format!("skipstone-zoo-{}.onnx", std::process::id()));
    let mut found = Vec::new();
    for (name, _) in pinned {
        let model = synth(name, 1, &SynthOptions::default()).unwrap();
        write_onnx(&model, &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        found.push((name, blake3::hash(&bytes).to_hex().to_string()));
        assert_eq!(ModelProto::decode(bytes.as_slice()).unwrap(), model, "{name}");
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(found, pinned.map(|(name, hash)| (name, hash.to_owned())));
}

#[test]
fn seed_and_options_matter() {
    let make = |seed, options: &SynthOptions| synth("tiny_resnet", seed, options).unwrap();
    let model = make(1, &SynthOptions::default());
    assert_eq!(model, make(1, &SynthOptions::default()));
    assert_ne!(model, make(2, &SynthOptions::default()));
    let options = SynthOptions { input_size: Some([40, 61]), classes: Some(3) };
    let graph = import(make(1, &options)).unwrap().graph;
    assert_eq!(graph.input_shapes(), [Shape::new(3, 40, 61)]);
    assert_eq!(graph.outputs[0].shape, Shape::vector(3));
}

#[test]
fn impossible_options_are_refused() {
    let check = |arch, options: SynthOptions, kind, what: &str| {
        let error = synth(arch, 0, &options).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    };
    let size = |h, w| SynthOptions { input_size: Some([h, w]), classes: None };
    let no_classes = SynthOptions { input_size: None, classes: Some(0) };
    check("resnet18", no_classes, ErrorKind::InvalidArgument, "class");
    check("resnet18", size(0, 224), ErrorKind::Shape, "3x0x224");
    check("vgg11", size(16, 224), ErrorKind::Shape, "too small");
    check("vgg11", size(256, 256), ErrorKind::Shape, "224x224");
    assert!(synth("tiny_vgg", 0, &size(64, 64)).is_ok());
}

/// Images of low frequencies with some noise, of mean 0 and variance about 1.
fn images(n: usize, shape: Shape) -> Vec<f32> {
    let mut rng = Rng(11);
    let mut pixels = Vec::new();
    for _ in 0..n * shape.c {
        let coarse = rng.vec(25);
        for h in 0..shape.h {
            for w in 0..shape.w {
                let low = coarse[h * 5 / shape.h * 5 + w * 5 / shape.w];
                pixels.push(1.5 * low + 0.5 * rng.f32());
            }
        }
    }
    pixels
}

#[test]
fn synthetic_logits_depend_on_class_and_image() {
    const N: usize = 4;
    for arch in tiny() {
        let network = import(synth(arch.name, 1, &SynthOptions::default()).unwrap()).unwrap();
        let x = images(N, arch.input);
        let logits = reference::run(&network, &[arch.input], N, &[&x]).unwrap().remove(0);
        let largest = logits.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!((1.0..20.0).contains(&largest), "{}: max |logit| {largest}", arch.name);

        let deviation = |values: Vec<f32>| {
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt()
        };
        let classes = arch.classes;
        let over_images = (0..classes)
            .map(|c| deviation(logits[c..].iter().step_by(classes).copied().collect()))
            .sum::<f32>()
            / classes as f32;
        let over_classes =
            logits.chunks(classes).map(|l| deviation(l.to_vec())).sum::<f32>() / N as f32;
        assert!(over_classes > 0.3, "{}: {over_classes} over classes", arch.name);
        assert!(over_images > 0.1 * over_classes, "{}: {over_images} over images", arch.name);
    }
}
