//! Every int8 kernel of the registry against plain integer sums and the plain form of requantization,
//! to the bit: sizes around the tile, every size of group, sums at the edge of i16, with every buffer
//! ending, then starting, at a page that cannot be accessed.
#![cfg(unix)]

mod common;

use common::Rng;
use common::guarded::{Guarded, Placement};
use skipstone_kernels::qconv::{
    GROUPS, JobDst, Kernel, MR, PanelJob, QUAD, QUAD_LEN, StripJob, fits, nb_quads, row_tiles,
};
use skipstone_kernels::qconv16::{self, TAP_LEN};
use skipstone_kernels::registry;
use skipstone_kernels::requant::BeforeAdd;

/// A quad, aligned as kernels ask.
#[repr(C, align(32))]
#[derive(Clone, Copy)]
struct Quad([i8; QUAD_LEN]);

fn flat(quads: &[Quad]) -> &[i8] {
    // SAFETY: `Quad` is 32 bytes without padding.
    unsafe { std::slice::from_raw_parts(quads.as_ptr().cast(), size_of_val(quads)) }
}

fn available() -> impl Iterator<Item = &'static Kernel> {
    registry::QCONV.iter().filter(|k| k.isa.is_available())
}

/// The plain form of requantization, up to the bounds.
fn requantized(
    acc: i32,
    scale: f32,
    before: Option<BeforeAdd>,
    residual: Option<(u8, u8, f32)>,
) -> f32 {
    let mut t = acc as f32 * scale;
    if let Some(BeforeAdd { bounds: [min, max], scale }) = before {
        t = t.clamp(min, max).round_ties_even() * scale;
    }
    if let Some((r, zero, scale)) = residual {
        t += (i32::from(r) - i32::from(zero)) as f32 * scale;
    }
    t
}

struct Case {
    nb_pixels: usize,
    /// Of each strip.
    groups: [[usize; 4]; 2],
    max: u8,
    residual: bool,
    before_add: bool,
    /// Blocks of 8 channels of an f32 result; 0 for a u8 result.
    nb_blocks: usize,
}

/// Weights of groups that just fit: random ones, each group scaled down until it does.
fn weights(groups: [usize; 4], max: u8, rng: &mut Rng) -> Vec<Quad> {
    let mut quads = Vec::new();
    for (n, size) in groups.into_iter().zip(GROUPS) {
        for _ in 0..n {
            let amplitude = [127, 40, 8][rng.below(3)];
            let mut group: Vec<Quad> = (0..size)
                .map(|_| {
                    Quad(std::array::from_fn(|_| {
                        (rng.below(2 * amplitude + 1) as i32 - amplitude as i32) as i8
                    }))
                })
                .collect();
            while !fits(max, flat(&group)) {
                group
                    .iter_mut()
                    .for_each(|q| q.0 = q.0.map(|w| w - w.signum() * 1.max(w.abs() / 8)));
            }
            quads.extend(group);
        }
    }
    quads
}

/// Runs one panel and compares every element, and that nothing else was written.
fn check(kernel: &Kernel, case: &Case, place: Placement, rng: &mut Rng) {
    let Case { nb_pixels, groups, max, residual, before_add, nb_blocks } = *case;
    let src_pixels: Vec<u32> =
        (0..nb_pixels).map(|m| ((m * 37) % (nb_pixels * 3)) as u32).collect();
    let taps = groups.map(|g| {
        let nb = nb_quads(g);
        (0..nb).map(|t| (t * 41 % (nb * 2)) as u32 * 4 + 1).collect::<Vec<_>>()
    });
    let largest = |offsets: &[u32]| offsets.iter().copied().max().unwrap_or(0) as usize;
    let src_len = largest(&src_pixels) + taps.iter().map(|t| largest(t)).max().unwrap() + QUAD;
    // Mostly the largest element, so that sums reach their limits.
    let src: Vec<u8> = (0..src_len)
        .map(|_| if rng.below(4) > 0 { max } else { rng.below(usize::from(max) + 1) as u8 })
        .collect();
    let src = place.copy(&src);
    let src_pixels = place.copy(&src_pixels);
    let taps = taps.map(|t| place.copy(&t));
    let quads = groups.map(|g| place.copy(&weights(g, max, rng)));
    let bias: Vec<i32> = (0..16).map(|_| rng.below(1 << 16) as i32 - (1 << 15)).collect();
    let bias = place.copy(&bias);
    // Results that spread over the range and beyond it.
    let spread = 1.0 / (64.0 * (1.0 + nb_quads(groups[0]) as f32));
    let scale: Vec<f32> = (0..16).map(|_| (rng.f32() + 1.001) * spread * 0.5).collect();
    let scale = place.copy(&scale);
    let before =
        before_add.then(|| BeforeAdd { bounds: [-120.0, 127.0], scale: 0.3 + rng.f32() * 0.1 });
    let block_stride = nb_pixels * 16 + 16;
    let pixels: Vec<u32> = (0..nb_pixels).map(|m| 16 + 16 * (nb_pixels - 1 - m) as u32).collect();
    let pixels = place.copy(&pixels);
    let act_len = 16 + 16 * nb_pixels;
    let res: Vec<u8> = (0..act_len).map(|_| rng.below(256) as u8).collect();
    let res = place.copy(&res);
    let (res_zero, res_scale) = (rng.below(256) as u8, 0.5 + 0.4 * rng.f32());
    let (zero, bounds) = [(0u8, [0u8, 127u8]), (128, [128, 255]), (77, [3, 200])][rng.below(3)];
    const GUARD: u8 = 201;
    const GUARD_F32: f32 = 12345.0;
    let mut bytes = place.filled(act_len, GUARD);
    let mut floats: Guarded<f32> =
        place.filled(nb_blocks.saturating_sub(1) * block_stride + act_len - 8, GUARD_F32);
    let float_bounds = [-2.5, 90.0];
    kernel.run(PanelJob {
        src: &src,
        src_pixels: &src_pixels,
        strips: [0, 1].map(|s| StripJob {
            weights: flat(&quads[s]),
            taps: &taps[s],
            groups: groups[s],
        }),
        bias: bias[..].try_into().unwrap(),
        scale: scale[..].try_into().unwrap(),
        before_add: before,
        residual: residual.then_some((&res[..], &pixels[..], res_zero, res_scale)),
        dst: match nb_blocks {
            0 => JobDst::U8 { dst: &mut bytes, zero_point: zero, bounds },
            _ => JobDst::F32 { dst: &mut floats, block_stride, nb_blocks, bounds: float_bounds },
        },
        dst_pixels: &pixels,
    });
    for m in 0..nb_pixels {
        for c in 0..if nb_blocks == 1 { 8 } else { 16 } {
            let (s, o) = (c / 8, c % 8);
            let mut acc = bias[c];
            for (quad, tap) in quads[s].iter().zip(taps[s].iter()) {
                for i in 0..QUAD {
                    let x = i32::from(src[(src_pixels[m] + tap) as usize + i]);
                    acc += x * i32::from(quad.0[o * QUAD + i]);
                }
            }
            let at = pixels[m] as usize + c;
            let r = residual.then(|| (res[at], res_zero, res_scale));
            let t = requantized(acc, scale[c], before, r);
            let name = kernel.name;
            if nb_blocks == 0 {
                let z = f32::from(zero);
                let [lo, hi] = bounds.map(f32::from);
                let expected = (t.clamp(lo - z, hi - z).round_ties_even() + z) as u8;
                let found = std::mem::replace(&mut bytes[at], GUARD);
                assert_eq!(found, expected, "{name}: pixel {m} of {nb_pixels}, channel {c}, {t}");
            } else {
                let at = pixels[m] as usize + c / 8 * block_stride + c % 8;
                let expected = t.clamp(float_bounds[0], float_bounds[1]);
                let found = std::mem::replace(&mut floats[at], GUARD_F32);
                assert_eq!(found.to_bits(), expected.to_bits(), "{name}: pixel {m}, channel {c}");
            }
        }
    }
    let clean = bytes.iter().all(|v| *v == GUARD) && floats.iter().all(|v| *v == GUARD_F32);
    assert!(clean, "{} wrote outside its pixels", kernel.name);
}

#[test]
fn qconv_around_the_tile() {
    let mut rng = Rng(1);
    let groups = [
        [[1, 0, 0, 0], [1, 0, 0, 0]],
        [[0, 0, 1, 0], [0, 0, 0, 1]],
        [[9, 2, 3, 2], [8, 1, 4, 6]],
        [[0, 0, 0, 5], [0, 0, 0, 0]],
        [[2, 0, 0, 1], [2, 0, 1, 1]],
        // Of equal groups strips have equal taps here.
        [[5, 3, 4, 2], [5, 3, 4, 2]],
        [[0, 1, 0, 0], [0, 1, 0, 0]],
        [[0, 0, 2, 1], [0, 0, 2, 1]],
    ];
    for kernel in available() {
        for nb_pixels in (0..=2 * MR + 1).chain([49, 100]) {
            for groups in groups {
                for (residual, before_add, nb_blocks) in [
                    (false, false, 0),
                    (true, false, 0),
                    (true, true, 0),
                    (true, false, 2),
                    (false, false, 1),
                ] {
                    let max = [127, kernel.max][rng.below(2)];
                    let case = Case { nb_pixels, groups, max, residual, before_add, nb_blocks };
                    for place in Placement::ALL {
                        check(kernel, &case, place, &mut rng);
                    }
                }
            }
        }
    }
}

/// One pixel, one quad tap per group member at the same place, and the sum of channel 0: the same for a strip alone
/// and for two that are paired.
fn sum(kernel: &Kernel, src: u8, groups: [usize; 4], weight: impl Fn(usize) -> i8) -> f32 {
    let n = nb_quads(groups);
    let quads: Vec<Quad> = (0..n).map(|q| Quad([weight(q); QUAD_LEN])).collect();
    let taps = vec![0; n];
    let mut dst = [0.0; 16];
    let strip = StripJob { weights: flat(&quads), taps: &taps, groups };
    let none = StripJob { weights: &[], taps: &[], groups: [0; 4] };
    for (second, nb_blocks) in [(none, 1), (strip, 2)] {
        kernel.run(PanelJob {
            src: &[src; QUAD],
            src_pixels: &[0],
            strips: [strip, second],
            bias: &[0; 16],
            scale: &[1.0; 16],
            before_add: None,
            residual: None,
            dst: JobDst::F32 {
                dst: &mut dst,
                block_stride: 8,
                nb_blocks,
                bounds: [f32::NEG_INFINITY, f32::INFINITY],
            },
            dst_pixels: &[0],
        });
        assert!(dst[..8 * nb_blocks].iter().all(|v| *v == dst[0]));
        dst[1..].fill(0.0);
    }
    dst[0]
}

#[test]
fn sums_at_the_edge_of_i16_are_exact() {
    for kernel in available() {
        // 2 * 255 * 64 = 32640 fits i16, 2 * 255 * 65 does not; -2 * 255 * 64 = -32640.
        for (src, w, groups) in [
            (255, 64, [0, 0, 0, 3]),
            (255, -64, [0, 0, 0, 3]),
            (127, 127, [0, 0, 0, 1]),
            (127, -127, [0, 0, 0, 2]),
            (128, -128, [0, 0, 0, 1]),
            (127, 64, [0, 0, 2, 0]),
            (127, -64, [0, 0, 2, 0]),
            (127, 43, [0, 1, 0, 0]),
            (127, -43, [0, 2, 0, 0]),
            (127, 32, [1, 0, 0, 0]),
            (127, -32, [2, 0, 0, 0]),
            (255, 16, [1, 0, 1, 1]),
        ]
        .into_iter()
        .filter(|(src, ..)| *src <= kernel.max)
        {
            let expected = QUAD as i32 * i32::from(src) * i32::from(w) * nb_quads(groups) as i32;
            assert_eq!(
                sum(kernel, src, groups, |_| w),
                expected as f32,
                "{} {src} {w}",
                kernel.name
            );
        }
    }
}

#[test]
fn what_is_no_number_becomes_the_lower_bound() {
    let before = BeforeAdd { bounds: [-9.0, 9.0], scale: 1.0 };
    for (kernel, before_add) in available().flat_map(|k| [(k, None), (k, Some(before))]) {
        let quads = [Quad([1; QUAD_LEN])];
        let strip = StripJob { weights: flat(&quads), taps: &[0], groups: [0, 0, 0, 1] };
        let (mut bytes, mut floats) = ([7u8; 16], [7f32; 16]);
        for to_bytes in [true, false] {
            kernel.run(PanelJob {
                src: &[1; QUAD],
                src_pixels: &[0],
                strips: [strip; 2],
                bias: &[0; 16],
                scale: &[f32::NAN; 16],
                before_add,
                residual: None,
                dst: match to_bytes {
                    true => JobDst::U8 { dst: &mut bytes, zero_point: 100, bounds: [95, 200] },
                    false => JobDst::F32 {
                        dst: &mut floats,
                        block_stride: 8,
                        nb_blocks: 2,
                        bounds: [-5.0, 5.0],
                    },
                },
                dst_pixels: &[0],
            });
        }
        assert_eq!((bytes, floats), ([95; 16], [-5.0; 16]), "{}", kernel.name);
    }
}

#[test]
fn the_certificate_knows_its_limits() {
    let group = |weights: &[i8]| weights.iter().map(|w| Quad([*w; QUAD_LEN])).collect::<Vec<_>>();
    for (max, weights, expected) in [
        (255, &[64][..], true),
        (255, &[65], false),
        (255, &[-64], true),
        (255, &[-65], false),
        (127, &[127], true),
        (127, &[64, 65], true),
        (127, &[65, 65], false),
        (127, &[127, -127], true),
        (127, &[43, 43, 43], true),
        (127, &[43, 43, 44], false),
        (127, &[32, 32, 32, 33], true),
        (127, &[33, 33, 33, 33], false),
        (128, &[-128], true),
        (128, &[127], true),
        (255, &[-128], false),
        (255, &[], true),
    ] {
        assert_eq!(fits(max, flat(&group(weights))), expected, "{max} {weights:?}");
    }
}

#[test]
fn a_group_without_certificate_is_refused_by_grouped_kernels() {
    for kernel in available().filter(|k| k.max == u8::MAX) {
        let run = || sum(kernel, 255, [0, 0, 0, 1], |_| 127);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        if kernel.grouped {
            assert!(outcome.is_err(), "{} took it", kernel.name);
        } else {
            assert_eq!(outcome.expect("needs no certificate"), 4.0 * 255.0 * 127.0);
        }
    }
}

#[test]
fn an_activation_beyond_a_kernels_limit_is_refused() {
    for kernel in available().filter(|k| k.max < u8::MAX) {
        let run = || sum(kernel, kernel.max + 1, [0, 0, 0, 1], |_| 1);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        assert!(outcome.is_err(), "{} took it", kernel.name);
    }
}

#[test]
fn tiles_cover_every_pixel_and_are_of_nearly_equal_height() {
    for tallest in [4, MR] {
        for n in 0..1000 {
            let (rows, tall, short) = row_tiles(n, tallest);
            assert_eq!(rows * tall + rows.saturating_sub(1) * short, n);
            assert!(rows <= tallest && (short == 0 || rows > 1));
        }
    }
}

/// A tap's weights, aligned as kernels ask.
#[repr(C, align(32))]
#[derive(Clone, Copy)]
struct Tap([i16; TAP_LEN]);

/// Runs one panel of widened operands, and compares every byte. `weight` gives those of channel o, tap t, input i.
fn check_16(
    kernel: &qconv16::Kernel,
    place: Placement,
    (nb_pixels, nb_taps): (usize, usize),
    (pixel, weight): (impl Fn(usize) -> u8, impl Fn([usize; 3]) -> i8),
    residual: bool,
) {
    let src_pixels: Vec<u32> =
        (0..nb_pixels).map(|m| ((m * 37) % (nb_pixels * 3)) as u32).collect();
    let taps: Vec<u32> = (0..nb_taps).map(|t| (t * 41 % (2 * nb_taps)) as u32 * 16).collect();
    let largest = |offsets: &[u32]| offsets.iter().copied().max().unwrap_or(0) as usize;
    let pixels: Vec<u8> = (0..largest(&src_pixels) + largest(&taps) + 16).map(pixel).collect();
    let mut src = place.filled(pixels.len(), 0i16);
    kernel.widen_pixels(&place.copy(&pixels), &mut src);
    assert!(src.iter().zip(&pixels).all(|(wide, byte)| *wide == i16::from(*byte)));
    let of = |t: usize, at: usize| weight([at / 2 % 16, t, at / 32 * 2 + at % 2]);
    let packed: Vec<i8> = (0..nb_taps * TAP_LEN).map(|at| of(at / TAP_LEN, at % TAP_LEN)).collect();
    let mut weights = place.filled(nb_taps, Tap([0; TAP_LEN]));
    // SAFETY: `Tap` is its elements without padding.
    let flat = unsafe {
        std::slice::from_raw_parts_mut(weights.as_mut_ptr().cast::<i16>(), nb_taps * TAP_LEN)
    };
    kernel.widen_weights(&place.copy(&packed), flat);
    assert!(flat.iter().zip(&packed).all(|(wide, byte)| *wide == i16::from(*byte)));

    let bias = place.copy(&[7i32, -100_000, 1 << 20, 0].repeat(4));
    let scale = place.copy(&[1e-3f32, 3e-4, 1e-5, 0.5].repeat(4));
    let dst_pixels: Vec<u32> = (0..nb_pixels).map(|m| 16 * (nb_pixels - 1 - m) as u32).collect();
    let dst_pixels = place.copy(&dst_pixels);
    let res: Vec<u8> = (0..16 * nb_pixels).map(|i| (i * 29) as u8).collect();
    let res = place.copy(&res);
    let (res_zero, res_scale) = (100, 0.7);
    let (zero_point, bounds) = (77, [3, 250]);
    let mut dst = place.filled(16 * nb_pixels, 0u8);
    kernel.run(qconv16::PanelJob {
        src: &src,
        src_pixels: &place.copy(&src_pixels),
        taps: &place.copy(&taps),
        weights: flat,
        bias: bias[..].try_into().unwrap(),
        scale: scale[..].try_into().unwrap(),
        before_add: None,
        residual: residual.then_some((&res[..], &dst_pixels[..], res_zero, res_scale)),
        dst: JobDst::U8 { dst: &mut dst, zero_point, bounds },
        dst_pixels: &dst_pixels,
    });
    for (m, c) in (0..nb_pixels).flat_map(|m| (0..16).map(move |c| (m, c))) {
        let mut acc = bias[c];
        for (t, i) in (0..nb_taps).flat_map(|t| (0..16).map(move |i| (t, i))) {
            let x = i32::from(pixels[(src_pixels[m] + taps[t]) as usize + i]);
            acc = acc.wrapping_add(x * i32::from(weight([c, t, i])));
        }
        let at = dst_pixels[m] as usize + c;
        let t = requantized(acc, scale[c], None, residual.then(|| (res[at], res_zero, res_scale)));
        let z = f32::from(zero_point);
        let [lo, hi] = bounds.map(f32::from);
        let expected = (t.clamp(lo - z, hi - z).round_ties_even() + z) as u8;
        let name = kernel.name;
        assert_eq!(dst[at], expected, "{name}: pixel {m} of {nb_pixels}, channel {c}, {acc}");
    }
}

#[test]
fn widened_operands_give_plain_sums_up_to_the_heaviest() {
    let hash = |x: usize| (x as u32).wrapping_mul(2_654_435_761) >> 13;
    for kernel in registry::QCONV16.iter().filter(|k| k.isa.is_available()) {
        for place in Placement::ALL {
            for nb_pixels in (0..=2 * qconv16::MR + 1).chain([49, 100]) {
                for (nb_taps, residual) in [(1, false), (9, true), (36, false)] {
                    let pixel = |i: usize| [0, 255, hash(i) as u8][i % 3];
                    let weight = |[o, t, i]: [usize; 3]| {
                        let at = (o * 64 + t) * 16 + i;
                        [-128, 127, hash(at) as i8, hash(at) as i8][hash(at) as usize / 7 % 4]
                    };
                    let sizes = (nb_pixels, nb_taps);
                    check_16(kernel, place, sizes, (pixel, weight), residual);
                }
            }
            for w in [-128i8, 127] {
                // 2 * 255 * 128 in each lane of a product, and 40 times that in a sum.
                check_16(kernel, place, (7, 40), (|_| 255, |_| w), true);
            }
        }
    }
}
