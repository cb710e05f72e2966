//! The preprocessing recipe: how a photograph becomes the network's input.
//!
//! It travels inside the packed file, so that a model is never fed pixels prepared another way than
//! in training. This module only describes; `image` applies it.

use serde::{Deserialize, Serialize};

/// Resampling filter; all are antialiased as Pillow's `Image.resize` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Interpolation {
    /// Nearest pixel.
    Nearest,
    /// Triangle filter.
    Bilinear,
    /// Catmull-Rom-like cubic, a = -0.5.
    Bicubic,
    /// Lanczos, 3 lobes.
    Lanczos,
}

/// How the image is brought to size before the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Resize {
    /// The shorter side becomes this many pixels, the aspect ratio is kept (torchvision's `Resize(n)`).
    ShortSide(u32),
    /// Exactly this height and width.
    Exact {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
    },
}

/// Channel order of the network's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ChannelOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One luma channel (ITU-R 601), as Pillow's `convert("L")`.
    Gray,
}

/// How a decoded, upright 8-bit image becomes the input tensor:
/// resize, centre crop, reorder channels, then `(pixel * scale - mean) / std` per channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// First step; absent leaves the size alone.
    pub resize: Option<Resize>,
    /// Filter of the resize.
    pub interpolation: Interpolation,
    /// Centre crop to height and width, after the resize; absent takes the whole image.
    pub crop: Option<[u32; 2]>,
    /// Order of `mean`, `std` and of the tensor's channels.
    pub channels: ChannelOrder,
    /// Multiplies the 8-bit pixel: `1/255` maps to `0..=1`.
    pub scale: f32,
    /// Subtracted after scaling, one per channel.
    pub mean: Vec<f32>,
    /// Divides last, one per channel.
    pub std: Vec<f32>,
}
