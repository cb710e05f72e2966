//! Operators that keep each element's place: arithmetic, bounds, normalisation, casts.

use std::rc::Rc;

use super::{Activation, Importer, Operation, Value};
use crate::error::{Error, Result};
use crate::graph::{Affine, Axis, Clamp, Op, Shape, ValueId};
use crate::import::onnx::Holds;
use crate::import::onnx::axes::AxisMap;
use crate::import::onnx::proto::dtype;
use crate::import::onnx::tensor::{Tensor, offset, strides};

/// A constant operand of an activation.
enum Factor {
    /// One number per channel.
    PerChannel(Vec<f32>),
    /// It varies otherwise.
    Image(Rc<Tensor>),
}

impl<'a> Importer<'a> {
    pub(super) fn identity(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        match node.take(0)? {
            Value::Activation(x) => Ok(x),
            _ => Err(Error::format("operand 0 is missing")),
        }
    }

    pub(super) fn dropout(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        self.check_dropout(node)?;
        node.activation(0)
    }

    /// Makes sure that a `Dropout` does nothing.
    pub(in crate::import::onnx) fn check_dropout(&self, node: &mut Operation<'a>) -> Result<()> {
        node.attributes.ignore(&["ratio", "seed"]);
        node.take_optional(1);
        match self.optional_tensor(node, 2)? {
            Some(training) if training.as_scalar()? != 0.0 => {
                Err(Error::unsupported("training_mode is set"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn cast(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        // Only conversions to 8-bit floats saturate.
        node.attributes.ignore(&["saturate"]);
        let to =
            node.attributes.int("to")?.ok_or_else(|| Error::format("attribute 'to' is missing"))?;
        let mut x = self.identity(node)?;
        match i32::try_from(to) {
            Ok(dtype::FLOAT | dtype::FLOAT16 | dtype::DOUBLE | dtype::BFLOAT16) => {
                if x.holds == Holds::Quantized {
                    return Err(Error::unsupported("cast of a quantized tensor"));
                }
                x.holds = Holds::Reals;
                Ok(x)
            }
            _ => Err(Error::unsupported(format!("cast of an activation to element type {to}"))),
        }
    }

    pub(super) fn relu(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let x = node.activation(0)?;
        self.clamped(node.name, &x, Clamp::RELU)
    }

    pub(super) fn clip(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let x = node.activation(0)?;
        let mut clamp = Clamp::NONE;
        if self.opset < 11 {
            clamp.min = node.attributes.float_or("min", clamp.min)?;
            clamp.max = node.attributes.float_or("max", clamp.max)?;
        } else {
            if let Some(min) = self.optional_tensor(node, 1)? {
                clamp.min = min.as_scalar()?;
            }
            if let Some(max) = self.optional_tensor(node, 2)? {
                clamp.max = max.as_scalar()?;
            }
        }
        self.clamped(node.name, &x, clamp)
    }

    /// `Min` and `Max` of an activation and numbers.
    pub(super) fn extremum(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let mut activation = None;
        let mut clamp = Clamp::NONE;
        for i in 0..node.operands.len() {
            match node.take(i)? {
                Value::Activation(x) if activation.is_none() => activation = Some(x),
                Value::Activation(_) => {
                    return Err(Error::unsupported("more than one operand depends on the input"));
                }
                constant => {
                    let tensor = self.tensor(constant)?;
                    let bound = tensor.as_scalar()?;
                    match node.kind {
                        "Min" => clamp.max = clamp.max.min(bound),
                        _ => clamp.min = clamp.min.max(bound),
                    }
                }
            }
        }
        let x = activation.ok_or_else(|| Error::format("operand 0 is missing"))?;
        self.clamped(node.name, &x, clamp)
    }

    fn clamped(&mut self, name: &str, x: &Activation, clamp: Clamp) -> Result<Activation> {
        let value = self.emit(name, Op::Clamp(clamp), &[x.value])?;
        Ok(self.like(x, value))
    }

    /// `Add` and `Sum`: activations and constants in any order.
    pub(super) fn sum(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let mut constants = Vec::new();
        let mut sum: Option<Activation> = None;
        for i in 0..node.operands.len() {
            if !matches!(node.operands[i], Some(Value::Activation(_))) {
                let constant = node.take(i)?;
                constants.push(self.tensor(constant)?);
                continue;
            }
            let x = node.activation(i)?;
            sum = Some(match sum {
                Some(sum) => self.added(node.name, sum, x)?,
                None => x,
            });
        }
        let mut sum = sum.ok_or_else(|| Error::format("operand 0 is missing"))?;
        for constant in constants {
            sum = self.shifted(node.name, sum, constant, 1.0)?;
        }
        Ok(sum)
    }

    pub(super) fn sub(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        match node.take(0)? {
            Value::Activation(x) if x.holds != Holds::Reals => {
                Err(Error::unsupported("integer arithmetic"))
            }
            Value::Activation(x) => match node.take(1)? {
                Value::Activation(y) => {
                    let minus_y = self.scaled(node.name, y, &Rc::new(Tensor::scalar(-1.0)))?;
                    self.added(node.name, x, minus_y)
                }
                constant => {
                    let constant = self.tensor(constant)?;
                    self.shifted(node.name, x, constant, -1.0)
                }
            },
            constant => {
                let constant = self.tensor(constant)?;
                let x = node.activation(1)?;
                let minus_x = self.scaled(node.name, x, &Rc::new(Tensor::scalar(-1.0)))?;
                self.shifted(node.name, minus_x, constant, 1.0)
            }
        }
    }

    pub(super) fn neg(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let x = node.activation(0)?;
        self.scaled(node.name, x, &Rc::new(Tensor::scalar(-1.0)))
    }

    pub(super) fn mul(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let (x, constant) = match (node.take(0)?, node.take(1)?) {
            (Value::Activation(_), Value::Activation(_)) => {
                return Err(Error::unsupported("both operands depend on the input"));
            }
            (Value::Activation(x), constant) | (constant, Value::Activation(x)) => (x, constant),
            _ => unreachable!("nodes of constants are folded"),
        };
        let constant = self.tensor(constant)?;
        self.scaled(node.name, x, &constant)
    }

    pub(super) fn div(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let x = node.activation(0)?;
        let divisor = match node.take(1)? {
            Value::Activation(_) => {
                return Err(Error::unsupported("the divisor depends on the input"));
            }
            constant => self.tensor(constant)?,
        };
        let inverse = divisor.floats()?.iter().map(|v| 1.0 / v).collect();
        self.scaled(node.name, x, &Rc::new(Tensor::float(&divisor.dims, inverse)))
    }

    pub(super) fn batch_normalization(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let attributes = &node.attributes;
        attributes.ignore(&["momentum"]);
        let epsilon = f64::from(attributes.float_or("epsilon", 1e-5)?);
        if attributes.flag("training_mode", false)? {
            return Err(Error::unsupported("training_mode is set"));
        }
        let is_spatial = attributes.flag("spatial", true)?;
        let x = node.activation(0)?;
        let x = self.separated(node.name, x)?;
        let channel = x.axes.position(Axis::C);
        if x.axes.rank() < 2 || !(channel == Some(1) || channel.is_none() && x.axes.0[1].is_empty())
        {
            return Err(Error::unsupported("axis 1 does not hold the channels"));
        }
        if !is_spatial && x.axes.rank() > 2 {
            return Err(Error::unsupported("attribute 'spatial' is 0"));
        }
        let c = self.shape(&x).c;
        let mut parameters = Vec::new();
        for (i, what) in ["scale", "bias", "mean", "variance"].into_iter().enumerate() {
            let tensor = self.operand_tensor(node, i + 1)?;
            if tensor.dims != [c] {
                return Err(Error::shape(format!(
                    "{what} has shape {:?}, expected [{c}]",
                    tensor.dims
                )));
            }
            tensor.floats()?;
            parameters.push(tensor);
        }
        let parameter = |i: usize, c: usize| -> f64 {
            parameters[i].floats().map_or(f64::NAN, |p| p[c].into())
        };
        let scale = |c| parameter(0, c) / (parameter(3, c) + epsilon).sqrt();
        let shift = |c| parameter(1, c) - parameter(2, c) * scale(c);
        let scales = (0..c).map(|c| scale(c) as f32).collect();
        let shifts = (0..c).map(|c| shift(c) as f32).collect();
        let value = self.affine(node.name, x.value, scales, shifts)?;
        Ok(self.like(&x, value))
    }

    fn affine(
        &mut self,
        name: &str,
        x: ValueId,
        scale: Vec<f32>,
        shift: Vec<f32>,
    ) -> Result<ValueId> {
        if scale.iter().chain(&shift).any(|v| !v.is_finite()) {
            return Err(Error::unsupported("a factor or shift is infinite or not a number"));
        }
        self.budget.charge(2 * scale.len())?;
        let c = scale.len();
        let scale = self.network.add_constant(&format!("{name}.scale"), &[c], scale);
        let shift = self.network.add_constant(&format!("{name}.shift"), &[c], shift);
        self.emit(name, Op::Affine(Affine { scale, shift, clamp: Clamp::NONE }), &[x])
    }

    pub(super) fn scaled(
        &mut self,
        name: &str,
        x: Activation,
        by: &Rc<Tensor>,
    ) -> Result<Activation> {
        let (x, factor) = self.factor(name, x, by)?;
        let Factor::PerChannel(scale) = factor else {
            return Err(Error::unsupported(format!(
                "a factor of shape {:?} that does not vary along the channels alone",
                by.dims
            )));
        };
        let shift = vec![0.0; scale.len()];
        let value = self.affine(name, x.value, scale, shift)?;
        Ok(self.like(&x, value))
    }

    /// `x + sign * by`.
    fn shifted(
        &mut self,
        name: &str,
        x: Activation,
        by: Rc<Tensor>,
        sign: f32,
    ) -> Result<Activation> {
        let (x, factor) = self.factor(name, x, &by)?;
        let value = match factor {
            Factor::PerChannel(mut shift) => {
                shift.iter_mut().for_each(|v| *v *= sign);
                let scale = vec![1.0; shift.len()];
                self.affine(name, x.value, scale, shift)?
            }
            Factor::Image(image) => {
                let mut image = self.image(&image, &x.axes, self.shape(&x))?;
                image.iter_mut().for_each(|v| *v *= sign);
                let image = self.constant_image(name, self.shape(&x), image)?;
                self.emit(name, Op::Add(Clamp::NONE), &[x.value, image])?
            }
        };
        Ok(self.like(&x, value))
    }

    /// The sum of two activations.
    pub(super) fn added(&mut self, name: &str, x: Activation, y: Activation) -> Result<Activation> {
        let (x, y) = self.aligned(name, x, y)?;
        let value = self.emit(name, Op::Add(Clamp::NONE), &[x.value, y.value])?;
        // The more precise map of the two.
        let nb_named = |x: &Activation| x.axes.0.iter().flatten().count();
        let named = if nb_named(&x) >= nb_named(&y) { x } else { y };
        Ok(self.like(&named, value))
    }

    /// Two activations of the same ONNX extents, checked to lie over the network's axes alike.
    pub(super) fn aligned(
        &mut self,
        name: &str,
        x: Activation,
        y: Activation,
    ) -> Result<(Activation, Activation)> {
        if x.axes == y.axes {
            return Ok((x, y));
        }
        let (x, y) = (self.separated(name, x)?, self.separated(name, y)?);
        let alike = |(a, b): (&Vec<Axis>, &Vec<Axis>)| a.is_empty() || b.is_empty() || a == b;
        if x.axes.rank() != y.axes.rank() || !x.axes.0.iter().zip(&y.axes.0).all(alike) {
            return Err(Error::unsupported(format!(
                "operands whose axes differ: {:?} and {:?}",
                x.axes.0, y.axes.0
            )));
        }
        Ok((x, y))
    }

    /// How a constant operand varies over `x`, and `x` as that needs it.
    fn factor(
        &mut self,
        name: &str,
        mut x: Activation,
        by: &Rc<Tensor>,
    ) -> Result<(Activation, Factor)> {
        if x.holds != Holds::Reals {
            return Err(Error::unsupported("arithmetic on integers; cast them to float first"));
        }
        let data = by.floats()?;
        if let [value] = data[..]
            && by.dims.len() <= x.axes.rank()
        {
            let c = self.shape(&x).c;
            return Ok((x, Factor::PerChannel(vec![value; c])));
        }
        x = self.separated(name, x)?;
        let mismatch = || {
            Error::unsupported(format!("a constant of shape {:?} would change the shape", by.dims))
        };
        let lead = x.axes.rank().checked_sub(by.dims.len()).ok_or_else(mismatch)?;
        let dims = self.dims(&x);
        let mut varying = Vec::new();
        for (i, &d) in by.dims.iter().enumerate().filter(|(_, d)| **d != 1) {
            match dims[lead + i].value() {
                Some(own) if own == d as i64 => {}
                Some(_) => return Err(mismatch()),
                None => {
                    return Err(Error::unsupported(format!(
                        "a constant of shape {:?} differs between the images of a batch",
                        by.dims
                    )));
                }
            }
            varying.push(lead + i);
        }
        match varying[..] {
            [i] if x.axes.0[i] == [Axis::C] => Ok((x, Factor::PerChannel(data.to_vec()))),
            _ => Ok((x, Factor::Image(Rc::clone(by)))),
        }
    }

    /// A constant, repeated to fill `shape` and ordered `C, H, W`. `axes` are separated ones.
    pub(super) fn image(
        &mut self,
        tensor: &Tensor,
        axes: &AxisMap,
        shape: Shape,
    ) -> Result<Vec<f32>> {
        self.budget.charge(shape.len())?;
        let data = tensor.floats()?;
        let lead = axes.rank() - tensor.dims.len();
        let strides = strides(&tensor.dims);
        let step = |axis: Axis| match axes.position(axis).and_then(|i| i.checked_sub(lead)) {
            Some(i) if tensor.dims[i] != 1 => strides[i],
            _ => 0,
        };
        let steps = [step(Axis::C), step(Axis::H), step(Axis::W)];
        let dims = [shape.c, shape.h, shape.w];
        Ok((0..shape.len()).map(|i| data[offset(i, &dims, &steps)]).collect())
    }

    /// A constant image as a value of the network.
    pub(in crate::import::onnx) fn constant_image(
        &mut self,
        name: &str,
        shape: Shape,
        data: Vec<f32>,
    ) -> Result<ValueId> {
        let chw = [shape.c, shape.h, shape.w];
        let constant = self.network.add_constant(&format!("{name}.constant"), &chw, data);
        self.emit(name, Op::Constant(constant), &[])
    }
}
