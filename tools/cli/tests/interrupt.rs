//! An interrupted command leaves nothing behind.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::Folder;

/// Whether `convert` was interrupted while its temporary file was there, and ended by that.
fn interrupts(folder: &Folder, signal: i32) -> bool {
    let mut command = folder.skipstone(&["convert", "resnet18.onnx", "-o", "out/x.skip"]).0;
    let mut child = command.stdout(Stdio::null()).spawn().expect("the binary starts");
    let out = folder.path("out");
    let started = Instant::now();
    while fs::read_dir(&out).unwrap().next().is_none() {
        assert!(started.elapsed() < Duration::from_secs(300), "no file is written");
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: the child has not been waited for, so the id is still its own.
    unsafe { libc::kill(child.id() as i32, signal) };
    let status = child.wait().unwrap();
    let left: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "x.skip"), "left behind: {left:?}");
    assert!(status.success() || status.signal() == Some(signal), "{status}");
    for name in &left {
        fs::remove_file(out.join(name)).unwrap();
    }
    left.is_empty()
}

#[test]
fn no_temporary_file_stays() {
    let folder = Folder::new("interrupt");
    folder.synth("resnet18");
    fs::create_dir(folder.path("out")).unwrap();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // A write may be over before the signal comes.
        assert!((0..10).any(|_| interrupts(&folder, signal)), "never met a write under way");
    }
}
