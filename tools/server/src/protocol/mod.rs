//! The Open Inference Protocol's request and response bodies: JSON, and the binary tensor extension.
//!
//! Sources: KServe's open-inference-protocol (REST), Triton's extensions for binary tensors and
//! classification.

mod numbers;
pub(crate) mod request;
pub(crate) mod response;

/// Length of the JSON part of a body that goes on with binary tensors.
pub(crate) const HEADER_LENGTH: &str = "inference-header-content-length";

/// A tensor's element type on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Datatype {
    Fp32,
    Uint8,
    /// Byte strings: image files in requests, `value:index:label` in answers.
    Bytes,
}

impl Datatype {
    const ALL: [Self; 3] = [Self::Fp32, Self::Uint8, Self::Bytes];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "FP32",
            Self::Uint8 => "UINT8",
            Self::Bytes => "BYTES",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}
