//! The preprocessing recipe: how a photograph becomes the network's input.
//!
//! It travels inside the packed file, so that a model is never fed pixels prepared another way than
//! in training. This module only describes; `image` applies it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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

/// Largest height or width a recipe may ask for.
const MAX_SIDE: u32 = 1 << 14;

impl ChannelOrder {
    /// Number of channels.
    pub fn count(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Gray => 1,
        }
    }
}

impl Recipe {
    /// The recipes that have a name.
    pub fn presets() -> [(&'static str, Self); 3] {
        [
            ("imagenet", Self::imagenet()),
            ("imagenet-v2", Self::imagenet_v2()),
            ("caffe", Self::caffe()),
        ]
    }

    /// torchvision's classic evaluation on ImageNet, which most ResNet and VGG weights expect:
    /// short side 256, centre crop 224, RGB, ImageNet's mean and standard deviation.
    pub fn imagenet() -> Self {
        Self {
            resize: Some(Resize::ShortSide(256)),
            interpolation: Interpolation::Bilinear,
            crop: Some([224, 224]),
            channels: ChannelOrder::Rgb,
            scale: 1.0 / 255.0,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
        }
    }

    /// As [`Self::imagenet`] with short side 232: torchvision's `IMAGENET1K_V2` weights.
    pub fn imagenet_v2() -> Self {
        Self { resize: Some(Resize::ShortSide(232)), ..Self::imagenet() }
    }

    /// Caffe's classifier: resize to 256x256, centre crop 224, BGR, ImageNet's mean pixel
    /// subtracted. Yahoo's open_nsfw expects it.
    pub fn caffe() -> Self {
        Self {
            resize: Some(Resize::Exact { height: 256, width: 256 }),
            interpolation: Interpolation::Bilinear,
            crop: Some([224, 224]),
            channels: ChannelOrder::Bgr,
            scale: 1.0,
            mean: vec![104.0, 117.0, 123.0],
            std: vec![1.0; 3],
        }
    }

    /// Height and width of every prepared image, if the recipe fixes them.
    pub fn output_size(&self) -> Option<[usize; 2]> {
        let size = match (self.crop, self.resize) {
            (Some(crop), _) => crop,
            (None, Some(Resize::Exact { height, width })) => [height, width],
            _ => return None,
        };
        Some(size.map(|n| n as usize))
    }

    /// Reads a recipe in JSON and validates it.
    ///
    /// # Errors
    /// Malformed JSON, an unknown field, or what [`Self::validate`] refuses.
    pub fn from_json(json: &str) -> Result<Self> {
        let recipe: Self = serde_json::from_str(json)
            .map_err(|e| Error::invalid(format!("not a recipe: {e}")).caused_by(e))?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// What each 8-bit pixel of channel `c` becomes in the network's input.
    ///
    /// # Panics
    /// If there is no channel `c`.
    pub fn pixel_values(&self, c: usize) -> [f32; 256] {
        let (mean, std) = (self.mean[c], self.std[c]);
        std::array::from_fn(|pixel| (pixel as f32 * self.scale - mean) / std)
    }

    /// Checks that the recipe can be applied to any image.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) with the field, what it is
    /// and what is expected.
    pub fn validate(&self) -> Result<()> {
        let side = |what: &str, n: u32| {
            ensure((1..=MAX_SIDE).contains(&n), || {
                format!("the recipe's {what} is {n}, expected 1..={MAX_SIDE}")
            })
        };
        let resized = match self.resize {
            Some(Resize::ShortSide(n)) => Some([n, n]),
            Some(Resize::Exact { height, width }) => Some([height, width]),
            None => None,
        };
        for n in resized.iter().flatten() {
            side("resize", *n)?;
        }
        for n in self.crop.iter().flatten() {
            side("crop", *n)?;
        }
        if let (Some(resized), Some(crop)) = (resized, self.crop) {
            ensure(crop[0] <= resized[0] && crop[1] <= resized[1], || {
                format!("the recipe crops {crop:?} out of an image of at least {resized:?}")
            })?;
        }
        ensure(self.scale.is_finite() && self.scale != 0.0, || {
            format!("the recipe's scale is {}", self.scale)
        })?;
        for (what, values) in [("mean", &self.mean), ("std", &self.std)] {
            let (found, expected) = (values.len(), self.channels.count());
            ensure(found == expected, || {
                format!("the recipe's {what} has {found} values for {expected} channels")
            })?;
            ensure(values.iter().all(|v| v.is_finite()), || {
                format!("the recipe's {what} is {values:?}")
            })?;
        }
        ensure(self.std.iter().all(|v| *v > 0.0), || {
            format!("the recipe's std is {:?}, expected positive values", self.std)
        })
    }
}

fn ensure(ok: bool, message: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::invalid(message())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn presets_are_valid_and_survive_json() {
        for (name, recipe) in Recipe::presets() {
            let json = serde_json::to_string(&recipe).expect("a recipe is plain data");
            assert_eq!(Recipe::from_json(&json).expect(name), recipe);
        }
    }

    #[test]
    fn impossible_recipes_are_refused() {
        type Change = fn(&mut Recipe);
        let broken: [(&str, Change); 9] = [
            ("resize is 0", |r| r.resize = Some(Resize::ShortSide(0))),
            ("resize is 20000", |r| r.resize = Some(Resize::Exact { height: 20_000, width: 1 })),
            ("crops [300, 224]", |r| r.crop = Some([300, 224])),
            ("crop is 0", |r| r.crop = Some([0, 1])),
            ("scale is NaN", |r| r.scale = f32::NAN),
            ("3 values for 1 channels", |r| r.channels = ChannelOrder::Gray),
            ("std has 2 values", |r| r.std.truncate(2)),
            ("std is", |r| r.std[1] = 0.0),
            ("mean is", |r| r.mean[1] = f32::INFINITY),
        ];
        for (expected, change) in broken {
            let mut recipe = Recipe::imagenet();
            change(&mut recipe);
            let error = recipe.validate().expect_err(expected);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn json_with_a_misspelt_field_is_refused() {
        let json = r#"{"resize": null, "interpolation": "bilinear", "crop": null, "chanels": "rgb",
            "channels": "gray", "scale": 1, "mean": [0], "std": [1]}"#;
        let error = Recipe::from_json(json).expect_err("an unknown field");
        assert!(error.to_string().contains("chanels"), "{error}");
        assert!(Recipe::from_json(&json.replace(r#""chanels": "rgb","#, "")).is_ok());
    }
}
