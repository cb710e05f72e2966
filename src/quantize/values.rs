//! Which values are stored in 8 bits, and how.

use super::{Calibration, Options};
use crate::graph::{Graph, Op, PoolKind, Quantization};

/// The quantization of each value. `is_int8` says which nodes compute in int8.
pub(super) fn quantizations(
    graph: &Graph,
    is_int8: &[bool],
    calibration: &Calibration,
    options: &Options,
) -> Vec<Option<Quantization>> {
    let mut stored = vec![false; graph.nb_values()];
    // Backwards, so that a value's readers are decided before it.
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        let passes_on = stored[graph.value_of(i).0 as usize] && takes_integers(&node.op);
        // A mean is read where all of the image is, and written once: its operand is the large one.
        let is_mean = matches!(node.op, Op::GlobalAveragePool);
        if is_int8[i] || passes_on || is_mean && is_int8.contains(&true) {
            node.inputs.iter().for_each(|v| stored[v.0 as usize] = true);
        }
    }
    // Values that pass on unchanged share the range of the first of them.
    let mut source: Vec<usize> = (0..graph.nb_values()).collect();
    for (i, node) in graph.nodes.iter().enumerate() {
        let own = graph.value_of(i).0 as usize;
        if stored[own] && keeps_elements(&node.op) {
            source[own] = source[node.inputs[0].0 as usize];
        }
    }
    (0..graph.nb_values())
        .map(|v| {
            let first = crate::graph::ValueId(source[v] as u32);
            let histogram = &calibration.of(first).histogram;
            stored[v].then(|| histogram.quantization(options.method, options.max))
        })
        .collect()
}

/// Operators that compute from integers, or move them.
fn takes_integers(op: &Op) -> bool {
    !matches!(op, Op::Conv(_) | Op::Linear(_) | Op::Softmax { .. } | Op::Constant(_))
}

/// Operators whose result has their operand's elements.
fn keeps_elements(op: &Op) -> bool {
    match op {
        Op::Pool(pool) => pool.kind == PoolKind::Max,
        Op::Pad { value, .. } => *value == 0.0,
        Op::Slice(_) | Op::Flatten { .. } => true,
        _ => false,
    }
}
