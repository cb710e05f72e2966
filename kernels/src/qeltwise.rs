//! Element-wise kernels over u8: rounding reals, and sums of quantized operands.
//!
//! Plain loops that compilers vectorise for every target: they are bound by memory.

use crate::requant::portable::rne;

/// How reals become u8: in steps, bounded, rounded to the nearest integer (ties to even), and
/// shifted by the zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    /// Smallest and largest number of steps: integers whose sum with `zero_point` is in `0..=255`.
    pub bounds: [f32; 2],
    /// What stands for zero.
    pub zero_point: u8,
}

impl Rounding {
    /// The integer for a number of steps. What is no number becomes the lower bound.
    #[inline(always)]
    pub fn round(&self, steps: f32) -> u8 {
        let [min, max] = self.bounds;
        (rne(steps.max(min).min(max)) as i32 + i32::from(self.zero_point)) as u8
    }
}

/// One addend of a sum.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// Its elements.
    pub q: &'a [u8],
    /// What stands for zero.
    pub zero_point: u8,
    /// Its step in steps of the result.
    pub factor: f32,
}

impl Term<'_> {
    #[inline(always)]
    fn at(&self, i: usize) -> f32 {
        (i32::from(self.q[i]) - i32::from(self.zero_point)) as f32 * self.factor
    }
}

/// `dst = round((a - zero_point) * factor)`, and for two terms of their sum.
///
/// # Panics
/// If the lengths differ.
pub fn sum(a: Term<'_>, b: Option<Term<'_>>, to: Rounding, dst: &mut [u8]) {
    assert_eq!(a.q.len(), dst.len());
    match b {
        Some(b) => {
            assert_eq!(b.q.len(), dst.len());
            for (i, d) in dst.iter_mut().enumerate() {
                *d = to.round(a.at(i) + b.at(i));
            }
        }
        None => {
            for (i, d) in dst.iter_mut().enumerate() {
                *d = to.round(a.at(i));
            }
        }
    }
}
