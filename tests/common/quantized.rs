//! Networks in int8, with ranges from one random image: good enough to compare and to time, not to
//! classify.

use std::collections::BTreeSet;
use std::sync::Arc;

use skipstone::graph::{AxisOrder, ConstId, Data, Graph, Network, Op, Port, Quantization, ValueId};
use skipstone::tune::{self, Key, Layer, Table, Tables};
use skipstone::{ExecutorOptions, Model, Runtime};

use super::{Rng, executor, packed};

/// Smallest and largest element of every value, for one random image.
fn ranges(network: &Network) -> Vec<[f32; 2]> {
    let mut observed = network.clone();
    let graph = &mut observed.graph;
    let shapes = graph.infer_shapes(&graph.input_shapes()).expect("shapes are inferred");
    let nb_inputs = graph.inputs.len();
    let port = |(v, shape): (usize, &skipstone::graph::Shape)| Port {
        name: format!("v{v}"),
        value: ValueId(v as u32),
        shape: *shape,
        axes: AxisOrder::nchw(),
    };
    graph.outputs = shapes.iter().enumerate().skip(nb_inputs).map(port).collect();
    let mut executor = executor(&packed(&observed), 1, 1);
    let image = Rng(5).vec(shapes[0].len());
    executor.run(&[&image]).expect("runs");
    let range =
        |values: &[f32]| values.iter().fold([0f32; 2], |[lo, hi], v| [lo.min(*v), hi.max(*v)]);
    let values = (0..shapes.len() - nb_inputs).map(|i| range(executor.output(i)));
    [range(&image)].into_iter().chain(values).collect()
}

/// Quantizes every value but the outputs to `0..=max`, and every convolution and linear layer.
pub(crate) fn quantized(network: &Network, max: u8) -> Network {
    let ranges = ranges(network);
    let mut network = network.clone();
    let graph = network.graph.clone();
    let is_output = |v: ValueId| graph.outputs.iter().any(|port| port.value == v);
    for v in (0..graph.nb_values() as u32).map(ValueId).filter(|v| !is_output(*v)) {
        let node = graph.node_of(v).map(|i| &graph.nodes[i]);
        // Maxima keep what they choose from.
        let source = match node.map(|n| (&n.op, &n.inputs)) {
            Some((Op::Pool(_) | Op::Flatten { .. }, inputs)) => {
                network.graph.quantization_of(inputs[0])
            }
            _ => None,
        };
        let [lo, hi] = ranges[v.0 as usize];
        let scale = ((hi - lo) / f32::from(max)).max(1e-6);
        let zero_point = (-lo / scale).round() as u8;
        let own = Quantization { scale, zero_point, max };
        network.graph.set_quantization(v, Some(source.unwrap_or(own)));
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        let (weights, bias) = match &node.op {
            Op::Conv(conv) => (conv.weights, conv.bias),
            Op::Linear(linear) => (linear.weights, linear.bias),
            _ => continue,
        };
        let input = network.graph.quantization_of(node.inputs[0]).expect("every input is");
        let scales = quantize_weights(&mut network, weights);
        if let Some(bias) = bias {
            quantize_bias(&mut network, bias, input.scale, &scales);
        }
        let id = network.add_constant("weight scales", &[scales.len()], scales);
        match &mut network.graph.nodes[i].op {
            Op::Conv(conv) => conv.weight_scales = Some(id),
            Op::Linear(linear) => linear.weight_scales = Some(id),
            _ => unreachable!("chosen above"),
        }
    }
    network.graph.validate().expect("a valid quantized graph");
    network
}

fn set(network: &mut Network, id: ConstId, data: Data) {
    network.graph.constants[id.0 as usize].dtype = data.dtype();
    network.data[id.0 as usize] = data;
}

/// Symmetric, one scale per output channel.
fn quantize_weights(network: &mut Network, id: ConstId) -> Vec<f32> {
    let channels = network.graph.constant(id).shape[0];
    let weights = network.constant(id).to_vec();
    let channels = weights.chunks(weights.len() / channels);
    let scales: Vec<f32> = channels
        .clone()
        .map(|w| (w.iter().fold(0f32, |m, w| m.max(w.abs())) / 127.0).max(1e-6))
        .collect();
    let integers =
        channels.zip(&scales).flat_map(|(w, s)| w.iter().map(move |w| (w / s).round() as i8));
    set(network, id, integers.collect::<Vec<i8>>().into());
    scales
}

fn quantize_bias(network: &mut Network, id: ConstId, input_scale: f32, scales: &[f32]) {
    let bias = network.constant(id).iter().zip(scales);
    let integers: Vec<i32> = bias.map(|(b, s)| (b / (input_scale * s)).round() as i32).collect();
    set(network, id, integers.into());
}

/// How many values of a graph are stored in u8.
pub(crate) fn nb_quantized(graph: &Graph) -> usize {
    graph.quantization.iter().flatten().count()
}

/// The rule of thumb's choices; and each method by name, for all layers that can have it.
pub(crate) fn choices(
    model: &Model,
    runtime: &Runtime,
    options: &ExecutorOptions,
) -> Vec<(&'static str, Tables)> {
    let layers = tune::candidates(model, runtime, options).expect("plans");
    let methods: BTreeSet<_> = layers.iter().flat_map(|l| l.methods.iter().copied()).collect();
    let table = |method: &'static str| {
        let able = layers.iter().filter(|l| l.methods.contains(&method));
        let layer = |node| Layer { node, method: method.to_owned(), measured: Vec::new() };
        let key = Key::of(model.graph(), runtime.report(), options);
        let table = Table { key, layers: able.map(|l| layer(l.node)).collect() };
        (method, Tables::Given(Arc::new(table)))
    };
    let thumb = ("rule of thumb", Tables::Ignore);
    [thumb].into_iter().chain(methods.into_iter().map(table)).collect()
}
