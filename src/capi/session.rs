//! Sessions: runs on the caller's memory.

use std::ffi::{CString, c_char, c_void};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::abi::{
    self, read_array, skipstone_class, skipstone_input, skipstone_output, skipstone_stats,
    skipstone_tensor_info, skipstone_timing, write_array,
};
use super::classify::best_classes;
use super::model::{Texts, at, info, json, skipstone_model};
use super::options::{settings, skipstone_options, skipstone_runtime};
use super::status::{Failure, Handle, Outcome, SKIPSTONE_ERROR_CLOSED, guard, report};
use super::{
    SKIPSTONE_F32, SKIPSTONE_NATIVE, SKIPSTONE_NCHW, SKIPSTONE_NHWC, SKIPSTONE_U8, behind, bytes,
    c_string, destroy, slot, with,
};
use crate::session::{Elements, ImageOrder, Session, SessionPort, TensorView, Timing};

/// A model that runs, with a queue. Used by any number of threads.
pub struct skipstone_session(Handle<Running>);

struct Running {
    session: Session,
    texts: Arc<Texts>,
    report: OnceLock<CString>,
}

/// Called when a submitted request has ended, on a thread of the session that it must not block:
/// `status` as of a call, with the text of an error kept for this thread, and where the time went
/// (NULL after an error).
pub type skipstone_done =
    Option<unsafe extern "C" fn(user: *mut c_void, status: i32, timing: *const skipstone_timing)>;

/// Plans a model, and starts what runs it. `options` may be NULL. `runtime` may be NULL: the session
/// then has threads of its own.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_session_create(
    model: *const skipstone_model,
    options: *const skipstone_options,
    runtime: *const skipstone_runtime,
    out: *mut *mut skipstone_session,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (out, model) = unsafe { (slot("out", out)?, behind("model", model)?) };
        *out = std::ptr::null_mut();
        let runtime = match runtime.is_null() {
            true => None,
            // SAFETY: the caller's promise.
            false => Some(&unsafe { behind("runtime", runtime) }?.0.inner),
        };
        let opened = &model.0.inner;
        // SAFETY: the caller's promise.
        let builder = unsafe { settings(options) }?.session(&opened.model, runtime);
        let (session, texts) = (builder.build()?, Arc::clone(&opened.texts));
        let running = Running { session, texts, report: OnceLock::new() };
        *out = Box::into_raw(Box::new(skipstone_session(Handle::new(running))));
        Ok(())
    })
}

/// Finishes the requests that were accepted, then ends the threads. Not from a `skipstone_done`, and
/// not while other calls use the session. NULL is fine.
///
/// # Safety
/// `session` is NULL or a handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_session_destroy(session: *mut skipstone_session) {
    // SAFETY: the caller's promise.
    unsafe { destroy(session) }
}

/// # Safety
/// `session` is NULL or a handle that is not destroyed during the call.
unsafe fn on(session: *const skipstone_session, body: impl FnOnce(&Running) -> Outcome) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { with("session", session, |s| &s.0, body) }
}

/// An input, with the size it has in this session.
///
/// # Safety
/// Pointers are NULL or valid; `out->struct_size` says the size of `*out`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_session_input(
    session: *const skipstone_session,
    index: usize,
    out: *mut skipstone_tensor_info,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { on(session, |s| describe("input", s.session.inputs(), &s.texts.inputs, index, out)) }
}

/// An output, with the size it has in this session.
///
/// # Safety
/// As `skipstone_session_input`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_session_output(
    session: *const skipstone_session,
    index: usize,
    out: *mut skipstone_tensor_info,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        on(session, |s| describe("output", s.session.outputs(), &s.texts.outputs, index, out))
    }
}

/// # Safety
/// `out` is NULL or a structure that says its size.
unsafe fn describe(
    what: &str,
    ports: &[SessionPort],
    names: &[CString],
    index: usize,
    out: *mut skipstone_tensor_info,
) -> Outcome {
    let SessionPort { port, shape, takes_u8, .. } = at(what, ports, index)?;
    // SAFETY: the caller's promise.
    unsafe { write_array("out", out, &[info(port, *shape, *takes_u8, &names[index])]) }
}

/// What was chosen, and the plan of a batch of one step by step, as JSON; it lives as long as the
/// session.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_session_report(
    session: *const skipstone_session,
    out: *mut *const c_char,
) -> i32 {
    let describe = |running: &Running| {
        // SAFETY: the caller's promise.
        let out = unsafe { slot("out", out) }?;
        let text = match running.report.get() {
            Some(text) => text,
            None => {
                let text = c_string(&report_json(&running.session)?);
                running.report.get_or_init(|| text)
            }
        };
        *out = text.as_ptr();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { on(session, describe) }
}

#[derive(Serialize)]
struct Report<'a> {
    hint: &'a str,
    streams: usize,
    threads_per_stream: usize,
    threads_reason: &'a str,
    isa: &'a str,
    isa_reason: &'a str,
    batch_sizes: &'a [usize],
    max_queue: usize,
    max_delay_us: u64,
    memory_bytes: usize,
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    name: &'a str,
    op: &'a str,
    output: String,
    algorithm: &'a str,
    kernel: &'a str,
    split: &'a str,
    macs: u64,
}

fn report_json(session: &Session) -> Outcome<String> {
    let report = session.report();
    let steps = session.plan().steps.iter().map(|step| Step {
        name: &step.name,
        op: step.op,
        output: step.output.to_string(),
        algorithm: step.algorithm,
        kernel: step.kernel,
        split: step.split,
        macs: step.macs,
    });
    json(&Report {
        hint: report.hint.name(),
        streams: report.streams,
        threads_per_stream: report.runtime.threads,
        threads_reason: &report.runtime.threads_reason,
        isa: report.runtime.isa.name(),
        isa_reason: &report.runtime.isa_reason,
        batch_sizes: &report.batch_sizes,
        max_queue: report.max_queue,
        max_delay_us: report.max_delay.as_micros() as u64,
        memory_bytes: report.memory_bytes,
        steps: steps.collect(),
    })
}

/// Inputs as the session takes them.
///
/// # Safety
/// `inputs` is NULL or `count` structures that say their size; their memory is valid for reads as long
/// as the views are used.
unsafe fn views<'a>(inputs: *const skipstone_input, count: usize) -> Outcome<Vec<TensorView<'a>>> {
    // SAFETY: the caller's promise.
    let inputs = unsafe { read_array("inputs", inputs, count) }?;
    let view = |input: skipstone_input| {
        let elements = match input.dtype {
            // SAFETY: the caller's promise.
            SKIPSTONE_U8 => Elements::U8(unsafe { bytes("input data", input.data, input.size) }?),
            SKIPSTONE_F32 => {
                let data = input.data.cast::<f32>();
                let len = floats("input data", data, input.size)?;
                // SAFETY: checked, and the caller's promise.
                Elements::F32(unsafe { std::slice::from_raw_parts(data, len) })
            }
            dtype => return Err(Failure::invalid(format!("dtype {dtype} is unknown"))),
        };
        let order = match input.order {
            SKIPSTONE_NATIVE => ImageOrder::Native,
            SKIPSTONE_NCHW => ImageOrder::Chw,
            SKIPSTONE_NHWC => ImageOrder::Hwc,
            order => return Err(Failure::invalid(format!("order {order} is unknown"))),
        };
        if input.reserved != 0 {
            return Err(Failure::invalid("an input's reserved field is not 0"));
        }
        Ok(TensorView { elements, order })
    };
    inputs.into_iter().map(view).collect()
}

/// The number of f32 in `size` bytes at `data`, which is checked.
fn floats(what: &str, data: *const f32, size: usize) -> Outcome<usize> {
    abi::check(what, data)?;
    if !size.is_multiple_of(size_of::<f32>()) || size > isize::MAX as usize {
        return Err(Failure::invalid(format!("{what}: {size} bytes are no f32 elements")));
    }
    Ok(size / size_of::<f32>())
}

/// # Safety
/// `outputs` is NULL or `count` structures that say their size.
unsafe fn places(
    outputs: *const skipstone_output,
    count: usize,
) -> Outcome<Vec<(*mut f32, usize)>> {
    // SAFETY: the caller's promise.
    let outputs = unsafe { read_array("outputs", outputs, count) }?;
    let place = |output: skipstone_output| {
        if output.reserved != 0 {
            return Err(Failure::invalid("an output's reserved field is not 0"));
        }
        Ok((output.data, floats("output data", output.data, output.size)?))
    };
    outputs.into_iter().map(place).collect()
}

fn deadline(timeout_us: i64) -> Outcome<Option<Instant>> {
    match u64::try_from(timeout_us) {
        Ok(0) => Ok(None),
        // So far ahead that it is none.
        Ok(us) => Ok(Instant::now().checked_add(Duration::from_micros(us))),
        Err(_) => Err(Failure::invalid(format!("timeout_us is {timeout_us}, expected 0 or more"))),
    }
}

fn c_timing(timing: Timing) -> skipstone_timing {
    skipstone_timing {
        struct_size: size_of::<skipstone_timing>() as u32,
        batch: timing.batch as u32,
        queued_ns: timing.queued.as_nanos() as u64,
        computed_ns: timing.computed.as_nanos() as u64,
    }
}

/// Runs all images of the inputs, and waits for them. The sizes of the inputs tell how many images
/// they are. Inputs are read, and outputs written, where they are. `timeout_us` is how long the
/// request may wait in the queue, 0 for as long as it takes. `timing` may be NULL.
///
/// # Safety
/// Pointers are NULL or valid for what they say; outputs overlap nothing else. The arrays' elements
/// have the size that the first one's struct_size says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_session_run(
    session: *const skipstone_session,
    inputs: *const skipstone_input,
    input_count: usize,
    outputs: *const skipstone_output,
    output_count: usize,
    timeout_us: i64,
    timing: *mut skipstone_timing,
) -> i32 {
    let run = |running: &Running| {
        let deadline = deadline(timeout_us)?;
        // SAFETY: the caller's promise.
        let (inputs, outputs) =
            unsafe { (views(inputs, input_count)?, places(outputs, output_count)?) };
        let (sender, receiver) = sync_channel(1);
        let done = move |result| drop(sender.send(result));
        // SAFETY: the memory is valid during this call, which waits for `done`.
        unsafe { running.session.submit_borrowed(&inputs, &outputs, deadline, done) }?;
        let lost = |_| Failure::new(SKIPSTONE_ERROR_CLOSED, "the session ended the request");
        let spent = receiver.recv().map_err(lost)??;
        if timing.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { write_array("timing", timing, &[c_timing(spent)]) }
    };
    // SAFETY: the caller's promise.
    unsafe { on(session, run) }
}

/// As skipstone_session_run, but returns at once; `done` is called later, unless this returns an
/// error. Until then all memory of inputs and outputs stays valid and is left alone; the arrays
/// themselves may go.
///
/// # Safety
/// As `skipstone_session_run`, until `done` is called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_session_submit(
    session: *const skipstone_session,
    inputs: *const skipstone_input,
    input_count: usize,
    outputs: *const skipstone_output,
    output_count: usize,
    timeout_us: i64,
    done: skipstone_done,
    user: *mut c_void,
) -> i32 {
    let submit = |running: &Running| {
        let done = done.ok_or_else(|| Failure::invalid("done is NULL"))?;
        let deadline = deadline(timeout_us)?;
        // SAFETY: the caller's promise.
        let (inputs, outputs) =
            unsafe { (views(inputs, input_count)?, places(outputs, output_count)?) };
        let user = User(user);
        let done = move |result: crate::Result<Timing>| {
            let User(user) = { user };
            match result {
                Ok(timing) => {
                    let timing = c_timing(timing);
                    // SAFETY: the caller's function, with the caller's pointer.
                    unsafe { done(user, 0, &raw const timing) }
                }
                Err(error) => {
                    let status = report(Err(error.into()));
                    // SAFETY: as above.
                    unsafe { done(user, status, std::ptr::null()) }
                }
            }
        };
        // SAFETY: the caller promises that the memory is valid until `done` is called.
        Ok(unsafe { running.session.submit_borrowed(&inputs, &outputs, deadline, done) }?)
    };
    // SAFETY: the caller's promise.
    unsafe { on(session, submit) }
}

/// The caller's pointer, which goes back to the caller on another thread.
struct User(*mut c_void);

// SAFETY: it is not dereferenced here.
unsafe impl Send for User {}

/// The best classes of a JPEG or PNG file in memory, prepared by the model's recipe, best first:
/// `capacity` of them or all, into `classes`; `count` gets their number. SKIPSTONE_ERROR_UNSUPPORTED
/// if the library was built without the feature `image`.
///
/// # Safety
/// Pointers are NULL or valid for what they say; `classes` has `capacity` elements of the size that
/// the first one's struct_size says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_session_classify(
    session: *const skipstone_session,
    file: *const c_void,
    size: usize,
    timeout_us: i64,
    classes: *mut skipstone_class,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    let classify = |running: &Running| {
        let deadline = deadline(timeout_us)?;
        // SAFETY: the caller's promise.
        let (file, count) = unsafe { (bytes("file", file, size)?, slot("count", count)?) };
        *count = 0;
        let best = best_classes(&running.session, &running.texts, file, deadline, capacity)?;
        // SAFETY: the caller's promise.
        unsafe { write_array("classes", classes, &best) }?;
        *count = best.len();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { on(session, classify) }
}

/// Counters.
///
/// # Safety
/// Pointers are NULL or valid; `out->struct_size` says the size of `*out`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_session_stats(
    session: *const skipstone_session,
    out: *mut skipstone_stats,
) -> i32 {
    let count = |running: &Running| {
        let stats = running.session.stats();
        let stats = skipstone_stats {
            struct_size: size_of::<skipstone_stats>() as u32,
            reserved: 0,
            accepted: stats.accepted,
            rejected: stats.rejected,
            expired: stats.expired,
            cancelled: stats.cancelled,
            executions: stats.executions,
            images: stats.images,
            failed_executions: stats.failed_executions,
            computed_ns: stats.computed.as_nanos() as u64,
            queued_images: stats.queued_images as u64,
            running_images: stats.running_images as u64,
        };
        // SAFETY: the caller's promise.
        unsafe { write_array("out", out, &[stats]) }
    };
    // SAFETY: the caller's promise.
    unsafe { on(session, count) }
}

/// Refuses new requests from now on (SKIPSTONE_ERROR_CLOSED); waits until those that were accepted
/// have ended.
///
/// # Safety
/// `session` is NULL or a handle that is not destroyed during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_session_close(session: *const skipstone_session) -> i32 {
    let close = |running: &Running| {
        running.session.close();
        running.session.drain(None);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { on(session, close) }
}
