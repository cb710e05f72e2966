//! Antialiased resampling with the results of Pillow's `Image.resize` on 8-bit images, bit by bit.
//!
//! Per axis, output pixel `i` is a weighted sum of the source pixels under the filter, which is
//! widened by the shrink factor. Weights are rounded to 22 fractional bits, and the first pass's result
//! to 8 bits before the second. Only the pixels inside a window of the resized image are
//! computed, so a crop costs what it keeps.

use std::f64::consts::PI;
use std::ops::Range;

use super::Image;
use crate::recipe::Interpolation;

/// Fractional bits of a weight: an 8-bit pixel and two bits for the filters' overshoot also fit.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Half of the last place that stays: sums start here to be rounded.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Resizes `image` to `size` (width, height) and returns the part of the result inside `window`
/// (columns, rows).
pub(super) fn resize(
    image: &Image,
    size: [usize; 2],
    window: [Range<usize>; 2],
    interpolation: Interpolation,
) -> Image {
    let [columns, rows] = window;
    let Some((support, filter)) = filter(interpolation) else {
        return nearest(image, size, columns, rows);
    };
    let horizontal = Taps::new(image.width, size[0], columns, support, filter);
    let vertical = Taps::new(image.height, size[1], rows, support, filter);
    match image.channels {
        1 => convolve::<1>(image, horizontal, vertical),
        3 => convolve::<3>(image, horizontal, vertical),
        n => unreachable!("images have 1 or 3 channels, not {n}"),
    }
}

fn convolve<const C: usize>(image: &Image, mut horizontal: Taps, mut vertical: Taps) -> Image {
    let (columns, rows) = (horizontal.sources(), vertical.sources());
    if horizontal.is_second(&vertical) {
        horizontal.rebase(columns.start);
        let low = convolve_columns::<C>(image, columns, &vertical);
        let all = 0..low.height;
        convolve_rows::<C>(&low, all, &horizontal)
    } else {
        vertical.rebase(rows.start);
        let narrow = convolve_rows::<C>(image, rows, &horizontal);
        let all = 0..narrow.width;
        convolve_columns::<C>(&narrow, all, &vertical)
    }
}

/// The horizontal pass, over some rows of the image.
fn convolve_rows<const C: usize>(image: &Image, rows: Range<usize>, taps: &Taps) -> Image {
    let (width, height) = (taps.len(), rows.len());
    let mut data = vec![0u8; width * height * C];
    for (y, out) in rows.zip(data.chunks_exact_mut(width * C)) {
        let (row, _) = image.row(y).as_chunks::<C>();
        for ((start, weights), out) in taps.iter().zip(out.as_chunks_mut::<C>().0) {
            let mut sums = [HALF; C];
            for (pixel, weight) in row[start..start + weights.len()].iter().zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            *out = sums.map(to_byte);
        }
    }
    Image::new(width, height, C, data)
}

/// The vertical pass, over some columns of the image.
fn convolve_columns<const C: usize>(image: &Image, columns: Range<usize>, taps: &Taps) -> Image {
    let (width, height) = (columns.len(), taps.len());
    let mut data = vec![0u8; width * height * C];
    let mut sums = vec![0i32; width * C];
    for ((start, weights), out) in taps.iter().zip(data.chunks_exact_mut(width * C)) {
        sums.fill(HALF);
        for (y, weight) in (start..).zip(weights) {
            let row = &image.row(y)[columns.start * C..columns.end * C];
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (byte, sum) in out.iter_mut().zip(&sums) {
            *byte = to_byte(*sum);
        }
    }
    Image::new(width, height, C, data)
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// For each output pixel of one axis: the first source pixel, and the weights from there on.
struct Taps {
    /// Extents of the whole axis, before and after.
    source: usize,
    size: usize,
    starts: Vec<usize>,
    /// `ends[i]` is where the weights of output pixel `i` end in `weights`.
    ends: Vec<usize>,
    weights: Vec<i32>,
}

impl Taps {
    fn new(source: usize, size: usize, window: Range<usize>, support: f64, filter: Filter) -> Self {
        let scale = source as f64 / size as f64;
        let widening = scale.max(1.0);
        // Pillow multiplies by the reciprocal; a division would round another way.
        let narrowing = 1.0 / widening;
        let support = support * widening;
        let mut taps = Self { source, size, starts: vec![], ends: vec![], weights: vec![] };
        let mut exact = vec![];
        for i in window {
            let centre = (i as f64 + 0.5) * scale;
            // `as usize` takes a negative start to 0.
            let start = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(source);
            exact.clear();
            exact.extend((start..end).map(|x| filter((x as f64 - centre + 0.5) * narrowing)));
            let sum: f64 = exact.iter().sum();
            taps.starts.push(start);
            taps.weights.extend(exact.iter().map(|w| {
                let fixed = w / sum * f64::from(1 << PRECISION_BITS);
                (fixed + 0.5f64.copysign(fixed)) as i32
            }));
            taps.ends.push(taps.weights.len());
        }
        taps
    }

    fn len(&self) -> usize {
        self.starts.len()
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let mut begin = 0;
        self.starts.iter().zip(&self.ends).map(move |(start, end)| {
            let weights = &self.weights[begin..*end];
            begin = *end;
            (*start, weights)
        })
    }

    /// Whether this, the horizontal, pass comes after `vertical`. The first pass's result is rounded, so
    /// the order shows; since Pillow 13 it depends on how many rows and columns the passes remove.
    fn is_second(&self, vertical: &Self) -> bool {
        let removed = |taps: &Self| taps.source as i64 - taps.size as i64;
        removed(vertical) > 0 && removed(vertical) > 2 * removed(self)
    }

    /// Counts source pixels from `origin` on.
    fn rebase(&mut self, origin: usize) {
        self.starts.iter_mut().for_each(|start| *start -= origin);
    }

    /// All source pixels that any output pixel needs.
    fn sources(&self) -> Range<usize> {
        let start = self.starts.first().copied().unwrap_or(0);
        self.iter().last().map_or(0..0, |(last, weights)| start..last + weights.len())
    }
}

type Filter = fn(f64) -> f64;

/// The filter and its half width in source pixels; none for the nearest pixel.
fn filter(interpolation: Interpolation) -> Option<(f64, Filter)> {
    match interpolation {
        Interpolation::Nearest => None,
        Interpolation::Bilinear => Some((1.0, bilinear)),
        Interpolation::Bicubic => Some((2.0, bicubic)),
        Interpolation::Lanczos => Some((3.0, lanczos)),
    }
}

fn bilinear(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos(x: f64) -> f64 {
    fn sinc(x: f64) -> f64 {
        if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
    }
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn nearest(image: &Image, size: [usize; 2], columns: Range<usize>, rows: Range<usize>) -> Image {
    let xs = nearest_sources(image.width, size[0], columns);
    let ys = nearest_sources(image.height, size[1], rows);
    let mut data = Vec::with_capacity(xs.len() * ys.len() * image.channels);
    for y in &ys {
        let row = image.row(*y);
        for x in &xs {
            data.extend_from_slice(&row[x * image.channels..(x + 1) * image.channels]);
        }
    }
    Image::new(xs.len(), ys.len(), image.channels, data)
}

/// Pillow adds up the step from pixel to pixel; its rounding errors are part of the result.
fn nearest_sources(source: usize, size: usize, window: Range<usize>) -> Vec<usize> {
    let step = source as f64 / size as f64;
    let mut at = step * 0.5;
    let mut sources = Vec::with_capacity(window.len());
    for i in 0..window.end {
        if i >= window.start {
            sources.push((at as usize).min(source - 1));
        }
        at += step;
    }
    sources
}
