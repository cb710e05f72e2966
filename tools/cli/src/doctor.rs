//! `doctor`: what this machine has, and what was chosen and why.

use std::io::Write;

use serde_json::json;
use skipstone::{Isa, Runtime, knobs};

use crate::exit::Exit;
use crate::system;
use crate::ui::{Ui, table, write_json};

/// Show the CPU, the chosen instruction set and threads, and why
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Exit> {
    let runtime = Runtime::builder().build();
    let available: Vec<_> =
        Isa::ALL.iter().filter(|isa| isa.is_available()).map(|isa| isa.name()).collect();
    let features = system::cpu_features();
    let quota = system::cgroup_quota_cpus();
    let mut out = ui.stdout();

    if args.json {
        let mut value = json!({
            "schema_version": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "cpu": {
                "model": system::cpu_model(),
                "arch": std::env::consts::ARCH,
                "features": features,
                "online": system::online_cpus(),
                "affinity": system::affinity(),
                "cgroup_quota_cpus": quota,
            },
            "isa": { "available": available },
            "knobs": knobs::ALL.iter().map(|knob| json!({
                "name": knob.name, "value": knob.get(), "help": knob.help,
            })).collect::<Vec<_>>(),
        });
        if let Ok(runtime) = &runtime {
            let report = runtime.report();
            value["isa"]["chosen"] = report.isa.name().into();
            value["isa"]["reason"] = report.isa_reason.clone().into();
            value["threads"] = json!({
                "chosen": report.threads,
                "reason": report.threads_reason,
                "spin_us": report.spin.as_micros() as u64,
            });
        }
        write_json(&mut out, &value)?;
    } else {
        let unknown = || "unknown".to_owned();
        writeln!(out, "version     {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "cpu         {}", system::cpu_model())?;
        writeln!(out, "features    {}", features.join(" "))?;
        writeln!(out, "cpus        {} online", system::online_cpus().unwrap_or_else(unknown))?;
        writeln!(out, "affinity    {}", system::affinity().unwrap_or_else(unknown))?;
        let quota = quota.map_or("none".to_owned(), |cpus| format!("{cpus:.2} CPUs"));
        writeln!(out, "quota       {quota}")?;
        writeln!(out, "isa tiers   {}", available.join(" "))?;
        if let Ok(runtime) = &runtime {
            let report = runtime.report();
            writeln!(out, "isa         {}: {}", report.isa, report.isa_reason)?;
            writeln!(out, "threads     {}: {}", report.threads, report.threads_reason)?;
            writeln!(out, "spin        {} us", report.spin.as_micros())?;
        }
        let mut rows = table(&["variable", "value", ""], &[]);
        for knob in knobs::ALL {
            rows.add_row([knob.name, &knob.get().unwrap_or_else(|| "-".to_owned()), knob.help]);
        }
        writeln!(out, "\n{}", rows.trim_fmt())?;
    }
    out.flush()?;
    // The rest is of use also where a variable asks for what this machine does not have.
    runtime?;
    Ok(Exit::Ok)
}
