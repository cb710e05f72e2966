//! A bound on what an import computes, so that a small file cannot demand unbounded memory.

use crate::error::{Error, Result};

/// Elements that may be made beyond those stored in the file. VGG-19 with `ConstantOfShape` for its
/// weights makes 144 million.
const ALLOWANCE: usize = 1 << 28;

/// Counts the elements of constants that are computed, rather than stored in the file.
pub(super) struct Budget {
    left: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: ALLOWANCE }
    }
}

impl Budget {
    /// Refuses what [`Self::charge`] would refuse; to be called before memory is allocated.
    pub(super) fn check(&self, nb_elements: usize) -> Result<()> {
        if nb_elements > self.left {
            return Err(Error::unsupported(format!(
                "the constants that this graph computes have over {ALLOWANCE} elements"
            )));
        }
        Ok(())
    }

    /// Claims `nb_elements`.
    pub(super) fn charge(&mut self, nb_elements: usize) -> Result<()> {
        self.check(nb_elements)?;
        self.left -= nb_elements;
        Ok(())
    }
}
