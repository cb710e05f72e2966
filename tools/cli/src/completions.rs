//! `completions`: scripts for shells.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

/// Print a completion script for a shell
///
/// For example: skipstone completions bash > ~/.local/share/bash-completion/completions/skipstone
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run<C: CommandFactory>(args: &Args) -> anyhow::Result<()> {
    // Written in one piece: `generate` panics where stdout is a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut C::command(), "skipstone", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
