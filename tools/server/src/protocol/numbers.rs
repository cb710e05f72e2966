//! Tensor data in JSON: numbers in flat or nested arrays.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use crate::error::{ApiError, ApiResult};

/// An element that JSON numbers can be.
pub(super) trait Element: Copy {
    const EXPECTED: &'static str;
    fn from_float(value: f64) -> Option<Self>;
    fn from_integer(value: u64) -> Option<Self>;
}

impl Element for f32 {
    const EXPECTED: &'static str = "numbers within the range of FP32";
    fn from_float(value: f64) -> Option<Self> {
        Some(value as f32).filter(|v| v.is_finite())
    }
    fn from_integer(value: u64) -> Option<Self> {
        Some(value as f32)
    }
}

impl Element for u8 {
    const EXPECTED: &'static str = "integers from 0 to 255";
    fn from_float(_: f64) -> Option<Self> {
        None
    }
    fn from_integer(value: u64) -> Option<Self> {
        Self::try_from(value).ok()
    }
}

/// Exactly `len` numbers in row-major order, however they are nested.
pub(super) fn parse<T: Element>(json: &str, len: usize) -> ApiResult<Vec<T>> {
    let mut numbers = Vec::with_capacity(len);
    let mut json = serde_json::Deserializer::from_str(json);
    Flatten { into: &mut numbers, len, element: PhantomData }
        .deserialize(&mut json)
        .map_err(|e| ApiError::bad_request(e.to_string()))?;
    if numbers.len() < len {
        let message = format!("{} elements in data, the shape has {len}", numbers.len());
        return Err(ApiError::bad_request(message));
    }
    Ok(numbers)
}

struct Flatten<'v, T> {
    into: &'v mut Vec<T>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Flatten<'_, T> {
    fn push<E: Error>(self, value: Option<T>) -> Result<(), E> {
        if self.into.len() == self.len {
            return Err(E::custom(format!("more than the shape's {} elements in data", self.len)));
        }
        self.into.push(value.ok_or_else(|| E::custom(format!("expected {}", T::EXPECTED)))?);
        Ok(())
    }
}

impl<'de, T: Element> DeserializeSeed<'de> for Flatten<'_, T> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, T: Element> Visitor<'de> for Flatten<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.push(T::from_float(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.push(T::from_integer(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.push(T::from_float(value as f64))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { into, len, element } = self;
        while seq.next_element_seed(Flatten { into, len, element })?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_does_not_matter() {
        let expected = [1.0f32, -2.5, 3.0, 4.0];
        for json in ["[1, -2.5, 3, 4]", "[[1, -2.5], [3, 4]]", "[[[1], [-2.5]], [3], 4]"] {
            assert_eq!(parse::<f32>(json, 4).unwrap(), expected);
        }
    }

    #[test]
    fn wrong_data_are_errors() {
        for (json, len) in
            [("[1, 2]", 3), ("[1, 2]", 1), ("[1e39]", 1), ("[\"1\"]", 1), ("[null]", 1)]
        {
            assert!(parse::<f32>(json, len).is_err(), "{json}");
        }
        for json in ["[256]", "[-1]", "[1.5]", "[true]"] {
            assert!(parse::<u8>(json, 1).is_err(), "{json}");
        }
        assert_eq!(parse::<u8>("[0, 255]", 2).unwrap(), [0, 255]);
    }
}
