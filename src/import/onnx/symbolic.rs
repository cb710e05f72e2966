//! Integers that may depend on the batch: what shape arithmetic computes with.

use crate::error::{Error, Result};

/// `fixed + per_image * N`, where `N` is the batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct SymInt {
    pub(super) fixed: i64,
    pub(super) per_image: i64,
    /// Whether it was computed from an image's height or width, which a plan may override.
    pub(super) from_size: bool,
}

impl SymInt {
    pub(super) fn known(fixed: i64) -> Self {
        Self { fixed, per_image: 0, from_size: false }
    }

    /// `count * N`.
    pub(super) fn images(count: i64) -> Self {
        Self { fixed: 0, per_image: count, from_size: false }
    }

    /// The value, if it does not depend on the batch.
    pub(super) fn value(self) -> Option<i64> {
        (self.per_image == 0).then_some(self.fixed)
    }

    pub(super) fn same(self, other: Self) -> bool {
        (self.fixed, self.per_image) == (other.fixed, other.per_image)
    }

    /// With `batch` put in for `N`, where it is known.
    pub(super) fn at_batch(self, batch: Option<i64>) -> Result<Self> {
        let Some(n) = batch else { return Ok(self) };
        let fixed = self.per_image.checked_mul(n).and_then(|p| p.checked_add(self.fixed));
        Self { per_image: 0, ..self }.with(fixed, Some(0), self)
    }

    pub(super) fn add(self, other: Self) -> Result<Self> {
        self.with(
            self.fixed.checked_add(other.fixed),
            self.per_image.checked_add(other.per_image),
            other,
        )
    }

    pub(super) fn sub(self, other: Self) -> Result<Self> {
        self.with(
            self.fixed.checked_sub(other.fixed),
            self.per_image.checked_sub(other.per_image),
            other,
        )
    }

    pub(super) fn mul(self, other: Self) -> Result<Self> {
        if self.per_image != 0 && other.per_image != 0 {
            return Err(Error::unsupported("a product of two batch sizes"));
        }
        let a = self.per_image.checked_mul(other.fixed);
        let b = self.fixed.checked_mul(other.per_image);
        self.with(
            self.fixed.checked_mul(other.fixed),
            a.zip(b).and_then(|(a, b)| a.checked_add(b)),
            other,
        )
    }

    /// The quotient, rounded towards zero as ONNX does; a batch divides only exactly.
    pub(super) fn div(self, other: Self) -> Result<Self> {
        if let (Some(a), Some(b)) = (self.value(), other.value()) {
            return self.with(a.checked_div(b), Some(0), other);
        }
        let exact = |a: i64, b: i64| (a.checked_rem(b) == Some(0)).then(|| a / b);
        let (fixed, per_image) = match other.value() {
            Some(d) => (exact(self.fixed, d), exact(self.per_image, d)),
            // (a * N) / (b * N)
            None if self.fixed == 0 && other.fixed == 0 => {
                (exact(self.per_image, other.per_image), Some(0))
            }
            None => (None, None),
        };
        if fixed.is_none() || per_image.is_none() {
            return Err(Error::unsupported(format!("{self} / {other} for an unknown batch N")));
        }
        self.with(fixed, per_image, other)
    }

    fn with(self, fixed: Option<i64>, per_image: Option<i64>, other: Self) -> Result<Self> {
        let (Some(fixed), Some(per_image)) = (fixed, per_image) else {
            return Err(Error::format("integer arithmetic overflows or divides by zero"));
        };
        Ok(Self { fixed, per_image, from_size: self.from_size || other.from_size })
    }
}

impl std::fmt::Display for SymInt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.fixed, self.per_image) {
            (fixed, 0) => write!(f, "{fixed}"),
            (0, 1) => f.write_str("N"),
            (0, n) => write!(f, "{n}*N"),
            (fixed, n) => write!(f, "{n}*N+{fixed}"),
        }
    }
}

/// `[a, b, c]` for messages.
pub(super) fn list(dims: &[SymInt]) -> String {
    let dims: Vec<String> = dims.iter().map(SymInt::to_string).collect();
    format!("[{}]", dims.join(", "))
}
