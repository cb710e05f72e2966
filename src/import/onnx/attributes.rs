//! Access to a node's attributes that leaves none unread.

use std::cell::Cell;

use super::proto::{AttributeProto, NodeProto, TensorProto};
use crate::error::{Error, Result};

/// A node's attributes. What an operator does not ask for is an error ([`Self::finish`]), so no
/// attribute is ever ignored unknowingly.
pub(super) struct Attributes<'a> {
    entries: Vec<(&'a AttributeProto, Cell<bool>)>,
}

/// `AttributeProto.AttributeType`.
mod kind {
    pub(super) const FLOAT: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const STRING: i32 = 3;
    pub(super) const TENSOR: i32 = 4;
    pub(super) const FLOATS: i32 = 6;
    pub(super) const INTS: i32 = 7;
}

impl<'a> Attributes<'a> {
    pub(super) fn new(node: &'a NodeProto) -> Self {
        Self { entries: node.attribute.iter().map(|a| (a, Cell::new(false))).collect() }
    }

    fn get(&self, name: &str, kind: i32) -> Result<Option<&'a AttributeProto>> {
        let Some((attribute, read)) = self.entries.iter().find(|(a, _)| a.name == name) else {
            return Ok(None);
        };
        read.set(true);
        // Files of IR version 1 leave the type out.
        if attribute.r#type != kind && attribute.r#type != 0 {
            return Err(Error::format(format!("attribute '{name}' has the wrong type")));
        }
        Ok(Some(attribute))
    }

    pub(super) fn int(&self, name: &str) -> Result<Option<i64>> {
        Ok(self.get(name, kind::INT)?.map(|a| a.i))
    }

    pub(super) fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// A flag: 0 or 1.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.int_or(name, default.into())? != 0)
    }

    pub(super) fn ints(&self, name: &str) -> Result<Option<&'a [i64]>> {
        Ok(self.get(name, kind::INTS)?.map(|a| a.ints.as_slice()))
    }

    pub(super) fn float(&self, name: &str) -> Result<Option<f32>> {
        Ok(self.get(name, kind::FLOAT)?.map(|a| a.f))
    }

    pub(super) fn float_or(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    pub(super) fn floats(&self, name: &str) -> Result<Option<&'a [f32]>> {
        Ok(self.get(name, kind::FLOATS)?.map(|a| a.floats.as_slice()))
    }

    pub(super) fn string(&self, name: &str) -> Result<Option<&'a str>> {
        let Some(attribute) = self.get(name, kind::STRING)? else { return Ok(None) };
        let text = std::str::from_utf8(&attribute.s)
            .map_err(|_| Error::format(format!("attribute '{name}' is not text")))?;
        Ok(Some(text))
    }

    pub(super) fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>> {
        Ok(self.get(name, kind::TENSOR)?.and_then(|a| a.t.as_ref()))
    }

    /// Marks attributes that do not change inference as read.
    pub(super) fn ignore(&self, names: &[&str]) {
        for (attribute, read) in &self.entries {
            if names.contains(&attribute.name.as_str()) {
                read.set(true);
            }
        }
    }

    /// Refuses attributes that nobody read.
    pub(super) fn finish(&self) -> Result<()> {
        match self.entries.iter().find(|(_, read)| !read.get()) {
            Some((a, _)) => {
                Err(Error::unsupported(format!("attribute '{}' is not supported", a.name)))
            }
            None => Ok(()),
        }
    }
}
