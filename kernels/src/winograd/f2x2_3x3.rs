//! F(2x2, 3x3) at the points 0, 1, -1 and infinity.
//!
//! One algorithm over `Vector`; each ISA instantiates it. A tile's 16 values fill the
//! registers once: the transforms take the rows of a pair of points together, 8 vectors at a time.

use super::Variant;
use super::tiles::{Grid, Sink, Transform};
use super::vector::{Source, Vector};
use crate::arrays::{from_fn, map};

/// Rows of an output and of an input tile.
const M: usize = Variant::F2.m();
const T: usize = Variant::F2.t();

/// `G g`: values of g[0] + g[1] x + g[2] x^2.
#[inline(always)]
unsafe fn filter_1d<V: Vector>(g: [V; 3]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe {
        let even = g[0].add(g[2]);
        [g[0], even.add(g[1]), even.sub(g[1]), g[2]]
    }
}

/// `B^T d`.
#[inline(always)]
unsafe fn input_1d<V: Vector>(d: [V; T]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe { [d[2].sub(d[0]), d[2].add(d[1]), d[2].sub(d[1]), d[3].sub(d[1])] }
}

/// `A^T m`: 1 / N_p is -1 at 0, and 1/2 at 1 and -1.
#[inline(always)]
unsafe fn output_1d<V: Vector>(m: [V; T]) -> [V; M] {
    // SAFETY: the caller's.
    unsafe {
        let half = V::splat(0.5);
        let even = m[1].add(m[2]);
        let odd = m[1].sub(m[2]);
        [even.mul_sub(half, m[0]), odd.mul_add(half, m[3])]
    }
}

/// F(2x2, 3x3) of one tile.
pub(super) struct F2x2;

impl Transform for F2x2 {
    const VARIANT: Variant = Variant::F2;

    #[inline(always)]
    unsafe fn filter<V: Vector, S: Source>(g: Grid<*const S>, u: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let [g0, g1, g2]: [[V; 3]; 3] = map([0, 1, 2], |i| from_fn(|j| g.load(i, j)));
            u.put(0, filter_1d(g0));
            let even: [V; 3] = from_fn(|j| g0[j].add(g2[j]));
            u.put(1, filter_1d(from_fn(|j| even[j].add(g1[j]))));
            u.put(2, filter_1d(from_fn(|j| even[j].sub(g1[j]))));
            u.put(3, filter_1d(g2));
        }
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: Grid<*const f32>, v: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let d = |i: usize, j: usize| d.load::<V>(i, j);
            v.put(0, input_1d(from_fn(|j| d(2, j).sub(d(0, j)))));
            v.put(1, input_1d(from_fn(|j| d(2, j).add(d(1, j)))));
            v.put(2, input_1d(from_fn(|j| d(2, j).sub(d(1, j)))));
            v.put(3, input_1d(from_fn(|j| d(3, j).sub(d(1, j)))));
        }
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: Grid<*const f32>, y: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let rows: [[V; M]; T] = from_fn(|j| output_1d(from_fn(|i| m.load(i, j))));
            y.put(0, output_1d(map(rows, |r| r[0])));
            y.put(1, output_1d(map(rows, |r| r[1])));
        }
    }
}
