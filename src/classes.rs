//! A classifier's output as classes.

use crate::graph::{Graph, Op};

/// How a network's output relates to probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// Softmax of the output gives probabilities.
    Logits,
    /// The output's exponentials are probabilities.
    LogProbabilities,
    /// The output is probabilities.
    Probabilities,
}

impl Scores {
    /// By the operator behind output 0.
    ///
    /// # Panics
    /// If the graph has no output.
    pub fn of(graph: &Graph) -> Self {
        let mut value = graph.outputs[0].value;
        while let Some(index) = graph.node_of(value) {
            let node = &graph.nodes[index];
            match node.op {
                Op::Softmax { log: false } => return Self::Probabilities,
                Op::Softmax { log: true } => return Self::LogProbabilities,
                Op::Flatten { .. } => value = node.inputs[0],
                _ => break,
            }
        }
        Self::Logits
    }

    /// The classes' probabilities by one image's output.
    pub fn probabilities(self, output: &[f32]) -> Vec<f32> {
        match self {
            Self::Probabilities => output.to_vec(),
            Self::LogProbabilities => output.iter().map(|v| v.exp()).collect(),
            Self::Logits => {
                let max = output.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let powers: Vec<_> = output.iter().map(|v| (v - max).exp()).collect();
                let sum: f32 = powers.iter().sum();
                powers.iter().map(|p| p / sum).collect()
            }
        }
    }
}

/// Indices of the `k` largest scores, largest first; of equal ones the first.
pub fn top(scores: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(k);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_become_probabilities() {
        let found = Scores::Logits.probabilities(&[1000.0, 1000.0 + 3f32.ln(), -1000.0]);
        for (found, expected) in found.iter().zip([0.25, 0.75, 0.0]) {
            assert!((found - expected).abs() < 1e-4, "{found}");
        }
    }

    #[test]
    fn the_best_come_first() {
        assert_eq!(top(&[0.1, 0.4, 0.1, 0.4], 3), [1, 3, 0]);
        assert_eq!(top(&[0.5, 0.5], 9), [0, 1]);
    }
}
