//! Constant tensors: initializers, and what is computed from them.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};
use std::rc::Rc;

use half::{bf16, f16};

use super::proto::{TensorProto, dtype};
use super::quantization::Integers;
use super::symbolic::SymInt;
use crate::error::{Error, Result};
use crate::file::open_regular;
use crate::graph::MAX_ELEMENTS;

/// Longest integer tensor that arithmetic is done on; shapes and indices are far shorter.
const MAX_SYMBOLIC: usize = 1 << 16;

/// A row-major tensor known at import.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) dims: Vec<usize>,
    pub(super) data: Data,
    /// ONNX element type of integers as they are stored; 0 if they were computed.
    pub(super) elem_type: i32,
    /// What floats were dequantized from.
    pub(super) integers: Option<Rc<Integers>>,
}

/// Elements; booleans are integers.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Float(Vec<f32>),
    Int(Vec<i64>),
    /// Integers of which some depend on the batch.
    Symbolic(Vec<SymInt>),
}

impl Tensor {
    fn new(dims: &[usize], data: Data) -> Self {
        Self { dims: dims.to_vec(), data, elem_type: 0, integers: None }
    }

    pub(super) fn float(dims: &[usize], data: Vec<f32>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), data.len());
        Self::new(dims, Data::Float(data))
    }

    pub(super) fn scalar(value: f32) -> Self {
        Self::float(&[], vec![value])
    }

    pub(super) fn int(dims: &[usize], data: Vec<i64>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), data.len());
        Self::new(dims, Data::Int(data))
    }

    /// Integers; stored as [`Data::Int`] where none depends on the batch or an image's size.
    pub(super) fn symbolic(dims: &[usize], data: Vec<SymInt>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), data.len());
        let plain = |v: &SymInt| v.value().filter(|_| !v.from_size);
        let data = match data.iter().map(plain).collect() {
            Some(ints) => Data::Int(ints),
            None => Data::Symbolic(data),
        };
        Self::new(dims, data)
    }

    pub(super) fn len(&self) -> usize {
        match &self.data {
            Data::Float(v) => v.len(),
            Data::Int(v) => v.len(),
            Data::Symbolic(v) => v.len(),
        }
    }

    pub(super) fn floats(&self) -> Result<&[f32]> {
        match &self.data {
            Data::Float(v) => Ok(v),
            _ => Err(Error::unsupported("expected a tensor of floats, got integers")),
        }
    }

    pub(super) fn into_floats(self) -> Result<Vec<f32>> {
        match self.data {
            Data::Float(v) => Ok(v),
            _ => Err(Error::unsupported("expected a tensor of floats, got integers")),
        }
    }

    /// The elements as integers for shape arithmetic.
    pub(super) fn sym_ints(&self) -> Result<Vec<SymInt>> {
        if self.len() > MAX_SYMBOLIC {
            return Err(Error::unsupported(format!(
                "arithmetic on {} integers, at most {MAX_SYMBOLIC} are supported",
                self.len()
            )));
        }
        match &self.data {
            Data::Int(v) => Ok(v.iter().map(|&i| SymInt::known(i)).collect()),
            Data::Symbolic(v) => Ok(v.clone()),
            Data::Float(_) => Err(Error::unsupported("expected integers, got floats")),
        }
    }

    /// The elements as integers that do not depend on the batch.
    pub(super) fn ints(&self) -> Result<Vec<i64>> {
        let known = |v: SymInt| {
            v.value().ok_or_else(|| Error::unsupported(format!("{v} depends on the batch N")))
        };
        self.sym_ints()?.into_iter().map(known).collect()
    }

    /// The only element, as a float.
    pub(super) fn as_scalar(&self) -> Result<f32> {
        match &self.data {
            Data::Float(v) if v.len() == 1 => Ok(v[0]),
            Data::Int(v) if v.len() == 1 => Ok(v[0] as f32),
            _ => Err(Error::unsupported(format!("expected one number, got shape {:?}", self.dims))),
        }
    }

    /// The same elements with other extents.
    pub(super) fn reshaped(mut self, dims: &[usize]) -> Result<Self> {
        if elements(dims)? != self.len() {
            return Err(Error::shape(format!("cannot reshape {:?} to {dims:?}", self.dims)));
        }
        // The axis of the scales must stay what it is.
        let keeps_rows = dims.first() == self.dims.first();
        self.integers = self.integers.filter(|i| i.scales.len() == 1 || i.axis == 0 && keeps_rows);
        self.dims = dims.to_vec();
        Ok(self)
    }

    /// A tensor of `dims` filled with the only element of this one.
    fn filled(&self, dims: &[usize]) -> Self {
        let len = dims.iter().product();
        let data = match &self.data {
            Data::Float(v) => Data::Float(vec![v[0]; len]),
            Data::Int(v) => Data::Int(vec![v[0]; len]),
            Data::Symbolic(v) => Data::Symbolic(vec![v[0]; len]),
        };
        Self::new(dims, data)
    }

    /// A tensor of `dims` whose element at flat position `i` is element `index(i)` of this one.
    pub(super) fn gathered(&self, dims: &[usize], index: impl Fn(usize) -> usize) -> Self {
        let flat = 0..dims.iter().product();
        let data = match &self.data {
            Data::Float(v) => Data::Float(flat.map(|i| v[index(i)]).collect()),
            Data::Int(v) => Data::Int(flat.map(|i| v[index(i)]).collect()),
            Data::Symbolic(v) => Data::Symbolic(flat.map(|i| v[index(i)]).collect()),
        };
        Self::new(dims, data)
    }

    /// With axes permuted: axis `i` of the result is axis `perm[i]` of this tensor.
    pub(super) fn transposed(&self, perm: &[usize]) -> Self {
        let mut transposed = self.permuted(perm);
        if let Some(integers) = &self.integers {
            let values = integers.values.iter().map(|v| i64::from(*v)).collect();
            let values = match Self::int(&self.dims, values).permuted(perm).data {
                Data::Int(values) => values.into_iter().map(|v| v as i32).collect(),
                _ => unreachable!("integers stay integers"),
            };
            let axis = perm.iter().position(|p| *p == integers.axis).unwrap_or(0);
            let scales = integers.scales.clone();
            transposed.integers = Some(Rc::new(Integers { values, scales, axis }));
        }
        transposed
    }

    fn permuted(&self, perm: &[usize]) -> Self {
        if let (&[rows, columns], [1, 0]) = (&self.dims[..], perm) {
            return self.gathered(&[columns, rows], |i| i % rows * columns + i / rows);
        }
        let dims: Vec<usize> = perm.iter().map(|&p| self.dims[p]).collect();
        let strides = strides(&self.dims);
        let steps: Vec<usize> = perm.iter().map(|&p| strides[p]).collect();
        self.gathered(&dims, |i| offset(i, &dims, &steps))
    }

    /// Repeated along axes of extent 1, and along new leading axes, to fill `dims`.
    pub(super) fn broadcast(&self, dims: &[usize]) -> Result<Self> {
        elements(dims)?;
        let mismatch =
            || Error::shape(format!("shape {:?} does not broadcast to {dims:?}", self.dims));
        let lead = dims.len().checked_sub(self.dims.len()).ok_or_else(mismatch)?;
        let mut steps = vec![0; lead];
        for ((&own, &wanted), stride) in
            self.dims.iter().zip(&dims[lead..]).zip(strides(&self.dims))
        {
            match own {
                1 => steps.push(0),
                _ if own == wanted => steps.push(stride),
                _ => return Err(mismatch()),
            }
        }
        // Whole filters are made of one number.
        if self.len() == 1 {
            return Ok(self.filled(dims));
        }
        Ok(self.gathered(dims, |i| offset(i, dims, &steps)))
    }
}

/// Row-major strides.
pub(super) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i];
    }
    strides
}

/// Where the element at flat position `i` of a row-major tensor of `dims` lies, with these steps.
pub(super) fn offset(mut i: usize, dims: &[usize], steps: &[usize]) -> usize {
    let mut offset = 0;
    for (&d, &step) in dims.iter().zip(steps).rev() {
        offset += i % d * step;
        i /= d;
    }
    offset
}

/// Number of elements of a tensor of `dims`, bounded. So is the product of its other extents where
/// one is 0.
pub(super) fn elements(dims: &[usize]) -> Result<usize> {
    dims.iter()
        .try_fold(1usize, |a, &d| a.checked_mul(d.max(1)).filter(|&e| e <= MAX_ELEMENTS))
        .map(|e| if dims.contains(&0) { 0 } else { e })
        .ok_or_else(|| Error::shape(format!("shape {dims:?} has over {MAX_ELEMENTS} elements")))
}

/// The extents of a stored tensor.
pub(super) fn stored_dims(proto: &TensorProto) -> Result<Vec<usize>> {
    let dims = proto.dims.iter().map(|&d| usize::try_from(d));
    let dims: Vec<usize> = dims
        .collect::<Result<_, _>>()
        .map_err(|_| Error::format(format!("shape {:?} has a negative extent", proto.dims)))?;
    elements(&dims)?;
    Ok(dims)
}

/// Reads a stored tensor; `folder` is where external data may lie.
///
/// # Errors
/// An element type without a use here, data of the wrong length, or external data outside the
/// folder; names the tensor.
pub(super) fn decode(proto: &TensorProto, folder: Option<&Path>) -> Result<Tensor> {
    let read = || {
        let dims = stored_dims(proto)?;
        let data = decode_data(proto, elements(&dims)?, folder)?;
        Ok(Tensor { dims, data, elem_type: proto.data_type, integers: None })
    };
    read().map_err(|e: Error| {
        Error::new(e.kind(), format!("tensor '{}': {e}", proto.name)).caused_by(e)
    })
}

fn decode_data(proto: &TensorProto, len: usize, folder: Option<&Path>) -> Result<Data> {
    let external = proto.data_location == 1;
    let bytes_per_element = match proto.data_type {
        dtype::FLOAT | dtype::INT32 => 4,
        dtype::DOUBLE | dtype::INT64 => 8,
        dtype::FLOAT16 | dtype::BFLOAT16 | dtype::INT16 | dtype::UINT16 => 2,
        dtype::INT8 | dtype::UINT8 | dtype::BOOL => 1,
        other => return Err(Error::unsupported(format!("element type {other}"))),
    };
    let external_bytes;
    let bytes: &[u8] = if external {
        external_bytes = read_external(proto, len * bytes_per_element, folder)?;
        &external_bytes
    } else {
        &proto.raw_data
    };
    if bytes.is_empty() {
        return typed_data(proto, len);
    }
    if bytes.len() != len * bytes_per_element {
        return Err(Error::format(format!(
            "{} bytes of data for {len} elements of {bytes_per_element} bytes",
            bytes.len()
        )));
    }
    Ok(match proto.data_type {
        dtype::FLOAT => Data::Float(le(bytes, f32::from_le_bytes)),
        dtype::DOUBLE => Data::Float(le(bytes, |b| f64::from_le_bytes(b) as f32)),
        dtype::FLOAT16 => Data::Float(le(bytes, |b| f16::from_le_bytes(b).to_f32())),
        dtype::BFLOAT16 => Data::Float(le(bytes, |b| bf16::from_le_bytes(b).to_f32())),
        dtype::INT64 => Data::Int(le(bytes, i64::from_le_bytes)),
        dtype::INT32 => Data::Int(le(bytes, |b| i32::from_le_bytes(b).into())),
        dtype::INT16 => Data::Int(le(bytes, |b| i16::from_le_bytes(b).into())),
        dtype::UINT16 => Data::Int(le(bytes, |b| u16::from_le_bytes(b).into())),
        dtype::INT8 => Data::Int(bytes.iter().map(|&b| (b as i8).into()).collect()),
        _ => Data::Int(bytes.iter().map(|&b| b.into()).collect()),
    })
}

fn le<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&b| convert(b)).collect()
}

/// Data in the fields that the element type assigns to it.
fn typed_data(proto: &TensorProto, len: usize) -> Result<Data> {
    // Narrow types are stored one element per int32.
    let narrow = &proto.int32_data;
    let data = match proto.data_type {
        dtype::FLOAT => Data::Float(proto.float_data.clone()),
        dtype::DOUBLE => Data::Float(proto.double_data.iter().map(|&v| v as f32).collect()),
        dtype::FLOAT16 => {
            Data::Float(narrow.iter().map(|&v| f16::from_bits(v as u16).to_f32()).collect())
        }
        dtype::BFLOAT16 => {
            Data::Float(narrow.iter().map(|&v| bf16::from_bits(v as u16).to_f32()).collect())
        }
        dtype::INT64 => Data::Int(proto.int64_data.clone()),
        _ => Data::Int(narrow.iter().map(|&v| v.into()).collect()),
    };
    let tensor = Tensor::new(&[], data);
    if tensor.len() != len {
        return Err(Error::format(format!("{} elements of data for {len}", tensor.len())));
    }
    Ok(tensor.data)
}

/// Reads `len_bytes` of external data. Only a relative path that stays inside the folder is
/// followed, also through symbolic links.
fn read_external(proto: &TensorProto, len_bytes: usize, folder: Option<&Path>) -> Result<Vec<u8>> {
    let entry =
        |key: &str| proto.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let number = |key: &str| {
        let parse = |v: &str| {
            v.parse::<u64>().map_err(|_| Error::format(format!("external data: {key} '{v}'")))
        };
        entry(key).map(parse).transpose()
    };
    let Some(folder) = folder else {
        return Err(Error::invalid("external data, but the model was not read from a folder"));
    };
    let location = entry("location").ok_or_else(|| Error::format("external data: no location"))?;
    let path = Path::new(location);
    if !path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::format(format!(
            "external data '{location}' is not a relative path inside the model's folder"
        )));
    }
    let io = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |e| Error::io(&path, action, e)
    };
    let folder = folder.canonicalize().map_err(io("resolve", folder))?;
    let joined = folder.join(path);
    let path = joined.canonicalize().map_err(io("resolve", &joined))?;
    if !path.starts_with(&folder) {
        return Err(Error::format(format!(
            "external data '{location}' is a link out of the model's folder"
        )));
    }
    let (mut file, file_len) = open_regular(&path)?;
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(len_bytes as u64);
    let end = offset.checked_add(length);
    if length != len_bytes as u64 || end.is_none_or(|end| end > file_len as u64) {
        return Err(Error::format(format!(
            "external data '{location}' of {file_len} bytes: offset {offset} and length {length} \
             for a tensor of {len_bytes} bytes"
        )));
    }
    file.seek(SeekFrom::Start(offset)).map_err(io("read", &path))?;
    let mut bytes = vec![0; len_bytes];
    file.read_exact(&mut bytes).map_err(io("read", &path))?;
    Ok(bytes)
}
