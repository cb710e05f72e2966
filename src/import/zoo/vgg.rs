//! VGG with torchvision's names.

use super::builder::{Builder, Value, Window};
use crate::error::{Error, Result};

#[derive(Clone, Debug)]
pub(super) struct Vgg {
    /// Channels of each stage's 3x3 layers; each stage ends with a 2x2 pool.
    pub(super) stages: &'static [&'static [usize]],
    pub(super) batch_norm: bool,
    /// Height and width to which torchvision's adaptive average pool brings the last stage.
    pub(super) pooled: Option<usize>,
    /// Features of the two hidden linear layers.
    pub(super) hidden: usize,
}

impl Vgg {
    pub(super) fn build(&self, b: &mut Builder, mut x: Value, classes: usize) -> Result<Value> {
        // Position in torchvision's `nn.Sequential`, which counts every module.
        let mut position = 0;
        let mut next = || {
            position += 1;
            format!("features.{}", position - 1)
        };
        for stage in self.stages {
            for &oc in *stage {
                x = b.conv(&next(), &x, oc, Window::new(3, 1, 1), 1, true)?;
                if self.batch_norm {
                    x = b.batch_norm(&next(), &x);
                }
                x = b.relu(&next(), &x);
            }
            x = b.max_pool(&next(), &x, Window::new(2, 2, 0))?;
        }
        if let Some(pooled) = self.pooled {
            let (h, w) = (x.shape.h, x.shape.w);
            // Other sizes have windows of unequal extent, which no ONNX operator expresses.
            if h % pooled != 0 || w % pooled != 0 {
                return Err(Error::shape(format!(
                    "the last stage has {h}x{w} positions, expected multiples of {pooled}: use \
                     an input of 224x224"
                ))
                .at_node("avgpool"));
            }
            x = b.average_pool("avgpool", &x, [h / pooled, w / pooled]);
        }
        x = b.flatten("flatten", &x);
        // Modules 2 and 5 are dropouts, which inference drops.
        for (linear, relu) in [("classifier.0", "classifier.1"), ("classifier.3", "classifier.4")] {
            x = b.linear(linear, &x, self.hidden);
            x = b.relu(relu, &x);
        }
        Ok(b.linear("classifier.6", &x, classes))
    }
}
