//! Element-wise steps: sum, per-channel affine map, clamp.

use skipstone_kernels::eltwise::{add, affine};
use skipstone_kernels::layout::C_BLOCK;

use super::{Act, Step, Worker, zero_frame};
use crate::graph::Clamp;

/// What to compute.
pub(crate) enum Function {
    /// `a + b`.
    Add,
    /// `x * scale + shift`, with the channels of whole blocks.
    Affine {
        /// One per channel of all blocks; 0 for absent ones.
        scale: Vec<f32>,
        /// Likewise.
        shift: Vec<f32>,
    },
}

/// A planned element-wise operator; all activations are blocked.
pub(crate) struct EltwiseStep {
    pub(crate) function: Function,
    pub(crate) clamp: Clamp,
    pub(crate) operands: Vec<Act>,
    pub(crate) dst: Act,
}

impl Step for EltwiseStep {
    unsafe fn run(&self, worker: &Worker<'_>) {
        let dst = &self.dst;
        let bounds = [self.clamp.min, self.clamp.max];
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, dst) };
        let (planes, h) = (dst.nb_planes(), dst.shape.h);
        let len = dst.shape.w * C_BLOCK;
        for row in worker.share(dst.batch * planes * h) {
            let (image, plane, h) = (row / h / planes, row / h % planes, row % h);
            // SAFETY: operands are not written in this step; rows are divided over the members.
            let (operand, out) = unsafe {
                (
                    |i: usize| {
                        let act: &Act = &self.operands[i];
                        worker.read(act.base + act.pixel(image, plane, h, 0), len)
                    },
                    worker.write(dst.base + dst.pixel(image, plane, h, 0), len),
                )
            };
            match &self.function {
                Function::Add => add(operand(0), operand(1), bounds, out),
                Function::Affine { scale, shift } => {
                    let channels = |v: &'_ [f32]| {
                        *v[plane * C_BLOCK..].first_chunk().expect("whole blocks of channels")
                    };
                    affine(operand(0), &channels(scale), &channels(shift), bounds, out);
                }
            }
        }
    }
}
