//! What goes to the terminal: data on stdout, everything else on stderr.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::{Duration, Instant};

use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Settings of all commands.
#[derive(clap::Args)]
pub(crate) struct UiArgs {
    /// No progress and no notes on stderr, only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more on stderr: decisions, timings, causes of errors
    #[arg(short, long, global = true)]
    verbose: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: clap::ColorChoice,
}

/// The terminal.
pub(crate) struct Ui {
    quiet: bool,
    verbose: bool,
    started: Instant,
}

impl Ui {
    pub(crate) fn new(args: &UiArgs, started: Instant) -> Self {
        match args.color {
            clap::ColorChoice::Auto => anstream::ColorChoice::Auto,
            clap::ColorChoice::Always => anstream::ColorChoice::Always,
            clap::ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
        Self { quiet: args.quiet, verbose: args.verbose, started }
    }

    /// Time since the process started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Where data go. Flush it at the end: dropping it loses errors.
    pub(crate) fn stdout(&self) -> BufWriter<StdoutLock<'static>> {
        BufWriter::new(io::stdout().lock())
    }

    /// A line that is of use, but that nobody asked for.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.line(None, text);
        }
    }

    /// A line for who wants to know.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose {
            self.line(None, text);
        }
    }

    /// The one line of an error.
    pub(crate) fn error(&self, text: &str) {
        self.line(Some(("error", AnsiColor::Red)), text);
    }

    /// Advice after an error.
    pub(crate) fn hint(&self, text: &str) {
        self.line(Some(("hint", AnsiColor::Cyan)), text);
    }

    fn line(&self, label: Option<(&str, AnsiColor)>, text: &str) {
        let mut stderr = anstream::stderr().lock();
        // Nobody is left to tell that stderr is gone.
        let _ = match label {
            Some((label, color)) => {
                let style = Style::new().bold().fg_color(Some(color.into()));
                writeln!(stderr, "{style}{label}:{style:#} {text}")
            }
            None => writeln!(stderr, "{text}"),
        };
    }

    /// A progress bar of `len` items, if stderr is a terminal.
    pub(crate) fn progress(&self, len: usize) -> ProgressBar {
        let template = "{bar:30} {pos}/{len} ({per_sec}, {eta} left) {wide_msg}";
        let style = ProgressStyle::with_template(template).expect("a valid template");
        ProgressBar::with_draw_target(Some(len as u64), self.target()).with_style(style)
    }

    /// A spinner for work of unknown length, if stderr is a terminal.
    pub(crate) fn spinner(&self) -> ProgressBar {
        let spinner = ProgressBar::with_draw_target(None, self.target());
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }

    fn target(&self) -> ProgressDrawTarget {
        if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
    }
}

/// Writes a value for a program, and for a person who looks at it.
pub(crate) fn write_json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    // serde_json's own error would hide that a pipe is closed.
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)
}

/// A table with these headings; the columns in `right` are aligned to the right. Print it with
/// `trim_fmt`.
pub(crate) fn table(headings: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // Rows are never wrapped: output is also for grep and awk.
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(Cell::new));
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
