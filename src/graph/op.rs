//! The closed operator set, its attributes, and what each operator accepts.

use super::quantization::check_constants;
use super::shape::{MAX_DIM, Shape};
use super::{ConstId, ConstSpec, Quantization};
use crate::error::{Error, Result};

/// Bounds applied after an operator: `min(max(x, min), max)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    /// Lower bound, possibly `-inf`.
    pub min: f32,
    /// Upper bound, possibly `inf`.
    pub max: f32,
}

impl Clamp {
    /// No bounds.
    pub const NONE: Self = Self { min: f32::NEG_INFINITY, max: f32::INFINITY };
    /// Rectified linear unit.
    pub const RELU: Self = Self { min: 0.0, max: f32::INFINITY };
}

/// Zeros (or `value`s of [`Op::Pad`]) around an image, in elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pad {
    /// Rows above.
    pub top: usize,
    /// Columns before.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns after.
    pub right: usize,
}

impl Pad {
    /// The same padding on all four sides.
    pub fn all(n: usize) -> Self {
        Self { top: n, left: n, bottom: n, right: n }
    }
}

/// Convolution (cross-correlation) with bias, optional residual and clamp.
///
/// Operands: the input, then, if `residual`, a value of the output's shape added before the clamp.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// `OIHW`: `[oc, ic / groups, kh, kw]`.
    pub weights: ConstId,
    /// `[oc]`; absent means zero.
    pub bias: Option<ConstId>,
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zeros around the input.
    pub pad: Pad,
    /// Vertical and horizontal dilation.
    pub dilation: [usize; 2],
    /// Number of channel groups.
    pub groups: usize,
    /// Whether operand 1 is added before the clamp.
    pub residual: bool,
    /// Bounds of the result.
    pub clamp: Clamp,
    /// `[oc]`. If present, the weights are i8, the bias is i32 in units of the input's scale times
    /// these scales, and the convolution computes in int8.
    pub weight_scales: Option<ConstId>,
    /// Of a residual int8 convolution: what its own sum is rounded to before the residual is added,
    /// as in networks that were quantized before convolution and addition were fused.
    pub before_add: Option<Quantization>,
}

impl Conv {
    /// A convolution with a 1x1 kernel, stride 1 and nothing fused.
    pub fn pointwise(weights: ConstId, bias: Option<ConstId>) -> Self {
        Self {
            weights,
            bias,
            stride: [1; 2],
            pad: Pad::default(),
            dilation: [1; 2],
            groups: 1,
            residual: false,
            clamp: Clamp::NONE,
            weight_scales: None,
            before_add: None,
        }
    }
}

/// What a pool computes over its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// The maximum; padding never wins.
    Max,
    /// The mean over the window's elements inside the image, or inside image and padding. What
    /// `ceil_mode` adds beyond the padding never counts.
    Average {
        /// Whether padding counts in the divisor.
        count_include_pad: bool,
    },
}

/// Pooling over windows of each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Maximum or average.
    pub kind: PoolKind,
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Padding around the input.
    pub pad: Pad,
    /// Vertical and horizontal dilation.
    pub dilation: [usize; 2],
    /// Whether a last partial window counts (ONNX `ceil_mode`).
    pub ceil_mode: bool,
}

/// Fully connected layer over an input whose `h = w = 1`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `[out, in]`.
    pub weights: ConstId,
    /// `[out]`; absent means zero.
    pub bias: Option<ConstId>,
    /// Bounds of the result.
    pub clamp: Clamp,
    /// `[out]`; see [`Conv::weight_scales`].
    pub weight_scales: Option<ConstId>,
}

impl Linear {
    /// A linear layer in f32 with nothing fused.
    pub fn new(weights: ConstId, bias: Option<ConstId>) -> Self {
        Self { weights, bias, clamp: Clamp::NONE, weight_scales: None }
    }
}

/// `x * scale + shift` per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// `[c]`.
    pub scale: ConstId,
    /// `[c]`.
    pub shift: ConstId,
    /// Bounds of the result.
    pub clamp: Clamp,
}

/// A rectangular, possibly strided part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// First channel, row and column.
    pub start: [usize; 3],
    /// Step of channel, row and column, at least 1.
    pub step: [usize; 3],
    /// Number of channels; rows and columns run to `end` (exclusive, clipped to the image).
    pub end: [usize; 3],
}

/// An operator. All take one operand unless said otherwise.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// See [`Conv`].
    Conv(Conv),
    /// See [`Pool`].
    Pool(Pool),
    /// Mean over `h` and `w`.
    GlobalAveragePool,
    /// See [`Linear`].
    Linear(Linear),
    /// Sum of two operands of one shape, then clamp.
    Add(Clamp),
    /// See [`Affine`].
    Affine(Affine),
    /// Bounds alone.
    Clamp(Clamp),
    /// Operands (at least one) of equal `h` and `w`, concatenated over channels.
    Concat,
    /// Constant padding: channels before and after, and a spatial frame.
    Pad {
        /// Channels before and after.
        channels: [usize; 2],
        /// Spatial frame.
        frame: Pad,
        /// The padding's value.
        value: f32,
    },
    /// See [`Slice`].
    Slice(Slice),
    /// `[C, H, W]` to a vector of `C*H*W` channels.
    Flatten {
        /// Whether the vector runs through `H, W, C` (an NHWC source) and not `C, H, W`.
        channels_last: bool,
    },
    /// Softmax over channels, or its logarithm.
    Softmax {
        /// Whether to return the logarithm.
        log: bool,
    },
    /// A constant `[c, h, w]` image, the same for every image of the batch; no operands.
    Constant(ConstId),
}

impl Op {
    /// The operator's name in messages and plan dumps.
    pub fn kind(&self) -> &'static str {
        match self {
            Op::Conv(_) => "Conv",
            Op::Pool(Pool { kind: PoolKind::Max, .. }) => "MaxPool",
            Op::Pool(_) => "AveragePool",
            Op::GlobalAveragePool => "GlobalAveragePool",
            Op::Linear(_) => "Linear",
            Op::Add(_) => "Add",
            Op::Affine(_) => "Affine",
            Op::Clamp(_) => "Clamp",
            Op::Concat => "Concat",
            Op::Pad { .. } => "Pad",
            Op::Slice(_) => "Slice",
            Op::Flatten { .. } => "Flatten",
            Op::Softmax { log: false } => "Softmax",
            Op::Softmax { log: true } => "LogSoftmax",
            Op::Constant(_) => "Constant",
        }
    }

    /// The constants it reads.
    pub fn constants(&self) -> impl Iterator<Item = ConstId> {
        let ids = match self {
            Op::Conv(c) => [Some(c.weights), c.bias, c.weight_scales],
            Op::Linear(l) => [Some(l.weights), l.bias, l.weight_scales],
            Op::Affine(a) => [Some(a.scale), Some(a.shift), None],
            Op::Constant(c) => [Some(*c), None, None],
            _ => [None; 3],
        };
        ids.into_iter().flatten()
    }

    /// The constants it reads, to be renumbered.
    pub(crate) fn constants_mut(&mut self) -> impl Iterator<Item = &mut ConstId> {
        let ids = match self {
            Op::Conv(c) => [Some(&mut c.weights), c.bias.as_mut(), c.weight_scales.as_mut()],
            Op::Linear(l) => [Some(&mut l.weights), l.bias.as_mut(), l.weight_scales.as_mut()],
            Op::Affine(a) => [Some(&mut a.scale), Some(&mut a.shift), None],
            Op::Constant(c) => [Some(c), None, None],
            _ => [None, None, None],
        };
        ids.into_iter().flatten()
    }

    /// The bounds of its result.
    pub fn clamp(&self) -> Clamp {
        match self {
            Op::Conv(Conv { clamp, .. })
            | Op::Linear(Linear { clamp, .. })
            | Op::Affine(Affine { clamp, .. })
            | Op::Add(clamp)
            | Op::Clamp(clamp) => *clamp,
            _ => Clamp::NONE,
        }
    }

    /// The clamp it applies last, where it has one to set.
    pub fn clamp_mut(&mut self) -> Option<&mut Clamp> {
        match self {
            Op::Conv(Conv { clamp, .. })
            | Op::Linear(Linear { clamp, .. })
            | Op::Affine(Affine { clamp, .. })
            | Op::Add(clamp)
            | Op::Clamp(clamp) => Some(clamp),
            _ => None,
        }
    }

    /// Checks operand count, constant shapes and attribute ranges.
    pub(crate) fn check(&self, nb_inputs: usize, constants: &[ConstSpec]) -> Result<()> {
        let expected = match self {
            Op::Constant(_) => 0,
            Op::Add(_) => 2,
            Op::Conv(c) => 1 + usize::from(c.residual),
            Op::Concat => nb_inputs.max(1),
            _ => 1,
        };
        if nb_inputs != expected {
            return Err(Error::format(format!("{nb_inputs} operands, expected {expected}")));
        }
        if let Some(id) = self.constants().find(|id| id.0 as usize >= constants.len()) {
            return Err(Error::format(format!("constant {} does not exist", id.0)));
        }
        check_constants(self, constants)?;
        let shape = |id: ConstId| constants[id.0 as usize].shape.as_slice();
        let vector = |id: Option<ConstId>, len: usize, what: &str| match id {
            Some(id) if shape(id) != [len] => Err(Error::shape(format!(
                "{what} '{}' has shape {:?}, expected [{len}]",
                constants[id.0 as usize].name,
                shape(id)
            ))),
            _ => Ok(()),
        };
        let clamp = self.clamp();
        if clamp.min.is_nan() || clamp.max.is_nan() {
            return Err(Error::format("a bound of the clamp is not a number"));
        }
        match self {
            Op::Conv(conv) => {
                let &[oc, icg, kh, kw] = shape(conv.weights) else {
                    return Err(Error::shape(format!(
                        "weights have shape {:?}, expected 4 axes (OIHW)",
                        shape(conv.weights)
                    )));
                };
                range("output channels", &[oc])?;
                range("input channels per group", &[icg])?;
                range("groups", &[conv.groups])?;
                if oc % conv.groups != 0 {
                    return Err(Error::shape(format!(
                        "{oc} output channels do not divide into {} groups",
                        conv.groups
                    )));
                }
                window([kh, kw], conv.stride, conv.pad, conv.dilation)?;
                vector(conv.bias, oc, "bias")?;
                if conv.before_add.is_some() && !(conv.residual && conv.weight_scales.is_some()) {
                    return Err(Error::format("rounds before an addition that it does not have"));
                }
                conv.before_add.as_ref().map_or(Ok(()), Quantization::check)
            }
            Op::Pool(p) => {
                window(p.kernel, p.stride, p.pad, p.dilation)?;
                // Else a window could see nothing but padding.
                let Pad { top, left, bottom, right } = p.pad;
                let extent = [0, 1].map(|i| (p.kernel[i] - 1) * p.dilation[i] + 1);
                if top.max(bottom) >= extent[0] || left.max(right) >= extent[1] {
                    return Err(Error::shape(format!(
                        "padding {:?} is not smaller than the window of {extent:?}",
                        p.pad
                    )));
                }
                Ok(())
            }
            Op::Linear(l) => {
                let &[out, inp] = shape(l.weights) else {
                    return Err(Error::shape(format!(
                        "weights have shape {:?}, expected [out, in]",
                        shape(l.weights)
                    )));
                };
                // VGG's first fully connected layer has 25,088 inputs.
                range("outputs", &[out])?;
                range("inputs", &[inp])?;
                vector(l.bias, out, "bias")
            }
            Op::Affine(a) => {
                let c = constants[a.scale.0 as usize].len();
                vector(Some(a.scale), c, "scale")?;
                vector(Some(a.shift), c, "shift")
            }
            Op::Pad { channels, frame, .. } => {
                at_most("channel padding", channels)?;
                at_most("padding", &[frame.top, frame.left, frame.bottom, frame.right])
            }
            Op::Slice(s) => {
                at_most("slice start", &s.start)?;
                range("slice step", &s.step)
            }
            Op::Constant(id) if shape(*id).len() != 3 => {
                Err(Error::shape(format!("constant has shape {:?}, expected CHW", shape(*id))))
            }
            _ => Ok(()),
        }
    }

    /// The output's shape for the operands' shapes.
    pub(crate) fn output_shape(&self, x: &[Shape], constants: &[ConstSpec]) -> Result<Shape> {
        let const_shape = |id: ConstId| constants[id.0 as usize].shape.as_slice();
        match self {
            Op::Conv(conv) => {
                let &[oc, icg, kh, kw] = const_shape(conv.weights) else {
                    unreachable!("checked by Op::check")
                };
                if x[0].c != icg * conv.groups {
                    return Err(Error::shape(format!(
                        "input has {} channels, the weights expect {}",
                        x[0].c,
                        icg * conv.groups
                    )));
                }
                let (h, w) = windows([kh, kw], conv.stride, conv.pad, conv.dilation, false, x[0])?;
                let out = Shape::new(oc, h, w);
                if conv.residual && x[1] != out {
                    return Err(Error::shape(format!(
                        "the residual operand has shape {}, expected {out}",
                        x[1]
                    )));
                }
                Ok(out)
            }
            Op::Pool(p) => {
                let (h, w) = windows(p.kernel, p.stride, p.pad, p.dilation, p.ceil_mode, x[0])?;
                Ok(Shape::new(x[0].c, h, w))
            }
            Op::GlobalAveragePool => Ok(Shape::vector(x[0].c)),
            Op::Linear(l) => {
                let &[out, inp] = const_shape(l.weights) else {
                    unreachable!("checked by Op::check")
                };
                if x[0] != Shape::vector(inp) {
                    return Err(Error::shape(format!(
                        "input has shape {}, the weights expect {inp} features; this network \
                         needs the input size it was exported with",
                        x[0]
                    )));
                }
                Ok(Shape::vector(out))
            }
            Op::Add(_) => {
                if x[0] != x[1] {
                    return Err(Error::shape(format!(
                        "operands have shapes {} and {}, expected equal ones",
                        x[0], x[1]
                    )));
                }
                Ok(x[0])
            }
            Op::Affine(a) => {
                let c = const_shape(a.scale)[0];
                if x[0].c != c {
                    return Err(Error::shape(format!(
                        "input has {} channels, the scale has {c}",
                        x[0].c
                    )));
                }
                Ok(x[0])
            }
            Op::Clamp(_) | Op::Softmax { .. } => Ok(x[0]),
            Op::Concat => {
                let same = x.iter().all(|s| (s.h, s.w) == (x[0].h, x[0].w));
                if !same {
                    return Err(Error::shape(format!("operands {x:?} differ in height or width")));
                }
                Ok(Shape::new(x.iter().map(|s| s.c).sum(), x[0].h, x[0].w))
            }
            Op::Pad { channels, frame, .. } => Ok(Shape::new(
                channels[0] + x[0].c + channels[1],
                frame.top + x[0].h + frame.bottom,
                frame.left + x[0].w + frame.right,
            )),
            Op::Slice(s) => {
                let dims = [x[0].c, x[0].h, x[0].w];
                let mut out = [0; 3];
                for i in 0..3 {
                    let end = s.end[i].min(dims[i]);
                    out[i] = end.saturating_sub(s.start[i]).div_ceil(s.step[i]);
                }
                Ok(Shape::new(out[0], out[1], out[2]))
            }
            Op::Flatten { .. } => Ok(Shape::vector(x[0].len())),
            Op::Constant(id) => {
                let d = const_shape(*id);
                Ok(Shape::new(d[0], d[1], d[2]))
            }
        }
    }

    /// Multiply-accumulates per image.
    pub fn macs(&self, constants: &[ConstSpec], output: Shape) -> u64 {
        match self {
            Op::Conv(c) => {
                let per_output: usize = constants[c.weights.0 as usize].shape[1..].iter().product();
                per_output as u64 * output.len() as u64
            }
            Op::Linear(l) => constants[l.weights.0 as usize].len() as u64,
            _ => 0,
        }
    }
}

fn range(what: &str, values: &[usize]) -> Result<()> {
    match values.iter().find(|v| !(1..=MAX_DIM).contains(*v)) {
        Some(v) => Err(Error::shape(format!("{what} is {v}, expected 1..={MAX_DIM}"))),
        None => Ok(()),
    }
}

fn at_most(what: &str, values: &[usize]) -> Result<()> {
    match values.iter().find(|v| **v > MAX_DIM) {
        Some(v) => Err(Error::shape(format!("{what} is {v}, expected at most {MAX_DIM}"))),
        None => Ok(()),
    }
}

fn window(kernel: [usize; 2], stride: [usize; 2], pad: Pad, dilation: [usize; 2]) -> Result<()> {
    range("kernel", &kernel)?;
    range("stride", &stride)?;
    range("dilation", &dilation)?;
    at_most("padding", &[pad.top, pad.left, pad.bottom, pad.right])
}

/// Output height and width of a sliding window (ONNX `Conv`/`Pool` formulas).
fn windows(
    kernel: [usize; 2],
    stride: [usize; 2],
    pad: Pad,
    dilation: [usize; 2],
    ceil_mode: bool,
    input: Shape,
) -> Result<(usize, usize)> {
    let axis = |size: usize, before: usize, after: usize, i: usize| {
        let extent = (kernel[i] - 1) * dilation[i] + 1;
        let Some(room) = (size + before + after).checked_sub(extent) else {
            return Err(Error::shape(format!(
                "a window of {extent} (dilated) does not fit {size}+{} padded elements",
                before + after
            )));
        };
        let mut n = room / stride[i] + 1;
        // A last partial window counts only if it starts inside the image or its leading padding.
        if ceil_mode && !room.is_multiple_of(stride[i]) && n * stride[i] < size + before {
            n += 1;
        }
        Ok(n)
    };
    Ok((axis(input.h, pad.top, pad.bottom, 0)?, axis(input.w, pad.left, pad.right, 1)?))
}
