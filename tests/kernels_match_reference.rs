//! Every kernel of the registry against an obvious f64 loop, over sizes around the tile, with every
//! buffer ending, then starting, at a page that cannot be accessed.
#![cfg(unix)]

mod common;

use common::guarded::Placement;
use common::{Line, Rng, direct_tolerance, flat};
use skipstone_kernels::registry;
use skipstone_kernels::sconv::{Kernel, MR, PanelArgs, PanelJob, row_tiles};

struct Case {
    nb_pixels: usize,
    nb_taps: usize,
    tap_len: usize,
    nb_blocks: usize,
    residual: bool,
    clamp: [f32; 2],
}

/// Runs one panel and compares every element, and that nothing else was written.
fn check(kernel: &Kernel, case: &Case, place: Placement, rng: &mut Rng) {
    let Case { nb_pixels, nb_taps, tap_len, nb_blocks, residual, clamp } = *case;
    // Pixels and taps in scrambled places, as strides and frames make them.
    let src_pixels: Vec<u32> =
        (0..nb_pixels).map(|m| ((m * 37) % (nb_pixels * 3)) as u32).collect();
    let taps: Vec<u32> = (0..nb_taps).map(|t| (t * 41 % (nb_taps * 2)) as u32 * 8).collect();
    let max = |offsets: &[u32]| offsets.iter().copied().max().unwrap_or(0) as usize;
    // The last window ends with the buffer.
    let src = place.copy(&rng.vec(max(&src_pixels) + max(&taps) + tap_len));
    let k = nb_taps * tap_len;
    let weights: Vec<Line> = (0..k).map(|_| Line(std::array::from_fn(|_| rng.f32()))).collect();
    let weights = place.copy(&weights);
    let (src_pixels, taps) = (place.copy(&src_pixels), place.copy(&taps));
    let bias = place.copy(&[Line(std::array::from_fn(|_| rng.f32()))]);
    let bias = &bias[0].0;
    // A pixel of slack in front, so that writes between pixels are seen; none behind.
    let block_stride = nb_pixels * 8 + 16;
    let pixels: Vec<u32> = (0..nb_pixels).map(|m| 8 + 8 * (nb_pixels - 1 - m) as u32).collect();
    let pixels = place.copy(&pixels);
    let act_len = (nb_blocks - 1) * block_stride + 8 + 8 * nb_pixels;
    let res = place.copy(&rng.vec(act_len));
    const GUARD: f32 = 12345.0;
    let mut dst = place.filled(act_len, GUARD);
    kernel.run(PanelJob {
        src: &src,
        src_pixels: &src_pixels,
        taps: &taps,
        tap_len,
        weights: flat(&weights),
        bias,
        dst: &mut dst,
        dst_pixels: &pixels,
        dst_block_stride: block_stride,
        nb_blocks,
        residual: residual.then_some((&res[..], &pixels[..], block_stride)),
        clamp,
    });
    for m in 0..nb_pixels {
        for j in 0..8 * nb_blocks {
            let (mut sum, mut magnitude) = (f64::from(bias[j]), f64::from(bias[j].abs()));
            for t in 0..nb_taps {
                for i in 0..tap_len {
                    let x = f64::from(src[(src_pixels[m] + taps[t]) as usize + i]);
                    let term = x * f64::from(weights[t * tap_len + i].0[j]);
                    sum += term;
                    magnitude += term.abs();
                }
            }
            let at = pixels[m] as usize + j / 8 * block_stride + j % 8;
            if residual {
                sum += f64::from(res[at]);
                magnitude += f64::from(res[at].abs());
            }
            let expected = sum.max(f64::from(clamp[0])).min(f64::from(clamp[1]));
            let found = f64::from(std::mem::replace(&mut dst[at], GUARD));
            assert!(
                (found - expected).abs() <= direct_tolerance(magnitude),
                "{}: pixel {m} of {nb_pixels}, channel {j}, k {k}: {found}, expected {expected}",
                kernel.name
            );
        }
    }
    assert!(dst.iter().all(|v| *v == GUARD), "{} wrote outside its pixels", kernel.name);
}

#[test]
fn sconv_around_the_tile() {
    let mut rng = Rng(1);
    for kernel in registry::SCONV.iter().filter(|k| k.isa.is_available()) {
        for nb_pixels in (0..=4 * MR + 1).chain([49, 100]) {
            for (nb_taps, tap_len) in [(1, 8), (9, 8), (7, 21), (3, 1), (2, 5)] {
                for (nb_blocks, residual) in [(1, false), (2, true), (1, true), (2, false)] {
                    let clamp = [[0.0, f32::INFINITY], [-0.5, 0.5]][rng.below(2)];
                    let case = Case { nb_pixels, nb_taps, tap_len, nb_blocks, residual, clamp };
                    for place in Placement::ALL {
                        check(kernel, &case, place, &mut rng);
                    }
                }
            }
        }
    }
}

/// A sum in two runs, the first one's carried by the second and kept by it, is that of one run to the bit; and
/// what is added in the end counts.
#[test]
fn sconv_carries_keeps_and_adds_sums() {
    let mut rng = Rng(2);
    let kernels = registry::SCONV.iter().filter(|k| k.isa.is_available());
    for (kernel, place) in kernels.flat_map(|k| Placement::ALL.map(|place| (k, place))) {
        for (nb_pixels, nb_blocks) in (1..=4 * MR + 1).chain([49]).flat_map(|n| [(n, 1), (n, 2)]) {
            let (nb_taps, half) = (6, 3);
            let lines = |rng: &mut Rng, n: usize| -> Vec<Line> {
                (0..n).map(|_| Line(std::array::from_fn(|_| rng.f32()))).collect()
            };
            let weights = place.copy(&lines(&mut rng, nb_taps * 8));
            let bias = place.copy(&lines(&mut rng, 1));
            let addend = place.copy(&lines(&mut rng, nb_pixels));
            let src = place.copy(&rng.vec(nb_taps * nb_pixels * 8));
            let pixels: Vec<u32> = (0..nb_pixels as u32).map(|m| 8 * m).collect();
            let taps: Vec<u32> = (0..nb_taps).map(|t| (t * nb_pixels * 8) as u32).collect();
            let mut sums = place.filled(nb_pixels, Line([f32::NAN; 16]));
            let mut dst = place.filled(nb_blocks * nb_pixels * 8, f32::NAN);
            let mut single = dst.to_vec();
            kernel.run(PanelJob {
                src: &src,
                src_pixels: &pixels,
                taps: &taps,
                tap_len: 8,
                weights: flat(&weights),
                bias: &bias[0].0,
                dst: &mut single,
                dst_pixels: &pixels,
                dst_block_stride: nb_pixels * 8,
                nb_blocks,
                residual: None,
                clamp: [f32::NEG_INFINITY, f32::INFINITY],
            });
            let args = PanelArgs {
                src: src.as_ptr(),
                src_pixels: pixels.as_ptr(),
                nb_pixels,
                taps: taps.as_ptr(),
                nb_taps: half,
                tap_len: 8,
                weights: weights.as_ptr().cast(),
                next_weights: weights.as_ptr().cast(),
                bias: bias.as_ptr().cast(),
                dst: std::ptr::null_mut(),
                dst_pixels: pixels.as_ptr(),
                dst_block_stride: nb_pixels * 8,
                nb_blocks,
                residual: std::ptr::null(),
                res_pixels: std::ptr::null(),
                res_block_stride: 0,
                clamp: [-0.5, 0.75],
                start: std::ptr::null(),
                sums: sums.as_mut_ptr().cast(),
                addend: std::ptr::null(),
            };
            let rest = PanelArgs {
                taps: taps[half..].as_ptr(),
                nb_taps: nb_taps - half,
                weights: weights[half * 8..].as_ptr().cast(),
                dst: dst.as_mut_ptr(),
                start: args.sums,
                addend: addend.as_ptr().cast(),
                ..args
            };
            // SAFETY: the kernel is available, and the buffers have the lengths of the contract.
            unsafe {
                kernel.run_raw(&args);
                kernel.run_raw(&rest);
            }
            for (at, single) in single.iter().enumerate() {
                let (block, m, i) = (at / 8 / nb_pixels, at / 8 % nb_pixels, at % 8);
                let what = format!("{}: pixel {m} of {nb_pixels}", kernel.name);
                let kept = sums[m].0[block * 8 + i];
                assert_eq!(kept.to_bits(), single.to_bits(), "{what}");
                let expected = (single + addend[m].0[block * 8 + i]).clamp(-0.5, 0.75);
                assert_eq!(dst[at], expected, "{what}");
            }
        }
    }
}

/// Sums of quarters are single operations in f32, in the order that the algorithm defines.
#[test]
fn strassen_adds_quarters() {
    let mut rng = Rng(3);
    let kernels = registry::STRASSEN.iter().filter(|k| k.isa.is_available());
    for (kernel, place) in kernels.flat_map(|k| Placement::ALL.map(|place| (k, place))) {
        for nb_pairs in [0, 1, 2, 7, 24] {
            // Pixels in scrambled places.
            let len = 8 * (2 * nb_pairs).max(1);
            let planes = [(); 2].map(|()| place.copy(&rng.vec(len)));
            let at = |i: usize| 8 * (i * 5 % (2 * nb_pairs)) as u32;
            let first: Vec<u32> = (0..nb_pairs).map(at).collect();
            let second: Vec<u32> = (nb_pairs..2 * nb_pairs).map(at).collect();
            let [low, high] = &planes;
            for copied in [false, true] {
                let mut sums = place.filled(4 * nb_pairs * 8, f32::NAN);
                let mut copies = place.filled(3 * nb_pairs * 8, f32::NAN);
                let to = copied.then_some(&mut copies[..]);
                kernel.add_source([low, high], [&first, &second], &mut sums, to);
                for (pair, i) in (0..nb_pairs).flat_map(|p| (0..8).map(move |i| (p, i))) {
                    let of = |plane: &[f32], pixels: &[u32]| plane[pixels[pair] as usize + i];
                    let [a11, a12] = [of(low, &first), of(high, &first)];
                    let [a21, a22] = [of(low, &second), of(high, &second)];
                    let s1 = a21 + a22;
                    let s2 = s1 - a11;
                    let at = |n: usize| (n * nb_pairs + pair) * 8 + i;
                    for (n, s) in [s1, s2, a11 - a21, a12 - s2].into_iter().enumerate() {
                        let found = sums[at(n)].to_bits();
                        assert_eq!(found, s.to_bits(), "{} S{}", kernel.name, n + 1);
                    }
                    for (n, a) in [a11, a12, a22].into_iter().enumerate().filter(|_| copied) {
                        assert_eq!(copies[at(n)], a, "{}", kernel.name);
                    }
                }
            }
        }
        for len in [0, 8, 24, 128] {
            let quarters: [_; 4] = std::array::from_fn(|_| place.copy(&rng.vec(len)));
            let mut sums = place.filled(4 * len, f32::NAN);
            let [b11, b12, b21, b22] = quarters.each_ref().map(|q| &q[..]);
            kernel.add_weights([b11, b12, b21, b22], &mut sums);
            for at in 0..len {
                let t1 = b12[at] - b11[at];
                let t2 = b22[at] - t1;
                for (n, t) in [t1, t2, b22[at] - b12[at], b21[at] - t2].into_iter().enumerate() {
                    let found = sums[n * len + at].to_bits();
                    assert_eq!(found, t.to_bits(), "{} T{}", kernel.name, n + 1);
                }
            }
        }
    }
}

#[test]
fn nan_reaches_the_output_through_the_clamp() {
    for kernel in registry::SCONV.iter().filter(|k| k.isa.is_available()) {
        let weights = [Line([1.0; 16]); 8];
        let mut dst = [0.0; 16];
        kernel.run(PanelJob {
            src: &[f32::NAN; 8],
            src_pixels: &[0],
            taps: &[0],
            tap_len: 8,
            weights: flat(&weights),
            bias: &[0.0; 16],
            dst: &mut dst,
            dst_pixels: &[0],
            dst_block_stride: 8,
            nb_blocks: 2,
            residual: None,
            clamp: [0.0, 6.0],
        });
        assert!(dst.iter().all(|v| v.is_nan()), "{}: {dst:?}", kernel.name);
    }
}

#[test]
fn tiles_cover_every_pixel_and_are_rarely_thin() {
    for n in 0..1000 {
        let [sixes, fives, fours, rest] = row_tiles(n);
        assert_eq!(6 * sixes + 5 * fives + 4 * fours + rest, n);
        assert!(rest == 0 || [1, 2, 3, 7].contains(&n), "{n} ends in a tile of {rest}");
    }
}
