//! F(4x4, 3x3) at the points 0, infinity, a, -a, b and -b, with a = 1/sqrt(2) and b = sqrt(2), of which partial tiles
//! take the first ones.
//!
//! One algorithm over `Vector`; each ISA instantiates it. All three transforms take
//! the points of a +- pair together, since their polynomials share even and odd parts, and never
//! hold more than two rows of the half-transformed tile (12 vectors), so that a tile goes from
//! loads to stores in 16 registers.

use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};

use super::Variant;
use super::tiles::{Grid, Sink, Transform};
use super::vector::{Source, Vector};
use crate::arrays::{each, from_fn, map};

/// Rows of an output and of an input tile.
const M: usize = Variant::F4.m();
const T: usize = Variant::F4.t();

/// a^2, b^2 and a^2 + b^2; a^2 b^2 = 1.
const A2: f32 = 0.5;
const B2: f32 = 2.0;
const A2_B2: f32 = 2.5;

/// 1 / N_p at +-a and +-b: N_a = 2 a^2 (a^2 - b^2) and N_b = 2 b^2 (b^2 - a^2).
const KA: f32 = -2.0 / 3.0;
const KB: f32 = 1.0 / 6.0;

/// Rows +-a and +-b of `G`: k (g[0] + p^2 g[2]) +- k p g[1]. Both even parts have 1/3 of g[2].
#[inline(always)]
unsafe fn filter_pairs<V: Vector>(g: [V; 3]) -> [V; 4] {
    // SAFETY: the caller's.
    unsafe {
        let third = g[2].mul(V::splat(KB * B2));
        let even_a = g[0].mul_sub(V::splat(KA), third);
        let even_b = g[0].mul_add(V::splat(KB), third);
        let (odd_a, odd_b) = (g[1].mul(V::splat(KA * A)), g[1].mul(V::splat(KB * B)));
        [even_a.add(odd_a), even_a.sub(odd_a), even_b.add(odd_b), even_b.sub(odd_b)]
    }
}

/// `G g`.
#[inline(always)]
unsafe fn filter_1d<V: Vector>(g: [V; 3]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe {
        let [a, minus_a, b, minus_b] = filter_pairs(g);
        [g[0], g[2], a, minus_a, b, minus_b]
    }
}

/// Row 0 of `B^T`: d[0] - 2.5 d[2] + d[4]; of d[1..] it is that of infinity.
#[inline(always)]
unsafe fn input_end<V: Vector>(d0: V, d2: V, d4: V) -> V {
    // SAFETY: the caller's.
    unsafe { d2.neg_mul_add(V::splat(A2_B2), d0.add(d4)) }
}

/// Rows p and -p of `B^T`, q^2 the square of the other pair: (d[4] - q^2 d[2]) +- p (d[3] - q^2 d[1]).
#[inline(always)]
unsafe fn input_pair<V: Vector>([d1, d2, d3, d4]: [V; 4], p: f32, q2: f32) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let (p, q2) = (V::splat(p), V::splat(q2));
        let even = d2.neg_mul_add(q2, d4);
        let odd = d1.neg_mul_add(q2, d3).mul(p);
        [even.add(odd), even.sub(odd)]
    }
}

/// `B^T d`.
#[inline(always)]
unsafe fn input_1d<V: Vector>(d: [V; T]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe {
        let [a, minus_a] = input_pair([d[1], d[2], d[3], d[4]], A, B2);
        let [b, minus_b] = input_pair([d[1], d[2], d[3], d[4]], B, A2);
        [input_end(d[0], d[2], d[4]), input_end(d[1], d[3], d[5]), a, minus_a, b, minus_b]
    }
}

/// Points of even powers of p, and of odd ones.
const EVEN: [usize; 5] = [0, 2, 3, 4, 5];
const ODD: [usize; 5] = [2, 3, 4, 5, 1];

/// Rows 0 and 2 of `A^T`: even powers of p.
#[inline(always)]
unsafe fn output_even<V: Vector>(m: [V; 5]) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let (sum_a, sum_b) = (m[1].add(m[2]), m[3].add(m[4]));
        let y2 = sum_b.mul_add(V::splat(B2), sum_a.mul(V::splat(A2)));
        [m[0].add(sum_a).add(sum_b), y2]
    }
}

/// Rows 1 and 3 of `A^T`: odd powers of p.
#[inline(always)]
unsafe fn output_odd<V: Vector>(m: [V; 5]) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let (diff_a, diff_b) = (m[0].sub(m[1]), m[2].sub(m[3]));
        [
            diff_b.mul_add(V::splat(B), diff_a.mul(V::splat(A))),
            diff_b.mul_add(V::splat(B2 * B), diff_a.mul_add(V::splat(A2 * A), m[4])),
        ]
    }
}

/// `A^T m`.
#[inline(always)]
unsafe fn output_1d<V: Vector>(m: [V; T]) -> [V; M] {
    // SAFETY: the caller's.
    unsafe {
        let [y0, y2] = output_even(map(EVEN, |p| m[p]));
        let [y1, y3] = output_odd(map(ODD, |p| m[p]));
        [y0, y1, y2, y3]
    }
}

/// F(4x4, 3x3) of one tile.
pub(super) struct F4x4;

impl Transform for F4x4 {
    const VARIANT: Variant = Variant::F4;

    #[inline(always)]
    unsafe fn filter<V: Vector, S: Source>(g: Grid<*const S>, u: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            // Filters are read again for each use: a spilled vector would cost a store more, and stores
            // are what limits this transform.
            u.put(0, filter_1d(from_fn(|j| g.load(0, j))));
            let mut rows = [[V::splat(0.0); 4]; 3];
            for j in 0..3 {
                rows[j] = filter_pairs(from_fn(|i| g.load(i, j)));
            }
            for p in 0..4 {
                u.put(2 + p, filter_1d(map(rows, |r| r[p])));
            }
            u.put(1, filter_1d(from_fn(|j| g.load(2, j))));
        }
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: Grid<*const f32>, v: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let d = |i: usize, j: usize| d.load::<V>(i, j);
            v.put(0, input_1d(from_fn(|j| input_end(d(0, j), d(2, j), d(4, j)))));
            let inner = |j: usize| [d(1, j), d(2, j), d(3, j), d(4, j)];
            let pairs: [[V; 2]; T] = from_fn(|j| input_pair(inner(j), A, B2));
            v.put(2, input_1d(map(pairs, |p| p[0])));
            v.put(3, input_1d(map(pairs, |p| p[1])));
            let pairs: [[V; 2]; T] = from_fn(|j| input_pair(inner(j), B, A2));
            v.put(4, input_1d(map(pairs, |p| p[0])));
            v.put(5, input_1d(map(pairs, |p| p[1])));
            v.put(1, input_1d(from_fn(|j| input_end(d(1, j), d(3, j), d(5, j)))));
        }
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: Grid<*const f32>, y: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let mut rows = [[V::splat(0.0); 2]; T];
            for j in 0..T {
                rows[j] = output_even(map(EVEN, |p| m.load(p, j)));
            }
            y.put(0, output_1d(map(rows, |r| r[0])));
            y.put(2, output_1d(map(rows, |r| r[1])));
            for j in 0..T {
                rows[j] = output_odd(map(ODD, |p| m.load(p, j)));
            }
            y.put(1, output_1d(map(rows, |r| r[0])));
            y.put(3, output_1d(map(rows, |r| r[1])));
        }
    }

    #[inline(always)]
    unsafe fn input_side<V: Vector>(n: usize, d: impl Fn(usize) -> V, v: impl Fn(usize, V)) {
        // SAFETY: the caller's.
        unsafe {
            let (a, b, a2) = (V::splat(A), V::splat(B), V::splat(A2));
            match n {
                // x - a and x; x (x - a).
                3 => {
                    let [d0, d1, d2] = from_fn(d);
                    each([d0.neg_mul_add(a, d1), d1.neg_mul_add(a, d2), d1], v);
                }
                // x^2 - a^2 and x (x +- a); x (x^2 - a^2).
                4 => {
                    let [d0, d1, d2, d3] = from_fn(d);
                    let ends = [d0.neg_mul_add(a2, d2), d1.neg_mul_add(a2, d3)];
                    each([ends[0], ends[1], d1.mul_add(a, d2), d1.neg_mul_add(a, d2)], v);
                }
                // (x^2 - a^2) (x - b), x (x +- a) (x - b) and x (x^2 - a^2); x (x^2 - a^2) (x - b). a b = 1.
                5 => {
                    let [d0, d1, d2, d3, d4] = from_fn(d);
                    let end = |d0: V, d1: V, d2: V, d3: V| {
                        d1.neg_mul_add(a2, d2.neg_mul_add(b, d0.mul(a)).add(d3))
                    };
                    let (even, odd) = (d2.neg_mul_add(b, d3), d2.mul_sub(a, d1));
                    let pair = [even.add(odd), even.sub(odd)];
                    let ends = [end(d0, d1, d2, d3), end(d1, d2, d3, d4)];
                    each([ends[0], ends[1], pair[0], pair[1], d1.neg_mul_add(a2, d3)], v);
                }
                _ => each(input_1d(from_fn(d)), v),
            }
        }
    }

    /// Rows of `A^T` are p^i times the product of p - q over the points q that the tile does not take: what `G` divides
    /// by too much.
    #[inline(always)]
    unsafe fn output_side<V: Vector>(n: usize, m: impl Fn(usize) -> V, y: impl Fn(usize, V)) {
        // SAFETY: the caller's.
        unsafe {
            // b = 2a.
            let (a, half, two) = (V::splat(A), V::splat(0.5), V::splat(2.0));
            let (three, four) = (V::splat(3.0), V::splat(4.0));
            match n {
                // -2a and -3a.
                3 => {
                    let [m0, inf, m1] = from_fn(m);
                    each([m0.mul_add(two, m1.mul(three)).neg_mul_add(a, inf)], y);
                }
                // -2 and -3/2.
                4 => {
                    let [m0, inf, m1, m2] = from_fn(m);
                    let (sum, diff) = (m1.add(m2), m1.sub(m2));
                    let y0 = sum.neg_mul_add(V::splat(1.5), m0.mul(V::splat(-2.0)));
                    each([y0, diff.neg_mul_add(V::splat(1.5 * A), inf)], y);
                }
                // b, 3a, a and 2b.
                5 => {
                    let [m0, inf, m1, m2, m3] = from_fn(m);
                    let (sum, diff) = (m1.mul_add(three, m2), m1.mul_sub(three, m2));
                    let y0 = m3.mul_add(four, m0.mul_add(two, sum)).mul(a);
                    let y1 = m3.mul_add(four, diff.mul(half));
                    let y2 = m3.mul_add(V::splat(8.0), sum.mul(half)).mul_add(a, inf);
                    each([y0, y1, y2], y);
                }
                _ => each(output_1d(from_fn(m)), y),
            }
        }
    }
}
