//! Convolutions that are computed as part of the one that adds them.
//!
//! The last convolution of a ResNet stage's first block adds the downsample branch:
//! `y = W3 * x2 + Wd * x0 + b`. Where nothing else reads the branch, both products go into one step,
//! one after the other along k, and the branch's activation never exists.

use crate::graph::{Clamp, Conv, Graph, Op};

/// For every node, the node whose product its step includes. `joins` says whether a node and its
/// branch can.
pub(super) fn branches(graph: &Graph, joins: impl Fn(usize, usize) -> bool) -> Vec<Option<usize>> {
    let uses = graph.use_counts();
    let branch = |(i, node): (usize, &crate::graph::Node)| {
        let Op::Conv(Conv { residual: true, .. }) = node.op else { return None };
        let added = node.inputs[1];
        let branch = graph.node_of(added)?;
        let Op::Conv(conv) = &graph.nodes[branch].op else { return None };
        let plain = !conv.residual && conv.clamp == Clamp::NONE;
        let open = plain && uses[added.0 as usize] == 1 && joins(i, branch);
        open.then_some(branch)
    };
    graph.nodes.iter().enumerate().map(branch).collect()
}
