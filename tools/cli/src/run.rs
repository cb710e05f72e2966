//! `run`: arrays in, arrays out.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use skipstone::graph::{Axis, Port};
use skipstone::{Executor, ExecutorOptions, Model};

use crate::exit::{Exit, UsageError};
use crate::layers::{Layer, profile_table};
use crate::model::{ExecutionArgs, OpenArgs, describe_port};
use crate::npy::{self, Array};
use crate::ui::Ui;
use crate::units;

/// Images per inference. A longer array is run in pieces: results do not depend on it, memory does.
const MAX_BATCH: usize = 32;

/// Run a model on NumPy arrays
///
/// The arrays have the axes of the model's inputs (see `inspect`); the batch is theirs, and so are
/// the height and width of the first input where the network allows other sizes than its default.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A packed model
    model: PathBuf,
    /// Input as .npy of f32, f64, f16 or u8; once per input, in the model's order or by name
    #[arg(short, long, required = true, value_name = "[NAME=]FILE")]
    input: Vec<String>,
    /// Output to write as .npy of f32; once per output that is wanted, in the model's order or by name
    #[arg(short, long, required = true, value_name = "[NAME=]FILE")]
    output: Vec<String>,
    /// Print the time of each layer
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    execution: ExecutionArgs,
    #[command(flatten)]
    open: OpenArgs,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    let model = args.open.open(&args.model)?;
    let graph = model.graph();
    let input_files = assign("input", &args.input, &graph.inputs)?;
    if let Some(missing) = input_files.iter().position(Option::is_none) {
        let port = describe_port(&graph.inputs[missing], 1);
        return Err(UsageError(format!("no --input for {port}")).into());
    }
    let output_files = assign("output", &args.output, &graph.outputs)?;

    let mut inputs = vec![];
    for (port, file) in graph.inputs.iter().zip(input_files.into_iter().flatten()) {
        let array = npy::read(file)?;
        let batch = check(&array, port, inputs.is_empty())
            .with_context(|| format!("{}: input {}", file.display(), describe_port(port, 1)))?;
        inputs.push((array, batch));
    }
    let batch = inputs.first().map_or(1, |(_, batch)| *batch);
    ensure!(inputs.iter().all(|(_, b)| *b == batch), "the inputs have different batches");

    let input_size = graph.inputs.first().zip(inputs.first());
    let input_size = input_size.and_then(|(port, (array, _))| spatial(array, port));
    let options = ExecutorOptions {
        batch: batch.min(MAX_BATCH),
        input_size,
        profile: args.profile,
        numerics: args.execution.numerics,
        ..Default::default()
    };
    let mut executor = Executor::new(&args.execution.start(ui)?, &model, &options)?;
    let (outputs, times_ns) = run_all(&mut executor, &model, batch, &inputs, ui)?;

    for (array, file) in outputs.iter().zip(output_files) {
        if let Some(file) = file {
            npy::write(file, array)?;
        }
    }
    if args.profile {
        let layers = Layer::all(executor.plan(), &times_ns);
        let mut out = ui.stdout();
        writeln!(out, "{}", profile_table(&layers).trim_fmt())?;
        out.flush()?;
    }
    Ok(Exit::Ok)
}

/// The file of each port: by the port's name, else in order.
fn assign<'a>(
    what: &str,
    files: &'a [String],
    ports: &[Port],
) -> anyhow::Result<Vec<Option<&'a Path>>> {
    let mut assigned = vec![None; ports.len()];
    for file in files {
        let named = file.split_once('=').and_then(|(name, file)| {
            Some((ports.iter().position(|p| p.name == name)?, Path::new(file)))
        });
        let in_order = || Some((assigned.iter().position(Option::is_none)?, Path::new(file)));
        let Some((index, path)) = named.or_else(in_order) else {
            let names: Vec<_> = ports.iter().map(|p| p.name.as_str()).collect();
            let names = names.join(", ");
            let message =
                format!("more than one --{what} for each of the model's {what}s: {names}");
            return Err(UsageError(message).into());
        };
        if assigned[index].replace(path).is_some() {
            let name = &ports[index].name;
            return Err(UsageError(format!("two files for the {what} {name}")).into());
        }
    }
    Ok(assigned)
}

/// Checks an array's axes; returns its batch. `any_size`: whether height and width are free.
fn check(array: &Array, port: &Port, any_size: bool) -> anyhow::Result<usize> {
    let (axes, shape) = (&port.axes.0, &array.shape);
    if shape.len() != axes.len() {
        let images_axis = shape.len() + 1 == axes.len() && axes.first() == Some(&Axis::N);
        let advice = if images_axis { "; a single image needs a leading axis of 1" } else { "" };
        bail!("the array has shape {shape:?}, expected {} axes{advice}", axes.len());
    }
    let expected = port.axes.dims(1, port.shape);
    for ((axis, found), expected) in axes.iter().zip(shape).zip(expected) {
        let free = match axis {
            Axis::N => true,
            Axis::H | Axis::W => any_size,
            Axis::C => false,
        };
        ensure!(
            *found > 0 && (free || *found == expected),
            "the array has shape {shape:?}: {found} along {axis:?}, expected {expected}"
        );
    }
    Ok(if axes.first() == Some(&Axis::N) { shape[0] } else { 1 })
}

/// Height and width of an array.
fn spatial(array: &Array, port: &Port) -> Option<[usize; 2]> {
    let extent = |axis| Some(array.shape[port.axes.0.iter().position(|a| *a == axis)?]);
    Some([extent(Axis::H)?, extent(Axis::W)?])
}

/// Runs all images, piece by piece; returns the outputs and the mean time of each step.
fn run_all(
    executor: &mut Executor,
    model: &Model,
    batch: usize,
    inputs: &[(Array, usize)],
    ui: &Ui,
) -> anyhow::Result<(Vec<Array>, Vec<f64>)> {
    let step = batch.min(MAX_BATCH);
    let nb_runs = batch.div_ceil(step);
    let mut outputs: Vec<Array> = (0..model.graph().outputs.len())
        .map(|i| {
            let mut shape = executor.output_dims(i).to_vec();
            if model.graph().outputs[i].axes.0.first() == Some(&Axis::N) {
                shape[0] = batch;
            }
            Array { shape, data: vec![] }
        })
        .collect();
    // The last piece may be shorter; what is left of the one before fills it up.
    let mut pieces: Vec<Vec<f32>> =
        (0..inputs.len()).map(|i| vec![0.0; executor.input_dims(i).iter().product()]).collect();
    let mut times_ns = vec![0.0; executor.plan().steps.len()];
    let progress = ui.progress(nb_runs);
    for first in (0..batch).step_by(step) {
        let images = step.min(batch - first);
        for (piece, (array, _)) in pieces.iter_mut().zip(inputs) {
            let per_image = array.data.len() / batch;
            let source = &array.data[first * per_image..(first + images) * per_image];
            piece[..source.len()].copy_from_slice(source);
        }
        executor.run(&pieces.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        for (i, output) in outputs.iter_mut().enumerate() {
            let data = executor.output(i);
            output.data.extend_from_slice(&data[..data.len() / step * images]);
        }
        for (sum, ns) in times_ns.iter_mut().zip(executor.step_times_ns()) {
            *sum += *ns as f64 / nb_runs as f64;
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    ui.detail(&format!("{batch} images, finished after {:.1} ms", units::ms(ui.elapsed())));
    Ok((outputs, times_ns))
}
