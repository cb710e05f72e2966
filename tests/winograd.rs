//! Winograd: the transforms of every kernel against plain matrix products in f64, and whole
//! convolutions against a direct sum in f64. Every buffer ends, then starts, at a page that cannot be
//! accessed.
#![cfg(unix)]

mod common;

use common::guarded::{Guarded, Placement};
use common::{
    Line, Rng, direct_tolerance, flat, winograd_f2_tolerance, winograd_f4_tolerance,
    winograd_f6_tolerance,
};
use skipstone_kernels::layout::{C_BLOCK, LayoutTag, OC_PANEL};
use skipstone_kernels::pack::{ConvGeometry, pack};
use skipstone_kernels::registry;
use skipstone_kernels::sconv::PanelArgs;
use skipstone_kernels::winograd::multiply::MR;
use skipstone_kernels::winograd::reference::{
    Matrix, filter_matrix, input_matrix, output_matrix, sandwich,
};
use skipstone_kernels::winograd::{
    FilterArgs, InputArgs, Kernel, MultiplyArgs, OutputArgs, Tile, TileRun, Variant, point_stride,
};

fn lines(place: Placement, len: usize, fill: f32) -> Guarded<Line> {
    place.filled(len.div_ceil(16), Line([fill; 16]))
}

/// Each kernel that this CPU has, with each placement of its buffers.
fn available() -> impl Iterator<Item = (Kernel, Placement)> {
    let kernels = registry::WINOGRAD.iter().copied().filter(|k| k.isa.is_available());
    kernels.flat_map(|kernel| Placement::ALL.map(|place| (kernel, place)))
}

/// Rounding of one transform: a few operations on values whose magnitudes add up to `magnitude`.
fn transform_tolerance(magnitude: f64) -> f64 {
    4.0 * 2f64.powi(-24) * magnitude + 1e-30
}

/// `l * x * r^T`, and the same with absolute values: the magnitude of what is added.
fn expected(l: &Matrix, x: &Matrix, r: &Matrix) -> (Matrix, Matrix) {
    let abs = |m: &Matrix| m.iter().map(|r| r.iter().map(|v| v.abs()).collect()).collect();
    (sandwich(l, x, r), sandwich(&abs(l), &abs(x), &abs(r)))
}

fn grid(rows: usize, columns: usize, f: impl Fn(usize, usize) -> f32) -> Matrix {
    (0..rows).map(|i| (0..columns).map(|j| f64::from(f(i, j))).collect()).collect()
}

const GUARD: f32 = 12345.0;

#[test]
fn transform_filter_is_its_matrix() {
    let mut rng = Rng(1);
    for (kernel, place) in available() {
        let (t, g) = (kernel.variant.t(), filter_matrix(kernel.variant));
        for nb_blocks in [1, 3] {
            let tap = C_BLOCK * OC_PANEL;
            let src = place.copy(&rng.vec(nb_blocks * 9 * tap));
            let len = nb_blocks * tap;
            let stride = point_stride::<f32>(len);
            let mut dst = lines(place, (t * t - 1) * stride + len, GUARD);
            let args = FilterArgs {
                src: src.as_ptr(),
                nb_blocks,
                dst: dst.as_mut_ptr().cast(),
                point_stride: stride,
            };
            // SAFETY: the kernel is available, and the buffers have the lengths of the contract.
            unsafe { kernel.transform_filter_raw(&args) };
            let u = flat(&dst);
            for at in 0..len {
                let (block, lane) = (at / tap, at % tap);
                let filter = grid(3, 3, |i, j| src[(block * 9 + 3 * i + j) * tap + lane]);
                let (value, magnitude) = expected(&g, &filter, &g);
                for p in 0..t * t {
                    let (found, expected) = (f64::from(u[p * stride + at]), value[p / t][p % t]);
                    assert!(
                        (found - expected).abs() <= transform_tolerance(magnitude[p / t][p % t]),
                        "{} point {p} at {at}: {found}, expected {expected}",
                        kernel.name
                    );
                }
            }
            for p in 0..t * t - 1 {
                assert!(u[p * stride + len..(p + 1) * stride].iter().all(|v| *v == GUARD));
            }
        }
    }
}

#[test]
fn transform_input_is_its_matrix_and_reads_only_what_exists() {
    let mut rng = Rng(2);
    for (kernel, place) in available() {
        let (variant, t) = (kernel.variant, kernel.variant.t());
        let (height, width, nb_blocks) = (t + 3, t + 5, 2);
        let (row_stride, plane_stride) = (width * C_BLOCK, height * width * C_BLOCK);
        let src = place.copy(&rng.vec(nb_blocks * plane_stride));
        // Every extent that a tile can have, each with its corner so that the rest is outside.
        let has_partial = variant.points(1) < t;
        let extents: Vec<usize> = if has_partial {
            (1..=variant.m()).map(|extent| variant.reach(extent)).collect()
        } else {
            (1..=t).collect()
        };
        let tiles: Vec<Tile> = extents
            .iter()
            .flat_map(|rows| extents.iter().map(move |columns| (*rows, *columns)))
            .map(|(rows, columns)| {
                let (y, x) = (if rows == t { 1 } else { height - rows }, width - columns);
                Tile {
                    src: (y * row_stride + x * C_BLOCK) as u32,
                    dst: 0,
                    res: 0,
                    src_extent: [rows as u8, columns as u8],
                    dst_extent: [1, 1],
                }
            })
            .collect();
        let tiles = place.copy(&tiles);
        let block_stride = tiles.len() * C_BLOCK;
        let len = nb_blocks * block_stride;
        let stride = point_stride::<f32>(len);
        let mut dst = lines(place, (t * t - 1) * stride + len, GUARD);
        let args = InputArgs {
            src: src.as_ptr(),
            row_stride,
            plane_stride,
            nb_blocks,
            tiles: tiles.as_ptr(),
            nb_tiles: tiles.len(),
            dst: dst.as_mut_ptr().cast(),
            block_stride,
            point_stride: stride,
        };
        // SAFETY: the kernel is available, and the buffers have the lengths of the contract.
        unsafe { kernel.transform_input_raw(&args) };
        let v = flat(&dst);
        for block in 0..nb_blocks {
            for (index, tile) in tiles.iter().enumerate() {
                let [rows, columns] = tile.src_extent.map(usize::from);
                // Of a partial tile, where variants have them, as many as it has rows or columns.
                let [n, m] = [rows, columns].map(|extent| if has_partial { extent } else { t });
                let (b_rows, b_columns) = (input_matrix(variant, n), input_matrix(variant, m));
                for c in 0..C_BLOCK {
                    let d = grid(n, m, |i, j| {
                        let at = block * plane_stride + tile.src as usize + c;
                        let exists = i < rows && j < columns;
                        if exists { src[at + i * row_stride + j * C_BLOCK] } else { 0.0 }
                    });
                    let (value, magnitude) = expected(&b_rows, &d, &b_columns);
                    for (i, j) in (0..n).flat_map(|i| (0..m).map(move |j| (i, j))) {
                        let at = (i * t + j) * stride + block * block_stride + index * C_BLOCK + c;
                        let (found, expected) = (f64::from(v[at]), value[i][j]);
                        let tolerance = transform_tolerance(magnitude[i][j]);
                        assert!(
                            (found - expected).abs() <= tolerance,
                            "{} point {i} {j} of {tile:?}: {found}, expected {expected}",
                            kernel.name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn transform_output_is_its_matrix_and_writes_only_what_exists() {
    let mut rng = Rng(3);
    for (kernel, place) in available() {
        let (variant, t, m) = (kernel.variant, kernel.variant.t(), kernel.variant.m());
        let extents: Vec<[u8; 2]> =
            (1..=m as u8).flat_map(|r| (1..=m as u8).map(move |c| [r, c])).collect();
        let nb_tiles = extents.len();
        let stride = point_stride::<f32>(nb_tiles * OC_PANEL);
        let mut src = lines(place, (t * t - 1) * stride + nb_tiles * OC_PANEL, 0.0);
        src.iter_mut().for_each(|line| line.0 = std::array::from_fn(|_| rng.f32()));
        let bias = place.copy(&rng.vec(16));
        // Tiles one after the other in a single row of tiles, a frame of one pixel around each.
        let row_stride = nb_tiles * (m + 1) * C_BLOCK + 8;
        let block_stride = (m + 1) * row_stride;
        let tiles: Vec<Tile> = extents
            .iter()
            .enumerate()
            .map(|(i, &dst_extent)| Tile {
                src: 0,
                dst: (i * (m + 1) * C_BLOCK + 8) as u32,
                res: (i * (m + 1) * C_BLOCK) as u32,
                src_extent: [t as u8; 2],
                dst_extent,
            })
            .collect();
        let tiles = place.copy(&tiles);
        for (nb_blocks, residual) in [(1, false), (1, true), (2, false), (2, true)] {
            let clamp = [-0.5, 1.5];
            // The last tile's last pixel ends the buffer.
            let last = |first: u32| first as usize + (m - 1) * (row_stride + C_BLOCK) + C_BLOCK;
            let act_len = |first: u32| (nb_blocks - 1) * block_stride + last(first);
            let res = place.copy(&rng.vec(act_len(tiles[nb_tiles - 1].res)));
            let mut dst = place.filled(act_len(tiles[nb_tiles - 1].dst), GUARD);
            let args = OutputArgs {
                src: src.as_ptr().cast(),
                point_stride: stride,
                tiles: tiles.as_ptr(),
                nb_tiles,
                bias: bias.as_ptr(),
                dst: dst.as_mut_ptr(),
                dst_row_stride: row_stride,
                dst_block_stride: block_stride,
                nb_blocks,
                residual: if residual { res.as_ptr() } else { std::ptr::null() },
                res_row_stride: row_stride,
                res_block_stride: block_stride,
                clamp,
            };
            // SAFETY: the kernel is available, and the buffers have the lengths of the contract.
            unsafe { kernel.transform_output_raw(&args) };
            for (index, tile) in tiles.iter().enumerate() {
                let points = tile.dst_extent.map(|extent| variant.points(extent.into()));
                let [a_rows, a_columns] = points.map(|n| output_matrix(variant, n));
                for c in 0..nb_blocks * C_BLOCK {
                    let products = grid(points[0], points[1], |i, j| {
                        flat(&src)[(t * i + j) * stride + index * OC_PANEL + c]
                    });
                    let (value, magnitude) = expected(&a_rows, &products, &a_columns);
                    for i in 0..usize::from(tile.dst_extent[0]) {
                        for j in 0..usize::from(tile.dst_extent[1]) {
                            let at = c / 8 * block_stride + i * row_stride + j * C_BLOCK + c % 8;
                            let mut terms = vec![f64::from(bias[c])];
                            if residual {
                                terms.push(f64::from(res[tile.res as usize + at]));
                            }
                            let sum = value[i][j] + terms.iter().sum::<f64>();
                            let expected = sum.clamp(clamp[0].into(), clamp[1].into());
                            let tolerance = transform_tolerance(
                                magnitude[i][j] + terms.iter().map(|t| t.abs()).sum::<f64>(),
                            );
                            let place = &mut dst[tile.dst as usize + at];
                            let found = f64::from(std::mem::replace(place, GUARD));
                            assert!(
                                (found - expected).abs() <= tolerance,
                                "{} row {i} column {j} of {tile:?}: {found}, expected {expected}",
                                kernel.name
                            );
                        }
                    }
                }
            }
            assert!(dst.iter().all(|v| *v == GUARD), "{} wrote outside its tiles", kernel.name);
        }
    }
}

/// Rows of `len` numbers for all points, each row a stride after the one before: the last ends the buffer. What is
/// between rows is no number.
fn rows(place: Placement, nb_points: usize, len: usize, rng: &mut Rng) -> (Guarded<Line>, usize) {
    let stride = point_stride::<f32>(len);
    let mut buffer = lines(place, (nb_points - 1) * stride + len, f32::NAN);
    for at in (0..nb_points).flat_map(|p| p * stride..p * stride + len) {
        buffer[at / 16].0[at % 16] = rng.f32();
    }
    (buffer, stride)
}

#[test]
fn multiply_is_a_matrix_product_around_the_tile() {
    let mut rng = Rng(5);
    for (kernel, place) in available() {
        let (t, nb_points) = (kernel.variant.t(), kernel.variant.nb_points());
        let whole = (1..=2 * MR + 1).map(TileRun::whole);
        let partial = [[0, 9, 3, 1], [3, 0, 0, 1], [7, 2, 1, 4], [0, 0, 5, 0], [4, 8, 0, 0]].map(
            |[bottom, whole, right, corner]| TileRun {
                bottom,
                whole,
                right,
                corner,
                points: [t - 1, t - 2],
            },
        );
        let runs = whole.chain(partial).flat_map(|tiles| [(tiles, 1, true), (tiles, 3, false)]);
        for (tiles, nb_blocks, first) in runs {
            let nb_tiles = tiles.len();
            // `v` needs no alignment, and may end within a line.
            let v_stride = point_stride::<f32>(nb_blocks * nb_tiles * C_BLOCK);
            let v_len = (nb_points - 1) * v_stride + nb_blocks * nb_tiles * C_BLOCK;
            let v = place.copy(&rng.vec(v_len));
            let (u, u_stride) = rows(place, nb_points, nb_blocks * C_BLOCK * OC_PANEL, &mut rng);
            let (mut m, m_stride) = rows(place, nb_points, nb_tiles * OC_PANEL, &mut rng);
            let (u, before) = (flat(&u), flat(&m).to_vec());
            // SAFETY: the kernel is available, and the buffers have the lengths of the contract.
            unsafe {
                kernel.multiply_raw(&MultiplyArgs {
                    t,
                    v: v.as_ptr(),
                    v_point_stride: v_stride,
                    v_block_stride: nb_tiles * C_BLOCK,
                    tiles,
                    nb_blocks,
                    u: u.as_ptr(),
                    u_point_stride: u_stride,
                    m: m.as_mut_ptr().cast(),
                    m_point_stride: m_stride,
                    first,
                    next: u.as_ptr().cast(),
                });
            }
            for (at, found) in flat(&m).iter().enumerate() {
                let (p, tile, o) = (at / m_stride, at % m_stride / OC_PANEL, at % OC_PANEL);
                if tile >= nb_tiles {
                    assert!(found.is_nan(), "{} wrote between points", kernel.name);
                    continue;
                }
                if !is_taken(&tiles, tile, p / t, p % t) {
                    assert_eq!(
                        *found, before[at],
                        "{}: point {p}, {tile} of {tiles:?}",
                        kernel.name
                    );
                    continue;
                }
                let mut sum = if first { 0.0 } else { f64::from(before[at]) };
                let mut magnitude = sum.abs();
                for i in 0..nb_blocks * C_BLOCK {
                    let place = (i / C_BLOCK * nb_tiles + tile) * C_BLOCK + i % C_BLOCK;
                    let term = f64::from(v[p * v_stride + place])
                        * f64::from(u[p * u_stride + i * OC_PANEL + o]);
                    sum += term;
                    magnitude += term.abs();
                }
                assert!(
                    (f64::from(*found) - sum).abs() <= direct_tolerance(magnitude),
                    "{}: point {p}, {tile} of {tiles:?}, channel {o}: {found}, expected {sum}",
                    kernel.name
                );
            }
        }
    }
}

/// Whether a tile of a run is taken at the point in row `i` and column `j`.
fn is_taken(run: &TileRun, tile: usize, i: usize, j: usize) -> bool {
    let inner = run.bottom + run.whole;
    let is_bottom = tile < run.bottom || tile >= inner + run.right;
    let is_right = tile >= inner;
    (!is_bottom || i < run.points[0]) && (!is_right || j < run.points[1])
}

/// One convolution of an image by the kernels alone, no blocking: `[oc][h][w]`, h and w those of the output.
fn convolve(
    (kernel, place): (Kernel, Placement),
    [oc, ic, h, w]: [usize; 4],
    x: &[f32],
    g: &[f32],
) -> Vec<f32> {
    let (variant, nb_points) = (kernel.variant, kernel.variant.nb_points());
    let (m, t, s) = (variant.m(), variant.t(), variant.stride());
    let geometry = ConvGeometry::new(oc, ic, 3, 3, 1).expect("a valid geometry");
    let mut packed = place.filled(geometry.packed_len(LayoutTag::OIhw8i16o), 0.0);
    pack(&geometry, LayoutTag::OIhw8i16o, g, &mut packed);
    // nChw8c with a frame of one zero.
    let ic_blocks = ic.div_ceil(C_BLOCK);
    let (row_stride, plane_stride) = ((w + 2) * C_BLOCK, (h + 2) * (w + 2) * C_BLOCK);
    let mut src = place.filled(ic_blocks * plane_stride, 0.0);
    for (i, v) in x.iter().enumerate() {
        let (c, y, x) = (i / (h * w), i / w % h, i % w);
        let at = c / 8 * plane_stride + (y + 1) * row_stride + (x + 1) * C_BLOCK + c % 8;
        src[at] = *v;
    }
    let [h, w] = [h, w].map(|size| size.div_ceil(s));
    let (rows, columns) = (h.div_ceil(m), w.div_ceil(m));
    let (dst_row, dst_block) = (w * C_BLOCK, h * w * C_BLOCK);
    let tiles: Vec<Tile> = (0..rows * columns)
        .map(|i| {
            let (y, x) = (i / columns * m, i % columns * m);
            Tile {
                src: (s * y * row_stride + s * x * C_BLOCK) as u32,
                dst: (y * dst_row + x * C_BLOCK) as u32,
                res: 0,
                src_extent: [h - y, w - x].map(|left| variant.reach(left).min(t) as u8),
                dst_extent: [h - y, w - x].map(|left| left.min(m) as u8),
            }
        })
        .collect();
    let nb_tiles = tiles.len();
    let v_stride = point_stride::<f32>(ic_blocks * nb_tiles * C_BLOCK);
    let mut v = lines(place, nb_points * v_stride, f32::NAN);
    // SAFETY: the kernel is available, and the buffers have the lengths of the contract.
    unsafe {
        kernel.transform_input_raw(&InputArgs {
            src: src.as_ptr(),
            row_stride,
            plane_stride,
            nb_blocks: ic_blocks,
            tiles: tiles.as_ptr(),
            nb_tiles,
            dst: v.as_mut_ptr().cast(),
            block_stride: nb_tiles * C_BLOCK,
            point_stride: v_stride,
        });
    }
    let nb_panels = geometry.nb_panels();
    let mut dst = place.filled(oc.div_ceil(C_BLOCK) * dst_block, 0.0);
    let sconv = registry::sconv(kernel.isa);
    let pixels: Vec<u32> = (0..nb_tiles).map(|t| (t * C_BLOCK) as u32).collect();
    let taps: Vec<u32> = (0..ic_blocks).map(|b| (b * nb_tiles * C_BLOCK) as u32).collect();
    for panel in 0..nb_panels {
        let u_stride = point_stride::<f32>(ic_blocks * C_BLOCK * OC_PANEL);
        let mut u = lines(place, nb_points * u_stride, f32::NAN);
        let m_stride = point_stride::<f32>(nb_tiles * OC_PANEL);
        let mut products = lines(place, nb_points * m_stride, f32::NAN);
        let nb_blocks = (oc.div_ceil(C_BLOCK) - 2 * panel).min(2);
        // SAFETY: the kernels are available, and the buffers have the lengths of the contracts.
        unsafe {
            kernel.transform_filter_raw(&FilterArgs {
                src: packed.as_ptr().add(panel * geometry.panel_len(LayoutTag::OIhw8i16o)),
                nb_blocks: ic_blocks,
                dst: u.as_mut_ptr().cast(),
                point_stride: u_stride,
            });
            for p in 0..nb_points {
                let products = products.as_mut_ptr().cast::<f32>();
                sconv.run_raw(&PanelArgs {
                    src: v.as_ptr().cast::<f32>().add(p * v_stride),
                    src_pixels: pixels.as_ptr(),
                    nb_pixels: nb_tiles,
                    taps: taps.as_ptr(),
                    nb_taps: taps.len(),
                    tap_len: C_BLOCK,
                    weights: u.as_ptr().cast::<f32>().add(p * u_stride),
                    next_weights: u.as_ptr().cast(),
                    bias: [0.0; 16].as_ptr(),
                    dst: std::ptr::null_mut(),
                    dst_pixels: std::ptr::null(),
                    dst_block_stride: 0,
                    nb_blocks: 2,
                    residual: std::ptr::null(),
                    res_pixels: std::ptr::null(),
                    res_block_stride: 0,
                    clamp: [0.0; 2],
                    start: std::ptr::null(),
                    sums: products.add(p * m_stride),
                    addend: std::ptr::null(),
                });
            }
            kernel.transform_output_raw(&OutputArgs {
                src: products.as_ptr().cast(),
                point_stride: m_stride,
                tiles: tiles.as_ptr(),
                nb_tiles,
                bias: [0.0; 16].as_ptr(),
                dst: dst.as_mut_ptr().add(2 * panel * dst_block),
                dst_row_stride: dst_row,
                dst_block_stride: dst_block,
                nb_blocks,
                residual: std::ptr::null(),
                res_row_stride: 0,
                res_block_stride: 0,
                clamp: [f32::NEG_INFINITY, f32::INFINITY],
            });
        }
    }
    let at = |i: usize| {
        let (c, y, x) = (i / (h * w), i / w % h, i % w);
        c / 8 * dst_block + y * dst_row + x * C_BLOCK + c % 8
    };
    (0..oc * h * w).map(|i| dst[at(i)]).collect()
}

/// The same convolution as a direct sum.
fn direct([oc, ic, h, w]: [usize; 4], stride: usize, x: &[f32], g: &[f32]) -> Vec<f64> {
    let [out_h, out_w] = [h, w].map(|size| size.div_ceil(stride));
    let mut sums = vec![0.0; oc * out_h * out_w];
    for (i, y) in sums.iter_mut().enumerate() {
        let (o, oh, ow) = (i / (out_h * out_w), i / out_w % out_h, i % out_w);
        for c in 0..ic {
            for (a, b) in (0..9).map(|k| (k / 3, k % 3)) {
                let y_in = (stride * oh + a).wrapping_sub(1);
                let x_in = (stride * ow + b).wrapping_sub(1);
                if y_in < h && x_in < w {
                    *y += f64::from(x[(c * h + y_in) * w + x_in])
                        * f64::from(g[(o * ic + c) * 9 + 3 * a + b]);
                }
            }
        }
    }
    sums
}

#[test]
fn kernels_convolve_within_the_variants_tolerance() {
    let mut rng = Rng(4);
    let sizes = [
        [16, 64, 14, 14],
        [20, 9, 7, 7],
        [5, 256, 6, 9],
        [40, 24, 1, 1],
        [16, 512, 7, 7],
        [24, 40, 11, 6],
        [16, 64, 5, 15],
    ];
    for [oc, ic, h, w] in sizes {
        // Inputs as after a ReLU, weights as in a trained layer.
        let x: Vec<f32> = (0..ic * h * w).map(|_| rng.normal().max(0.0)).collect();
        let scale = (2.0 / (9 * ic) as f32).sqrt();
        let g: Vec<f32> = (0..oc * ic * 9).map(|_| rng.normal() * scale).collect();
        let exact = [1, 2].map(|stride| direct([oc, ic, h, w], stride, &x, &g));
        for (kernel, place) in available() {
            let exact = &exact[kernel.variant.stride() - 1];
            let largest = exact.iter().fold(0.0, |a: f64, v| a.max(v.abs()));
            let found = convolve((kernel, place), [oc, ic, h, w], &x, &g);
            let error = found.iter().zip(exact).map(|(f, e)| (f64::from(*f) - e).abs());
            let error = error.fold(0.0, f64::max) / largest;
            assert_eq!(found.len(), exact.len());
            let tolerance = match kernel.variant {
                Variant::F2 | Variant::F2S2 => winograd_f2_tolerance(),
                Variant::F4 => winograd_f4_tolerance(),
                Variant::F6 => winograd_f6_tolerance(),
            };
            assert!(error <= tolerance, "{} {oc} {ic} {h}x{w}: {error:e}", kernel.name);
        }
    }
}
