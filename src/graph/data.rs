//! The values of a constant.

/// Type of a constant's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single.
    #[default]
    F32,
    /// 8 bits, signed: weights of int8 nodes.
    I8,
    /// 32 bits, signed: biases of int8 nodes.
    I32,
}

impl Dtype {
    /// Bytes of an element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::I8 => size_of::<i8>(),
            Self::I32 => size_of::<i32>(),
        }
    }

    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I8 => "i8",
            Self::I32 => "i32",
        }
    }
}

/// A constant's elements, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// See [`Dtype::F32`].
    F32(Vec<f32>),
    /// See [`Dtype::I8`].
    I8(Vec<i8>),
    /// See [`Dtype::I32`].
    I32(Vec<i32>),
}

impl Data {
    /// Type of the elements.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::I8(_) => Dtype::I8,
            Self::I32(_) => Dtype::I32,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::I32(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bits of the elements.
    pub(super) fn bits(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Self::F32(values) => Box::new(values.iter().map(|v| v.to_bits())),
            Self::I8(values) => Box::new(values.iter().map(|v| *v as u32)),
            Self::I32(values) => Box::new(values.iter().map(|v| *v as u32)),
        }
    }

    /// The elements, if they are f32.
    ///
    /// # Panics
    /// If they are not.
    pub fn f32(&self) -> &[f32] {
        match self {
            Self::F32(values) => values,
            other => panic!("{} data where f32 is expected", other.dtype().name()),
        }
    }

    /// The elements, if they are f32, to be changed.
    ///
    /// # Panics
    /// If they are not.
    pub fn f32_mut(&mut self) -> &mut Vec<f32> {
        match self {
            Self::F32(values) => values,
            other => panic!("{} data where f32 is expected", other.dtype().name()),
        }
    }

    /// The elements, if they are i8.
    ///
    /// # Panics
    /// If they are not.
    pub fn i8(&self) -> &[i8] {
        match self {
            Self::I8(values) => values,
            other => panic!("{} data where i8 is expected", other.dtype().name()),
        }
    }

    /// The elements, if they are i32.
    ///
    /// # Panics
    /// If they are not.
    pub fn i32(&self) -> &[i32] {
        match self {
            Self::I32(values) => values,
            other => panic!("{} data where i32 is expected", other.dtype().name()),
        }
    }
}

impl Default for Data {
    fn default() -> Self {
        Self::F32(Vec::new())
    }
}

impl From<Vec<f32>> for Data {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(values)
    }
}

impl From<Vec<i8>> for Data {
    fn from(values: Vec<i8>) -> Self {
        Self::I8(values)
    }
}

impl From<Vec<i32>> for Data {
    fn from(values: Vec<i32>) -> Self {
        Self::I32(values)
    }
}
