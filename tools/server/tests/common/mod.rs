//! A server in this process, models for it, and a client that can also misbehave.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use skipstone::format::{self, PackOptions, TestVector};
use skipstone::import::{ImportOptions, onnx, synth};
use skipstone::recipe::{ChannelOrder, Interpolation, Resize};
use skipstone::{Executor, ExecutorOptions, Model, Recipe, Runtime};
use skipstone_server::{Server, Settings, Source, Sources};
use tokio::sync::oneshot;

/// Long enough for any machine; nothing is measured with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of its own for one test, removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the folder can be made");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A tiny classifier with labels, a recipe and a self-test, packed.
pub(crate) fn tiny(seed: u64) -> Vec<u8> {
    let model = synth::synth("tiny_resnet", seed, &synth::SynthOptions::default()).unwrap();
    let mut network = onnx::network(model, None, &ImportOptions::default()).unwrap();
    skipstone::graph::fuse::fuse(&mut network).unwrap();
    let shape = network.graph.inputs[0].shape;
    let classes = network.graph.outputs[0].shape.c;
    let recipe = Recipe {
        resize: Some(Resize::Exact { height: shape.h as u32, width: shape.w as u32 }),
        interpolation: Interpolation::Bilinear,
        crop: None,
        channels: ChannelOrder::Rgb,
        scale: 1.0 / 255.0,
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
    };
    let mut options = PackOptions {
        labels: Some((0..classes).map(|i| format!("label {i}")).collect()),
        recipe: Some(recipe),
        ..PackOptions::default()
    };
    let plain = Model::from_bytes(&format::to_bytes(&network, &options).unwrap()).unwrap();
    let inputs = TestVector::inputs(3, plain.graph());
    let outputs = vec![run(&plain, &inputs[0])];
    options.test_vector = Some(TestVector { seed: 3, outputs });
    format::to_bytes(&network, &options).unwrap()
}

/// What the library computes.
pub(crate) fn run(model: &Model, input: &[f32]) -> Vec<f32> {
    let runtime = Runtime::builder().threads(1).build().unwrap();
    let mut executor = Executor::new(&runtime, model, &ExecutorOptions::default()).unwrap();
    executor.run(&[input]).unwrap();
    executor.output(0).to_vec()
}

/// Values in -1.0..1.0.
pub(crate) fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A file of `tests/images`.
pub(crate) fn image(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/images");
    fs::read(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Settings for a test: any port, one thread, no delays, and the model `tiny` in `folder`.
pub(crate) fn settings(folder: &Folder) -> Settings {
    let file = folder.path("tiny.skip");
    fs::write(&file, tiny(0)).unwrap();
    let mut settings = Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        sources: Sources {
            models: vec![("tiny".to_owned(), Source::File(file))],
            repository: None,
        },
        reload: Some(Duration::from_millis(20)),
        drain_delay: Duration::ZERO,
        ..Settings::default()
    };
    settings.execution.threads = Some(1);
    settings.limits.default_deadline = PATIENCE;
    settings
}

/// A server on a thread of this process.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Running {
    /// Starts a server and waits until it is ready.
    pub(crate) fn start(settings: Settings) -> Self {
        let running = Self::start_unready(settings);
        let started = Instant::now();
        while Client::new(running.address).get("/v2/health/ready").status != 200 {
            assert!(started.elapsed() < PATIENCE, "the server is not ready");
            thread::sleep(Duration::from_millis(5));
        }
        running
    }

    pub(crate) fn start_unready(settings: Settings) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (say, address) = std::sync::mpsc::channel();
        let serve = async move {
            let server = Server::bind(settings).await?;
            say.send(server.local_addr()?)?;
            server
                .run(async {
                    let _ = stopped.await;
                })
                .await
        };
        let thread = thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(2).enable_all().build()?.block_on(serve)
        });
        let address = address.recv().expect("the server listens");
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address)
    }

    pub(crate) fn begin_stop(&mut self) {
        let _ = self.stop.take().expect("it is stopped once").send(());
    }

    /// How a server ends that is not told to.
    pub(crate) fn stop_by_itself(mut self) -> anyhow::Result<()> {
        self.thread.take().expect("it ends once").join().expect("the server does not panic")
    }

    /// Stops the server; how it ended.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        if self.stop.is_some() {
            self.begin_stop();
        }
        self.thread.take().expect("it ends once").join().expect("the server does not panic")
    }
}

/// An HTTP/1.1 connection.
pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer as JSON, of a request that must succeed.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The message of a request that must fail so.
    pub(crate) fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()["error"].as_str().expect("an error says why").to_owned()
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        // A server that has refused may be gone already.
        let _ = self.stream.get_mut().write_all(bytes);
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n");
        if method == "POST" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        self.write(&[head.as_bytes(), body].concat());
    }

    /// The next answer; nothing if the connection ends before it is whole.
    pub(crate) fn receive(&mut self) -> Option<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = HashMap::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers.get("content-length").map_or(0, |n| n.parse().unwrap())];
        self.stream.read_exact(&mut body).ok()?;
        Some(Answer { status, headers, body })
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.send(method, path, headers, body);
        self.receive().unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, &[], &[])
    }

    pub(crate) fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.request("POST", path, &[], body.as_ref())
    }

    /// Whether the server closes the connection within `time`.
    pub(crate) fn is_closed_within(&mut self, time: Duration) -> bool {
        self.stream.get_ref().set_read_timeout(Some(time)).unwrap();
        let mut rest = vec![];
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(e) => {
                !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            }
        }
    }
}

/// A body with JSON and binary tensors, and the header that tells them apart.
pub(crate) fn binary(json: &Value, tensors: &[u8]) -> (String, Vec<u8>) {
    let json = json.to_string();
    (json.len().to_string(), [json.as_bytes(), tensors].concat())
}

/// Little-endian bytes.
pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(crate) fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}
