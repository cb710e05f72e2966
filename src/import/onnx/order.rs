//! Which nodes the outputs need, in an order in which every operand is computed before its use.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};

use super::label;
use super::proto::GraphProto;
use crate::error::{Error, Result};

/// Indices of the needed nodes; in the file's order where that is a valid one.
///
/// # Errors
/// A name that is defined twice, or nodes that need each other.
pub(super) fn needed(graph: &GraphProto) -> Result<Vec<usize>> {
    let producers = producers(graph)?;
    let operands = |i: usize| {
        graph.node[i].input.iter().filter_map(|name| producers.get(name.as_str()).copied())
    };

    let mut is_needed = vec![false; graph.node.len()];
    let mut pending: Vec<usize> =
        graph.output.iter().filter_map(|o| producers.get(o.name.as_str()).copied()).collect();
    while let Some(i) = pending.pop() {
        if !std::mem::replace(&mut is_needed[i], true) {
            pending.extend(operands(i));
        }
    }

    // Kahn's algorithm; of the nodes that are ready, the file's first comes first.
    let nodes = || (0..graph.node.len()).filter(|&i| is_needed[i]);
    let mut users = vec![Vec::new(); graph.node.len()];
    let mut nb_missing = vec![0; graph.node.len()];
    for i in nodes() {
        for operand in operands(i) {
            users[operand].push(i);
            nb_missing[i] += 1;
        }
    }
    let mut ready: BinaryHeap<_> = nodes().filter(|&i| nb_missing[i] == 0).map(Reverse).collect();
    let mut order = Vec::new();
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &user in &users[i] {
            nb_missing[user] -= 1;
            if nb_missing[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    match nodes().find(|&i| nb_missing[i] > 0) {
        Some(i) => Err(Error::format("the node is in, or behind, a cycle of nodes")
            .at_node(label(&graph.node[i]))),
        None => Ok(order),
    }
}

/// The node that computes each name.
fn producers(graph: &GraphProto) -> Result<HashMap<&str, usize>> {
    let mut producers = HashMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            match producers.entry(output.as_str()) {
                Entry::Vacant(entry) => entry.insert(i),
                Entry::Occupied(_) => {
                    return Err(
                        Error::format(format!("'{output}' is computed twice")).at_node(label(node))
                    );
                }
            };
        }
    }
    let inputs = graph.input.iter().map(|i| i.name.as_str()).collect();
    let initializers = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    // A weight may be listed as an input, too, but neither list may repeat a name.
    for mut given in [inputs, initializers] as [Vec<&str>; 2] {
        if let Some(name) = given.iter().find(|name| producers.contains_key(**name)) {
            return Err(Error::format(format!("'{name}' is given, and computed by a node, too")));
        }
        given.sort_unstable();
        if let Some(pair) = given.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::format(format!("'{}' is given twice", pair[0])));
        }
    }
    Ok(producers)
}
