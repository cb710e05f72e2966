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
            matrix(&[[6, 0, 0], [0, 0, 6], [4, 4, 4], [4, -4, 4], [1, 2, 4], [1, -2, 4]])
        }
    }
}

/// `B^T` of a tile that is taken at the first `points` ones, `points` x `points`.
pub fn input_matrix(variant: Variant, points: usize) -> Matrix {
    match (variant, points) {
        (Variant::F2, 4) => matrix(&[[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]),
        (Variant::F4, 3) => matrix(&[[-1, 1, 0], [0, -1, 1], [0, 1, 0]]),
        (Variant::F4, 4) => matrix(&[[-1, 0, 1, 0], [0, -1, 0, 1], [0, 1, 1, 0], [0, -1, 1, 0]]),
        (Variant::F4, 5) => matrix(&[
            [2, -1, -2, 1, 0],
            [0, 2, -1, -2, 1],
            [0, -2, -1, 1, 0],
            [0, 2, -3, 1, 0],
            [0, -1, 0, 1, 0],
        ]),
        (Variant::F4, 6) => matrix(&[
            [4, 0, -5, 0, 1, 0],
            [0, 4, 0, -5, 0, 1],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
        ]),
        _ => unreachable!("no tile of {variant:?} is taken at {points} points"),
    }
}

/// `A^T` of the same, `points - 2` x `points`.
pub fn output_matrix(variant: Variant, points: usize) -> Matrix {
    match (variant, points) {
        (Variant::F2, 4) => matrix(&[[-1, 1, 1, 0], [0, 1, -1, 1]]),
        (Variant::F4, 3) => matrix(&[[-4, 4, 6]]),
        (Variant::F4, 4) => matrix(&[[-4, 0, 3, 3], [0, 4, 3, -3]]),
        (Variant::F4, 5) => matrix(&[[2, 0, -3, -1, 4], [0, 0, -3, 1, 8], [0, 4, -3, -1, 16]]),
        (Variant::F4, 6) => matrix(&[
            [1, 0, -1, -1, 1, 1],
            [0, 0, -1, 1, 2, -2],
            [0, 0, -1, -1, 4, 4],
            [0, 4, -1, 1, 8, -8],
        ]),
        _ => unreachable!("no tile of {variant:?} is taken at {points} points"),
    }
}

/// `l * x * r^T`.
pub fn sandwich(l: &Matrix, x: &Matrix, r: &Matrix) -> Matrix {
    let dot = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>();
    let half: Matrix = r.iter().map(|row| x.iter().map(|xr| dot(xr, row)).collect()).collect();
    l.iter().map(|row| half.iter().map(|h| dot(row, h)).collect()).collect()
}

/// Numbers of rows, or columns, of points at which tiles are taken.
pub fn numbers_of_points(variant: Variant) -> impl Iterator<Item = usize> + Clone {
    let first = variant.tile().points(1);
    first..=variant.t()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides are linear in inputs and filters: agreeing on all pairs of unit vectors, they agree.
    #[test]
    fn the_matrices_compute_a_multiple_of_a_correlation() {
        let unit = |rows: usize, columns: usize, at: usize| -> Matrix {
            let row = |i| (0..columns).map(|j| i64::from(i * columns + j == at)).collect();
            (0..rows).map(row).collect()
        };
        for variant in Variant::ALL {
            let s2 = scale(variant).pow(2);
            let sizes = numbers_of_points(variant);
            for (r, c) in sizes.clone().flat_map(|r| sizes.clone().map(move |c| (r, c))) {
                let [input_r, input_c] = [r, c].map(|n| input_matrix(variant, n));
                let [output_r, output_c] = [r, c].map(|n| output_matrix(variant, n));
                for (g_at, d_at) in (0..9).flat_map(|g| (0..r * c).map(move |d| (g, d))) {
                    let g = filter_matrix(variant);
                    let u = sandwich(&g, &unit(3, 3, g_at), &g);
                    let v = sandwich(&input_r, &unit(r, c, d_at), &input_c);
                    // The first points of U.
                    let row =
                        |u: &Vec<i64>, v: &Vec<i64>| u.iter().zip(v).map(|(u, v)| u * v).collect();
                    let product: Matrix = u.iter().zip(&v).map(|(u, v)| row(u, v)).collect();
                    let y = sandwich(&output_r, &product, &output_c);
                    for (i, j) in (0..r - 2).flat_map(|i| (0..c - 2).map(move |j| (i, j))) {
                        let meets = (i + g_at / 3, j + g_at % 3) == (d_at / c, d_at % c);
                        assert_eq!(y[i][j], if meets { s2 } else { 0 }, "{variant:?} {r} {c}");
                    }
                }
            }
        }
    }
}
