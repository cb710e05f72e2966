//! `classify`: the classes of photographs.

use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use anyhow::{bail, ensure};
use indicatif::ProgressBar;
use serde::Serialize;
use skipstone::classes::{Scores, top};
use skipstone::graph::Shape;
use skipstone::{Executor, ExecutorOptions, Model};

use crate::exit::{Exit, Hinted, IMAGE_THREAD, UsageError};
use crate::images::{Source, list, read};
use crate::model::{ExecutionArgs, OpenArgs, embedded};
use crate::ui::Ui;
use crate::units;

/// Images decoded ahead of the one that runs.
const READ_AHEAD: usize = 2;

/// Classify photographs
///
/// Each JPEG or PNG file is prepared by the model's own recipe. Of a folder, all images in it and
/// below it are taken. An image that cannot be read does not stop the others, but the exit code is 1.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Image files or folders; `-` reads one image from stdin
    #[arg(required = true, value_name = "IMAGE|FOLDER")]
    images: Vec<PathBuf>,
    /// A packed model with a recipe [default: the built-in open_nsfw]
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Classes per image
    #[arg(short = 'k', long, value_name = "K", default_value_t = 5, value_parser = units::parse_positive)]
    topk: usize,
    /// Print one JSON array with an object per image
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    execution: ExecutionArgs,
    #[command(flatten)]
    open: OpenArgs,
}

/// One image's result.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<Vec<Class<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Class<'a> {
    index: usize,
    label: Option<&'a str>,
    score: f32,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    let model = open(args)?;
    let Some(recipe) = model.recipe() else {
        let error = skipstone::Error::invalid("the model has no preprocessing recipe");
        let hint = "convert it with --recipe, e.g. --recipe imagenet".to_owned();
        return Err(Hinted { error, hint }.into());
    };
    let graph = model.graph();
    let [port] = graph.inputs.as_slice() else {
        bail!("the model has {} inputs, expected one image", graph.inputs.len());
    };
    let classes = graph.outputs[0].shape;
    ensure!(classes.h * classes.w == 1, "the model's output is {classes}, expected classes");
    let input_size = recipe.output_size();
    let shape = match input_size {
        Some([h, w]) => Shape { h, w, ..port.shape },
        None => port.shape,
    };
    let sources = list(&args.images);

    thread::scope(|scope| {
        let (sender, inputs) = sync_channel(READ_AHEAD);
        // Reading and decoding go on beside planning and inference.
        let sources = &sources;
        let read_all = move || {
            let images = sources.iter().map(|source| read(source, recipe, port, shape));
            for image in images {
                if sender.send(image).is_err() {
                    // An error ended the command.
                    return;
                }
            }
        };
        thread::Builder::new().name(IMAGE_THREAD.to_owned()).spawn_scoped(scope, read_all)?;
        let runtime = args.execution.start(ui)?;
        let options =
            ExecutorOptions { input_size, numerics: args.execution.numerics, ..Default::default() };
        let executor = Executor::new(&runtime, &model, &options)?;
        classify(args, ui, &model, executor, sources, inputs)
    })
}

fn open(args: &Args) -> anyhow::Result<Model> {
    match (&args.model, embedded()) {
        (Some(path), _) => args.open.open(path),
        (None, Some(model)) => Ok(Model::from_bytes(model)?),
        (None, None) => {
            Err(UsageError("this build has no model of its own: use --model".to_owned()).into())
        }
    }
}

/// Runs and prints image after image.
fn classify(
    args: &Args,
    ui: &Ui,
    model: &Model,
    mut executor: Executor,
    sources: &[Source],
    inputs: Receiver<anyhow::Result<Vec<f32>>>,
) -> anyhow::Result<Exit> {
    let scores = Scores::of(model.graph());
    let count = sources.len();
    let progress = if count > 1 { ui.progress(count) } else { ProgressBar::hidden() };
    let mut out = ui.stdout();
    let mut exit = Exit::Ok;
    for (i, (source, input)) in sources.iter().zip(inputs).enumerate() {
        let file = source.path.display().to_string();
        progress.set_message(file.clone());
        let mut report = Report { file, classes: None, error: None };
        match input {
            Ok(input) => {
                executor.run(&[&input])?;
                ui.detail(&format!("{}: after {:.1} ms", report.file, units::ms(ui.elapsed())));
                let probabilities = scores.probabilities(executor.output(0));
                report.classes = Some(best(&probabilities, args.topk, model.labels()));
            }
            Err(error) => {
                exit = Exit::Failure;
                progress.suspend(|| ui.error(&format!("{}: {error:#}", report.file)));
                report.error = Some(format!("{error:#}"));
            }
        }
        // The progress bar and the data may share a terminal.
        progress.suspend(|| {
            if args.json {
                out.write_all(if i == 0 { b"[\n" } else { b",\n" })?;
                serde_json::to_writer(&mut out, &report).map_err(std::io::Error::from)?;
            } else {
                report.print(&mut out)?;
            }
            out.flush()
        })?;
        progress.inc(1);
    }
    if args.json {
        writeln!(out, "\n]")?;
    }
    out.flush()?;
    progress.finish_and_clear();
    Ok(exit)
}

impl Report<'_> {
    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Some(classes) = &self.classes else { return Ok(()) };
        writeln!(out, "{}", self.file)?;
        for Class { index, label, score } in classes {
            match label {
                Some(label) => writeln!(out, "  {score:.4}  {label}")?,
                None => writeln!(out, "  {score:.4}  class {index}")?,
            }
        }
        Ok(())
    }
}

/// The `k` likeliest classes.
fn best<'a>(probabilities: &[f32], k: usize, labels: Option<&'a [String]>) -> Vec<Class<'a>> {
    let label = |index: usize| labels.and_then(|l| l.get(index)).map(String::as_str);
    let best = top(probabilities, k).into_iter();
    best.map(|index| Class { index, label: label(index), score: probabilities[index] }).collect()
}
