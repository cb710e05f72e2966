//! What waits to be run: first in, first out, image by image. Data only; the time is an argument.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Requests that are not wholly taken yet.
pub(super) struct Queue<T> {
    entries: VecDeque<Entry<T>>,
    /// Images in `entries`.
    images: usize,
    capacity: usize,
    max_delay: Duration,
}

struct Entry<T> {
    request: T,
    /// Its images that are still here.
    images: Range<usize>,
    deadline: Option<Instant>,
    /// When to stop waiting for more company.
    ready: Instant,
}

/// Images of a request that leave the queue together.
#[derive(Debug, PartialEq)]
pub(super) struct Share<T> {
    pub(super) request: T,
    pub(super) images: Range<usize>,
}

impl<T: Clone + PartialEq> Queue<T> {
    pub(super) fn new(capacity: usize, max_delay: Duration) -> Self {
        Self { entries: VecDeque::new(), images: 0, capacity, max_delay }
    }

    /// Images that wait.
    pub(super) fn images(&self) -> usize {
        self.images
    }

    /// Appends a request, or gives it back: there is no room. An empty queue has room for any request.
    pub(super) fn push(
        &mut self,
        request: T,
        images: usize,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Result<(), T> {
        if self.images > 0 && self.images + images > self.capacity {
            return Err(request);
        }
        let full = now + self.max_delay;
        // Who cannot wait that long does not wait at all.
        let ready = if deadline.is_some_and(|d| d <= full) { now } else { full };
        self.entries.push_back(Entry { request, images: 0..images, deadline, ready });
        self.images += images;
        Ok(())
    }

    /// Removes the first `count` images, or all where there are fewer.
    pub(super) fn take(&mut self, count: usize) -> Vec<Share<T>> {
        let mut shares = vec![];
        let mut left = count.min(self.images);
        self.images -= left;
        while left > 0 {
            let Some(entry) = self.entries.front_mut() else { break };
            let end = entry.images.end.min(entry.images.start + left);
            let images = entry.images.start..end;
            left -= images.len();
            entry.images.start = end;
            let request = entry.request.clone();
            if entry.images.is_empty() {
                self.entries.pop_front();
            }
            shares.push(Share { request, images });
        }
        shares
    }

    /// Removes what `leaves` says, by request and deadline.
    fn remove(&mut self, leaves: impl Fn(&T, Option<Instant>) -> bool) -> Vec<Share<T>> {
        let mut removed = vec![];
        self.entries.retain(|entry| {
            let leaves = leaves(&entry.request, entry.deadline);
            if leaves {
                let (request, images) = (entry.request.clone(), entry.images.clone());
                removed.push(Share { request, images });
            }
            !leaves
        });
        self.images -= removed.iter().map(|share| share.images.len()).sum::<usize>();
        removed
    }

    /// Removes what has waited past its deadline.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Share<T>> {
        if self.next_deadline().is_none_or(|deadline| deadline > now) {
            return vec![];
        }
        self.remove(|_, deadline| deadline.is_some_and(|d| d <= now))
    }

    /// Removes one request, if any of it is still here.
    pub(super) fn cancel(&mut self, request: &T) -> Option<Share<T>> {
        self.remove(|other, _| other == request).pop()
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) -> Vec<Share<T>> {
        self.remove(|_, _| true)
    }

    /// The first deadline of all requests.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.deadline).min()
    }

    /// When some request no longer waits for company; `None` if there is none.
    pub(super) fn ready(&self) -> Option<Instant> {
        self.entries.iter().map(|entry| entry.ready).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn share(request: char, images: Range<usize>) -> Share<char> {
        Share { request, images }
    }

    #[test]
    fn images_leave_in_order_and_requests_are_split() {
        let (mut queue, now) = (Queue::new(9, MS), Instant::now());
        for (request, images) in [('a', 2), ('b', 5), ('c', 1)] {
            queue.push(request, images, None, now).expect("there is room");
        }
        assert_eq!(queue.take(3), [share('a', 0..2), share('b', 0..1)]);
        assert_eq!(queue.take(2), [share('b', 1..3)]);
        assert_eq!(queue.images(), 3);
        assert_eq!(queue.take(9), [share('b', 3..5), share('c', 0..1)]);
        assert_eq!((queue.take(1), queue.images(), queue.ready()), (vec![], 0, None));
    }

    #[test]
    fn a_full_queue_gives_requests_back() {
        let (mut queue, now) = (Queue::new(4, MS), Instant::now());
        assert_eq!(queue.push('a', 3, None, now), Ok(()));
        assert_eq!(queue.push('b', 2, None, now), Err('b'));
        assert_eq!(queue.push('c', 1, None, now), Ok(()));
        assert_eq!(queue.push('d', 1, None, now), Err('d'));
        queue.clear();
        // Larger than the queue, but alone.
        assert_eq!(queue.push('e', 50, None, now), Ok(()));
        assert_eq!(queue.push('f', 1, None, now), Err('f'));
    }

    #[test]
    fn what_has_expired_leaves_at_its_deadline() {
        let (mut queue, now) = (Queue::new(9, MS), Instant::now());
        for (request, images, ms) in [('a', 1, 5), ('b', 3, 2), ('c', 1, 9)] {
            queue.push(request, images, Some(now + ms * MS), now).expect("there is room");
        }
        assert_eq!(queue.next_deadline(), Some(now + 2 * MS));
        assert_eq!(queue.expire(now + MS), []);
        // Part of a request has left to be run; the rest has not.
        queue.take(2);
        assert_eq!(queue.expire(now + 2 * MS), [share('b', 1..3)]);
        assert_eq!(queue.images(), 1);
        assert_eq!(queue.cancel(&'c'), Some(share('c', 0..1)));
        assert_eq!((queue.cancel(&'c'), queue.images()), (None, 0));
    }

    #[test]
    fn nobody_waits_for_company_past_a_deadline() {
        let (mut queue, now) = (Queue::new(9, 3 * MS), Instant::now());
        queue.push('a', 1, Some(now + 50 * MS), now).expect("there is room");
        assert_eq!(queue.ready(), Some(now + 3 * MS));
        queue.push('b', 1, Some(now + 2 * MS), now + MS).expect("there is room");
        assert_eq!(queue.ready(), Some(now + MS));
    }
}
