//! A body of the Open Inference Protocol is received, parsed, decoded, run and answered.
//!
//! A zero byte, which JSON cannot hold, ends the JSON part; behind it are binary tensors.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use skipstone_server::fuzzing::Fuzzed;

static SERVER: LazyLock<Fuzzed> = LazyLock::new(|| {
    let model: &'static [u8] = skipstone_fuzz::image_classifier().leak();
    Fuzzed::new(model).expect("the model can be served")
});

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|b| *b == 0);
    let body = match end {
        Some(end) => [&bytes[..end], &bytes[end + 1..]].concat(),
        None => bytes.to_vec(),
    };
    let status = SERVER.infer(end, body).expect("a request");
    assert_ne!(status.as_u16(), 500, "a defect of the server");
});
