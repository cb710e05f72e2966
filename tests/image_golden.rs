//! What the image pipeline makes of small files, against Pillow and torchvision.
//!
//! `tools/golden-images/make.py` made the files.
#![cfg(feature = "image")]

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use skipstone::Recipe;
use skipstone::graph::AxisOrder;
use skipstone::image::{Image, Limits, decode};

#[derive(Deserialize)]
struct Case {
    file: String,
    recipe: Recipe,
    expected: String,
    /// Elements of the input tensor: index and value.
    tensor: Vec<(usize, f32)>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images")
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&fs::read(folder().join("cases.json")).unwrap()).unwrap()
}

fn open(name: &str) -> Image {
    decode(&fs::read(folder().join(name)).unwrap(), &Limits::default())
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn pixels_are_pillows() {
    let (mut total, mut exact) = (0, 0);
    for case in cases() {
        let label = format!("{} as {} by {:?}", case.file, case.expected, case.recipe);
        let found = case.recipe.prepare(&open(&case.file)).unwrap();
        let expected = open(&case.expected);
        assert_eq!(
            [found.width(), found.height()],
            [expected.width(), expected.height()],
            "{label}"
        );
        // The expected luma is read back as three equal channels.
        let expected = expected.data().iter().step_by(3 / found.channels());
        for (found, expected) in found.data().iter().zip(expected) {
            assert!(found.abs_diff(*expected) <= 1, "{label}: {found}, expected {expected}");
            total += 1;
            exact += usize::from(found == expected);
        }
    }
    println!("{exact} of {total} samples are equal, the others differ by 1");
    assert!(exact * 100 >= total * 99, "{exact} of {total} samples are equal");
}

#[test]
fn tensors_are_torchvisions() {
    for case in cases() {
        let pixels = case.recipe.prepare(&open(&case.file)).unwrap();
        let mut tensor = vec![f32::NAN; pixels.data().len()];
        case.recipe.write_tensor(&pixels, &AxisOrder::nchw(), &mut tensor).unwrap();
        let mut channels_last = tensor.clone();
        case.recipe.write_tensor(&pixels, &AxisOrder::nhwc(), &mut channels_last).unwrap();
        let plane = pixels.width() * pixels.height();
        for (i, expected) in case.tensor {
            // One 8-bit step of the input is at least 0.017 here.
            assert!((tensor[i] - expected).abs() <= 1e-5, "{}: {} at {i}", case.file, tensor[i]);
            let transposed = (i % plane) * pixels.channels() + i / plane;
            assert_eq!(tensor[i], channels_last[transposed]);
        }
    }
}
