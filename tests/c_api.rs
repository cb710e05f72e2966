//! Promises of the C interface: every misuse gives its code, and texts; results are those of Rust.
#![cfg(all(feature = "capi", feature = "import"))]

mod common;

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};

use common::{Rng, bits, executor, packed, synth_network};
use skipstone::capi::*;
use skipstone::format::{PackOptions, to_bytes};

const LEN: usize = 3 * 35 * 29;

fn last_error() -> String {
    let mut text = [0 as c_char; 512];
    // SAFETY: the buffer has the size it says.
    unsafe { skipstone_last_error(text.as_mut_ptr(), text.len()) };
    // SAFETY: the call ends the text.
    unsafe { CStr::from_ptr(text.as_ptr()) }.to_str().expect("UTF-8").to_owned()
}

fn model_bytes() -> Vec<u8> {
    to_bytes(&synth_network("tiny_resnet"), &PackOptions::default()).expect("packs")
}

fn input(data: *const f32, bytes: usize) -> skipstone_input {
    skipstone_input {
        struct_size: size_of::<skipstone_input>() as u32,
        dtype: SKIPSTONE_F32,
        order: SKIPSTONE_NATIVE,
        reserved: 0,
        data: data.cast(),
        size: bytes,
    }
}

fn output(data: *mut f32, bytes: usize) -> skipstone_output {
    let struct_size = size_of::<skipstone_output>() as u32;
    skipstone_output { struct_size, reserved: 0, data, size: bytes }
}

/// A model and a session of it.
struct Handles(*mut skipstone_model, *mut skipstone_session);

impl Handles {
    fn new() -> Self {
        let (bytes, mut model, mut session) = (model_bytes(), null_mut(), null_mut());
        // SAFETY: pointers are to locals of the sizes given.
        unsafe {
            let data = bytes.as_ptr().cast();
            assert_eq!(skipstone_model_from_memory(data, bytes.len(), &raw mut model), 0);
            assert_eq!(skipstone_session_create(model, null(), null(), &raw mut session), 0);
        }
        Self(model, session)
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        // SAFETY: both are alive, and not used again.
        unsafe {
            skipstone_model_destroy(self.0);
            skipstone_session_destroy(self.1);
        }
    }
}

#[test]
fn runs_give_the_bits_of_rust() {
    let handles = Handles::new();
    let image = Rng(3).vec(LEN);
    let mut single = executor(&packed(&synth_network("tiny_resnet")), 1, 1);
    single.run(&[&image]).expect("runs");
    let mut logits = vec![0.0f32; single.output(0).len()];
    let bytes = size_of_val(logits.as_slice());
    let (from, to) = (input(image.as_ptr(), LEN * 4), output(logits.as_mut_ptr(), bytes));
    // SAFETY: handles are alive, and buffers have the sizes they say.
    let status = unsafe {
        skipstone_session_run(handles.1, &raw const from, 1, &raw const to, 1, 0, null_mut())
    };
    assert_eq!(status, SKIPSTONE_OK, "{}", last_error());
    assert_eq!(bits(&logits), bits(single.output(0)));
    let mut report = null();
    // SAFETY: as above.
    assert_eq!(unsafe { skipstone_session_report(handles.1, &raw mut report) }, SKIPSTONE_OK);
    // SAFETY: the text lives as long as the session.
    let report = unsafe { CStr::from_ptr(report) }.to_str().expect("UTF-8");
    let report: serde_json::Value = serde_json::from_str(report).expect("JSON");
    assert!(report["steps"].as_array().is_some_and(|steps| steps.len() > 3), "{report}");
}

#[test]
fn misuse_gives_codes() {
    let handles = Handles::new();
    let (image, mut logits) = (vec![0.0f32; LEN], vec![0.0f32; 10_000]);
    let run = |session: *mut skipstone_session, from: skipstone_input, n: usize, timeout: i64| {
        let to = output(logits.as_ptr().cast_mut(), 4);
        let from = &raw const from;
        // SAFETY: buffers have the sizes they say, where they are used at all.
        unsafe { skipstone_session_run(session, from, n, &raw const to, 1, timeout, null_mut()) }
    };
    let good = || input(image.as_ptr(), LEN * 4);
    let with = |change: fn(&mut skipstone_input)| {
        let mut input = good();
        change(&mut input);
        input
    };
    for (status, expected, text) in [
        (run(null_mut(), good(), 1, 0), SKIPSTONE_ERROR_INVALID_ARGUMENT, "session is NULL"),
        (run(handles.1, good(), 0, 0), SKIPSTONE_ERROR_INVALID_ARGUMENT, "0 inputs given"),
        (run(handles.1, good(), 1, -1), SKIPSTONE_ERROR_INVALID_ARGUMENT, "timeout_us is -1"),
        (run(handles.1, good(), 1, 0), SKIPSTONE_ERROR_SHAPE, "has 1 elements, expected"),
    ] {
        assert_eq!(status, expected, "{text}");
    }
    for (input, expected, text) in [
        (with(|i| i.data = null()), SKIPSTONE_ERROR_INVALID_ARGUMENT, "input data is NULL"),
        (with(|i| i.size -= 4), SKIPSTONE_ERROR_SHAPE, "3044 elements"),
        (with(|i| i.size -= 1), SKIPSTONE_ERROR_INVALID_ARGUMENT, "no f32 elements"),
        (with(|i| i.dtype = 9), SKIPSTONE_ERROR_INVALID_ARGUMENT, "dtype 9"),
        (with(|i| i.order = 9), SKIPSTONE_ERROR_INVALID_ARGUMENT, "order 9"),
        (with(|i| i.struct_size = 2), SKIPSTONE_ERROR_INVALID_ARGUMENT, "struct_size is 2"),
        (with(|i| i.dtype = SKIPSTONE_U8), SKIPSTONE_ERROR_SHAPE, ""),
    ] {
        let expected =
            if input.dtype == SKIPSTONE_U8 { SKIPSTONE_ERROR_UNSUPPORTED } else { expected };
        assert_eq!(run(handles.1, input, 1, 0), expected, "{}", last_error());
        assert!(last_error().contains(text), "{}", last_error());
    }
    logits.clear();

    let (mut model, garbage) = (null_mut(), [7u8; 300]);
    let missing = CString::new("/nowhere/model.skip").expect("no NUL");
    // SAFETY: pointers are NULL, or to locals of the sizes given; destroy takes NULL.
    unsafe {
        let out = &raw mut model;
        assert_eq!(skipstone_model_open(missing.as_ptr(), 0, out), SKIPSTONE_ERROR_IO);
        assert!(last_error().contains("/nowhere/model.skip"));
        assert_eq!(
            skipstone_model_open(missing.as_ptr(), 9, out),
            SKIPSTONE_ERROR_INVALID_ARGUMENT
        );
        assert_eq!(skipstone_model_open(null(), 0, out), SKIPSTONE_ERROR_INVALID_ARGUMENT);
        let data: *const c_void = garbage.as_ptr().cast();
        assert_eq!(skipstone_model_from_memory(data, 300, out), SKIPSTONE_ERROR_FORMAT);
        assert_eq!(
            skipstone_model_from_memory(data, 300, null_mut()),
            SKIPSTONE_ERROR_INVALID_ARGUMENT
        );
        assert!(model.is_null());
        let session = skipstone_session_create(null(), null(), null(), null_mut());
        assert_eq!(session, SKIPSTONE_ERROR_INVALID_ARGUMENT);
        assert_eq!(skipstone_model_recipe(handles.0, null_mut()), SKIPSTONE_ERROR_INVALID_ARGUMENT);
        let mut text = null();
        assert_eq!(skipstone_model_recipe(handles.0, &raw mut text), SKIPSTONE_ERROR_UNSUPPORTED);
        assert_eq!(
            skipstone_model_label(handles.0, 0, &raw mut text),
            SKIPSTONE_ERROR_INVALID_ARGUMENT
        );
        assert_eq!(skipstone_session_close(handles.1), SKIPSTONE_OK);
        skipstone_model_destroy(null_mut());
        skipstone_options_destroy(null_mut());
        skipstone_runtime_destroy(null_mut());
        skipstone_session_destroy(null_mut());
    }
    assert_eq!(skipstone_check_api(SKIPSTONE_API_VERSION), SKIPSTONE_OK);
    assert_eq!(skipstone_check_api(2000), SKIPSTONE_ERROR_VERSION);
}

/// In a child process the session's threads do not exist: calls fail at once, and destroy returns.
#[cfg(target_os = "linux")]
#[test]
fn a_fork_is_detected() {
    let handles = Handles::new();
    let (image, mut logits) = (vec![0.0f32; LEN], vec![0.0f32; 10_000]);
    let classes = executor(&packed(&synth_network("tiny_resnet")), 1, 1).output(0).len();
    let from = input(image.as_ptr(), LEN * 4);
    let to = output(logits.as_mut_ptr(), classes * 4);
    // SAFETY: the child only makes the calls under test, and leaves without unwinding.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: handles are alive, and buffers have the sizes they say.
        unsafe {
            let status = skipstone_session_run(
                handles.1,
                &raw const from,
                1,
                &raw const to,
                1,
                0,
                null_mut(),
            );
            skipstone_session_destroy(handles.1);
            libc::_exit(i32::from(status != SKIPSTONE_ERROR_FORKED));
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status}");
}

#[test]
fn the_header_has_the_version_of_the_library() {
    let header = include_str!("../src/capi/skipstone.h");
    for (name, version) in [
        ("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ] {
        let line = format!("#define SKIPSTONE_{name} {version}");
        assert!(header.lines().any(|l| l == line), "skipstone.h: {line}");
    }
}
