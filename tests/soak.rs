//! A promise: a process that runs for long does not grow.
#![cfg(all(feature = "import", target_os = "linux"))]

mod common;

use std::fs;

use common::{executor, packed, synth_network};
use skipstone::Model;
use skipstone::format::{self, PackOptions};

/// Resident memory of this process, in KiB.
fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("a process has memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").expect("Linux tells").count()
}

/// The only test of this binary: another one's memory would count here.
#[test]
fn neither_runs_nor_models_accumulate() {
    let network = synth_network("tiny_resnet");
    let model = packed(&network);
    // One thread: on a busy machine two would mostly wait for each other.
    let mut executor = executor(&model, 1, 1);
    let input = vec![0.5; executor.input_dims(0).iter().product()];
    let mut runs = |count: usize| {
        for _ in 0..count {
            executor.run(&[&input]).expect("runs");
        }
    };
    runs(1000);
    let before = resident_kib();
    runs(100_000);
    let grown = resident_kib().saturating_sub(before);
    println!("100,000 runs: {grown} KiB");
    assert!(grown <= 256, "100,000 runs grew the process by {grown} KiB");

    let bytes = format::to_bytes(&network, &PackOptions::default()).expect("the network packs");
    let path = std::env::temp_dir().join(format!("skipstone-{}-soak.skip", std::process::id()));
    fs::write(&path, bytes).expect("the temporary folder takes a file");
    let cycles = |count: usize| {
        for _ in 0..count {
            let model = Model::open(&path).expect("opens");
            let mut executor = common::executor(&model, 2, 1);
            executor.run(&[&input]).expect("runs");
        }
    };
    cycles(20);
    let (before, files) = (resident_kib(), open_files());
    cycles(1000);
    let grown = resident_kib().saturating_sub(before);
    println!("1,000 models opened, run and closed: {grown} KiB");
    assert!(grown <= 1024, "1,000 models grew the process by {grown} KiB");
    assert_eq!(open_files(), files, "files that stayed open");
    fs::remove_file(&path).expect("goes away");
}
