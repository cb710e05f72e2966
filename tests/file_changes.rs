//! A promise: nothing done to a file changes a model that was safely opened from it. What the mapped
//! variant risks is shown in a child process.
#![cfg(all(feature = "import", target_os = "linux"))]

mod common;

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use common::{bits, executor, synth_network};
use skipstone::Model;
use skipstone::format::{self, PackOptions};

fn scratch(name: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("skipstone-{}-{name}.skip", std::process::id()));
    // Files are published read-only by a rename; this one is to be changed in place.
    let network = synth_network("tiny_resnet");
    let bytes = format::to_bytes(&network, &PackOptions::default()).expect("the network packs");
    fs::write(&path, bytes).expect("the temporary folder takes a file");
    path
}

fn run(model: &Model) -> Vec<u32> {
    let mut executor = executor(model, 2, 1);
    let input = vec![0.5; executor.input_dims(0).iter().product()];
    executor.run(&[&input]).expect("runs");
    bits(executor.output(0))
}

fn overwrite(file: &File) {
    let len = file.metadata().expect("an open file").len() as usize;
    file.write_all_at(&vec![0x3f; len], 0).expect("writes in place");
}

#[test]
fn a_copied_model_does_not_see_its_file_change() {
    let path = scratch("copied");
    let model = Model::open(&path).expect("opens");
    let expected = run(&model);
    let file = File::options().write(true).open(&path).expect("opens for writing");
    overwrite(&file);
    assert_eq!(run(&model), expected, "after the file was overwritten");
    file.set_len(0).expect("shrinks");
    assert_eq!(run(&model), expected, "after the file was cut");
    fs::remove_file(&path).expect("goes away");
    assert_eq!(run(&model), expected, "after the file was removed");
    model.verify().expect("the copy is whole");
}

const CHILD: &str = "SKIPSTONE_TEST_MAPPED_CHILD";

/// Not a test of its own: what [`a_mapped_model_dies_with_its_file`] runs in a child process.
#[test]
fn child_cuts_a_mapped_file() {
    let Some(path) = env::var_os(CHILD) else { return };
    // SAFETY: not kept, on purpose: the parent expects this process to be killed, or to live on the
    // pages that it already has.
    let model = unsafe { Model::open_mmap(&path) }.expect("opens");
    let expected = run(&model);
    File::options().write(true).open(&path).and_then(|f| f.set_len(0)).expect("shrinks");
    assert_eq!(run(&model), expected);
}

/// The contract of `open_mmap` is no formality: whoever cuts the file kills the process.
#[test]
fn a_mapped_model_dies_with_its_file() {
    let path = scratch("mapped");
    let status = Command::new(env::current_exe().expect("this test's path"))
        .args(["--exact", "child_cuts_a_mapped_file"])
        .env(CHILD, &path)
        .status()
        .expect("the child starts");
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    fs::remove_file(&path).expect("goes away");
}

/// A rename, as the writer publishes a file, leaves mapped models alone.
#[test]
fn a_mapped_model_survives_its_replacement() {
    let path = scratch("replaced");
    // SAFETY: the file is replaced by a rename, never changed.
    let model = unsafe { Model::open_mmap(&path) }.expect("opens");
    let expected = run(&model);
    let network = synth_network("tiny_vgg");
    format::write(&network, &PackOptions::default(), &path).expect("replaces the file");
    assert_eq!(run(&model), expected);
    drop(model);
    fs::remove_file(&path).expect("goes away");
}
