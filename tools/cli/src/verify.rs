//! `verify`: checksums, and results against the self-test vector.

use std::io::Write;
use std::path::PathBuf;

use skipstone::format::TestVector;
use skipstone::plan::Numerics;
use skipstone::{ErrorKind, Executor, ExecutorOptions, Model, Runtime};

use crate::exit::Exit;
use crate::model::{ExecutionArgs, open_checked};
use crate::ui::Ui;

/// Largest difference to the self-test vector, in parts of its largest value.
const TOLERANCE: f32 = 2e-4;

/// Check all of a packed model: its checksums, and its self-test on this machine
///
/// Exit code 4 if a checksum or a result is not what the file says.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A packed model
    model: PathBuf,
    #[command(flatten)]
    execution: ExecutionArgs,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    let model = match open_checked(&args.model) {
        Err(error) if is_checksum(&error) => {
            ui.error(&error.to_string());
            return Ok(Exit::Mismatch);
        }
        model => model?,
    };
    let mut out = ui.stdout();
    writeln!(out, "checksums   ok")?;
    let exit = match model.test_vector() {
        None => {
            writeln!(out, "self-test   the file has none")?;
            Exit::Ok
        }
        Some(expected) => {
            let runtime = args.execution.start(ui)?;
            let found = outputs(&runtime, &model, expected.seed, args.execution.numerics)?;
            let difference = relative_difference(&found, &expected.outputs);
            let isa = runtime.report().isa;
            let (word, exit) = if difference <= TOLERANCE {
                ("ok", Exit::Ok)
            } else {
                ui.error(&format!("{}: wrong results on this machine", args.model.display()));
                ("FAILED", Exit::Mismatch)
            };
            writeln!(
                out,
                "self-test   {word}: {isa} kernels differ by {difference:.1e} of the largest output, {TOLERANCE:.0e} allowed"
            )?;
            exit
        }
    };
    out.flush()?;
    Ok(exit)
}

fn is_checksum(error: &anyhow::Error) -> bool {
    let hinted = error.downcast_ref::<crate::exit::Hinted>();
    hinted.is_some_and(|h| h.error.kind() == ErrorKind::Checksum)
}

/// What the model computes for the test vector's generated input.
pub(crate) fn outputs(
    runtime: &Runtime,
    model: &Model,
    seed: u64,
    numerics: Numerics,
) -> skipstone::Result<Vec<Vec<f32>>> {
    let mut executor =
        Executor::new(runtime, model, &ExecutorOptions { numerics, ..Default::default() })?;
    let inputs = TestVector::inputs(seed, model.graph());
    executor.run(&inputs.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    Ok((0..model.graph().outputs.len()).map(|i| executor.output(i).to_vec()).collect())
}

/// The largest difference in parts of the largest expected value, over all outputs; infinite if a
/// value is undefined.
fn relative_difference(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    let one = |found: &[f32], expected: &[f32]| {
        let largest = expected.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
        let pairs = found.iter().zip(expected);
        pairs.fold(0.0f32, |worst, (f, e)| {
            let difference = (f - e).abs() / largest;
            if difference.is_nan() { f32::INFINITY } else { worst.max(difference) }
        })
    };
    found.iter().zip(expected).fold(0.0, |worst, (f, e)| worst.max(one(f, e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_to_the_largest_output() {
        let expected = [vec![1.0, -4.0], vec![0.5]];
        assert_eq!(relative_difference(&expected, &expected), 0.0);
        assert_eq!(relative_difference(&[vec![2.0, -4.0], vec![0.5]], &expected), 0.25);
        assert_eq!(
            relative_difference(&[vec![1.0, f32::NAN], vec![0.5]], &expected),
            f32::INFINITY
        );
    }
}
