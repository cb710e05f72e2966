//! A promise: weights in IEEE half are half the file, and give the bits of f32 weights that were
//! rounded to half.
#![cfg(all(unix, feature = "import"))]

mod common;

use common::guarded::Placement;
use common::{Rng, bits, synth_network};
use half::f16;
use skipstone::format::{PackOptions, WeightDtype, to_bytes};
use skipstone::plan::Numerics;
use skipstone::{Executor, ExecutorOptions, Isa, Model, Runtime};
use skipstone_kernels::registry;
use skipstone_kernels::sconv::{MR, PanelJob};
use skipstone_kernels::winograd::{FilterArgs, point_stride};

/// 16 weights, aligned as the kernels ask.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Row<T>([T; 16]);

fn flat<T>(rows: &[Row<T>]) -> &[T] {
    assert_eq!(size_of::<Row<T>>(), 16 * size_of::<T>());
    // SAFETY: rows are 16 elements without padding.
    unsafe { std::slice::from_raw_parts(rows.as_ptr().cast(), rows.len() * 16) }
}

/// Every kind of half: normal, subnormal, zeros, the largest.
fn halves(rng: &mut Rng, len: usize) -> Vec<f16> {
    let value = |rng: &mut Rng| match rng.below(16) {
        0 => f16::from_bits(rng.below(1 << 10) as u16),
        1 => [f16::ZERO, f16::NEG_ZERO, f16::MAX, f16::MIN][rng.below(4)],
        _ => f16::from_f32(rng.f32()),
    };
    (0..len).map(|_| value(rng)).collect()
}

#[test]
fn kernels_give_the_bits_of_widened_weights() {
    let mut rng = Rng(1);
    for (half, single) in registry::HCONV.iter().zip(registry::SCONV) {
        assert_eq!(half.isa, single.isa);
        assert_eq!(half.name, single.name.replace("sconv", "hconv"));
        if !half.isa.is_available() {
            continue;
        }
        for nb_pixels in (0..=2 * MR + 1).chain([48, 49, 100]) {
            for (nb_taps, tap_len) in [(1, 8), (9, 8), (7, 21), (3, 1)] {
                let (k, place) = (nb_taps * tap_len, Placement::ALL[rng.below(2)]);
                let weights = halves(&mut rng, k * 16);
                let widened: Vec<Row<f32>> = weights
                    .chunks(16)
                    .map(|row| Row(std::array::from_fn(|i| row[i].to_f32())))
                    .collect();
                let (weights, widened) = (place.copy(&weights), place.copy(&widened));
                let src = place.copy(&rng.vec(nb_pixels * 8 + nb_taps * 8 + tap_len));
                let pixels: Vec<u32> = (0..nb_pixels as u32).map(|m| 8 * m).collect();
                let taps: Vec<u32> = (0..nb_taps as u32).map(|t| 8 * t).collect();
                let bias = std::array::from_fn(|_| rng.f32());
                let mut dst = [vec![0.0; nb_pixels * 16], vec![0.0; nb_pixels * 16]];
                macro_rules! run {
                    ($kernel:expr, $weights:expr, $dst:expr) => {
                        $kernel.run(PanelJob {
                            src: &src,
                            src_pixels: &pixels,
                            taps: &taps,
                            tap_len,
                            weights: $weights,
                            bias: &bias,
                            dst: $dst,
                            dst_pixels: &pixels,
                            dst_block_stride: nb_pixels * 8,
                            nb_blocks: 2,
                            residual: None,
                            clamp: [f32::NEG_INFINITY, f32::INFINITY],
                        })
                    };
                }
                let [a, b] = &mut dst;
                run!(half, &weights, a);
                run!(single, flat(&widened), b);
                assert_eq!(bits(a), bits(b), "{} {nb_pixels} pixels, k {k}", half.name);
                assert!(nb_pixels == 0 || a.iter().any(|v| *v != 0.0));
            }
        }
    }
}

#[test]
fn winograd_filters_are_those_of_widened_weights() {
    let mut rng = Rng(2);
    for kernel in registry::WINOGRAD.iter().filter(|k| k.isa.is_available()) {
        for (nb_blocks, place) in [(1, Placement::Ends), (3, Placement::Starts)] {
            let len = nb_blocks * 128;
            let weights = place.copy(&halves(&mut rng, 9 * len));
            let widened: Vec<f32> = weights.iter().map(|w| w.to_f32()).collect();
            let (widened, stride) = (place.copy(&widened), point_stride::<f32>(len));
            let nb_points = kernel.variant.nb_points();
            let rows = vec![Row([0.0f32; 16]); nb_points * stride / 16];
            let mut dst = [rows.clone(), rows];
            let [a, b] = &mut dst;
            // SAFETY: the kernel is available, and the buffers have the lengths of the contract.
            unsafe {
                kernel.transform_half_filter_raw(&FilterArgs {
                    src: weights.as_ptr(),
                    nb_blocks,
                    dst: a.as_mut_ptr().cast(),
                    point_stride: stride,
                });
                kernel.transform_filter_raw(&FilterArgs {
                    src: widened.as_ptr(),
                    nb_blocks,
                    dst: b.as_mut_ptr().cast(),
                    point_stride: stride,
                });
            }
            assert_eq!(bits(flat(a)), bits(flat(b)), "{}", kernel.name);
        }
    }
}

fn packed(arch: &str, dtype: WeightDtype) -> Vec<u8> {
    let options = PackOptions { dtype, ..PackOptions::default() };
    to_bytes(&synth_network(arch), &options).expect("packs")
}

#[test]
fn networks_give_the_bits_of_rounded_weights() {
    for arch in ["tiny_resnet", "tiny_vgg", "tiny_resnext", "resnet20_cifar"] {
        let half = Model::from_bytes(&packed(arch, WeightDtype::F16)).expect("opens");
        let rounded = to_bytes(&half.to_network(), &PackOptions::default()).expect("packs");
        let rounded = Model::from_bytes(&rounded).expect("opens");
        for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_available()) {
            for (threads, numerics) in [(1, Numerics::Fast), (2, Numerics::Strict)] {
                let runtime = Runtime::builder().threads(threads).isa(isa).build().expect("starts");
                let options = ExecutorOptions { numerics, batch: 2, ..ExecutorOptions::default() };
                let logits = |model: &Model| {
                    let mut executor = Executor::new(&runtime, model, &options).expect("plans");
                    let input = Rng(3).vec(executor.input_dims(0).iter().product());
                    executor.run(&[&input]).expect("runs");
                    bits(executor.output(0))
                };
                assert_eq!(logits(&half), logits(&rounded), "{arch}, {isa}, {numerics}");
            }
        }
    }
}

#[test]
fn halves_stay_halves_where_the_tier_reads_them() {
    let model = Model::from_bytes(&packed("tiny_resnet", WeightDtype::F16)).expect("opens");
    for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_available()) {
        let runtime = Runtime::builder().threads(1).isa(isa).build().expect("starts");
        let strict = ExecutorOptions { numerics: Numerics::Strict, ..ExecutorOptions::default() };
        let executor = Executor::new(&runtime, &model, &strict).expect("plans");
        let plan = executor.plan();
        let reads = registry::hconv(isa).isa > Isa::Portable;
        for step in plan.steps.iter().filter(|s| s.choice.is_some()) {
            let op = &model.graph().nodes[step.node.expect("a node")].op;
            let weights = op.constants().next().expect("weights");
            let shape = &model.graph().constant(weights).shape;
            let few = step.output.h * step.output.w <= 64;
            let expected = reads && (few || shape[2..].iter().any(|n| *n > 1));
            assert_eq!(step.kernel.contains("hconv"), expected, "{isa}, {}", step.name);
        }
    }
}

#[test]
fn the_file_is_half() {
    let [single, half] =
        [WeightDtype::F32, WeightDtype::F16].map(|dtype| packed("resnet18", dtype).len());
    assert!(half as f64 <= 0.51 * single as f64, "{half} of {single} bytes");
}
