//! Copies in f32 of quantized values, for nodes that compute in f32.
//!
//! A node whose operator has no step for its values as they are reads shadows of its quantized
//! operands, and writes one of its quantized result. They exist during the node's own steps.

use super::layout::{check_size, fit_frame, window};
use super::slices::Part;
use crate::error::Result;
use crate::graph::{Graph, Op, Pad, PoolKind, Shape, ValueId};
use crate::ops::{Act, Elements, Layout};

/// The shadows of one node; not yet placed.
#[derive(Clone, Debug, Default)]
pub(super) struct Shadows {
    /// One per operand, present where the operand has a shadow.
    pub(super) operands: Vec<Option<Act>>,
    pub(super) result: Option<Act>,
}

impl Shadows {
    /// Those that exist, in a fixed order.
    pub(super) fn acts_mut(&mut self) -> impl Iterator<Item = &mut Act> {
        self.operands.iter_mut().chain([&mut self.result]).flatten()
    }

    /// Whether the node has none.
    pub(super) fn is_empty(&self) -> bool {
        self.operands.iter().chain([&self.result]).all(Option::is_none)
    }
}

/// Whether a node's operator has a step for its values as they are stored.
pub(super) fn takes_values(graph: &Graph, node: usize) -> bool {
    let result = graph.quantization_of(graph.value_of(node));
    let node = &graph.nodes[node];
    let mut operands = node.inputs.iter().map(|v| graph.quantization_of(*v));
    let is_f32 = result.is_none() && operands.clone().all(|q| q.is_none());
    is_f32
        || match &node.op {
            Op::Conv(_) | Op::Linear(_) => node.is_int8(),
            Op::Add(_) | Op::Clamp(_) => result.is_some() && operands.all(|q| q.is_some()),
            Op::Pool(pool) if pool.kind == PoolKind::Max => operands.all(|q| q == result),
            Op::Pool(_) | Op::GlobalAveragePool => operands.all(|q| q.is_some()),
            Op::Affine(_) | Op::Softmax { .. } => false,
            Op::Concat | Op::Pad { .. } | Op::Slice(_) | Op::Flatten { .. } | Op::Constant(_) => {
                true
            }
        }
}

/// The shadows of all nodes, for the images of a slice.
///
/// # Errors
/// A shadow too large for the kernels' offsets; names the node.
pub(super) fn shadows(graph: &Graph, shapes: &[Shape], parts: &[Part]) -> Result<Vec<Shadows>> {
    let nodes = parts.iter().flat_map(|p| p.nodes.clone().map(|i| (i, p.images)));
    nodes.map(|(i, images)| of_node(graph, shapes, i, images)).collect()
}

fn of_node(graph: &Graph, shapes: &[Shape], index: usize, batch: usize) -> Result<Shadows> {
    if takes_values(graph, index) {
        return Ok(Shadows::default());
    }
    let (node, result) = (&graph.nodes[index], graph.value_of(index));
    let shadow = |v: &ValueId| {
        graph.quantization_of(*v).map(|_| Act {
            batch,
            shape: shapes[v.0 as usize],
            elements: Elements::F32,
            layout: Layout::Blocked,
            frame: Pad::default(),
            base: 0,
        })
    };
    let mut shadows =
        Shadows { operands: node.inputs.iter().map(shadow).collect(), result: shadow(&result) };
    if let (Op::Conv(conv), Some(Some(act))) = (&node.op, shadows.operands.first_mut()) {
        fit_frame(act, &window(conv, &graph.constants), shapes[result.0 as usize]);
    }
    shadows.acts_mut().try_for_each(|act| check_size(act).map_err(|e| e.at_node(node.label())))?;
    Ok(shadows)
}
