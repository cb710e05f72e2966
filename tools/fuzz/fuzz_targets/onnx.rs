//! An ONNX file is imported, packed, opened, planned and run.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use skipstone::format::{self, PackOptions};
use skipstone::graph::fuse;
use skipstone::import::{ImportOptions, onnx};
use skipstone::Model;

fuzz_target!(|file: &[u8]| {
    let Ok(model) = onnx::proto::ModelProto::decode(Bytes::copy_from_slice(file)) else { return };
    let Ok(mut network) = onnx::network(model, None, &ImportOptions::default()) else { return };
    if fuse::fuse(&mut network).is_err() {
        return;
    }
    if let Ok(packed) = format::to_bytes(&network, &PackOptions::default()) {
        let model = Model::from_bytes(&packed).expect("what was written opens");
        skipstone_fuzz::run_if_small(&model);
    }
});
