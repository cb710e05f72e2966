//! What the benches share: the networks' convolutions by layer name, and one-layer models.

#![allow(dead_code, reason = "each bench uses a part")]

use std::sync::Arc;

use skipstone::format::{PackOptions, to_bytes};
use skipstone::graph::{
    AxisOrder, Clamp, Conv, Graph, Network, Node, Op, Pad, Port, Shape, ValueId,
};
use skipstone::tune::{Key, Layer, Table, Tables};
use skipstone::{Executor, ExecutorOptions, Model, Runtime};

/// A convolution of a network at 224x224: name, input channels, input height (= width), output
/// channels, kernel, stride.
pub(crate) struct ConvLayer {
    pub(crate) name: &'static str,
    pub(crate) ic: usize,
    pub(crate) size: usize,
    pub(crate) oc: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
}

const fn layer(
    name: &'static str,
    ic: usize,
    size: usize,
    oc: usize,
    kernel: usize,
    stride: usize,
) -> ConvLayer {
    ConvLayer { name, ic, size, oc, kernel, stride }
}

/// The distinct convolutions of ResNet-18/34 (`basic`), ResNet-50/101/152 (`bottleneck`) and
/// VGG-16/19; a layer that several networks have is listed once.
pub(crate) const LAYERS: &[ConvLayer] = &[
    layer("resnet/conv1", 3, 224, 64, 7, 2),
    layer("basic/layer1.conv", 64, 56, 64, 3, 1),
    layer("basic/layer2.0.conv1", 64, 56, 128, 3, 2),
    layer("basic/layer2.0.downsample", 64, 56, 128, 1, 2),
    layer("basic/layer2.conv", 128, 28, 128, 3, 1),
    layer("basic/layer3.0.conv1", 128, 28, 256, 3, 2),
    layer("basic/layer3.0.downsample", 128, 28, 256, 1, 2),
    layer("basic/layer3.conv", 256, 14, 256, 3, 1),
    layer("basic/layer4.0.conv1", 256, 14, 512, 3, 2),
    layer("basic/layer4.0.downsample", 256, 14, 512, 1, 2),
    layer("basic/layer4.conv", 512, 7, 512, 3, 1),
    layer("bottleneck/layer1.0.conv1", 64, 56, 64, 1, 1),
    layer("bottleneck/layer1.conv3", 64, 56, 256, 1, 1),
    layer("bottleneck/layer1.conv1", 256, 56, 64, 1, 1),
    layer("bottleneck/layer2.0.conv1", 256, 56, 128, 1, 1),
    layer("bottleneck/layer2.0.conv2", 128, 56, 128, 3, 2),
    layer("bottleneck/layer2.0.downsample", 256, 56, 512, 1, 2),
    layer("bottleneck/layer2.conv3", 128, 28, 512, 1, 1),
    layer("bottleneck/layer2.conv1", 512, 28, 128, 1, 1),
    layer("bottleneck/layer3.0.conv1", 512, 28, 256, 1, 1),
    layer("bottleneck/layer3.0.conv2", 256, 28, 256, 3, 2),
    layer("bottleneck/layer3.0.downsample", 512, 28, 1024, 1, 2),
    layer("bottleneck/layer3.conv3", 256, 14, 1024, 1, 1),
    layer("bottleneck/layer3.conv1", 1024, 14, 256, 1, 1),
    layer("bottleneck/layer4.0.conv1", 1024, 14, 512, 1, 1),
    layer("bottleneck/layer4.0.conv2", 512, 14, 512, 3, 2),
    layer("bottleneck/layer4.0.downsample", 1024, 14, 2048, 1, 2),
    layer("bottleneck/layer4.conv3", 512, 7, 2048, 1, 1),
    layer("bottleneck/layer4.conv1", 2048, 7, 512, 1, 1),
    layer("vgg/conv1_1", 3, 224, 64, 3, 1),
    layer("vgg/conv1_2", 64, 224, 64, 3, 1),
    layer("vgg/conv2_1", 64, 112, 128, 3, 1),
    layer("vgg/conv2_2", 128, 112, 128, 3, 1),
    layer("vgg/conv3_1", 128, 56, 256, 3, 1),
    layer("vgg/conv3_2", 256, 56, 256, 3, 1),
    layer("vgg/conv4_1", 256, 28, 512, 3, 1),
    layer("vgg/conv4_2", 512, 28, 512, 3, 1),
    layer("vgg/conv5", 512, 14, 512, 3, 1),
];

impl ConvLayer {
    /// Multiply-accumulates of one image.
    pub(crate) fn macs(&self) -> u64 {
        let out = (self.size + 2 * (self.kernel / 2) - self.kernel) / self.stride + 1;
        (out * out * self.oc * self.ic * self.kernel * self.kernel) as u64
    }

    /// A model of this layer alone, with bias and ReLU.
    pub(crate) fn model(&self) -> Model {
        let Self { ic, oc, kernel, size, stride, .. } = *self;
        let mut network = Network::default();
        let nb_weights = oc * ic * kernel * kernel;
        let weights = network.add_constant("weights", &[oc, ic, kernel, kernel], noise(nb_weights));
        let bias = network.add_constant("bias", &[oc], noise(oc));
        let out = (size + 2 * (kernel / 2) - kernel) / stride + 1;
        let port = |name: &str, value, shape| Port {
            name: name.to_owned(),
            value: ValueId(value),
            shape,
            axes: AxisOrder::nchw(),
        };
        let conv = Conv {
            stride: [stride; 2],
            pad: Pad::all(kernel / 2),
            clamp: Clamp::RELU,
            ..Conv::pointwise(weights, Some(bias))
        };
        network.graph = Graph {
            name: self.name.to_owned(),
            inputs: vec![port("x", 0, Shape::new(ic, size, size))],
            nodes: vec![Node {
                name: self.name.to_owned(),
                op: Op::Conv(conv),
                inputs: vec![ValueId(0)],
            }],
            outputs: vec![port("y", 1, Shape::new(oc, out, out))],
            constants: network.graph.constants,
            ..Graph::default()
        };
        let bytes = to_bytes(&network, &PackOptions::default()).expect("the layer packs");
        Model::from_bytes(&bytes).expect("the packed layer opens")
    }
}

/// An executor on `threads` threads.
pub(crate) fn executor(model: &Model, threads: usize, batch: usize) -> Executor {
    let runtime = Runtime::builder().threads(threads).build().expect("the runtime starts");
    let options = ExecutorOptions { batch, ..ExecutorOptions::default() };
    Executor::new(&runtime, model, &options).expect("the model plans")
}

/// An executor of a one-layer model whose layer uses a method.
pub(crate) fn executor_of(model: &Model, runtime: &Runtime, method: &str) -> Executor {
    let options = ExecutorOptions::default();
    let layer = Layer { node: 0, method: method.to_owned(), measured: Vec::new() };
    let key = Key::of(model.graph(), runtime.report(), &options);
    let tables = Tables::Given(Arc::new(Table { key, layers: vec![layer] }));
    Executor::new(runtime, model, &ExecutorOptions { tables, ..options }).expect("the layer plans")
}

/// `len` values in -0.5..0.5, the same every time.
pub(crate) fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}
