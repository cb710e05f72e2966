//! ONNX: from protobuf to a [`Network`].
//!
//! Every name of the graph stands for a constant or an activation. Nodes whose operands are all
//! constant are computed at once (`fold`); shapes are constants too, whose elements may be
//! multiples of the batch (`symbolic`). The others become operators of the network (`ops`).
//! Activations carry a map from their ONNX axes to the network's (`axes`), so that transposes and
//! reshapes cost nothing and NHWC graphs need no special case.
//!
//! What is not understood is an error that names the node, its operator and the reason; an
//! attribute nobody asked for is such an error, too. Nodes that no output needs are not looked at.
//!
//! | path | what it does |
//! |---|---|
//! | `proto` | the protobuf messages |
//! | `order` | which nodes are needed, in execution order |
//! | `ports` | the graph's inputs and outputs |
//! | `tensor`, `budget` | constants, their storage and the bound on what is computed |
//! | `fold` | constant nodes |
//! | `ops` | all other nodes |

mod attributes;
mod axes;
mod budget;
mod fold;
mod ops;
mod order;
mod ports;
pub mod proto;
mod quantization;
mod symbolic;
mod tensor;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use prost::Message;

use super::ImportOptions;
use crate::error::{Error, Result};
use crate::file::open_regular;
use crate::graph::{Axis, ConstId, Network, Node, Op, Shape, ValueId};
use attributes::Attributes;
use axes::AxisMap;
use budget::Budget;
use proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use symbolic::SymInt;
use tensor::Tensor;

/// The versions of the standard operator set that are read.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=21;

/// Largest file: protobuf allows no more.
const MAX_FILE_BYTES: usize = i32::MAX as usize;

/// Reads and decodes a file. Weights stay where they are in its bytes until they are used.
///
/// # Errors
/// What is not a file, too large or no protobuf of a model.
pub fn read(path: &Path) -> Result<ModelProto> {
    let (mut file, len) = open_regular(path)?;
    if len > MAX_FILE_BYTES {
        let message = format!("{len} bytes, expected at most {MAX_FILE_BYTES}");
        return Err(Error::format(message).in_file(path));
    }
    let mut bytes = Vec::with_capacity(len);
    file.read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    ModelProto::decode(Bytes::from(bytes))
        .map_err(|e| Error::format("not an ONNX model").caused_by(e).in_file(path))
}

/// Imports a decoded model, not yet simplified by [`fuse`](crate::graph::fuse::fuse).
///
/// `folder` is where external tensor data may lie; `None` refuses external data.
///
/// # Errors
/// As [`onnx_file`](super::onnx_file).
pub fn network(
    model: ModelProto,
    folder: Option<&Path>,
    options: &ImportOptions,
) -> Result<Network> {
    let opset = opset(&model)?;
    let graph = model.graph.as_ref().ok_or_else(|| Error::format("the model has no graph"))?;
    let order = order::needed(graph)?;
    let mut importer = Importer::new(graph, folder, opset);
    importer.count_uses(graph, &order);
    importer.inputs(graph, options)?;
    for &i in &order {
        let node = &graph.node[i];
        importer.node(node).map_err(|e| e.at_node(label(node)))?;
    }
    importer.outputs(graph)?;
    importer.network.graph.complete_quantization();
    importer.network.graph.validate()?;
    Ok(importer.network)
}

fn opset(model: &ModelProto) -> Result<i64> {
    let standard = model.opset_import.iter().find(|o| is_standard(&o.domain));
    let version = standard.map_or(1, |o| o.version);
    if !OPSETS.contains(&version) {
        return Err(Error::unsupported(format!(
            "opset {version}; supported are {} to {}",
            OPSETS.start(),
            OPSETS.end()
        )));
    }
    Ok(version)
}

fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// A node's name, or its first output's where it has none.
fn name(node: &NodeProto) -> &str {
    match node.output.first() {
        Some(output) if node.name.is_empty() => output,
        _ => &node.name,
    }
}

/// `"name (Operator)"`, as error messages name a node.
fn label(node: &NodeProto) -> String {
    format!("{} ({})", name(node), node.op_type)
}

/// What a name of the graph stands for.
#[derive(Clone)]
enum Value<'a> {
    Activation(Activation),
    /// Computed from constants.
    Constant(Rc<Tensor>),
    /// Stored in the file; decoded when it is used.
    Stored(&'a TensorProto),
}

/// A value of the network as the ONNX graph sees it.
#[derive(Clone, Debug)]
struct Activation {
    value: ValueId,
    axes: AxisMap,
    holds: Holds,
}

/// What ONNX holds an activation as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Reals,
    /// Integers, so that arithmetic on them would round.
    Integers,
    /// 8-bit integers that stand for reals; the network's value is quantized alike.
    Quantized,
}

/// A node being imported, with its operands.
struct Operation<'a> {
    name: &'a str,
    kind: &'a str,
    attributes: Attributes<'a>,
    operands: Vec<Option<Value<'a>>>,
    /// The operands' names, for sharing constants.
    names: Vec<&'a str>,
}

impl<'a> Operation<'a> {
    /// Operand `i`, moved out, so that a constant used only here need not be copied.
    fn take(&mut self, i: usize) -> Result<Value<'a>> {
        self.take_optional(i).ok_or_else(|| Error::format(format!("operand {i} is missing")))
    }

    fn take_optional(&mut self, i: usize) -> Option<Value<'a>> {
        self.operands.get_mut(i).and_then(Option::take)
    }

    /// Operand `i`, which must be a float activation.
    fn activation(&mut self, i: usize) -> Result<Activation> {
        let x = self.elements(i)?;
        match x.holds {
            Holds::Reals => Ok(x),
            Holds::Integers | Holds::Quantized => Err(Error::unsupported(format!(
                "operand {i} '{}' holds integers; cast or dequantize it to float first",
                self.names[i]
            ))),
        }
    }

    /// Operand `i`, which must be an activation; for operators that compare or move elements.
    fn elements(&mut self, i: usize) -> Result<Activation> {
        match self.take(i)? {
            Value::Activation(a) => Ok(a),
            _ => Err(Error::unsupported(format!(
                "operand {i} '{}' is constant where an activation is expected",
                self.names[i]
            ))),
        }
    }
}

struct Importer<'a> {
    network: Network,
    /// Shape of one image of each of the network's values.
    shapes: Vec<Shape>,
    values: HashMap<&'a str, Value<'a>>,
    /// How often each name is still to be used.
    uses: HashMap<&'a str, usize>,
    /// Constants already in the network, by the name and shape they were asked for.
    shared: HashMap<(&'a str, Vec<usize>), ConstId>,
    folder: Option<&'a Path>,
    opset: i64,
    /// The batch the graph was exported for, if it is fixed; numbers in the graph rely on it.
    batch: Option<i64>,
    budget: Budget,
}

impl<'a> Importer<'a> {
    fn new(graph: &'a GraphProto, folder: Option<&'a Path>, opset: i64) -> Self {
        let stored = graph.initializer.iter().map(|t| (t.name.as_str(), Value::Stored(t)));
        Self {
            network: Network::default(),
            shapes: Vec::new(),
            values: stored.collect(),
            uses: HashMap::new(),
            shared: HashMap::new(),
            folder,
            opset,
            batch: None,
            budget: Budget::default(),
        }
    }

    fn count_uses(&mut self, graph: &'a GraphProto, order: &[usize]) {
        let operands = order.iter().flat_map(|&i| &graph.node[i].input);
        for name in operands.chain(graph.output.iter().map(|o| &o.name)) {
            *self.uses.entry(name).or_default() += 1;
        }
    }

    /// Takes one use of `name`; the last one takes the value itself.
    fn use_value(&mut self, name: &'a str) -> Result<Value<'a>> {
        let undefined = || Error::format(format!("operand '{name}' is not defined"));
        let uses = self.uses.get_mut(name).ok_or_else(undefined)?;
        *uses -= 1;
        let value = match *uses {
            0 => self.values.remove(name),
            _ => self.values.get(name).cloned(),
        };
        value.ok_or_else(undefined)
    }

    fn node(&mut self, proto: &'a NodeProto) -> Result<()> {
        if !is_standard(&proto.domain) && !ops::is_quantized_operator(proto) {
            return Err(Error::unsupported(format!(
                "operators of domain '{}' are not supported",
                proto.domain
            )));
        }
        let operands = proto.input.iter().map(|name| match name.as_str() {
            "" => Ok(None),
            name => self.use_value(name).map(Some),
        });
        let mut operation = Operation {
            name: name(proto),
            kind: &proto.op_type,
            attributes: Attributes::new(proto),
            operands: operands.collect::<Result<_>>()?,
            names: proto.input.iter().map(String::as_str).collect(),
        };
        let constant = |v: &Value| !matches!(v, Value::Activation(_));
        let value = if operation.operands.iter().flatten().all(constant) {
            self.constant_node(&mut operation)?
        } else {
            self.activation_node(&mut operation)?
        };
        operation.attributes.finish()?;
        let Some((result, others)) = proto.output.split_first() else {
            return Err(Error::format("the node has no output"));
        };
        if let Some(used) =
            others.iter().find(|o| !o.is_empty() && self.uses.contains_key(o.as_str()))
        {
            return Err(Error::unsupported(format!(
                "output '{used}' is used; only the first is supported"
            )));
        }
        self.values.insert(result, value);
        Ok(())
    }

    /// The tensor behind a constant.
    fn tensor(&self, value: Value<'a>) -> Result<Rc<Tensor>> {
        match value {
            Value::Constant(tensor) => Ok(tensor),
            Value::Stored(proto) => tensor::decode(proto, self.folder).map(Rc::new),
            Value::Activation(_) => Err(Error::unsupported(
                "an operand depends on the input where a constant is expected",
            )),
        }
    }

    /// Operand `i`'s tensor, if there is such an operand.
    fn optional_tensor(&self, node: &mut Operation<'a>, i: usize) -> Result<Option<Rc<Tensor>>> {
        node.take_optional(i).map(|v| self.tensor(v)).transpose()
    }

    /// Operand `i`'s tensor.
    fn operand_tensor(&self, node: &mut Operation<'a>, i: usize) -> Result<Rc<Tensor>> {
        let value = node.take(i)?;
        self.tensor(value)
    }

    /// Operand `i`, a constant of floats, as a constant of the network with the shape that
    /// `shape` makes of its extents. Uses of one tensor share one constant.
    fn weights(
        &mut self,
        node: &mut Operation<'a>,
        i: usize,
        shape: impl Fn(&[usize]) -> Result<Vec<usize>>,
    ) -> Result<ConstId> {
        let value = node.take(i)?;
        let name = node.names[i];
        let dims = match &value {
            Value::Stored(proto) => tensor::stored_dims(proto)?,
            Value::Constant(tensor) => tensor.dims.clone(),
            Value::Activation(_) => {
                return Err(Error::unsupported(format!(
                    "'{name}' depends on the input; weights must be constant"
                )));
            }
        };
        let shape = shape(&dims)?;
        if let Some(&id) = self.shared.get(&(name, shape.clone())) {
            return Ok(id);
        }
        let tensor = Rc::unwrap_or_clone(self.tensor(value)?).reshaped(&shape)?;
        let id = self.network.add_constant(name, &shape, tensor.into_floats()?);
        self.shared.insert((name, shape), id);
        Ok(id)
    }

    fn shape(&self, x: &Activation) -> Shape {
        self.shapes[x.value.0 as usize]
    }

    /// The ONNX tensor's extents.
    fn dims(&self, x: &Activation) -> Vec<SymInt> {
        x.axes.dims(self.shape(x))
    }

    /// Adds a node to the network.
    fn emit(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let constants = &self.network.graph.constants;
        op.check(inputs.len(), constants)?;
        let operands: Vec<Shape> = inputs.iter().map(|v| self.shapes[v.0 as usize]).collect();
        let shape = op.output_shape(&operands, constants)?;
        shape.check()?;
        let node = Node { name: name.to_owned(), op, inputs: inputs.to_vec() };
        self.network.graph.nodes.push(node);
        self.shapes.push(shape);
        let value = ValueId(self.shapes.len() as u32 - 1);
        let graph = &mut self.network.graph;
        if let Some(kept) = graph.kept_quantization(value) {
            graph.set_quantization(value, Some(kept));
        }
        Ok(value)
    }

    /// The same elements with at most one logical axis per ONNX axis, flattened if need be.
    fn separated(&mut self, name: &str, mut x: Activation) -> Result<Activation> {
        for i in 0..x.axes.rank() {
            if x.axes.0[i].len() < 2 {
                continue;
            }
            if self.batch == Some(1) {
                // A batch of one merges into any axis.
                x.axes.0[i].retain(|a| *a != Axis::N);
            }
            let group = x.axes.0[i].clone();
            let shape = self.shape(&x);
            let nb_others = x.axes.0.iter().flatten().filter(|a| **a != Axis::N).count();
            if group.len() > 1 && group.len() == nb_others && !group.contains(&Axis::N) {
                let order = axes::flatten_order(&group, shape)?;
                self.network.graph.fixed_size |= !order.is_exact;
                let flatten = Op::Flatten { channels_last: order.channels_last };
                x.value = self.emit(name, flatten, &[x.value])?;
                x.axes.0[i] = vec![Axis::C];
                continue;
            }
            // Axes that happen to be 1 at the default input size can be left out at that size.
            let is_one = |a: &Axis| axes::extent(*a, shape).same(SymInt::known(1));
            self.network.graph.fixed_size |= group.iter().any(|a| is_one(a) && *a != Axis::C);
            x.axes.0[i].retain(|a| !is_one(a));
            if x.axes.0[i].len() > 1 {
                return Err(Error::unsupported(format!(
                    "axis {i} merges {group:?}, which cannot be used as one axis here"
                )));
            }
        }
        Ok(x)
    }
}
