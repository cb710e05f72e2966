//! `run` and `bench`.

mod common;

use std::fs;

use common::{Folder, f32s, npy};

/// Whole numbers from 0 to 255, so that every element type can hold them.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 256) as f32).collect()
}

/// The shape and data of an f32 npy file.
fn read_npy(bytes: &[u8]) -> (String, Vec<f32>) {
    let len = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let header = String::from_utf8(bytes[10..10 + len].to_vec()).unwrap();
    let (data, rest) = bytes[10 + len..].as_chunks::<4>();
    assert!(rest.is_empty() && header.contains("<f4"), "{header}");
    (header, data.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

const IMAGE: usize = 3 * 35 * 29;

#[test]
fn arrays_of_every_kind_give_the_same() {
    let folder = Folder::new("run");
    folder.pack("tiny_resnet", &[]);
    let shape = [2, 3, 35, 29];
    let x = values(2 * IMAGE);
    folder.write("f4.npy", npy("<f4", false, &shape, &f32s(&x)));
    let f64s: Vec<u8> = x.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    folder.write("f8.npy", npy("<f8", false, &shape, &f64s));
    let big: Vec<u8> = x.iter().flat_map(|v| v.to_be_bytes()).collect();
    folder.write("big.npy", npy(">f4", false, &shape, &big));
    folder.write(
        "u1.npy",
        npy("|u1", false, &shape, &x.iter().map(|v| *v as u8).collect::<Vec<_>>()),
    );
    let f16s: Vec<u8> = x.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    folder.write("f2.npy", npy("<f2", false, &shape, &f16s));
    let mut fortran = vec![];
    for w in 0..29 {
        for h in 0..35 {
            for c in 0..3 {
                for n in 0..2 {
                    fortran.push(x[((n * 3 + c) * 35 + h) * 29 + w]);
                }
            }
        }
    }
    folder.write("fortran.npy", npy("<f4", true, &shape, &f32s(&fortran)));

    let run = |input: &str| {
        folder.skipstone(&["run", "tiny_resnet.skip", "--input", input, "--output", "y.npy"]).ok();
        read_npy(&fs::read(folder.path("y.npy")).unwrap())
    };
    let (header, logits) = run("f4.npy");
    assert!(header.contains("(2, 10"), "{header}");
    assert!(logits.len() == 20 && logits.iter().all(|v| v.is_finite()), "{logits:?}");
    for input in ["f8.npy", "big.npy", "u1.npy", "f2.npy", "fortran.npy", "input=f4.npy"] {
        assert_eq!(run(input).1, logits, "{input}");
    }
}

#[test]
fn batches_and_sizes_are_the_arrays() {
    let folder = Folder::new("run-batches");
    folder.pack("tiny_resnet", &[]);
    // More than one piece, and a rest.
    let x = values(37 * IMAGE);
    folder.write("all.npy", npy("<f4", false, &[37, 3, 35, 29], &f32s(&x)));
    folder.write("last.npy", npy("<f4", false, &[1, 3, 35, 29], &f32s(&x[36 * IMAGE..])));
    let run = |args: &[&str]| {
        folder.skipstone(&[&["run", "tiny_resnet.skip", "-o", "y.npy", "-i"], args].concat()).ok()
    };
    run(&["all.npy"]);
    let (_, all) = read_npy(&fs::read(folder.path("y.npy")).unwrap());
    assert_eq!(all.len(), 370);
    run(&["last.npy", "--threads", "2", "--no-mmap"]);
    let (_, last) = read_npy(&fs::read(folder.path("y.npy")).unwrap());
    assert_eq!(all[360..], last);

    folder.write("large.npy", npy("<f4", false, &[1, 3, 50, 41], &f32s(&values(3 * 50 * 41))));
    let profile = run(&["large.npy", "--profile"]);
    assert!(profile.contains("GMAC/s") && profile.contains("conv"), "{profile}");
}

#[test]
fn wrong_arrays_are_explained() {
    let folder = Folder::new("run-errors");
    folder.pack("tiny_resnet", &[]);
    let fails = |input: &[u8], words: &[&str]| {
        folder.write("x.npy", input);
        let args = ["run", "tiny_resnet.skip", "-i", "x.npy", "-o", "y.npy"];
        folder.skipstone(&args).fails(1, words);
        assert!(!folder.path("y.npy").exists());
    };
    let x = f32s(&values(IMAGE));
    fails(&npy("<f4", false, &[3, 35, 29], &x), &["x.npy", "expected 4 axes", "leading axis"]);
    fails(&npy("<f4", false, &[1, 35, 29, 3], &x), &["35 along C, expected 3"]);
    fails(&npy("<f4", false, &[0, 3, 35, 29], &[]), &["0 along N"]);
    fails(&npy("<i8", false, &[1, 3, 35, 29], &[0; 8 * IMAGE]), &["i8", "expected f32"]);
    fails(&npy("<f4", false, &[1, 3, 35, 29], &x[4..]), &["x.npy"]);
    fails(&npy("<f4", false, &[1 << 40, 3, 35, 29], &x), &["truncated"]);
    fails(b"PK\x03\x04", &["not an npy file"]);
    let run = |args: &[&str]| folder.skipstone(&[&["run", "tiny_resnet.skip"], args].concat());
    run(&["-i", "missing.npy", "-o", "y.npy"]).fails(1, &["missing.npy"]);
    run(&["-i", "x.npy", "-i", "x.npy", "-o", "y.npy"]).fails(2, &["input"]);
    run(&["-o", "y.npy"]).exits(2);
}

#[test]
fn bench_reports_everything() {
    let folder = Folder::new("bench");
    folder.pack("tiny_resnet", &[]);
    let bench = |args: &[&str]| {
        let common = ["bench", "tiny_resnet.skip", "--min-secs", "0", "--num-runs", "20"];
        folder.skipstone(&[&common, args].concat())
    };
    let json = bench(&["--json", "--threads", "2", "--batch", "2", "--profile"]).json();
    let latency = &json["latency_ms"];
    let at = |key: &str| latency[key].as_f64().unwrap();
    assert!(0.0 < at("min") && at("min") <= at("median") && at("median") <= at("p90"), "{json}");
    assert!(at("p90") <= at("p99") && at("p99") <= at("max") && at("mean") <= at("max"), "{json}");
    for key in ["throughput_ips", "init_ms", "first_ms"] {
        assert!(json[key].as_f64().unwrap() > 0.0, "{key}: {json}");
    }
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["model"], "tiny_resnet.skip");
    assert_eq!(json["threads"], 2);
    assert_eq!(json["batch"], 2);
    assert_eq!(json["runs"], 20);
    assert_eq!(json["input_dims"], serde_json::json!([2, 3, 35, 29]));
    assert!(json["isa"].is_string() && json["cpu"].is_string() && json["version"].is_string());
    if cfg!(target_os = "linux") {
        assert!(json["peak_rss_bytes"].as_u64().unwrap() > 1 << 20, "{json}");
    }
    let layers = json["layers"].as_array().unwrap();
    let percent: f64 = layers.iter().map(|l| l["percent"].as_f64().unwrap()).sum();
    assert!((percent - 100.0).abs() < 1e-6, "{percent}");

    let text = bench(&["--input-size", "64x48"]).ok();
    assert!(text.contains("median of 20 runs") && text.contains("[1, 3, 64, 48]"), "{text}");
    assert!(bench(&["--json"]).json().get("layers").is_none());
}

#[test]
fn bench_scenarios_report_what_mlperf_does() {
    let folder = Folder::new("bench-scenarios");
    folder.pack("tiny_resnet", &[]);
    let bench = |args: &[&str]| {
        let common = ["bench", "tiny_resnet.skip", "--min-secs", "0", "--num-runs", "40", "--json"];
        folder.skipstone(&[&common, args].concat())
    };
    for (scenario, percentile, images) in [("single-stream", "p90", 1), ("multi-stream", "p99", 8)]
    {
        let json = bench(&["--scenario", scenario, "--threads", "2"]).json();
        assert_eq!(json["metric"]["value"], json["latency_ms"][percentile], "{json}");
        assert_eq!((&json["queries"], &json["images_per_query"]), (&40.into(), &images.into()));
        assert_eq!(json["valid"], true, "{json}");
    }
    let json = bench(&["--scenario", "offline", "--streams", "2", "--max-batch", "3"]).json();
    assert_eq!((&json["streams"], &json["max_batch"]), (&2.into(), &3.into()), "{json}");
    assert!(json["metric"]["value"].as_f64().unwrap() > 0.0 && json["latency_ms"].is_null());

    let server = ["--scenario", "server", "--target-qps", "1000", "--target-latency-ms"];
    let json = bench(&[&server[..], &["60000"]].concat()).json();
    assert_eq!((&json["queries"], &json["valid"]), (&40.into(), &true.into()), "{json}");
    assert!(json["metric"]["value"].as_f64().unwrap() < 2500.0, "faster than it was asked: {json}");
    let (late, _) = bench(&[&server[..], &["0.000001"]].concat()).exits(1);
    assert!(late.contains("\"valid\": false"), "{late}");

    bench(&["--scenario", "server"]).exits(2);
    bench(&["--scenario", "offline", "--batch", "2"]).exits(2);
    bench(&["--streams", "2"]).exits(2);
}
