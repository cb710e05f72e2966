//! A promise: a process that runs for long does not grow.
#![cfg(all(feature = "import", target_os = "linux"))]

mod common;

use std::fs;

use common::metered::{self, Counting};
use common::{executor, packed, synth_network};
use skipstone::Model;
use skipstone::format::{self, PackOptions};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Resident memory of this process, in KiB.
fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("a process has memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Open files, and threads.
fn entries() -> [usize; 2] {
    ["fd", "task"]
        .map(|what| fs::read_dir(format!("/proc/self/{what}")).expect("Linux tells").count())
}

/// Bytes that may come and go in this time: the harness and the standard library keep a few.
const SLACK: usize = 4096;

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
    let (before, held) = (resident_kib(), metered::held());
    runs(100_000);
    let grown = resident_kib().saturating_sub(before);
    let kept = metered::held().saturating_sub(held);
    println!("100,000 runs: {grown} KiB, {kept} bytes kept");
    assert!(grown <= 256, "100,000 runs grew the process by {grown} KiB");
    assert!(kept <= SLACK, "100,000 runs kept {kept} bytes");

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
    let (before, held, open) = (resident_kib(), metered::held(), entries());
    cycles(1000);
    let grown = resident_kib().saturating_sub(before);
    let kept = metered::held().saturating_sub(held);
    println!("1,000 models opened, run and closed: {grown} KiB, {kept} bytes kept");
    assert!(kept <= SLACK, "1,000 models kept {kept} bytes");
    assert_eq!(entries(), open, "files and threads that stayed");
    // The allocator hands out another arena to some of the threads and leaves holes: a MiB or so, once. One page
    // that each model kept, outside the heap, would be 4,000 KiB.
    assert!(grown <= 3000, "1,000 models grew the process by {grown} KiB");
    fs::remove_file(&path).expect("goes away");
}
