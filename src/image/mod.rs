//! Photographs to input tensors by a [`Recipe`].
//!
//! [`decode`] turns a JPEG or PNG file into upright 8-bit RGB, [`Recipe::prepare`] resizes, crops and
//! reorders it, [`Recipe::write_tensor`] scales the pixels into a network's input. Every step gives
//! what Pillow and torchvision give: a network sees the pixels it was trained on.
//!
//! ```no_run
//! use skipstone::image::{Limits, decode};
//!
//! let model = skipstone::Model::open("resnet50.skip")?;
//! let recipe = model.recipe().expect("packed with a recipe");
//! let photo = decode(&std::fs::read("photo.jpg").unwrap(), &Limits::default())?;
//! let pixels = recipe.prepare(&photo)?;
//! let mut input = vec![0.0; pixels.data().len()];
//! recipe.write_tensor(&pixels, &model.graph().inputs[0].axes, &mut input)?;
//! # Ok::<(), skipstone::Error>(())
//! ```
//!
//! [`Recipe`]: crate::Recipe
//! [`Recipe::prepare`]: crate::Recipe::prepare
//! [`Recipe::write_tensor`]: crate::Recipe::write_tensor

mod decode;
mod orientation;
mod prepare;
mod resample;

pub use decode::{FileKind, Limits, decode, stored_size};

/// An 8-bit image, interleaved, row by row from the top left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    channels: usize,
    data: Vec<u8>,
}

impl Image {
    /// An image from its pixels.
    ///
    /// # Panics
    /// If `data` does not have `width * height * channels` elements.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Self {
        assert_eq!(data.len(), width * height * channels, "pixels of a {width}x{height} image");
        Self { width, height, channels, data }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Bytes per pixel: 3, or 1 for luma.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The pixels.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The pixels, without copying them.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    fn row(&self, y: usize) -> &[u8] {
        let stride = self.width * self.channels;
        &self.data[y * stride..(y + 1) * stride]
    }
}
