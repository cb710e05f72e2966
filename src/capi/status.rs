//! Status codes, the error text of each thread, and the place where panics stop.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind};

/// Success.
pub const SKIPSTONE_OK: i32 = 0;
/// An argument is outside what the call accepts: NULL, out of range, an unknown key.
pub const SKIPSTONE_ERROR_INVALID_ARGUMENT: i32 = -1;
/// A file does not exist or cannot be read.
pub const SKIPSTONE_ERROR_IO: i32 = -2;
/// Not a packed model, or not an image; or damaged.
pub const SKIPSTONE_ERROR_FORMAT: i32 = -3;
/// Stored bytes do not match their checksum.
pub const SKIPSTONE_ERROR_CHECKSUM: i32 = -4;
/// The network, or the request, needs something that is not supported.
pub const SKIPSTONE_ERROR_UNSUPPORTED: i32 = -5;
/// A tensor's size does not fit where it is used.
pub const SKIPSTONE_ERROR_SHAPE: i32 = -6;
/// There is not enough memory.
pub const SKIPSTONE_ERROR_NO_MEMORY: i32 = -7;
/// The deadline passed before the work began.
pub const SKIPSTONE_ERROR_TIMEOUT: i32 = -8;
/// The queue has no room: try again later.
pub const SKIPSTONE_ERROR_QUEUE_FULL: i32 = -9;
/// The session is closed, or the request was withdrawn.
pub const SKIPSTONE_ERROR_CLOSED: i32 = -10;
/// The file's version, the header's version, or a structure's size is one this library does not know.
pub const SKIPSTONE_ERROR_VERSION: i32 = -11;
/// The process was forked: open models and create sessions in the child.
pub const SKIPSTONE_ERROR_FORKED: i32 = -12;
/// An earlier call on this handle met a defect; only destroy it.
pub const SKIPSTONE_ERROR_POISONED: i32 = -13;
/// A defect of this library.
pub const SKIPSTONE_ERROR_INTERNAL: i32 = -14;
/// Results differ from the reference they are held against.
pub const SKIPSTONE_ERROR_MISMATCH: i32 = -15;

/// All codes, by name.
const NAMES: &[(i32, &CStr)] = &[
    (SKIPSTONE_OK, c"ok"),
    (SKIPSTONE_ERROR_INVALID_ARGUMENT, c"invalid argument"),
    (SKIPSTONE_ERROR_IO, c"input/output error"),
    (SKIPSTONE_ERROR_FORMAT, c"bad format"),
    (SKIPSTONE_ERROR_CHECKSUM, c"bad checksum"),
    (SKIPSTONE_ERROR_UNSUPPORTED, c"unsupported"),
    (SKIPSTONE_ERROR_SHAPE, c"wrong shape"),
    (SKIPSTONE_ERROR_NO_MEMORY, c"out of memory"),
    (SKIPSTONE_ERROR_TIMEOUT, c"deadline passed"),
    (SKIPSTONE_ERROR_QUEUE_FULL, c"queue full"),
    (SKIPSTONE_ERROR_CLOSED, c"closed"),
    (SKIPSTONE_ERROR_VERSION, c"unknown version"),
    (SKIPSTONE_ERROR_FORKED, c"forked"),
    (SKIPSTONE_ERROR_POISONED, c"poisoned handle"),
    (SKIPSTONE_ERROR_INTERNAL, c"internal error"),
    (SKIPSTONE_ERROR_MISMATCH, c"mismatch"),
];

/// A code and what to tell the user.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: i32,
    pub(super) message: String,
}

pub(super) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(SKIPSTONE_ERROR_INVALID_ARGUMENT, message)
    }

    fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("no message");
        Self::new(SKIPSTONE_ERROR_INTERNAL, format!("a defect of skipstone: {text}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::InvalidArgument => SKIPSTONE_ERROR_INVALID_ARGUMENT,
            ErrorKind::Io => SKIPSTONE_ERROR_IO,
            ErrorKind::Format => SKIPSTONE_ERROR_FORMAT,
            ErrorKind::Checksum => SKIPSTONE_ERROR_CHECKSUM,
            ErrorKind::Version => SKIPSTONE_ERROR_VERSION,
            ErrorKind::Unsupported => SKIPSTONE_ERROR_UNSUPPORTED,
            ErrorKind::Shape => SKIPSTONE_ERROR_SHAPE,
            ErrorKind::NoMemory => SKIPSTONE_ERROR_NO_MEMORY,
            ErrorKind::Mismatch => SKIPSTONE_ERROR_MISMATCH,
            ErrorKind::QueueFull => SKIPSTONE_ERROR_QUEUE_FULL,
            ErrorKind::Timeout => SKIPSTONE_ERROR_TIMEOUT,
            ErrorKind::Closed => SKIPSTONE_ERROR_CLOSED,
            ErrorKind::Forked => SKIPSTONE_ERROR_FORKED,
            ErrorKind::Internal => SKIPSTONE_ERROR_INTERNAL,
        };
        Self::new(code, error.to_string())
    }
}

thread_local! {
    /// Text of the last error of this thread, without NULs.
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the text for [`skipstone_last_error`]; returns the code.
pub(super) fn report(outcome: Outcome) -> i32 {
    let Err(Failure { code, message }) = outcome else { return SKIPSTONE_OK };
    // A thread that is ending has no text any more.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = message.replace('\0', "\u{fffd}"));
    code
}

/// Runs the body of a call that has no handle. A panic becomes an error.
pub(super) fn guard(body: impl FnOnce() -> Outcome) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(body));
    report(outcome.unwrap_or_else(|panic| Err(Failure::of_panic(panic.as_ref()))))
}

/// What is behind a handle of C.
#[derive(Debug, Default)]
pub(super) struct Handle<T> {
    poisoned: AtomicBool,
    pub(super) inner: T,
}

impl<T> Handle<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { poisoned: AtomicBool::new(false), inner }
    }

    /// Runs the body of a call on this handle. A panic becomes an error, and no later call does
    /// anything.
    pub(super) fn guard(&self, body: impl FnOnce(&T) -> Outcome) -> i32 {
        if self.poisoned.load(Ordering::SeqCst) {
            let message = "an earlier call on this handle met a defect";
            return report(Err(Failure::new(SKIPSTONE_ERROR_POISONED, message)));
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| body(&self.inner)));
        report(outcome.unwrap_or_else(|panic| {
            self.poisoned.store(true, Ordering::SeqCst);
            Err(Failure::of_panic(panic.as_ref()))
        }))
    }
}

/// Copies the text of this thread's last error to `buffer`, cut to `size` bytes with its NUL. Returns
/// the size of the whole text with its NUL, so that `skipstone_last_error(NULL, 0)` tells how much
/// room it needs; 1 if there was no error. A call that succeeds leaves the text alone.
///
/// # Safety
/// `buffer` is NULL or valid for writes of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_last_error(buffer: *mut c_char, size: usize) -> usize {
    let copy = |last: &RefCell<String>| {
        let Ok(last) = last.try_borrow() else { return 1 };
        let len = last.len().min(size.saturating_sub(1));
        if !buffer.is_null() && size > 0 {
            // SAFETY: `len + 1 <= size`, which the caller vouches for; the text is elsewhere.
            unsafe {
                buffer.copy_from_nonoverlapping(last.as_ptr().cast(), len);
                *buffer.add(len) = 0;
            }
        }
        last.len() + 1
    };
    LAST_ERROR.try_with(copy).unwrap_or(1)
}

/// The name of a status, e.g. "queue full"; never NULL, static.
#[unsafe(no_mangle)]
pub extern "C" fn skipstone_status_name(status: i32) -> *const c_char {
    let name = NAMES.iter().find(|(code, _)| *code == status);
    name.map_or(c"unknown status", |(_, name)| name).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_error() -> String {
        // SAFETY: the buffer has the size it says.
        let needed = unsafe { skipstone_last_error(std::ptr::null_mut(), 0) };
        let mut buffer = vec![0u8; needed];
        // SAFETY: as above.
        unsafe { skipstone_last_error(buffer.as_mut_ptr().cast(), needed) };
        CStr::from_bytes_until_nul(&buffer).expect("ends").to_str().expect("UTF-8").to_owned()
    }

    #[test]
    fn a_panic_is_a_code_and_poisons_its_handle_alone() {
        let (culprit, bystander) = (Handle::new(1), Handle::new(2));
        assert_eq!(culprit.guard(|n| if *n == 1 { Ok(()) } else { panic!() }), SKIPSTONE_OK);
        assert_eq!(culprit.guard(|_| panic!("on purpose")), SKIPSTONE_ERROR_INTERNAL);
        assert_eq!(last_error(), "a defect of skipstone: on purpose");
        assert_eq!(culprit.guard(|_| Ok(())), SKIPSTONE_ERROR_POISONED);
        assert_eq!(bystander.guard(|_| Ok(())), SKIPSTONE_OK);
        assert_eq!(guard(|| panic!("{}", 7)), SKIPSTONE_ERROR_INTERNAL);
        assert_eq!(last_error(), "a defect of skipstone: 7");
    }

    #[test]
    fn error_texts_belong_to_threads_and_are_cut_to_fit() {
        report(Err(Failure::invalid("no\0good")));
        assert_eq!(last_error(), "no\u{fffd}good");
        std::thread::spawn(|| assert_eq!(last_error(), "")).join().expect("no text elsewhere");
        let mut buffer = [1; 4];
        // SAFETY: the buffer has the size it says.
        let needed = unsafe { skipstone_last_error(buffer.as_mut_ptr(), 3) };
        assert_eq!((needed, buffer), (10, [b'n' as c_char, b'o' as c_char, 0, 1]));
    }

    #[test]
    fn every_code_has_one_name() {
        for (i, (code, name)) in NAMES.iter().enumerate() {
            assert_eq!(*code, -(i as i32));
            // SAFETY: the name is static and ends.
            assert_eq!(unsafe { CStr::from_ptr(skipstone_status_name(*code)) }, *name);
        }
    }
}
