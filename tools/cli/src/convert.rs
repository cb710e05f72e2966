//! `convert`: from ONNX or safetensors to a packed model.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use indicatif::ProgressBar;
use skipstone::format::{self, PackOptions, TestVector, WeightDtype};
use skipstone::graph::{Network, fuse};
use skipstone::import::{ImportOptions, onnx, safetensors_file};
use skipstone::plan::Numerics;
use skipstone::recipe::Resize;
use skipstone::{Error, Isa, Model, Recipe, Runtime};

use crate::exit::{Exit, UsageError};
use crate::interrupt;
use crate::model::{describe_port, macs, nb_parameters};
use crate::ui::Ui;
use crate::units;
use crate::verify::outputs;

/// Start of the self-test's generated input.
const SELF_TEST_SEED: u64 = 1;

/// Pack a trained network
///
/// Batch normalisations, activations and residual additions are folded into the convolutions, and
/// weights are laid out as the kernels read them. The same input and options give the same bytes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// An ONNX file (opset 7 to 21), or safetensors with torchvision's names and --arch
    #[arg(value_name = "FILE.onnx|FILE.safetensors")]
    input: PathBuf,
    /// File to write [default: the input with the extension .skip]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the weights of a safetensors file are, e.g. resnet50; see `synth --list`
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Element type of the stored weights; the arithmetic is always f32
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Class names, one per line, index order
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// How images are prepared: imagenet, imagenet-v2, caffe, or a JSON file
    ///
    /// A named recipe is scaled to the network's input where that is not 224x224.
    #[arg(long, value_name = "NAME|FILE.json")]
    recipe: Option<String>,
    /// Height and width of the input where the file leaves them open [default: 224x224]
    #[arg(long, value_name = "HxW", value_parser = units::parse_size)]
    input_size: Option<[usize; 2]>,
    /// The weights' licence, kept in the file
    #[arg(long, value_name = "TEXT")]
    license: Option<String>,
    /// Store outputs for a generated input, for `verify` to check a machine's kernels with
    #[arg(long)]
    self_test: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    F16,
}

/// A network, and where it comes from.
struct Source {
    network: Network,
    /// Of the file, before folding; weights alone have none.
    nb_nodes: Option<usize>,
    len: u64,
    metadata: BTreeMap<String, String>,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    interrupt::clean_up()?;
    let output = args.output.clone().unwrap_or_else(|| args.input.with_extension("skip"));
    if same_file(&args.input, &output) {
        let message = format!("{}: the output would overwrite the input", output.display());
        return Err(UsageError(message).into());
    }
    let progress = ui.spinner();
    let source = import(args, &progress)?;
    let graph = &source.network.graph;
    let mut options = PackOptions {
        dtype: match args.dtype {
            Dtype::F32 => WeightDtype::F32,
            Dtype::F16 => WeightDtype::F16,
        },
        labels: args.labels.as_deref().map(read_labels).transpose()?,
        recipe: args.recipe.as_deref().map(|r| read_recipe(r, &source.network)).transpose()?,
        metadata: source.metadata,
        test_vector: None,
    };
    if let Some(license) = &args.license {
        options.metadata.insert("license".to_owned(), license.clone());
    }
    if args.self_test {
        progress.set_message("running the self-test");
        let model = Model::from_bytes(&format::to_bytes(&source.network, &options)?)?;
        // The kernels that are the same on every machine, and not those that are to be checked.
        let runtime = Runtime::builder().isa(Isa::Portable).build()?;
        let outputs = outputs(&runtime, &model, SELF_TEST_SEED, Numerics::Strict)?;
        options.test_vector = Some(TestVector { seed: SELF_TEST_SEED, outputs });
    }
    progress.set_message(format!("writing {}", output.display()));
    format::write(&source.network, &options, &output)?;
    progress.finish_and_clear();

    let written = fs::metadata(&output).with_context(|| output.display().to_string())?.len();
    let mut out = ui.stdout();
    writeln!(
        out,
        "{}: {} nodes{}, {} parameters, {} MACs per image, {} (source {})",
        output.display(),
        graph.nodes.len(),
        source.nb_nodes.map_or(String::new(), |n| format!(" left of {n}")),
        units::count(nb_parameters(graph)),
        units::count(macs(graph)?),
        units::bytes(written),
        units::bytes(source.len),
    )?;
    for port in &graph.inputs {
        writeln!(out, "input   {}", describe_port(port, 1))?;
    }
    for port in &graph.outputs {
        writeln!(out, "output  {}", describe_port(port, 1))?;
    }
    out.flush()?;
    if options.recipe.is_none() {
        ui.note("no --recipe: the model takes arrays (`run`), not photographs (`classify`)");
    }
    Ok(Exit::Ok)
}

fn same_file(input: &Path, output: &Path) -> bool {
    input == output
        || fs::canonicalize(input)
            .is_ok_and(|input| fs::canonicalize(output).is_ok_and(|output| input == output))
}

fn import(args: &Args, progress: &ProgressBar) -> anyhow::Result<Source> {
    let path = &args.input;
    progress.set_message(format!("importing {}", path.display()));
    let options = ImportOptions { input_size: args.input_size };
    let is_safetensors = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    let (network, nb_nodes) = match (&args.arch, is_safetensors) {
        (Some(arch), true) => (safetensors_file(path, arch, &options)?, None),
        (None, false) => onnx_network(path, &options).map_err(|e| e.in_file(path))?,
        (None, true) => {
            let message = "safetensors files hold weights only: say with --arch what they are of";
            return Err(UsageError(format!("{}: {message}", path.display())).into());
        }
        (Some(_), false) => {
            let message = "--arch is for safetensors files, this one says itself what it is";
            return Err(UsageError(format!("{}: {message}", path.display())).into());
        }
    };

    let unreadable = |e| Error::io(path, "read", e);
    let mut file = fs::File::open(path).map_err(unreadable)?;
    let len = file.metadata().map_err(unreadable)?.len();
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).map_err(unreadable)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut metadata = BTreeMap::from([
        ("converter".to_owned(), format!("skipstone {}", env!("CARGO_PKG_VERSION"))),
        ("source".to_owned(), name),
        ("source-blake3".to_owned(), hasher.finalize().to_hex().to_string()),
    ]);
    if let Some(arch) = &args.arch {
        metadata.insert("architecture".to_owned(), arch.clone());
    }
    Ok(Source { network, nb_nodes, len, metadata })
}

/// As [`skipstone::import::onnx_file`]; also counts the file's nodes.
fn onnx_network(
    path: &Path,
    options: &ImportOptions,
) -> skipstone::Result<(Network, Option<usize>)> {
    let model = onnx::read(path)?;
    let nb_nodes = model.graph.as_ref().map(|g| g.node.len());
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut network = onnx::network(model, Some(folder), options)?;
    fuse::fuse(&mut network)?;
    Ok((network, nb_nodes))
}

fn read_labels(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let labels: Vec<_> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    ensure!(!labels.is_empty(), "{}: no labels", path.display());
    Ok(labels)
}

/// A recipe by name, scaled to the network's input, or from a file.
fn read_recipe(name: &str, network: &Network) -> anyhow::Result<Recipe> {
    let presets = Recipe::presets();
    let Some((_, mut recipe)) = presets.into_iter().find(|(preset, _)| *preset == name) else {
        let json = fs::read_to_string(name).with_context(|| {
            let names = Recipe::presets().map(|(preset, _)| preset).join(", ");
            format!("recipe '{name}' is none of {names}, and not a file")
        })?;
        return Ok(Recipe::from_json(&json).map_err(|e| e.in_file(name))?);
    };
    if let (Some(port), Some(crop)) = (network.graph.inputs.first(), recipe.crop) {
        let size = [port.shape.h as u32, port.shape.w as u32];
        // As much of the image is cut off as at the recipe's own size.
        let scaled = |n: u32, axis: usize| (n * size[axis] + crop[axis] / 2) / crop[axis];
        // The short side must hold the longer one of the crop.
        let longer = usize::from(size[1] > size[0]);
        recipe.resize = recipe.resize.map(|resize| match resize {
            Resize::Exact { height, width } => {
                Resize::Exact { height: scaled(height, 0), width: scaled(width, 1) }
            }
            Resize::ShortSide(n) => Resize::ShortSide(scaled(n, longer)),
            other => other,
        });
        recipe.crop = Some(size);
    }
    Ok(recipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_recipes_fit_the_network() {
        let network = |h, w| {
            let shape = skipstone::graph::Shape::new(3, h, w);
            let mut network = Network::default();
            network.graph.inputs = vec![skipstone::graph::Port {
                name: "x".to_owned(),
                value: skipstone::graph::ValueId(0),
                shape,
                axes: skipstone::graph::AxisOrder::nchw(),
            }];
            network
        };
        assert_eq!(read_recipe("imagenet", &network(224, 224)).unwrap(), Recipe::imagenet());
        let small = read_recipe("imagenet", &network(32, 64)).unwrap();
        assert_eq!((small.resize, small.crop), (Some(Resize::ShortSide(73)), Some([32, 64])));
        assert!(read_recipe("imagenet-v9", &network(32, 64)).is_err());
    }
}
