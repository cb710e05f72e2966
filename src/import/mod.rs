//! Importers: ONNX and safetensors files to a [`Network`]. STUB: being written.

pub mod onnx;
pub mod synth;
pub mod zoo;

use std::path::Path;

use crate::error::Result;
use crate::graph::Network;

/// Settings of an import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Height and width where the file leaves them open, instead of 224x224.
    pub input_size: Option<[usize; 2]>,
}

/// Imports an ONNX file, simplified by [`fuse`](crate::graph::fuse::fuse).
///
/// # Errors
/// A malformed file, or an operator, attribute or shape that is not supported; names the node.
pub fn onnx_file(_path: &Path, _options: &ImportOptions) -> Result<Network> {
    todo!("import helper")
}
