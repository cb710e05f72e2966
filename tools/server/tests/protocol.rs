//! The Open Inference Protocol, its extensions, and this server's own paths.

mod common;

use common::{Folder, Running, binary, bytes_of, floats_of, image, noise, run, settings, tiny};
use serde_json::{Value, json};
use skipstone::Model;
use skipstone::image::{Limits, decode};

const HEADER_LENGTH: &str = "Inference-Header-Content-Length";

/// A server, and its model as the library has it.
fn start(name: &str) -> (Folder, Running, Model) {
    let folder = Folder::new(name);
    let server = Running::start(settings(&folder));
    (folder, server, Model::from_bytes(&tiny(0)).unwrap())
}

/// Name and length of the model's input, and its shape for `n` images.
fn input(model: &Model, n: usize) -> (String, usize, Value) {
    let port = &model.graph().inputs[0];
    (port.name.clone(), port.shape.len(), json!(port.axes.dims(n, port.shape)))
}

fn output(model: &Model) -> String {
    model.graph().outputs[0].name.clone()
}

fn floats(json: &Value) -> Vec<f32> {
    json.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

#[test]
fn metadata() {
    let (_folder, server, model) = start("metadata");
    let mut client = server.client();
    assert_eq!(client.get("/v2/health/live").ok()["live"], true);
    assert_eq!(client.get("/v2/health/ready").ok()["ready"], true);
    let about = client.get("/v2").ok();
    assert_eq!(about["name"], "skipstone");
    for extension in ["binary_tensor_data", "classification", "statistics"] {
        assert!(about["extensions"].as_array().unwrap().contains(&json!(extension)));
    }
    for path in ["/v2/models/tiny", "/v2/models/tiny/versions/1"] {
        let about = client.get(path).ok();
        assert_eq!((&about["name"], &about["versions"]), (&json!("tiny"), &json!(["1"])));
        let (name, _, mut shape) = input(&model, 1);
        shape[0] = json!(-1);
        assert_eq!(about["inputs"], json!([{ "name": name, "datatype": "FP32", "shape": shape }]));
        assert_eq!(about["outputs"][0]["name"], output(&model));
        assert_eq!(client.get(&format!("{path}/ready")).ok()["ready"], true);
    }
    assert!(client.get("/v2/models/none").refused(404).contains("tiny"));
    assert!(client.get("/v2/models/tiny/versions/2").refused(404).contains("'1'"));
    client.get("/elsewhere").refused(404);
    client.get("/v2/models/tiny/infer").refused(405);
    let index = client.post("/v2/repository/index", "").ok();
    assert_eq!((&index[0]["name"], &index[0]["state"]), (&json!("tiny"), &json!("READY")));
    server.stop().unwrap();
}

#[test]
fn json_and_binary_tensors_give_the_librarys_bits() {
    let (_folder, server, model) = start("tensors");
    let mut client = server.client();
    let (name, len, shape) = input(&model, 2);
    let images = noise(2 * len);
    let expected: Vec<f32> = images.chunks(len).flat_map(|image| run(&model, image)).collect();

    let tensor = json!({ "name": name, "shape": shape, "datatype": "FP32", "data": images });
    let request = json!({ "id": "seven", "inputs": [tensor] }).to_string();
    let answer = client.post("/v2/models/tiny/infer", &request).ok();
    assert_eq!((&answer["id"], &answer["model_name"]), (&json!("seven"), &json!("tiny")));
    assert_eq!(floats(&answer["outputs"][0]["data"]), expected);
    assert_eq!(answer["outputs"][0]["shape"], json!([2, expected.len() / 2]));

    let tensor = json!({ "name": name, "shape": shape, "datatype": "FP32",
        "parameters": { "binary_data_size": 8 * len } });
    let request = json!({ "inputs": [tensor], "parameters": { "binary_data_output": true } });
    let (json_len, body) = binary(&request, &bytes_of(&images));
    for path in ["/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer"] {
        let answer = client.request("POST", path, &[(HEADER_LENGTH, &json_len)], &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let split = answer.headers[&HEADER_LENGTH.to_ascii_lowercase()].parse().unwrap();
        let (json, tensors) = answer.body.split_at(split);
        assert_eq!(floats_of(tensors), expected);
        let json: Value = serde_json::from_slice(json).unwrap();
        assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], tensors.len());
        assert!(json.get("id").is_none());
        assert!(answer.headers["server-timing"].contains("compute;dur="));
    }
    server.stop().unwrap();
}

#[test]
fn pixels_are_scaled_by_the_recipe_in_either_order() {
    let (_folder, server, model) = start("pixels");
    let mut client = server.client();
    let (name, len, shape) = input(&model, 1);
    let [_, _, height, width] = [0, 1, 2, 3].map(|i| shape[i].as_u64().unwrap());
    let interleaved: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
    let planar: Vec<u8> =
        (0..3).flat_map(|c| interleaved[c..].iter().step_by(3).copied()).collect();
    let scaled: Vec<f32> =
        planar.iter().map(|p| (f32::from(*p) * (1.0 / 255.0) - 0.5) / 0.25).collect();
    let expected = run(&model, &scaled);
    for (shape, pixels) in [(shape.clone(), &planar), (json!([1, height, width, 3]), &interleaved)]
    {
        let tensor = json!({ "name": name, "shape": shape, "datatype": "UINT8", "data": pixels });
        let answer =
            client.post("/v2/models/tiny/infer", json!({ "inputs": [tensor] }).to_string());
        assert_eq!(floats(&answer.ok()["outputs"][0]["data"]), expected);
    }
    server.stop().unwrap();
}

#[test]
fn images_are_decoded_here() {
    let (_folder, server, model) = start("images");
    let mut client = server.client();
    let (name, len, _) = input(&model, 1);
    let files = [image("420.jpg"), image("rgb-16.png"), image("exif-6.jpg")];
    let recipe = model.recipe().unwrap();
    let mut expected = vec![];
    for file in &files {
        let pixels = recipe.prepare(&decode(file, &Limits::default()).unwrap()).unwrap();
        let mut tensor = vec![0.0; len];
        recipe.write_tensor(&pixels, &model.graph().inputs[0].axes, &mut tensor).unwrap();
        expected.push(run(&model, &tensor));
    }
    let mut strings = vec![];
    for file in &files {
        strings.extend((file.len() as u32).to_le_bytes());
        strings.extend(file);
    }
    let tensor = json!({ "name": name, "shape": [3], "datatype": "BYTES",
        "parameters": { "binary_data_size": strings.len() } });
    let (json_len, body) = binary(&json!({ "inputs": [tensor] }), &strings);
    let headers = [(HEADER_LENGTH, json_len.as_str())];
    let answer = client.request("POST", "/v2/models/tiny/infer", &headers, &body).ok();
    assert_eq!(floats(&answer["outputs"][0]["data"]), expected.concat());

    let best = (0..expected[0].len()).max_by(|a, b| expected[0][*a].total_cmp(&expected[0][*b]));
    let answer = client.post("/v1/classify?model=tiny&topk=2", &files[0]).ok();
    assert_eq!(answer["classes"].as_array().unwrap().len(), 2);
    assert_eq!(answer["classes"][0]["index"], best.unwrap());
    assert_eq!(answer["classes"][0]["label"], format!("label {}", best.unwrap()));
    for stage in ["decode", "queue", "compute", "total"] {
        assert!(answer["timings_ms"][stage].as_f64().unwrap() >= 0.0);
    }
    assert_eq!(client.post("/v1/classify", &files[0]).ok()["classes"], {
        client.post("/v1/classify?topk=5", &files[0]).ok()["classes"].clone()
    });
    server.stop().unwrap();
}

#[test]
fn classification() {
    let (_folder, server, model) = start("classification");
    let mut client = server.client();
    let (name, len, shape) = input(&model, 2);
    let images = noise(2 * len);
    let tensor = json!({ "name": name, "shape": shape, "datatype": "FP32", "data": images });
    let wish = json!({ "name": output(&model), "parameters": { "classification": 3 } });
    let request = json!({ "inputs": [tensor], "outputs": [wish] }).to_string();
    let answer = client.post("/v2/models/tiny/infer", request).ok();
    let found = &answer["outputs"][0];
    assert_eq!((&found["datatype"], &found["shape"]), (&json!("BYTES"), &json!([2, 3])));
    let expected: Vec<String> = images
        .chunks(len)
        .flat_map(|image| {
            let scores = run(&model, image);
            let best = skipstone::classes::top(&scores, 3);
            best.into_iter().map(move |i| format!("{:.6}:{i}:label {i}", scores[i]))
        })
        .collect();
    assert_eq!(found["data"], json!(expected));
    server.stop().unwrap();
}

#[test]
fn what_does_not_fit_is_named() {
    let (_folder, server, model) = start("misfits");
    let mut client = server.client();
    let (name, len, shape) = input(&model, 1);
    let mut refused = |status: u16, says: &str, inputs: Value, outputs: Value| {
        let request = json!({ "inputs": inputs, "outputs": outputs }).to_string();
        let error = client.post("/v2/models/tiny/infer", request).refused(status);
        assert!(error.contains(says), "{error}, expected {says}");
    };
    let tensor = |shape: &Value, datatype: &str, data: Value| json!([{ "name": name, "shape": shape, "datatype": datatype, "data": data }]);
    let data = json!(noise(len));
    refused(400, "expected [-1, 3", tensor(&json!([1, 2, 3]), "FP32", data.clone()), json!([]));
    refused(400, "no images", tensor(&json!([0, 3, 35, 29]), "FP32", json!([])), json!([]));
    refused(400, "elements in data", tensor(&shape, "FP32", json!([1, 2])), json!([]));
    refused(400, "datatype FP64", tensor(&shape, "FP64", data.clone()), json!([]));
    refused(400, "no output 'x'", tensor(&shape, "FP32", data.clone()), json!([{ "name": "x" }]));
    refused(400, "expected 1", json!([]), json!([]));
    refused(413, "per request", tensor(&json!([5000]), "BYTES", json!([])), json!([]));
    refused(400, "base64", tensor(&json!([1]), "BYTES", json!(["*"])), json!([]));
    refused(415, "image 0", tensor(&json!([1]), "BYTES", json!(["aGk="])), json!([]));
    let mut other = tensor(&shape, "FP32", data);
    other[0]["name"] = json!("other");
    refused(400, "is missing", other, json!([]));
    client.post("/v1/classify?model=none", image("420.jpg")).refused(404);
    client.post("/v1/classify?topk=x", image("420.jpg")).refused(400);
    server.stop().unwrap();
}

#[test]
fn statistics_and_metrics_count() {
    let (_folder, server, _) = start("statistics");
    let mut client = server.client();
    for _ in 0..3 {
        client.post("/v1/classify", image("420.jpg")).ok();
    }
    client.post("/v1/classify", b"no image").refused(415);
    for path in ["/v2/models/stats", "/v2/models/tiny/stats", "/v2/models/tiny/versions/1/stats"] {
        let stats = &client.get(path).ok()["model_stats"][0];
        assert_eq!((&stats["name"], &stats["inference_count"]), (&json!("tiny"), &json!(3)));
        assert_eq!(stats["inference_stats"]["success"]["count"], 3);
        assert_eq!(stats["inference_stats"]["fail"]["count"], 1);
        assert!(stats["inference_stats"]["compute_infer"]["ns"].as_u64().unwrap() > 0);
        assert_eq!(stats["batch_stats"][0]["batch_size"], 1);
    }
    let text = client.get("/metrics").text();
    for line in [
        r#"skipstone_requests_total{model="tiny",outcome="ok"} 3"#,
        r#"skipstone_requests_total{model="tiny",outcome="client_error"} 1"#,
        r#"skipstone_request_duration_seconds_count{model="tiny"} 3"#,
        r#"skipstone_images_total{model="tiny"} 4"#,
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    server.stop().unwrap();
}

#[test]
fn the_page_needs_nothing_else() {
    let (_folder, server, _) = start("page");
    let mut client = server.client();
    for (path, kind) in
        [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")]
    {
        let answer = client.get(path);
        assert_eq!(answer.status, 200);
        assert!(answer.headers["content-type"].starts_with(kind), "{path}");
        assert!(answer.headers["content-security-policy"].starts_with("default-src 'none'"));
        let text = answer.text().replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("//cdn") && !text.contains("http://") && !text.contains("https://"));
    }
    server.stop().unwrap();
}
