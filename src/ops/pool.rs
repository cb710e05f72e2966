//! Pooling steps.

use skipstone_kernels::layout::C_BLOCK;
use skipstone_kernels::pool::{Reduce, Window, global_mean, pool_row};

use super::{Act, Step, Worker, zero_frame};

/// A planned pool; both activations are blocked.
pub(crate) struct PoolStep {
    pub(crate) reduce: Reduce,
    /// Vertical and horizontal window.
    pub(crate) windows: [Window; 2],
    pub(crate) src: Act,
    pub(crate) dst: Act,
}

impl Step for PoolStep {
    unsafe fn run(&self, worker: &Worker<'_>) {
        let (src, dst) = (&self.src, &self.dst);
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, dst) };
        let (planes, oh) = (dst.nb_planes(), dst.shape.h);
        for row in worker.share(dst.batch * planes * oh) {
            let (image, plane, oh) = (row / oh / planes, row / oh % planes, row % oh);
            let from = src.pixel(image, plane, 0, 0);
            let rows = (src.shape.h - 1) * src.row_stride() + src.shape.w * C_BLOCK;
            // SAFETY: `src` is not written in this step; rows are divided over the members.
            let (image, out) = unsafe {
                (
                    worker.read(src.base + from, rows),
                    worker.write(dst.base + dst.pixel(image, plane, oh, 0), dst.shape.w * C_BLOCK),
                )
            };
            pool_row(self.reduce, self.windows, image, src.row_stride(), oh, out);
        }
    }
}

/// A planned mean over each channel; both activations are blocked.
pub(crate) struct GlobalMeanStep {
    pub(crate) src: Act,
    pub(crate) dst: Act,
}

impl Step for GlobalMeanStep {
    unsafe fn run(&self, worker: &Worker<'_>) {
        let (src, dst) = (&self.src, &self.dst);
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, dst) };
        let planes = dst.nb_planes();
        let rows = (src.shape.h - 1) * src.row_stride() + src.shape.w * C_BLOCK;
        for plane in worker.share(dst.batch * planes) {
            let (image, plane) = (plane / planes, plane % planes);
            // SAFETY: `src` is not written in this step; planes are divided over the members.
            let (from, out) = unsafe {
                (
                    worker.read(src.base + src.pixel(image, plane, 0, 0), rows),
                    worker.write(dst.base + dst.pixel(image, plane, 0, 0), C_BLOCK),
                )
            };
            let mean = global_mean(from, src.row_stride(), src.shape.h, src.shape.w);
            out.copy_from_slice(&mean);
        }
    }
}
