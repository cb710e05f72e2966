//! The matrices in f64, and the transforms as plain matrix products: what tests trust.

use std::f64::consts::SQRT_2;

use super::Variant;

/// A matrix by rows.
pub type Matrix = Vec<Vec<f64>>;

/// The points of a variant of stride 1, in the order of its matrices' rows.
fn points(variant: Variant) -> Vec<f64> {
    const INF: f64 = f64::INFINITY;
    match variant {
        Variant::F2 => vec![0.0, 1.0, -1.0, INF],
        Variant::F4 => vec![0.0, INF, SQRT_2 / 2.0, -SQRT_2 / 2.0, SQRT_2, -SQRT_2],
        Variant::F6 => vec![0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, INF],
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

/// The product of a finite point's distances to the other finite ones: what interpolation divides by.
fn norm(points: &[f64], p: f64) -> f64 {
    points.iter().filter(|q| q.is_finite() && **q != p).map(|q| p - q).product()
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
        return rows([[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 1], [0, 1, 0]]);
    }
    let all = points(variant);
    let row = |p: &f64| {
        if p.is_infinite() {
            return vec![0.0, 0.0, 1.0];
        }
        let k = if filter_divides(variant) { 1.0 / norm(&all, *p) } else { 1.0 };
        vec![k, k * p, k * p * p]
    };
    all.iter().map(row).collect()
}

/// `B^T` of a tile that is taken at the first `nb_points` ones, `nb_points` x `nb_points`.
pub fn input_matrix(variant: Variant, nb_points: usize) -> Matrix {
    if variant == Variant::F2S2 {
        return match nb_points {
            3 => rows([[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
            _ => rows([
                [1, 0, -1, 0, 0],
                [0, 0, -1, 0, 1],
                [0, 1, 0, 0, 0],
                [0, 0, 1, 0, 0],
                [0, 0, 0, 1, 0],
            ]),
        };
    }
    let points = &points(variant)[..nb_points];
    let others = |p: f64| points.iter().copied().filter(move |q| q.is_finite() && *q != p);
    let mut b: Matrix = points.iter().map(|&p| monic(others(p))).collect();
    b.iter_mut().for_each(|row| row.resize(nb_points, 0.0));
    b
}

/// `A^T` of the same, a row per row of output.
pub fn output_matrix(variant: Variant, nb_points: usize) -> Matrix {
    if variant == Variant::F2S2 {
        return match nb_points {
            3 => rows([[1, 1, 1]]),
            _ => rows([[1, 0, 1, 1, 0], [0, 1, 0, 1, 1]]),
        };
    }
    let (all, extent) = (points(variant), nb_points - 2);
    let points = &all[..nb_points];
    let entry = |i: usize, p: f64| {
        if p.is_infinite() {
            return if i == extent - 1 { 1.0 } else { 0.0 };
        }
        let divided = if filter_divides(variant) { norm(&all, p) } else { 1.0 };
        p.powi(i as i32) * divided / norm(points, p)
    };
    (0..extent).map(|i| points.iter().map(|p| entry(i, *p)).collect()).collect()
}

/// `l * x * r^T`.
pub fn sandwich(l: &Matrix, x: &Matrix, r: &Matrix) -> Matrix {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let half: Matrix = r.iter().map(|row| x.iter().map(|xr| dot(xr, row)).collect()).collect();
    l.iter().map(|row| half.iter().map(|h| dot(row, h)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrices_compute_a_correlation() {
        for variant in Variant::ALL {
            let value =
                |i: usize, j: usize, salt: usize| ((i * 31 + j * 17 + salt * 7) % 13) as f64 - 6.0;
            let grid = |rows: usize, columns: usize, salt| -> Matrix {
                (0..rows).map(|i| (0..columns).map(|j| value(i, j, salt)).collect()).collect()
            };
            let extents = (1..=variant.m()).flat_map(|h| (1..=variant.m()).map(move |w| [h, w]));
            for [h, w] in extents {
                let [r, c] = [h, w].map(|extent| variant.points(extent));
                let (d, g) = (grid(r, c, 1), grid(3, 3, 2));
                let filter = filter_matrix(variant);
                let u = sandwich(&filter, &g, &filter);
                let v = sandwich(&input_matrix(variant, r), &d, &input_matrix(variant, c));
                // The first points of U.
                let row =
                    |u: &Vec<f64>, v: &Vec<f64>| u.iter().zip(v).map(|(u, v)| u * v).collect();
                let product: Matrix = u.iter().zip(&v).map(|(u, v)| row(u, v)).collect();
                let y = sandwich(&output_matrix(variant, r), &product, &output_matrix(variant, c));
                for (i, j) in (0..h).flat_map(|i| (0..w).map(move |j| (i, j))) {
                    let taps = (0..9).map(|k| (k / 3, k % 3));
                    let s = variant.stride();
                    let direct: f64 = taps.map(|(a, b)| g[a][b] * d[s * i + a][s * j + b]).sum();
                    assert!((y[i][j] - direct).abs() < 1e-10, "{variant:?}: {} {direct}", y[i][j]);
                }
            }
        }
    }
}
