//! F(2x2, 3x3) of stride 2: polyphase filtering with F(2x2, 2x2) inside.
//!
//! In one dimension, `y[i] = g[0] d[2i] + g[1] d[2i + 1] + g[2] d[2i + 2]` is a filter of two taps of stride 1 on
//! the even elements, F(2, 2) at the points 0, 1 and infinity, plus one tap on the odd ones: 5
//! multiplications for two outputs in place of 6, and all constants are 0 or +-1. A single output takes the first
//! three: at 0 and infinity, and one odd tap.
//!
//! One algorithm over `Vector`; each ISA instantiates it.

use super::Variant;
use super::tiles::{Grid, Sink, Transform};
use super::vector::{Source, Vector};
use crate::arrays::{each, from_fn, map};

/// Rows of an output and of an input tile.
const M: usize = Variant::F2S2.m();
const T: usize = Variant::F2S2.t();

/// `G g`: the even taps' values at 0 and infinity, the odd tap for the first output, the even taps' value at 1, the odd
/// tap for the second output.
#[inline(always)]
unsafe fn filter_1d<V: Vector>(g: [V; 3]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe { [g[0], g[2], g[1], g[0].add(g[2]), g[1]] }
}

/// `B^T d`.
#[inline(always)]
unsafe fn input_1d<V: Vector>(d: [V; T]) -> [V; T] {
    // SAFETY: the caller's.
    unsafe { [d[0].sub(d[2]), d[4].sub(d[2]), d[1], d[2], d[3]] }
}

/// `A^T m`.
#[inline(always)]
unsafe fn output_1d<V: Vector>(m: [V; T]) -> [V; M] {
    // SAFETY: the caller's.
    unsafe { [m[0].add(m[3]).add(m[2]), m[3].add(m[1]).add(m[4])] }
}

/// F(2x2, 3x3) of stride 2 of one tile.
pub(super) struct F2x2S2;

impl Transform for F2x2S2 {
    const VARIANT: Variant = Variant::F2S2;

    #[inline(always)]
    unsafe fn filter<V: Vector, S: Source>(g: Grid<*const S>, u: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let [g0, g1, g2]: [[V; 3]; 3] = map([0, 1, 2], |i| from_fn(|j| g.load(i, j)));
            u.put(0, filter_1d(g0));
            u.put(1, filter_1d(g2));
            let odd = filter_1d(g1);
            u.put(2, odd);
            u.put(3, filter_1d(from_fn(|j| g0[j].add(g2[j]))));
            u.put(4, odd);
        }
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: Grid<*const f32>, v: impl Sink<V>) {
        // SAFETY: the caller's.
        unsafe {
            let d = |i: usize, j: usize| d.load::<V>(i, j);
            v.put(0, input_1d(from_fn(|j| d(0, j).sub(d(2, j)))));
            v.put(1, input_1d(from_fn(|j| d(4, j).sub(d(2, j)))));
            v.put(2, input_1d(from_fn(|j| d(1, j))));
            v.put(3, input_1d(from_fn(|j| d(2, j))));
            v.put(4, input_1d(from_fn(|j| d(3, j))));
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

    #[inline(always)]
    unsafe fn input_side<V: Vector>(n: usize, d: impl Fn(usize) -> V, v: impl Fn(usize, V)) {
        if n == 3 {
            each([d(0), d(2), d(1)], v);
        } else {
            // SAFETY: the caller's.
            each(unsafe { input_1d(from_fn(d)) }, v);
        }
    }

    #[inline(always)]
    unsafe fn output_side<V: Vector>(n: usize, m: impl Fn(usize) -> V, y: impl Fn(usize, V)) {
        // SAFETY: the caller's.
        unsafe {
            if n == 3 {
                each([m(0).add(m(1)).add(m(2))], y);
            } else {
                each(output_1d(from_fn(m)), y);
            }
        }
    }
}
