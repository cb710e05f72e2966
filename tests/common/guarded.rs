//! Buffers at the edge of accessible memory: an element too far is a fault, not a wrong number.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Where a buffer touches a page that cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Its last element is the last before such a page.
    Ends,
    /// Its first element is the first after such a page.
    Starts,
}

impl Placement {
    pub(crate) const ALL: [Self; 2] = [Self::Ends, Self::Starts];

    /// A copy of `data` in this place.
    pub(crate) fn copy<T: Copy>(self, data: &[T]) -> Guarded<T> {
        Guarded::new(self, data.len(), |i| data[i])
    }

    /// `len` times `fill` in this place.
    pub(crate) fn filled<T: Copy>(self, len: usize, fill: T) -> Guarded<T> {
        Guarded::new(self, len, |_| fill)
    }
}

/// A slice with an inaccessible page before and after the pages that hold it.
///
/// Its elements are as aligned as their type asks if its length in bytes is.
pub(crate) struct Guarded<T> {
    map: NonNull<u8>,
    map_len: usize,
    first: NonNull<T>,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    fn new(placement: Placement, len: usize, element: impl Fn(usize) -> T) -> Self {
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let bytes = len * size_of::<T>();
        let inner = bytes.next_multiple_of(page).max(page);
        let map_len = inner + 2 * page;
        let (none, flags) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, at no given address.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), map_len, none, flags, -1, 0) };
        assert_ne!(map, libc::MAP_FAILED, "no memory for {map_len} bytes");
        let map = NonNull::new(map.cast::<u8>()).expect("a mapping is not at 0");
        let offset = match placement {
            Placement::Ends => page + inner - bytes,
            Placement::Starts => page,
        };
        // SAFETY: the pages between the first and the last are part of the mapping; so is `offset`.
        let first = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let failed = libc::mprotect(map.add(page).as_ptr().cast(), inner, access);
            assert_eq!(failed, 0, "pages can be opened");
            map.add(offset).cast::<T>()
        };
        assert!(first.is_aligned(), "a length in bytes that keeps the alignment");
        for i in 0..len {
            // SAFETY: `len` elements from `first` on are writable.
            unsafe { first.add(i).write(element(i)) };
        }
        Self { map, map_len, first, len }
    }
}

impl<T> Deref for Guarded<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements, written by `new`, which `self` owns.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nothing refers to any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}
