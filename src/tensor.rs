//! Aligned memory for weights and activations.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use memmap2::MmapMut;

/// Alignment in bytes of every buffer and weight section: a cache line, and a 512-bit vector.
pub const ALIGN_BYTES: usize = 64;

/// A zero-initialised `f32` buffer aligned to [`ALIGN_BYTES`].
#[derive(Debug)]
pub struct AlignedBuf {
    ptr: NonNull<f32>,
    len: usize,
    /// What `ptr` points into, if it is not from the allocator.
    map: Option<MmapMut>,
}

/// A huge page of x86-64, and of aarch64 with pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;
/// Bytes from which on a buffer is mapped, in whole huge pages: from where it fills most of one.
const MAP_BYTES: usize = HUGE_PAGE / 2;

// SAFETY: the buffer is uniquely owned memory of plain floats, like `Box<[f32]>`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A buffer of `len` zeros. Large buffers come from the system's zero pages and cost no memory
    /// before they are touched.
    ///
    /// # Panics
    /// If `len` exceeds the address space. Without memory the process ends.
    pub fn zeroed(len: usize) -> Self {
        Self::try_zeroed(len).unwrap_or_else(|| handle_alloc_error(Self::layout(len)))
    }

    /// As [`Self::zeroed`], or `None` where there is not enough memory.
    ///
    /// # Panics
    /// If `len` exceeds the address space.
    pub fn try_zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self { ptr: NonNull::dangling(), len, map: None });
        }
        if Self::layout(len).size() >= MAP_BYTES {
            // Linux starts a mapping at a huge page only if it is whole ones.
            let bytes = Self::layout(len).size().checked_next_multiple_of(HUGE_PAGE)?;
            let mut map = MmapMut::map_anon(bytes).ok()?;
            // Fewer page faults and TLB misses; nothing is lost where it is not granted.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            let ptr = NonNull::new(map.as_mut_ptr().cast())?;
            return Some(Self { ptr, len, map: Some(map) });
        }
        // SAFETY: the layout's size is not zero.
        let ptr = unsafe { alloc_zeroed(Self::layout(len)) };
        Some(Self { ptr: NonNull::new(ptr.cast())?, len, map: None })
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[f32]) -> Self {
        let mut buf = Self::zeroed(values.len());
        buf.copy_from_slice(values);
        buf
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<f32>(len)
            .and_then(|l| l.align_to(ALIGN_BYTES))
            .expect("buffer length fits the address space")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.len > 0 && self.map.is_none() {
            // SAFETY: `ptr` came from `alloc_zeroed` with this layout.
            unsafe { dealloc(self.ptr.as_ptr().cast(), Self::layout(self.len)) };
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `ptr` is valid for `len` initialised floats (or dangling, aligned, with len 0).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}
