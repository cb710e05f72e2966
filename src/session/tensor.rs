//! Users' tensors: where their elements are, what type they have, and in which order.

use super::SessionPort;
use super::job::{self, Source};
use crate::error::{Error, Result};
use crate::graph::AxisOrder;

/// A tensor of one or more images, dense.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Its elements.
    pub elements: Elements<'a>,
    /// The order of its axes.
    pub order: ImageOrder,
}

/// A tensor's elements.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// What the network reads.
    F32(&'a [f32]),
    /// Pixels, of the size and channel order that the model's recipe makes; its scale, mean and
    /// standard deviation are applied as the network reads them.
    U8(&'a [u8]),
}

/// The order of the axes of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageOrder {
    /// As the network's input has them.
    #[default]
    Native,
    /// Channel by channel.
    Chw,
    /// Pixel by pixel.
    Hwc,
}

impl<'a> TensorView<'a> {
    /// Elements as the network reads them, axes as its input has them.
    pub fn f32(elements: &'a [f32]) -> Self {
        Self { elements: Elements::F32(elements), order: ImageOrder::Native }
    }

    /// Pixels, interleaved, as image decoders give them.
    pub fn pixels(pixels: &'a [u8]) -> Self {
        Self { elements: Elements::U8(pixels), order: ImageOrder::Hwc }
    }

    /// This tensor as an input's source, and the number of images.
    pub(super) fn source(&self, port: &SessionPort) -> Result<(Source, usize)> {
        let (name, shape) = (&port.port.name, port.shape);
        let (elements, len) = match self.elements {
            Elements::F32(elements) => (job::Elements::F32(elements.as_ptr()), elements.len()),
            Elements::U8(_) if !port.takes_u8 => {
                return Err(Error::unsupported(format!(
                    "input '{name}' takes no bytes: the model has no recipe that says what they \
                     mean for {} channels",
                    shape.c
                )));
            }
            Elements::U8(elements) => (job::Elements::U8(elements.as_ptr()), elements.len()),
        };
        let image_len = shape.len();
        if len == 0 || !len.is_multiple_of(image_len) {
            return Err(Error::shape(format!(
                "input '{name}' has {len} elements, expected {image_len} per image of {shape}"
            )));
        }
        let strides = match self.order {
            ImageOrder::Native => port.port.axes.strides(shape),
            ImageOrder::Chw => AxisOrder::nchw().strides(shape),
            ImageOrder::Hwc => AxisOrder::nhwc().strides(shape),
        };
        Ok((Source { elements, image_len, strides }, len / image_len))
    }
}

/// A tensor that owns its elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    elements: Owned,
    order: ImageOrder,
}

#[derive(Clone, Debug, PartialEq)]
enum Owned {
    F32(Vec<f32>),
    U8(Vec<u8>),
}

impl Tensor {
    /// As [`Elements::F32`].
    pub fn f32(elements: Vec<f32>, order: ImageOrder) -> Self {
        Self { elements: Owned::F32(elements), order }
    }

    /// As [`Elements::U8`].
    pub fn u8(elements: Vec<u8>, order: ImageOrder) -> Self {
        Self { elements: Owned::U8(elements), order }
    }

    /// The tensor without its ownership.
    pub fn view(&self) -> TensorView<'_> {
        let elements = match &self.elements {
            Owned::F32(elements) => Elements::F32(elements),
            Owned::U8(elements) => Elements::U8(elements),
        };
        TensorView { elements, order: self.order }
    }
}
