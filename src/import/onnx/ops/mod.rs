//! Nodes that depend on the input, as operators of the network. One method per ONNX operator.

mod dense;
mod elementwise;
mod layout;
mod quantized;
mod reduce;
mod window;

pub(super) use layout::{SliceBounds, shape_range};

use super::proto::NodeProto;
use super::{Activation, Holds, Importer, Operation, Value};
use crate::error::{Error, Result};
use crate::graph::ValueId;

/// Whether a node of another domain is one of ONNX Runtime's operators on quantized tensors.
pub(super) fn is_quantized_operator(proto: &NodeProto) -> bool {
    const KINDS: [&str; 6] = [
        "DequantizeLinear",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearGlobalAveragePool",
        "QuantizeLinear",
    ];
    proto.domain == "com.microsoft" && KINDS.contains(&proto.op_type.as_str())
}

impl<'a> Importer<'a> {
    /// Imports a node of which at least one operand is an activation.
    pub(super) fn activation_node(&mut self, node: &mut Operation<'a>) -> Result<Value<'a>> {
        let x = match node.kind {
            "Add" | "Sum" => self.sum(node),
            "AveragePool" | "MaxPool" => self.pool(node),
            "BatchNormalization" => self.batch_normalization(node),
            "Cast" => self.cast(node),
            "Clip" => self.clip(node),
            "Concat" => self.concat(node),
            "Conv" => self.conv(node),
            "DequantizeLinear" => self.dequantize(node),
            "Div" => self.div(node),
            "Dropout" => self.dropout(node),
            "Flatten" => self.flatten(node),
            "Gemm" => self.gemm(node),
            "GlobalAveragePool" => self.global_average_pool(node),
            "Identity" => self.identity(node),
            "MatMul" => self.matmul(node),
            "Max" | "Min" => self.extremum(node),
            "Mul" => self.mul(node),
            "Neg" => self.neg(node),
            "Pad" => self.pad(node),
            "QGemm"
            | "QLinearAdd"
            | "QLinearAveragePool"
            | "QLinearConv"
            | "QLinearGlobalAveragePool"
            | "QLinearMatMul" => self.on_quantized(node),
            "QuantizeLinear" => self.quantize(node),
            "ReduceMean" => self.reduce_mean(node),
            "Relu" => self.relu(node),
            "Reshape" => self.reshape(node),
            "Shape" => return self.shape_of(node),
            "Slice" => self.slice(node),
            "LogSoftmax" | "Softmax" => self.softmax(node),
            "Squeeze" => self.squeeze(node),
            "Sub" => self.sub(node),
            "Transpose" => self.transpose(node),
            "Unsqueeze" => self.unsqueeze(node),
            _ => {
                return Err(Error::unsupported(
                    "the operator is not supported on what depends on the input",
                ));
            }
        };
        x.map(Value::Activation)
    }

    /// `x` with another value behind the same axes.
    fn like(&self, x: &Activation, value: ValueId) -> Activation {
        Activation { value, axes: x.axes.clone(), holds: Holds::Reals }
    }
}
