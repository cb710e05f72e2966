//! Opening models and starting runtimes, as every command does it.

use std::path::Path;

use skipstone::graph::{Graph, Port};
use skipstone::plan::Numerics;
use skipstone::tune::Tables;
use skipstone::{ErrorKind, Model, Runtime};

use crate::exit::Hinted;
use crate::ui::Ui;
use crate::units;

/// How models are read.
#[derive(clap::Args)]
pub(crate) struct OpenArgs {
    /// Copy the model into memory and check all of it before use
    ///
    /// By default the file is mapped: weights are read as they are used, straight from the page
    /// cache, and nobody may overwrite the file meanwhile. (Replacing it by a rename, as `convert`
    /// does, is safe.)
    #[arg(long)]
    no_mmap: bool,
}

/// How inferences run.
#[derive(clap::Args)]
pub(crate) struct ExecutionArgs {
    /// Threads per inference [default: the CPUs this process may use; see `skipstone doctor`]
    #[arg(long, value_name = "N", value_parser = units::parse_positive)]
    pub(crate) threads: Option<usize>,

    /// Which rounding errors may be traded for time: `strict` is direct convolution alone, `fast` also
    /// uses Strassen and Winograd up to F(4x4), `relaxed` also F(6x6)
    #[arg(long, value_name = "CLASS", default_value_t)]
    pub(crate) numerics: Numerics,
}

/// Whether measured choices are used.
#[derive(clap::Args)]
pub(crate) struct TableArgs {
    /// Use rules of thumb where `tune` measured choices
    #[arg(long)]
    untuned: bool,
}

impl TableArgs {
    pub(crate) fn tables(&self) -> Tables {
        if self.untuned { Tables::Ignore } else { Tables::File }
    }
}

impl OpenArgs {
    /// Opens a packed model.
    pub(crate) fn open(&self, path: &Path) -> anyhow::Result<Model> {
        let model = if self.no_mmap {
            Model::open(path)
        } else {
            // SAFETY: this cannot be checked, it is a decision. A command is started by whoever owns
            // the file and lives for one job, `--no-mmap` is there for files that others may
            // write to, and this crate itself only ever replaces packed files by a rename.
            unsafe { Model::open_mmap(path) }
        };
        model.map_err(|error| with_hint(path, error))
    }
}

/// Opens a packed model and checks all of it.
pub(crate) fn open_checked(path: &Path) -> anyhow::Result<Model> {
    Model::open(path).map_err(|error| with_hint(path, error))
}

/// The packed model that this build carries.
pub(crate) fn embedded() -> Option<&'static [u8]> {
    #[cfg(feature = "embedded-int8")]
    return Some(include_bytes!("../assets/open_nsfw.int8.skip"));
    #[cfg(all(feature = "embedded", not(feature = "embedded-int8")))]
    return Some(include_bytes!("../assets/open_nsfw.skip"));
    #[cfg(not(feature = "embedded"))]
    return None;
}

fn with_hint(path: &Path, error: skipstone::Error) -> anyhow::Error {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let hint = match (error.kind(), extension) {
        (ErrorKind::Format, "onnx" | "safetensors") => {
            format!("pack it first: skipstone convert {}", path.display())
        }
        (ErrorKind::Format, "pt" | "pth" | "bin") => {
            "export the network to ONNX, or save its weights as safetensors, then convert"
                .to_owned()
        }
        (ErrorKind::Version, _) => "convert the network again with this version".to_owned(),
        (ErrorKind::Checksum, _) => "the file is damaged: copy or convert it again".to_owned(),
        _ => return error.into(),
    };
    Hinted { error, hint }.into()
}

impl ExecutionArgs {
    /// Starts the threads.
    pub(crate) fn start(&self, ui: &Ui) -> anyhow::Result<Runtime> {
        let builder = Runtime::builder();
        let builder = match self.threads {
            Some(threads) => builder.threads(threads),
            None => builder,
        };
        let runtime = builder.build()?;
        let report = runtime.report();
        ui.detail(&format!("{}: {}", report.isa, report.isa_reason));
        ui.detail(&format!("{} threads: {}", report.threads, report.threads_reason));
        Ok(runtime)
    }
}

/// `"input [N, C, H, W] = [1, 3, 224, 224]"`.
pub(crate) fn describe_port(port: &Port, batch: usize) -> String {
    let axes: Vec<_> = port.axes.0.iter().map(|a| format!("{a:?}")).collect();
    format!("{} [{}] = {:?}", port.name, axes.join(", "), port.axes.dims(batch, port.shape))
}

/// Number of constants' elements: weights and biases, after folding.
pub(crate) fn nb_parameters(graph: &Graph) -> u64 {
    graph.constants.iter().map(|c| c.len() as u64).sum()
}

/// Multiply-accumulates for one image of the default size.
pub(crate) fn macs(graph: &Graph) -> anyhow::Result<u64> {
    let shapes = graph.infer_shapes(&graph.input_shapes())?;
    let outputs = &shapes[graph.inputs.len()..];
    let nodes = graph.nodes.iter().zip(outputs);
    Ok(nodes.map(|(node, output)| node.op.macs(&graph.constants, *output)).sum())
}
