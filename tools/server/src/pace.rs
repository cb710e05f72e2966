//! How often HTTP threads look at the network while a model is overloaded.
//!
//! What a full queue refuses arrives one by one, and each arrival would wake a thread whose code and data a run has
//! meanwhile driven out of the caches. A thread that has refused something rests before it waits for more,
//! and then finds several requests at once, which cost it half as much each.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

/// Longest rest: what an answer, a probe's too, may be late by.
const LONGEST: Duration = Duration::from_millis(20);
/// A rest's part of the time for which streams have work: they must not run dry meanwhile.
const PART: u32 = 8;

thread_local! {
    static REST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// This thread has refused a request for a model whose streams have work for `busy`; the first one since it
/// rested says for how long it will.
pub(crate) fn refused(busy: impl FnOnce() -> Duration) {
    if REST.get().is_zero() {
        REST.set((busy() / PART).min(LONGEST));
    }
}

/// Rests, if something was refused since the last time. For a thread that has nothing more to do.
pub(crate) fn rest() {
    let rest = REST.take();
    if !rest.is_zero() {
        thread::sleep(rest);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn rested() -> Duration {
        let started = Instant::now();
        rest();
        started.elapsed()
    }

    #[test]
    fn who_has_refused_rests_once() {
        let ms = Duration::from_millis;
        refused(|| ms(80));
        refused(|| unreachable!("it is known how long this thread will rest"));
        assert!(rested() >= ms(80) / PART);
        assert!(REST.get().is_zero());
        refused(|| ms(60_000));
        assert_eq!(REST.take(), LONGEST);
        // Streams that have nothing to do are not kept waiting.
        refused(|| Duration::ZERO);
        assert!(REST.get().is_zero());
    }
}
