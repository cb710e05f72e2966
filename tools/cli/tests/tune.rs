//! `tune`, and what `inspect` and `bench` say of measured choices.

mod common;

use std::fs;

use common::Folder;

#[test]
fn tuning_stores_choices_that_plans_then_use() {
    let folder = Folder::new("tune");
    folder.pack("tiny_resnet", &[]);
    let model = ["tiny_resnet.skip", "--threads", "2"];
    let skipstone =
        |verb: &str, args: &[&str]| folder.skipstone(&[&[verb], &model[..], args].concat());
    let original = fs::read(folder.path("tiny_resnet.skip")).unwrap();
    let before = skipstone("inspect", &["--layers"]).ok();
    assert!(before.contains("heuristic") && before.contains("none in the file"), "{before}");
    assert!(!before.contains("measured"), "{before}");

    let dry = skipstone("tune", &["--rounds", "5", "--dry-run"]).ok();
    assert!(dry.contains("nowhere (--dry-run)") && dry.contains("winograd-f4"), "{dry}");
    assert_eq!(fs::read(folder.path("tiny_resnet.skip")).unwrap(), original);

    let report = skipstone("tune", &["--rounds", "5", "--json"]).json();
    assert_eq!((&report["schema_version"], &report["stored"]), (&1.into(), &true.into()));
    assert_eq!(report["key"]["threads"], 2);
    assert!(report["heuristic_ms"].as_f64() >= report["tuned_ms"].as_f64(), "{report}");
    let layers = report["layers"].as_array().unwrap();
    for layer in layers {
        let candidates = layer["candidates"].as_array().unwrap();
        assert!(candidates.len() > 1, "{layer}");
        for name in [&layer["chosen"], &layer["heuristic"]] {
            assert!(candidates.iter().any(|c| c["method"] == *name), "{layer}");
        }
    }

    let json = skipstone("inspect", &["--json"]).json();
    assert_eq!(json["tuned_for"].as_array().unwrap().len(), 1);
    assert_eq!(json["plan"]["tuned"], true);
    let chosen = |name: &str| {
        let layers = json["plan"]["layers"].as_array().unwrap();
        // A joined step bears both names.
        let named = |l: &&serde_json::Value| {
            l["name"].as_str().is_some_and(|n| n.split(" + ").next() == Some(name))
        };
        layers.iter().find(named).unwrap().clone()
    };
    for layer in layers {
        let step = chosen(layer["name"].as_str().unwrap());
        assert_eq!(step["chosen_by"], "tuned", "{step}");
        assert_eq!(step["method"], layer["chosen"], "{step}");
        let measured = step["measured"].as_array().unwrap();
        assert_eq!(measured.len(), layer["candidates"].as_array().unwrap().len(), "{step}");
    }
    let after = skipstone("inspect", &["--layers"]).ok();
    assert!(after.contains("tuned for this") && after.contains("measured (ms)"), "{after}");
    let untuned = skipstone("inspect", &["--layers", "--untuned"]).ok();
    assert!(untuned.contains("ignored") && !untuned.contains("measured (ms)"), "{untuned}");

    let bench = |args: &[&str]| {
        let common = ["bench", "tiny_resnet.skip", "--min-secs", "0", "--num-runs", "3", "--json"];
        folder.skipstone(&[&common, args].concat()).json()
    };
    let used = bench(&["--threads", "2"]);
    assert_eq!((&used["tuned"], &used["table"]), (&true.into(), &"tuned for this".into()));
    let other = bench(&["--threads", "1"]);
    assert_eq!(other["tuned"], false);
    assert!(other["table"].as_str().unwrap().contains("1 table in the file, none"), "{other}");
    folder.skipstone(&["verify", "tiny_resnet.skip"]).ok();
}

#[test]
fn what_cannot_be_tuned_is_explained() {
    let folder = Folder::new("tune-errors");
    folder.pack("tiny_resnet", &[]);
    let tune = |args: &[&str]| folder.skipstone(&[&["tune"], args].concat());
    tune(&["missing.skip"]).fails(1, &["missing.skip"]);
    tune(&["tiny_resnet.onnx"]).fails(3, &["tiny_resnet.onnx", "convert"]);
    tune(&["tiny_resnet.skip", "--rounds", "1"]).fails(2, &["rounds", "at least 5"]);
    tune(&["tiny_resnet.skip", "--batch", "0"]).exits(2);
}
