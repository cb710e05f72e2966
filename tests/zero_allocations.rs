//! A promise: a run allocates nothing, on any thread.
//!
//! Without the test harness, whose own thread allocates when a test takes longer than a minute. All runtimes
//! live to the end, since a thread that starts or ends may allocate.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::quantized::quantized;
use common::{executor, packed, synth_network};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let mut cases = Vec::new();
    let archs = ["tiny_resnet", "tiny_vgg", "tiny_preact", "tiny_resnext", "resnet20_cifar"];
    let int8 = quantized(&synth_network("tiny_resnet"), 127);
    let f32 = archs.map(|arch| (arch, synth_network(arch)));
    for (arch, network) in f32.into_iter().chain([("tiny_resnet in int8", int8)]) {
        let model = packed(&network);
        for threads in [1, 2, 3] {
            let executor = executor(&model, threads, 1);
            let input = vec![0.5; executor.input_dims(0).iter().product()];
            let output = vec![0.0; executor.output_dims(0).iter().product()];
            cases.push((arch, threads, executor, input, output));
        }
    }
    // A first run of each: afterwards every thread of every runtime is up.
    for (_, _, executor, input, output) in &mut cases {
        executor.run_into(&[input], &mut [output]).expect("runs");
    }
    for (arch, threads, executor, input, output) in &mut cases {
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        for _ in 0..100 {
            executor.run_into(&[input], &mut [output]).expect("runs");
        }
        let allocations = ALLOCATIONS.load(Ordering::SeqCst) - before;
        assert_eq!(allocations, 0, "{arch} on {threads} threads");
    }
    println!("a run allocates nothing: {} networks and teams ... ok", cases.len());
}
