//! `quantize`: from a packed model in f32 to one in int8.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use serde_json::{Value, json};
use skipstone::format;
use skipstone::quantize::{
    Calibration, LEAST_DECIBELS, Layer, Measurement, Method, Options, Verdict, quantize,
    quantize_measured,
};
use skipstone::tune::{Progress, TuneOptions};

use crate::exit::{Exit, UsageError};
use crate::int8_times::{self, LayerTimes, Record};
use crate::interrupt;
use crate::model::{ExecutionArgs, OpenArgs};
use crate::samples::Samples;
use crate::ui::{Ui, table, write_json};
use crate::units;

/// Quantize a packed model to int8
///
/// Images like those that the model will see are run through it, to choose the range of every value
/// between the first convolution and the logits. Weights get a scale per output channel. A layer in int8
/// always runs in int8, whether that is faster or not: `--measure` finds out, and leaves in float what is not.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A packed model, in f32
    model: PathBuf,
    /// A folder of photographs, prepared by the model's recipe, or an .npy array [N, ...] of inputs
    #[arg(long, value_name = "FOLDER|FILE.npy")]
    calib: Option<PathBuf>,
    /// File to write [default: the model with the extension .int8.skip]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Images to run; more are thinned out evenly
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = units::parse_positive)]
    samples: usize,
    /// How ranges are chosen: all that was seen, all but some outliers, or by the least divergence or
    /// mean square error
    #[arg(long, value_enum, default_value_t = MethodArg::Mse)]
    method: MethodArg,
    /// Part of the elements that `percentile` keeps, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 99.99)]
    percentile: f64,
    /// Integers of activations: u7 (0 to 127) is fastest, u8 (0 to 255) is more exact
    #[arg(long, value_enum, default_value_t = Activation::U7)]
    activation: Activation,
    /// Leave this convolution or linear layer in float; may be repeated
    #[arg(long, value_name = "LAYER")]
    exclude: Vec<String>,
    /// Do not let biases take back the mean error of rounded weights
    #[arg(long)]
    no_bias_correction: bool,
    /// Measure each layer in int8 and in f32, and leave in float what is slower in int8
    ///
    /// Both networks run in turns on this machine, one image each, with the threads of `--threads`. A layer
    /// is slower if f32 saves 2 % of its time, and more than the noise; it stays in int8 nevertheless
    /// where conversions to float would cost more than that saves. The file says what was found, and for
    /// which machine; `inspect --layers` shows the times. Let the machine be idle meanwhile.
    #[arg(long)]
    measure: bool,
    /// Print what is known of each layer as JSON
    #[arg(long)]
    json: bool,
    /// Write what is known of each layer as JSON
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Draw each layer's signal over noise
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    execution: ExecutionArgs,
    #[command(flatten)]
    open: OpenArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MethodArg {
    Minmax,
    Percentile,
    Entropy,
    Mse,
}

#[derive(Clone, Copy, ValueEnum)]
enum Activation {
    U7,
    U8,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    interrupt::clean_up()?;
    let Some(calib) = &args.calib else {
        let message = "--calib is missing: the ranges of int8 values are chosen from images like \
                       those that the model will see; a hundred are enough";
        return Err(UsageError(message.to_owned()).into());
    };
    let model = args.open.open(&args.model)?;
    let output = args.output.clone().unwrap_or_else(|| args.model.with_extension("int8.skip"));
    if fs::canonicalize(&args.model).ok() == fs::canonicalize(&output).ok() {
        let message = format!("{}: the output would overwrite the input", output.display());
        return Err(UsageError(message).into());
    }
    let samples = Samples::open(calib, &model)?;
    let mut network = model.to_network();
    let port = &mut network.graph.inputs[0];
    [port.shape.h, port.shape.w] = samples.size();
    let runtime = args.execution.start(ui)?;
    let mut calibration = Calibration::new(&runtime, &network)?;
    let count = args.samples.min(samples.len());
    let progress = ui.progress(count);
    for i in 0..count {
        let index = i * samples.len() / count;
        let image = samples.get(index)?;
        calibration.observe(&[&image]).map_err(|e| e.in_file(samples.name(index)))?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    let options = options(args);
    let (mut quantized, record) = if args.measure {
        let image = samples.get(0)?;
        let measurement = Measurement {
            model: &model,
            runtime: &runtime,
            inputs: &[&image],
            numerics: args.execution.numerics,
            rounds: TuneOptions::default().rounds,
        };
        let bar = ui.progress(0);
        let progress = &mut |Progress { done, total }| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        };
        let measured = quantize_measured(&network, &calibration, &options, &measurement, progress)?;
        bar.finish_and_clear();
        let record = Record::new(&measured);
        (measured.quantized, Some(record))
    } else {
        (quantize(&network, &calibration, &options)?, None)
    };
    quantized.network.graph.inputs[0].shape = model.graph().inputs[0].shape;
    let mut pack = model.pack_options().clone();
    // It was made by the network in f32.
    pack.test_vector = None;
    let method = format!("{:?}", args.method).to_lowercase();
    let how = format!("{method} of {count} images, activations 0 to {}", options.max);
    pack.metadata.insert("calibration".to_owned(), how);
    // What an earlier quantization noted, if all of it stayed in float.
    pack.metadata
        .retain(|key, _| ![int8_times::SUMMARY, int8_times::TIMES].contains(&key.as_str()));
    if let Some(record) = &record {
        pack.metadata.insert(int8_times::SUMMARY.to_owned(), record.summary.clone());
        let named = quantized.layers.iter().map(|l| &l.name).zip(&record.layers);
        let json = serde_json::to_string(&named.collect::<BTreeMap<_, _>>())?;
        pack.metadata.insert(int8_times::TIMES.to_owned(), json);
    }
    format::write(&quantized.network, &pack, &output)?;

    let rows = Row::all(&quantized.layers, record.as_ref(), &options.exclude);
    let written = fs::metadata(&output).with_context(|| output.display().to_string())?.len();
    let source = model.file_info().len;
    let report = json!({
        "schema_version": 1,
        "model": args.model, "output": output, "images": count,
        "method": method, "max": options.max,
        "bytes": written, "source_bytes": source,
        "measured": record,
        "layers": rows.iter().map(describe).collect::<Vec<_>>(),
    });
    if let Some(path) = &args.report {
        let mut file = fs::File::create(path).with_context(|| path.display().to_string())?;
        write_json(&mut file, &report)?;
    }
    if let Some(path) = &args.plot {
        fs::write(path, plot(&rows)).with_context(|| path.display().to_string())?;
    }
    let mut out = ui.stdout();
    if args.json {
        write_json(&mut out, &report)?;
    } else {
        print(&mut out, &rows, &output, (written, source))?;
        if let Some(record) = &record {
            writeln!(out, "int8 measured: {}", record.summary)?;
            let Record { f32_ms, quantized_ms, .. } = record;
            writeln!(out, "run: {f32_ms:.2} ms in f32, {quantized_ms:.2} ms quantized")?;
        }
    }
    out.flush()?;
    advise(ui, &rows);
    Ok(Exit::Ok)
}

/// What is known of a layer.
struct Row<'a> {
    layer: &'a Layer,
    times: Option<&'a LayerTimes>,
    /// Why it stays in float, if it does.
    in_float: Option<&'static str>,
}

impl<'a> Row<'a> {
    fn all(layers: &'a [Layer], record: Option<&'a Record>, exclude: &[String]) -> Vec<Self> {
        let row = |(i, layer): (usize, &'a Layer)| {
            let times = record.map(|r| &r.layers[i]);
            let why = match times {
                _ if exclude.contains(&layer.name) => "excluded",
                Some(times) if times.is(Verdict::Slower) => "measured slower",
                _ => "not quantizable",
            };
            Row { layer, times, in_float: Some(why).filter(|_| !layer.is_int8) }
        };
        layers.iter().enumerate().map(row).collect()
    }
}

fn options(args: &Args) -> Options {
    Options {
        method: match args.method {
            MethodArg::Minmax => Method::MinMax,
            MethodArg::Percentile => Method::Percentile(args.percentile),
            MethodArg::Entropy => Method::Entropy,
            MethodArg::Mse => Method::Mse,
        },
        max: match args.activation {
            Activation::U7 => 127,
            Activation::U8 => 255,
        },
        exclude: args.exclude.clone(),
        correct_biases: !args.no_bias_correction,
    }
}

fn print(
    out: &mut impl Write,
    rows: &[Row],
    path: &Path,
    bytes: (u64, u64),
) -> std::io::Result<()> {
    let mut headings =
        vec!["LAYER", "TYPE", "INPUT SCALE", "ZERO", "INPUT dB", "WEIGHTS dB", "BOTH dB"];
    if rows.iter().any(|row| row.times.is_some()) {
        headings.extend(["F32 ms", "INT8 ms", "TIMED WITH"]);
    }
    let mut listing = table(&headings, &[2, 3, 4, 5, 6, 7, 8]);
    for Row { layer, times, .. } in rows {
        let input = layer.input.filter(|_| layer.is_int8);
        let decibels = |v: f64| if layer.is_int8 { format!("{v:.1}") } else { "-".to_owned() };
        let mut cells = vec![
            layer.name.clone(),
            (if layer.is_int8 { "int8" } else { "f32" }).to_owned(),
            input.map_or("-".to_owned(), |q| format!("{:.3e}", q.scale)),
            input.map_or("-".to_owned(), |q| q.zero_point.to_string()),
            decibels(layer.input_decibels),
            decibels(layer.weights_decibels),
            decibels(layer.decibels()),
        ];
        if let Some(LayerTimes { f32_ms, int8_ms, within, .. }) = times {
            let ms = |ms: f64| {
                if within.is_none() { format!("{ms:.3}") } else { "-".to_owned() }
            };
            let with = within.clone().unwrap_or_default();
            cells.extend([ms(*f32_ms), int8_ms.map_or("-".to_owned(), ms), with]);
        }
        listing.add_row(cells);
    }
    writeln!(out, "{}", listing.trim_fmt())?;
    let nb_int8 = rows.iter().filter(|row| row.layer.is_int8).count();
    writeln!(
        out,
        "{}: {nb_int8} of {} layers in int8, {} (before {})",
        path.display(),
        rows.len(),
        units::bytes(bytes.0),
        units::bytes(bytes.1),
    )
}

/// Names the layers that are better left in float, and those that measured slower.
fn advise(ui: &Ui, rows: &[Row]) {
    for Row { layer, .. } in rows.iter().filter(|row| row.layer.should_stay_in_float()) {
        ui.note(&format!(
            "{}: noise is {:.1} dB below the signal, expected {LEAST_DECIBELS:.0} or more; it should \
             stay in float: --exclude {}",
            layer.name,
            layer.decibels(),
            layer.name
        ));
    }
    let advice = [
        (Verdict::Slower, "in float, since slower in int8"),
        (
            Verdict::KeptByConversions,
            "in int8, though slower by itself, since conversions to float cost more",
        ),
    ];
    for (verdict, what) in advice {
        let named = rows.iter().filter(|row| row.times.is_some_and(|times| times.is(verdict)));
        let names: Vec<&str> = named.map(|row| row.layer.name.as_str()).collect();
        if !names.is_empty() {
            ui.note(&format!("{what}: {}", names.join(", ")));
        }
    }
}

fn describe(Row { layer, times, in_float }: &Row) -> Value {
    json!({
        "name": layer.name,
        "int8": layer.is_int8,
        "in_float": in_float,
        "input": layer.input.map(|q| json!({
            "scale": q.scale, "zero_point": q.zero_point, "max": q.max,
        })),
        "input_decibels": layer.input_decibels,
        "weights_decibels": layer.weights_decibels,
        "decibels": layer.decibels(),
        "should_stay_in_float": layer.should_stay_in_float(),
        "measured": times,
    })
}

/// One bar per layer, as long as its signal is above its noise; beside it int8's part of the time in f32, where
/// it was measured.
fn plot(rows: &[Row]) -> String {
    const ROW: usize = 16;
    const NAMES: usize = 260;
    const PER_DECIBEL: f64 = 8.0;
    const BARS: usize = 480;
    let is_measured = rows.iter().any(|row| row.times.is_some());
    let ratios = NAMES + BARS;
    let (width, height) = (if is_measured { ratios + 120 } else { ratios }, (rows.len() + 2) * ROW);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{NAMES}\" y=\"12\">signal over noise of each int8 layer, dB</text>\n"
    );
    if is_measured {
        let _ = writeln!(svg, "<text x=\"{ratios}\" y=\"12\">time in int8 / in f32</text>");
    }
    let x = |decibels: f64| NAMES as f64 + decibels.clamp(0.0, 55.0) * PER_DECIBEL;
    for (i, Row { layer, times, .. }) in rows.iter().enumerate() {
        let y = (i + 2) * ROW;
        let name = layer.name.replace('&', "&amp;").replace('<', "&lt;");
        let _ =
            writeln!(svg, "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{name}</text>", NAMES - 6);
        if let Some(ratio) = times.and_then(LayerTimes::ratio) {
            let _ = writeln!(svg, "<text x=\"{ratios}\" y=\"{y}\">{ratio:.2}</text>");
        }
        let decibels = layer.decibels();
        if !layer.is_int8 {
            let _ = writeln!(svg, "<text x=\"{NAMES}\" y=\"{y}\" fill=\"gray\">f32</text>");
            continue;
        }
        let color = if layer.should_stay_in_float() { "#c0392b" } else { "#2b6cb0" };
        let _ = writeln!(
            svg,
            "<rect x=\"{NAMES}\" y=\"{}\" width=\"{:.1}\" height=\"11\" fill=\"{color}\"/>\
             <text x=\"{:.1}\" y=\"{y}\">{decibels:.1}</text>",
            y - 10,
            x(decibels) - NAMES as f64,
            x(decibels) + 4.0,
        );
    }
    let least = x(LEAST_DECIBELS);
    let _ = writeln!(
        svg,
        "<line x1=\"{least}\" x2=\"{least}\" y1=\"{ROW}\" y2=\"{height}\" stroke=\"#c0392b\" \
         stroke-dasharray=\"3\"/>\n</svg>"
    );
    svg
}
