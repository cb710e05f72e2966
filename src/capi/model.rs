//! Models, and what they say of themselves.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::abi::{skipstone_tensor_info, write_array};
use super::status::{Failure, Handle, Outcome, SKIPSTONE_ERROR_UNSUPPORTED, guard};
use super::{SKIPSTONE_NATIVE, SKIPSTONE_NCHW, SKIPSTONE_NHWC, c_string, destroy, slot, with};
use crate::error::{Error, ErrorKind};
use crate::graph::{Axis, AxisOrder, Port, Shape};
use crate::model::Model;

/// An opened model. Immutable; used by any number of threads. Sessions keep what they need of it.
pub struct skipstone_model(pub(super) Handle<Opened>);

/// A model and its texts, which C sees as long as the handle lives.
pub(super) struct Opened {
    pub(super) model: Model,
    pub(super) texts: Arc<Texts>,
}

pub(super) struct Texts {
    pub(super) inputs: Vec<CString>,
    pub(super) outputs: Vec<CString>,
    pub(super) labels: Vec<CString>,
    recipe: Option<CString>,
    metadata: CString,
}

/// Copy the file into memory, and check all of it.
pub const SKIPSTONE_OPEN_COPY: u32 = 0;
/// Map the file: ready at once, and shared with other processes. Until the model and its sessions are
/// destroyed, nobody may change or truncate the file; replacing it by a rename is fine.
pub const SKIPSTONE_OPEN_MAP: u32 = 1;
/// With SKIPSTONE_OPEN_MAP: check all of it.
pub const SKIPSTONE_OPEN_VERIFY: u32 = 2;

impl Opened {
    fn new(model: Model) -> Outcome<Self> {
        let (graph, names) = (model.graph(), |ports: &[Port]| {
            ports.iter().map(|port| c_string(&port.name)).collect()
        });
        let recipe = model.recipe().map(json).transpose()?;
        let texts = Texts {
            inputs: names(&graph.inputs),
            outputs: names(&graph.outputs),
            labels: model.labels().unwrap_or_default().iter().map(|l| c_string(l)).collect(),
            recipe: recipe.as_deref().map(c_string),
            metadata: c_string(&json(model.metadata())?),
        };
        Ok(Self { model, texts: Arc::new(texts) })
    }

    fn hand_over(model: Model, out: &mut *mut skipstone_model) -> Outcome {
        let opened = Handle::new(Self::new(model)?);
        *out = Box::into_raw(Box::new(skipstone_model(opened)));
        Ok(())
    }

    fn takes_u8(&self, port: &Port) -> bool {
        self.model.recipe().is_some_and(|recipe| recipe.channels.count() == port.shape.c)
    }
}

/// Writes JSON.
pub(super) fn json(value: &impl Serialize) -> Outcome<String> {
    serde_json::to_string(value)
        .map_err(|e| Failure::from(Error::new(ErrorKind::Internal, format!("no JSON: {e}"))))
}

/// An element of a list, or an error that names it.
pub(super) fn at<'a, T>(what: &str, list: &'a [T], index: usize) -> Outcome<&'a T> {
    list.get(index).ok_or_else(|| {
        Failure::invalid(format!("there is no {what} {index}: there are {}", list.len()))
    })
}

/// What C sees of an input or output.
pub(super) fn info(
    port: &Port,
    shape: Shape,
    takes_u8: bool,
    name: &CString,
) -> skipstone_tensor_info {
    let mut dims = [1; 4];
    let axes = &port.axes;
    for (dim, (axis, extent)) in dims.iter_mut().zip(axes.0.iter().zip(axes.dims(1, shape))) {
        *dim = if *axis == Axis::N { -1 } else { extent as i64 };
    }
    let order = if *axes == AxisOrder::nchw() {
        SKIPSTONE_NCHW
    } else if *axes == AxisOrder::nhwc() {
        SKIPSTONE_NHWC
    } else {
        SKIPSTONE_NATIVE
    };
    skipstone_tensor_info {
        struct_size: size_of::<skipstone_tensor_info>() as u32,
        rank: axes.0.len() as u32,
        dims,
        order,
        takes_u8: i32::from(takes_u8),
        channels: shape.c as i64,
        height: shape.h as i64,
        width: shape.w as i64,
        name: name.as_ptr(),
    }
}

/// Opens a packed model; `flags` are SKIPSTONE_OPEN_COPY, or SKIPSTONE_OPEN_MAP and perhaps
/// SKIPSTONE_OPEN_VERIFY. `path` is UTF-8 on Windows, and any bytes elsewhere.
///
/// # Safety
/// Pointers are NULL or valid; the promise of SKIPSTONE_OPEN_MAP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_model_open(
    path: *const c_char,
    flags: u32,
    out: *mut *mut skipstone_model,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (out, path) = unsafe { (slot("out", out)?, path_of(path)?) };
        *out = std::ptr::null_mut();
        let model = match flags {
            SKIPSTONE_OPEN_COPY | SKIPSTONE_OPEN_VERIFY => Model::open(path)?,
            // SAFETY: whoever passes this flag promises what it asks for.
            SKIPSTONE_OPEN_MAP => unsafe { Model::open_mmap(path) }?,
            3 => {
                // SAFETY: as above.
                let model = unsafe { Model::open_mmap(path) }?;
                model.verify().map_err(|e| e.in_file(path))?;
                model
            }
            _ => return Err(Failure::invalid(format!("flags are {flags}, expected 0 to 3"))),
        };
        Opened::hand_over(model, out)
    })
}

#[cfg(unix)]
unsafe fn path_of<'a>(path: *const c_char) -> Outcome<&'a Path> {
    use std::os::unix::ffi::OsStrExt;
    super::abi::check("path", path)?;
    // SAFETY: the caller promises a string that ends.
    let bytes = unsafe { std::ffi::CStr::from_ptr(path) }.to_bytes();
    Ok(Path::new(std::ffi::OsStr::from_bytes(bytes)))
}

#[cfg(not(unix))]
unsafe fn path_of<'a>(path: *const c_char) -> Outcome<&'a Path> {
    // SAFETY: the caller promises a string that ends.
    Ok(Path::new(unsafe { super::text("path", path) }?))
}

/// Opens a packed model in memory; copies it.
///
/// # Safety
/// `data` is NULL or valid for reads of `size` bytes, `out` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_model_from_memory(
    data: *const c_void,
    size: usize,
    out: *mut *mut skipstone_model,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { slot("out", out) }?;
        *out = std::ptr::null_mut();
        // SAFETY: the caller's promise.
        let bytes = unsafe { super::bytes("data", data, size) }?;
        Opened::hand_over(Model::from_bytes(bytes)?, out)
    })
}

/// NULL is fine.
///
/// # Safety
/// `model` is NULL or a handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_model_destroy(model: *mut skipstone_model) {
    // SAFETY: the caller's promise.
    unsafe { destroy(model) }
}

/// # Safety
/// `model` is NULL or a handle that is not destroyed during the call.
unsafe fn on(model: *const skipstone_model, body: impl FnOnce(&Opened) -> Outcome) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { with("model", model, |m| &m.0, body) }
}

/// Numbers of inputs, outputs and labels; each of the three may be NULL.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_model_counts(
    model: *const skipstone_model,
    inputs: *mut usize,
    outputs: *mut usize,
    labels: *mut usize,
) -> i32 {
    let count = |opened: &Opened| {
        let texts = &opened.texts;
        let counts = [texts.inputs.len(), texts.outputs.len(), texts.labels.len()];
        for (out, count) in [inputs, outputs, labels].into_iter().zip(counts) {
            if !out.is_null() {
                // SAFETY: the caller's promise.
                *unsafe { slot("count", out) }? = count;
            }
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { on(model, count) }
}

/// An input, with its default size.
///
/// # Safety
/// Pointers are NULL or valid; `out->struct_size` says the size of `*out`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_model_input(
    model: *const skipstone_model,
    index: usize,
    out: *mut skipstone_tensor_info,
) -> i32 {
    let describe = |opened: &Opened| {
        let port = at("input", &opened.model.graph().inputs, index)?;
        let name = &opened.texts.inputs[index];
        // SAFETY: the caller's promise.
        unsafe { write_array("out", out, &[info(port, port.shape, opened.takes_u8(port), name)]) }
    };
    // SAFETY: the caller's promise.
    unsafe { on(model, describe) }
}

/// An output, for inputs of the default size.
///
/// # Safety
/// As `skipstone_model_input`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_model_output(
    model: *const skipstone_model,
    index: usize,
    out: *mut skipstone_tensor_info,
) -> i32 {
    let describe = |opened: &Opened| {
        let port = at("output", &opened.model.graph().outputs, index)?;
        let name = &opened.texts.outputs[index];
        // SAFETY: the caller's promise.
        unsafe { write_array("out", out, &[info(port, port.shape, false, name)]) }
    };
    // SAFETY: the caller's promise.
    unsafe { on(model, describe) }
}

/// The name of a class; it lives as long as the model.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_model_label(
    model: *const skipstone_model,
    index: usize,
    out: *mut *const c_char,
) -> i32 {
    let label = |opened: &Opened| {
        // SAFETY: the caller's promise.
        let out = unsafe { slot("out", out) }?;
        *out = at("label", &opened.texts.labels, index)?.as_ptr();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { on(model, label) }
}

/// How photographs are prepared, as JSON; it lives as long as the model.
/// SKIPSTONE_ERROR_UNSUPPORTED if the model does not say.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_model_recipe(
    model: *const skipstone_model,
    out: *mut *const c_char,
) -> i32 {
    let recipe = |opened: &Opened| {
        // SAFETY: the caller's promise.
        let out = unsafe { slot("out", out) }?;
        let none = || Failure::new(SKIPSTONE_ERROR_UNSUPPORTED, "the model has no recipe");
        *out = opened.texts.recipe.as_ref().ok_or_else(none)?.as_ptr();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { on(model, recipe) }
}

/// What the file says of itself (source, licence, ...), as a JSON object of strings; it lives as long
/// as the model.
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_model_metadata(
    model: *const skipstone_model,
    out: *mut *const c_char,
) -> i32 {
    let metadata = |opened: &Opened| {
        // SAFETY: the caller's promise.
        *unsafe { slot("out", out) }? = opened.texts.metadata.as_ptr();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { on(model, metadata) }
}

/// BLAKE3 of the file's content.
///
/// # Safety
/// Pointers are NULL or valid; `out` for writes of 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skipstone_model_hash(
    model: *const skipstone_model,
    out: *mut [u8; 32],
) -> i32 {
    let hash = |opened: &Opened| {
        // SAFETY: the caller's promise.
        *unsafe { slot("out", out) }? = opened.model.content_hash();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { on(model, hash) }
}
