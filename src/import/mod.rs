//! Importers: ONNX and safetensors files to a [`Network`].

pub mod onnx;
mod safetensors;
pub mod synth;
pub mod zoo;

pub use safetensors::safetensors_file;

use std::path::Path;

use crate::error::{Error, Result};
use crate::graph::{Network, fuse};

/// Settings of an import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Height and width where the file leaves them open, instead of 224x224. It matters where an
    /// attribute depends on the size ([`Graph::fixed_size`](crate::graph::Graph::fixed_size)).
    pub input_size: Option<[usize; 2]>,
}

/// Imports an ONNX file, simplified by [`fuse`](fuse::fuse).
///
/// # Errors
/// A malformed file, or an operator, attribute or shape that is not supported; names the node.
pub fn onnx_file(path: &Path, options: &ImportOptions) -> Result<Network> {
    let import = || {
        let model = onnx::read(path)?;
        let folder =
            path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
        let mut network = onnx::network(model, folder, options)?;
        fuse::fuse(&mut network)?;
        Ok(network)
    };
    import().map_err(|e: Error| e.in_file(path))
}
