//! What the fuzz targets share.

use skipstone::format::{self, PackOptions};
use skipstone::graph::fuse;
use skipstone::import::{ImportOptions, onnx, synth};
use skipstone::recipe::{ChannelOrder, Interpolation, Resize};
use skipstone::{Executor, ExecutorOptions, Model, Recipe, Runtime};

/// Most elements of all values together, and most multiply-accumulates, of a network that is run: a
/// valid file may describe more work than a fuzzer has time for.
const MAX_ELEMENTS: u64 = 1 << 18;
const MAX_MACS: u64 = 1 << 22;

/// Plans and runs a model if that is little work, twice: both runs must agree to the bit.
pub fn run_if_small(model: &Model) {
    let graph = model.graph();
    let Ok(shapes) = graph.infer_shapes(&graph.input_shapes()) else { return };
    let elements = |c: usize, h: usize, w: usize| c as u64 * h as u64 * w as u64;
    if shapes.iter().map(|s| elements(s.c, s.h, s.w)).sum::<u64>() > MAX_ELEMENTS {
        return;
    }
    let macs = graph.nodes.iter().enumerate().map(|(i, node)| {
        let output = shapes[graph.value_of(i).0 as usize];
        node.op.macs(&graph.constants, output)
    });
    if macs.sum::<u64>() > MAX_MACS {
        return;
    }
    let runtime = Runtime::builder().threads(1).build().expect("a runtime of one thread");
    let Ok(mut executor) = Executor::new(&runtime, model, &ExecutorOptions::default()) else {
        return;
    };
    let inputs: Vec<Vec<f32>> = (0..graph.inputs.len())
        .map(|i| executor.input_dims(i).iter().product())
        .map(|len: usize| (0..len).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect())
        .collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut run = || -> Vec<Vec<u32>> {
        executor.run(&inputs).expect("a planned model runs");
        let outputs = 0..graph.outputs.len();
        outputs.map(|i| executor.output(i).iter().map(|v| v.to_bits()).collect()).collect()
    };
    assert_eq!(run(), run(), "two runs of one input");
}

/// Rows and columns of [`image_classifier`]'s input `input`, of 3 channels.
const INPUT_SIZE: [usize; 2] = [9, 11];

/// A packed network of 5 classes, `logits`, that takes floats, pixels or image files.
pub fn image_classifier() -> Vec<u8> {
    let options = synth::SynthOptions { input_size: Some(INPUT_SIZE), classes: Some(5) };
    let model = synth::synth("tiny_resnet", 0, &options).expect("a known architecture");
    let mut network =
        onnx::network(model, None, &ImportOptions::default()).expect("what was made is imported");
    fuse::fuse(&mut network).expect("what was made is fused");
    let [height, width] = INPUT_SIZE.map(|n| n as u32);
    let recipe = Recipe {
        resize: Some(Resize::Exact { height, width }),
        interpolation: Interpolation::Bilinear,
        crop: None,
        channels: ChannelOrder::Rgb,
        scale: 1.0 / 255.0,
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
    };
    let labels = Some((0..5).map(|i| format!("label {i}")).collect());
    let options = PackOptions { recipe: Some(recipe), labels, ..PackOptions::default() };
    format::to_bytes(&network, &options).expect("the network packs")
}
