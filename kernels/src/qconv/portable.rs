//! `qconv` for any CPU, on `wide`'s vectors: 16-bit multiplications with 32-bit sums, exact without
//! certificates. A tile is 4 pixels by 8 channels.

use std::array::from_fn;

use wide::{i8x16, i16x16, i32x8};

use super::{Kernel, PanelArgs, QUAD, QUAD_LEN};
use crate::isa::Isa;
use crate::layout::OC_PANEL;
use crate::requant::HALF;
use crate::requant::portable::store;

/// The kernel's registry entry.
pub const KERNEL: Kernel = Kernel::new("portable-qconv-4x8", Isa::Portable, false, u8::MAX, panel);

/// # Safety
/// As [`Kernel::run_raw`].
unsafe fn panel(args: &PanelArgs) {
    // Both halves of a carried sum are needed; of a stored panel only what the tensor has.
    let nb_halves = if args.last { args.requant.dst.nb_halves() } else { 2 };
    for half in 0..nb_halves {
        let mut m = 0;
        // SAFETY: the tiles partition `0..nb_pixels`.
        unsafe {
            while m + 4 <= args.nb_pixels {
                tile::<4>(args, m, half);
                m += 4;
            }
            while m < args.nb_pixels {
                tile::<1>(args, m, half);
                m += 1;
            }
        }
    }
}

/// One register tile: pixels `m..m + ROWS`, channels `8*half..8*half + 8` of the panel.
///
/// # Safety
/// As [`Kernel::run_raw`], `m + ROWS <= nb_pixels` and `half < 2`.
#[inline(always)]
unsafe fn tile<const ROWS: usize>(args: &PanelArgs, m: usize, half: usize) {
    let strip = &args.strips[half];
    // SAFETY: every offset is one the contract of `Kernel::run_raw` covers; byte arrays have no
    // alignment, and the addresses of 8 biases and partial sums that of i32.
    unsafe {
        let rows: [*const u8; ROWS] =
            from_fn(|r| args.src.add(*args.src_pixels.add(m + r) as usize));
        // Of each output channel two sums, of the quads' halves: 4 channels a vector.
        let mut acc = [[i32x8::ZERO; 2]; ROWS];
        for q in 0..strip.nb_quads() {
            let tap = *strip.taps.add(q) as usize;
            let weights = strip.weights.add(q * QUAD_LEN).cast::<[[i8; QUAD_LEN / 2]; 2]>().read();
            let weights = weights.map(|w| i16x16::from_i8x16(i8x16::from(w)));
            for r in 0..ROWS {
                let x = rows[r].add(tap).cast::<[u8; QUAD]>().read();
                let x: [i16; 16] = from_fn(|i| i16::from(x[i % QUAD]));
                let x = i16x16::from(x);
                for i in 0..2 {
                    acc[r][i] += x.dot(weights[i]);
                }
            }
        }
        for r in 0..ROWS {
            let partial = args.partial.wrapping_add((m + r) * OC_PANEL + half * HALF);
            let start = if args.first { args.bias.add(half * HALF) } else { partial.cast_const() };
            let start = start.cast::<[i32; HALF]>().read();
            let halves: [[i32; 8]; 2] = acc[r].map(i32x8::to_array);
            let sums: [i32; HALF] = from_fn(|o| {
                let of = &halves[o / 4][o % 4 * 2..];
                start[o].wrapping_add(of[0]).wrapping_add(of[1])
            });
            if !args.last {
                partial.cast::<[i32; HALF]>().write(sums);
                continue;
            }
            let res_pixel = match args.requant.residual {
                Some(_) => *args.res_pixels.add(m + r) as usize,
                None => 0,
            };
            let dst_pixel = *args.dst_pixels.add(m + r) as usize;
            store(&args.requant, sums, half, dst_pixel, res_pixel);
        }
    }
}
