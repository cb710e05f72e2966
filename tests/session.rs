//! Promises of a session: what many callers get at once is what each would get alone, to the bit, from
//! any kind of tensor; requests are refused, expire and end as documented; waiting costs nothing.
#![cfg(feature = "import")]

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use common::{Rng, bits, executor, packed, synth_network};
use skipstone::format::PackOptions;
use skipstone::session::{Elements, ImageOrder, Tensor};
use skipstone::{ErrorKind, Hint, Model, Recipe, Session, TensorView};

const IMAGES: usize = 12;

/// Random images, and what each gives by itself.
fn cases(model: &Model) -> (Vec<f32>, Vec<f32>) {
    let mut single = executor(model, 1, 1);
    let len: usize = single.input_dims(0).iter().product();
    let inputs = Rng(11).vec(IMAGES * len);
    let mut logits = vec![];
    for image in inputs.chunks(len) {
        single.run(&[image]).expect("runs");
        logits.extend_from_slice(single.output(0));
    }
    (inputs, logits)
}

fn sessions(model: &Model) -> Vec<Session> {
    let builder = || Session::builder(model);
    let ms = Duration::from_millis(1);
    [
        builder().threads(1),
        builder().threads(2).warm_up(true),
        builder().hint(Hint::Throughput).threads(3).warm_up(true),
        builder().streams(2).threads(2).max_batch(5).max_delay(ms),
    ]
    .map(|builder| builder.build().expect("the session starts"))
    .into()
}

#[test]
fn many_callers_get_the_bits_of_runs_alone() {
    for arch in ["tiny_resnet", "tiny_preact"] {
        let model = packed(&synth_network(arch));
        let (inputs, logits) = cases(&model);
        let (len, classes) = (inputs.len() / IMAGES, logits.len() / IMAGES);
        for session in sessions(&model) {
            thread::scope(|scope| {
                for caller in 0..4 {
                    let (session, inputs, logits) = (&session, &inputs, &logits);
                    scope.spawn(move || {
                        for round in 0..20 {
                            let first = (caller * 5 + round * 7) % IMAGES;
                            let n = (1 + (caller + round) % 7).min(IMAGES - first);
                            let input = &inputs[first * len..(first + n) * len];
                            let mut output = vec![0.0; n * classes];
                            session
                                .run(&[TensorView::f32(input)], &mut [&mut output], None)
                                .expect("runs");
                            let expected = &logits[first * classes..(first + n) * classes];
                            assert_eq!(bits(&output), bits(expected), "{arch}, {n} from {first}");
                        }
                    });
                }
            });
            let stats = session.stats();
            assert_eq!((stats.accepted, stats.rejected, stats.failed_executions), (80, 0, 0));
            let by_size: u64 = stats.batches.iter().map(|(size, n)| *size as u64 * n).sum();
            assert_eq!((by_size, stats.queued_images), (stats.images, 0));
        }
    }
}

#[test]
fn bytes_and_both_orders_are_the_same_image() {
    let network = synth_network("tiny_resnet");
    let recipe = Recipe { resize: None, crop: Some([32, 32]), ..Recipe::imagenet() };
    let options = PackOptions { recipe: Some(recipe.clone()), ..Default::default() };
    let bytes = skipstone::format::to_bytes(&network, &options).expect("packs");
    let model = Model::from_bytes(&bytes).expect("opens");
    let session =
        Session::builder(&model).threads(2).max_batch(2).build().expect("the session starts");
    let shape = session.inputs()[0].shape;
    let (images, pixels) = (3, shape.h * shape.w);
    let mut rng = Rng(5);
    let hwc: Vec<u8> = (0..images * shape.len()).map(|_| rng.next() as u8).collect();
    let at = |image: usize, c: usize, p: usize| hwc[(image * pixels + p) * shape.c + c];
    let (mut chw, mut f32_chw, mut f32_hwc) = (vec![], vec![], vec![0.0; hwc.len()]);
    for image in 0..images {
        for c in 0..shape.c {
            let values = recipe.pixel_values(c);
            for p in 0..pixels {
                let byte = at(image, c, p);
                chw.push(byte);
                f32_chw.push(values[usize::from(byte)]);
                f32_hwc[(image * pixels + p) * shape.c + c] = values[usize::from(byte)];
            }
        }
    }
    let view = |elements, order| TensorView { elements, order };
    let mut expected = None;
    for tensor in [
        TensorView::f32(&f32_chw),
        view(Elements::F32(&f32_chw), ImageOrder::Chw),
        view(Elements::F32(&f32_hwc), ImageOrder::Hwc),
        view(Elements::U8(&chw), ImageOrder::Native),
        TensorView::pixels(&hwc),
    ] {
        let mut output = vec![0.0; images * session.outputs()[0].shape.len()];
        session.run(&[tensor], &mut [&mut output], None).expect("runs");
        let expected = expected.get_or_insert_with(|| bits(&output));
        assert_eq!(&bits(&output), expected, "{tensor:?}");
    }
}

#[test]
fn wrong_arguments_are_errors_that_say_what_was_expected() {
    let model = packed(&synth_network("tiny_resnet"));
    let session = Session::builder(&model).threads(1).build().expect("the session starts");
    let (image, mut logits) = (vec![0.0; 3 * 35 * 29], vec![0.0; session.outputs()[0].shape.len()]);
    let short = &image[1..];
    let image = TensorView::f32(&image);
    let bytes = vec![0; 3 * 35 * 29];
    let cases: [(&[TensorView<'_>], usize, ErrorKind, &str); 6] = [
        (&[], 1, ErrorKind::InvalidArgument, "0 inputs given, the network has 1"),
        (&[TensorView::f32(short)], 1, ErrorKind::Shape, "3044 elements, expected 3045 per image"),
        (&[TensorView::f32(&[])], 1, ErrorKind::Shape, "has 0 elements"),
        (&[TensorView::pixels(&bytes)], 1, ErrorKind::Unsupported, "no recipe"),
        (&[image], 0, ErrorKind::InvalidArgument, "0 outputs given, the network has 1"),
        (&[image], 2, ErrorKind::InvalidArgument, "2 outputs given, the network has 1"),
    ];
    for (inputs, nb_outputs, kind, message) in cases {
        let mut spare = logits.clone();
        let mut outputs = [logits.as_mut_slice(), &mut spare];
        let error = session.run(inputs, &mut outputs[..nb_outputs], None).expect_err(message);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    let error = session.run(&[image], &mut [&mut logits[1..]], None).expect_err("too short");
    assert!(error.to_string().contains("for 1 images of"), "{error}");
    session.close();
    let error = session.run(&[image], &mut [&mut logits], None).expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed);

    for builder in [
        Session::builder(&model).streams(0),
        Session::builder(&model).threads(0),
        Session::builder(&model).max_batch(5000),
        Session::builder(&model).max_queue(0),
    ] {
        assert_eq!(builder.build().expect_err("refused").kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn a_ticket_can_be_waited_for_awaited_and_dropped() {
    let model = packed(&synth_network("tiny_resnet"));
    let (inputs, logits) = cases(&model);
    let session = Session::builder(&model).threads(2).max_batch(4).build().expect("starts");
    let tensor = || vec![Tensor::f32(inputs.clone(), ImageOrder::Native)];

    let response = session.submit(tensor(), None).expect("room").wait().expect("runs");
    assert_eq!(bits(&response.outputs[0]), bits(&logits));
    assert!(response.timing.batch == 4 && response.timing.computed > Duration::ZERO);

    let response = block_on(session.submit(tensor(), None).expect("room")).expect("runs");
    assert_eq!(bits(&response.outputs[0]), bits(&logits));

    let (sender, receiver) = std::sync::mpsc::channel();
    session.submit_with(tensor(), None, move |r| sender.send(r).unwrap()).expect("room");
    let response = receiver.recv().expect("the callback is called").expect("runs");
    assert_eq!(bits(&response.outputs[0]), bits(&logits));

    for _ in 0..20 {
        drop(session.submit(tensor(), None).expect("dropped ones leave room"));
    }
    let past = Instant::now();
    let error = session.submit(tensor(), Some(past)).expect("room").wait().expect_err("expired");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let last = session.submit(tensor(), None).expect("room");
    drop(session);
    last.wait().expect("a session that is dropped finishes what it accepted");
}

/// The smallest async runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
