//! `quantize` and `evaluate`.

mod common;

use std::fs;

use common::{Folder, f32s, npy};
use serde_json::Value;

const IMAGE: usize = 3 * 35 * 29;
const COUNT: usize = 6;

/// `x.npy` with images, and `labels.npy`.
fn data(folder: &Folder) {
    let pixels: Vec<f32> =
        (0..COUNT * IMAGE).map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0).collect();
    folder.write("x.npy", npy("<f4", false, &[COUNT, 3, 35, 29], &f32s(&pixels)));
    let labels: Vec<u8> = (0..COUNT as i64).flat_map(i64::to_le_bytes).collect();
    folder.write("labels.npy", npy("<i8", false, &[COUNT], &labels));
}

#[test]
fn a_model_is_quantized_and_compared() {
    let folder = Folder::new("quantize");
    folder.pack("tiny_bottleneck", &[]);
    data(&folder);
    let run = |args: &[&str]| {
        let fixed = ["quantize", "tiny_bottleneck.skip", "--calib", "x.npy"];
        folder.skipstone(&[&fixed, args].concat())
    };
    let listing = run(&["--report", "r.json", "--plot", "r.svg"]).ok();
    assert!(listing.contains("stem.conv") || listing.contains("conv1"), "{listing}");
    let report: Value =
        serde_json::from_slice(&fs::read(folder.path("r.json")).unwrap()).expect("JSON");
    assert_eq!((&report["images"], &report["max"]), (&COUNT.into(), &127.into()));
    let layers = report["layers"].as_array().expect("layers");
    assert!(layers.iter().all(|l| l["int8"] == true && l["decibels"].as_f64() > Some(20.0)));
    assert!(fs::read_to_string(folder.path("r.svg")).unwrap().starts_with("<svg"));
    folder.skipstone(&["verify", "tiny_bottleneck.int8.skip"]).ok();
    let printed: Value = serde_json::from_str(&run(&["--json"]).ok()).expect("JSON");
    assert_eq!(printed, report);

    let name = layers[1]["name"].as_str().expect("a name");
    let excluded =
        run(&["--exclude", name, "--method", "minmax", "--activation", "u8", "-o", "e.skip"]).ok();
    assert_eq!(excluded.lines().filter(|l| l.contains(" f32 ")).count(), 1, "{excluded}");

    let report = folder.skipstone(&[
        "evaluate",
        "tiny_bottleneck.int8.skip",
        "--data",
        "x.npy",
        "labels.npy",
        "--against",
        "tiny_bottleneck.skip",
        "--reference",
        "--json",
    ]);
    let report = report.json();
    assert_eq!(report["images"], COUNT);
    assert!(report["agreement"]["max_error"].as_f64() < Some(0.15), "{report}");
    assert!(report["model"]["top1"].is_number() && report["against"]["top5"].is_number());
    let text = folder.skipstone(&[
        "evaluate",
        "tiny_bottleneck.skip",
        "--data",
        "x.npy",
        "--against",
        "tiny_bottleneck.skip",
    ]);
    assert!(text.ok().contains("agreement: 100.00 % of top-1"));
}

#[test]
fn folders_name_classes() {
    let folder = Folder::new("evaluate");
    folder.pack("tiny_resnet", &["--recipe", "imagenet"]);
    let photo = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/photo.jpg")).unwrap();
    folder.write("data/3/a.jpg", &photo);
    folder.write("data/4/b.jpg", &photo);
    let report = folder.skipstone(&["evaluate", "tiny_resnet.skip", "--data", "data", "--json"]);
    let report = report.json();
    assert_eq!(report["images"], 2);
    assert!(report["model"]["top1"].as_f64() <= Some(0.5));
    let fails = |data: &str, words: &[&str]| {
        folder.skipstone(&["evaluate", "tiny_resnet.skip", "--data", data]).fails(1, words);
    };
    folder.write("odd/wolf/a.jpg", &photo);
    fails("odd", &["a.jpg: 'wolf' is not a class", "folders are class numbers"]);
    folder.write("far/10/a.jpg", &photo);
    fails("far", &["a label is 10, the model knows classes 0 to 9"]);
    folder.write("empty/readme.txt", "none");
    fails("empty", &["empty: no JPEG or PNG files in this folder"]);
}

#[test]
fn wrong_arguments_are_errors() {
    let folder = Folder::new("quantize-errors");
    folder.pack("tiny_resnet", &[]);
    data(&folder);
    let run = |args: &[&str]| folder.skipstone(args);
    let q = "quantize";
    run(&[q, "tiny_resnet.skip"]).fails(2, &["--calib is missing"]);
    let model = "tiny_resnet.skip";
    run(&[q, model, "--calib", "x.npy", "-o", model]).fails(2, &["would overwrite the input"]);
    run(&[q, model, "--calib", "x.npy", "--exclude", "nobody"]).fails(2, &["'nobody'"]);
    folder.write("folder/a.jpg", "");
    run(&[q, model, "--calib", "folder"]).fails(1, &["no preprocessing recipe"]);
    folder.write("odd.npy", npy("<f4", false, &[1, 3, 8, 8], &f32s(&[0.0; 192])));
    run(&[q, model, "--calib", "odd.npy"]).fails(1, &["shape [1, 3, 8, 8], expected"]);
    folder.write("nan.npy", npy("<f4", false, &[1, 3, 35, 29], &f32s(&[f32::NAN; IMAGE])));
    run(&[q, model, "--calib", "nan.npy"]).fails(2, &["nan.npy[0]", "not a number"]);
    run(&[q, model, "--calib", "nowhere"]).fails(1, &["nowhere: cannot open"]);
    folder.write("none.npy", npy("<f4", false, &[0, 3, 35, 29], &[]));
    run(&[q, model, "--calib", "none.npy"]).fails(1, &["none.npy: no images"]);
    assert!(!folder.path("tiny_resnet.int8.skip").exists());
    run(&[q, model, "--calib", "x.npy"]).ok();
    let quantized = "tiny_resnet.int8.skip";
    run(&[q, quantized, "--calib", "x.npy"]).fails(2, &["quantized already"]);

    let e = "evaluate";
    run(&[e, model, "--data", "x.npy"]).fails(1, &["there is nothing to compare with"]);
    folder.write("short.npy", npy("<i8", false, &[1], &0i64.to_le_bytes()));
    run(&[e, model, "--data", "x.npy", "short.npy"]).fails(1, &["1 labels for 6 images"]);
    run(&[e, model, "--data", "x.npy", "x.npy"]).fails(1, &["expected a list"]);
}
