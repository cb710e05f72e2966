//! `qsplit` for any CPU.

use super::{AddArgs, Excess, Kernel, Windows, parts};
use crate::isa::Isa;
use crate::layout::{C_BLOCK_U8 as C_BLOCK, OC_PANEL};
use crate::qconv::{QUAD, QUAD_LEN, QUADS_PER_BLOCK};
use crate::requant::HALF;

/// The registry entry.
pub const KERNEL: Kernel = Kernel { name: "portable-qsplit", isa: Isa::Portable, split, find, add };

/// # Safety
/// None is needed; the signature is that of other tiers.
unsafe fn split(src: &[u8], low: &mut [u8], high: &mut [u8]) {
    for ((a, low), high) in src.iter().zip(low).zip(high) {
        [*low, *high] = parts(*a);
    }
}

/// # Safety
/// None is needed, as above.
unsafe fn find(windows: &Windows<'_>, found: &mut [Excess]) -> Option<usize> {
    let mut nb_found = 0;
    for (t, tap) in windows.taps.iter().enumerate() {
        for (m, pixel) in windows.pixels.iter().enumerate() {
            let quads = &windows.high[(pixel + tap) as usize..][..C_BLOCK];
            for (q, bytes) in quads.as_chunks::<QUAD>().0.iter().enumerate() {
                if *bytes != [0; QUAD] {
                    let quad = (t * QUADS_PER_BLOCK + q) as u32;
                    *found.get_mut(nb_found)? = Excess { bytes: *bytes, pixel: m as u32, quad };
                    nb_found += 1;
                }
            }
        }
    }
    Some(nb_found)
}

/// # Safety
/// As [`Kernel::add_raw`].
unsafe fn add(args: &AddArgs) {
    // SAFETY: every offset is one that the contract covers.
    unsafe {
        let bias = args.bias.cast::<[i32; OC_PANEL]>().read();
        let partial =
            std::slice::from_raw_parts_mut(args.partial.cast::<[i32; OC_PANEL]>(), args.nb_pixels);
        partial.fill(bias);
        for excess in std::slice::from_raw_parts(args.found, args.nb_found) {
            let sums = partial[excess.pixel as usize].as_chunks_mut::<HALF>().0;
            for (sums, places) in sums.iter_mut().zip(args.places) {
                let place = *places.add(excess.quad as usize) as usize;
                let weights = args.weights.add(place * QUAD_LEN).cast::<[[i8; QUAD]; HALF]>();
                for (sum, weights) in sums.iter_mut().zip(weights.read()) {
                    let products = weights.iter().zip(excess.bytes);
                    let products = products.map(|(w, x)| i32::from(*w) * i32::from(x));
                    *sum = sum.wrapping_add(products.sum());
                }
            }
        }
    }
}
