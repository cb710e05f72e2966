//! Pooling over u8 in `nChw16c`: plain loops over a pixel's 16 channels, bound by memory.

use crate::layout::C_BLOCK_U8;
use crate::pool::Window;

/// One output row of a maximum: window row `oh` over a plane of 16-channel pixels.
///
/// `src` starts at the image's first pixel; its rows are `row_stride` elements apart. `dst` holds
/// the row's pixels. A window with no element inside the image yields 0.
///
/// # Panics
/// If the windows leave `src`.
pub fn max_row(windows: [Window; 2], src: &[u8], row_stride: usize, oh: usize, dst: &mut [u8]) {
    let (pixels, _) = dst.as_chunks_mut::<C_BLOCK_U8>();
    for (ow, pixel) in pixels.iter_mut().enumerate() {
        let mut max = [0; C_BLOCK_U8];
        for_each_pixel(windows, src, row_stride, [oh, ow], |from| {
            for c in 0..C_BLOCK_U8 {
                max[c] = from[c].max(max[c]);
            }
        });
        *pixel = max;
    }
}

/// A window's sums, one per channel, and how many of its elements lie in the image, and in the image
/// or its declared padding. Arguments as for [`max_row`].
///
/// # Panics
/// If the window leaves `src`.
pub fn window_sums(
    windows: [Window; 2],
    src: &[u8],
    row_stride: usize,
    at: [usize; 2],
) -> ([i32; C_BLOCK_U8], usize, usize) {
    let mut sums = [0; C_BLOCK_U8];
    for_each_pixel(windows, src, row_stride, at, |from| {
        for c in 0..C_BLOCK_U8 {
            sums[c] += i32::from(from[c]);
        }
    });
    let [(_, rows, padded_rows), (_, columns, padded_columns)] =
        [windows[0].taps(at[0]), windows[1].taps(at[1])];
    (sums, rows * columns, padded_rows * padded_columns)
}

/// Calls `f` with each pixel of window `at` that lies in the image.
#[inline(always)]
fn for_each_pixel(
    [rows, columns]: [Window; 2],
    src: &[u8],
    row_stride: usize,
    [oh, ow]: [usize; 2],
    mut f: impl FnMut(&[u8; C_BLOCK_U8]),
) {
    let (h0, nb_rows, _) = rows.taps(oh);
    let (w0, nb_columns, _) = columns.taps(ow);
    for r in 0..nb_rows {
        let row = (h0 + r * rows.dilation) * row_stride;
        for c in 0..nb_columns {
            let at = row + (w0 + c * columns.dilation) * C_BLOCK_U8;
            f(src[at..].first_chunk().expect("a whole pixel"));
        }
    }
}
