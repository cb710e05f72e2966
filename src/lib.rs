//! SIMD CPU inference for the ResNet family: ResNet-18/34/50/101/152, their variants, VGG and
//! plain networks.
//!
//! A trained network is imported ([`import`]), simplified ([`graph::fuse`]) and packed into one
//! memory-mapped file ([`mod@format`]). [`Model`] opens that file, [`Executor`] plans it for this
//! CPU once and then runs it, layer by layer, on the threads of a [`Runtime`].
//!
//! ```no_run
//! use skipstone::{Executor, ExecutorOptions, Model, Runtime};
//!
//! let model = Model::open("resnet50.skip")?;
//! let runtime = Runtime::builder().build()?;
//! let mut executor = Executor::new(&runtime, &model, &ExecutorOptions::default())?;
//! let image = vec![0.0; 3 * 224 * 224];
//! executor.run(&[&image])?;
//! let logits = executor.output(0);
//! # Ok::<(), skipstone::Error>(())
//! ```

#[cfg(feature = "capi")]
pub mod capi;
pub mod classes;
pub mod cpu;
pub mod error;
pub mod exec;
mod file;
pub mod format;
pub mod graph;
#[cfg(feature = "image")]
pub mod image;
#[cfg(feature = "import")]
pub mod import;
pub mod knobs;
pub mod model;
mod ops;
pub mod plan;
pub mod quantize;
pub mod recipe;
pub mod session;
mod sync;
pub mod tensor;
pub mod threads;
pub mod tune;

pub use error::{Error, ErrorKind, Result};
pub use exec::{Executor, ExecutorOptions};
pub use model::Model;
pub use recipe::Recipe;
pub use session::{Hint, Session, TensorView};
pub use skipstone_kernels::isa::Isa;
pub use threads::Runtime;
