//! Integer Winograd, to the bit: the transforms of every kernel against plain matrix products, whole
//! convolutions against plain sums, up to the last input that the certificate allows. Every buffer ends, then
//! starts, at a page that cannot be accessed.
#![cfg(unix)]

mod common;

use common::guarded::{Guarded, Placement};
use common::{Line, Rng};
use skipstone_kernels::qwinograd::pack::{pack, packed_len, panel_len};
use skipstone_kernels::qwinograd::reference::{Matrix, filter_matrix, input_matrix, sandwich};
use skipstone_kernels::qwinograd::{
    FilterArgs, InputArgs, Kernel, MultiplyArgs, OutputArgs, Tile, TileRun, Variant, certified,
    point_stride,
};
use skipstone_kernels::registry;
use skipstone_kernels::requant::{Dst, Requant, Residual};

/// Channels of a block, and of a panel.
const C: usize = 16;

/// `len` elements on cache lines, all of which hold the word `fill`.
fn words(place: Placement, len: usize, fill: i16) -> Guarded<Line> {
    let word = u32::from(fill as u16);
    place.filled(len.div_ceil(32), Line([f32::from_bits(word << 16 | word); 16]))
}

/// `len` elements on cache lines, all zero.
fn longs(place: Placement, len: usize) -> Guarded<Line> {
    place.filled(len.div_ceil(16), Line([0.0; 16]))
}

/// The elements of lines.
fn elements<T>(lines: &[Line]) -> &[T] {
    // SAFETY: only used for integers, which any bytes are; `Line` has no padding.
    unsafe {
        std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines) / size_of::<T>())
    }
}

/// Each kernel that this CPU has, with each placement of its buffers.
fn available() -> impl Iterator<Item = (Kernel, Placement)> {
    let kernels = registry::QWINOGRAD.iter().copied().filter(|k| k.isa.is_available());
    kernels.flat_map(|kernel| Placement::ALL.map(|place| (kernel, place)))
}

fn grid(rows: usize, columns: usize, f: impl Fn(usize, usize) -> i64) -> Matrix {
    (0..rows).map(|i| (0..columns).map(|j| f(i, j)).collect()).collect()
}

const GUARD: i16 = 0x5a5a;

#[test]
fn transform_filter_is_its_matrix() {
    let mut rng = Rng(1);
    for (kernel, place) in available() {
        let (t, g) = (kernel.variant.t(), filter_matrix(kernel.variant));
        for nb_blocks in [1, 3] {
            let tap = C * C;
            let weight = |_| match rng.below(4) {
                0 => -128,
                1 => 127,
                _ => rng.next() as i8,
            };
            let src: Vec<i8> = (0..nb_blocks * 9 * tap).map(weight).collect();
            let src = place.copy(&src);
            let len = nb_blocks * tap;
            let stride = point_stride::<i16>(len);
            let mut dst = words(place, (t * t - 1) * stride + len, GUARD);
            let args = FilterArgs {
                src: src.as_ptr(),
                nb_blocks,
                dst: dst.as_mut_ptr().cast(),
                point_stride: stride,
            };
            // SAFETY: the kernel is available, and the buffers have the lengths of the contract.
            unsafe { kernel.transform_filter_raw(&args) };
            let u: &[i16] = elements(&dst);
            for at in 0..len {
                let (block, lane) = (at / tap, at % tap);
                let filter =
                    grid(3, 3, |i, j| i64::from(src[(block * 9 + 3 * i + j) * tap + lane]));
                let expected = sandwich(&g, &filter, &g);
                for p in 0..t * t {
                    let found = i64::from(u[p * stride + at]);
                    assert_eq!(found, expected[p / t][p % t], "{} point {p}", kernel.name);
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
        let (row_stride, plane_stride) = (width * C, height * width * C);
        let src: Vec<u8> = (0..nb_blocks * plane_stride)
            .map(|_| [0, 255, rng.next() as u8][rng.below(3)])
            .collect();
        let src = place.copy(&src);
        // Every extent that a tile can have, each with its corner so that the rest is outside.
        let has_partial = variant.tile().points(1) < t;
        let least = if has_partial { variant.tile().reach(1) } else { 1 };
        let tiles: Vec<Tile> = (least..=t)
            .flat_map(|rows| (least..=t).map(move |columns| (rows, columns)))
            .map(|(rows, columns)| {
                let (y, x) = (if rows == t { 1 } else { height - rows }, width - columns);
                Tile {
                    src: (y * row_stride + x * C) as u32,
                    dst: 0,
                    res: 0,
                    src_extent: [rows as u8, columns as u8],
                    dst_extent: [1, 1],
                }
            })
            .collect();
        let tiles = place.copy(&tiles);
        let block_stride = tiles.len() * C;
        let len = nb_blocks * block_stride;
        let stride = point_stride::<i16>(len);
        let mut dst = words(place, (t * t - 1) * stride + len, GUARD);
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
        let v: &[i16] = elements(&dst);
        for (block, (index, tile)) in
            (0..nb_blocks).flat_map(|block| tiles.iter().enumerate().map(move |t| (block, t)))
        {
            let [rows, columns] = tile.src_extent.map(usize::from);
            let [n, m] = [rows, columns].map(|extent| if has_partial { extent } else { t });
            let (b_rows, b_columns) = (input_matrix(variant, n), input_matrix(variant, m));
            // What does not exist may be anything: points that it does not reach are right.
            let known = |i: usize, j: usize| {
                let reaches = |row: &[i64], size: usize| row[size..].iter().any(|c| *c != 0);
                !reaches(&b_rows[i], rows) && !reaches(&b_columns[j], columns)
            };
            for c in 0..C {
                let d = grid(n, m, |i, j| {
                    let at = block * plane_stride + tile.src as usize + c;
                    let exists = i < rows && j < columns;
                    if exists { i64::from(src[at + i * row_stride + j * C]) } else { 0 }
                });
                let expected = sandwich(&b_rows, &d, &b_columns);
                let points = (0..n).flat_map(|i| (0..m).map(move |j| (i, j)));
                for (i, j) in points.filter(|(i, j)| known(*i, *j)) {
                    let at = (i * t + j) * stride + block * block_stride + index * C + c;
                    let found = i64::from(v[at]);
                    assert_eq!(found, expected[i][j], "{} {i} {j} of {tile:?}", kernel.name);
                }
            }
        }
    }
}

/// A convolution of one image, padding 1, `[oc][h][w]` results of f32.
struct Case {
    /// Output channels, input channels, height, width.
    sizes: [usize; 4],
    x: Vec<u8>,
    g: Vec<i8>,
    bias: Vec<i32>,
    /// What padding reads.
    zero_point: u8,
}

impl Case {
    /// Sums over the window and the bias; the zero point is not subtracted.
    fn sums(&self) -> Vec<i32> {
        let [oc, ic, h, w] = self.sizes;
        let pixel = |c: usize, y: usize, x: usize| match (y.checked_sub(1), x.checked_sub(1)) {
            (Some(y), Some(x)) if y < h && x < w => self.x[(c * h + y) * w + x],
            _ => self.zero_point,
        };
        let sum = |k: usize| {
            let (o, y, x) = (k / (h * w), k / w % h, k % w);
            let terms = (0..ic * 9).map(|i| {
                let (c, a, b) = (i / 9, i / 3 % 3, i % 3);
                i32::from(pixel(c, y + a, x + b)) * i32::from(self.g[o * ic * 9 + i])
            });
            self.bias[o] + terms.sum::<i32>()
        };
        (0..oc * h * w).map(sum).collect()
    }

    /// The same by kernels, with what `requant` makes of it. A small block of tiles and chunk of channels, so that
    /// there are several.
    fn convolve(&self, (kernel, place): (Kernel, Placement), dst: &mut [u8], requant: Requant) {
        let [oc, ic, h, w] = self.sizes;
        let (m, t, nb_points) =
            (kernel.variant.m(), kernel.variant.t(), kernel.variant.nb_points());
        let (row_stride, plane_stride) = ((w + 2) * C, (h + 2) * (w + 2) * C);
        let nb_blocks = ic.div_ceil(C);
        let mut src = place.filled(nb_blocks * plane_stride, self.zero_point);
        for (i, v) in self.x.iter().enumerate() {
            let (c, y, x) = (i / (h * w), i / w % h, i % w);
            src[c / C * plane_stride + (y + 1) * row_stride + (x + 1) * C + c % C] = *v;
        }
        let mut g = place.filled(packed_len(oc, ic), 0i8);
        pack(oc, ic, &self.g, &mut g);
        let mut bias = self.bias.clone();
        bias.resize(oc.next_multiple_of(C), 0);
        let bias = place.copy(&bias);
        let (rows, columns) = (h.div_ceil(m), w.div_ceil(m));
        let tiles: Vec<Tile> = (0..rows * columns)
            .map(|i| {
                let (y, x) = (i / columns * m, i % columns * m);
                Tile {
                    src: (y * row_stride + x * C) as u32,
                    dst: ((y * w + x) * C) as u32,
                    res: ((y * w + x) * C) as u32,
                    src_extent: [(h + 2 - y).min(t) as u8, (w + 2 - x).min(t) as u8],
                    dst_extent: [(h - y).min(m) as u8, (w - x).min(m) as u8],
                }
            })
            .collect();
        let plane = h * w * C;
        for panel in 0..oc.div_ceil(C) {
            let shift = |p: *mut u8| p.wrapping_add(panel * plane);
            let requant = Requant {
                scale: requant.scale.wrapping_add(panel * C),
                residual: requant
                    .residual
                    .map(|r| Residual { src: r.src.wrapping_add(panel * plane), ..r }),
                dst: match requant.dst {
                    Dst::U8 { zero_point, bounds, .. } => {
                        Dst::U8 { dst: shift(dst.as_mut_ptr()), zero_point, bounds }
                    }
                    _ => unreachable!("results of the tests are u8"),
                },
                ..requant
            };
            for tiles in tiles.chunks(7) {
                let tiles = place.copy(tiles);
                let nb_tiles = tiles.len();
                let v_len = nb_blocks * nb_tiles * C;
                let v_stride = point_stride::<i16>(v_len);
                let mut v = words(place, (nb_points - 1) * v_stride + v_len, GUARD);
                let m_stride = point_stride::<i32>(nb_tiles * C);
                let mut products = longs(place, (nb_points - 1) * m_stride + nb_tiles * C);
                // SAFETY: the kernel is available, and the buffers have the lengths of the contracts.
                unsafe {
                    kernel.transform_input_raw(&InputArgs {
                        src: src.as_ptr(),
                        row_stride,
                        plane_stride,
                        nb_blocks,
                        tiles: tiles.as_ptr(),
                        nb_tiles,
                        dst: v.as_mut_ptr().cast(),
                        block_stride: nb_tiles * C,
                        point_stride: v_stride,
                    });
                    for first in (0..nb_blocks).step_by(2) {
                        let chunk = (nb_blocks - first).min(2);
                        let u_stride = point_stride::<i16>(chunk * C * C);
                        let mut u = words(place, (nb_points - 1) * u_stride + chunk * C * C, GUARD);
                        kernel.transform_filter_raw(&FilterArgs {
                            src: g.as_ptr().add(panel * panel_len(ic) + first * 9 * C * C),
                            nb_blocks: chunk,
                            dst: u.as_mut_ptr().cast(),
                            point_stride: u_stride,
                        });
                        kernel.multiply_raw(&MultiplyArgs {
                            t,
                            v: v.as_ptr().cast::<i16>().add(first * nb_tiles * C),
                            v_point_stride: v_stride,
                            v_block_stride: nb_tiles * C,
                            tiles: TileRun::whole(nb_tiles),
                            nb_blocks: chunk,
                            u: u.as_ptr().cast(),
                            u_point_stride: u_stride,
                            m: products.as_mut_ptr().cast(),
                            m_point_stride: m_stride,
                            first: first == 0,
                            next: g.as_ptr().cast(),
                        });
                    }
                    kernel.transform_output_raw(&OutputArgs {
                        src: products.as_ptr().cast(),
                        point_stride: m_stride,
                        tiles: tiles.as_ptr(),
                        nb_tiles,
                        bias: bias.as_ptr().add(panel * C),
                        requant,
                        dst_row_stride: w * C,
                        res_row_stride: w * C,
                    });
                }
            }
        }
    }

    /// Asserts that every kernel that is certified for inputs up to `max`, of which there must be `expected`
    /// variants, finds the plain sums, requantized.
    fn check(&self, max: u8, expected: usize, rng: &mut Rng) {
        let [oc, ic, h, w] = self.sizes;
        let sums = self.sums();
        let certified = |variant: Variant| {
            self.g.chunks_exact(ic * 9).all(|filters| certified(variant, max, filters))
        };
        assert_eq!(Variant::ALL.iter().filter(|v| certified(**v)).count(), expected);
        let padded = oc.next_multiple_of(C);
        let res: Vec<u8> = (0..padded * h * w).map(|_| rng.next() as u8).collect();
        for (kernel, place) in available().filter(|(kernel, _)| certified(kernel.variant)) {
            // Factors that show a sum's high bits, and its low ones.
            for factor in [2e-6, 0.01, 1.0] {
                let scale: Vec<f32> = (0..padded).map(|o| factor * (1.0 + o as f32)).collect();
                let scale = place.copy(&scale);
                let res = place.copy(&res);
                let residual = rng.below(2) == 0;
                let residual =
                    residual.then(|| Residual { src: res.as_ptr(), zero_point: 9, scale: 0.3 });
                let (zero_point, bounds) = [(0, [0, 127]), (131, [2, 255])][rng.below(2)];
                let mut dst = place.filled(padded * h * w, 77u8);
                let requant = Requant {
                    scale: scale.as_ptr(),
                    before_add: None,
                    residual,
                    dst: Dst::U8 { dst: std::ptr::null_mut(), zero_point, bounds },
                };
                self.convolve((kernel, place), &mut dst, requant);
                for (k, sum) in sums.iter().enumerate() {
                    let (o, pixel) = (k / (h * w), k % (h * w));
                    let at = o / C * h * w * C + pixel * C + o % C;
                    let mut value = *sum as f32 * scale[o];
                    if residual.is_some() {
                        value += (i32::from(res[at]) - 9) as f32 * 0.3;
                    }
                    let zero = f32::from(zero_point);
                    let [low, high] = bounds.map(|b| f32::from(b) - zero);
                    let value = (value.clamp(low, high).round_ties_even() + zero) as u8;
                    assert_eq!(
                        dst[at], value,
                        "{} channel {o} pixel {pixel} of {:?}: sum {sum}, factor {factor}",
                        kernel.name, self.sizes
                    );
                }
            }
        }
    }
}

#[test]
fn convolutions_are_plain_sums() {
    let mut rng = Rng(3);
    let mut sizes = vec![[16, 64, 14, 14], [20, 9, 7, 7], [5, 100, 6, 9], [40, 24, 1, 1]];
    sizes.extend((1..=13).map(|n| [17, 17, n, 14 - n]));
    for sizes in sizes {
        let [oc, ic, h, w] = sizes;
        for max in [127u8, 255] {
            let case = Case {
                sizes,
                x: (0..ic * h * w).map(|_| rng.below(usize::from(max) + 1) as u8).collect(),
                g: (0..oc * ic * 9).map(|_| rng.next() as i8).collect(),
                bias: (0..oc).map(|_| rng.below(2001) as i32 - 1000).collect(),
                zero_point: rng.below(usize::from(max) + 1) as u8,
            };
            case.check(max, 2, &mut rng);
        }
    }
}

/// The largest inputs meet weights that follow the signs of one point's transform, so that its `V` and
/// `U` are the largest there are and their products overflow 32 bits many times.
#[test]
fn the_largest_transforms_overflow_without_trace() {
    let mut rng = Rng(4);
    let [oc, ic, h, w] = [16, 32, 8, 8];
    for variant in Variant::ALL {
        let (t, m) = (variant.t(), variant.m());
        let (b, g) = (input_matrix(variant, t), filter_matrix(variant));
        for p in 0..t * t {
            for (most, least) in [(127i8, -127i8), (-128, 127)] {
                let positive = |l: &Matrix, i: usize, j: usize| l[p / t][i] * l[p % t][j] > 0;
                let filter = (0..9).map(|k| if positive(&g, k / 3, k % 3) { most } else { least });
                let filter: Vec<i8> = filter.collect();
                let pixel = |k: usize| {
                    // Counted from the frame, where tiles start at multiples of m.
                    let (y, x) = (k / w % h + 1, k % w + 1);
                    if positive(&b, y % m, x % m) { 255 } else { 0 }
                };
                let case = Case {
                    sizes: [oc, ic, h, w],
                    x: (0..ic * h * w).map(pixel).collect(),
                    g: filter.repeat(oc * ic),
                    bias: vec![0; oc],
                    zero_point: 255,
                };
                case.check(255, 2, &mut rng);
            }
        }
    }
}

/// All inputs 255 and all weights 127 or -127, up to the number of channels where F(4x4) loses its
/// certificate; one more, and its sums are wrong by what does not fit.
#[test]
fn certificates_reach_to_the_last_exact_sum() {
    let mut rng = Rng(5);
    for (weight, last) in [(127i8, 115), (-127, 115)] {
        for (ic, expected) in [(last, 2), (last + 1, 1)] {
            let case = Case {
                sizes: [3, ic, 6, 5],
                x: vec![255; ic * 30],
                g: vec![weight; 3 * ic * 9],
                bias: vec![0; 3],
                zero_point: 255,
            };
            case.check(255, expected, &mut rng);
            let whole = i64::from(case.sums()[0]);
            assert_eq!(whole.unsigned_abs() < 1 << 25, expected == 2);
        }
    }
}
