//! Micro-kernels on L1-resident operands: multiply-accumulates per second of every kernel that this
//! CPU can run. The element rate is the figure to hold against the CPU's peak.

mod common;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use skipstone_kernels::registry;
use skipstone_kernels::sconv::PanelJob;

fn sconv(c: &mut Criterion) {
    let mut group = c.benchmark_group("sconv");
    const PIXELS: usize = 12;
    const TAPS: usize = 16;
    let src = common::noise(PIXELS * 8 * TAPS);
    let pixels: Vec<u32> = (0..PIXELS as u32).map(|m| 8 * m).collect();
    let taps: Vec<u32> = (0..TAPS as u32).map(|t| t * 8 * PIXELS as u32).collect();
    let weights = skipstone::tensor::AlignedBuf::from_slice(&common::noise(TAPS * 8 * 16));
    let mut dst = vec![0.0; PIXELS * 16];
    group.throughput(Throughput::Elements((PIXELS * 16 * TAPS * 8) as u64));
    for kernel in registry::SCONV.iter().filter(|k| k.isa.is_available()) {
        group.bench_function(kernel.name, |b| {
            b.iter(|| {
                kernel.run(PanelJob {
                    src: &src,
                    src_pixels: &pixels,
                    taps: &taps,
                    tap_len: 8,
                    weights: &weights,
                    bias: &[0.0; 16],
                    dst: &mut dst,
                    dst_pixels: &pixels,
                    dst_block_stride: PIXELS * 8,
                    nb_blocks: 2,
                    residual: None,
                    clamp: [0.0, f32::INFINITY],
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sconv);
criterion_main!(benches);
