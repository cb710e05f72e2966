//! Loading, reloading and ending.

mod common;

use std::fs;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Client, Folder, PATIENCE, Running, image, settings, tiny};
use serde_json::Value;
use skipstone_server::Source;

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn scores(client: &mut Client) -> Value {
    client.post("/v1/classify", image("420.jpg")).ok()["classes"].clone()
}

#[test]
fn a_replaced_file_takes_over_and_a_broken_one_does_not() {
    let folder = Folder::new("reload");
    let server = Running::start(settings(&folder));
    let mut client = server.client();
    let first = scores(&mut client);
    let replace = |bytes: &[u8]| {
        fs::write(folder.path("new"), bytes).unwrap();
        fs::rename(folder.path("new"), folder.path("tiny.skip")).unwrap();
    };
    replace(&tiny(1));
    // Every request on the way is answered, by the one or the other.
    wait_for("the new file takes over", || scores(&mut client) != first);
    let second = scores(&mut client);
    let mut broken = tiny(2);
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    replace(&broken);
    let reason = |client: &mut Client| {
        client.get("/v2/repository/index").ok()[0]["reason"].as_str().unwrap().to_owned()
    };
    wait_for("the broken file is refused", || reason(&mut client).contains("the old one goes on"));
    assert_eq!(scores(&mut client), second);
    replace(&tiny(0));
    wait_for("the good file takes over", || scores(&mut client) == first);
    assert_eq!(reason(&mut client), "");
    let metrics = client.get("/metrics").text();
    assert!(metrics.contains(r#"model_reloads_total{model="tiny",outcome="refused"} 1"#));
    server.stop().unwrap();
}

#[test]
fn a_repository_serves_what_is_in_it() {
    let folder = Folder::new("repository");
    let mut settings = settings(&folder);
    settings.sources.models.clear();
    settings.sources.repository = Some(folder.0.clone());
    for version in ["2", "10"] {
        fs::create_dir_all(folder.path("other").join(version)).unwrap();
        fs::write(folder.path("other").join(version).join("model.skip"), tiny(3)).unwrap();
    }
    let server = Running::start(settings);
    let mut client = server.client();
    assert_eq!(client.get("/v2/models/other").ok()["versions"][0], "10");
    client.get("/v2/models/tiny").ok();
    fs::write(folder.path("new"), tiny(4)).unwrap();
    fs::rename(folder.path("new"), folder.path("late.skip")).unwrap();
    wait_for("a new model", || client.get("/v2/models/late/ready").status == 200);
    fs::remove_file(folder.path("late.skip")).unwrap();
    wait_for("a dropped model", || client.get("/v2/models/late/ready").status == 404);
    server.stop().unwrap();
}

#[test]
fn a_model_that_cannot_be_served_ends_the_start() {
    let folder = Folder::new("no-start");
    let mut settings = settings(&folder);
    fs::write(folder.path("tiny.skip"), b"no model").unwrap();
    let error = Running::start_unready(settings.clone()).stop_by_itself().unwrap_err();
    assert!(format!("{error:#}").contains("tiny.skip"), "{error:#}");
    settings.sources.models = vec![("gone".to_owned(), Source::File(folder.path("gone.skip")))];
    let error = Running::start_unready(settings).stop_by_itself().unwrap_err();
    assert!(format!("{error:#}").contains("gone.skip"), "{error:#}");
}

#[test]
fn stopping_answers_what_was_accepted() {
    let folder = Folder::new("drain");
    let mut settings = settings(&folder);
    settings.drain_delay = Duration::from_secs(3);
    let mut server = Running::start(settings);
    let address = server.address;
    let photo = image("420.jpg");
    let told = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = 0;
                    // As a balancer does: new requests until the server is seen to be not ready.
                    while !told.load(Ordering::SeqCst) {
                        let answer = Client::new(address).post("/v1/classify", &photo);
                        assert!([200, 503].contains(&answer.status), "{}", answer.text());
                        answers += 1;
                    }
                    answers
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100));
        server.begin_stop();
        wait_for("not ready", || Client::new(address).get("/v2/health/ready").status == 503);
        let answer = Client::new(address).post("/v1/classify", &photo);
        assert_eq!(answer.headers["connection"], "close");
        told.store(true, Ordering::SeqCst);
        for thread in load {
            assert!(thread.join().expect("no request was lost") > 0);
        }
    });
    server.stop().unwrap();
}

#[test]
fn stopping_answers_who_has_just_connected() {
    let folder = Folder::new("just-connected");
    let mut settings = settings(&folder);
    settings.drain_delay = Duration::ZERO;
    let mut server = Running::start(settings);
    let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    let mut silent = server.client();
    server.begin_stop();
    wait_for("the port closes", || TcpStream::connect(server.address).is_err());
    for client in &mut clients {
        let answer = client.get("/v2/health/live");
        assert_eq!((answer.status, answer.headers["connection"].as_str()), (200, "close"));
    }
    assert!(silent.is_closed_within(common::PATIENCE), "a silent connection stayed open");
    server.stop().unwrap();
}
