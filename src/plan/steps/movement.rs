//! Steps that only move elements, or store them otherwise.

use super::Builder;
use crate::graph::{AxisOrder, Node, Op, ValueId};
use crate::ops::Act;
use crate::ops::reorder::{Copy, ReorderStep, Source, View};
use crate::tensor::AlignedBuf;

impl Builder<'_> {
    pub(super) fn reorder(&self, copies: Vec<Copy>, view: View, dst: Act) -> ReorderStep {
        ReorderStep { copies, dst: view, batch: dst.batch, act: Some(dst) }
    }

    /// Operators that only move elements.
    pub(super) fn movement(&self, node: &Node, value: ValueId) -> ReorderStep {
        let from_arena = |i: usize| Copy::whole(Source::Arena, self.view(node.inputs[i]));
        let (dst, view) = (self.act(value), self.view(value));
        let all = 0..dst.shape.c;
        match &node.op {
            Op::Concat => {
                let mut next = 0;
                let copies = (0..node.inputs.len()).map(|i| {
                    let copy = from_arena(i);
                    let channels = next..next + copy.src.shape.c;
                    next = channels.end;
                    Copy { channels, ..copy }
                });
                self.reorder(copies.collect(), view, dst)
            }
            Op::Pad { channels, frame, value } => {
                let before = [channels[0], frame.top, frame.left].map(|n| -(n as isize));
                let copy = Copy { channels: all, start: before, fill: *value, ..from_arena(0) };
                self.reorder(vec![copy], view, dst)
            }
            Op::Slice(slice) => {
                let copy = Copy {
                    channels: all,
                    start: slice.start.map(|n| n as isize),
                    step: slice.step,
                    ..from_arena(0)
                };
                self.reorder(vec![copy], view, dst)
            }
            Op::Constant(id) => {
                let data = AlignedBuf::from_slice(&self.model.row_major(*id));
                let src = View::dense(dst.shape, &AxisOrder::nchw(), 0).shared_image();
                self.reorder(vec![Copy::whole(Source::Constant(data), src)], view, dst)
            }
            Op::Flatten { channels_last } => {
                // The vector's memory, seen with the source's axes.
                let copy = from_arena(0);
                let axes = if *channels_last { AxisOrder::nhwc() } else { AxisOrder::nchw() };
                ReorderStep {
                    dst: View::vector(&dst, self.quantization(value), copy.src.shape, &axes),
                    copies: vec![copy],
                    batch: dst.batch,
                    act: Some(dst),
                }
            }
            _ => unreachable!("not a movement"),
        }
    }
}
