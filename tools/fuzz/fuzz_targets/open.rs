//! A packed file is opened, verified, planned and run. Under `cfg(fuzzing)` checksums are not
//! compared, so that mutations reach what lies behind them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skipstone::Model;

fuzz_target!(|file: &[u8]| {
    if let Ok(model) = Model::from_bytes(file) {
        let _ = model.verify();
        skipstone_fuzz::run_if_small(&model);
    }
});
