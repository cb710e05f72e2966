//! Shapes of one image, and how users' tensors map onto them.

use std::fmt;

use crate::error::{Error, Result};

/// Largest extent of any axis, and of any kernel, stride or padding.
pub(crate) const MAX_DIM: usize = 1 << 20;
/// Largest number of elements of one image's activation.
pub(crate) const MAX_ELEMENTS: usize = 1 << 31;

/// Extents of one image's activation; the batch is not part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Channels.
    pub c: usize,
    /// Height.
    pub h: usize,
    /// Width.
    pub w: usize,
}

impl Shape {
    /// A shape from its extents.
    pub fn new(c: usize, h: usize, w: usize) -> Self {
        Self { c, h, w }
    }

    /// A vector of `c` channels: `h = w = 1`.
    pub fn vector(c: usize) -> Self {
        Self { c, h: 1, w: 1 }
    }

    /// Number of elements of one image.
    pub fn len(&self) -> usize {
        self.c * self.h * self.w
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks that no extent is zero or absurd, so that later products cannot overflow.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) with the shape and the limit.
    pub fn check(&self) -> Result<()> {
        let dims = [self.c, self.h, self.w];
        let elements = dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
        if dims.iter().any(|&d| d == 0 || d > MAX_DIM) || elements.is_none_or(|e| e > MAX_ELEMENTS)
        {
            return Err(Error::shape(format!(
                "shape {self} is outside 1..={MAX_DIM} per axis or above {MAX_ELEMENTS} elements"
            )));
        }
        Ok(())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.c, self.h, self.w)
    }
}

/// An axis of a user's tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Batch.
    N,
    /// Channel.
    C,
    /// Height.
    H,
    /// Width.
    W,
}

/// The axes of a user's tensor in memory order, e.g. `[N, C, H, W]`, `[N, H, W, C]`, `[N, C]`.
///
/// Axes that are absent have extent 1. `N` comes first when it is present.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AxisOrder(pub Vec<Axis>);

impl AxisOrder {
    /// `[N, C, H, W]`.
    pub fn nchw() -> Self {
        Self(vec![Axis::N, Axis::C, Axis::H, Axis::W])
    }

    /// `[N, H, W, C]`.
    pub fn nhwc() -> Self {
        Self(vec![Axis::N, Axis::H, Axis::W, Axis::C])
    }

    /// `[N, C]`.
    pub fn nc() -> Self {
        Self(vec![Axis::N, Axis::C])
    }

    /// The user's extents for `batch` images of `shape`.
    pub fn dims(&self, batch: usize, shape: Shape) -> Vec<usize> {
        self.0
            .iter()
            .map(|a| match a {
                Axis::N => batch,
                Axis::C => shape.c,
                Axis::H => shape.h,
                Axis::W => shape.w,
            })
            .collect()
    }

    /// Element strides of `(c, h, w)` within one image of a dense tensor with these axes.
    pub fn strides(&self, shape: Shape) -> (usize, usize, usize) {
        let (mut c, mut h, mut w) = (0, 0, 0);
        let mut stride = 1;
        for axis in self.0.iter().rev() {
            match axis {
                Axis::N => {}
                Axis::C => (c, stride) = (stride, stride * shape.c),
                Axis::H => (h, stride) = (stride, stride * shape.h),
                Axis::W => (w, stride) = (stride, stride * shape.w),
            }
        }
        (c, h, w)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let repeated = |a: &Axis| self.0.iter().filter(|b| *b == a).count() > 1;
        if self.0.len() > 4
            || self.0.iter().any(repeated)
            || self.0.iter().skip(1).any(|a| *a == Axis::N)
        {
            return Err(Error::format(format!("axes {:?} are not an order of N, C, H, W", self.0)));
        }
        Ok(())
    }
}

impl fmt::Display for AxisOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|a| write!(f, "{a:?}"))
    }
}
