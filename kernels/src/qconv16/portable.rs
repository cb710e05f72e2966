//! `qconv16` for any CPU, on `wide`'s vectors. A tile is 4 pixels by 8 channels.

use std::array::from_fn;

use wide::{i16x8, i32x4};

use super::{Kernel, PanelArgs, TAP_LEN};
use crate::isa::Isa;
use crate::layout::{C_BLOCK_U8 as C_BLOCK, OC_PANEL};
use crate::requant::HALF;
use crate::requant::portable::store;

/// The kernel's registry entry.
pub const KERNEL: Kernel = Kernel {
    name: "portable-qconv16-4x8",
    isa: Isa::Portable,
    raw: panel,
    widen_pixels,
    widen_weights,
};

/// # Safety
/// None is needed; the signature is that of other tiers.
unsafe fn widen_pixels(src: &[u8], dst: &mut [i16]) {
    src.iter().zip(dst).for_each(|(from, to)| *to = i16::from(*from));
}

/// # Safety
/// As [`widen_pixels`].
unsafe fn widen_weights(src: &[i8], dst: &mut [i16]) {
    src.iter().zip(dst).for_each(|(from, to)| *to = i16::from(*from));
}

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
    // SAFETY: every offset is one that the contract of `Kernel::run_raw` covers.
    unsafe {
        let rows: [*const i16; ROWS] =
            from_fn(|r| args.src.add(*args.src_pixels.add(m + r) as usize));
        let mut acc = [[i32x4::ZERO; 2]; ROWS];
        for t in 0..args.nb_taps {
            let tap = *args.taps.add(t) as usize;
            for k in 0..C_BLOCK / 2 {
                let at = t * TAP_LEN + (k * OC_PANEL + half * HALF) * 2;
                let weights = args.weights.add(at).cast::<[[i16; 8]; 2]>().read();
                let weights = weights.map(i16x8::from);
                for (row, acc) in rows.iter().zip(&mut acc) {
                    let [a, b] = row.add(tap + 2 * k).cast::<[i16; 2]>().read();
                    let x = i16x8::from([a, b, a, b, a, b, a, b]);
                    acc[0] += x.dot(weights[0]);
                    acc[1] += x.dot(weights[1]);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            let partial = args.partial.wrapping_add((m + r) * OC_PANEL + half * HALF);
            let start = if args.first { args.bias.add(half * HALF) } else { partial.cast_const() };
            let start = start.cast::<[i32; HALF]>().read();
            let halves = acc.map(i32x4::to_array);
            let sums: [i32; HALF] = from_fn(|o| start[o].wrapping_add(halves[o / 4][o % 4]));
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
