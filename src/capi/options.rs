//! Options by name, and the runtimes they make.

use std::ffi::c_char;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use super::status::{Failure, Handle, Outcome, guard};
use super::{behind, destroy, slot, text, with};
use crate::exec::ExecutorOptions;
use crate::model::Model;
use crate::session::{Hint, Session, SessionBuilder};
use crate::threads::{Runtime, RuntimeBuilder};

/// Settings by name.
pub struct skipstone_options(Handle<Mutex<Settings>>);

/// Threads that sessions share; they take turns. Without one, each session has its own.
pub struct skipstone_runtime(pub(super) Handle<Runtime>);

/// What options say.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    runtime: RuntimeBuilder,
    hint: Hint,
    streams: Option<usize>,
    threads: Option<usize>,
    max_batch: Option<usize>,
    max_queue: Option<usize>,
    max_delay: Duration,
    warm_up: bool,
    size_of_recipe: bool,
    executor: ExecutorOptions,
}

type Setter = fn(&mut Settings, &str) -> Result<(), String>;

/// Every option, and what it does with its value.
const OPTIONS: &[(&str, Setter)] = &[
    ("hint", |s, v| parse(v).map(|hint| s.hint = hint)),
    ("threads", |s, v| parse(v).map(|n| s.threads = Some(n))),
    ("streams", |s, v| parse(v).map(|n| s.streams = Some(n))),
    ("max_batch", |s, v| parse(v).map(|n| s.max_batch = Some(n))),
    ("max_queue", |s, v| parse(v).map(|n| s.max_queue = Some(n))),
    ("max_delay_us", |s, v| parse(v).map(|us| s.max_delay = Duration::from_micros(us))),
    ("warm_up", |s, v| match v {
        "0" | "1" => {
            s.warm_up = v == "1";
            Ok(())
        }
        _ => Err("expected 0 or 1".to_owned()),
    }),
    ("numerics", |s, v| parse(v).map(|class| s.executor.numerics = class)),
    ("isa", |s, v| parse(v).map(|isa| s.runtime = s.runtime.clone().isa(isa))),
    ("spin_us", |s, v| {
        parse(v).map(|us| s.runtime = s.runtime.clone().spin(Duration::from_micros(us)))
    }),
    ("input_size", |s, v| {
        s.size_of_recipe = v == "recipe";
        s.executor.input_size = if s.size_of_recipe { None } else { Some(parse_size(v)?) };
        Ok(())
    }),
];

fn parse<T: FromStr<Err: std::fmt::Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|e: T::Err| e.to_string())
}

fn parse_size(value: &str) -> Result<[usize; 2], String> {
    let (height, width) =
        value.split_once('x').ok_or("expected a height and width, e.g. 224x224")?;
    Ok([parse(height)?, parse(width)?])
}

impl Settings {
    fn set(&mut self, key: &str, value: &str) -> Outcome {
        let Some((_, set)) = OPTIONS.iter().find(|(name, _)| *name == key) else {
            let names: Vec<_> = OPTIONS.iter().map(|(name, _)| *name).collect();
            let names = names.join(", ");
            return Err(Failure::invalid(format!("'{key}' is no option; options are {names}")));
        };
        set(self, value).map_err(|e| Failure::invalid(format!("option {key}={value}: {e}")))
    }

    /// A session's builder with these settings.
    pub(super) fn session(&self, model: &Model, runtime: Option<&Runtime>) -> SessionBuilder {
        let mut options = self.executor.clone();
        if self.size_of_recipe {
            options.input_size = model.recipe().and_then(|recipe| recipe.output_size());
        }
        let mut builder = Session::builder(model)
            .hint(self.hint)
            .max_delay(self.max_delay)
            .warm_up(self.warm_up)
            .runtime_settings(self.runtime.clone())
            .options(options);
        type Set = fn(SessionBuilder, usize) -> SessionBuilder;
        let set: [(Option<usize>, Set); 4] = [
            (self.streams, SessionBuilder::streams),
            (self.threads, SessionBuilder::threads),
            (self.max_batch, SessionBuilder::max_batch),
            (self.max_queue, SessionBuilder::max_queue),
        ];
        for (value, set) in set {
            if let Some(value) = value {
                builder = set(builder, value);
            }
        }
        match runtime {
            Some(runtime) => builder.runtime(runtime),
            None => builder,
        }
    }
}

/// What `options` say; the defaults for NULL.
///
/// # Safety
/// `options` is NULL or a handle that is not destroyed during the call.
pub(super) unsafe fn settings(options: *const skipstone_options) -> Outcome<Settings> {
    if options.is_null() {
        return Ok(Settings::default());
    }
    // SAFETY: the caller's promise.
    let options = unsafe { behind("options", options) }?;
    Ok(options.0.inner.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Options, all at their defaults.
///
/// # Safety
/// `out` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_options_create(out: *mut *mut skipstone_options) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { slot("out", out) }?;
        *out = Box::into_raw(Box::new(skipstone_options(Handle::default())));
        Ok(())
    })
}

/// Sets an option:
///
/// - "hint": "latency" (default: one stream on all threads, no batches) or "throughput" (as many
///   streams as threads, batches of what waits);
/// - "threads": of all streams together (default: the CPUs this process may use);
/// - "streams": batches that run at the same time;
/// - "max_batch": images per batch; "max_delay_us": how long an image waits for others (default 0);
/// - "max_queue": images that may wait (default 256 or more);
/// - "warm_up": "1" runs each stream once before skipstone_session_create returns;
/// - "numerics": "fast" (default), "strict" (direct convolution alone) or "relaxed" (also Winograd's
///   F(6x6), where it was measured to be faster);
/// - "input_size": "HxW" in place of the network's own, or "recipe": that of the model's recipe;
/// - "isa", "spin_us": as the variables SKIPSTONE_ISA and SKIPSTONE_SPIN_US.
///
/// An unknown key or value is SKIPSTONE_ERROR_INVALID_ARGUMENT, and changes nothing.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_options_set(
    options: *mut skipstone_options,
    key: *const c_char,
    value: *const c_char,
) -> i32 {
    let set = |settings: &Mutex<Settings>| {
        // SAFETY: the caller's promise.
        let (key, value) = unsafe { (text("key", key)?, text("value", value)?) };
        settings.lock().unwrap_or_else(PoisonError::into_inner).set(key, value)
    };
    // SAFETY: the caller's promise.
    unsafe { with("options", options, |o| &o.0, set) }
}

/// NULL is fine.
///
/// # Safety
/// `options` is NULL or a handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_options_destroy(options: *mut skipstone_options) {
    // SAFETY: the caller's promise.
    unsafe { destroy(options) }
}

/// Threads for sessions to share, by the options "threads", "isa" and "spin_us"; `options` may be NULL.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_runtime_create(
    options: *const skipstone_options,
    out: *mut *mut skipstone_runtime,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (out, settings) = unsafe { (slot("out", out)?, settings(options)?) };
        *out = std::ptr::null_mut();
        let builder = match settings.threads {
            Some(threads) => settings.runtime.threads(threads),
            None => settings.runtime,
        };
        let runtime = Handle::new(builder.build()?);
        *out = Box::into_raw(Box::new(skipstone_runtime(runtime)));
        Ok(())
    })
}

/// Sessions that use it keep it alive. NULL is fine.
///
/// # Safety
/// `runtime` is NULL or a handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_runtime_destroy(runtime: *mut skipstone_runtime) {
    // SAFETY: the caller's promise.
    unsafe { destroy(runtime) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_take_what_they_say_and_name_the_others() {
        let mut settings = Settings::default();
        for (key, value) in [
            ("hint", "throughput"),
            ("threads", "2"),
            ("max_delay_us", "1500"),
            ("warm_up", "1"),
            ("numerics", "strict"),
            ("isa", "portable"),
            ("input_size", "64x32"),
        ] {
            settings.set(key, value).expect("a good value");
        }
        assert_eq!(settings.executor.input_size, Some([64, 32]));
        assert_eq!(settings.max_delay, Duration::from_micros(1500));
        for (key, value, message) in [
            ("thread", "2", "'thread' is no option; options are hint, threads, streams"),
            ("threads", "two", "option threads=two: invalid digit"),
            ("warm_up", "yes", "expected 0 or 1"),
            ("input_size", "64", "expected a height and width"),
            ("hint", "speed", "expected latency or throughput"),
        ] {
            let failure = settings.set(key, value).expect_err(message);
            assert!(failure.message.contains(message), "{}", failure.message);
        }
        assert_eq!(settings.threads, Some(2));
    }
}
