//! `strassen` for any CPU, on `wide`'s vectors.

use super::{Kernel, SourceArgs, WeightArgs};
use crate::arrays::map;
use crate::isa::Isa;
use crate::layout::C_BLOCK;
use crate::sconv::portable::{load, store};

/// The registry entry.
pub const KERNEL: Kernel =
    Kernel { name: "portable-strassen", isa: Isa::Portable, add_source, add_weights };

/// # Safety
/// As [`Kernel::add_source_raw`].
unsafe fn add_source(args: &SourceArgs) {
    for pair in 0..args.nb_pairs {
        // SAFETY: every offset is one that the contract covers.
        unsafe {
            let [first, second] = map(args.pixels, |offsets| *offsets.add(pair) as usize);
            let [a11, a12] = map(args.planes, |plane| load(plane.add(first)));
            let [a21, a22] = map(args.planes, |plane| load(plane.add(second)));
            let s1 = a21 + a22;
            let s2 = s1 - a11;
            let s3 = a11 - a21;
            let s4 = a12 - s2;
            for (i, s) in [s1, s2, s3, s4].into_iter().enumerate() {
                store(args.sums.add(i * args.stride + pair * C_BLOCK), s);
            }
            if !args.copies.is_null() {
                for (i, a) in [a11, a12, a22].into_iter().enumerate() {
                    store(args.copies.add(i * args.stride + pair * C_BLOCK), a);
                }
            }
        }
    }
}

/// # Safety
/// As [`Kernel::add_weights_raw`].
unsafe fn add_weights(args: &WeightArgs) {
    for at in (0..args.len).step_by(C_BLOCK) {
        // SAFETY: `at` is in each quarter.
        unsafe {
            let [b11, b12, b21, b22] = map(args.quarters, |b| load(b.add(at)));
            let t1 = b12 - b11;
            let t2 = b22 - t1;
            let t3 = b22 - b12;
            let t4 = b21 - t2;
            for (i, t) in [t1, t2, t3, t4].into_iter().enumerate() {
                store(args.sums.add(i * args.stride + at), t);
            }
        }
    }
}
