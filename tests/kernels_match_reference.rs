//! Every kernel of the registry against an obvious f64 loop, over sizes around the tile, with every
//! buffer ending, then starting, at a page that cannot be accessed.
#![cfg(unix)]

mod common;

use common::guarded::Placement;
use common::{Line, Rng, direct_tolerance, flat};
use skipstone_kernels::registry;
use skipstone_kernels::sconv::{Kernel, MR, PanelJob, row_tiles};

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
