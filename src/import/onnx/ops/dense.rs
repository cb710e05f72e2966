//! Fully connected layers, and softmax.

use std::rc::Rc;

use super::{Activation, Importer, Operation, Value};
use crate::error::{Error, Result};
use crate::graph::{Axis, ConstId, Conv, Linear, Op};
use crate::import::onnx::axes::extent;
use crate::import::onnx::symbolic::SymInt;
use crate::import::onnx::tensor::Tensor;

impl<'a> Importer<'a> {
    pub(super) fn gemm(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let alpha = node.attributes.float_or("alpha", 1.0)?;
        let beta = node.attributes.float_or("beta", 1.0)?;
        if node.attributes.flag("transA", false)? {
            return Err(Error::unsupported("transA is set"));
        }
        let transposed = node.attributes.flag("transB", false)?;
        let x = node.activation(0)?;
        if x.axes.rank() != 2 {
            return Err(Error::shape(format!("operand 0 has {} axes, not 2", x.axes.rank())));
        }
        let (x, has_pixels) = self.rows(node.name, x)?;
        if (alpha, beta) == (1.0, 1.0)
            && let Some(result) = self.int8_dense(node, &x, transposed, has_pixels)?
        {
            return Ok(result);
        }
        let weights = self.matrix(node, transposed, alpha, has_pixels)?;
        let bias = match node.take_optional(2) {
            Some(Value::Activation(bias)) => {
                let product = self.dense(node.name, &x, (weights, None, None))?;
                let bias = self.scaled(node.name, bias, &Rc::new(Tensor::scalar(beta)))?;
                return self.added(node.name, product, bias);
            }
            Some(constant) => Some(self.tensor(constant)?),
            None => None,
        };
        let out = self.network.graph.constant(weights).shape[0];
        let bias = match bias.filter(|_| beta != 0.0) {
            Some(bias) => {
                self.budget.charge(out)?;
                // One row, or a number: anything else would differ between images.
                let row = match bias.dims[..] {
                    [.., _] if bias.dims.len() <= 2 => bias.broadcast(&[1, out]),
                    [] => bias.broadcast(&[1, out]),
                    _ => return Err(Error::shape(format!("a bias of shape {:?}", bias.dims))),
                };
                let mut row = row?.into_floats()?;
                row.iter_mut().for_each(|v| *v *= beta);
                Some(self.network.add_constant(&format!("{}.bias", node.name), &[out], row))
            }
            None => None,
        };
        self.dense(node.name, &x, (weights, bias, None))
    }

    pub(super) fn matmul(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let x = node.activation(0)?;
        if x.axes.rank() < 2 {
            return Err(Error::unsupported("operand 0 has fewer than 2 axes"));
        }
        let (x, has_pixels) = self.rows(node.name, x)?;
        if let Some(result) = self.int8_dense(node, &x, false, has_pixels)? {
            return Ok(result);
        }
        let weights = self.matrix(node, false, 1.0, has_pixels)?;
        self.dense(node.name, &x, (weights, None, None))
    }

    /// The layer in int8, if its input, operands 1 and 2 allow it.
    fn int8_dense(
        &mut self,
        node: &mut Operation<'a>,
        x: &Activation,
        transposed: bool,
        has_pixels: bool,
    ) -> Result<Option<Activation>> {
        let oriented = |weights: &Rc<Tensor>| {
            let matrix = match weights.dims[..] {
                [_, _] if transposed => Rc::clone(weights),
                [_, _] => Rc::new(weights.transposed(&[1, 0])),
                _ => return Err(not_a_matrix(&weights.dims)),
            };
            let shape = [&matrix.dims[..], if has_pixels { &[1, 1] } else { &[] }].concat();
            Ok((matrix, shape))
        };
        let int8 = self.int8_operands(node, x.value, oriented)?;
        let constants = int8.map(|int8| (int8.weights, int8.bias, Some(int8.scales)));
        constants.map(|constants| self.dense(node.name, x, constants)).transpose()
    }

    /// Operand 1, `[in, out]` or, if `transposed`, `[out, in]`, as `[out, in]` times `factor`;
    /// with a 1x1 kernel behind if it is for pixels.
    fn matrix(
        &mut self,
        node: &mut Operation<'a>,
        transposed: bool,
        factor: f32,
        has_pixels: bool,
    ) -> Result<ConstId> {
        let kernel = if has_pixels { &[1, 1][..] } else { &[] };
        let shape = |dims: &[usize]| match dims {
            [_, _] => Ok([dims, kernel].concat()),
            _ => Err(not_a_matrix(dims)),
        };
        if transposed && factor == 1.0 {
            return self.weights(node, 1, shape);
        }
        let tensor = self.operand_tensor(node, 1)?;
        shape(&tensor.dims)?;
        self.budget.charge(tensor.len())?;
        let matrix =
            if transposed { Rc::unwrap_or_clone(tensor) } else { tensor.transposed(&[1, 0]) };
        let shape = shape(&matrix.dims)?;
        let mut data = matrix.into_floats()?;
        if factor != 1.0 {
            data.iter_mut().for_each(|v| *v *= factor);
        }
        Ok(self.network.add_constant(node.names[1], &shape, data))
    }

    /// `x` with its channels alone on the last axis, and whether it has pixels before it.
    fn rows(&mut self, name: &str, mut x: Activation) -> Result<(Activation, bool)> {
        let last = x.axes.rank() - 1;
        // Merged rows may stay so: each is multiplied alike.
        if x.axes.0[last] != [Axis::C] {
            x = self.separated(name, x)?;
        }
        match x.axes.0[last][..] {
            [Axis::C] => {}
            [] if !x.axes.contains(Axis::C) => x.axes.0[last] = vec![Axis::C],
            _ => {
                return Err(Error::unsupported(format!(
                    "the last axis is {:?}, not the channels",
                    x.axes.0[last]
                )));
            }
        }
        let has_pixels = x.axes.contains(Axis::H) || x.axes.contains(Axis::W);
        Ok((x, has_pixels))
    }

    /// A linear layer, or, with a kernel of 1x1, a convolution.
    fn dense(
        &mut self,
        name: &str,
        x: &Activation,
        (weights, bias, weight_scales): (ConstId, Option<ConstId>, Option<ConstId>),
    ) -> Result<Activation> {
        let op = match self.network.graph.constant(weights).shape.len() {
            2 => Op::Linear(Linear { weight_scales, ..Linear::new(weights, bias) }),
            _ => Op::Conv(Conv { weight_scales, ..Conv::pointwise(weights, bias) }),
        };
        let value = self.emit(name, op, &[x.value])?;
        Ok(self.like(x, value))
    }

    pub(super) fn softmax(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        let log = node.kind == "LogSoftmax";
        let default = if self.opset < 13 { 1 } else { -1 };
        let axis = node.attributes.int_or("axis", default)?;
        let mut x = node.activation(0)?;
        let first = x.axes.index(axis)?;
        // Before opset 13, all axes from `axis` on count as one.
        let range = if self.opset < 13 { first..x.axes.rank() } else { first..first + 1 };
        let shape = self.shape(&x);
        let mut axes: Vec<Axis> = x.axes.0[range.clone()].concat();
        let one = SymInt::known(1);
        let is_one = |a: Axis| extent(a, shape).same(one);
        if range.len() == 1 && axes.len() > 1 {
            x = self.separated(node.name, x)?;
            axes = x.axes.0[first].clone();
        }
        if axes.iter().any(|&a| a != Axis::C && is_one(a)) {
            self.network.graph.fixed_size = true;
            axes.retain(|&a| !is_one(a) || a == Axis::C);
        }
        if axes != [Axis::C] {
            return Err(Error::unsupported(format!(
                "over {axes:?}; only softmax over the channels is supported"
            )));
        }
        let value = self.emit(node.name, Op::Softmax { log }, &[x.value])?;
        Ok(self.like(&x, value))
    }
}

fn not_a_matrix(dims: &[usize]) -> Error {
    Error::unsupported(format!("weights of shape {dims:?}, expected a matrix"))
}
