//! `inspect`: what a packed file holds, and how it runs here.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};
use skipstone::graph::{Node, Op, Port};
use skipstone::recipe::Resize;
use skipstone::tune::TableUse;
use skipstone::{Executor, ExecutorOptions, Model, Recipe};

use crate::exit::Exit;
use crate::int8_times::{self, LayerTimes};
use crate::layers::{Layer, plan_table};
use crate::model::{ExecutionArgs, OpenArgs, TableArgs, describe_port, macs, nb_parameters};
use crate::ui::{Ui, write_json};
use crate::units;

/// Show what a packed model holds and how it runs on this machine
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A packed model
    model: PathBuf,
    /// List the steps of the plan: shapes, algorithm, kernel, work, memory
    #[arg(long)]
    layers: bool,
    /// Print JSON, layers included
    #[arg(long)]
    json: bool,
    /// Images per run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = units::parse_positive)]
    batch: usize,
    /// Height and width of the input [default: the network's]
    #[arg(long, value_name = "HxW", value_parser = units::parse_size)]
    input_size: Option<[usize; 2]>,
    #[command(flatten)]
    execution: ExecutionArgs,
    #[command(flatten)]
    tables: TableArgs,
    #[command(flatten)]
    open: OpenArgs,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    let model = args.open.open(&args.model)?;
    let runtime = args.execution.start(ui)?;
    let options = ExecutorOptions {
        batch: args.batch,
        input_size: args.input_size,
        numerics: args.execution.numerics,
        tables: args.tables.tables(),
        ..Default::default()
    };
    let executor = Executor::new(&runtime, &model, &options)?;
    let report = runtime.report();
    let plan = executor.plan();
    let mut layers = Layer::all(plan, &[]);
    let int8_times = LayerTimes::noted(&model);
    Layer::add_int8_times(&mut layers, (plan, model.graph()), &int8_times);
    let mut out = ui.stdout();

    if args.json {
        let mut value = describe(args, &model)?;
        value["plan"] = json!({
            "isa": report.isa.name(),
            "threads": report.threads,
            "batch": args.batch,
            "inputs": dims(model.graph().inputs.len(), |i| executor.input_dims(i)),
            "outputs": dims(model.graph().outputs.len(), |i| executor.output_dims(i)),
            "macs": plan.steps.iter().map(|s| s.macs).sum::<u64>(),
            "arena_bytes": plan.arena_bytes,
            "scratch_bytes": plan.scratch_bytes,
            "repacked_bytes": plan.repacked_bytes,
            "tuned": plan.table == TableUse::Used,
            "layers": layers,
        });
        write_json(&mut out, &value)?;
    } else {
        print(&mut out, args, &model)?;
        writeln!(
            out,
            "plan        {} steps, {}, {} threads, batch {}: activations {}, scratch {}, repacked weights {}",
            plan.steps.len(),
            report.isa,
            report.threads,
            args.batch,
            units::bytes(plan.arena_bytes as u64),
            units::bytes(plan.scratch_bytes as u64),
            units::bytes(plan.repacked_bytes as u64),
        )?;
        writeln!(out, "choices     {}", plan.table)?;
        if args.layers {
            writeln!(out, "\n{}", plan_table(&layers).trim_fmt())?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn dims<'a>(nb_ports: usize, of: impl Fn(usize) -> &'a [usize]) -> Vec<&'a [usize]> {
    (0..nb_ports).map(of).collect()
}

#[derive(Serialize)]
struct PortJson<'a> {
    name: &'a str,
    axes: String,
    shape: Vec<usize>,
}

fn ports<'a>(ports: &'a [Port]) -> Vec<PortJson<'a>> {
    let json = |port: &'a Port| PortJson {
        name: &port.name,
        axes: port.axes.to_string(),
        shape: port.axes.dims(1, port.shape),
    };
    ports.iter().map(json).collect()
}

/// Of all weights: `i8`, or the type of those in float, or both.
fn weight_types(model: &Model) -> String {
    let graph = model.graph();
    let is_int8 = graph.nodes.iter().filter_map(|node| match &node.op {
        Op::Conv(conv) => Some(conv.weight_scales.is_some()),
        Op::Linear(linear) => Some(linear.weight_scales.is_some()),
        _ => None,
    });
    let (quantized, float): (Vec<_>, Vec<_>) = is_int8.partition(|int8| *int8);
    let float_type = model.pack_options().dtype.name();
    match (quantized.is_empty(), float.is_empty()) {
        (true, _) => float_type.to_owned(),
        (false, true) => "i8".to_owned(),
        (false, false) => format!("i8 and {float_type}"),
    }
}

fn describe(args: &Args, model: &Model) -> anyhow::Result<Value> {
    let (graph, info) = (model.graph(), model.file_info());
    Ok(json!({
        "schema_version": 1,
        "file": args.model,
        "name": graph.name,
        "format_version": format!("{}.{}", info.version.0, info.version.1),
        "file_bytes": info.len,
        "content_hash": hex(&info.content_hash),
        "dtype": weight_types(model),
        "inputs": ports(&graph.inputs),
        "outputs": ports(&graph.outputs),
        "nodes": graph.nodes.len(),
        "parameters": nb_parameters(graph),
        "macs_per_image": macs(graph)?,
        "recipe": model.recipe(),
        "labels": model.labels().map(<[String]>::len),
        "self_test": model.test_vector().is_some(),
        "int8_vs_f32": model.metadata().get(int8_times::SUMMARY),
        "tuned_for": model.tables().iter().map(|t| &t.key).collect::<Vec<_>>(),
        "metadata": model.metadata(),
    }))
}

fn print(out: &mut impl Write, args: &Args, model: &Model) -> anyhow::Result<()> {
    let (graph, info) = (model.graph(), model.file_info());
    writeln!(
        out,
        "{}: {}, format {}.{}, {}, {} weights",
        args.model.display(),
        graph.name,
        info.version.0,
        info.version.1,
        units::bytes(info.len),
        weight_types(model),
    )?;
    writeln!(out, "content     {}", hex(&info.content_hash))?;
    for port in &graph.inputs {
        writeln!(out, "input       {}", describe_port(port, 1))?;
    }
    for port in &graph.outputs {
        writeln!(out, "output      {}", describe_port(port, 1))?;
    }
    writeln!(
        out,
        "network     {} nodes, {} parameters, {} MACs per image",
        graph.nodes.len(),
        units::count(nb_parameters(graph)),
        units::count(macs(graph)?),
    )?;
    writeln!(out, "recipe      {}", model.recipe().map_or("none".to_owned(), describe_recipe))?;
    let labels = model.labels().map_or("none".to_owned(), |l| l.len().to_string());
    writeln!(out, "labels      {labels}")?;
    let self_test = if model.test_vector().is_some() { "yes" } else { "no" };
    writeln!(out, "self-test   {self_test}")?;
    for table in model.tables() {
        writeln!(out, "tuned for   {}", table.key)?;
    }
    let has_int8 = graph.nodes.iter().any(Node::is_int8);
    if has_int8 && !model.metadata().contains_key(int8_times::SUMMARY) {
        let key = int8_times::SUMMARY;
        writeln!(out, "{key:11} not measured: skipstone quantize --measure does")?;
    }
    // Times are listed with the layers.
    for (key, value) in model.metadata().iter().filter(|(key, _)| *key != int8_times::TIMES) {
        writeln!(out, "{key:11} {}", value.replace('\n', "\n            "))?;
    }
    Ok(())
}

fn describe_recipe(recipe: &Recipe) -> String {
    let Recipe { resize, interpolation, crop, channels, scale, mean, std } = recipe;
    let mut steps = vec![];
    let size = resize.map(|resize| match resize {
        Resize::ShortSide(n) => format!("short side {n}"),
        Resize::Exact { height, width } => format!("{height}x{width}"),
        other => format!("{other:?}"),
    });
    if let Some(size) = size {
        steps.push(format!("resize to {size} {interpolation:?}").to_lowercase());
    }
    if let Some([height, width]) = crop {
        steps.push(format!("centre crop {height}x{width}"));
    }
    steps.push(format!("{channels:?}").to_lowercase());
    steps.push(format!("({scale} * pixel - {mean:?}) / {std:?}"));
    steps.join(", ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
