//! Data movement: users' tensors out, padding, slices, concatenation, flattening, and between real and
//! quantized values.
//!
//! One step kind does them all: each copies a box of elements between two [`View`]s, which differ in
//! how they address the same `(image, channel, row, column)`, and may differ in how they store it.

use super::qeltwise::rounding;
use super::{Act, Elements, Layout, Step, Worker, zero_frame};
use crate::graph::{AxisOrder, Clamp, Quantization, Shape};
use crate::tensor::AlignedBuf;

/// Addresses elements of a dense tensor or an activation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Extents that may be read or written.
    pub(crate) shape: Shape,
    /// How elements are stored in u8; f32 if absent.
    quantization: Option<Quantization>,
    /// In elements from the start of the memory.
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
            quantization: None,
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

    /// An activation in the arena, quantized so.
    pub(crate) fn act(act: &Act, quantization: Option<Quantization>) -> Self {
        let (channel_block, block_stride) = match act.layout {
            Layout::Blocked => (act.pixel_len(), act.plane_stride()),
            Layout::Interleaved => (act.shape.c, 0),
        };
        Self {
            shape: act.shape,
            quantization,
            origin: Self::origin(act),
            image_stride: act.image_stride(),
            channel_block,
            block_stride,
            row_stride: act.row_stride(),
            pixel_stride: act.pixel_len(),
        }
    }

    /// A vector activation (`h = w = 1`), seen as a dense tensor of `shape` with the given axes.
    pub(crate) fn vector(
        act: &Act,
        quantization: Option<Quantization>,
        shape: Shape,
        axes: &AxisOrder,
    ) -> Self {
        debug_assert_eq!(act.shape, Shape::vector(shape.len()));
        let dense = Self::dense(shape, axes, Self::origin(act));
        Self { quantization, image_stride: act.image_stride(), ..dense }
    }

    /// The image's first pixel in the arena, in elements.
    fn origin(act: &Act) -> usize {
        act.base * size_of::<f32>() / act.elements.size() + act.pixel(0, 0, 0, 0)
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

/// Fills the channels that make the last block whole with what stands for zero.
pub(super) fn zero_absent_channels(worker: &Worker<'_>, act: &Act) {
    let (len, Shape { c, h: rows, w }) = (act.pixel_len(), act.shape);
    let last = act.nb_planes() - 1;
    let present = c - last * len;
    if present == len {
        return;
    }
    for row in worker.share(act.batch * rows) {
        let start = act.pixel(row / rows, last, row % rows, 0);
        // SAFETY: rows are divided over the members, and the step holds one such slice at a time.
        unsafe {
            match act.elements {
                Elements::F32 => {
                    let row = worker.write(act.base + start, w * len);
                    row.chunks_mut(len).for_each(|pixel| pixel[present..].fill(0.0));
                }
                Elements::U8 { zero_point } => {
                    let row = worker.write_u8(act.base, start, w * len);
                    row.chunks_mut(len).for_each(|pixel| pixel[present..].fill(zero_point));
                }
            }
        }
    }
}

/// A row of a destination, from its first to its last pixel.
enum RowMut<'a> {
    F32(&'a mut [f32]),
    U8(&'a mut [u8], Quantization),
}

/// A row of a source, likewise.
enum Row<'a> {
    F32(&'a [f32]),
    U8(&'a [u8], Quantization),
}

/// The pixels of a row.
fn strided_mut<'a, T>(row: &'a mut [T], view: &View) -> impl Iterator<Item = &'a mut T> {
    row.iter_mut().step_by(view.pixel_stride)
}

impl View {
    fn row_mut<'a>(&self, worker: &Worker<'a>, image: usize, c: usize, h: usize) -> RowMut<'a> {
        let (offset, len) = (self.offset(image, c, h), self.row_len(self.shape.w));
        // SAFETY: a row's elements (of any channel) are no other row's, rows are divided over the
        // members, and the step holds one such slice at a time.
        unsafe {
            match self.quantization {
                Some(q) => RowMut::U8(worker.write_u8(0, offset, len), q),
                None => RowMut::F32(worker.write(offset, len)),
            }
        }
    }
}

impl Copy {
    /// One row of the destination.
    fn row(&self, worker: &Worker<'_>, image: usize, h: usize, dst: &View) {
        let src = &self.src;
        for (i, c) in self.channels.clone().enumerate() {
            let out = dst.row_mut(worker, image, c, h);
            let from = self.at(0, i, src.shape.c).zip(self.at(1, h, src.shape.h));
            let from = from.map(|(c, h)| self.source_row(worker, image, c, h));
            match (from, out) {
                (None, RowMut::F32(out)) => strided_mut(out, dst).for_each(|v| *v = self.fill),
                (None, RowMut::U8(out, q)) => {
                    let fill = q.quantize(self.fill);
                    strided_mut(out, dst).for_each(|v| *v = fill);
                }
                (Some(Row::F32(row)), RowMut::F32(out)) => {
                    self.pixels(row, out, dst, self.fill, |v| v);
                }
                (Some(Row::U8(row, from)), RowMut::F32(out)) => {
                    self.pixels(row, out, dst, self.fill, |v| from.dequantize(v));
                }
                (Some(Row::U8(row, from)), RowMut::U8(out, to)) if from == to => {
                    self.pixels(row, out, dst, to.quantize(self.fill), |v| v);
                }
                (Some(Row::U8(row, from)), RowMut::U8(out, to)) => {
                    let convert = |v| to.quantize(from.dequantize(v));
                    self.pixels(row, out, dst, to.quantize(self.fill), convert);
                }
                (Some(Row::F32(row)), RowMut::U8(out, q)) => {
                    let to = rounding(&q, Clamp::NONE);
                    self.pixels(row, out, dst, q.quantize(self.fill), |v| to.round(v / q.scale));
                }
            }
        }
    }

    /// The source's coordinate for the destination's, along an axis of this size.
    fn at(&self, axis: usize, i: usize, size: usize) -> Option<usize> {
        let position = self.start[axis] + (self.step[axis] * i) as isize;
        usize::try_from(position).ok().filter(|p| *p < size)
    }

    /// Whether a row is copied from end to end.
    fn is_whole_row(&self, dst: &View) -> bool {
        self.start[2] == 0 && self.step[2] == 1 && dst.shape.w == self.src.shape.w
    }

    fn source_row<'a>(&'a self, worker: &Worker<'a>, image: usize, c: usize, h: usize) -> Row<'a> {
        let src = &self.src;
        let (offset, len) = (src.offset(image, c, h), src.row_len(src.shape.w));
        match (&self.source, src.quantization) {
            (Source::Constant(data), _) => Row::F32(&data[offset..][..len]),
            // SAFETY: the source is another activation, not written in this step.
            (Source::Arena, None) => Row::F32(unsafe { worker.read(offset, len) }),
            // SAFETY: as above.
            (Source::Arena, Some(q)) => Row::U8(unsafe { worker.read_u8(0, offset, len) }, q),
        }
    }

    /// The pixels of one row.
    fn pixels<S: std::marker::Copy, D: std::marker::Copy>(
        &self,
        row: &[S],
        out: &mut [D],
        dst: &View,
        fill: D,
        convert: impl Fn(S) -> D,
    ) {
        let out = strided_mut(out, dst);
        if self.is_whole_row(dst) {
            for (value, from) in out.zip(row.iter().step_by(self.src.pixel_stride)) {
                *value = convert(*from);
            }
        } else {
            for (pixel, value) in out.enumerate() {
                let column = self.at(2, pixel, self.src.shape.w);
                *value = column.map_or(fill, |column| convert(row[column * self.src.pixel_stride]));
            }
        }
    }
}
