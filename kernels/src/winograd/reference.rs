//! The matrices in f64, and the transforms as plain matrix products: what tests trust.

use std::f64::consts::SQRT_2;

use super::Variant;

/// A matrix by rows.
pub type Matrix = Vec<Vec<f64>>;

/// The finite points of a variant, of stride 1, in the order of its matrices' rows; infinity is last.
pub fn points(variant: Variant) -> Vec<f64> {
    match variant {
        Variant::F2 => vec![0.0, 1.0, -1.0],
        Variant::F4 => vec![0.0, SQRT_2 / 2.0, -SQRT_2 / 2.0, SQRT_2, -SQRT_2],
        Variant::F6 => vec![0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5],
        Variant::F2S2 => unreachable!("its matrices are written out"),
    }
}

/// Coefficients, lowest first, of the product of `x - q`.
fn monic(roots: impl Iterator<Item = f64>) -> Vec<f64> {
    roots.fold(vec![1.0], |poly, q| {
        let mut next = vec![0.0; poly.len() + 1];
        for (i, c) in poly.iter().enumerate() {
            next[i + 1] += c;
            next[i] -= q * c;
        }
        next
    })
}

/// The product of a finite point's distances to the others: what interpolation divides by.
fn norm(variant: Variant, p: f64) -> f64 {
    points(variant).iter().filter(|q| **q != p).map(|q| p - q).product()
}

/// Whether the filter's transform divides by the norms, or the output's.
fn filter_divides(variant: Variant) -> bool {
    variant != Variant::F2
}

/// A matrix of integers.
fn rows<const R: usize, const C: usize>(rows: [[i8; C]; R]) -> Matrix {
    rows.map(|row| row.map(f64::from).to_vec()).to_vec()
}

/// `G`, t x 3.
pub fn filter_matrix(variant: Variant) -> Matrix {
    if variant == Variant::F2S2 {
        return rows([[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0], [0, 1, 0]]);
    }
    let row = |p: &f64| {
        let k = if filter_divides(variant) { 1.0 / norm(variant, *p) } else { 1.0 };
        vec![k, k * p, k * p * p]
    };
    let mut g: Matrix = points(variant).iter().map(row).collect();
    g.push(vec![0.0, 0.0, 1.0]);
    g
}

/// `B^T`, t x t.
pub fn input_matrix(variant: Variant) -> Matrix {
    if variant == Variant::F2S2 {
        return rows([
            [1, 0, -1, 0, 0],
            [0, 0, 1, 0, 0],
            [0, 0, -1, 0, 1],
            [0, 1, 0, 0, 0],
            [0, 0, 0, 1, 0],
        ]);
    }
    let points = points(variant);
    let others = |p: f64| points.iter().copied().filter(move |q| *q != p);
    let mut b: Matrix = points.iter().map(|&p| monic(others(p))).collect();
    b.push(monic(points.iter().copied()));
    for row in &mut b {
        row.resize(variant.t(), 0.0);
    }
    b
}

/// `A^T`, m x t.
pub fn output_matrix(variant: Variant) -> Matrix {
    if variant == Variant::F2S2 {
        return rows([[1, 1, 0, 1, 0], [0, 1, 1, 0, 1]]);
    }
    let (m, points) = (variant.m(), points(variant));
    let mut a: Matrix = (0..m)
        .map(|i| {
            let entry = |p: &f64| {
                let k = if filter_divides(variant) { 1.0 } else { norm(variant, *p) };
                p.powi(i as i32) / k
            };
            points.iter().map(entry).collect()
        })
        .collect();
    for (i, row) in a.iter_mut().enumerate() {
        row.push(if i == m - 1 { 1.0 } else { 0.0 });
    }
    a
}

/// `l * x * l^T` for a square `x`.
pub fn sandwich(l: &Matrix, x: &Matrix) -> Matrix {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // x is square, so that rows of x * l^T pair rows of l with rows of x.
    let half: Matrix = l.iter().map(|row| x.iter().map(|xr| dot(xr, row)).collect()).collect();
    l.iter().map(|row| half.iter().map(|h| dot(row, h)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrices_compute_a_correlation() {
        for variant in Variant::ALL {
            let (m, t) = (variant.m(), variant.t());
            let value =
                |i: usize, j: usize, salt: usize| ((i * 31 + j * 17 + salt * 7) % 13) as f64 - 6.0;
            let grid = |n: usize, salt| -> Matrix {
                (0..n).map(|i| (0..n).map(|j| value(i, j, salt)).collect()).collect()
            };
            let (d, g) = (grid(t, 1), grid(3, 2));
            let u = sandwich(&filter_matrix(variant), &g);
            let v = sandwich(&input_matrix(variant), &d);
            let product: Matrix = u
                .iter()
                .zip(&v)
                .map(|(u, v)| u.iter().zip(v).map(|(u, v)| u * v).collect())
                .collect();
            let y = sandwich(&output_matrix(variant), &product);
            for i in 0..m {
                for j in 0..m {
                    let taps = (0..9).map(|k| (k / 3, k % 3));
                    let s = variant.stride();
                    let direct: f64 = taps.map(|(a, b)| g[a][b] * d[s * i + a][s * j + b]).sum();
                    assert!((y[i][j] - direct).abs() < 1e-10, "{variant:?}: {} {direct}", y[i][j]);
                }
            }
        }
    }
}
