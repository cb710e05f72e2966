//! After rewriting: renumbering, removal of what is not used, checks of the constants.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::graph::{ConstId, Data, Network, ValueId};

/// Resolves stand-ins. An alias is never aliased itself: it was final when it was recorded.
pub(super) fn redirect(network: &mut Network, alias: &[ValueId]) {
    let graph = &mut network.graph;
    let operands = graph.nodes.iter_mut().flat_map(|n| &mut n.inputs);
    for v in operands.chain(graph.outputs.iter_mut().map(|p| &mut p.value)) {
        *v = alias[v.0 as usize];
    }
}

/// Drops nodes that no output needs and renumbers the others.
pub(super) fn drop_dead_nodes(network: &mut Network) {
    let graph = &mut network.graph;
    let nb_inputs = graph.inputs.len();
    let mut is_needed = vec![false; graph.nb_values()];
    graph.outputs.iter().for_each(|p| is_needed[p.value.0 as usize] = true);
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        if is_needed[nb_inputs + i] {
            node.inputs.iter().for_each(|v| is_needed[v.0 as usize] = true);
        }
    }
    let mut number: Vec<ValueId> = (0..nb_inputs as u32).map(ValueId).collect();
    let mut kept = Vec::new();
    for (i, mut node) in std::mem::take(&mut graph.nodes).into_iter().enumerate() {
        number.push(ValueId((nb_inputs + kept.len()) as u32));
        if is_needed[nb_inputs + i] {
            node.inputs.iter_mut().for_each(|v| *v = number[v.0 as usize]);
            kept.push(node);
        }
    }
    graph.nodes = kept;
    if !graph.quantization.is_empty() {
        let mut is_needed = is_needed.iter().enumerate().map(|(v, n)| v < nb_inputs || *n);
        graph.quantization.retain(|_| is_needed.next().unwrap_or_default());
    }
    graph.outputs.iter_mut().for_each(|p| p.value = number[p.value.0 as usize]);
}

/// Keeps the constants in use, in execution order, equal ones once. Denormals become zero: they
/// are noise in weights, and slow on most CPUs.
///
/// # Errors
/// A constant that is infinite or not a number; names the node.
pub(super) fn compact_constants(network: &mut Network) -> Result<()> {
    let mut old = std::mem::take(&mut network.data);
    let old_specs = std::mem::take(&mut network.graph.constants);
    let mut number: Vec<Option<ConstId>> = vec![None; old.len()];
    let mut by_hash: HashMap<u64, Vec<ConstId>> = HashMap::new();
    let mut nodes = std::mem::take(&mut network.graph.nodes);
    for node in &mut nodes {
        let label = node.label();
        for id in node.op.constants_mut() {
            let i = id.0 as usize;
            *id = match number[i] {
                Some(id) => id,
                None => {
                    let mut data = std::mem::take(&mut old[i]);
                    if let Data::F32(data) = &mut data {
                        clean(data).map_err(|e| e.at_node(&label))?;
                    }
                    let same = by_hash.entry(hash(&data)).or_default();
                    let spec = &old_specs[i];
                    let equal = same.iter().copied().find(|&other| {
                        network.graph.constant(other).shape == spec.shape
                            && network.data[other.0 as usize] == data
                    });
                    let id = equal.unwrap_or_else(|| {
                        let id = network.add_constant(&spec.name, &spec.shape, data);
                        same.push(id);
                        id
                    });
                    number[i] = Some(id);
                    id
                }
            };
        }
    }
    network.graph.nodes = nodes;
    Ok(())
}

fn clean(data: &mut [f32]) -> Result<()> {
    for v in data {
        if !v.is_finite() {
            return Err(Error::unsupported(format!("a weight is {v}")));
        }
        if v.is_subnormal() {
            *v = 0.0;
        }
    }
    Ok(())
}

/// FNV-1a over the elements' bits.
fn hash(data: &Data) -> u64 {
    let step = |h: u64, v: u32| (h ^ u64::from(v)).wrapping_mul(0x0000_0100_0000_01b3);
    data.bits().fold(0xcbf2_9ce4_8422_2325, step)
}
