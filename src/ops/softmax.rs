//! Softmax over channels.

use skipstone_kernels::eltwise::softmax;
use skipstone_kernels::layout::C_BLOCK;

use super::{Act, Step, Worker, zero_frame};

/// A planned softmax; both activations are blocked.
pub(crate) struct SoftmaxStep {
    pub(crate) log: bool,
    pub(crate) src: Act,
    pub(crate) dst: Act,
}

impl Step for SoftmaxStep {
    fn scratch_len(&self) -> usize {
        self.src.shape.c
    }

    unsafe fn run(&self, worker: &Worker<'_>) {
        let (src, dst) = (&self.src, &self.dst);
        let c = src.shape.c;
        // SAFETY: this step writes `dst`, and its frame only here; scratch is this member's own.
        let values = unsafe {
            zero_frame(worker, dst);
            std::slice::from_raw_parts_mut(worker.scratch(c), c)
        };
        let (h, w) = (dst.shape.h, dst.shape.w);
        for pixel in worker.share(dst.batch * h * w) {
            let (image, h, w) = (pixel / w / h, pixel / w % h, pixel % w);
            for (plane, block) in values.chunks_mut(C_BLOCK).enumerate() {
                let at = src.base + src.pixel(image, plane, h, w);
                // SAFETY: `src` is not written in this step.
                block.copy_from_slice(unsafe { worker.read(at, block.len()) });
            }
            softmax(values, self.log);
            for (plane, block) in values.chunks(C_BLOCK).enumerate() {
                let at = dst.base + dst.pixel(image, plane, h, w);
                // SAFETY: pixels are divided over the members.
                let out = unsafe { worker.write(at, C_BLOCK) };
                out[..block.len()].copy_from_slice(block);
                out[block.len()..].fill(0.0);
            }
        }
    }
}
