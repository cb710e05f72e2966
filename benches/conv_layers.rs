//! Every distinct convolution of the family, alone, by each method that it can have (those that `tune`
//! tries), on one thread: multiply-accumulates of direct convolution per second.
//!
//! A layer alone finds its weights in cache; inside a network they come from memory. `models`,
//! `skipstone bench --profile` and `skipstone tune --dry-run` show the latter.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use skipstone::{ExecutorOptions, Runtime, tune};

fn layers(c: &mut Criterion) {
    let runtime = Runtime::builder().threads(1).build().expect("the runtime starts");
    let mut group = c.benchmark_group("conv");
    for layer in common::LAYERS {
        let model = layer.model();
        let input = common::noise(layer.ic * layer.size * layer.size);
        group.throughput(Throughput::Elements(layer.macs()));
        let options = ExecutorOptions::default();
        let candidates = tune::candidates(&model, &runtime, &options).expect("the layer plans");
        // A layer with one method has nothing to choose.
        let methods = candidates.first().map_or(vec!["direct"], |c| c.methods.clone());
        for method in methods {
            let mut executor = common::executor_of(&model, &runtime, method);
            group.bench_function(format!("{}/{method}", layer.name), |b| {
                b.iter(|| executor.run(&[&input]).expect("the layer runs"));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = layers
}
criterion_main!(benches);
