//! Element-wise kernels over u8: rounding reals, and sums of quantized operands.
//!
//! Plain loops that compilers vectorise for every target: they are bound by memory.

use crate::requant::portable::ROUND;

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
        // The sum's last byte is the integer's, which a conversion would only check for what the bounds exclude.
        let rounded = (steps.max(min).min(max) + ROUND).to_bits();
        (rounded as u8).wrapping_add(self.zero_point)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_even_integer_within_bounds() {
        for (min, zero_point, max) in
            [(-255i16, 255u8, 0i16), (0, 0, 255), (-100, 128, 127), (5, 0, 5)]
        {
            let to = Rounding { bounds: [min.into(), max.into()], zero_point };
            let steps = (-300 * 8..=300 * 8).map(|i| i as f32 / 8.0);
            let near = steps.clone().flat_map(|v| [v.next_down(), v.next_up()]);
            for v in steps.chain(near).chain([1e9, f32::MAX, f32::INFINITY, -1e-40]) {
                for v in [v, -v] {
                    let rounded = v.clamp(min.into(), max.into()).round_ties_even();
                    assert_eq!(f32::from(to.round(v)), rounded + f32::from(zero_point), "{v}");
                }
            }
            assert_eq!(i16::from(to.round(f32::NAN)), min + i16::from(zero_point));
        }
    }
}
