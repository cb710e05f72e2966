//! ONNX: from protobuf to a [`Network`](crate::graph::Network). STUB: being written.

pub mod proto;
