//! The integer matrices, and transforms as plain matrix products: what tests trust.

use super::Variant;

/// A matrix by rows.
pub type Matrix = Vec<Vec<i64>>;

/// s: per side, the output transform finds s times the convolution.
pub const fn scale(variant: Variant) -> i64 {
    match variant {
        Variant::F2 => 2,
        Variant::F4 => 24,
    }
}

fn matrix<const N: usize>(rows: &[[i64; N]]) -> Matrix {
    rows.iter().map(|row| row.to_vec()).collect()
}

/// `G`, t x 3.
pub fn filter_matrix(variant: Variant) -> Matrix {
    match variant {
        Variant::F2 => matrix(&[[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]),
        Variant::F4 => {
            matrix(&[[6, 0, 0], [4, 4, 4], [4, -4, 4], [1, 2, 4], [1, -2, 4], [0, 0, 6]])
        }
    }
}

/// `B^T`, t x t.
pub fn input_matrix(variant: Variant) -> Matrix {
    match variant {
        Variant::F2 => matrix(&[[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]),
        Variant::F4 => matrix(&[
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]),
    }
}

/// `A^T`, m x t.
pub fn output_matrix(variant: Variant) -> Matrix {
    match variant {
        Variant::F2 => matrix(&[[-1, 1, 1, 0], [0, 1, -1, 1]]),
        Variant::F4 => matrix(&[
            [1, -1, -1, 1, 1, 0],
            [0, -1, 1, 2, -2, 0],
            [0, -1, -1, 4, 4, 0],
            [0, -1, 1, 8, -8, 4],
        ]),
    }
}

/// `l * x * l^T` for a square `x`.
pub fn sandwich(l: &Matrix, x: &Matrix) -> Matrix {
    let dot = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>();
    // x is square, so that rows of x * l^T pair rows of l with rows of x.
    let half: Matrix = l.iter().map(|row| x.iter().map(|xr| dot(xr, row)).collect()).collect();
    l.iter().map(|row| half.iter().map(|h| dot(row, h)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides are linear in inputs and filters: agreeing on all pairs of unit vectors, they agree.
    #[test]
    fn the_matrices_compute_a_multiple_of_a_correlation() {
        for variant in Variant::ALL {
            let (m, t, s2) = (variant.m(), variant.t(), scale(variant).pow(2));
            let unit = |n: usize, at: usize| -> Matrix {
                (0..n).map(|i| (0..n).map(|j| i64::from(i * n + j == at)).collect()).collect()
            };
            for g_at in 0..9 {
                let u = sandwich(&filter_matrix(variant), &unit(3, g_at));
                for d_at in 0..t * t {
                    let v = sandwich(&input_matrix(variant), &unit(t, d_at));
                    let row =
                        |u: &Vec<i64>, v: &Vec<i64>| u.iter().zip(v).map(|(u, v)| u * v).collect();
                    let product: Matrix = u.iter().zip(&v).map(|(u, v)| row(u, v)).collect();
                    let y = sandwich(&output_matrix(variant), &product);
                    for (i, j) in (0..m * m).map(|k| (k / m, k % m)) {
                        let meets = (i + g_at / 3, j + g_at % 3) == (d_at / t, d_at % t);
                        assert_eq!(y[i][j], if meets { s2 } else { 0 }, "{variant:?}");
                    }
                }
            }
        }
    }
}
