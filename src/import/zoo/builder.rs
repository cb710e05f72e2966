//! Emits ONNX nodes and keeps track of shapes while it does.

use crate::error::{Error, Result};
use crate::graph::Shape;
use crate::import::onnx::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, dtype,
};

/// `AttributeProto.AttributeType`.
mod attribute_type {
    pub(super) const FLOAT: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const TENSOR: i32 = 4;
    pub(super) const INTS: i32 = 7;
}

/// A tensor of the graph: the name of the node that computes it, and one image's shape.
#[derive(Clone)]
pub(super) struct Value {
    name: String,
    pub(super) shape: Shape,
}

/// A square window.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) pad: usize,
}

pub(super) struct Builder {
    graph: GraphProto,
    macs: u64,
}

impl Builder {
    /// A graph with one input, which is also returned.
    pub(super) fn new(name: &str, input: Shape) -> (Self, Value) {
        let x = Value { name: "input".into(), shape: input };
        let dims = [input.c, input.h, input.w];
        let graph = GraphProto {
            name: name.into(),
            input: vec![value_info(&x.name, &dims)],
            ..Default::default()
        };
        (Self { graph, macs: 0 }, x)
    }

    /// The model, whose output is the last node's, and its multiply-accumulates.
    pub(super) fn finish(mut self, logits: &Value) -> (ModelProto, u64) {
        self.graph.output = vec![value_info("logits", &[logits.shape.c])];
        self.graph.node.last_mut().expect("a network has nodes").output = vec!["logits".into()];
        let model = ModelProto {
            ir_version: 8,
            producer_name: "skipstone".into(),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
            graph: Some(self.graph),
            ..Default::default()
        };
        (model, self.macs)
    }

    pub(super) fn conv(
        &mut self,
        name: &str,
        x: &Value,
        oc: usize,
        window: Window,
        groups: usize,
        bias: bool,
    ) -> Result<Value> {
        let (icg, k) = (x.shape.c / groups, window.kernel);
        let mut inputs = vec![self.parameter(name, "weight", &[oc, icg, k, k])];
        if bias {
            inputs.push(self.parameter(name, "bias", &[oc]));
        }
        let mut attributes = window.attributes();
        attributes.push(int("group", groups));
        attributes.push(ints("dilations", &[1, 1]));
        let out = self.node(name, "Conv", x, window.output(name, x.shape, oc)?, inputs, attributes);
        self.macs += (icg * k * k * out.shape.len()) as u64;
        Ok(out)
    }

    pub(super) fn batch_norm(&mut self, name: &str, x: &Value) -> Value {
        let parameters = ["weight", "bias", "running_mean", "running_var"]
            .map(|p| self.parameter(name, p, &[x.shape.c]));
        let epsilon = AttributeProto {
            name: "epsilon".into(),
            f: 1e-5,
            r#type: attribute_type::FLOAT,
            ..Default::default()
        };
        self.node(name, "BatchNormalization", x, x.shape, parameters.to_vec(), vec![epsilon])
    }

    pub(super) fn relu(&mut self, name: &str, x: &Value) -> Value {
        self.node(name, "Relu", x, x.shape, vec![], vec![])
    }

    pub(super) fn add(&mut self, name: &str, x: &Value, y: &Value) -> Value {
        self.node(name, "Add", x, x.shape, vec![y.name.clone()], vec![])
    }

    pub(super) fn max_pool(&mut self, name: &str, x: &Value, window: Window) -> Result<Value> {
        let shape = window.output(name, x.shape, x.shape.c)?;
        Ok(self.node(name, "MaxPool", x, shape, vec![], window.attributes()))
    }

    pub(super) fn average_pool(&mut self, name: &str, x: &Value, kernel: [usize; 2]) -> Value {
        let shape = Shape::new(x.shape.c, x.shape.h / kernel[0], x.shape.w / kernel[1]);
        let attributes = vec![ints("kernel_shape", &kernel), ints("strides", &kernel)];
        self.node(name, "AveragePool", x, shape, vec![], attributes)
    }

    pub(super) fn global_average_pool(&mut self, name: &str, x: &Value) -> Value {
        self.node(name, "GlobalAveragePool", x, Shape::vector(x.shape.c), vec![], vec![])
    }

    pub(super) fn flatten(&mut self, name: &str, x: &Value) -> Value {
        self.node(name, "Flatten", x, Shape::vector(x.shape.len()), vec![], vec![int("axis", 1)])
    }

    pub(super) fn linear(&mut self, name: &str, x: &Value, out: usize) -> Value {
        let weights = self.parameter(name, "weight", &[out, x.shape.c]);
        let bias = self.parameter(name, "bias", &[out]);
        self.macs += (out * x.shape.c) as u64;
        let shape = Shape::vector(out);
        self.node(name, "Gemm", x, shape, vec![weights, bias], vec![int("transB", 1)])
    }

    /// Every second row and column: `x[:, :, ::2, ::2]`, one `Slice` per axis as PyTorch has it.
    pub(super) fn subsample(&mut self, name: &str, x: &Value) -> Value {
        let Shape { c, h, w } = x.shape;
        let rows = Shape::new(c, h.div_ceil(2), w);
        let y = self.every_second(&format!("{name}.rows"), x, rows, 2);
        let both = Shape::new(c, rows.h, w.div_ceil(2));
        self.every_second(&format!("{name}.columns"), &y, both, 3)
    }

    fn every_second(&mut self, name: &str, x: &Value, shape: Shape, axis: i64) -> Value {
        let inputs = [("starts", 0), ("ends", i64::MAX), ("axes", axis), ("steps", 2)]
            .map(|(what, value)| self.constant(&format!("{name}.{what}"), &[value]));
        self.node(name, "Slice", x, shape, inputs.to_vec(), vec![])
    }

    /// `pad` channels of zeros before and after.
    pub(super) fn pad_channels(&mut self, name: &str, x: &Value, pad: usize) -> Value {
        let pads = [0, pad as i64, 0, 0, 0, pad as i64, 0, 0];
        let pads = self.constant(&format!("{name}.pads"), &pads);
        let shape = Shape { c: x.shape.c + 2 * pad, ..x.shape };
        self.node(name, "Pad", x, shape, vec![pads], vec![])
    }

    fn node(
        &mut self,
        name: &str,
        op_type: &str,
        x: &Value,
        shape: Shape,
        more_inputs: Vec<String>,
        attribute: Vec<AttributeProto>,
    ) -> Value {
        let mut input = vec![x.name.clone()];
        input.extend(more_inputs);
        self.graph.node.push(NodeProto {
            input,
            output: vec![name.into()],
            name: name.into(),
            op_type: op_type.into(),
            attribute,
            ..Default::default()
        });
        Value { name: name.into(), shape }
    }

    fn constant(&mut self, name: &str, values: &[i64]) -> String {
        let t = TensorProto {
            dims: vec![values.len() as i64],
            data_type: dtype::INT64,
            int64_data: values.to_vec(),
            ..Default::default()
        };
        let value = AttributeProto {
            name: "value".into(),
            t: Some(t),
            r#type: attribute_type::TENSOR,
            ..Default::default()
        };
        self.graph.node.push(NodeProto {
            output: vec![name.into()],
            name: name.into(),
            op_type: "Constant".into(),
            attribute: vec![value],
            ..Default::default()
        });
        name.into()
    }

    fn parameter(&mut self, layer: &str, what: &str, shape: &[usize]) -> String {
        let name = format!("{layer}.{what}");
        self.graph.initializer.push(TensorProto {
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: dtype::FLOAT,
            name: name.clone(),
            ..Default::default()
        });
        name
    }
}

impl Window {
    pub(super) fn new(kernel: usize, stride: usize, pad: usize) -> Self {
        Self { kernel, stride, pad }
    }

    fn attributes(self) -> Vec<AttributeProto> {
        vec![
            ints("kernel_shape", &[self.kernel; 2]),
            ints("pads", &[self.pad; 4]),
            ints("strides", &[self.stride; 2]),
        ]
    }

    fn output(self, name: &str, x: Shape, channels: usize) -> Result<Shape> {
        let axis = |n: usize| Some((n + 2 * self.pad).checked_sub(self.kernel)? / self.stride + 1);
        match (axis(x.h), axis(x.w)) {
            (Some(h), Some(w)) => Ok(Shape::new(channels, h, w)),
            _ => Err(Error::shape(format!(
                "the input image is too small: {x} is left for a window of {}",
                self.kernel
            ))
            .at_node(name)),
        }
    }
}

fn int(name: &str, value: usize) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        i: value as i64,
        r#type: attribute_type::INT,
        ..Default::default()
    }
}

fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        ints: values.iter().map(|&v| v as i64).collect(),
        r#type: attribute_type::INTS,
        ..Default::default()
    }
}

/// An f32 tensor with a free batch axis in front of `dims`.
fn value_info(name: &str, dims: &[usize]) -> ValueInfoProto {
    let batch = DimensionProto { dim_param: Some("batch".into()), dim_value: None };
    let fixed = dims.iter().map(|&d| DimensionProto { dim_value: Some(d as i64), dim_param: None });
    let shape = TensorShapeProto { dim: std::iter::once(batch).chain(fixed).collect() };
    let tensor_type = TensorTypeProto { elem_type: dtype::FLOAT, shape: Some(shape) };
    let r#type = Some(TypeProto { tensor_type: Some(tensor_type) });
    ValueInfoProto { name: name.into(), r#type }
}
