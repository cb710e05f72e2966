//! The C library: `skipstone.h`.
//!
//! Every call checks its pointers, stops panics, and returns a status; the text of an error is kept per
//! thread. Handles are opaque, made by `_create` or `_open` and taken by `_destroy`, which accepts
//! NULL. A handle whose call met a defect is poisoned: its later calls do nothing. Nothing global is
//! installed: no allocator, logger, signal handler, panic hook or thread pool.
//!
//! The ABI only grows: symbols stay, structures begin with their size and grow at their end, status
//! codes keep their meaning.

#![allow(non_camel_case_types, reason = "these are C's names")]

mod abi;
mod classify;
mod model;
mod options;
mod session;
mod status;

use std::ffi::{CStr, CString, c_char, c_void};

pub use abi::{
    skipstone_class, skipstone_input, skipstone_output, skipstone_stats, skipstone_tensor_info,
    skipstone_timing,
};
pub use model::*;
pub use options::*;
pub use session::*;
pub use status::*;

use status::{Failure, Handle, Outcome, guard};

/// Elements are 32-bit floats.
pub const SKIPSTONE_F32: i32 = 0;
/// Elements are bytes: pixels of the size and channel order that the model's recipe makes. Its scale,
/// mean and standard deviation are applied as the network reads them.
pub const SKIPSTONE_U8: i32 = 1;

/// The axes are those of the network's input.
pub const SKIPSTONE_NATIVE: i32 = 0;
/// Channel by channel.
pub const SKIPSTONE_NCHW: i32 = 1;
/// Pixel by pixel.
pub const SKIPSTONE_NHWC: i32 = 2;

/// The version of this interface: major * 1000 + minor.
pub const SKIPSTONE_API_VERSION: u32 = 1000;

/// The version of the library's interface: major * 1000 + minor.
#[unsafe(no_mangle)]
pub extern "C" fn skipstone_api_version() -> u32 {
    SKIPSTONE_API_VERSION
}

/// The library's version, e.g. "0.1.0"; static.
#[unsafe(no_mangle)]
pub extern "C" fn skipstone_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no NUL"),
        };
    VERSION.as_ptr()
}

/// Whether a program compiled with a header of `header_version` (SKIPSTONE_API_VERSION) can use this
/// library: the same major version, and no newer. SKIPSTONE_ERROR_VERSION if it cannot.
#[unsafe(no_mangle)]
pub extern "C" fn skipstone_check_api(header_version: u32) -> i32 {
    guard(|| {
        let library = SKIPSTONE_API_VERSION;
        if header_version / 1000 == library / 1000 && header_version <= library {
            return Ok(());
        }
        let message = format!("the header has version {header_version}, the library {library}");
        Err(Failure::new(SKIPSTONE_ERROR_VERSION, message))
    })
}

/// A string from the caller.
///
/// # Safety
/// `text` is NULL or a string that ends, and stays as it is for the call.
unsafe fn text<'a>(what: &str, text: *const c_char) -> Outcome<&'a str> {
    abi::check(what, text)?;
    // SAFETY: not NULL, so it is a string.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::invalid(format!("{what} is not UTF-8")))
}

/// Memory from the caller.
///
/// # Safety
/// `data` is NULL or valid for reads of `size` bytes as long as the slice is used.
unsafe fn bytes<'a>(what: &str, data: *const c_void, size: usize) -> Outcome<&'a [u8]> {
    abi::check(what, data.cast::<u8>())?;
    if size > isize::MAX as usize {
        return Err(Failure::invalid(format!("{what}: {size} bytes are too many")));
    }
    // SAFETY: not NULL, and valid for reads.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), size) })
}

/// Where the caller wants a result.
///
/// # Safety
/// `out` is NULL or valid for writes during the call.
unsafe fn slot<'a, T>(what: &str, out: *mut T) -> Outcome<&'a mut T> {
    abi::check(what, out)?;
    // SAFETY: not NULL, aligned, and valid for writes; every `T` used here is valid for any bytes.
    Ok(unsafe { &mut *out })
}

/// Runs the body of a call on a handle.
///
/// # Safety
/// `handle` is NULL or a handle that is not destroyed during the call.
unsafe fn with<H, T>(
    what: &str,
    handle: *const H,
    of: impl FnOnce(&H) -> &Handle<T>,
    body: impl FnOnce(&T) -> Outcome,
) -> i32 {
    if handle.is_null() {
        return status::report(Err(Failure::invalid(format!("{what} is NULL"))));
    }
    // SAFETY: not NULL, so it is a living handle.
    of(unsafe { &*handle }).guard(body)
}

/// What is behind another handle of a call.
///
/// # Safety
/// As [`with`].
unsafe fn behind<'a, H>(what: &str, handle: *const H) -> Outcome<&'a H> {
    abi::check(what, handle)?;
    // SAFETY: not NULL, so it is a living handle.
    Ok(unsafe { &*handle })
}

/// Takes a handle back.
///
/// # Safety
/// `handle` is NULL, or came from [`Box::into_raw`] and is not used again.
unsafe fn destroy<H>(handle: *mut H) {
    guard(|| {
        if !handle.is_null() {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(handle) });
        }
        Ok(())
    });
}

/// For C, where strings cannot have a NUL within.
fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}
