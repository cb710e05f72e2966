//! F(2x2, 3x3) at the points 0, 1, -1 and infinity, s = 2.
//!
//! One algorithm over `Words` and `Longs`; each ISA instantiates it.

use super::Variant;
use super::tiles::{Sink, Source, Transform};
use super::vector::{Longs, Words};
use crate::arrays::{from_fn, map};

/// Rows of an output and of an input tile.
const M: usize = Variant::F2.m();
const T: usize = Variant::F2.t();

/// `G g`.
#[inline(always)]
unsafe fn filter_1d<V: Words>(g: [V; 3]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe {
        let even = g[0].add(g[2]);
        [g[0].shl::<1>(), even.add(g[1]), even.sub(g[1]), g[2].shl::<1>()]
    }
}

/// `B^T d`.
#[inline(always)]
unsafe fn input_1d<V: Words>(d: [V; T]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe { [d[2].sub(d[0]), d[2].add(d[1]), d[2].sub(d[1]), d[3].sub(d[1])] }
}

/// `A^T m`.
#[inline(always)]
unsafe fn output_1d<V: Longs>(m: [V; T]) -> [V; M] {
    // SAFETY: the caller's.
    unsafe { [m[1].add(m[2]).sub(m[0]), m[1].sub(m[2]).add(m[3])] }
}

/// F(2x2, 3x3) of one tile.
pub(super) struct F2x2;

impl Transform for F2x2 {
    const VARIANT: Variant = Variant::F2;

    #[inline(always)]
    unsafe fn filter<V: Words>(g: impl Source<V>, u: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let columns: [[V; T]; 3] = from_fn(|j| filter_1d(from_fn(|i| g.get(i, j))));
            for p in 0..T {
                u.put(p, filter_1d(map(columns, |c| c[p])));
            }
        }
    }

    #[inline(always)]
    unsafe fn input<V: Words>(d: impl Source<V>, v: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            v.put(0, input_1d(from_fn(|j| d.get(2, j).sub(d.get(0, j)))));
            v.put(1, input_1d(from_fn(|j| d.get(2, j).add(d.get(1, j)))));
            v.put(2, input_1d(from_fn(|j| d.get(2, j).sub(d.get(1, j)))));
            v.put(3, input_1d(from_fn(|j| d.get(3, j).sub(d.get(1, j)))));
        }
    }

    #[inline(always)]
    unsafe fn output<V: Longs>(m: impl Source<V>, y: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let rows: [[V; M]; T] = from_fn(|j| output_1d(from_fn(|i| m.get(i, j))));
            y.put(0, output_1d(map(rows, |r| r[0])));
            y.put(1, output_1d(map(rows, |r| r[1])));
        }
    }
}
