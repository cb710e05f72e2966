//! F(4x4, 3x3) at the points 0, infinity, 1, -1, 2 and -2, of which partial tiles take the first ones; s = 24.
//!
//! One algorithm over `Words` and `Longs`; each ISA instantiates it. As in f32, all three
//! transforms take the points of a +- pair together and never hold more than two rows of the
//! half-transformed tile, so that a tile goes from loads to stores in 16 registers.

use super::Variant;
use super::tiles::{Sink, Source, Transform};
use super::vector::{Longs, Words};
use crate::arrays::{each, from_fn, map};

/// Rows of an output and of an input tile.
const M: usize = Variant::F4.m();
const T: usize = Variant::F4.t();

/// The rows of 1, -1, 2 and -2 of `G`.
#[inline(always)]
unsafe fn filter_pairs<V: Words>(g: [V; 3]) -> [V; 4] {
    // SAFETY: the caller's.
    unsafe {
        let even_1 = g[0].add(g[2]);
        let even_2 = g[0].add(g[2].shl::<2>());
        let odd_2 = g[1].shl::<1>();
        [
            even_1.add(g[1]).shl::<2>(),
            even_1.sub(g[1]).shl::<2>(),
            even_2.add(odd_2),
            even_2.sub(odd_2),
        ]
    }
}

/// `G g`.
#[inline(always)]
unsafe fn filter_1d<V: Words>(g: [V; 3]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe {
        let [a, minus_a, b, minus_b] = filter_pairs(g);
        [g[0].times(6), g[2].times(6), a, minus_a, b, minus_b]
    }
}

/// Row 0 of `B^T`: 4 d[0] - 5 d[2] + d[4]; of d[1..] it is that of infinity.
#[inline(always)]
unsafe fn input_end<V: Words>(d0: V, d2: V, d4: V) -> V {
    // SAFETY: the caller's.
    unsafe { d0.sub(d2).shl::<2>().add(d4.sub(d2)) }
}

/// The rows of 1 and -1 of `B^T`: (d[4] - 4 d[2]) +- (d[3] - 4 d[1]).
#[inline(always)]
unsafe fn input_pair_1<V: Words>([d1, d2, d3, d4]: [V; 4]) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let (even, odd) = (d4.sub(d2.shl::<2>()), d3.sub(d1.shl::<2>()));
        [even.add(odd), even.sub(odd)]
    }
}

/// The rows of 2 and -2 of `B^T`: (d[4] - d[2]) +- 2 (d[3] - d[1]).
#[inline(always)]
unsafe fn input_pair_2<V: Words>([d1, d2, d3, d4]: [V; 4]) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let (even, odd) = (d4.sub(d2), d3.sub(d1).shl::<1>());
        [even.add(odd), even.sub(odd)]
    }
}

/// `B^T d`.
#[inline(always)]
unsafe fn input_1d<V: Words>(d: [V; T]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe {
        let inner = [d[1], d[2], d[3], d[4]];
        let ([a, minus_a], [b, minus_b]) = (input_pair_1(inner), input_pair_2(inner));
        [input_end(d[0], d[2], d[4]), input_end(d[1], d[3], d[5]), a, minus_a, b, minus_b]
    }
}

/// Points of even powers of p, and of odd ones.
const EVEN: [usize; 5] = [0, 2, 3, 4, 5];
const ODD: [usize; 5] = [2, 3, 4, 5, 1];

/// Rows 0 and 2 of `A^T`.
#[inline(always)]
unsafe fn output_even<V: Longs>(m: [V; 5]) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let (sum_1, sum_2) = (m[1].add(m[2]), m[3].add(m[4]));
        [m[0].sub(sum_1).add(sum_2), sum_2.shl::<2>().sub(sum_1)]
    }
}

/// Rows 1 and 3 of `A^T`.
#[inline(always)]
unsafe fn output_odd<V: Longs>(m: [V; 5]) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let (diff_1, diff_2) = (m[0].sub(m[1]), m[2].sub(m[3]).shl::<1>());
        [diff_2.sub(diff_1), diff_2.add(m[4]).shl::<2>().sub(diff_1)]
    }
}

/// `A^T m`.
#[inline(always)]
unsafe fn output_1d<V: Longs>(m: [V; T]) -> [V; M] {
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
    unsafe fn filter<V: Words>(g: impl Source<V>, u: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let row = |i: usize| -> [V; 3] { from_fn(|j| g.get(i, j).times(6)) };
            u.put(0, filter_1d(row(0)));
            let columns: [[V; 4]; 3] = from_fn(|j| filter_pairs(from_fn(|i| g.get(i, j))));
            for p in 0..4 {
                u.put(2 + p, filter_1d(map(columns, |c| c[p])));
            }
            u.put(1, filter_1d(row(2)));
        }
    }

    #[inline(always)]
    unsafe fn input<V: Words>(d: impl Source<V>, v: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            v.put(0, input_1d(from_fn(|j| input_end(d.get(0, j), d.get(2, j), d.get(4, j)))));
            let inner = |j: usize| from_fn(|i| d.get(1 + i, j));
            let pairs: [[V; 2]; T] = from_fn(|j| input_pair_1(inner(j)));
            v.put(2, input_1d(map(pairs, |p| p[0])));
            v.put(3, input_1d(map(pairs, |p| p[1])));
            let pairs: [[V; 2]; T] = from_fn(|j| input_pair_2(inner(j)));
            v.put(4, input_1d(map(pairs, |p| p[0])));
            v.put(5, input_1d(map(pairs, |p| p[1])));
            v.put(1, input_1d(from_fn(|j| input_end(d.get(1, j), d.get(3, j), d.get(5, j)))));
        }
    }

    #[inline(always)]
    unsafe fn output<V: Longs>(m: impl Source<V>, y: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let rows: [[V; 2]; T] = from_fn(|j| output_even(map(EVEN, |p| m.get(p, j))));
            y.put(0, output_1d(map(rows, |r| r[0])));
            y.put(2, output_1d(map(rows, |r| r[1])));
            let rows: [[V; 2]; T] = from_fn(|j| output_odd(map(ODD, |p| m.get(p, j))));
            y.put(1, output_1d(map(rows, |r| r[0])));
            y.put(3, output_1d(map(rows, |r| r[1])));
        }
    }

    #[inline(always)]
    unsafe fn input_side<V: Words>(n: usize, d: impl Fn(usize) -> V, v: impl Fn(usize, V)) {
        // SAFETY: the caller's.
        unsafe {
            match n {
                // x - 1 and x; x (x - 1).
                3 => {
                    let [d0, d1, d2] = from_fn(d);
                    each([d1.sub(d0), d2.sub(d1), d1], v);
                }
                // x^2 - 1 and x (x +- 1); x (x^2 - 1).
                4 => {
                    let [d0, d1, d2, d3] = from_fn(d);
                    each([d2.sub(d0), d3.sub(d1), d2.add(d1), d2.sub(d1)], v);
                }
                // (x^2 - 1) (x - 2), x (x +- 1) (x - 2) and x (x^2 - 1); x (x^2 - 1) (x - 2).
                5 => {
                    let [d0, d1, d2, d3, d4] = from_fn(d);
                    let two = d3.sub(d1);
                    let ends = [two.sub(d2.sub(d0).shl::<1>()), d4.sub(d2).sub(two.shl::<1>())];
                    let (even, odd) = (d3.sub(d2.shl::<1>()), d2.sub(d1.shl::<1>()));
                    each([ends[0], ends[1], even.add(odd), even.sub(odd), two], v);
                }
                _ => each(input_1d(from_fn(d)), v),
            }
        }
    }

    /// Rows of `A^T` are those of whole tiles, times the product of p - q over the points q that the tile does not take.
    #[inline(always)]
    unsafe fn output_side<V: Longs>(n: usize, m: impl Fn(usize) -> V, y: impl Fn(usize, V)) {
        // SAFETY: the caller's.
        unsafe {
            let thrice = |x: V| x.add(x.shl::<1>());
            match n {
                // -4, 4 and 6.
                3 => {
                    let [m0, inf, m1] = from_fn(m);
                    each([inf.sub(m0).shl::<1>().add(thrice(m1)).shl::<1>()], y);
                }
                // -4, 4, 3 and 3.
                4 => {
                    let [m0, inf, m1, m2] = from_fn(m);
                    let y0 = thrice(m1.add(m2)).sub(m0.shl::<2>());
                    each([y0, thrice(m1.sub(m2)).add(inf.shl::<2>())], y);
                }
                // 2, 4, -3, -1 and 4.
                5 => {
                    let [m0, inf, m1, m2, m3] = from_fn(m);
                    let (sum, diff) = (thrice(m1).add(m2), thrice(m1).sub(m2));
                    let y0 = m3.shl::<1>().add(m0).shl::<1>().sub(sum);
                    let y2 = m3.shl::<2>().add(inf).shl::<2>().sub(sum);
                    each([y0, m3.shl::<3>().sub(diff), y2], y);
                }
                _ => each(output_1d(from_fn(m)), y),
            }
        }
    }
}
