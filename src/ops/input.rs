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
        for row in worker.share(self.dst.batch * rows) {
            let (image, h) = (row / rows, row % rows);
            let position = self.first_image + image;
            match worker.inputs {
                Inputs::Batches(batches) => {
                    let len = self.dst.shape.len();
                    let pixels = &batches[self.index][position * len..][..len];
                    let strides = self.axes.strides(self.dst.shape);
                    self.row(worker, image, h, pixels, strides, |_, value| value);
                }
                Inputs::Images { images, nb_inputs } => {
                    let Image { pixels, strides } = images[position * nb_inputs + self.index];
                    match pixels {
                        Pixels::F32(pixels) => {
                            self.row(worker, image, h, pixels, strides, |_, value| value);
                        }
                        Pixels::U8 { pixels, values } => {
                            let value = |c: usize, pixel: u8| values[c][usize::from(pixel)];
                            self.row(worker, image, h, pixels, strides, value);
                        }
                    }
                }
            }
        }
    }
}

impl InputStep {
    /// Row `h` of one image, all channels.
    fn row<T: Copy>(
        &self,
        worker: &Worker<'_>,
        image: usize,
        h: usize,
        src: &[T],
        (c_stride, h_stride, w_stride): (usize, usize, usize),
        value: impl Fn(usize, T) -> f32,
    ) {
        let Self { dst, .. } = self;
        let width = dst.pixel_len();
        for plane in 0..dst.nb_planes() {
            let (start, len) = (dst.pixel(image, plane, h, 0), dst.shape.w * width);
            let channels = match dst.layout {
                Layout::Blocked => plane * width..dst.shape.c.min((plane + 1) * width),
                Layout::Interleaved => 0..dst.shape.c,
            };
            for (lane, c) in channels.enumerate() {
                // A tensor without columns has one.
                let from = src[c * c_stride + h * h_stride..].iter().step_by(w_stride.max(1));
                let from = from.map(|from| value(c, *from));
                // SAFETY: rows are divided over the members, and of a row this is the only slice.
                unsafe {
                    match self.quantization {
                        None => {
                            let out = worker.write(dst.base + start, len);
                            let to = out[lane..].iter_mut().step_by(width);
                            to.zip(from).for_each(|(to, from)| *to = from);
                        }
                        Some(q) => {
                            let rounding = rounding(&q, Clamp::NONE);
                            let out = worker.write_u8(dst.base, start, len);
                            let to = out[lane..].iter_mut().step_by(width);
                            to.zip(from)
                                .for_each(|(to, from)| *to = rounding.round(from / q.scale));
                        }
                    }
                }
            }
        }
    }
}
