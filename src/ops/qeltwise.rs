//! Sum and clamp of quantized operands.

use skipstone_kernels::layout::C_BLOCK_U8;
use skipstone_kernels::qeltwise::{Rounding, Term, sum};

use super::{Act, Step, Worker, zero_frame};
use crate::graph::{Clamp, Quantization};

/// How a quantized result within `clamp` is rounded.
pub(crate) fn rounding(quantization: &Quantization, clamp: Clamp) -> Rounding {
    Rounding { bounds: quantization.bounds(clamp), zero_point: quantization.zero_point }
}

/// A planned sum of one or two operands; all activations are blocks of u8.
pub(crate) struct QsumStep {
    pub(crate) operands: Vec<(Act, Quantization)>,
    pub(crate) clamp: Clamp,
    pub(crate) dst: Act,
    pub(crate) quantization: Quantization,
}

impl Step for QsumStep {
    unsafe fn run(&self, worker: &Worker<'_>) {
        let dst = &self.dst;
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, dst) };
        let to = rounding(&self.quantization, self.clamp);
        let (planes, h) = (dst.nb_planes(), dst.shape.h);
        let len = dst.shape.w * C_BLOCK_U8;
        for row in worker.share(dst.batch * planes * h) {
            let (image, plane, h) = (row / h / planes, row / h % planes, row % h);
            let term = |(act, q): &(Act, Quantization)| Term {
                // SAFETY: operands are not written in this step.
                q: unsafe { worker.read_u8(act.base, act.pixel(image, plane, h, 0), len) },
                zero_point: q.zero_point,
                factor: q.scale / self.quantization.scale,
            };
            // SAFETY: rows are divided over the members.
            let out = unsafe { worker.write_u8(dst.base, dst.pixel(image, plane, h, 0), len) };
            sum(term(&self.operands[0]), self.operands.get(1).map(term), to, out);
        }
    }
}
