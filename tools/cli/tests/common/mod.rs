//! Starting the binary, and a folder to do it in.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder of its own for one test, removed at the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the folder can be made");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("in the folder")).expect("the folder can be made");
        fs::write(&path, bytes).expect("the file can be written");
        path
    }

    /// A command that runs here, away from the environment's settings.
    pub(crate) fn skipstone(&self, args: &[&str]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skipstone"));
        command.args(args).current_dir(&self.0).stdin(Stdio::null());
        for knob in skipstone::knobs::ALL {
            command.env_remove(knob.name);
        }
        Run(command)
    }

    /// Makes `ARCH.onnx`, a network with random weights.
    pub(crate) fn synth(&self, arch: &str) {
        self.skipstone(&["synth", arch, "-o", &format!("{arch}.onnx")]).ok();
    }

    /// Makes `ARCH.skip`.
    pub(crate) fn pack(&self, arch: &str, options: &[&str]) {
        self.synth(arch);
        let input = format!("{arch}.onnx");
        self.skipstone(&[&["convert", input.as_str()], options].concat()).ok();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A command, to be run and judged.
pub(crate) struct Run(pub(crate) Command);

impl Run {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs; expects exit code 0. Returns stdout.
    pub(crate) fn ok(self) -> String {
        self.exits(0).0
    }

    /// Runs; expects this exit code. Returns stdout and stderr.
    pub(crate) fn exits(mut self, code: i32) -> (String, String) {
        let Output { status, stdout, stderr } = self.0.output().expect("the binary starts");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        let (stdout, stderr) = (text(stdout), text(stderr));
        let command = &self.0;
        assert_eq!(status.code(), Some(code), "{command:?}\n{stdout}\n{stderr}");
        assert!(!stderr.contains("panicked"), "{command:?}\n{stderr}");
        (stdout, stderr)
    }

    /// Runs; expects this exit code and one error line that contains `words`.
    pub(crate) fn fails(self, code: i32, words: &[&str]) {
        let (_, stderr) = self.exits(code);
        let lines: Vec<_> = stderr.lines().filter(|l| l.starts_with("error:")).collect();
        assert_eq!(lines.len(), 1, "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "'{word}' is not in: {stderr}");
        }
    }

    /// Runs; expects exit code 0 and JSON.
    pub(crate) fn json(self) -> serde_json::Value {
        let stdout = self.ok();
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}"))
    }
}

/// An npy file, version 1.0.
pub(crate) fn npy(descr: &str, fortran: bool, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let dims: String = shape.iter().map(|d| format!("{d}, ")).collect();
    let order = if fortran { "True" } else { "False" };
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({dims}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

pub(crate) fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
