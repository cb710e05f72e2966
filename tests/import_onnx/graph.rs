//! Building ONNX graphs, and running what is imported.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use skipstone::graph::{Network, Op, fuse, reference};
use skipstone::import::ImportOptions;
use skipstone::import::onnx::{self, proto::*};

use crate::metered::within;

/// What a refusal may cost, whatever the file asks for: bytes of heap memory, and time.
const MAX_HEAP: usize = 16 << 20;
const MAX_TIME: Duration = Duration::from_millis(50);

/// Axes of a declared tensor: a number, or 0 for an open one.
pub(crate) type Dims<'a> = &'a [i64];

/// A graph under construction.
pub(crate) struct Graph {
    opset: i64,
    pub(crate) graph: GraphProto,
}

impl Graph {
    pub(crate) fn new(opset: i64) -> Self {
        Self { opset, graph: GraphProto::default() }
    }

    pub(crate) fn input(self, name: &str, dims: Dims) -> Self {
        self.input_of(name, dims, dtype::FLOAT)
    }

    pub(crate) fn input_of(mut self, name: &str, dims: Dims, elem_type: i32) -> Self {
        let dim = dims
            .iter()
            .map(|&d| DimensionProto {
                dim_value: (d != 0).then_some(d),
                dim_param: (d == 0).then(|| "open".to_owned()),
            })
            .collect();
        let shape = Some(TensorShapeProto { dim });
        let r#type = Some(TypeProto { tensor_type: Some(TensorTypeProto { elem_type, shape }) });
        self.graph.input.push(ValueInfoProto { name: name.to_owned(), r#type });
        self
    }

    pub(crate) fn output(mut self, name: &str) -> Self {
        self.graph.output.push(ValueInfoProto { name: name.to_owned(), r#type: None });
        self
    }

    pub(crate) fn tensor(mut self, tensor: TensorProto) -> Self {
        self.graph.initializer.push(tensor);
        self
    }

    pub(crate) fn floats(self, name: &str, dims: &[i64], data: &[f32]) -> Self {
        self.tensor(floats(name, dims, data))
    }

    pub(crate) fn ints(self, name: &str, data: &[i64]) -> Self {
        self.tensor(ints(name, &[data.len() as i64], data))
    }

    /// A node called `output`, e.g. `node("Conv", "x w b", "y", [...])`; `_` leaves an operand out.
    pub(crate) fn node<const N: usize>(
        mut self,
        op_type: &str,
        inputs: &str,
        output: &str,
        attributes: [AttributeProto; N],
    ) -> Self {
        let names = |list: &str| {
            let names = list.split_whitespace();
            names.map(|n| if n == "_" { String::new() } else { n.to_owned() }).collect()
        };
        self.graph.node.push(NodeProto {
            input: names(inputs),
            output: names(output),
            name: format!("the {op_type}"),
            op_type: op_type.to_owned(),
            attribute: attributes.to_vec(),
            domain: String::new(),
        });
        self
    }

    pub(crate) fn model(self) -> ModelProto {
        ModelProto {
            ir_version: 8,
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: self.opset }],
            ..Default::default()
        }
    }

    pub(crate) fn import(self) -> skipstone::Result<Network> {
        self.import_with(&ImportOptions::default())
    }

    pub(crate) fn import_with(self, options: &ImportOptions) -> skipstone::Result<Network> {
        onnx::network(self.model(), None, options)
    }

    /// The imported and simplified network, checked to compute what it did before.
    pub(crate) fn fused(self) -> Network {
        let network = self.import().unwrap();
        let mut fused = network.clone();
        fuse::fuse(&mut fused).unwrap();
        let inputs: Vec<Vec<f32>> = network
            .graph
            .inputs
            .iter()
            .map(|p| (0..p.shape.len()).map(|i| ((i * 37 + 11) % 23) as f32 / 8.0 - 1.3).collect())
            .collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let shapes = network.graph.input_shapes();
        let before = reference::run(&network, &shapes, 1, &inputs).unwrap();
        let after = reference::run(&fused, &shapes, 1, &inputs).unwrap();
        for (before, after) in before.iter().zip(&after) {
            assert_close(after, before);
        }
        fused
    }

    /// The first output for `batch` images, and its extents. Computed before and after fusion.
    pub(crate) fn run_batch(self, batch: usize, inputs: &[&[f32]]) -> (Vec<usize>, Vec<f32>) {
        let network = self.import().unwrap();
        let shapes = network.graph.input_shapes();
        let outputs = reference::run(&network, &shapes, batch, inputs).unwrap();
        let mut fused = network.clone();
        fuse::fuse(&mut fused).unwrap();
        let after = reference::run(&fused, &shapes, batch, inputs).unwrap();
        assert_close(&after[0], &outputs[0]);
        let port = &network.graph.outputs[0];
        (port.axes.dims(batch, port.shape), outputs.into_iter().next().unwrap())
    }

    /// Checks the first output for one image.
    #[track_caller]
    pub(crate) fn computes(self, inputs: &[&[f32]], dims: &[usize], expected: &[f32]) {
        let (found, output) = self.run_batch(1, inputs);
        assert_eq!(found, dims);
        assert_close(&output, expected);
    }

    /// The message that the import fails with, checked to name the node as `label`, and to cost little.
    #[track_caller]
    pub(crate) fn refused(self, label: &str, reason: &str) {
        let model = self.model();
        let import = || onnx::network(model.clone(), None, &ImportOptions::default());
        let error = within(MAX_HEAP, MAX_TIME, import).expect_err("an error").to_string();
        assert!(error.contains(&format!("node {label}: ")), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= 1e-5 * scale, "{found:?}, expected {expected:?}");
    }
}

/// How often each operator occurs, as `"Conv 2, Add 1"` in order of first occurrence.
pub(crate) fn census(network: &Network) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for kind in network.graph.nodes.iter().map(|n| n.op.kind()) {
        match counts.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, count)) => *count += 1,
            None => counts.push((kind, 1)),
        }
    }
    let entries: Vec<String> = counts.iter().map(|(k, n)| format!("{k} {n}")).collect();
    entries.join(", ")
}

pub(crate) fn first_op(network: &Network) -> &Op {
    &network.graph.nodes[0].op
}

/// `0, 1, 2, ...`
pub(crate) fn iota(len: usize) -> Vec<f32> {
    (0..len).map(|v| v as f32).collect()
}

pub(crate) fn floats(name: &str, dims: &[i64], data: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: dtype::FLOAT,
        float_data: data.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn ints(name: &str, dims: &[i64], data: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: dtype::INT64,
        int64_data: data.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn raw(name: &str, dims: &[i64], data_type: i32, data: &[u8]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type,
        raw_data: Bytes::copy_from_slice(data),
        ..Default::default()
    }
}

pub(crate) mod attribute {
    //! Attributes by type.

    use super::*;

    fn of(name: &str, r#type: i32) -> AttributeProto {
        AttributeProto { name: name.to_owned(), r#type, ..Default::default() }
    }

    pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
        AttributeProto { i, ..of(name, 2) }
    }

    pub(crate) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
        AttributeProto { ints: ints.to_vec(), ..of(name, 7) }
    }

    pub(crate) fn float(name: &str, f: f32) -> AttributeProto {
        AttributeProto { f, ..of(name, 1) }
    }

    pub(crate) fn floats(name: &str, floats: &[f32]) -> AttributeProto {
        AttributeProto { floats: floats.to_vec(), ..of(name, 6) }
    }

    pub(crate) fn text(name: &str, s: &str) -> AttributeProto {
        AttributeProto { s: Bytes::copy_from_slice(s.as_bytes()), ..of(name, 3) }
    }

    pub(crate) fn tensor(name: &str, t: TensorProto) -> AttributeProto {
        AttributeProto { t: Some(t), ..of(name, 4) }
    }
}

/// Imports with external data in `folder`.
pub(crate) fn import_in(folder: &Path, graph: Graph) -> skipstone::Result<Network> {
    onnx::network(graph.model(), Some(folder), &ImportOptions::default())
}
