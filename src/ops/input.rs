//! Users' images into the first activations, wherever they are and whatever they are made of.

use super::qeltwise::rounding;
use super::reorder::zero_absent_channels;
use super::{Act, Layout, Step, Worker, zero_frame};
use crate::graph::{AxisOrder, Clamp, Quantization, Shape};

/// What a run reads.
#[derive(Clone, Copy)]
pub(crate) enum Inputs<'a> {
    /// Per input, all images of the batch, dense, in the network's own axes.
    Batches(&'a [&'a [f32]]),
    /// Each image by itself: input `i` of the image in position `b` is `images[b * nb_inputs + i]`.
    Images { images: &'a [Image<'a>], nb_inputs: usize },
}

/// One image of one input.
#[derive(Clone, Copy)]
pub(crate) struct Image<'a> {
    pub(crate) pixels: Pixels<'a>,
    /// Distance in elements of channels, rows and columns.
    pub(crate) strides: (usize, usize, usize),
}

/// An image's elements; as many as its shape has.
#[derive(Clone, Copy)]
pub(crate) enum Pixels<'a> {
    F32(&'a [f32]),
    /// Bytes, and what each means per channel.
    U8 {
        pixels: &'a [u8],
        values: &'a [[f32; 256]],
    },
}

/// Copies images of one input to its activation.
pub(crate) struct InputStep {
    pub(crate) index: usize,
    /// The position in the batch of the activation's first image.
    pub(crate) first_image: usize,
    pub(crate) axes: AxisOrder,
    pub(crate) dst: Act,
    /// How the activation stores them; f32 if absent.
    pub(crate) quantization: Option<Quantization>,
}

impl Step for InputStep {
    unsafe fn run(&self, worker: &Worker<'_>) {
        // SAFETY: this step writes `dst`, and its frame only here.
        unsafe { zero_frame(worker, &self.dst) };
        zero_absent_channels(worker, &self.dst);
        let Shape { h: rows, .. } = self.dst.shape;
        // Of the image at the position: what each byte becomes.
        let mut bytes: Option<(usize, ByteTables)> = None;
        for row in worker.share(self.dst.batch * rows) {
            let (image, h) = (row / rows, row % rows);
            let position = self.first_image + image;
            let (pixels, strides) = match worker.inputs {
                Inputs::Batches(batches) => {
                    let len = self.dst.shape.len();
                    let pixels = &batches[self.index][position * len..][..len];
                    (Pixels::F32(pixels), self.axes.strides(self.dst.shape))
                }
                Inputs::Images { images, nb_inputs } => {
                    let Image { pixels, strides } = images[position * nb_inputs + self.index];
                    (pixels, strides)
                }
            };
            let place = Row { worker, image, h, strides };
            let to_u8 = self.quantization.map(|q| {
                let rounding = rounding(&q, Clamp::NONE);
                move |value: f32| rounding.round(value / q.scale)
            });
            match (pixels, to_u8) {
                (Pixels::F32(pixels), None) => self.row(place, pixels, |_, value| value),
                (Pixels::F32(pixels), Some(to_u8)) => {
                    self.row(place, pixels, |_, value| to_u8(value));
                }
                (Pixels::U8 { pixels, values }, None) => {
                    self.row(place, pixels, |c, pixel| values[c][usize::from(pixel)]);
                }
                (Pixels::U8 { pixels, values }, Some(to_u8)) if values.len() <= MAX_TABLES => {
                    let fill = || {
                        let mut tables = [[0; 256]; MAX_TABLES];
                        let each = tables.iter_mut().zip(values);
                        each.for_each(|(table, values)| *table = values.map(&to_u8));
                        (position, tables)
                    };
                    if bytes.as_ref().is_none_or(|(of, _)| *of != position) {
                        bytes = None;
                    }
                    let (_, tables) = bytes.get_or_insert_with(fill);
                    self.row(place, pixels, |c, pixel| tables[c][usize::from(pixel)]);
                }
                (Pixels::U8 { pixels, values }, Some(to_u8)) => {
                    self.row(place, pixels, |c, pixel| to_u8(values[c][usize::from(pixel)]));
                }
            }
        }
    }
}

/// Most channels whose bytes have tables.
const MAX_TABLES: usize = 4;

/// By channel, what a byte of an image becomes.
type ByteTables = [[u8; 256]; MAX_TABLES];

/// A row of an image, and where it comes from.
struct Row<'a> {
    worker: &'a Worker<'a>,
    image: usize,
    h: usize,
    /// Distance in elements of channels, rows and columns.
    strides: (usize, usize, usize),
}

/// Pixels that are converted at a time: what is contiguous in the source is not in the result.
const STAGED: usize = 64;

impl InputStep {
    /// A row, all channels.
    fn row<T: Copy, E: Element>(
        &self,
        Row { worker, image, h, strides: (c_stride, h_stride, w_stride) }: Row<'_>,
        src: &[T],
        value: impl Fn(usize, T) -> E,
    ) {
        let Self { dst, .. } = self;
        let width = dst.pixel_len();
        // A tensor without columns has one.
        let w_stride = w_stride.max(1);
        for plane in 0..dst.nb_planes() {
            let (start, len) = (dst.pixel(image, plane, h, 0), dst.shape.w * width);
            // SAFETY: rows are divided over the members, and of a row this is the only slice.
            let out = unsafe { E::row(worker, dst.base, start, len) };
            let channels = match dst.layout {
                Layout::Blocked => plane * width..dst.shape.c.min((plane + 1) * width),
                Layout::Interleaved => 0..dst.shape.c,
            };
            for (lane, c) in channels.enumerate() {
                let from = &src[c * c_stride + h * h_stride..];
                let mut staged = [E::default(); STAGED];
                for (i, out) in out.chunks_mut(STAGED * width).enumerate() {
                    let from = &from[i * STAGED * w_stride..];
                    let staged = &mut staged[..out.len() / width];
                    if w_stride == 1 {
                        staged.iter_mut().zip(from).for_each(|(to, from)| *to = value(c, *from));
                    } else {
                        let from = from.iter().step_by(w_stride);
                        staged.iter_mut().zip(from).for_each(|(to, from)| *to = value(c, *from));
                    }
                    let to = out[lane..].iter_mut().step_by(width);
                    to.zip(staged).for_each(|(to, staged)| *to = *staged);
                }
            }
        }
    }
}

/// An element of an activation.
trait Element: Copy + Default {
    /// A row of one, from element `start` on.
    ///
    /// # Safety
    /// As [`Worker::write`].
    unsafe fn row<'a>(worker: &Worker<'a>, base: usize, start: usize, len: usize)
    -> &'a mut [Self];
}

impl Element for f32 {
    unsafe fn row<'a>(
        worker: &Worker<'a>,
        base: usize,
        start: usize,
        len: usize,
    ) -> &'a mut [Self] {
        // SAFETY: the caller's.
        unsafe { worker.write(base + start, len) }
    }
}

impl Element for u8 {
    unsafe fn row<'a>(
        worker: &Worker<'a>,
        base: usize,
        start: usize,
        len: usize,
    ) -> &'a mut [Self] {
        // SAFETY: the caller's.
        unsafe { worker.write_u8(base, start, len) }
    }
}
