//! The graph's inputs and outputs: which of the user's axes are which.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use super::axes::{AxisMap, permutation, resolve_axes, resolve_axis};
use super::proto::{GraphProto, NodeProto, TypeProto, dtype};
use super::tensor::{self, Tensor};
use super::{Activation, Holds, Importer, Value};
use crate::error::{Error, Result};
use crate::graph::{Axis, AxisOrder, Op, Port, Shape, ValueId};
use crate::import::ImportOptions;

/// Height and width where neither the file nor the options say them.
const DEFAULT_SIZE: [usize; 2] = [224, 224];

impl<'a> Importer<'a> {
    /// Makes the network's inputs of the graph's inputs that are not weights.
    pub(super) fn inputs(&mut self, graph: &'a GraphProto, options: &ImportOptions) -> Result<()> {
        graph.name.clone_into(&mut self.network.graph.name);
        let consumers = Consumers::of(graph);
        for info in &graph.input {
            if self.values.contains_key(info.name.as_str()) {
                continue;
            }
            let port = self
                .input(&info.name, info.r#type.as_ref(), &consumers, options)
                .map_err(|e| e.at_node(format!("{} (input)", info.name)))?;
            let elem_type = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
            let value = Activation {
                value: port.value,
                axes: AxisMap::of(&port.axes.0),
                holds: match elem_type {
                    Some(t) if !is_float(t.elem_type) => Holds::Integers,
                    _ => Holds::Reals,
                },
            };
            self.shapes.push(port.shape);
            self.network.graph.inputs.push(port);
            self.values.insert(&info.name, Value::Activation(value));
        }
        Ok(())
    }

    fn input(
        &mut self,
        name: &str,
        kind: Option<&TypeProto>,
        consumers: &Consumers<'a>,
        options: &ImportOptions,
    ) -> Result<Port> {
        let tensor = kind
            .and_then(|t| t.tensor_type.as_ref())
            .ok_or_else(|| Error::unsupported("the input is not a tensor"))?;
        if !is_float(tensor.elem_type) && !is_integer(tensor.elem_type) {
            return Err(Error::unsupported(format!("element type {}", tensor.elem_type)));
        }
        let dims: Vec<Option<usize>> = tensor
            .shape
            .as_ref()
            .ok_or_else(|| Error::unsupported("the input has no declared shape"))?
            .dim
            .iter()
            .map(|d| d.dim_value.and_then(|v| usize::try_from(v).ok()).filter(|&v| v > 0))
            .collect();
        let hint = consumers.layout(name, dims.len(), self);
        let axes = match (hint.axes, dims.len()) {
            (Some(axes), _) => axes,
            (None, 1) => vec![Axis::C],
            (None, 2) => vec![Axis::N, Axis::C],
            (None, 3) => vec![Axis::N, Axis::C, Axis::W],
            (None, 4) => vec![Axis::N, Axis::C, Axis::H, Axis::W],
            (None, rank) => {
                return Err(Error::unsupported(format!("{rank} axes; supported are 1 to 4")));
            }
        };
        let axes = AxisOrder(axes);
        axes.check()?;
        let mut shape = Shape::vector(1);
        let [height, width] = options.input_size.unwrap_or(DEFAULT_SIZE);
        for (&axis, dim) in axes.0.iter().zip(dims) {
            match axis {
                Axis::H => shape.h = dim.unwrap_or(height),
                Axis::W => shape.w = dim.unwrap_or(width),
                Axis::C => {
                    shape.c = dim.or(hint.channels).ok_or_else(|| {
                        Error::unsupported("neither the input nor its use says the channels")
                    })?;
                }
                Axis::N => match (dim, self.batch) {
                    (Some(b), Some(other)) if b as i64 != other => {
                        return Err(Error::unsupported(format!(
                            "batch {b}, another input has batch {other}"
                        )));
                    }
                    (Some(b), _) => self.batch = Some(b as i64),
                    (None, _) => {}
                },
            }
        }
        shape.check()?;
        let value = ValueId(self.shapes.len() as u32);
        Ok(Port { name: name.to_owned(), value, shape, axes })
    }

    /// Makes the network's outputs.
    pub(super) fn outputs(&mut self, graph: &'a GraphProto) -> Result<()> {
        for info in &graph.output {
            let port = self
                .use_value(&info.name)
                .and_then(|value| self.output(&info.name, value))
                .map_err(|e| e.at_node(format!("{} (output)", info.name)))?;
            self.network.graph.outputs.push(port);
        }
        Ok(())
    }

    fn output(&mut self, name: &str, value: Value<'a>) -> Result<Port> {
        let x = match value {
            Value::Activation(x) if x.holds != Holds::Reals => {
                return Err(Error::unsupported("the output holds integers"));
            }
            Value::Activation(x) => x,
            constant => {
                let tensor = Rc::unwrap_or_clone(self.tensor(constant)?);
                self.constant_output(name, tensor)?
            }
        };
        let x = self.separated(name, x)?;
        // Axes of extent 1 that stand for nothing get the names that are left.
        let mut free = [Axis::N, Axis::C, Axis::H, Axis::W].into_iter().filter(|&a| {
            !x.axes.contains(a) && (a != Axis::N || x.axes.0.first().is_some_and(Vec::is_empty))
        });
        let mut axes = Vec::new();
        for group in &x.axes.0 {
            match group.first().copied().or_else(|| free.next()) {
                Some(axis) => axes.push(axis),
                None => return Err(Error::unsupported("more than 4 axes")),
            }
        }
        let axes = AxisOrder(axes);
        axes.check()?;
        Ok(Port { name: name.to_owned(), value: x.value, shape: self.shape(&x), axes })
    }

    /// An output that does not depend on the input.
    fn constant_output(&mut self, name: &str, tensor: Tensor) -> Result<Activation> {
        let all = [Axis::N, Axis::C, Axis::H, Axis::W];
        let axes = match tensor.dims[..] {
            [1, ..] if tensor.dims.len() <= 4 => &all[..tensor.dims.len()],
            [..] if (1..=3).contains(&tensor.dims.len()) => &all[1..=tensor.dims.len()],
            _ => return Err(Error::unsupported(format!("a constant of shape {:?}", tensor.dims))),
        };
        let mut chw = [1; 3];
        let own = if axes[0] == Axis::N { &tensor.dims[1..] } else { &tensor.dims };
        chw[..own.len()].copy_from_slice(own);
        let constant = self.network.add_constant(name, &chw, tensor.into_floats()?);
        let value = self.emit(name, Op::Constant(constant), &[])?;
        Ok(Activation { value, axes: AxisMap::of(axes), holds: Holds::Reals })
    }
}

fn is_float(elem_type: i32) -> bool {
    // An unset type is not worth refusing a file for.
    matches!(elem_type, 0 | dtype::FLOAT | dtype::FLOAT16 | dtype::DOUBLE | dtype::BFLOAT16)
}

fn is_integer(elem_type: i32) -> bool {
    matches!(elem_type, dtype::UINT8 | dtype::INT8 | dtype::INT32 | dtype::INT64)
}

/// What the uses of an input say about its axes.
#[derive(Default)]
struct Layout {
    axes: Option<Vec<Axis>>,
    channels: Option<usize>,
}

/// The nodes that use each name.
struct Consumers<'a>(HashMap<&'a str, Vec<&'a NodeProto>>);

impl<'a> Consumers<'a> {
    fn of(graph: &'a GraphProto) -> Self {
        let mut consumers: HashMap<_, Vec<_>> = HashMap::new();
        for node in &graph.node {
            for name in &node.input {
                consumers.entry(name.as_str()).or_default().push(node);
            }
        }
        Self(consumers)
    }

    /// Follows an input through operators that keep or permute its axes, to one that says which
    /// axis is which. ONNX itself names no axes: an NHWC graph differs only in a later transpose.
    fn layout(&self, input: &str, rank: usize, importer: &Importer) -> Layout {
        let spatial = |nb: usize| match nb {
            1 => Some(&[Axis::N, Axis::C, Axis::W][..]),
            2 => Some(&[Axis::N, Axis::C, Axis::H, Axis::W][..]),
            _ => None,
        };
        // `at[i]`: which of the input's axes is axis `i` of the tensor.
        let named = |at: &[usize], axes: &[Axis]| {
            let mut named = vec![Axis::N; rank];
            at.iter().zip(axes).for_each(|(&i, &axis)| named[i] = axis);
            named
        };
        let mut layout = Layout::default();
        let mut seen = HashSet::from([input]);
        let mut pending = VecDeque::from([(input, (0..rank).collect::<Vec<_>>())]);
        while let Some((name, at)) = pending.pop_front() {
            for node in self.0.get(name).into_iter().flatten() {
                let mut next = at.clone();
                match node.op_type.as_str() {
                    "Conv"
                    | "MaxPool"
                    | "AveragePool"
                    | "GlobalAveragePool"
                    | "BatchNormalization"
                    | "QLinearConv"
                    | "QLinearAveragePool"
                    | "QLinearGlobalAveragePool"
                        if node.input[0] == name =>
                    {
                        let Some(axes) = rank.checked_sub(2).and_then(spatial) else { continue };
                        return Layout {
                            axes: Some(named(&at, axes)),
                            channels: importer.conv_channels(node),
                        };
                    }
                    "ReduceMean" => {
                        let last = |axes: Vec<usize>| rank == 4 && axes == [1, 2];
                        if importer.reduced_axes(node, rank).is_some_and(last) {
                            let nhwc = [Axis::N, Axis::H, Axis::W, Axis::C];
                            layout.axes.get_or_insert_with(|| named(&at, &nhwc));
                        }
                        continue;
                    }
                    "Transpose" => {
                        let perm = node.attribute.iter().find(|a| a.name == "perm");
                        let Ok(perm) = permutation(perm.map(|p| &p.ints[..]), rank) else {
                            continue;
                        };
                        next = perm.iter().map(|&p| at[p]).collect();
                    }
                    "Softmax" | "LogSoftmax" | "Concat" | "Add" | "Sub" | "Mul" | "Div" => {
                        let axes = rank.checked_sub(2).and_then(spatial);
                        if let (Some(i), Some(axes)) = (importer.channel_of(node, rank), axes)
                            && i > 0
                        {
                            let mut axes = axes.to_vec();
                            axes[1..=i].rotate_left(1);
                            layout.axes.get_or_insert_with(|| named(&at, &axes));
                        }
                    }
                    "QuantizeLinear" | "DequantizeLinear" if node.input[0] == name => {}
                    "Identity" | "Cast" | "Relu" | "Clip" | "Min" | "Max" | "Neg" | "Sum"
                    | "Pad" | "Dropout" | "Slice" => {}
                    _ => continue,
                }
                if let Some(output) = node.output.first()
                    && seen.insert(output)
                {
                    pending.push_back((output, next));
                }
            }
        }
        layout
    }
}

impl Importer<'_> {
    fn stored_dims(&self, name: Option<&String>) -> Option<Vec<usize>> {
        match self.values.get(name?.as_str()) {
            Some(Value::Stored(proto)) => tensor::stored_dims(proto).ok(),
            _ => None,
        }
    }

    /// The input channels that a convolution's stored weights say.
    fn conv_channels(&self, node: &NodeProto) -> Option<usize> {
        let groups = node.attribute.iter().find(|a| a.name == "group").map_or(1, |a| a.i);
        let dims = self.stored_dims(node.input.get(1).filter(|_| node.op_type == "Conv"))?;
        dims.get(1)?.checked_mul(usize::try_from(groups).ok()?)
    }

    /// The axes that a `ReduceMean` names.
    fn reduced_axes(&self, node: &NodeProto, rank: usize) -> Option<Vec<usize>> {
        let axes = match node.attribute.iter().find(|a| a.name == "axes") {
            Some(a) => a.ints.clone(),
            None => match self.values.get(node.input.get(1)?.as_str()) {
                Some(Value::Stored(proto)) => tensor::decode(proto, None).ok()?.ints().ok()?,
                _ => return None,
            },
        };
        resolve_axes(&axes, rank).ok()
    }

    /// The axis that an operator which works on channels works on, or along which its stored
    /// operand varies.
    fn channel_of(&self, node: &NodeProto, rank: usize) -> Option<usize> {
        if matches!(node.op_type.as_str(), "Softmax" | "LogSoftmax" | "Concat") {
            let axis = node.attribute.iter().find(|a| a.name == "axis");
            let default = if self.opset < 13 { 1 } else { -1 };
            return resolve_axis(axis.map_or(default, |a| a.i), rank).ok();
        }
        let dims = node.input.iter().find_map(|name| self.stored_dims(Some(name)))?;
        let lead = rank.checked_sub(dims.len())?;
        let mut varying = (0..dims.len()).filter(|&i| dims[i] > 1);
        let only = varying.next().filter(|_| varying.next().is_none())?;
        Some(lead + only)
    }
}
