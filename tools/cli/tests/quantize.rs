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
fn int8_is_measured_against_f32() {
    let folder = Folder::new("quantize-measure");
    folder.pack("tiny_bottleneck", &[]);
    data(&folder);
    let run = |args: &[&str]| {
        let fixed = ["quantize", "tiny_bottleneck.skip", "--calib", "x.npy", "--threads", "1"];
        folder.skipstone(&[&fixed, args].concat())
    };
    let inspect = |args: &[&str]| {
        let fixed = ["inspect", "tiny_bottleneck.int8.skip", "--threads", "1"];
        folder.skipstone(&[&fixed, args].concat())
    };
    let report = run(&["--json"]).json();
    assert!(report["measured"].is_null() && report["layers"][0]["measured"].is_null());
    let text = inspect(&["--layers"]).ok();
    assert!(text.contains("int8_vs_f32 not measured: skipstone quantize --measure"), "{text}");
    assert!(!text.contains("f32 / int8 (ms)"), "{text}");
    assert!(inspect(&["--json"]).json()["int8_vs_f32"].is_null());

    // Which layers are faster is not the matter here: this network is as small as noise.
    let name = report["layers"][1]["name"].as_str().expect("a name");
    let measure = ["--measure", "--exclude", name, "--report", "r.json", "--plot", "r.svg"];
    let text = run(&measure).ok();
    let listed =
        ["F32 ms", "INT8 ms", "int8 measured: ", "layers no slower than in f32 (", "run: "];
    listed.iter().for_each(|words| assert!(text.contains(words), "{words}: {text}"));
    let report = fs::read(folder.path("r.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    assert_eq!(report["measured"]["key"]["threads"], 1);
    assert!(report["measured"]["f32_ms"].as_f64() > Some(0.0), "{report}");
    let layers = report["layers"].as_array().expect("layers");
    for layer in layers {
        let times = &layer["measured"];
        assert!(times["f32_ms"].as_f64() > Some(0.0), "{layer}");
        let in_float = match times["verdict"].as_str() {
            Some("int8" | "kept-by-conversions") => Value::Null,
            Some("slower") => "measured slower".into(),
            Some("no-choice") => "excluded".into(),
            other => panic!("{other:?}: {layer}"),
        };
        assert_eq!(layer["in_float"], in_float, "{layer}");
        assert_eq!(layer["int8"], in_float.is_null(), "{layer}");
        assert_eq!(layer["name"] == name, times["verdict"] == "no-choice", "{layer}");
    }
    let within = |l: &&Value| l["measured"]["within"].is_string();
    assert!(layers.iter().any(|l| within(&l)), "f32 joins the branch to what adds it: {report}");
    assert!(fs::read_to_string(folder.path("r.svg")).unwrap().contains("time in int8 / in f32"));

    let text = inspect(&["--layers"]).ok();
    assert!(text.contains("layers no slower than in f32 (") && text.contains("f32 / int8 (ms)"));
    assert!(!text.contains("not measured") && !text.contains("int8_times"), "{text}");
    let json = inspect(&["--json"]).json();
    assert_eq!(json["int8_vs_f32"], report["measured"]["summary"]);
    let steps = json["plan"]["layers"].as_array().expect("layers");
    for layer in layers.iter().filter(|l| l["int8"] == true) {
        let step = steps.iter().find(|s| s["name"] == layer["name"] && !s["int8_vs_f32"].is_null());
        assert_eq!(step.expect("a step")["int8_vs_f32"], layer["measured"], "{layer}");
    }
    folder.skipstone(&["verify", "tiny_bottleneck.int8.skip"]).ok();
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
