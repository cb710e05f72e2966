//! `synth`: networks with random weights.

use std::io::Write;
use std::path::PathBuf;

use skipstone::import::synth::{SynthOptions, synth, write_onnx};
use skipstone::import::zoo::architectures;

use crate::exit::{Exit, UsageError};
use crate::ui::{Ui, table};
use crate::units;

/// Write a network with random, well-scaled weights as ONNX
///
/// The same architecture, seed and options give the same bytes everywhere. For tests and
/// measurements without a download.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A name from `--list`
    #[arg(required_unless_present = "list")]
    arch: Option<String>,
    /// File to write [default: ARCH.onnx]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Start of the random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Height and width of the input [default: the architecture's]
    #[arg(long, value_name = "HxW", value_parser = units::parse_size)]
    input_size: Option<[usize; 2]>,
    /// Number of classes [default: the architecture's]
    #[arg(long, value_name = "N", value_parser = units::parse_positive)]
    classes: Option<usize>,
    /// List the architectures
    #[arg(long, exclusive = true)]
    list: bool,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    let mut out = ui.stdout();
    if args.list {
        let mut list = table(&["name", "input", "classes", "parameters", "MACs", ""], &[2, 3, 4]);
        for arch in architectures() {
            list.add_row([
                arch.name,
                &arch.input.to_string(),
                &arch.classes.to_string(),
                &units::count(arch.nb_parameters()),
                &units::count(arch.macs()),
                arch.summary,
            ]);
        }
        writeln!(out, "{}", list.trim_fmt())?;
        out.flush()?;
        return Ok(Exit::Ok);
    }
    let arch = args.arch.as_deref().ok_or_else(|| UsageError("no architecture".to_owned()))?;
    let output = args.output.clone().unwrap_or_else(|| format!("{arch}.onnx").into());
    let spinner = ui.spinner();
    spinner.set_message(format!("drawing the weights of {arch}"));
    let options = SynthOptions { input_size: args.input_size, classes: args.classes };
    let model = synth(arch, args.seed, &options)?;
    spinner.set_message(format!("writing {}", output.display()));
    write_onnx(&model, &output)?;
    spinner.finish_and_clear();
    writeln!(out, "{}", output.display())?;
    out.flush()?;
    Ok(Exit::Ok)
}
