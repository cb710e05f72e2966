//! The `skipstone` command: pack, inspect, classify, run, measure.

mod bench;
mod classify;
mod completions;
mod convert;
mod doctor;
mod evaluate;
mod exit;
mod images;
mod inspect;
mod int8_times;
mod interrupt;
mod layers;
mod model;
mod npy;
mod quantize;
mod run;
mod samples;
mod serve;
mod synth;
mod system;
mod tune;
mod ui;
mod units;
mod verify;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

use crate::exit::Exit;
use crate::ui::{Ui, UiArgs};

/// SIMD CPU inference for the ResNet family.
#[derive(Parser)]
#[command(name = "skipstone", version, after_help = exit::HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    ui: UiArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    #[command(visible_alias = "pack")]
    Convert(convert::Args),
    Inspect(inspect::Args),
    Classify(classify::Args),
    Run(run::Args),
    Bench(bench::Args),
    Tune(tune::Args),
    Quantize(quantize::Args),
    Evaluate(evaluate::Args),
    Serve(skipstone_server::Args),
    Synth(synth::Args),
    Verify(verify::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    let started = Instant::now();
    let cli = Cli::parse();
    let ui = Ui::new(&cli.ui, started);
    let exit = exit::guard(&ui, || match &cli.verb {
        Verb::Convert(args) => convert::run(args, &ui),
        Verb::Inspect(args) => inspect::run(args, &ui),
        Verb::Classify(args) => classify::run(args, &ui),
        Verb::Run(args) => run::run(args, &ui),
        Verb::Bench(args) => bench::run(args, &ui),
        Verb::Tune(args) => tune::run(args, &ui),
        Verb::Quantize(args) => quantize::run(args, &ui),
        Verb::Evaluate(args) => evaluate::run(args, &ui),
        Verb::Serve(args) => serve::run(args),
        Verb::Synth(args) => synth::run(args, &ui),
        Verb::Verify(args) => verify::run(args, &ui),
        Verb::Doctor(args) => doctor::run(args, &ui),
        Verb::Completions(args) => completions::run::<Cli>(args).map(|()| Exit::Ok),
    });
    exit.into()
}
