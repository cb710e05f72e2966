//! Inference answers.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;

use super::{Datatype, HEADER_LENGTH};
use crate::error::{ApiError, ApiResult};

/// An answer to be written.
pub(crate) struct Answer<'a> {
    pub(crate) model_name: &'a str,
    pub(crate) model_version: &'a str,
    pub(crate) id: Option<&'a str>,
    pub(crate) outputs: Vec<Output<'a>>,
}

/// An output tensor.
pub(crate) struct Output<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Data<'a>,
    pub(crate) binary: bool,
}

pub(crate) enum Data<'a> {
    Floats(&'a [f32]),
    Strings(Vec<String>),
}

#[derive(Serialize)]
struct WireAnswer<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<WireOutput<'a>>,
}

#[derive(Serialize)]
struct WireOutput<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(flatten)]
    data: WireData<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum WireData<'a> {
    Data(WireValues<'a>),
    Parameters { binary_data_size: usize },
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireValues<'a> {
    Floats(&'a [f32]),
    Strings(&'a [String]),
}

impl Answer<'_> {
    /// The HTTP response: JSON, with the binary tensors behind it.
    pub(crate) fn write(&self) -> ApiResult<Response> {
        let outputs = self.outputs.iter().map(Output::wire).collect::<ApiResult<Vec<_>>>()?;
        let wire = WireAnswer {
            model_name: self.model_name,
            model_version: self.model_version,
            id: self.id,
            outputs,
        };
        let mut body = serde_json::to_vec(&wire).map_err(|e| ApiError::internal(e.to_string()))?;
        let json_len = body.len();
        for output in self.outputs.iter().filter(|o| o.binary) {
            output.data.append_to(&mut body);
        }
        let is_binary = self.outputs.iter().any(|o| o.binary);
        let mut response = Response::new(Body::from(body));
        let headers = response.headers_mut();
        let content_type = if is_binary {
            headers.insert(HEADER_LENGTH, HeaderValue::from(json_len));
            "application/octet-stream"
        } else {
            "application/json"
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Ok(response)
    }
}

impl Output<'_> {
    fn wire(&self) -> ApiResult<WireOutput<'_>> {
        let data = match &self.data {
            data if self.binary => WireData::Parameters { binary_data_size: data.size() },
            Data::Floats(values) if values.iter().any(|v| !v.is_finite()) => {
                let message = "the output has values that JSON cannot hold: ask for binary data";
                return Err(ApiError::bad_request(message).about(self.name));
            }
            Data::Floats(values) => WireData::Data(WireValues::Floats(values)),
            Data::Strings(strings) => WireData::Data(WireValues::Strings(strings)),
        };
        let datatype = match &self.data {
            Data::Floats(_) => Datatype::Fp32,
            Data::Strings(_) => Datatype::Bytes,
        };
        Ok(WireOutput { name: self.name, datatype: datatype.name(), shape: &self.shape, data })
    }
}

impl Data<'_> {
    /// Bytes of the binary form.
    fn size(&self) -> usize {
        match self {
            Self::Floats(values) => size_of_val(*values),
            Self::Strings(strings) => strings.iter().map(|s| 4 + s.len()).sum(),
        }
    }

    fn append_to(&self, body: &mut Vec<u8>) {
        body.reserve(self.size());
        match self {
            Self::Floats(values) => body.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Self::Strings(strings) => {
                for string in strings {
                    body.extend((string.len() as u32).to_le_bytes());
                    body.extend(string.as_bytes());
                }
            }
        }
    }
}
