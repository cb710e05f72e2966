//! Every distinct convolution of the family, alone: multiply-accumulates per second.
//!
//! A layer alone finds its weights in cache; inside a network they come from memory. `models` and
//! `skipstone bench --profile` show the latter.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn layers(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv");
    for layer in common::LAYERS {
        let model = layer.model();
        let mut executor = common::executor(&model, 1, 1);
        let input = common::noise(layer.ic * layer.size * layer.size);
        group.throughput(Throughput::Elements(layer.macs()));
        group.bench_function(layer.name, |b| {
            b.iter(|| executor.run(&[&input]).expect("the layer runs"));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = layers
}
criterion_main!(benches);
