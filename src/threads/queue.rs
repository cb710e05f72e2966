//! A member's units of work: it takes them from the front; who has none left takes from the back.

use std::ops::Range;

use crate::sync::{AtomicU64, Ordering};

/// The units of one member that nobody has taken: `start` in the lower half, `end` in the upper one. In a cache line of
/// its own, which stays with its member until others are done.
///
/// A unit is taken once. What is computed passes from member to member at barriers alone, so no order is needed here.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Queue(AtomicU64);

impl Queue {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Makes it `0..units`. A barrier is to follow before anyone takes any.
    pub(crate) fn fill(&self, units: usize) {
        self.0.store(pack(0, units as u64), Ordering::Relaxed);
    }

    /// How many units are left.
    pub(crate) fn len(&self) -> usize {
        let (start, end) = unpack(self.0.load(Ordering::Relaxed));
        (end - start) as usize
    }

    /// Takes the first quarter, at least a unit: few turns, of which the last ones are short. (An atomic update waits
    /// for all that its core has stored before.)
    pub(crate) fn take(&self) -> Option<Range<usize>> {
        let upto = |start: u64, end: u64| start + (end - start).div_ceil(4);
        let (start, end) = self.update(|start, end| (upto(start, end), end))?;
        Some(start as usize..upto(start, end) as usize)
    }

    /// Takes the last `row` of units, counted from 0, as far as it is left; half of it if nothing else is.
    pub(crate) fn take_back(&self, row: usize) -> Option<Range<usize>> {
        let from = |start: u64, end: u64| {
            let last = (end - 1) / row as u64 * row as u64;
            if start < last { last } else { start + (end - start) / 2 }
        };
        let (start, end) = self.update(|start, end| (start, from(start, end)))?;
        Some(from(start, end) as usize..end as usize)
    }

    /// Unless it is empty, sets what `next` makes of start and end; returns what they were.
    fn update(&self, next: impl Fn(u64, u64) -> (u64, u64)) -> Option<(u64, u64)> {
        let set = |value| {
            let (start, end) = unpack(value);
            (start < end).then(|| {
                let (start, end) = next(start, end);
                pack(start, end)
            })
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set).ok().map(unpack)
    }
}

fn pack(start: u64, end: u64) -> u64 {
    end << 32 | start
}

fn unpack(value: u64) -> (u64, u64) {
    (value & u64::from(u32::MAX), value >> 32)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_from_the_back_and_the_last_one_by_halves() {
        let queue = Queue::new();
        assert_eq!((queue.len(), queue.take(), queue.take_back(4)), (0, None, None));
        queue.fill(12);
        assert_eq!(queue.take_back(4), Some(8..12));
        assert_eq!(queue.take(), Some(0..2));
        assert_eq!(queue.take(), Some(2..4));
        assert_eq!(queue.take_back(4), Some(6..8));
        assert_eq!(queue.take_back(4), Some(5..6));
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.take(), Some(4..5));
        assert_eq!((queue.len(), queue.take(), queue.take_back(4)), (0, None, None));
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;

    use super::*;

    #[test]
    fn each_unit_is_taken_once() {
        loom::model(|| {
            let queue = Arc::new(Queue::new());
            queue.fill(4);
            let other = {
                let queue = Arc::clone(&queue);
                loom::thread::spawn(move || {
                    let units = std::iter::from_fn(|| queue.take_back(2));
                    units.flatten().collect::<Vec<_>>()
                })
            };
            let mut units: Vec<_> = std::iter::from_fn(|| queue.take()).flatten().collect();
            units.extend(other.join().expect("no panic"));
            units.sort_unstable();
            assert_eq!(units, [0, 1, 2, 3]);
        });
    }
}
