//! The reference interpreter: obvious loops that nobody optimises. It is what tests trust. STUB.

use super::{Network, Shape};
use crate::error::Result;

/// Runs `batch` images through `network`, accumulating in f64.
///
/// `shapes` are the shapes of one image of each input (`network.graph.input_shapes()` for the
/// defaults). Inputs and outputs are dense, in their port's axis order, images one after another.
///
/// # Errors
/// Inputs of the wrong number or length; operands that do not fit, naming the node.
pub fn run(
    _network: &Network,
    shapes: &[Shape],
    batch: usize,
    _inputs: &[&[f32]],
) -> Result<Vec<Vec<f32>>> {
    let _ = (shapes, batch);
    todo!("import helper")
}
