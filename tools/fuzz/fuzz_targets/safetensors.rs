//! A safetensors file is imported as a network of the zoo.
#![no_main]

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use skipstone::import::{ImportOptions, safetensors_file};

/// One file in memory: the importer reads paths.
static FILE: LazyLock<Mutex<File>> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("skipstone-fuzz-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let file = file.expect("a temporary file");
    std::fs::remove_file(&path).expect("the file's name is not needed");
    Mutex::new(file)
});

fuzz_target!(|bytes: &[u8]| {
    let mut file = FILE.lock().expect("one thread");
    file.rewind().expect("a file seeks");
    file.set_len(0).expect("a file shrinks");
    file.write_all(bytes).expect("a file takes bytes");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let _ = safetensors_file(&path, "resnet18", &ImportOptions::default());
});
