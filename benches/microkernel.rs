//! Micro-kernels on L1-resident operands: floating-point operations per second of every kernel that
//! this CPU can run, also as a part of what a loop of FMAs on registers reaches in the same process.

mod common;

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use skipstone::tensor::AlignedBuf;
use skipstone_kernels::registry;
use skipstone_kernels::sconv::{Kernel, PanelJob};

const PIXELS: usize = 12;
const TAPS: usize = 16;
/// Of one call: a multiplication and an addition per pixel, channel and weight.
const FLOP: usize = 2 * PIXELS * 16 * TAPS * 8;

struct Operands {
    src: Vec<f32>,
    pixels: Vec<u32>,
    taps: Vec<u32>,
    dst: Vec<f32>,
}

impl Operands {
    fn run<W>(&mut self, kernel: &Kernel<W>, weights: &[W]) {
        kernel.run(PanelJob {
            src: &self.src,
            src_pixels: &self.pixels,
            taps: &self.taps,
            tap_len: 8,
            weights,
            bias: &[0.0; 16],
            dst: &mut self.dst,
            dst_pixels: &self.pixels,
            dst_block_stride: PIXELS * 8,
            nb_blocks: 2,
            residual: None,
            clamp: [0.0, f32::INFINITY],
        });
    }
}

fn kernels(c: &mut Criterion) {
    let mut operands = Operands {
        src: common::noise(PIXELS * 8 * TAPS),
        pixels: (0..PIXELS as u32).map(|m| 8 * m).collect(),
        taps: (0..TAPS as u32).map(|t| t * 8 * PIXELS as u32).collect(),
        dst: vec![0.0; PIXELS * 16],
    };
    let weights = AlignedBuf::from_slice(&common::noise(TAPS * 8 * 16));
    // Halves in memory that is aligned as weights are.
    let mut half_memory = AlignedBuf::zeroed(weights.len() / 2);
    let halves: &mut [f16] = bytemuck::cast_slice_mut(&mut half_memory);
    halves.iter_mut().zip(&*weights).for_each(|(half, w)| *half = f16::from_f32(*w));
    let halves: &[f16] = halves;

    let mut summary = Vec::new();
    let mut group = c.benchmark_group("sconv");
    group.throughput(Throughput::Elements(FLOP as u64));
    for kernel in registry::SCONV.iter().filter(|k| k.isa.is_available()) {
        summary.push((kernel.name, gflops(|| operands.run(kernel, &weights))));
        group.bench_function(kernel.name, |b| b.iter(|| operands.run(kernel, &weights)));
    }
    for kernel in registry::HCONV.iter().filter(|k| k.isa.is_available()) {
        summary.push((kernel.name, gflops(|| operands.run(kernel, halves))));
        group.bench_function(kernel.name, |b| b.iter(|| operands.run(kernel, halves)));
    }
    group.finish();
    let peak = peak::gflops();
    for (name, gflops) in summary {
        let part =
            peak.map_or(String::new(), |peak| format!(", {:.0} % of peak", gflops / peak * 100.0));
        println!("{name}: {gflops:.1} GFLOP/s{part}");
    }
    if let Some(peak) = peak {
        println!("peak, FMAs on registers: {peak:.1} GFLOP/s");
    }
}

/// The best of some short runs of a call of [`FLOP`] operations.
fn gflops(mut call: impl FnMut()) -> f64 {
    const CALLS: usize = 200;
    let time = |_| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed().as_secs_f64()
    };
    let best = (0..20).map(time).fold(f64::INFINITY, f64::min);
    (CALLS * FLOP) as f64 / best / 1e9
}

/// What the arithmetic units can do.
#[cfg(target_arch = "x86_64")]
mod peak {
    use super::*;
    use skipstone_kernels::isa::Isa;
    use std::arch::x86_64::*;

    /// Accumulators: enough to hide the FMA's latency.
    const CHAINS: usize = 12;
    const ROUNDS: usize = 20_000;

    #[target_feature(enable = "avx2,fma")]
    fn chains(x: f32) -> f32 {
        let factor = _mm256_set1_ps(x);
        let mut acc = [factor; CHAINS];
        for _ in 0..ROUNDS {
            for a in &mut acc {
                *a = _mm256_fmadd_ps(factor, *a, factor);
            }
        }
        acc.into_iter().map(|a| _mm256_cvtss_f32(a)).sum()
    }

    pub(super) fn gflops() -> Option<f64> {
        Isa::Avx2.is_available().then_some(())?;
        let time = |_| {
            let start = Instant::now();
            // SAFETY: the tier is there.
            black_box(unsafe { chains(black_box(0.5)) });
            start.elapsed().as_secs_f64()
        };
        let best = (0..20).map(time).fold(f64::INFINITY, f64::min);
        Some((ROUNDS * CHAINS * 8 * 2) as f64 / best / 1e9)
    }
}

/// Not known here.
#[cfg(not(target_arch = "x86_64"))]
mod peak {
    pub(super) fn gflops() -> Option<f64> {
        None
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
