//! Slices of a batch: how many images pass through a part of the network at a time.
//!
//! Early layers have large activations and few weights: one image at a time stays in cache. Late ones
//! have small activations and many weights: the more images share a pass over them, the better. So
//! the network is cut where a single value is alive, and each part runs in slices of its own size.

use std::ops::Range;

use crate::graph::{Graph, Shape, ValueId};

/// Bytes of activations that a node reads and writes, for all images of a slice: of the order of a
/// core's share of the last-level cache.
const SLICE_BYTES: usize = 4 << 20;

/// Consecutive nodes that run once per slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) nodes: Range<usize>,
    /// Images per slice, a divisor of the batch.
    pub(super) images: usize,
}

/// Cuts the network into parts.
pub(super) fn parts(graph: &Graph, shapes: &[Shape], batch: usize) -> Vec<Part> {
    let n = graph.nodes.len();
    if n == 0 {
        return vec![Part { nodes: 0..0, images: batch }];
    }
    let mut parts: Vec<Part> = Vec::new();
    let mut start = 0;
    let cuts = cuts(graph).into_iter().chain([n]);
    for end in cuts {
        let nodes = start..end;
        start = end;
        let bytes = nodes.clone().map(|i| node_bytes(graph, shapes, i)).max().unwrap_or(0);
        let fits = |images: &usize| batch.is_multiple_of(*images) && images * bytes <= SLICE_BYTES;
        let images = (1..=batch).rev().find(fits).unwrap_or(1);
        match parts.last_mut() {
            Some(last) if last.images == images => last.nodes.end = nodes.end,
            _ => parts.push(Part { nodes, images }),
        }
    }
    parts
}

/// Nodes before which only the previous node's value is alive.
fn cuts(graph: &Graph) -> Vec<usize> {
    let n = graph.nodes.len();
    let mut last_reader = vec![0; graph.nb_values()];
    for (i, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|v| last_reader[v.0 as usize] = i);
    }
    graph.outputs.iter().for_each(|port| last_reader[port.value.0 as usize] = n);
    // The last reader of any value before the previous node's.
    let mut earlier = last_reader[..graph.inputs.len()].iter().copied().max().unwrap_or(0);
    let mut cuts = Vec::new();
    for p in 1..n {
        let ValueId(previous) = graph.value_of(p - 1);
        if earlier < p {
            cuts.push(p);
        }
        earlier = earlier.max(last_reader[previous as usize]);
    }
    cuts
}

/// Bytes that one node reads and writes per image. Those of int8 count twice: its arithmetic leaves half
/// the time to move each.
fn node_bytes(graph: &Graph, shapes: &[Shape], node: usize) -> usize {
    let bytes = |v: &ValueId| {
        let size = graph.quantization_of(*v).map_or(size_of::<f32>(), |_| 2 * size_of::<u8>());
        shapes[v.0 as usize].len() * size
    };
    let inputs: usize = graph.nodes[node].inputs.iter().map(bytes).sum();
    inputs + bytes(&graph.value_of(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Clamp, Node, Op};

    /// Two residual blocks of three nodes each: the cut is between them.
    #[test]
    fn cuts_are_where_one_value_is_alive() {
        let node = |inputs: &[u32]| Node {
            name: String::new(),
            op: if inputs.len() == 2 { Op::Add(Clamp::NONE) } else { Op::Clamp(Clamp::RELU) },
            inputs: inputs.iter().map(|v| ValueId(*v)).collect(),
        };
        let port = |value| crate::graph::Port {
            name: String::new(),
            value: ValueId(value),
            shape: Shape::new(8, 4, 4),
            axes: crate::graph::AxisOrder::nchw(),
        };
        let nodes = [node(&[0]), node(&[1]), node(&[0, 2]), node(&[3]), node(&[4]), node(&[3, 5])];
        let graph = Graph {
            inputs: vec![port(0)],
            nodes: nodes.to_vec(),
            outputs: vec![port(6)],
            ..Graph::default()
        };
        graph.validate().expect("a valid graph");
        assert_eq!(cuts(&graph), [3]);
        let shapes = graph.infer_shapes(&graph.input_shapes()).expect("shapes");
        let whole = [Part { nodes: 0..6, images: 6 }];
        assert_eq!(parts(&graph, &shapes, 6), whole, "small activations need no slices");
    }
}
