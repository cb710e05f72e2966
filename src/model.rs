//! An opened packed model. STUB: being written.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use skipstone_kernels::layout::LayoutTag;

use crate::error::Result;
use crate::graph::{ConstId, Graph};
use crate::recipe::Recipe;

/// An immutable packed model; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Model {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    graph: Graph,
}

impl Model {
    /// Opens a packed file by copying it into memory, so that later changes of the file cannot be
    /// seen, and verifies all checksums.
    ///
    /// # Errors
    /// A file that cannot be read, or that breaks the format; names the file and the rule.
    pub fn open(_path: impl AsRef<Path>) -> Result<Self> {
        todo!("format helper")
    }

    /// Opens a packed file without copying: weights are read from the shared page cache.
    ///
    /// # Safety
    /// Nobody may truncate or modify the file while a clone of the model lives.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub unsafe fn open_mmap(_path: impl AsRef<Path>) -> Result<Self> {
        todo!("format helper")
    }

    /// Opens a packed model held in memory; copies it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(_bytes: &[u8]) -> Result<Self> {
        todo!("format helper")
    }

    /// The network's structure.
    pub fn graph(&self) -> &Graph {
        &self.inner.graph
    }

    /// The preprocessing recipe, if the file has one.
    pub fn recipe(&self) -> Option<&Recipe> {
        todo!("format helper")
    }

    /// Class labels, if the file has them.
    pub fn labels(&self) -> Option<&[String]> {
        todo!("format helper")
    }

    /// A constant's packed data in exactly this layout as 64-byte aligned f32, if the file stores it
    /// so; zero-copy.
    pub fn packed(&self, _id: ConstId, _layout: LayoutTag) -> Option<&[f32]> {
        todo!("format helper")
    }

    /// A constant's data in row-major order as f32, converted or unpacked from what the file stores.
    pub fn row_major(&self, _id: ConstId) -> Cow<'_, [f32]> {
        todo!("format helper")
    }
}
