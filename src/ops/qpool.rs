//! Pooling of quantized operands.

use skipstone_kernels::layout::{C_BLOCK, C_BLOCK_U8};
use skipstone_kernels::pool::Window;
use skipstone_kernels::qpool::{max_row, window_sums};

use super::qeltwise::rounding;
use super::{Act, Step, Worker, zero_frame};
use crate::graph::{Clamp, Quantization};

/// A planned maximum; both activations are blocks of u8, quantized alike.
pub(crate) struct QmaxStep {
    /// Vertical and horizontal window.
    pub(crate) windows: [Window; 2],
    pub(crate) src: Act,
    pub(crate) dst: Act,
}

impl Step for QmaxStep {
    unsafe fn run(&self, worker: &Worker<'_>) {
        let (src, dst) = (&self.src, &self.dst);
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, dst) };
        let (planes, oh) = (dst.nb_planes(), dst.shape.h);
        let len = dst.shape.w * C_BLOCK_U8;
        for row in worker.share(dst.batch * planes * oh) {
            let (image, plane, oh) = (row / oh / planes, row / oh % planes, row % oh);
            // SAFETY: `src` is not written in this step; rows are divided over the members.
            let (from, out) = unsafe {
                (
                    plane_of(worker, src, image, plane),
                    worker.write_u8(dst.base, dst.pixel(image, plane, oh, 0), len),
                )
            };
            max_row(self.windows, from, src.row_stride(), oh, out);
        }
    }
}

/// A planned mean over windows of blocks of u8.
pub(crate) struct QmeanStep {
    /// Vertical and horizontal window.
    pub(crate) windows: [Window; 2],
    /// Whether elements of the declared padding count in the divisor.
    pub(crate) with_pad: bool,
    pub(crate) src: (Act, Quantization),
    pub(crate) dst: Act,
    /// The result's; f32 if absent.
    pub(crate) quantization: Option<Quantization>,
}

impl Step for QmeanStep {
    unsafe fn run(&self, worker: &Worker<'_>) {
        let ((src, q), dst) = (&self.src, &self.dst);
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, dst) };
        let (planes, oh) = (src.nb_planes(), dst.shape.h);
        for row in worker.share(dst.batch * planes * oh) {
            let (image, plane, oh) = (row / oh / planes, row / oh % planes, row % oh);
            // SAFETY: `src` is not written in this step.
            let from = unsafe { plane_of(worker, src, image, plane) };
            for ow in 0..dst.shape.w {
                let (sums, inside, padded) =
                    window_sums(self.windows, from, src.row_stride(), [oh, ow]);
                let scale = q.scale / if self.with_pad { padded } else { inside } as f32;
                let zero = inside as i32 * i32::from(q.zero_point);
                let steps = |factor: f32| sums.map(|sum| (sum - zero) as f32 * factor);
                match &self.quantization {
                    Some(y) => {
                        let to = rounding(y, Clamp::NONE);
                        let at = dst.pixel(image, plane, oh, ow);
                        // SAFETY: pixels of a plane are divided over the members.
                        let out = unsafe { worker.write_u8(dst.base, at, C_BLOCK_U8) };
                        out.copy_from_slice(&steps(scale / y.scale).map(|t| to.round(t)));
                    }
                    None => {
                        let blocks = plane * C_BLOCK_U8 / C_BLOCK..dst.nb_planes();
                        for (plane, mean) in blocks.zip(steps(scale).chunks(C_BLOCK)) {
                            let at = dst.base + dst.pixel(image, plane, oh, ow);
                            // SAFETY: as above; a plane of the source is two of `dst`.
                            unsafe { worker.write(at, C_BLOCK) }.copy_from_slice(mean);
                        }
                    }
                }
            }
        }
    }
}

/// A plane from the image's first pixel to its last.
///
/// # Safety
/// As [`Worker::read`].
unsafe fn plane_of<'a>(worker: &Worker<'a>, act: &Act, image: usize, plane: usize) -> &'a [u8] {
    let len = (act.shape.h - 1) * act.row_stride() + act.shape.w * C_BLOCK_U8;
    // SAFETY: the caller's.
    unsafe { worker.read_u8(act.base, act.pixel(image, plane, 0, 0), len) }
}
