//! ONNX graphs built here, one per operator variant and per reason to refuse one. What is imported
//! runs on the reference interpreter, before and after fusion.

#![cfg(feature = "import")]

mod constants;
mod graph;
mod hostile;
mod layout;
#[path = "../common/metered.rs"]
mod metered;
mod operators;
mod quantized;
mod refusals;
mod symbolic;

#[global_allocator]
static ALLOCATOR: metered::Counting = metered::Counting;
