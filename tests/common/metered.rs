//! What an attempt costs: heap memory and processor time of the thread that makes it. What a process holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// The system's allocator, which also counts bytes, each thread's and the process's: a test's `#[global_allocator]`.
pub(crate) struct Counting;

/// Bytes that all threads hold.
static HELD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.get().saturating_add(layout.size());
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().saturating_sub(layout.size()));
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// Bytes of heap memory that this process holds. The test has [`Counting`] as its allocator.
#[allow(dead_code, reason = "each test binary uses a part")]
pub(crate) fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// The processor time of this thread, which does not grow while another process has the processor;
/// where the system does not tell, the time of day.
fn clock() -> Duration {
    let nanos = fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|stat| stat.split(' ').next()?.parse().ok());
    nanos.map_or_else(
        || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970"),
        Duration::from_nanos,
    )
}

/// Makes an attempt, and holds it to a cost. The test has [`Counting`] as its allocator.
#[track_caller]
pub(crate) fn within<T: Debug>(max_heap: usize, max_time: Duration, attempt: impl Fn() -> T) -> T {
    let mut attempts = 0;
    loop {
        let start = clock();
        let before = LIVE.get();
        PEAK.set(before);
        let result = attempt();
        let heap = PEAK.get() - before;
        let elapsed = clock().saturating_sub(start);
        assert!(heap <= max_heap, "{heap} bytes for {result:?}");
        // A busy machine has slow caches: only a slow attempt that repeats is slow.
        attempts += 1;
        if elapsed <= max_time {
            return result;
        }
        assert!(attempts < 10, "{elapsed:?} for {result:?}");
    }
}
