//! A promise: a session that has nothing to do costs nothing.
#![cfg(all(feature = "import", unix))]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::{packed, synth_network};
use skipstone::{Hint, Session, TensorView};

/// The only test of this binary: another one's work would count here.
#[test]
fn an_idle_session_uses_no_cpu() {
    let model = packed(&synth_network("tiny_resnet"));
    for hint in Hint::ALL {
        let session = Session::builder(&model).hint(hint).threads(3).max_batch(2).build();
        let session = session.expect("the session starts");
        let image = vec![0.0; session.inputs()[0].shape.len()];
        let mut logits = vec![0.0; session.outputs()[0].shape.len()];
        // The clock has an alarm that rings before it counts.
        let soon = Some(Instant::now() + Duration::from_millis(500));
        // On a busy machine it may ring for this request.
        let _ = session.run(&[TensorView::f32(&image)], &mut [&mut logits], soon);
        thread::sleep(Duration::from_millis(600));
        let used_in_a_second = || {
            let before = cpu_time();
            thread::sleep(Duration::from_secs(1));
            cpu_time() - before
        };
        // On a busy machine the alarm may ring, or a worker rest, later than that; who polls does so every second.
        let few = Duration::from_millis(10);
        let busy = (0..5).map(|_| used_in_a_second()).take_while(|used| *used > few);
        let busy: Vec<Duration> = busy.collect();
        assert!(busy.len() < 5, "{hint}: {busy:?} of a second each");
    }
}

/// What all threads of this process have used.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time to a local.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
