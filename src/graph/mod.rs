//! The device-independent network: a closed set of operators over 4-D activations.
//!
//! A graph is in single-assignment form. Values are numbered: the graph's inputs first, then one
//! per node in execution order, so an operand's number is always below its node's own value. That
//! one rule is also the whole validity check of a graph read from a file ([`Graph::validate`]).
//!
//! Activations are `[N, C, H, W]`; the batch `N` is free and never stored. Tensors of lower rank
//! are seen through an [`AxisOrder`] at the graph's ports: `[N, C]` has `H = W = 1`.

mod data;
pub mod fuse;
mod op;
mod quantization;
pub mod reference;
mod shape;

pub use data::{Data, Dtype};
pub use op::{Affine, Clamp, Conv, Linear, Op, Pad, Pool, PoolKind, Slice};
pub use quantization::Quantization;
pub(crate) use shape::MAX_ELEMENTS;
pub use shape::{Axis, AxisOrder, Shape};

use crate::error::{Error, Result};

/// A value's number: inputs first, then one per node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

/// A constant's index in [`Graph::constants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConstId(pub u32);

/// A constant tensor's name, shape and type; its data live in [`Network::data`] or in a packed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConstSpec {
    /// As in the source file; for messages only.
    pub name: String,
    /// Row-major extents. Convolution weights are `OIHW`, linear weights `[out, in]`.
    pub shape: Vec<usize>,
    /// Type of the elements.
    pub dtype: Dtype,
}

impl ConstSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Checks that no extent is zero or absurd, so that [`Self::len`] cannot overflow.
    fn check(&self) -> Result<()> {
        let elements = self.shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
        if self.shape.contains(&0) || elements.is_none_or(|e| e > MAX_ELEMENTS) {
            return Err(Error::shape(format!(
                "constant '{}' has shape {:?}, expected 1 to {} elements",
                self.name, self.shape, MAX_ELEMENTS
            )));
        }
        Ok(())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One operator applied to earlier values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// As in the source file; for messages, profiles and plan dumps.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Operands, in the order [`Op`] documents.
    pub inputs: Vec<ValueId>,
}

/// A graph input or output as a user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The tensor's name in the source file.
    pub name: String,
    /// The value behind it.
    pub value: ValueId,
    /// Shape of one image. For inputs: the default, which a plan may override in `h` and `w`.
    pub shape: Shape,
    /// Which axes the user's tensor has, in which order.
    pub axes: AxisOrder,
}

/// A network's structure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// The network's name.
    pub name: String,
    /// Inputs; input `i` has value `i`.
    pub inputs: Vec<Port>,
    /// Nodes in execution order; node `i` has value `inputs.len() + i`.
    pub nodes: Vec<Node>,
    /// Outputs, in the source file's order.
    pub outputs: Vec<Port>,
    /// Names and shapes of the constants.
    pub constants: Vec<ConstSpec>,
    /// Whether an attribute was computed from the default input size (such as the padding of a
    /// strided `SAME` convolution), so that other sizes are refused.
    pub fixed_size: bool,
    /// How each value is stored in u8, `None` if it is f32; one per value, or empty where all are
    /// f32.
    ///
    /// A node computes in int8 iff it has `weight_scales`. Every other node computes in f32: its
    /// quantized operands are dequantized, and its result is quantized if its value is; for some
    /// operators [`mod@reference`] says a shorter way with defined rounding.
    pub quantization: Vec<Option<Quantization>>,
}

/// A graph with its constants' data (row-major), as importers make it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// The structure.
    pub graph: Graph,
    /// `data[i]` belongs to `graph.constants[i]` and has its length.
    pub data: Vec<Data>,
}

impl Graph {
    /// Number of values.
    pub fn nb_values(&self) -> usize {
        self.inputs.len() + self.nodes.len()
    }

    /// The value that node `index` computes.
    pub fn value_of(&self, index: usize) -> ValueId {
        ValueId((self.inputs.len() + index) as u32)
    }

    /// The index of the node that computes `value`; `None` for a graph input.
    pub fn node_of(&self, value: ValueId) -> Option<usize> {
        (value.0 as usize).checked_sub(self.inputs.len())
    }

    /// The constant's description.
    pub fn constant(&self, id: ConstId) -> &ConstSpec {
        &self.constants[id.0 as usize]
    }

    /// Checks every index, operand count and constant shape, and that shapes can be inferred from
    /// the ports' defaults. All later code relies on it.
    ///
    /// # Errors
    /// Names the first node that breaks a rule and the rule.
    pub fn validate(&self) -> Result<()> {
        for (i, port) in self.inputs.iter().enumerate() {
            if port.value.0 as usize != i {
                return Err(Error::format(format!(
                    "input '{}' has value {}, expected {i}",
                    port.name, port.value.0
                )));
            }
        }
        if self.outputs.is_empty() {
            return Err(Error::format("the graph has no output"));
        }
        for port in &self.outputs {
            if port.value.0 as usize >= self.nb_values() {
                return Err(Error::format(format!("output '{}' names no value", port.name)));
            }
        }
        for port in self.inputs.iter().chain(&self.outputs) {
            port.axes.check().map_err(|e| e.at_node(&port.name))?;
        }
        self.constants.iter().try_for_each(ConstSpec::check)?;
        for (i, node) in self.nodes.iter().enumerate() {
            let own = self.value_of(i);
            if node.inputs.iter().any(|v| *v >= own) {
                return Err(Error::format("an operand is not computed before its use")
                    .at_node(node.label()));
            }
            node.op
                .check(node.inputs.len(), &self.constants)
                .map_err(|e| e.at_node(node.label()))?;
        }
        self.check_quantization()?;
        let shapes = self.infer_shapes(&self.input_shapes())?;
        for port in &self.outputs {
            let found = shapes[port.value.0 as usize];
            if found != port.shape {
                return Err(Error::shape(format!(
                    "output '{}' is declared {} but computes {found}",
                    port.name, port.shape
                )));
            }
        }
        Ok(())
    }

    /// The default shapes of the inputs.
    pub fn input_shapes(&self) -> Vec<Shape> {
        self.inputs.iter().map(|p| p.shape).collect()
    }

    /// Shapes (of one image) of all values for the given input shapes.
    ///
    /// # Errors
    /// Names the node whose operands do not fit, what it got and what it expects.
    pub fn infer_shapes(&self, inputs: &[Shape]) -> Result<Vec<Shape>> {
        if inputs.len() != self.inputs.len() {
            return Err(Error::invalid(format!(
                "{} input shapes given, the network has {} inputs",
                inputs.len(),
                self.inputs.len()
            )));
        }
        for (port, &shape) in self.inputs.iter().zip(inputs) {
            shape.check().and_then(|()| port.check(shape)).map_err(|e| e.at_node(&port.name))?;
            if self.fixed_size && shape != port.shape {
                return Err(Error::shape(format!(
                    "input '{}' has shape {shape}; this network computes only {}, the size it was \
                     imported for",
                    port.name, port.shape
                )));
            }
        }
        let mut shapes = inputs.to_vec();
        shapes.reserve(self.nodes.len());
        for node in &self.nodes {
            let operands: Vec<Shape> = node.inputs.iter().map(|v| shapes[v.0 as usize]).collect();
            let out = node
                .op
                .output_shape(&operands, &self.constants)
                .and_then(|s| s.check().map(|()| s))
                .map_err(|e| e.at_node(node.label()))?;
            shapes.push(out);
        }
        for port in &self.outputs {
            port.check(shapes[port.value.0 as usize]).map_err(|e| e.at_node(&port.name))?;
        }
        Ok(shapes)
    }

    /// How often each value is used (by nodes and outputs).
    pub fn use_counts(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nb_values()];
        let operands = self.nodes.iter().flat_map(|n| &n.inputs);
        for v in operands.chain(self.outputs.iter().map(|p| &p.value)) {
            uses[v.0 as usize] += 1;
        }
        uses
    }
}

impl Port {
    /// Checks that the axes the user's tensor lacks have extent 1.
    fn check(&self, shape: Shape) -> Result<()> {
        let axes = [(Axis::C, shape.c), (Axis::H, shape.h), (Axis::W, shape.w)];
        if axes.iter().any(|(axis, extent)| *extent != 1 && !self.axes.0.contains(axis)) {
            return Err(Error::shape(format!(
                "shape {shape} does not fit a tensor with axes {}; this network needs the input \
                 size it was exported with",
                self.axes
            )));
        }
        Ok(())
    }
}

impl Network {
    /// Adds a constant.
    ///
    /// # Panics
    /// If `data` does not have the length that `shape` says.
    pub fn add_constant(&mut self, name: &str, shape: &[usize], data: impl Into<Data>) -> ConstId {
        let data = data.into();
        let spec = ConstSpec { name: name.to_owned(), shape: shape.to_vec(), dtype: data.dtype() };
        assert_eq!(spec.len(), data.len(), "constant {name}");
        self.graph.constants.push(spec);
        self.data.push(data);
        ConstId(self.data.len() as u32 - 1)
    }

    /// The data of a constant that is f32.
    ///
    /// # Panics
    /// If it is not.
    pub fn constant(&self, id: ConstId) -> &[f32] {
        self.data[id.0 as usize].f32()
    }
}

impl Node {
    /// `"name (Operator)"`, as error messages name a node.
    pub fn label(&self) -> String {
        format!("{} ({})", self.name, self.op.kind())
    }
}
