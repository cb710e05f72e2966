//! Data movement: users' tensors out, padding, slices, concatenation, flattening.
//!
//! One step kind does them all: each copies a box of elements between two [`View`]s, which differ in
//! how they address the same `(image, channel, row, column)`.

use super::{Act, Layout, Step, Worker, zero_frame};
use crate::graph::{AxisOrder, Shape};
use crate::tensor::AlignedBuf;

/// Addresses elements of a dense tensor or an activation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Extents that may be read or written.
    pub(crate) shape: Shape,
    origin: usize,
    image_stride: usize,
    /// Channels that are adjacent in memory, and the distance of such groups.
    channel_block: usize,
    block_stride: usize,
    row_stride: usize,
    pixel_stride: usize,
}

impl View {
    /// A dense tensor with the given axes, `origin` elements into its memory.
    pub(crate) fn dense(shape: Shape, axes: &AxisOrder, origin: usize) -> Self {
        let (c, h, w) = axes.strides(shape);
        Self {
            shape,
            origin,
            image_stride: shape.len(),
            channel_block: 1,
            block_stride: c,
            row_stride: h,
            // 0 where the tensor has no such axis.
            pixel_stride: w.max(1),
        }
    }

    /// One image that serves for all of a batch.
    pub(crate) fn shared_image(self) -> Self {
        Self { image_stride: 0, ..self }
    }

    /// An activation in the arena.
    pub(crate) fn act(act: &Act) -> Self {
        let (channel_block, block_stride) = match act.layout {
            Layout::Blocked => (act.pixel_len(), act.plane_stride()),
            Layout::Interleaved => (act.shape.c, 0),
        };
        Self {
            shape: act.shape,
            origin: act.base + act.pixel(0, 0, 0, 0),
            image_stride: act.image_stride(),
            channel_block,
            block_stride,
            row_stride: act.row_stride(),
            pixel_stride: act.pixel_len(),
        }
    }

    /// A vector activation (`h = w = 1`), seen as a dense tensor of `shape` with the given axes.
    pub(crate) fn vector(act: &Act, shape: Shape, axes: &AxisOrder) -> Self {
        debug_assert_eq!(act.shape, Shape::vector(shape.len()));
        let origin = act.base + act.pixel(0, 0, 0, 0);
        Self { image_stride: act.image_stride(), ..Self::dense(shape, axes, origin) }
    }

    fn offset(&self, image: usize, c: usize, h: usize) -> usize {
        self.origin
            + image * self.image_stride
            + c / self.channel_block * self.block_stride
            + c % self.channel_block
            + h * self.row_stride
    }

    /// Elements from the first to the last pixel of a row.
    fn row_len(&self, pixels: usize) -> usize {
        pixels.saturating_sub(1) * self.pixel_stride + 1
    }
}

/// Memory that a copy reads.
pub(crate) enum Source {
    /// The executor's activations.
    Arena,
    /// A constant.
    Constant(AlignedBuf),
}

/// Copies the destination's channels `channels` from `src`: element `(c, h, w)`, with `c` counted
/// from `channels.start`, comes from `start + step * (c, h, w)`, or is `fill` where that is outside.
pub(crate) struct Copy {
    pub(crate) source: Source,
    pub(crate) src: View,
    pub(crate) channels: std::ops::Range<usize>,
    pub(crate) start: [isize; 3],
    pub(crate) step: [usize; 3],
    pub(crate) fill: f32,
}

impl Copy {
    /// Copies all of `src` to the destination's first channels.
    pub(crate) fn whole(source: Source, src: View) -> Self {
        let channels = 0..src.shape.c;
        Self { source, src, channels, start: [0; 3], step: [1; 3], fill: 0.0 }
    }
}

/// A planned movement.
pub(crate) struct ReorderStep {
    pub(crate) copies: Vec<Copy>,
    pub(crate) dst: View,
    pub(crate) batch: usize,
    /// The destination as an activation, if it is one whose frame and absent channels need zeros.
    pub(crate) act: Option<Act>,
}

impl Step for ReorderStep {
    unsafe fn run(&self, worker: &Worker<'_>) {
        if let Some(act) = &self.act {
            // SAFETY: this step writes `act`, and its frame only here.
            unsafe { zero_frame(worker, act) };
            zero_absent_channels(worker, act);
        }
        let rows = self.dst.shape.h;
        for row in worker.share(self.batch * rows) {
            let (image, h) = (row / rows, row % rows);
            for copy in &self.copies {
                copy.row(worker, image, h, &self.dst);
            }
        }
    }
}

/// Zeroes the channels that fill up the last block.
pub(super) fn zero_absent_channels(worker: &Worker<'_>, act: &Act) {
    let (view, Shape { h: rows, .. }) = (View::act(act), act.shape);
    for row in worker.share(act.batch * rows) {
        for c in act.shape.c..act.nb_planes() * act.pixel_len() {
            let out = view.row_mut(worker, row / rows, c, row % rows);
            out.iter_mut().step_by(view.pixel_stride).for_each(|value| *value = 0.0);
        }
    }
}

impl View {
    /// A row of the destination, from its first to its last pixel.
    fn row_mut<'a>(&self, worker: &Worker<'a>, image: usize, c: usize, h: usize) -> &'a mut [f32] {
        let offset = self.offset(image, c, h);
        // SAFETY: a row's elements (of any channel) are no other row's, rows are divided over the
        // members, and the step holds one such slice at a time.
        unsafe { worker.write(offset, self.row_len(self.shape.w)) }
    }
}

impl Copy {
    /// One row of the destination.
    fn row(&self, worker: &Worker<'_>, image: usize, h: usize, dst: &View) {
        let src = &self.src;
        let at = |axis: usize, i: usize, size: usize| {
            let position = self.start[axis] + (self.step[axis] * i) as isize;
            usize::try_from(position).ok().filter(|p| *p < size)
        };
        for (i, c) in self.channels.clone().enumerate() {
            let out = dst.row_mut(worker, image, c, h);
            let out = out.iter_mut().step_by(dst.pixel_stride);
            let Some((c, h)) = at(0, i, src.shape.c).zip(at(1, h, src.shape.h)) else {
                out.for_each(|value| *value = self.fill);
                continue;
            };
            let (offset, len) = (src.offset(image, c, h), src.row_len(src.shape.w));
            let row = match &self.source {
                Source::Constant(data) => &data[offset..][..len],
                // SAFETY: the source is another activation, not written in this step.
                Source::Arena => unsafe { worker.read(offset, len) },
            };
            if self.start[2] == 0 && self.step[2] == 1 && dst.shape.w == src.shape.w {
                for (value, from) in out.zip(row.iter().step_by(src.pixel_stride)) {
                    *value = *from;
                }
            } else {
                for (pixel, value) in out.enumerate() {
                    let column = at(2, pixel, src.shape.w);
                    *value = column.map_or(self.fill, |column| row[column * src.pixel_stride]);
                }
            }
        }
    }
}
