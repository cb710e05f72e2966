//! Micro-kernels, weight packing and CPU detection: mechanism without policy.
//!
//! Nothing here allocates, spawns, reads files or the environment, or knows what a graph is. Each
//! hot kernel family has one folder, each instruction set one file in it, and [`registry`] lists
//! them all; plans, tests and benches iterate that list.

mod arrays;
pub mod eltwise;
pub mod fpenv;
pub mod isa;
pub mod layout;
pub mod pack;
pub mod pool;
pub mod qconv;
pub mod qconv16;
pub mod qeltwise;
pub mod qpool;
pub mod qsplit;
pub mod qwinograd;
pub mod registry;
pub mod requant;
pub mod sconv;
pub mod strassen;
pub mod winograd;
