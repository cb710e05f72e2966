//! Inference requests.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

use super::{Datatype, numbers};
use crate::error::{ApiError, ApiResult};
use crate::limits::{MAX_JSON_DEPTH, MAX_TENSORS};

/// A request, its tensors not yet held against a model.
pub(crate) struct Request {
    pub(crate) id: Option<String>,
    /// Microseconds, as Triton's `timeout`.
    pub(crate) timeout_us: Option<u64>,
    pub(crate) inputs: Vec<Input>,
    /// What is asked for; everything, if empty.
    pub(crate) outputs: Vec<Output>,
    /// Whether outputs that do not say otherwise are binary.
    pub(crate) binary_outputs: bool,
}

/// An input tensor as it came.
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) datatype: Datatype,
    pub(crate) shape: Vec<usize>,
    data: Data,
}

enum Data {
    Json(Box<RawValue>),
    Binary(Bytes),
}

/// A wish for an output tensor.
pub(crate) struct Output {
    pub(crate) name: String,
    /// The best so many classes instead of the tensor.
    pub(crate) classification: Option<usize>,
    pub(crate) binary: bool,
}

#[derive(Deserialize)]
struct WireRequest<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    parameters: WireParameters,
    #[serde(borrow)]
    inputs: Vec<WireInput<'a>>,
    #[serde(borrow, default)]
    outputs: Vec<WireOutput<'a>>,
}

#[derive(Default, Deserialize)]
struct WireParameters {
    timeout: Option<u64>,
    binary_data_output: Option<bool>,
}

#[derive(Deserialize)]
struct WireInput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    shape: Vec<u32>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default)]
    parameters: WireInputParameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct WireInputParameters {
    binary_data_size: Option<usize>,
}

#[derive(Deserialize)]
struct WireOutput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    parameters: WireOutputParameters,
}

#[derive(Default, Deserialize)]
struct WireOutputParameters {
    classification: Option<usize>,
    binary_data: Option<bool>,
}

impl Request {
    /// Reads a body; `header_len` is the length of its JSON part, if binary tensors may follow.
    pub(crate) fn parse(body: &Bytes, header_len: Option<usize>) -> ApiResult<Self> {
        let json_len = header_len.unwrap_or(body.len());
        if json_len > body.len() {
            return Err(ApiError::bad_request(format!(
                "the JSON header is said to have {json_len} bytes, the body has {}",
                body.len()
            )));
        }
        let mut binary = body.slice(json_len..);
        check_depth(&body[..json_len])?;
        let wire: WireRequest<'_> = serde_json::from_slice(&body[..json_len])
            .map_err(|e| ApiError::bad_request(format!("not an inference request: {e}")))?;
        if wire.inputs.len().max(wire.outputs.len()) > MAX_TENSORS {
            return Err(ApiError::bad_request(format!("more than {MAX_TENSORS} tensors")));
        }
        let binary_outputs = wire.parameters.binary_data_output.unwrap_or(false);
        let inputs = wire.inputs.into_iter().map(|input| Input::new(input, &mut binary));
        let inputs = inputs.collect::<ApiResult<Vec<_>>>()?;
        if !binary.is_empty() {
            let message = format!("{} bytes of the body belong to no input", binary.len());
            return Err(ApiError::bad_request(message));
        }
        let outputs = wire.outputs.into_iter().map(|output| Output {
            name: output.name.into_owned(),
            classification: output.parameters.classification.filter(|k| *k > 0),
            binary: output.parameters.binary_data.unwrap_or(binary_outputs),
        });
        Ok(Self {
            id: wire.id.map(Cow::into_owned),
            timeout_us: wire.parameters.timeout.filter(|us| *us > 0),
            inputs,
            outputs: outputs.collect(),
            binary_outputs,
        })
    }
}

impl Input {
    /// Takes the tensor's share from the front of `binary`.
    fn new(wire: WireInput<'_>, binary: &mut Bytes) -> ApiResult<Self> {
        let name = wire.name.into_owned();
        let datatype = Datatype::from_name(&wire.datatype).ok_or_else(|| {
            let known = Datatype::ALL.map(Datatype::name).join(", ");
            let message = format!("datatype {}, expected one of {known}", wire.datatype);
            ApiError::bad_request(message).about(&name)
        })?;
        let data = match (wire.data, wire.parameters.binary_data_size) {
            (Some(json), None) => Data::Json(json.to_owned()),
            (None, Some(size)) if size <= binary.len() => Data::Binary(binary.split_to(size)),
            (None, Some(size)) => {
                return Err(ApiError::bad_request(format!(
                    "binary_data_size is {size}, the body has {} bytes left",
                    binary.len()
                ))
                .about(&name));
            }
            _ => {
                let message = "expected either data or the parameter binary_data_size";
                return Err(ApiError::bad_request(message).about(&name));
            }
        };
        let shape = wire.shape.into_iter().map(|n| n as usize).collect();
        Ok(Self { name, datatype, shape, data })
    }

    /// Whether taking the elements out is cheap enough for a thread that serves connections.
    pub(crate) fn is_cheap(&self) -> bool {
        matches!(self.data, Data::Binary(_)) && self.datatype != Datatype::Bytes
    }

    /// The elements of an FP32 tensor; `len` is what its shape says.
    pub(crate) fn floats(&self, len: usize) -> ApiResult<Vec<f32>> {
        match &self.data {
            Data::Json(json) => numbers::parse(json.get(), len),
            Data::Binary(bytes) => {
                check_size(bytes, len * size_of::<f32>())?;
                let (values, _) = bytes.as_chunks();
                Ok(values.iter().map(|v| f32::from_le_bytes(*v)).collect())
            }
        }
    }

    /// The elements of a UINT8 tensor; `len` is what its shape says.
    pub(crate) fn octets(&self, len: usize) -> ApiResult<Bytes> {
        match &self.data {
            Data::Json(json) => numbers::parse(json.get(), len).map(Bytes::from),
            Data::Binary(bytes) => check_size(bytes, len).map(|()| bytes.clone()),
        }
    }

    /// The elements of a BYTES tensor; in JSON they are base64. `len` is what the shape says.
    pub(crate) fn strings(&self, len: usize) -> ApiResult<Vec<Bytes>> {
        let strings = match &self.data {
            Data::Json(json) => base64_strings(json.get(), len)?,
            Data::Binary(bytes) => split_strings(bytes.clone(), len)?,
        };
        if strings.len() == len {
            return Ok(strings);
        }
        let message = format!("{} elements in data, the shape has {len}", strings.len());
        Err(ApiError::bad_request(message))
    }
}

fn check_size(bytes: &Bytes, expected: usize) -> ApiResult<()> {
    if bytes.len() == expected {
        return Ok(());
    }
    let message = format!("{} bytes of data, the shape needs {expected}", bytes.len());
    Err(ApiError::bad_request(message))
}

fn base64_strings(json: &str, len: usize) -> ApiResult<Vec<Bytes>> {
    let bad =
        |message: String| ApiError::bad_request(format!("expected base64 strings: {message}"));
    let strings: Vec<Cow<'_, str>> = serde_json::from_str(json).map_err(|e| bad(e.to_string()))?;
    let decode = |s: &Cow<'_, str>| BASE64_STANDARD.decode(s.as_ref()).map(Bytes::from);
    let decoded = strings.iter().take(len + 1).map(decode).collect::<Result<_, _>>();
    decoded.map_err(|e| bad(e.to_string()))
}

/// Each string follows its length in 4 bytes.
fn split_strings(mut bytes: Bytes, len: usize) -> ApiResult<Vec<Bytes>> {
    let mut strings = vec![];
    while !bytes.is_empty() {
        let size = bytes.first_chunk().map(|size| u32::from_le_bytes(*size) as usize);
        match size {
            Some(size) if size <= bytes.len() - 4 && strings.len() <= len => {
                let _ = bytes.split_to(4);
                strings.push(bytes.split_to(size));
            }
            _ => {
                let message = "the binary data are not the shape's number of byte strings";
                return Err(ApiError::bad_request(message));
            }
        }
    }
    Ok(strings)
}

/// Refuses deep JSON before anything is made of it.
fn check_depth(json: &[u8]) -> ApiResult<()> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_JSON_DEPTH {
            return Err(ApiError::bad_request(format!("JSON deeper than {MAX_JSON_DEPTH} levels")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, binary: &[u8]) -> ApiResult<Request> {
        let body = [json.as_bytes(), binary].concat();
        Request::parse(&body.into(), Some(json.len()))
    }

    #[test]
    fn binary_tensors_follow_the_json() {
        let json = r#"{"id": "7", "parameters": {"timeout": 5, "binary_data_output": true},
            "inputs": [
                {"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
                {"name": "b", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}],
            "outputs": [{"name": "o", "parameters": {"classification": 3}}]}"#;
        let mut binary = [1f32, -2.0].map(f32::to_le_bytes).concat();
        binary.extend([2, 0, 0, 0, b'h', b'i']);
        let request = parse(json, &binary).unwrap();
        assert_eq!(request.inputs[0].floats(2).unwrap(), [1.0, -2.0]);
        assert_eq!(request.inputs[1].strings(1).unwrap(), ["hi"]);
        assert_eq!((request.id.as_deref(), request.timeout_us), (Some("7"), Some(5)));
        assert_eq!(request.outputs[0].classification, Some(3));
        assert!(request.outputs[0].binary);
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let json = |size| {
            format!(
                r#"{{"inputs": [{{"name": "a", "shape": [2], "datatype": "FP32",
                "parameters": {{"binary_data_size": {size}}}}}]}}"#
            )
        };
        assert!(parse(&json(8), &[0; 8]).is_ok());
        for (size, len) in [(8, 7), (8, 9), (usize::MAX, 8), (7, 8)] {
            assert!(parse(&json(size), &vec![0; len]).is_err(), "{size} of {len}");
        }
        let short = parse(&json(4), &[0; 4]).unwrap();
        assert!(short.inputs[0].floats(2).is_err());
        assert!(Request::parse(&Bytes::from_static(b"{}"), Some(3)).is_err());
    }

    #[test]
    fn deep_json_is_refused_whatever_its_strings_say() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(check_depth(nested(MAX_JSON_DEPTH).as_bytes()).is_ok());
        assert!(check_depth(nested(MAX_JSON_DEPTH + 1).as_bytes()).is_err());
        let brackets = format!(r#"["{}\"{}"]"#, "[".repeat(99), "{".repeat(99));
        assert!(check_depth(brackets.as_bytes()).is_ok());
    }

    #[test]
    fn doubled_keys_are_errors() {
        let json = r#"{"inputs": [], "inputs": []}"#;
        assert!(parse(json, &[]).is_err());
    }

    #[test]
    fn strings_must_fill_the_data() {
        let strings = |bytes: &[u8], len| split_strings(Bytes::copy_from_slice(bytes), len);
        assert_eq!(strings(&[1, 0, 0, 0, b'x', 0, 0, 0, 0], 2).unwrap(), ["x", ""]);
        for bad in [&[1, 0, 0, 0][..], &[1, 0, 0], &[255; 8]] {
            assert!(strings(bad, 1).is_err(), "{bad:?}");
        }
        assert!(base64_strings(r#"["aGk="]"#, 1).is_ok_and(|s| s == ["hi"]));
        assert!(base64_strings(r#"["a*"]"#, 1).is_err());
    }
}
