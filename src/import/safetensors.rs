//! Weights in safetensors files with torchvision's names; the graph comes from the
//! [`zoo`](super::zoo).

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use ::safetensors::tensor::TensorView;
use ::safetensors::{Dtype, SafeTensors};
use bytes::Bytes;
use half::{bf16, f16};

use super::onnx::proto::{GraphProto, ModelProto, TensorProto};
use super::zoo::{Architecture, architectures};
use super::{ImportOptions, onnx};
use crate::error::{Error, ErrorKind, Result};
use crate::file::open_regular;
use crate::graph::{Network, fuse};

/// Largest header, in bytes; the largest network here needs a tenth of a megabyte.
const MAX_HEADER_BYTES: u64 = 4 << 20;
/// Largest file, in bytes; the largest network here has 1.2 GB as F64.
const MAX_FILE_BYTES: usize = 2 << 30;
/// Largest number of classes.
const MAX_CLASSES: usize = 1 << 20;
/// How many tensors of a kind an error lists.
const MAX_LISTED: usize = 4;

/// Imports the weights of `arch`, one of [`architectures`] that torchvision has, simplified by
/// [`fuse`](fuse::fuse).
///
/// Tensors are named as in torchvision's `state_dict` and of type F16, BF16, F32 or F64; the
/// classifier's weights say how many classes there are. `num_batches_tracked` is ignored.
///
/// # Errors
/// A malformed file; tensors that are missing, too many, or of another shape or type, by name; an
/// unknown `arch`, or one that other weights than the file's belong to.
pub fn safetensors_file(path: &Path, arch: &str, options: &ImportOptions) -> Result<Network> {
    let arch = Architecture::by_name(arch)?;
    if !arch.torchvision {
        let known: Vec<_> = torchvision().map(|a| a.name).collect();
        return Err(Error::invalid(format!(
            "there are no torchvision weights for {}, only for {}",
            arch.name,
            known.join(", ")
        )));
    }
    let import = || {
        let file = read(path)?;
        let model = fill(arch, &file, options)?;
        drop(file);
        let mut network = onnx::network(model, None, options)?;
        fuse::fuse(&mut network)?;
        Ok(network)
    };
    import().map_err(|e: Error| e.in_file(path))
}

fn torchvision() -> impl Iterator<Item = &'static Architecture> {
    architectures().iter().filter(|a| a.torchvision)
}

fn read(path: &Path) -> Result<Bytes> {
    let io = |e| Error::io(path, "read", e);
    let (mut file, len) = open_regular(path)?;
    if len > MAX_FILE_BYTES {
        return Err(Error::format(format!("{len} bytes, expected at most {MAX_FILE_BYTES}")));
    }
    let mut length = [0; 8];
    let mut bytes = Vec::new();
    if len >= length.len() {
        file.read_exact(&mut length).map_err(io)?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > MAX_HEADER_BYTES {
            return Err(Error::format(format!(
                "not a safetensors file: its header would have {header_bytes} bytes, expected at \
                 most {MAX_HEADER_BYTES}"
            )));
        }
        bytes.reserve_exact(len);
        bytes.extend_from_slice(&length);
    }
    file.read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes.into())
}

type Tensors<'a> = HashMap<&'a str, TensorView<'a>>;

/// The architecture's graph with the file's weights. Those of type F32 stay in `file`.
fn fill(arch: &Architecture, file: &Bytes, options: &ImportOptions) -> Result<ModelProto> {
    let parsed = SafeTensors::deserialize(file)
        .map_err(|e| Error::format(format!("not a safetensors file: {e}")).caused_by(e))?;
    let tensors: Tensors =
        parsed.iter().filter(|(name, _)| !name.ends_with(".num_batches_tracked")).collect();
    let (mut model, differences) = compare(arch, &tensors, options)?;
    if !differences.is_none() {
        return Err(mismatch(arch, &differences, &tensors));
    }
    for tensor in model.graph.iter_mut().flat_map(|g| &mut g.initializer) {
        tensor.raw_data = f32_data(&tensor.name, &tensors[tensor.name.as_str()], file)?;
    }
    Ok(model)
}

/// How a file's tensors differ from an architecture's, in its order.
#[derive(Default)]
struct Differences {
    missing: List,
    misshapen: List,
    unexpected: List,
}

impl Differences {
    fn is_none(&self) -> bool {
        [&self.missing, &self.misshapen, &self.unexpected].iter().all(|list| list.count == 0)
    }
}

/// Tensors of a kind: a file may have more than anyone wants to read about.
#[derive(Default)]
struct List {
    count: usize,
    /// What the first ones are.
    first: Vec<String>,
}

impl List {
    fn push(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < MAX_LISTED {
            self.first.push(text());
        }
    }
}

/// Builds the architecture with the file's number of classes and compares names and shapes.
fn compare(
    arch: &Architecture,
    tensors: &Tensors,
    options: &ImportOptions,
) -> Result<(ModelProto, Differences)> {
    let default = arch.blueprint(options.input_size, None)?.model;
    let classes = classifier(&default)
        .and_then(|t| tensors.get(t.name.as_str()))
        .and_then(|t| t.shape().first().copied())
        .filter(|classes| (1..=MAX_CLASSES).contains(classes));
    let model = match classes {
        Some(_) => arch.blueprint(options.input_size, classes)?.model,
        None => default,
    };

    let mut differences = Differences::default();
    let initializers = initializers(&model);
    for t in initializers {
        let expected: Vec<usize> = t.dims.iter().map(|&d| d as usize).collect();
        match tensors.get(t.name.as_str()) {
            None => differences.missing.push(|| format!("{} {expected:?}", t.name)),
            Some(found) if found.shape() != expected => differences
                .misshapen
                .push(|| format!("{} {:?} instead of {expected:?}", t.name, found.shape())),
            Some(_) => {}
        }
    }
    let known: HashSet<&str> = initializers.iter().map(|t| t.name.as_str()).collect();
    let mut unexpected: Vec<_> =
        tensors.iter().filter(|(name, _)| !known.contains(*name)).collect();
    unexpected.sort_by_key(|(name, _)| *name);
    for (name, t) in unexpected {
        differences.unexpected.push(|| format!("{} {:?}", printable(name), t.shape()));
    }
    Ok((model, differences))
}

/// The last layer's weights, `[classes, features]`.
fn classifier(model: &ModelProto) -> Option<&TensorProto> {
    initializers(model).iter().rfind(|t| t.name.ends_with(".weight"))
}

fn initializers(model: &ModelProto) -> &[TensorProto] {
    model.graph.as_ref().map_or(&[], |g: &GraphProto| &g.initializer)
}

fn mismatch(arch: &Architecture, differences: &Differences, tensors: &Tensors) -> Error {
    let parts: Vec<_> = [
        ("missing", &differences.missing),
        ("of another shape", &differences.misshapen),
        ("unexpected", &differences.unexpected),
    ]
    .iter()
    .filter(|(_, list)| list.count > 0)
    .map(|(what, list)| {
        let rest = if list.count > MAX_LISTED { ", ..." } else { "" };
        format!("{} {what}: {}{rest}", list.count, list.first.join(", "))
    })
    .collect();
    let message = format!("not the weights of {}: tensors {}", arch.name, parts.join("; "));
    let fits = |other: &Architecture| {
        // Counted first: to sort thousands of names for each architecture would take seconds.
        other.blueprint(None, None).is_ok_and(|b| initializers(&b.model).len() == tensors.len())
            && compare(other, tensors, &ImportOptions::default()).is_ok_and(|(_, d)| d.is_none())
    };
    match torchvision().find(|other| fits(other)) {
        Some(other) => Error::invalid(format!("{message}; this looks like {}", other.name)),
        None => Error::new(ErrorKind::Format, message),
    }
}

/// A name from the file, fit for a terminal.
fn printable(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}

/// Little-endian f32, sharing the file's bytes where they are that already.
fn f32_data(name: &str, tensor: &TensorView, file: &Bytes) -> Result<Bytes> {
    let data = tensor.data();
    Ok(match tensor.dtype() {
        Dtype::F32 => file.slice_ref(data),
        Dtype::F16 => convert(data, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => convert(data, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F64 => convert(data, |b| f64::from_le_bytes(b) as f32),
        other => {
            return Err(Error::unsupported(format!(
                "tensor {name} has type {other}, expected F16, BF16, F32 or F64"
            )));
        }
    })
}

fn convert<const N: usize>(data: &[u8], to_f32: impl Fn([u8; N]) -> f32) -> Bytes {
    let (elements, _) = data.as_chunks::<N>();
    let mut raw = Vec::with_capacity(elements.len() * size_of::<f32>());
    elements.iter().for_each(|&e| raw.extend_from_slice(&to_f32(e).to_le_bytes()));
    raw.into()
}
