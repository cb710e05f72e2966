//! Photographs to input tensors by a [`Recipe`](crate::Recipe). STUB: being written.
