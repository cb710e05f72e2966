//! `strassen` for any CPU, on `wide`'s vectors.

use wide::f32x8;

use super::{Kernel, SourceArgs, WeightArgs, WeightSum};
use crate::arrays::map;
use crate::isa::Isa;
use crate::layout::C_BLOCK;

/// The registry entry.
pub const KERNEL: Kernel =
    Kernel { name: "portable-strassen", isa: Isa::Portable, split_source, add_weights };

/// # Safety
/// As [`Kernel::split_source_raw`].
unsafe fn split_source(args: &SourceArgs) {
    for pair in 0..args.nb_pairs {
        // SAFETY: every offset is one that the contract covers.
        unsafe {
            let at = map(args.pixels, |offsets| *offsets.add(pair) as usize);
            let load = |plane: usize, pixel: usize| load(args.planes[plane].add(at[pixel]));
            let [a11, a12, a21, a22] = [load(0, 0), load(1, 0), load(0, 1), load(1, 1)];
            let s1 = a21 + a22;
            let s2 = s1 - a11;
            let s3 = a11 - a21;
            let s4 = a12 - s2;
            for (product, operand) in [a11, a12, s4, a22, s1, s2, s3].into_iter().enumerate() {
                store(args.dst.add(product * args.dst_stride + pair * C_BLOCK), operand);
            }
        }
    }
}

/// # Safety
/// As [`Kernel::add_weights_raw`].
unsafe fn add_weights(args: &WeightArgs) {
    for i in (0..args.len).step_by(C_BLOCK) {
        // SAFETY: `i` is in each quarter.
        unsafe {
            let [b11, b12, b21, b22] = map(args.quarters, |quarter| load(quarter.add(i)));
            let sum = match args.sum {
                WeightSum::T1 => b12 - b11,
                WeightSum::T2 => b22 - (b12 - b11),
                WeightSum::T3 => b22 - b12,
                WeightSum::T4 => b21 - (b22 - (b12 - b11)),
            };
            store(args.dst.add(i), sum);
        }
    }
}

/// # Safety
/// 8 elements at `p` are readable.
#[inline(always)]
unsafe fn load(p: *const f32) -> f32x8 {
    // SAFETY: the caller's; an array of f32 has its alignment.
    f32x8::from(unsafe { p.cast::<[f32; 8]>().read() })
}

/// # Safety
/// 8 elements at `p` are writable.
#[inline(always)]
unsafe fn store(p: *mut f32, v: f32x8) {
    // SAFETY: the caller's; an array of f32 has its alignment.
    unsafe { p.cast::<[f32; 8]>().write(v.to_array()) }
}
