//! 8-bit integers in ONNX: how activations are stored, and constants that were dequantized.

use std::rc::Rc;

use super::proto::dtype;
use super::tensor::{Data, Tensor};
use super::{Importer, Operation, Value};
use crate::error::{Error, Result};
use crate::graph::{ConstId, Quantization, ValueId};

/// What is added to integers of ONNX's `int8` to store them as u8.
const SIGNED: i64 = 128;

/// What a tensor of floats was dequantized from: `float = integer * scale`.
#[derive(Clone, Debug)]
pub(super) struct Integers {
    /// Row-major like the tensor, with the zero point subtracted.
    pub(super) values: Vec<i32>,
    /// One, or one for each index of `axis`.
    pub(super) scales: Vec<f32>,
    pub(super) axis: usize,
}

/// Constants of an int8 convolution or linear layer.
pub(super) struct Int8 {
    pub(super) weights: ConstId,
    pub(super) bias: Option<ConstId>,
    pub(super) scales: ConstId,
}

/// The scales and zero points of a `QuantizeLinear` or `DequantizeLinear`.
struct Parameters {
    scales: Rc<Tensor>,
    zero_points: Option<Rc<Tensor>>,
    /// ONNX element type of the integers.
    elem_type: i32,
}

impl Parameters {
    fn zero_point(&self, i: usize) -> Result<i64> {
        match self.zero_points.as_ref().map(|t| &t.data) {
            None => Ok(0),
            Some(Data::Int(v)) => match v[..] {
                [zero_point] => Ok(zero_point),
                _ if v.len() == self.scales.len() => Ok(v[i]),
                _ => Err(Error::shape("scale and zero point differ in length")),
            },
            Some(_) => Err(Error::unsupported("the zero point is not an integer")),
        }
    }

    /// Of an activation, which has one scale.
    fn of_activation(&self) -> Result<Quantization> {
        let scale = match self.scales.floats()? {
            &[scale] => scale,
            scales => {
                return Err(Error::unsupported(format!(
                    "{} scales for an activation; only one is supported",
                    scales.len()
                )));
            }
        };
        let shift = match self.elem_type {
            0 | dtype::UINT8 => 0,
            dtype::INT8 => SIGNED,
            other => {
                return Err(Error::unsupported(format!(
                    "an activation quantized to element type {other}; only 8 bits are supported"
                )));
            }
        };
        let zero_point = u8::try_from(self.zero_point(0)? + shift)
            .map_err(|_| Error::format("the zero point is out of range"))?;
        let quantization = Quantization { scale, zero_point, max: u8::MAX };
        quantization.check()?;
        Ok(quantization)
    }

    /// The axis along which a constant's scales vary, and the length of what has one scale.
    fn along(&self, node: &Operation<'_>, dims: &[usize], default: i64) -> Result<(usize, usize)> {
        if node.attributes.int_or("block_size", 0)? != 0 {
            return Err(Error::unsupported("blocked quantization"));
        }
        let axis = node.attributes.int_or("axis", default)?;
        if self.scales.len() == 1 {
            return Ok((0, usize::MAX));
        }
        let axis = super::axes::resolve_axis(axis, dims.len())?;
        if dims[axis] != self.scales.len() {
            return Err(Error::shape(format!(
                "{} scales for axis {axis} of {dims:?}",
                self.scales.len()
            )));
        }
        Ok((axis, dims[axis + 1..].iter().product()))
    }
}

impl<'a> Importer<'a> {
    /// Scale and zero point, operands `i` and `i + 1`.
    fn parameters(&self, node: &mut Operation<'a>, i: usize) -> Result<Parameters> {
        let scales = self.operand_tensor(node, i)?;
        let zero_points = self.optional_tensor(node, i + 1)?;
        let elem_type = zero_points.as_ref().map_or(dtype::UINT8, |t| t.elem_type);
        if scales.floats()?.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            return Err(Error::unsupported("a scale is not a positive number"));
        }
        Ok(Parameters { scales, zero_points, elem_type })
    }

    /// An activation's quantization, from operands `i` and `i + 1`.
    pub(super) fn quantization(&self, node: &mut Operation<'a>, i: usize) -> Result<Quantization> {
        self.parameters(node, i)?.of_activation()
    }

    /// `DequantizeLinear` of a constant: floats that remember their integers.
    pub(super) fn dequantized_constant(&mut self, node: &mut Operation<'a>) -> Result<Tensor> {
        let x = self.operand_tensor(node, 0)?;
        let parameters = self.parameters(node, 1)?;
        let along = parameters.along(node, &x.dims, 1)?;
        self.dequantized(&x, &parameters, along)
    }

    /// Operand `i`, a constant of integers, with its scale and zero point behind it; scales vary
    /// along `axis`.
    pub(super) fn dequantized_operand(
        &mut self,
        node: &mut Operation<'a>,
        i: usize,
        axis: i64,
    ) -> Result<Tensor> {
        let x = self.operand_tensor(node, i)?;
        let parameters = self.parameters(node, i + 1)?;
        // The operator's own attribute of this name, if it has one, means something else.
        let along = if parameters.scales.len() == 1 {
            (0, usize::MAX)
        } else {
            parameters.along(node, &x.dims, axis)?
        };
        self.dequantized(&x, &parameters, along)
    }

    fn dequantized(
        &mut self,
        x: &Tensor,
        parameters: &Parameters,
        (axis, inner): (usize, usize),
    ) -> Result<Tensor> {
        let Data::Int(integers) = &x.data else {
            return Err(Error::unsupported("operand 0 does not hold integers"));
        };
        self.budget.charge(2 * integers.len())?;
        let scales = parameters.scales.floats()?.to_vec();
        let zero_points = (0..scales.len()).map(|i| parameters.zero_point(i));
        let zero_points = zero_points.collect::<Result<Vec<_>>>()?;
        let which = |i: usize| i / inner % scales.len();
        let centred = integers.iter().enumerate().map(|(i, v)| {
            v.checked_sub(zero_points[which(i)])
                .and_then(|v| i32::try_from(v).ok())
                .ok_or_else(|| Error::unsupported("an integer of more than 32 bits"))
        });
        let values: Vec<i32> = centred.collect::<Result<_>>()?;
        let floats = values.iter().enumerate().map(|(i, v)| *v as f32 * scales[which(i)]).collect();
        let mut tensor = Tensor::float(&x.dims, floats);
        tensor.integers = Some(Rc::new(Integers { values, scales, axis }));
        Ok(tensor)
    }

    /// `QuantizeLinear` of a constant, as networks trained for quantization have it.
    pub(super) fn quantized_constant(&mut self, node: &mut Operation<'a>) -> Result<Tensor> {
        node.attributes.ignore(&["saturate"]);
        let x = self.operand_tensor(node, 0)?;
        let mut parameters = self.parameters(node, 1)?;
        if let Some(elem_type) = node.attributes.int("output_dtype")?.filter(|t| *t != 0) {
            parameters.elem_type = elem_type as i32;
        }
        let (_, inner) = parameters.along(node, &x.dims, 1)?;
        let [min, max] = match parameters.elem_type {
            dtype::UINT8 => [0, 255],
            dtype::INT8 => [-128, 127],
            other => return Err(Error::unsupported(format!("integers of element type {other}"))),
        };
        let (floats, scales) = (x.floats()?, parameters.scales.floats()?);
        self.budget.charge(floats.len())?;
        let integer = |(i, v): (usize, &f32)| {
            let k = i / inner % scales.len();
            let rounded = (v / scales[k]).round_ties_even();
            Ok((rounded as i64).saturating_add(parameters.zero_point(k)?).clamp(min, max))
        };
        let integers = floats.iter().enumerate().map(integer).collect::<Result<_>>()?;
        let mut tensor = Tensor::int(&x.dims, integers);
        tensor.elem_type = parameters.elem_type;
        Ok(tensor)
    }

    /// A bias of integers in units of input scale times weight scale, as operators on quantized
    /// tensors have it.
    pub(super) fn dequantized_bias(
        &mut self,
        bias: &Tensor,
        input_scale: f32,
        weights: &Tensor,
    ) -> Result<Tensor> {
        let Some(weights) = &weights.integers else {
            return Err(Error::unsupported("the weights are not integers"));
        };
        let scales = weights.scales.iter().map(|s| input_scale * s).collect::<Vec<_>>();
        let dims = [scales.len()];
        let scales = Rc::new(Tensor::float(&dims, scales));
        let parameters = Parameters { scales, zero_points: None, elem_type: dtype::INT32 };
        let per_element = bias.len().checked_div(parameters.scales.len());
        let inner = if parameters.scales.len() == bias.len() { per_element } else { None };
        self.dequantized(bias, &parameters, (0, inner.unwrap_or(usize::MAX)))
    }

    /// As [`Self::int8_constants`], of operands 1 and 2, which are taken only if there are such
    /// constants. `matrix` turns the weights to have their outputs first.
    pub(super) fn int8_operands(
        &mut self,
        node: &mut Operation<'a>,
        x: ValueId,
        oriented: impl FnOnce(&Rc<Tensor>) -> Result<(Rc<Tensor>, Vec<usize>)>,
    ) -> Result<Option<Int8>> {
        let Some(Some(Value::Constant(weights))) = node.operands.get(1) else { return Ok(None) };
        if weights.integers.is_none() {
            return Ok(None);
        }
        let (weights, shape) = oriented(weights)?;
        let bias = match node.operands.get(2) {
            Some(Some(Value::Activation(_))) => return Ok(None),
            Some(Some(constant)) => Some(self.tensor(constant.clone())?),
            _ => None,
        };
        let weights = (node.names[1], &*weights);
        let int8 = self.int8_constants(x, weights, &shape, bias.as_deref())?;
        if int8.is_some() {
            node.operands[1..].fill(None);
        }
        Ok(int8)
    }

    /// The constants with which a node that reads `x` computes in int8, if it can: its input is
    /// quantized, its weights are 8-bit integers around zero with a scale per output channel (their
    /// first axis) or one for all, and no sum exceeds 32 bits.
    fn int8_constants(
        &mut self,
        x: ValueId,
        (name, weights): (&str, &Tensor),
        shape: &[usize],
        bias: Option<&Tensor>,
    ) -> Result<Option<Int8>> {
        let Some(input) = self.network.graph.quantization_of(x) else { return Ok(None) };
        let Some(integers) = &weights.integers else { return Ok(None) };
        let outputs = shape[0];
        if integers.axis != 0 || ![1, outputs].contains(&integers.scales.len()) {
            return Ok(None);
        }
        let values = integers.values.iter().map(|v| i8::try_from(*v));
        let Ok(values) = values.collect::<Result<Vec<i8>, _>>() else { return Ok(None) };
        let scale_of = |o: usize| integers.scales[o % integers.scales.len()];
        let scales: Vec<f32> = (0..outputs).map(scale_of).collect();
        let bias = match bias {
            Some(bias) if bias.len() != outputs => return Ok(None),
            Some(bias) => match integer_bias(bias, input.scale, &scales)? {
                Some(bias) => Some(bias),
                None => return Ok(None),
            },
            None => None,
        };
        let row = values.len() / outputs;
        for (o, row) in values.chunks(row).enumerate() {
            let sum: i64 = row.iter().map(|w| i64::from(w.unsigned_abs())).sum();
            let bias = bias.as_ref().map_or(0, |b| i64::from(b[o]).abs());
            if sum * i64::from(input.max) + bias > i64::from(i32::MAX) {
                return Ok(None);
            }
        }
        self.budget.charge(values.len())?;
        let add = |network: &mut crate::graph::Network, what: &str, bias: Vec<i32>| {
            network.add_constant(&format!("{name}.{what}"), &[outputs], bias)
        };
        let bias = bias.map(|bias| add(&mut self.network, "bias", bias));
        let scales = self.network.add_constant(&format!("{name}.scale"), &[outputs], scales);
        let weights = self.network.add_constant(name, shape, values);
        Ok(Some(Int8 { weights, bias, scales }))
    }
}

/// A bias in units of input scale times weight scale; `None` where it exceeds 32 bits.
fn integer_bias(bias: &Tensor, input_scale: f32, scales: &[f32]) -> Result<Option<Vec<i32>>> {
    let own = bias.integers.as_deref();
    let unit = |o: usize| input_scale * scales[o];
    // Quantizers compute the unit in f32 or f64; one rounding apart is the same unit.
    let same = |a: f32, b: f32| (a - b).abs() <= 1e-6 * a.abs();
    let own = own
        .filter(|own| (0..scales.len()).all(|o| same(own.scales[o % own.scales.len()], unit(o))));
    if let Some(own) = own {
        return Ok(Some(own.values.clone()));
    }
    let rounded = bias
        .floats()?
        .iter()
        .enumerate()
        .map(|(o, b)| (f64::from(*b) / f64::from(unit(o))).round_ties_even());
    let fits = |v: &f64| v.abs() <= f64::from(i32::MAX);
    let rounded: Vec<f64> = rounded.collect();
    Ok(rounded.iter().all(fits).then(|| rounded.iter().map(|v| *v as i32).collect()))
}
