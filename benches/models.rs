//! Whole networks with synthetic weights: latency by threads, and the time to open and plan.

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use skipstone::Model;
use skipstone::format::{PackOptions, to_bytes};
use skipstone::graph::fuse::fuse;
use skipstone::import::synth::{SynthOptions, synth};
use skipstone::import::{ImportOptions, onnx};

fn packed(arch: &str) -> Vec<u8> {
    let onnx = synth(arch, 1, &SynthOptions::default()).expect("the architecture exists");
    let mut network =
        onnx::network(onnx, None, &ImportOptions::default()).expect("the network imports");
    fuse(&mut network).expect("the network fuses");
    to_bytes(&network, &PackOptions::default()).expect("it packs")
}

fn models(c: &mut Criterion) {
    for arch in ["resnet18", "resnet50"] {
        let bytes = packed(arch);
        let mut group = c.benchmark_group(arch);
        let model = Model::from_bytes(&bytes).expect("the packed model opens");
        let input = common::noise(3 * 224 * 224);
        for threads in [1, 2] {
            let mut executor = common::executor(&model, threads, 1);
            group.bench_function(format!("run/{threads}t"), |b| {
                b.iter(|| executor.run(&[&input]).expect("the network runs"));
            });
        }
        group.bench_function("open", |b| {
            b.iter(|| Model::from_bytes(&bytes).expect("the packed model opens"));
        });
        group.bench_function("plan", |b| b.iter(|| common::executor(&model, 1, 1)));
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = models
}
criterion_main!(benches);
