//! The architectures this library knows by name, as ONNX graphs without weights.
//!
//! Each is defined once, as the graph that torchvision's export would have before its batch
//! normalisations are folded, with initializers named as torchvision's `state_dict` keys.
//! [`synth`](super::synth) and [`safetensors_file`](super::safetensors_file) fill them in.

mod builder;
mod resnet;
mod vgg;

use crate::error::{Error, Result};
use crate::graph::Shape;
use builder::Builder;
use resnet::{Block, ResNet, Shortcut, Stem};
use vgg::Vgg;

use super::onnx::proto::ModelProto;

/// A network that can be built by name.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// As `--arch` and `synth` take it, e.g. `resnet50`.
    pub name: &'static str,
    /// One line for a list.
    pub summary: &'static str,
    /// Whether torchvision has weights for it, so that a safetensors file can be imported.
    pub torchvision: bool,
    /// Shape of one input image.
    pub input: Shape,
    /// Number of classes.
    pub classes: usize,
    family: Family,
}

#[derive(Clone, Debug)]
enum Family {
    ResNet(ResNet),
    Vgg(Vgg),
}

/// A graph whose initializers have names and shapes but no data.
pub(super) struct Blueprint {
    /// The graph. Integer constants are `Constant` nodes, so initializers are parameters.
    pub(super) model: ModelProto,
    /// Multiply-accumulates per image.
    pub(super) macs: u64,
}

impl Architecture {
    /// The architecture called `name`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) with the known names.
    pub fn by_name(name: &str) -> Result<&'static Self> {
        architectures().iter().find(|a| a.name == name).ok_or_else(|| {
            let names: Vec<_> = architectures().iter().map(|a| a.name).collect();
            Error::invalid(format!("unknown architecture '{name}', expected {}", names.join(", ")))
        })
    }

    /// Number of trained parameters: batch normalisations count scale and shift, not statistics.
    pub fn nb_parameters(&self) -> u64 {
        let graph = self.default_blueprint().model.graph.unwrap_or_default();
        let trained = graph.initializer.iter().filter(|t| !t.name.contains(".running_"));
        trained.map(|t| t.dims.iter().product::<i64>() as u64).sum()
    }

    /// Multiply-accumulates of convolutions and linear layers for one image of the default size.
    pub fn macs(&self) -> u64 {
        self.default_blueprint().macs
    }

    fn default_blueprint(&self) -> Blueprint {
        self.blueprint(None, None).expect("an architecture takes its own input size")
    }

    /// The graph for images of `input_size` (height, width) and a number of `classes`; `None`
    /// means the architecture's own.
    ///
    /// # Errors
    /// An input size that the network cannot take.
    pub(super) fn blueprint(
        &self,
        input_size: Option<[usize; 2]>,
        classes: Option<usize>,
    ) -> Result<Blueprint> {
        let [h, w] = input_size.unwrap_or([self.input.h, self.input.w]);
        let input = Shape::new(self.input.c, h, w);
        input.check()?;
        let classes = classes.unwrap_or(self.classes);
        let (mut b, x) = Builder::new(self.name, input);
        let logits = match &self.family {
            Family::ResNet(net) => net.build(&mut b, x, classes)?,
            Family::Vgg(net) => net.build(&mut b, x, classes)?,
        };
        let (model, macs) = b.finish(&logits);
        Ok(Blueprint { model, macs })
    }
}

/// All architectures: torchvision's first, then those only `synth` makes.
pub fn architectures() -> &'static [Architecture] {
    &ARCHITECTURES
}

const IMAGENET: Shape = Shape { c: 3, h: 224, w: 224 };
const CIFAR: Shape = Shape { c: 3, h: 32, w: 32 };
/// Odd on purpose: every strided layer of a tiny network has a tail.
const TINY: Shape = Shape { c: 3, h: 35, w: 29 };

const fn torchvision(name: &'static str, summary: &'static str, family: Family) -> Architecture {
    Architecture { name, summary, torchvision: true, input: IMAGENET, classes: 1000, family }
}

const fn imagenet(name: &'static str, summary: &'static str, family: Family) -> Architecture {
    Architecture { torchvision: false, ..torchvision(name, summary, family) }
}

const fn small(
    name: &'static str,
    summary: &'static str,
    input: Shape,
    family: Family,
) -> Architecture {
    Architecture { name, summary, torchvision: false, input, classes: 10, family }
}

const fn resnet(block: Block, depths: &'static [usize]) -> ResNet {
    ResNet {
        block,
        depths,
        planes: 64,
        groups: 1,
        width_per_group: 64,
        stem: Stem::ImageNet,
        shortcut: Shortcut::Projection,
        preactivation: false,
    }
}

const fn cifar(depths: &'static [usize]) -> Family {
    Family::ResNet(ResNet {
        planes: 16,
        stem: Stem::Cifar,
        shortcut: Shortcut::ZeroPad,
        ..resnet(Block::Basic, depths)
    })
}

const fn vgg(stages: &'static [&'static [usize]], batch_norm: bool) -> Family {
    Family::Vgg(Vgg { stages, batch_norm, pooled: Some(7), hidden: 4096 })
}

const fn tiny_vgg(batch_norm: bool) -> Family {
    Family::Vgg(Vgg { stages: &[&[12], &[24], &[24, 24]], batch_norm, pooled: None, hidden: 40 })
}

const D18: &[usize] = &[2, 2, 2, 2];
const D50: &[usize] = &[3, 4, 6, 3];
const D101: &[usize] = &[3, 4, 23, 3];
const D152: &[usize] = &[3, 8, 36, 3];
const TINY_DEPTHS: &[usize] = &[1, 2, 1, 1];

const VGG11: &[&[usize]] = &[&[64], &[128], &[256; 2], &[512; 2], &[512; 2]];
const VGG13: &[&[usize]] = &[&[64; 2], &[128; 2], &[256; 2], &[512; 2], &[512; 2]];
const VGG16: &[&[usize]] = &[&[64; 2], &[128; 2], &[256; 3], &[512; 3], &[512; 3]];
const VGG19: &[&[usize]] = &[&[64; 2], &[128; 2], &[256; 4], &[512; 4], &[512; 4]];

use Block::{Basic, Bottleneck, BottleneckV1};

static ARCHITECTURES: [Architecture; 41] = [
    torchvision("resnet18", "ResNet-18", Family::ResNet(resnet(Basic, D18))),
    torchvision("resnet34", "ResNet-34", Family::ResNet(resnet(Basic, D50))),
    torchvision(
        "resnet50",
        "ResNet-50 (v1.5: stride in the 3x3)",
        Family::ResNet(resnet(Bottleneck, D50)),
    ),
    torchvision("resnet101", "ResNet-101 (v1.5)", Family::ResNet(resnet(Bottleneck, D101))),
    torchvision("resnet152", "ResNet-152 (v1.5)", Family::ResNet(resnet(Bottleneck, D152))),
    torchvision(
        "wide_resnet50_2",
        "Wide ResNet-50, 3x3 layers twice as wide",
        Family::ResNet(ResNet { width_per_group: 128, ..resnet(Bottleneck, D50) }),
    ),
    torchvision(
        "wide_resnet101_2",
        "Wide ResNet-101, 3x3 layers twice as wide",
        Family::ResNet(ResNet { width_per_group: 128, ..resnet(Bottleneck, D101) }),
    ),
    torchvision(
        "resnext50_32x4d",
        "ResNeXt-50, 32 groups of 4 channels",
        Family::ResNet(ResNet { groups: 32, width_per_group: 4, ..resnet(Bottleneck, D50) }),
    ),
    torchvision(
        "resnext101_32x8d",
        "ResNeXt-101, 32 groups of 8 channels",
        Family::ResNet(ResNet { groups: 32, width_per_group: 8, ..resnet(Bottleneck, D101) }),
    ),
    torchvision(
        "resnext101_64x4d",
        "ResNeXt-101, 64 groups of 4 channels",
        Family::ResNet(ResNet { groups: 64, width_per_group: 4, ..resnet(Bottleneck, D101) }),
    ),
    torchvision("vgg11", "VGG-11", vgg(VGG11, false)),
    torchvision("vgg13", "VGG-13", vgg(VGG13, false)),
    torchvision("vgg16", "VGG-16", vgg(VGG16, false)),
    torchvision("vgg19", "VGG-19", vgg(VGG19, false)),
    torchvision("vgg11_bn", "VGG-11 with batch normalisation", vgg(VGG11, true)),
    torchvision("vgg13_bn", "VGG-13 with batch normalisation", vgg(VGG13, true)),
    torchvision("vgg16_bn", "VGG-16 with batch normalisation", vgg(VGG16, true)),
    torchvision("vgg19_bn", "VGG-19 with batch normalisation", vgg(VGG19, true)),
    imagenet(
        "plain18",
        "ResNet-18 without shortcuts",
        Family::ResNet(ResNet { shortcut: Shortcut::None, ..resnet(Basic, D18) }),
    ),
    imagenet(
        "plain34",
        "ResNet-34 without shortcuts",
        Family::ResNet(ResNet { shortcut: Shortcut::None, ..resnet(Basic, D50) }),
    ),
    imagenet(
        "resnet50_v1",
        "ResNet-50 as first published: stride in the first 1x1",
        Family::ResNet(resnet(BottleneckV1, D50)),
    ),
    imagenet(
        "resnet101_v1",
        "ResNet-101 as first published: stride in the first 1x1",
        Family::ResNet(resnet(BottleneckV1, D101)),
    ),
    imagenet(
        "resnet18_v2",
        "pre-activation ResNet-18",
        Family::ResNet(ResNet { preactivation: true, ..resnet(Basic, D18) }),
    ),
    imagenet(
        "resnet50_v2",
        "pre-activation ResNet-50",
        Family::ResNet(ResNet { preactivation: true, ..resnet(Bottleneck, D50) }),
    ),
    imagenet(
        "resnet152_v2",
        "pre-activation ResNet-152",
        Family::ResNet(ResNet { preactivation: true, ..resnet(Bottleneck, D152) }),
    ),
    small("resnet20_cifar", "CIFAR ResNet-20, zero-padded shortcuts", CIFAR, cifar(&[3; 3])),
    small("resnet32_cifar", "CIFAR ResNet-32, zero-padded shortcuts", CIFAR, cifar(&[5; 3])),
    small("resnet44_cifar", "CIFAR ResNet-44, zero-padded shortcuts", CIFAR, cifar(&[7; 3])),
    small("resnet56_cifar", "CIFAR ResNet-56, zero-padded shortcuts", CIFAR, cifar(&[9; 3])),
    small("resnet110_cifar", "CIFAR ResNet-110, zero-padded shortcuts", CIFAR, cifar(&[18; 3])),
    small(
        "tiny_resnet",
        "test network: basic blocks",
        TINY,
        Family::ResNet(ResNet { planes: 12, ..resnet(Basic, TINY_DEPTHS) }),
    ),
    small(
        "tiny_bottleneck",
        "test network: bottlenecks, stride in the 3x3",
        TINY,
        Family::ResNet(ResNet { planes: 8, ..resnet(Bottleneck, TINY_DEPTHS) }),
    ),
    small(
        "tiny_bottleneck_v1",
        "test network: bottlenecks, stride in the first 1x1",
        TINY,
        Family::ResNet(ResNet { planes: 8, ..resnet(BottleneckV1, TINY_DEPTHS) }),
    ),
    small(
        "tiny_resnext",
        "test network: grouped bottlenecks",
        TINY,
        Family::ResNet(ResNet {
            planes: 8,
            groups: 4,
            width_per_group: 24,
            ..resnet(Bottleneck, TINY_DEPTHS)
        }),
    ),
    small(
        "tiny_plain",
        "test network: basic blocks without shortcuts",
        TINY,
        Family::ResNet(ResNet {
            planes: 12,
            shortcut: Shortcut::None,
            ..resnet(Basic, TINY_DEPTHS)
        }),
    ),
    small(
        "tiny_preact",
        "test network: pre-activation basic blocks",
        TINY,
        Family::ResNet(ResNet { planes: 12, preactivation: true, ..resnet(Basic, TINY_DEPTHS) }),
    ),
    small(
        "tiny_preact_bottleneck",
        "test network: pre-activation bottlenecks",
        TINY,
        Family::ResNet(ResNet {
            planes: 8,
            preactivation: true,
            ..resnet(Bottleneck, TINY_DEPTHS)
        }),
    ),
    small("tiny_cifar", "test network: zero-padded shortcuts", TINY, cifar(&[1, 2, 1])),
    small("tiny_vgg", "test network: VGG", TINY, tiny_vgg(false)),
    small("tiny_vgg_bn", "test network: VGG with batch normalisation", TINY, tiny_vgg(true)),
    small(
        "tiny_wide",
        "test network: bottlenecks with a wide 3x3",
        TINY,
        Family::ResNet(ResNet {
            planes: 8,
            width_per_group: 128,
            ..resnet(Bottleneck, TINY_DEPTHS)
        }),
    ),
];
