//! The steps of a [`Recipe`]: resize, centre crop, channel order, and scaling into a tensor.

use std::borrow::Cow;
use std::ops::Range;

use super::resample::resize;
use super::{Image, Limits};
use crate::error::{Error, Result};
use crate::graph::{AxisOrder, Shape};
use crate::recipe::{ChannelOrder, Recipe, Resize};

impl Recipe {
    /// Resizes, crops and reorders a decoded image: the network's input, still in 8-bit pixels.
    ///
    /// # Errors
    /// An image without pixels, or a recipe whose result would be empty or over [`Limits::default`].
    pub fn prepare(&self, image: &Image) -> Result<Image> {
        if image.width == 0 || image.height == 0 {
            return Err(Error::invalid(format!(
                "the image is {}x{}: it has no pixels",
                image.width, image.height
            )));
        }
        let image = match self.channels {
            ChannelOrder::Gray => Cow::Owned(luma(image)),
            ChannelOrder::Rgb | ChannelOrder::Bgr => Cow::Borrowed(image),
        };
        let size = self.resized([image.width, image.height])?;
        let crop = match self.crop {
            Some([height, width]) => [width as usize, height as usize],
            None => size,
        };
        let limits = Limits::default();
        if crop.contains(&0)
            || crop.iter().any(|n| *n > limits.max_side)
            || crop[0] * crop[1] > limits.max_pixels
        {
            return Err(Error::invalid(format!(
                "the recipe makes {}x{} pixels of an image of {}x{}",
                crop[0], crop[1], image.width, image.height
            )));
        }
        let [x, y] = [0, 1].map(|axis| Crop::centre(size[axis], crop[axis]));
        let inside = resize(&image, size, [x.window, y.window], self.interpolation);
        let mut out = pad(inside, crop, [x.pad, y.pad]);
        if self.channels == ChannelOrder::Bgr {
            out.data.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.reverse());
        }
        Ok(out)
    }

    /// Writes a [prepared](Self::prepare) image as one image of an input with these axes.
    ///
    /// # Errors
    /// `mean` and `std` that do not have one number per channel, or another number of elements in
    /// `dst` than in `image`.
    pub fn write_tensor(&self, image: &Image, axes: &AxisOrder, dst: &mut [f32]) -> Result<()> {
        if self.mean.len() != image.channels || self.std.len() != image.channels {
            return Err(Error::invalid(format!(
                "the recipe has {} means and {} standard deviations for {} channels",
                self.mean.len(),
                self.std.len(),
                image.channels
            )));
        }
        if dst.len() != image.data.len() {
            return Err(Error::shape(format!(
                "the recipe makes {} channels of {}x{} pixels, the input has {} elements",
                image.channels,
                image.height,
                image.width,
                dst.len()
            )));
        }
        let shape = Shape::new(image.channels, image.height, image.width);
        let (c_stride, h_stride, w_stride) = axes.strides(shape);
        for c in 0..image.channels {
            let value = self.pixel_values(c);
            for y in 0..image.height {
                let row = image.row(y)[c..].iter().step_by(image.channels);
                let start = c * c_stride + y * h_stride;
                for (x, pixel) in row.enumerate() {
                    dst[start + x * w_stride] = value[usize::from(*pixel)];
                }
            }
        }
        Ok(())
    }

    /// Width and height after the resize.
    fn resized(&self, [width, height]: [usize; 2]) -> Result<[usize; 2]> {
        let size = match self.resize {
            None => [width, height],
            Some(Resize::Exact { height, width }) => [width as usize, height as usize],
            Some(Resize::ShortSide(side)) => {
                // torchvision cuts the long side's fraction off.
                let side = side as usize;
                if width <= height {
                    [side, side * height / width]
                } else {
                    [side * width / height, side]
                }
            }
        };
        if size.contains(&0) {
            return Err(Error::invalid("the recipe resizes to nothing"));
        }
        Ok(size)
    }
}

/// A centre crop along one axis: which part of the image stays, and how many zeros come before it.
struct Crop {
    window: Range<usize>,
    pad: usize,
}

impl Crop {
    /// As torchvision's `center_crop`: it pads an image that is too small, the odd pixel at the end,
    /// and rounds half a pixel of offset to the even number.
    fn centre(size: usize, crop: usize) -> Self {
        if crop >= size {
            return Self { window: 0..size, pad: (crop - size) / 2 };
        }
        let twice = size - crop;
        let start = twice / 2 + usize::from(twice % 4 == 3);
        Self { window: start..start + crop, pad: 0 }
    }
}

/// Puts `image` into zeros of `size`, `before` pixels from the left and the top.
fn pad(image: Image, size: [usize; 2], before: [usize; 2]) -> Image {
    if [image.width, image.height] == size {
        return image;
    }
    let [width, height] = size;
    let mut out =
        Image::new(width, height, image.channels, vec![0; width * height * image.channels]);
    for y in 0..image.height {
        let start = ((y + before[1]) * width + before[0]) * image.channels;
        let row = image.row(y);
        out.data[start..start + row.len()].copy_from_slice(row);
    }
    out
}

/// ITU-R 601 luma in Pillow's 16-bit fixed point; exact on gray.
fn luma(image: &Image) -> Image {
    let (pixels, _) = image.data.as_chunks::<3>();
    let data = pixels.iter().map(|[r, g, b]| {
        let weighted = u32::from(*r) * 19595 + u32::from(*g) * 38470 + u32::from(*b) * 7471;
        ((weighted + 0x8000) >> 16) as u8
    });
    Image::new(image.width, image.height, 1, data.collect())
}
