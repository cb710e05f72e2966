//! Sources in two parts: every `qsplit` kernel of the registry against plain integers, and networks on the executor
//! whose activations exceed half the range nowhere, in a few places, and everywhere.
#![cfg(unix)]

mod common;

use common::guarded::Placement;
use common::quantized::choices;
use common::{Rng, packed};
use skipstone::graph::{
    AxisOrder, Conv, Network, Node, Op, Pad, Port, Quantization, Shape, ValueId, reference,
};
use skipstone::{Executor, ExecutorOptions, Isa, Runtime};
use skipstone_kernels::qconv::{QUAD, QUAD_LEN};
use skipstone_kernels::qsplit::{Excess, Kernel, LOW_MAX, Windows};
use skipstone_kernels::registry;

fn available() -> impl Iterator<Item = (Kernel, Placement)> {
    let kernels = registry::QSPLIT.iter().filter(|k| k.isa.is_available());
    kernels.flat_map(|k| Placement::ALL.map(|place| (*k, place)))
}

#[test]
fn parts_add_up_and_stay_in_half_the_range() {
    let all: Vec<u8> = (0..=255).cycle().take(1000).collect();
    for (kernel, place) in available() {
        for len in (0..70).chain([999]) {
            let (mut low, mut high) = (place.filled(len, 7u8), place.filled(len, 7u8));
            kernel.split(&place.copy(&all[..len]), &mut low, &mut high);
            for (a, (low, high)) in all.iter().zip(low.iter().zip(high.iter())) {
                assert_eq!((*low, *high), (LOW_MAX.min(*a), a - LOW_MAX.min(*a)));
            }
        }
    }
}

/// 16 inputs of a panel's weights, aligned as kernels ask.
#[repr(C, align(32))]
#[derive(Clone, Copy)]
struct Quad([i8; QUAD_LEN]);

#[test]
fn found_quads_are_all_that_are_not_zero_and_add_plain_products() {
    let mut rng = Rng(5);
    for (kernel, place) in available() {
        for nb_pixels in [0, 1, 2, 7, 50] {
            for (nb_taps, one_in) in [(1, 1), (9, 1), (9, 30), (9, usize::MAX), (40, 3)] {
                let pixels: Vec<u32> = (0..nb_pixels).map(|m| m * 37 % 61 * 16).collect();
                let taps: Vec<u32> = (0..nb_taps).map(|t| t * 41 % 83 * 16).collect();
                let largest = |offsets: &[u32]| offsets.iter().copied().max().unwrap_or(0);
                let len = (largest(&pixels) + largest(&taps)) as usize + 16;
                let high: Vec<u8> =
                    (0..len).map(|_| if rng.below(one_in) == 0 { 127 } else { 0 }).collect();
                let high: Vec<u8> = if one_in == usize::MAX { vec![0; len] } else { high };
                let mut expected = Vec::new();
                for (t, tap) in taps.iter().enumerate() {
                    for (m, pixel) in pixels.iter().enumerate() {
                        let block = &high[(tap + pixel) as usize..][..16];
                        for (q, bytes) in block.as_chunks::<QUAD>().0.iter().enumerate() {
                            if *bytes != [0; QUAD] {
                                let (pixel, quad) = (m as u32, (4 * t + q) as u32);
                                expected.push(Excess { bytes: *bytes, pixel, quad });
                            }
                        }
                    }
                }
                let (high, pixels, taps) =
                    (place.copy(&high), place.copy(&pixels), place.copy(&taps));
                let windows = Windows { high: &high, pixels: &pixels, taps: &taps };
                let mut found = place.filled(expected.len(), Excess::default());
                assert_eq!(kernel.find(&windows, &mut found), Some(expected.len()));
                assert_eq!(&found[..], expected);
                if let Some((_, fewer)) = found.split_last_mut() {
                    assert_eq!(kernel.find(&windows, fewer), None, "one is missing");
                }
                check_sums(kernel, place, (nb_pixels as usize, 4 * nb_taps as usize), &expected);
            }
        }
    }
}

/// Compares sums over random places of weights of which many are extreme.
fn check_sums(
    kernel: Kernel,
    place: Placement,
    (nb_pixels, nb_quads): (usize, usize),
    found: &[Excess],
) {
    let mut rng = Rng(nb_quads as u64);
    let weight = |rng: &mut Rng| [-128, 127, rng.below(256) as u8 as i8][rng.below(3)];
    let nb_places = nb_quads + 3;
    let quads: Vec<Quad> =
        (0..nb_places).map(|_| Quad(std::array::from_fn(|_| weight(&mut rng)))).collect();
    let quads = place.copy(&quads);
    // SAFETY: `Quad` is its elements without padding.
    let weights =
        unsafe { std::slice::from_raw_parts(quads.as_ptr().cast::<i8>(), nb_places * QUAD_LEN) };
    let places = [0, 1].map(|_| {
        place.copy(&(0..nb_quads).map(|_| rng.below(nb_places) as u32).collect::<Vec<_>>())
    });
    let bias: [i32; 16] = std::array::from_fn(|o| [i32::MAX, i32::MIN, 0, 5][o % 4]);
    let mut partial = place.filled(nb_pixels, [[0i32; 8]; 2]);
    let mut expected = vec![bias; nb_pixels];
    for Excess { bytes, pixel, quad } in found {
        for o in 0..16 {
            let at = places[o / 8][*quad as usize] as usize * QUAD_LEN + o % 8 * QUAD;
            for i in 0..QUAD {
                let product = i32::from(bytes[i]) * i32::from(weights[at + i]);
                let sum = &mut expected[*pixel as usize][o];
                *sum = sum.wrapping_add(product);
            }
        }
    }
    let sums = partial.as_flattened_mut().as_flattened_mut();
    kernel.add(found, (weights, places.each_ref().map(|p| &p[..])), &bias, sums);
    assert_eq!(sums, expected.as_flattened(), "{}", kernel.name);
}

/// A convolution of u8 whose results are its sums, to the bit: scales are 1, and results f32.
fn sums_of([oc, ic, k]: [usize; 3], stride: usize, weight: impl Fn(usize) -> i8) -> Network {
    let mut network = Network::default();
    let weights: Vec<i8> = (0..oc * ic * k * k).map(weight).collect();
    let weights = network.add_constant("w", &[oc, ic, k, k], weights);
    let scales = network.add_constant("s", &[oc], vec![1.0f32; oc]);
    let bias = network.add_constant("b", &[oc], (0..oc as i32).collect::<Vec<_>>());
    let [side, padding] = [9, k / 2];
    let input = Shape::new(ic, side, side);
    let axes = AxisOrder::nchw();
    let pad = Pad { top: padding, left: padding, bottom: padding, right: padding };
    let conv = Conv {
        weight_scales: Some(scales),
        stride: [stride; 2],
        pad,
        ..Conv::pointwise(weights, Some(bias))
    };
    let graph = &mut network.graph;
    let (x, y) = (ValueId(0), ValueId(1));
    graph.name = format!("sums of {oc}x{ic}x{k}x{k}");
    graph.inputs.push(Port { name: "x".to_owned(), value: x, shape: input, axes: axes.clone() });
    graph.quantization.push(Some(Quantization { scale: 1.0, zero_point: 0, max: 255 }));
    graph.nodes.push(Node { name: "conv".to_owned(), op: Op::Conv(conv), inputs: vec![x] });
    graph.set_quantization(y, None);
    let out = side.div_ceil(stride);
    graph.outputs.push(Port {
        name: "y".to_owned(),
        value: y,
        shape: Shape::new(oc, out, out),
        axes,
    });
    graph.validate().expect("the test's graph is valid");
    network
}

/// Runs a network by every method that it can have, on every tier, and compares the bits with the reference's
/// result, which this returns.
fn check(network: &Network, pixel: impl Fn(usize) -> u8) -> Vec<f32> {
    let model = packed(network);
    let shapes = network.graph.input_shapes();
    let batch = 2;
    let input: Vec<f32> = (0..batch * shapes[0].len()).map(|i| f32::from(pixel(i))).collect();
    let expected = reference::run(network, &shapes, batch, &[&input]).expect("runs").remove(0);
    for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_available()) {
        for threads in [1, 2] {
            let runtime = Runtime::builder().threads(threads).isa(isa).build().expect("starts");
            let options = ExecutorOptions { batch, ..Default::default() };
            let choices = choices(&model, &runtime, &options);
            assert!(choices.iter().any(|(method, _)| *method == "direct-split"));
            for (method, tables) in choices {
                let options = ExecutorOptions { tables, ..options.clone() };
                let mut executor = Executor::new(&runtime, &model, &options).expect("plans");
                executor.run(&[&input]).expect("runs");
                let name = format!("{}, {method}, {isa}, {threads} threads", network.graph.name);
                assert_eq!(executor.output(0), expected, "{name}");
            }
        }
    }
    expected
}

#[test]
fn sums_are_plain_whatever_exceeds_half_the_range() {
    let hash = |x: usize| (x as u32).wrapping_mul(2_654_435_761) >> 13;
    for (sizes, stride) in [([24, 40, 1], 1), ([33, 300, 1], 2), ([16, 20, 3], 2), ([40, 64, 3], 1)]
    {
        let network = sums_of(sizes, stride, |i| [-127, 127, hash(i) as i8, 0][i / 5 % 4]);
        check(&network, |i| hash(i) as u8 & 127);
        check(&network, |i| if hash(i) % 100 == 0 { hash(i) as u8 } else { hash(i) as u8 & 127 });
        check(&network, |i| hash(i) as u8);
        // Few in most blocks of pixels, and many in some.
        check(&network, |i| if i % 1000 < 100 { 255 } else { hash(i) as u8 & 127 });
    }
}

/// 255 in all activations, and 127 or -127 in all weights: no method saturates, and what is known of such sums
/// holds.
#[test]
fn the_heaviest_sums_do_not_saturate() {
    for sizes @ [oc, ic, k] in [[32, 64, 1], [20, 100, 1], [16, 32, 3], [24, 16, 3]] {
        let per_channel = ic * k * k;
        // Of each four channels: all 127, all -127, of either sign in turn, and in turn by twos.
        let sign =
            |o: usize, i: usize| [1, -1, 1 - 2 * (i as i32 % 2), 1 - (i as i32 / 2 % 2) * 2][o % 4];
        let weight = |i: usize| (sign(i / per_channel, i % per_channel) * 127) as i8;
        let network = sums_of(sizes, 1, weight);
        let sums = check(&network, |_| 255);
        let side = 9;
        for (o, plane) in sums[..oc * side * side].chunks(side * side).enumerate() {
            let total: i32 = (0..per_channel).map(|i| sign(o, i)).sum();
            let expected = (255 * 127 * total + o as i32) as f32;
            assert_eq!(plane[side * side / 2], expected, "channel {o} of {sizes:?}");
        }
    }
}
