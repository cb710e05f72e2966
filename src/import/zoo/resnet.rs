//! ResNets and their relatives: one definition with torchvision's names.

use super::builder::{Builder, Value, Window};
use crate::error::Result;

#[derive(Clone, Debug)]
pub(super) struct ResNet {
    pub(super) block: Block,
    /// Blocks per stage.
    pub(super) depths: &'static [usize],
    /// Channels of the first stage's 3x3 layers; doubled from stage to stage.
    pub(super) planes: usize,
    /// Groups of a bottleneck's 3x3.
    pub(super) groups: usize,
    /// A bottleneck's 3x3 has `planes * width_per_group / 64 * groups` channels.
    pub(super) width_per_group: usize,
    pub(super) stem: Stem,
    pub(super) shortcut: Shortcut,
    /// Version 2 of the architecture: batch normalisation and ReLU before each convolution.
    pub(super) preactivation: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Block {
    /// Two 3x3.
    Basic,
    /// 1x1, 3x3 (strided), 1x1 to four times the channels.
    Bottleneck,
    /// As `Bottleneck`, strided in the first 1x1.
    BottleneckV1,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stem {
    /// 7x7 and a pool, each of stride 2.
    ImageNet,
    /// 3x3.
    Cifar,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shortcut {
    /// Identity, or a 1x1 where the shape changes (option B).
    Projection,
    /// Identity, subsampled and padded with zero channels where the shape changes (option A).
    ZeroPad,
    /// None: a plain network.
    None,
}

/// One convolution of a block.
struct Layer {
    oc: usize,
    window: Window,
    groups: usize,
}

impl ResNet {
    pub(super) fn build(&self, b: &mut Builder, x: Value, classes: usize) -> Result<Value> {
        let mut x = self.build_stem(b, &x)?;
        for (stage, &depth) in self.depths.iter().enumerate() {
            for i in 0..depth {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let name = format!("layer{}.{i}", stage + 1);
                x = self.build_block(b, &name, &x, self.planes << stage, stride)?;
            }
        }
        if self.preactivation {
            x = b.batch_norm("norm", &x);
            x = b.relu("relu", &x);
        }
        let x = b.global_average_pool("avgpool", &x);
        let x = b.flatten("flatten", &x);
        Ok(b.linear("fc", &x, classes))
    }

    fn build_stem(&self, b: &mut Builder, x: &Value) -> Result<Value> {
        let window = match self.stem {
            Stem::ImageNet => Window::new(7, 2, 3),
            Stem::Cifar => Window::new(3, 1, 1),
        };
        let mut x = b.conv("conv1", x, self.planes, window, 1, false)?;
        if !self.preactivation {
            x = b.batch_norm("bn1", &x);
            x = b.relu("relu", &x);
        }
        match self.stem {
            Stem::ImageNet => b.max_pool("maxpool", &x, Window::new(3, 2, 1)),
            Stem::Cifar => Ok(x),
        }
    }

    fn layers(&self, planes: usize, stride: usize) -> Vec<Layer> {
        let layer = |oc, window, groups| Layer { oc, window, groups };
        let width = planes * self.width_per_group / 64 * self.groups;
        let (first, second) =
            if self.block == Block::BottleneckV1 { (stride, 1) } else { (1, stride) };
        match self.block {
            Block::Basic => vec![
                layer(planes, Window::new(3, stride, 1), 1),
                layer(planes, Window::new(3, 1, 1), 1),
            ],
            Block::Bottleneck | Block::BottleneckV1 => vec![
                layer(width, Window::new(1, first, 0), 1),
                layer(width, Window::new(3, second, 1), self.groups),
                layer(4 * planes, Window::new(1, 1, 0), 1),
            ],
        }
    }

    fn build_block(
        &self,
        b: &mut Builder,
        name: &str,
        x: &Value,
        planes: usize,
        stride: usize,
    ) -> Result<Value> {
        let layers = self.layers(planes, stride);
        let mut y = x.clone();
        // What a projection reads: the block's input, activated in version 2.
        let mut projected = x.clone();
        for (i, layer) in layers.iter().enumerate() {
            let n = i + 1;
            if self.preactivation {
                y = b.batch_norm(&format!("{name}.bn{n}"), &y);
                y = b.relu(&format!("{name}.relu{n}"), &y);
                if i == 0 {
                    projected = y.clone();
                }
            }
            let conv = format!("{name}.conv{n}");
            y = b.conv(&conv, &y, layer.oc, layer.window, layer.groups, false)?;
            if !self.preactivation {
                y = b.batch_norm(&format!("{name}.bn{n}"), &y);
                if n < layers.len() {
                    y = b.relu(&format!("{name}.relu{n}"), &y);
                }
            }
        }
        let identity = stride == 1 && x.shape.c == y.shape.c;
        let shortcut = match self.shortcut {
            Shortcut::None => None,
            _ if identity => Some(x.clone()),
            Shortcut::Projection => {
                let window = Window::new(1, stride, 0);
                let conv = format!("{name}.downsample.0");
                let p = b.conv(&conv, &projected, y.shape.c, window, 1, false)?;
                let bn = format!("{name}.downsample.1");
                Some(if self.preactivation { p } else { b.batch_norm(&bn, &p) })
            }
            Shortcut::ZeroPad => {
                let s = b.subsample(&format!("{name}.shortcut"), x);
                let pad = (y.shape.c - x.shape.c) / 2;
                Some(b.pad_channels(&format!("{name}.shortcut.pad"), &s, pad))
            }
        };
        if let Some(shortcut) = shortcut {
            y = b.add(&format!("{name}.add"), &y, &shortcut);
        }
        if !self.preactivation {
            y = b.relu(&format!("{name}.relu"), &y);
        }
        Ok(y)
    }
}
