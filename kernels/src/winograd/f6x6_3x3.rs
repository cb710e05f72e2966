//! F(6x6, 3x3) at the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity (those of Lavin's F(4x4) and the
//! reciprocals of 2): all constants but those of `G` are exact.
//!
//! One algorithm over `Vector`; each ISA instantiates it. A tile's 64 vectors do not fit
//! registers: each transform goes over the columns, then over the rows, and keeps the half-transformed
//! tile on the stack.

use super::Variant;
use super::tiles::{Grid, Sink, Transform};
use super::vector::{Source, Vector};
use crate::arrays::{from_fn, map};

/// Rows of an output and of an input tile.
const M: usize = Variant::F6.m();
const T: usize = Variant::F6.t();

/// 1 / N_p at +-1, +-2 and +-1/2, N_p = 2 p^2 (p^2 - q^2) (p^2 - r^2); at 0 it is -1.
const K1: f32 = -2.0 / 9.0;
const K2: f32 = 1.0 / 90.0;
const KH: f32 = 32.0 / 45.0;

/// Rows p and -p of `G`: k (g[0] + p^2 g[2]) +- k p g[1].
#[inline(always)]
unsafe fn filter_pair<V: Vector>(g: [V; 3], k: f32, p: f32) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let even = g[2].mul_add(V::splat(k * p * p), g[0].mul(V::splat(k)));
        let odd = g[1].mul(V::splat(k * p));
        [even.add(odd), even.sub(odd)]
    }
}

/// `G g`.
#[inline(always)]
unsafe fn filter_1d<V: Vector>(g: [V; 3]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe {
        let [a, minus_a] = filter_pair(g, K1, 1.0);
        let [b, minus_b] = filter_pair(g, K2, 2.0);
        let [c, minus_c] = filter_pair(g, KH, 0.5);
        [g[0].mul(V::splat(-1.0)), a, minus_a, b, minus_b, c, minus_c, g[2]]
    }
}

/// Row 0 of `B^T`: (d[6] - d[0]) + 21/4 (d[2] - d[4]); of d[1..] it is row 7.
#[inline(always)]
unsafe fn input_end<V: Vector>(d0: V, d2: V, d4: V, d6: V) -> V {
    // SAFETY: the caller's.
    unsafe { d2.sub(d4).mul_add(V::splat(5.25), d6.sub(d0)) }
}

/// Rows p and -p of `B^T`: (d[6] - s d[4] + t d[2]) +- p (d[5] - s d[3] + t d[1]), where s and t are the
/// sum and the product of the other pairs' squares.
#[inline(always)]
unsafe fn input_pair<V: Vector>(d: [V; T], p: f32, s: f32, t: f32) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let (s, t) = (V::splat(s), V::splat(t));
        let even = d[4].neg_mul_add(s, d[2].mul_add(t, d[6]));
        let odd = d[3].neg_mul_add(s, d[1].mul_add(t, d[5])).mul(V::splat(p));
        [even.add(odd), even.sub(odd)]
    }
}

/// `B^T d`.
#[inline(always)]
unsafe fn input_1d<V: Vector>(d: [V; T]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe {
        let [a, minus_a] = input_pair(d, 1.0, 4.25, 1.0);
        let [b, minus_b] = input_pair(d, 2.0, 1.25, 0.25);
        let [c, minus_c] = input_pair(d, 0.5, 5.0, 4.0);
        let (zero, infinity) =
            (input_end(d[0], d[2], d[4], d[6]), input_end(d[1], d[3], d[5], d[7]));
        [zero, a, minus_a, b, minus_b, c, minus_c, infinity]
    }
}

/// `A^T m`: powers of p, even ones of sums of a pair, odd ones of differences.
#[inline(always)]
unsafe fn output_1d<V: Vector>(m: [V; T]) -> [V; M] {
    // SAFETY: the caller's.
    unsafe {
        let (s1, s2, sh) = (m[1].add(m[2]), m[3].add(m[4]), m[5].add(m[6]));
        let (d1, d2, dh) = (m[1].sub(m[2]), m[3].sub(m[4]), m[5].sub(m[6]));
        let power = |one: V, two: V, half: V, i: i32| {
            let p = 2f32.powi(i);
            half.mul_add(V::splat(1.0 / p), two.mul_add(V::splat(p), one))
        };
        [
            m[0].add(s1).add(s2.add(sh)),
            power(d1, d2, dh, 1),
            power(s1, s2, sh, 2),
            power(d1, d2, dh, 3),
            power(s1, s2, sh, 4),
            power(d1.add(m[7]), d2, dh, 5),
        ]
    }
}

/// F(6x6, 3x3) of one tile.
pub(super) struct F6x6;

impl Transform for F6x6 {
    const VARIANT: Variant = Variant::F6;

    #[inline(always)]
    unsafe fn filter<V: Vector, S: Source>(g: Grid<*const S>, u: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let columns: [[V; T]; 3] = from_fn(|j| filter_1d(from_fn(|i| g.load(i, j))));
            for i in 0..T {
                u.put(i, filter_1d(map(columns, |c| c[i])));
            }
        }
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: Grid<*const f32>, v: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let columns: [[V; T]; T] = from_fn(|j| input_1d(from_fn(|i| d.load(i, j))));
            for i in 0..T {
                v.put(i, input_1d(map(columns, |c| c[i])));
            }
        }
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: Grid<*const f32>, y: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let columns: [[V; M]; T] = from_fn(|j| output_1d(from_fn(|i| m.load(i, j))));
            for i in 0..M {
                y.put(i, output_1d(map(columns, |c| c[i])));
            }
        }
    }
}
