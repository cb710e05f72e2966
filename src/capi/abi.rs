//! Structures that cross the boundary, whose size may differ between the caller's header and this
//! library: each begins with `struct_size`, and grows only at its end.

use std::ffi::{c_char, c_void};

use super::status::{Failure, Outcome, SKIPSTONE_ERROR_VERSION};

/// A structure that begins with its size in the caller's header.
///
/// # Safety
/// The type is `repr(C)`, begins with a `u32` that holds the size, and is valid for any bytes.
pub(super) unsafe trait Sized32: Copy {
    /// Its size in the first version of this library's header: no caller has a smaller one.
    const FIRST_SIZE: usize;
}

/// One input of a run: one or more images, dense, by default in the network's own axes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct skipstone_input {
    /// sizeof(skipstone_input).
    pub struct_size: u32,
    /// SKIPSTONE_F32 or SKIPSTONE_U8.
    pub dtype: i32,
    /// SKIPSTONE_NATIVE, SKIPSTONE_NCHW or SKIPSTONE_NHWC.
    pub order: i32,
    /// 0.
    pub reserved: i32,
    /// The elements; f32 are aligned to 4 bytes.
    pub data: *const c_void,
    /// Their size in bytes: tells how many images they are.
    pub size: usize,
}

/// One output of a run: f32, dense, in the network's own axes, as many images as the inputs have.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct skipstone_output {
    /// sizeof(skipstone_output).
    pub struct_size: u32,
    /// 0.
    pub reserved: i32,
    /// Where results go.
    pub data: *mut f32,
    /// Its size in bytes.
    pub size: usize,
}

/// An input or output of a model or session.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct skipstone_tensor_info {
    /// sizeof(skipstone_tensor_info).
    pub struct_size: u32,
    /// Elements of dims that are used.
    pub rank: u32,
    /// Extents in the network's own axes, -1 for the batch.
    pub dims: [i64; 4],
    /// SKIPSTONE_NCHW, SKIPSTONE_NHWC, or SKIPSTONE_NATIVE where it is neither.
    pub order: i32,
    /// 1 if it may be fed with bytes, else 0.
    pub takes_u8: i32,
    /// Channels of one image; 1 where it has no such axis, as in the next two.
    pub channels: i64,
    /// Rows.
    pub height: i64,
    /// Columns.
    pub width: i64,
    /// Its name; lives as long as the handle that was asked.
    pub name: *const c_char,
}

/// Where a request's time went.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct skipstone_timing {
    /// sizeof(skipstone_timing).
    pub struct_size: u32,
    /// Images in the largest batch with an image of the request, other requests' included.
    pub batch: u32,
    /// From the call to the first run with an image of the request.
    pub queued_ns: u64,
    /// From then to the end of the last.
    pub computed_ns: u64,
}

/// One class of an image.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct skipstone_class {
    /// sizeof(skipstone_class).
    pub struct_size: u32,
    /// Its number.
    pub index: u32,
    /// Its probability.
    pub score: f32,
    /// 0.
    pub reserved: i32,
    /// Its name, or NULL if the model has none; lives as long as the session.
    pub label: *const c_char,
}

/// What a session has done since it was created.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct skipstone_stats {
    /// sizeof(skipstone_stats).
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Requests that were queued.
    pub accepted: u64,
    /// Requests that were refused: the queue was full, or the session closed.
    pub rejected: u64,
    /// Requests whose deadline passed in the queue.
    pub expired: u64,
    /// Requests that were withdrawn.
    pub cancelled: u64,
    /// Batches that ran.
    pub executions: u64,
    /// Images in them.
    pub images: u64,
    /// Batches that failed.
    pub failed_executions: u64,
    /// Time spent in runs, all streams together.
    pub computed_ns: u64,
    /// Images that wait now.
    pub queued_images: u64,
    /// Images in batches that run now.
    pub running_images: u64,
}

/// Implements [`Sized32`] where the first version of a structure is the present one.
macro_rules! first_version {
    ($($name:ident)*) => {
        $(
            // SAFETY: declared above: `repr(C)`, the size first, then integers, floats and pointers.
            unsafe impl Sized32 for $name {
                const FIRST_SIZE: usize = size_of::<Self>();
            }
        )*
    };
}
first_version!(skipstone_input skipstone_output skipstone_tensor_info skipstone_timing
    skipstone_class skipstone_stats);

/// The size that the caller's header gives to `*at`.
///
/// # Safety
/// `at` is NULL, or points to a structure that begins with its size.
unsafe fn size_at<T: Sized32>(what: &str, at: *const T) -> Outcome<usize> {
    check(what, at)?;
    // SAFETY: it is not NULL, and begins with its size.
    let size = unsafe { *at.cast::<u32>() } as usize;
    if size < T::FIRST_SIZE {
        return Err(Failure::invalid(format!(
            "{what}: struct_size is {size}, expected at least {}",
            T::FIRST_SIZE
        )));
    }
    Ok(size)
}

/// Checks that a pointer is neither NULL nor misaligned.
pub(super) fn check<T>(what: &str, at: *const T) -> Outcome {
    if at.is_null() {
        return Err(Failure::invalid(format!("{what} is NULL")));
    }
    if !at.is_aligned() {
        return Err(Failure::invalid(format!("{what} is not aligned to {}", align_of::<T>())));
    }
    Ok(())
}

/// `count` structures from the caller. Those of a newer header are fine as long as what this library
/// does not know is zero.
///
/// # Safety
/// `first` is NULL, or points to `count` structures of the size that the first one says.
pub(super) unsafe fn read_array<T: Sized32>(
    what: &str,
    first: *const T,
    count: usize,
) -> Outcome<Vec<T>> {
    if count == 0 {
        return Ok(vec![]);
    }
    // SAFETY: the caller's promise.
    let size = unsafe { size_at(what, first) }?;
    let read = |i: usize| {
        let at = first.wrapping_byte_add(i * size);
        // SAFETY: within the caller's array; each begins with its size, which is checked.
        if unsafe { size_at(what, at) }? != size {
            return Err(Failure::invalid(format!("{what}: struct_size differs")));
        }
        let known = size_of::<T>().min(size);
        // SAFETY: the array's elements have `size` bytes.
        let rest = unsafe {
            std::slice::from_raw_parts(at.cast::<u8>().wrapping_add(known), size - known)
        };
        if rest.iter().any(|byte| *byte != 0) {
            let message = format!("{what} uses fields of a newer header than this library");
            return Err(Failure::new(SKIPSTONE_ERROR_VERSION, message));
        }
        // SAFETY: any bytes are a valid `T`, zeros too; `known` bytes are readable.
        unsafe {
            let mut value = std::mem::zeroed::<T>();
            (&raw mut value).cast::<u8>().copy_from_nonoverlapping(at.cast(), known);
            Ok(value)
        }
    };
    (0..count).map(read).collect()
}

/// Writes `values` to the caller's array, whose elements have the size that the first one says; it
/// stays what it is.
///
/// # Safety
/// `first` is NULL, or points to as many structures as `values` has, of the size that the first one
/// says.
pub(super) unsafe fn write_array<T: Sized32>(what: &str, first: *mut T, values: &[T]) -> Outcome {
    if values.is_empty() {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let size = unsafe { size_at(what, first) }?;
    for (i, value) in values.iter().enumerate() {
        let at = first.wrapping_byte_add(i * size).cast::<u8>();
        let known = size_of::<T>().min(size);
        // SAFETY: within the caller's array; any bytes are a valid `T`.
        unsafe {
            at.copy_from_nonoverlapping((&raw const *value).cast(), known);
            at.add(known).write_bytes(0, size - known);
            at.cast::<u32>().write_unaligned(size as u32);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    struct Newer {
        known: skipstone_timing,
        more: u64,
    }

    fn newer(batch: u32, more: u64) -> Newer {
        let struct_size = size_of::<Newer>() as u32;
        let known = skipstone_timing { struct_size, batch, queued_ns: 1, computed_ns: 2 };
        Newer { known, more }
    }

    #[test]
    fn structures_of_other_headers_are_understood_or_refused() {
        let two = [newer(7, 0), newer(8, 0)];
        // SAFETY: two structures that say their size.
        let read = unsafe { read_array("timing", &raw const two[0].known, 2) }.expect("known");
        assert_eq!(read.iter().map(|t| t.batch).collect::<Vec<_>>(), [7, 8]);

        let unknown = newer(7, 9);
        // SAFETY: one structure that says its size.
        let refused = unsafe { read_array("timing", &raw const unknown.known, 1) }.err();
        assert_eq!(refused.expect("unknown").code, SKIPSTONE_ERROR_VERSION);

        let mut small = newer(7, 0);
        small.known.struct_size = 3;
        // SAFETY: as above.
        let refused = unsafe { read_array("timing", &raw const small.known, 1) }.err();
        assert!(
            refused.expect("too small").message.contains("struct_size is 3, expected at least")
        );
    }

    #[test]
    fn what_an_older_library_does_not_know_is_zero() {
        let mut two = [newer(0, 5), newer(0, 5)];
        let values = [1, 2].map(|batch| newer(batch, 0).known);
        // SAFETY: two structures that say their size.
        unsafe { write_array("timing", &raw mut two[0].known, &values) }.expect("written");
        assert_eq!(
            two.map(|t| (t.known.struct_size, t.known.batch, t.more)),
            [(32, 1, 0), (32, 2, 0)]
        );
    }
}
