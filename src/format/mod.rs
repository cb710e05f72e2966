//! The packed file `.skip`. STUB: being specified.

use std::path::Path;

use crate::error::Result;
use crate::graph::Network;
use crate::recipe::Recipe;

/// Element type of stored weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightDtype {
    /// IEEE single.
    #[default]
    F32,
    /// IEEE half: half the file, converted when a plan is built.
    F16,
}

/// What goes into a packed file beside the network.
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// Element type of stored convolution and linear weights.
    pub dtype: WeightDtype,
    /// Class labels, index order.
    pub labels: Option<Vec<String>>,
    /// Preprocessing recipe.
    pub recipe: Option<Recipe>,
    /// Free metadata, key-value (source file, source hash, licence, ...), sorted by key.
    pub metadata: std::collections::BTreeMap<String, String>,
}

/// Serialises `network`; the same input gives the same bytes.
///
/// # Errors
/// A network over the format's limits.
pub fn to_bytes(_network: &Network, _options: &PackOptions) -> Result<Vec<u8>> {
    todo!("format helper")
}

/// Writes `network` to `path` through a temporary file and a rename.
///
/// # Errors
/// As [`to_bytes`], or the file cannot be written.
pub fn write(_network: &Network, _options: &PackOptions, _path: &Path) -> Result<()> {
    todo!("format helper")
}
