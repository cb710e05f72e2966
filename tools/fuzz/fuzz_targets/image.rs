//! An image file is decoded and prepared as a network's input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skipstone::Recipe;
use skipstone::image::{Limits, decode};

fuzz_target!(|file: &[u8]| {
    let Ok(image) = decode(file, &Limits::default()) else { return };
    // Decoding a large image is the promise; resampling it is only time.
    if image.width() * image.height() <= 1 << 20 {
        let _ = Recipe::imagenet().prepare(&image);
    }
});
