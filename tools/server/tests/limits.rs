//! What a client may cost, and what happens beyond.

mod common;

use std::time::{Duration, Instant};

use common::{Client, Folder, Running, image, noise, settings};
use serde_json::json;

#[test]
fn hostile_bodies_are_refused() {
    let folder = Folder::new("hostile");
    let server = Running::start(settings(&folder));
    let mut client = server.client();
    let infer = "/v2/models/tiny/infer";
    for body in [
        "[".repeat(10_000),
        format!("{{\"inputs\": {}1{}}}", "[".repeat(40), "]".repeat(40)),
        "{\"inputs\": [], \"inputs\": []}".to_owned(),
        "{\"inputs\": [{\"name\": \"x\", \"shape\": [99999999999], \"datatype\": \"FP32\", \"data\": []}]}"
            .to_owned(),
        "{\"inputs\": [{\"name\": \"x\", \"shape\": [1], \"datatype\": \"FP32\", \"data\": [NaN]}]}"
            .to_owned(),
        String::new(),
    ] {
        client.post(infer, &body).refused(400);
    }
    let length = "Inference-Header-Content-Length";
    for (header, value) in [(length, "999"), (length, "x"), ("X-Request-Timeout-Ms", "soon")] {
        client.request("POST", infer, &[(header, value)], b"{}").refused(400);
    }
    client.request("POST", infer, &[("Content-Encoding", "gzip")], b"{}").refused(415);
    // The connection survived all of it.
    client.post("/v1/classify", image("420.jpg")).ok();
    server.stop().unwrap();
}

#[test]
fn hostile_images_are_refused() {
    let folder = Folder::new("hostile-images");
    let server = Running::start(settings(&folder));
    let mut client = server.client();
    let photo = image("exif-6.jpg");
    let mut bomb = image("progressive.jpg");
    let frame = bomb.windows(2).position(|w| w == [0xff, 0xc2]).unwrap();
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    assert!(client.post("/v1/classify", &bomb).refused(413).contains("60000x60000"));
    client.post("/v1/classify", &photo[..photo.len() / 2]).refused(400);
    client.post("/v1/classify", [b"GIF89a", photo.as_slice()].concat()).refused(415);
    client.post("/v1/classify", [&photo[..4], b"\x89PNG\r\n\x1a\n"].concat()).refused(400);
    client.post("/v1/classify", b"").refused(415);
    client.post("/v1/classify", &photo).ok();
    server.stop().unwrap();
}

#[test]
fn a_body_that_is_too_long_is_refused_at_its_head() {
    let folder = Folder::new("too-long");
    let mut settings = settings(&folder);
    settings.limits.max_body_bytes = 100_000;
    let server = Running::start(settings);
    let mut client = server.client();
    client.post("/v1/classify", vec![0; 3_000_000]).refused(413);
    client.get("/v2/health/live").ok();
    let mut chunked = server.client();
    chunked.write(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..4 {
        chunked.write(&[b"8000\r\n".as_slice(), &[0; 0x8000], b"\r\n"].concat());
    }
    chunked.write(b"0\r\n\r\n");
    chunked.receive().unwrap().refused(413);
    server.stop().unwrap();
}

#[test]
fn silent_and_slow_connections_are_closed_and_others_served() {
    let folder = Folder::new("slow");
    let mut settings = settings(&folder);
    // Long enough for those that do send, on a machine that has other work; far less than the patience below.
    settings.limits.head_timeout = Duration::from_secs(3);
    settings.limits.idle_timeout = Duration::from_secs(4);
    settings.limits.body_timeout = Duration::from_secs(3);
    let server = Running::start(settings);
    let mut silent: Vec<Client> = (0..20).map(|_| server.client()).collect();
    let mut slow: Vec<Client> = (0..20).map(|_| server.client()).collect();
    for client in &mut slow {
        client.write(b"GET /v2 HTTP/1.1\r\nHost");
    }
    let mut idle = server.client();
    idle.get("/v2").ok();
    let mut body = server.client();
    body.write(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab");
    server.client().post("/v1/classify", image("420.jpg")).ok();
    body.receive().unwrap().refused(408);
    for client in silent.iter_mut().chain(&mut slow).chain([&mut idle, &mut body]) {
        assert!(client.is_closed_within(common::PATIENCE), "a connection stayed open");
    }
    server.stop().unwrap();
}

#[test]
fn a_full_queue_refuses_at_once_and_deadlines_hold() {
    let folder = Folder::new("full");
    let mut settings = settings(&folder);
    settings.execution.max_queue = Some(1);
    let server = Running::start(settings);
    // The two places go to requests whose bodies do not come. One that arrives while the client has a
    // place is refused itself, so there is one more for each answer.
    let mut holders = Vec::new();
    let mut client = server.client();
    let started = Instant::now();
    let refused = loop {
        let mut holder = server.client();
        holder.write(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n");
        holders.push(holder);
        let answer = client.post("/v1/classify", image("420.jpg"));
        if answer.status != 200 {
            break answer;
        }
        assert!(started.elapsed() < common::PATIENCE, "nothing is refused");
    };
    assert!(refused.refused(503).contains("full"));
    assert_eq!(refused.headers["retry-after"], "1");
    drop(holders);
    while client.post("/v1/classify", image("420.jpg")).status == 503 {
        assert!(started.elapsed() < common::PATIENCE, "places do not come back");
    }
    server.stop().unwrap();
}

#[test]
fn what_is_late_is_not_run() {
    let folder = Folder::new("late");
    let server = Running::start(settings(&folder));
    let mut client = server.client();
    let about = client.get("/v2/models/tiny").ok();
    let mut shape = about["inputs"][0]["shape"].clone();
    shape[0] = json!(1);
    let len: u64 = shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product();
    let tensor = json!({ "name": about["inputs"][0]["name"], "shape": shape, "datatype": "FP32",
        "data": noise(len as usize) });
    let request = json!({ "inputs": [tensor], "parameters": { "timeout": 1 } }).to_string();
    client.post("/v2/models/tiny/infer", request).refused(504);
    server.stop().unwrap();
}

#[test]
fn a_refused_client_that_waits_for_leave_sends_no_body() {
    let folder = Folder::new("expect");
    let server = Running::start(settings(&folder));
    let photo = image("420.jpg");
    let head = |model: &str| {
        let len = photo.len();
        format!(
            "POST /v1/classify?model={model} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\
             Expect: 100-continue\r\n\r\n"
        )
    };
    let mut refused = server.client();
    refused.write(head("none").as_bytes());
    let answer = refused.receive().unwrap();
    assert_eq!(answer.headers["connection"], "close");
    answer.refused(404);
    assert!(refused.is_closed_within(common::PATIENCE), "a connection stayed open");
    let mut welcome = server.client();
    welcome.write(head("tiny").as_bytes());
    assert_eq!(welcome.receive().unwrap().status, 100);
    welcome.write(&photo);
    welcome.receive().unwrap().ok();
    server.stop().unwrap();
}
