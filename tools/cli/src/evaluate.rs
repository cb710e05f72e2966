//! `evaluate`: how often a model is right, and how far two models agree.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use skipstone::classes::top;
use skipstone::graph::{Network, Shape, reference};
use skipstone::{Executor, ExecutorOptions, Model, Runtime};

use crate::exit::Exit;
use crate::model::{ExecutionArgs, OpenArgs};
use crate::npy;
use crate::samples::Samples;
use crate::ui::{Ui, write_json};

/// Pairs of classes that are listed.
const LISTED: usize = 10;

/// Measure accuracy, and the agreement of two models
///
/// Of a folder, each image's class is the name of the folder it is in: one of the model's labels, or a
/// class number.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A packed model
    model: PathBuf,
    /// FOLDER/label/image..., or images.npy, and labels.npy to know what is right
    #[arg(long, required = true, num_args = 1..=2, value_names = ["FOLDER|IMAGES.npy", "LABELS.npy"])]
    data: Vec<PathBuf>,
    /// Another packed model, to compare the results of
    #[arg(long, value_name = "OTHER")]
    against: Option<PathBuf>,
    /// Images to take at most, from the first on
    #[arg(long, value_name = "N", value_parser = crate::units::parse_positive)]
    samples: Option<usize>,
    /// Compute with the plain reference interpreter, which kernels are held against; slow
    #[arg(long)]
    reference: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    execution: ExecutionArgs,
    #[command(flatten)]
    open: OpenArgs,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    images: usize,
    model: Accuracy,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Accuracy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<Agreement>,
}

/// Of one model; absent without labels.
#[derive(Serialize)]
struct Accuracy {
    file: PathBuf,
    top1: Option<f64>,
    top5: Option<f64>,
}

/// Of two models.
#[derive(Serialize)]
struct Agreement {
    /// Part of the images that both put into one class.
    top1: f64,
    /// Largest difference of logits over the largest logit.
    max_error: f64,
    /// Root mean square of the differences over that of the logits.
    rms_error: f64,
    /// Where they differ: the other model's class, the model's, how often.
    confusion: Vec<(String, String, usize)>,
}

/// Something that computes one image.
enum Machine {
    Executor(Box<Executor>),
    Reference(Box<Network>, Vec<Shape>),
}

impl Machine {
    fn start(
        args: &Args,
        runtime: &Runtime,
        model: &Model,
        samples: &Samples,
    ) -> anyhow::Result<Self> {
        let [h, w] = samples.size();
        if args.reference {
            let network = Box::new(model.to_network());
            let mut shapes = network.graph.input_shapes();
            (shapes[0].h, shapes[0].w) = (h, w);
            return Ok(Self::Reference(network, shapes));
        }
        let numerics = args.execution.numerics;
        let options = ExecutorOptions { input_size: Some([h, w]), numerics, ..Default::default() };
        Ok(Self::Executor(Box::new(Executor::new(runtime, model, &options)?)))
    }

    fn logits(&mut self, image: &[f32]) -> anyhow::Result<Vec<f32>> {
        match self {
            Self::Executor(executor) => {
                executor.run(&[image])?;
                Ok(executor.output(0).to_vec())
            }
            Self::Reference(network, shapes) => {
                Ok(reference::run(network, shapes, 1, &[image])?.swap_remove(0))
            }
        }
    }
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    let model = args.open.open(&args.model)?;
    let other = args.against.as_ref().map(|path| args.open.open(path)).transpose()?;
    let samples = Samples::open(&args.data[0], &model)?;
    let nb_classes = model.graph().outputs[0].shape.len();
    if let Some(other) = &other {
        check_pair(&model, other)?;
    }
    let truth = truth(args, &model, &samples, nb_classes)?;
    ensure!(
        truth.is_some() || other.is_some(),
        "without labels and without --against there is nothing to compare with"
    );
    let runtime = args.execution.start(ui)?;
    let mut machine = Machine::start(args, &runtime, &model, &samples)?;
    let mut rival = match &other {
        Some(other) => Some(Machine::start(args, &runtime, other, &samples)?),
        None => None,
    };
    let count = samples.len().min(args.samples.unwrap_or(usize::MAX));
    let progress = ui.progress(count);
    let (mut own, mut others) = (Tally::default(), Tally::default());
    let mut pair = Pair::default();
    for i in 0..count {
        let image = samples.get(i)?;
        let logits = machine.logits(&image)?;
        let class = truth.as_ref().map(|t| t[i]);
        own.add(&logits, class);
        if let Some(rival) = &mut rival {
            let theirs = rival.logits(&image)?;
            others.add(&theirs, class);
            pair.add(&logits, &theirs);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    let report = Report {
        images: count,
        model: own.accuracy(&args.model, truth.is_some(), nb_classes),
        against: args.against.as_ref().map(|f| others.accuracy(f, truth.is_some(), nb_classes)),
        agreement: other.is_some().then(|| pair.agreement(count, model.labels())),
    };
    let mut out = ui.stdout();
    if args.json {
        write_json(&mut out, &report)?;
    } else {
        report.print(&mut out)?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn check_pair(model: &Model, other: &Model) -> anyhow::Result<()> {
    let shapes = |m: &Model| (m.graph().input_shapes(), m.graph().outputs[0].shape);
    let ((x, y), (other_x, other_y)) = (shapes(model), shapes(other));
    ensure!(x == other_x && y == other_y, "the models differ in their inputs or classes");
    if model.recipe() != other.recipe() {
        bail!("the models have different preprocessing recipes, so they would not see one image");
    }
    Ok(())
}

/// Each image's class, if it is known.
fn truth(
    args: &Args,
    model: &Model,
    samples: &Samples,
    nb_classes: usize,
) -> anyhow::Result<Option<Vec<usize>>> {
    let classes: Vec<usize> = match &args.data[..] {
        [folder] if folder.is_dir() => {
            samples.files().map(|file| class_of(file, model)).collect::<anyhow::Result<_>>()?
        }
        [folder, _] if folder.is_dir() => bail!("labels come from the folders' names"),
        [_, labels] => npy::read_classes(labels)?,
        _ => return Ok(None),
    };
    ensure!(
        classes.len() == samples.len(),
        "{} labels for {} images",
        classes.len(),
        samples.len()
    );
    if let Some(class) = classes.iter().find(|c| **c >= nb_classes) {
        bail!("a label is {class}, the model knows classes 0 to {}", nb_classes - 1);
    }
    Ok(Some(classes))
}

/// The class that an image's folder is named after.
fn class_of(file: &Path, model: &Model) -> anyhow::Result<usize> {
    let folder = file.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let known = model.labels().and_then(|labels| labels.iter().position(|l| *l == *folder));
    known.or_else(|| folder.parse().ok()).with_context(|| {
        let some: Vec<_> = model.labels().unwrap_or_default().iter().take(5).cloned().collect();
        let known = match some.is_empty() {
            true => "the model has no labels, so folders are class numbers".to_owned(),
            false => format!("the model's labels are {}, ...", some.join(", ")),
        };
        format!("{}: '{folder}' is not a class; {known}", file.display())
    })
}

/// Counts of right answers.
#[derive(Default)]
struct Tally {
    images: usize,
    top1: usize,
    top5: usize,
}

impl Tally {
    fn add(&mut self, logits: &[f32], class: Option<usize>) {
        self.images += 1;
        if let Some(class) = class {
            let best = top(logits, 5);
            self.top1 += usize::from(best.first() == Some(&class));
            self.top5 += usize::from(best.contains(&class));
        }
    }

    fn accuracy(&self, file: &Path, known: bool, nb_classes: usize) -> Accuracy {
        let part = |count: usize| count as f64 / self.images.max(1) as f64;
        Accuracy {
            file: file.to_owned(),
            top1: known.then(|| part(self.top1)),
            top5: (known && nb_classes > 5).then(|| part(self.top5)),
        }
    }
}

/// Differences of two models.
#[derive(Default)]
struct Pair {
    equal: usize,
    largest_difference: f64,
    largest: f64,
    squared_differences: f64,
    squares: f64,
    confusion: std::collections::BTreeMap<(usize, usize), usize>,
}

impl Pair {
    fn add(&mut self, ours: &[f32], theirs: &[f32]) {
        for (a, b) in ours.iter().zip(theirs) {
            let (difference, b) = (f64::from(a - b), f64::from(*b));
            self.largest_difference = self.largest_difference.max(difference.abs());
            self.largest = self.largest.max(b.abs());
            self.squared_differences += difference * difference;
            self.squares += b * b;
        }
        match (top(theirs, 1).first(), top(ours, 1).first()) {
            (Some(a), Some(b)) if a != b => *self.confusion.entry((*a, *b)).or_default() += 1,
            _ => self.equal += 1,
        }
    }

    fn agreement(self, images: usize, labels: Option<&[String]>) -> Agreement {
        let name = |class: usize| match labels.and_then(|l| l.get(class)) {
            Some(label) => label.clone(),
            None => format!("class {class}"),
        };
        let mut confusion: Vec<_> =
            self.confusion.into_iter().map(|((a, b), n)| (name(a), name(b), n)).collect();
        confusion.sort_by_key(|(.., count)| std::cmp::Reverse(*count));
        Agreement {
            top1: self.equal as f64 / images.max(1) as f64,
            max_error: self.largest_difference / self.largest.max(f64::MIN_POSITIVE),
            rms_error: (self.squared_differences / self.squares.max(f64::MIN_POSITIVE)).sqrt(),
            confusion,
        }
    }
}

impl Report {
    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "{} images", self.images)?;
        for Accuracy { file, top1, top5 } in
            [Some(&self.model), self.against.as_ref()].into_iter().flatten()
        {
            if let Some(top1) = top1 {
                write!(out, "{}: top-1 {:.2} %", file.display(), 100.0 * top1)?;
                if let Some(top5) = top5 {
                    write!(out, ", top-5 {:.2} %", 100.0 * top5)?;
                }
                writeln!(out)?;
            }
        }
        if let Some(agreement) = &self.agreement {
            writeln!(
                out,
                "agreement: {:.2} % of top-1, logits within {:.3} % of the largest, {:.3} % rms",
                100.0 * agreement.top1,
                100.0 * agreement.max_error,
                100.0 * agreement.rms_error
            )?;
            for (theirs, ours, count) in agreement.confusion.iter().take(LISTED) {
                writeln!(out, "  {count} x {theirs} became {ours}")?;
            }
        }
        Ok(())
    }
}
