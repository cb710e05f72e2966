//! `classify`.

mod common;

use std::fs;
use std::path::Path;

use common::Folder;
use serde_json::Value;

const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/images");

/// A folder with a model `net.skip` of 10 classes.
fn folder(name: &str, recipe: &str) -> Folder {
    let folder = Folder::new(name);
    let labels: Vec<_> = (0..10).map(|i| format!("label {i}")).collect();
    folder.write("labels.txt", labels.join("\n"));
    folder.write("recipe.json", recipe);
    let options = ["--labels", "labels.txt", "--recipe", "recipe.json", "-o", "net.skip"];
    folder.pack("tiny_resnet", &options);
    folder
}

const RECIPE: &str = r#"{"resize": {"short-side": 40}, "interpolation": "bilinear", "crop": [35, 29],
    "channels": "rgb", "scale": 0.0039, "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}"#;

fn add_image(folder: &Folder, image: &str, name: &str) {
    folder.write(name, fs::read(Path::new(IMAGES).join(image)).unwrap());
}

fn check_classes(image: &Value, k: usize) {
    let classes = image["classes"].as_array().unwrap();
    assert_eq!(classes.len(), k);
    let scores: Vec<_> = classes.iter().map(|c| c["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    for class in classes {
        assert_eq!(class["label"], format!("label {}", class["index"]));
    }
    if k == 10 {
        assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-4, "{scores:?}");
    }
}

#[test]
fn one_image() {
    let folder = folder("classify-one", RECIPE);
    add_image(&folder, "420.jpg", "cat.jpg");
    let text = folder.skipstone(&["classify", "cat.jpg", "-m", "net.skip"]).ok();
    assert_eq!(text.lines().count(), 6, "{text}");
    assert!(text.starts_with("cat.jpg\n  0.") && text.contains("label "), "{text}");

    let json = folder
        .skipstone(&["classify", "cat.jpg", "--model", "net.skip", "--json", "--topk", "99"])
        .json();
    let images = json.as_array().unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0]["file"], "cat.jpg");
    assert!(images[0].get("error").is_none());
    check_classes(&images[0], 10);

    // The same through a pipe, with the safe open, and on one thread.
    let mut piped = folder.skipstone(&[
        "classify",
        "-",
        "-m",
        "net.skip",
        "--json",
        "-k10",
        "--no-mmap",
        "--threads",
        "1",
    ]);
    piped.0.stdin(fs::File::open(folder.path("cat.jpg")).unwrap());
    assert_eq!(piped.json()[0]["classes"], images[0]["classes"]);
}

#[test]
fn a_folder_with_a_bad_image() {
    let folder = folder("classify-folder", RECIPE);
    for (i, image) in ["420.jpg", "gray.png", "exif-6.jpg", "palette.png"].iter().enumerate() {
        add_image(&folder, image, &format!("photos/{i}-{image}"));
    }
    add_image(&folder, "cmyk.jpg", "photos/inner/CMYK.JPG");
    folder.write("photos/1-bad.png", b"not an image");
    folder.write("photos/notes.txt", b"not looked at");

    let (stdout, stderr) = folder
        .skipstone(&["classify", "photos", "missing.jpg", "-m", "net.skip", "--json", "-k", "3"])
        .exits(1);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    let images = json.as_array().unwrap();
    let names: Vec<_> = images.iter().map(|i| i["file"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "photos/0-420.jpg",
            "photos/1-bad.png",
            "photos/1-gray.png",
            "photos/2-exif-6.jpg",
            "photos/3-palette.png",
            "photos/inner/CMYK.JPG",
            "missing.jpg",
        ]
    );
    for (image, name) in images.iter().zip(names) {
        if name == "photos/1-bad.png" || name == "missing.jpg" {
            assert!(image["error"].is_string() && image.get("classes").is_none(), "{image}");
            assert!(stderr.contains(&format!("error: {name}: ")), "{stderr}");
        } else {
            assert!(image.get("error").is_none(), "{image}");
            check_classes(image, 3);
        }
    }

    let (stdout, _) = folder.skipstone(&["classify", "photos", "-m", "net.skip"]).exits(1);
    assert_eq!(stdout.lines().count(), 5 * 6, "{stdout}");
    fs::create_dir(folder.path("none")).unwrap();
    folder.skipstone(&["classify", "none", "-m", "net.skip"]).fails(1, &["none", "no JPEG or PNG"]);
}

#[test]
fn models_that_cannot_classify_say_why() {
    let folder = Folder::new("classify-models");
    folder.pack("tiny_resnet", &[]);
    add_image(&folder, "420.jpg", "cat.jpg");
    folder
        .skipstone(&["classify", "cat.jpg", "-m", "tiny_resnet.skip"])
        .fails(2, &["recipe", "hint:", "--recipe"]);
    folder.skipstone(&["classify", "cat.jpg", "-m", "tiny_resnet.onnx"]).fails(3, &["convert"]);
    folder.skipstone(&["classify"]).exits(2);
}

/// Without a crop, the images decide on the size, and only some fit.
#[test]
fn images_of_another_size_are_errors() {
    let recipe = RECIPE.replace("[35, 29]", "null").replace(r#"{"short-side": 40}"#, "null");
    let folder = folder("classify-sizes", &recipe);
    add_image(&folder, "420.jpg", "cat.jpg");
    folder
        .skipstone(&["classify", "cat.jpg", "-m", "net.skip"])
        .fails(1, &["cat.jpg", "51x77", "35x29"]);
}

/// What `args` say about the photograph: the scores by label, and the best label.
#[cfg(feature = "embedded")]
fn photograph(folder: &Folder, args: &[&str]) -> (std::collections::BTreeMap<String, f64>, String) {
    let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/photo.jpg");
    let image = folder.skipstone(&[&["classify", photo, "--json"], args].concat()).json()[0].take();
    let classes = image["classes"].as_array().unwrap();
    let label = |class: &Value| class["label"].as_str().unwrap().to_owned();
    let scores = classes.iter().map(|c| (label(c), c["score"].as_f64().unwrap())).collect();
    (scores, label(&classes[0]))
}

#[cfg(feature = "embedded")]
#[test]
fn the_int8_twin_agrees_with_the_embedded_model() {
    let folder = Folder::new("classify-twin");
    let twin = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/open_nsfw.int8.skip");
    let (own, best) = photograph(&folder, &[]);
    let (quantized, quantized_best) = photograph(&folder, &["--model", twin]);
    assert_eq!((best.as_str(), quantized_best.as_str()), ("sfw", "sfw"));
    for (label, score) in &own {
        assert!((score - quantized[label]).abs() < 0.02, "{label}: {score}, {}", quantized[label]);
    }
    let facts = folder.skipstone(&["inspect", twin, "--json"]).json();
    assert_eq!(facts["dtype"], "i8");
}
