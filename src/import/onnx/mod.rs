//! ONNX: from protobuf to a [`Network`]. STUB: being written.

pub mod proto;

use std::path::Path;

use super::ImportOptions;
use crate::error::Result;
use crate::graph::Network;
use proto::ModelProto;

/// Imports a decoded model, not yet simplified by [`fuse`](crate::graph::fuse::fuse).
///
/// `folder` is where external tensor data may lie; `None` refuses external data.
///
/// # Errors
/// As [`onnx_file`](super::onnx_file).
pub fn network(
    _model: ModelProto,
    _folder: Option<&Path>,
    _options: &ImportOptions,
) -> Result<Network> {
    todo!("import helper")
}
