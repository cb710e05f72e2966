//! Pooling over `nChw8c`, on `wide`: bound by memory, so one portable form serves every tier.

use wide::f32x8;

use crate::layout::C_BLOCK;

/// What a window yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// The maximum of the elements inside the image.
    Max,
    /// Their mean.
    Mean,
    /// Their sum over the window's elements that lie in the image or its declared padding.
    MeanWithPad,
}

/// One axis of a sliding window over an image.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Elements of the image along the axis.
    pub size: usize,
    /// Padding before and after.
    pub pad: [usize; 2],
    /// Taps.
    pub kernel: usize,
    /// Distance of windows.
    pub stride: usize,
    /// Distance of taps.
    pub dilation: usize,
}

impl Window {
    /// The taps of window `index` that lie in the image, as `(first position, count)`, and how many
    /// lie in the image or its padding.
    pub(crate) fn taps(&self, index: usize) -> (usize, usize, usize) {
        let start = index * self.stride;
        let last = start + (self.kernel - 1) * self.dilation;
        if start >= self.pad[0] && last < self.pad[0] + self.size {
            // Nearly all windows, and without a division.
            return (start - self.pad[0], self.kernel, self.kernel);
        }
        let first = self.pad[0].saturating_sub(start).div_ceil(self.dilation);
        let until =
            |limit: usize| limit.saturating_sub(start).div_ceil(self.dilation).min(self.kernel);
        let end = until(self.pad[0] + self.size);
        let padded = until(self.pad[0] + self.size + self.pad[1]);
        let count = end.saturating_sub(first);
        // Without a tap in the image the position is not used.
        let position = (start + first * self.dilation).saturating_sub(self.pad[0]);
        (position, count, padded)
    }
}

/// One output row: window row `oh` over a plane of 8-channel pixels.
///
/// `src` starts at the image's first pixel; its rows are `row_stride` elements apart. `dst` holds
/// the row's pixels. A window with no element inside the image yields `-inf` (maximum) or 0. A NaN
/// may be lost in a maximum.
///
/// # Panics
/// If the windows leave `src`.
pub fn pool_row(
    reduce: Reduce,
    [rows, columns]: [Window; 2],
    src: &[f32],
    row_stride: usize,
    oh: usize,
    dst: &mut [f32],
) {
    let (h0, nb_rows, padded_rows) = rows.taps(oh);
    let (pixels, _) = dst.as_chunks_mut::<C_BLOCK>();
    for (ow, pixel) in pixels.iter_mut().enumerate() {
        let (w0, nb_columns, padded_columns) = columns.taps(ow);
        let mut acc = match reduce {
            Reduce::Max => f32x8::splat(f32::NEG_INFINITY),
            Reduce::Mean | Reduce::MeanWithPad => f32x8::ZERO,
        };
        for r in 0..nb_rows {
            let row = (h0 + r * rows.dilation) * row_stride;
            for c in 0..nb_columns {
                let at = row + (w0 + c * columns.dilation) * C_BLOCK;
                let x = load(&src[at..]);
                acc = match reduce {
                    Reduce::Max => acc.fast_max(x),
                    Reduce::Mean | Reduce::MeanWithPad => acc + x,
                };
            }
        }
        let divisor = match reduce {
            Reduce::Max => 1,
            Reduce::Mean => nb_rows * nb_columns,
            Reduce::MeanWithPad => padded_rows * padded_columns,
        };
        if reduce != Reduce::Max {
            acc /= f32x8::splat(divisor.max(1) as f32);
        }
        *pixel = acc.to_array();
    }
}

/// Mean of an `h` by `w` plane of 8-channel pixels whose rows are `row_stride` elements apart.
///
/// # Panics
/// If the plane leaves `src`.
pub fn global_mean(src: &[f32], row_stride: usize, h: usize, w: usize) -> [f32; C_BLOCK] {
    let mut acc = f32x8::ZERO;
    for row in 0..h {
        let (pixels, _) = src[row * row_stride..][..w * C_BLOCK].as_chunks::<C_BLOCK>();
        for pixel in pixels {
            acc += f32x8::from(*pixel);
        }
    }
    (acc / f32x8::splat((h * w) as f32)).to_array()
}

fn load(src: &[f32]) -> f32x8 {
    f32x8::from(*src.first_chunk::<C_BLOCK>().expect("a whole pixel"))
}
