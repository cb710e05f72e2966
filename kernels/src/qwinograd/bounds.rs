//! What fits which integer, for all inputs.

use super::Variant;

/// Whether a variant computes an output channel's sums right for all activations of `0..=max`, given the
/// channel's weights: the sums lie between `max` times the sum of the negative weights and `max`
/// times that of the positive ones, and must fit 32 bits when multiplied by 4 for F(2x2) and by 64 for F(4x4).
pub fn certified(variant: Variant, max: u8, weights: &[i8]) -> bool {
    let limit = 1i64 << (31 - shift(variant));
    let [negative, positive] = weights.iter().fold([0, 0], |[negative, positive], w| {
        [negative + i64::from(*w).min(0), positive + i64::from(*w).max(0)]
    });
    i64::from(max) * positive < limit && i64::from(max) * negative >= -limit
}

/// Binary digits to drop from the result, once it is divided by 9 for F(4x4).
pub(super) const fn shift(variant: Variant) -> u32 {
    match variant {
        Variant::F2 => 2,
        Variant::F4 => 6,
    }
}

/// The inverse of s^2's odd factor modulo 2^32.
pub(super) const fn inverse(variant: Variant) -> i32 {
    match variant {
        Variant::F2 => 1,
        Variant::F4 => 0x38e3_8e39,
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Matrix, filter_matrix, input_matrix, numbers_of_points, scale};
    use super::*;

    /// The least and the largest entry of `l * x * r^T` over all `x` with entries in `low..=high`: an entry
    /// is linear in `x`, so each term takes the end that suits its sign.
    fn extremes([l, r]: [&Matrix; 2], low: i64, high: i64) -> (i64, i64) {
        let mut ends = (0, 0);
        for (a, b) in l.iter().flat_map(|a| r.iter().map(move |b| (a, b))) {
            let terms = a.iter().flat_map(|x| b.iter().map(move |y| x * y));
            let (least, most) = terms.fold((0, 0), |(least, most), c| {
                (least + (c * low).min(c * high), most + (c * low).max(c * high))
            });
            ends = (ends.0.min(least), ends.1.max(most));
        }
        ends
    }

    #[test]
    fn transforms_fit_16_bits_for_all_inputs() {
        let largest = |(least, most): (i64, i64)| most.max(-least);
        let found = Variant::ALL.map(|variant| {
            let matrices: Vec<_> =
                numbers_of_points(variant).map(|n| input_matrix(variant, n)).collect();
            let pairs = matrices.iter().flat_map(|l| matrices.iter().map(move |r| [l, r]));
            let input = pairs.map(|pair| largest(extremes(pair, 0, 255))).max().unwrap_or(0);
            let g = filter_matrix(variant);
            let filter = largest(extremes([&g; 2], -128, 127));
            // Two products, added in 32 bits: multiply-add never meets its only saturating case.
            assert!(2 * input * filter < 1 << 31, "{variant:?}");
            (input, filter)
        });
        assert_eq!(found, [(1020, 1152), (17340, 18432)]);
        assert!(found.iter().all(|&(input, filter)| input.max(filter) <= i64::from(i16::MAX)));
    }

    #[test]
    fn the_scale_is_a_shift_and_an_odd_factor_with_an_inverse() {
        for variant in Variant::ALL {
            let odd = scale(variant).pow(2) >> shift(variant);
            assert_eq!(odd << shift(variant), scale(variant).pow(2));
            assert_eq!((odd as i32).wrapping_mul(inverse(variant)), 1);
        }
    }

    #[test]
    fn certificates_end_where_the_sum_leaves_32_bits() {
        // 2^25 = 255 * 131586.008: 1036 weights of 127, and one of 14.
        let weights = |sign: i8, last: i8| {
            let mut weights = vec![127 * sign; 1036];
            weights.push(last * sign);
            weights
        };
        assert!(certified(Variant::F4, 255, &weights(1, 14)));
        assert!(!certified(Variant::F4, 255, &weights(1, 15)));
        assert!(certified(Variant::F4, 255, &weights(-1, 14)));
        assert!(!certified(Variant::F4, 255, &weights(-1, 15)));
        assert!(certified(Variant::F2, 255, &weights(1, 127)));
        // A sum of 2^25 is too large, one of -2^25 is not.
        assert!(!certified(Variant::F4, 128, &vec![64; 4096]));
        assert!(certified(Variant::F4, 128, &vec![-64; 4096]));
        // Terms of both signs need not cancel.
        assert!(certified(Variant::F4, 255, &[weights(1, 14), weights(-1, 14)].concat()));
        // 512 channels of the heaviest weights: too many for F(4x4), not for F(2x2).
        assert!(!certified(Variant::F4, 127, &[127; 512 * 9]));
        assert!(certified(Variant::F2, 255, &[-128; 512 * 9]));
    }
}
