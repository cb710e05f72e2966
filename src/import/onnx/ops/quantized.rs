//! `QuantizeLinear` and `DequantizeLinear`, and operators on quantized tensors, which become their
//! operator on reals between the two.
//!
//! Both are views of one value of the network: stored in u8, read as reals. So a pair of them costs
//! nothing, and a convolution between them computes in int8.

use std::rc::Rc;

use super::{Activation, Importer, Operation, Value};
use crate::error::{Error, Result};
use crate::graph::{Affine, Clamp, Op, Quantization};
use crate::import::onnx::Holds;

impl<'a> Importer<'a> {
    pub(super) fn quantize(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        node.attributes.ignore(&["axis", "saturate", "output_dtype", "precision", "block_size"]);
        let x = node.activation(0)?;
        let quantization = self.quantization(node, 1)?;
        self.quantized(node.name, x, quantization)
    }

    /// `x` stored in u8.
    fn quantized(
        &mut self,
        name: &str,
        x: Activation,
        quantization: Quantization,
    ) -> Result<Activation> {
        let mut value = x.value;
        if self.network.graph.quantization_of(value) != Some(quantization) {
            value = self.emit(name, Op::Clamp(Clamp::NONE), &[value])?;
            self.network.graph.set_quantization(value, Some(quantization));
        }
        Ok(Activation { value, holds: Holds::Quantized, ..x })
    }

    pub(super) fn dequantize(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        node.attributes.ignore(&["axis", "output_dtype", "block_size"]);
        let quantization = self.quantization(node, 1)?;
        let x = self.identity(node)?;
        match x.holds {
            Holds::Quantized => self.reals(x, quantization),
            Holds::Integers => {
                let Quantization { scale, zero_point, .. } = quantization;
                let c = self.shape(&x).c;
                self.budget.charge(2 * c)?;
                let shift = -f32::from(zero_point) * scale;
                let scale = self.network.add_constant("scale", &[c], vec![scale; c]);
                let shift = self.network.add_constant("shift", &[c], vec![shift; c]);
                let affine = Affine { scale, shift, clamp: Clamp::NONE };
                let value = self.emit(node.name, Op::Affine(affine), &[x.value])?;
                Ok(self.like(&x, value))
            }
            Holds::Reals => Err(Error::unsupported("operand 0 does not hold integers")),
        }
    }

    /// A quantized tensor as reals. What reads it must see it with the scale and zero point that it
    /// was made with.
    fn reals(&self, x: Activation, seen: Quantization) -> Result<Activation> {
        let made = self.network.graph.quantization_of(x.value);
        if made != Some(seen) {
            let made = made.map_or("no quantization".to_owned(), |q| describe(&q));
            return Err(Error::unsupported(format!(
                "the operand has {made}, but is read with {}",
                describe(&seen)
            )));
        }
        Ok(Activation { holds: Holds::Reals, ..x })
    }

    /// Operand `i`, quantized, with its scale and zero point behind it, as reals.
    fn real_operand(&mut self, node: &mut Operation<'a>, i: usize) -> Result<Value<'a>> {
        match node.take(i)? {
            Value::Activation(x) => {
                let seen = self.quantization(node, i + 1)?;
                Ok(Value::Activation(self.reals(x, seen)?))
            }
            constant => {
                node.operands[i] = Some(constant);
                Ok(Value::Constant(Rc::new(self.dequantized_operand(node, i, 0)?)))
            }
        }
    }

    /// An operator on quantized tensors: its float counterpart between dequantized operands and a
    /// quantized result.
    pub(super) fn on_quantized(&mut self, node: &mut Operation<'a>) -> Result<Activation> {
        // The operands that are quantized, where the result's scale is, and a bias.
        let (nb_quantized, result, bias) = match node.kind {
            "QLinearConv" => (2, 6, Some(8)),
            "QLinearMatMul" | "QLinearAdd" => (2, 6, None),
            "QGemm" => (2, 7, Some(6)),
            _ => (1, 3, None),
        };
        let input_scale = match node.operands.get(1) {
            Some(Some(value)) => self.tensor(value.clone())?.as_scalar()?,
            _ => return Err(Error::format("operand 1 is missing")),
        };
        let mut operands = vec![Some(self.real_operand(node, 0)?)];
        if nb_quantized == 2 {
            operands.push(Some(match node.kind {
                "QLinearAdd" => self.real_operand(node, 3)?,
                "QLinearConv" => self.real_operand(node, 3)?,
                _ => {
                    let transposed =
                        node.kind == "QGemm" && node.attributes.flag("transB", false)?;
                    let axis = if transposed { 0 } else { -1 };
                    Value::Constant(Rc::new(self.dequantized_operand(node, 3, axis)?))
                }
            }));
        }
        if let Some(i) = bias
            && let Some(bias) = self.optional_tensor(node, i)?
        {
            let Some(Value::Constant(weights)) = &operands[1] else {
                return Err(Error::unsupported("the weights depend on the input"));
            };
            let bias = self.dequantized_bias(&bias, input_scale, weights)?;
            operands.push(Some(Value::Constant(Rc::new(bias))));
        }
        let quantization = match node.operands.get(result) {
            Some(Some(_)) => Some(self.quantization(node, result)?),
            _ if node.kind == "QGemm" => None,
            _ => return Err(Error::format(format!("operand {result} is missing"))),
        };
        node.names =
            [0, 3, bias.unwrap_or(0)].iter().filter_map(|i| node.names.get(*i)).copied().collect();
        node.operands = operands;
        let y = match node.kind {
            "QLinearConv" => self.conv(node)?,
            "QLinearMatMul" => self.matmul(node)?,
            "QGemm" => self.gemm(node)?,
            "QLinearAdd" => self.sum(node)?,
            _ => {
                if node.attributes.flag("channels_last", false)? {
                    return Err(Error::unsupported("channels_last is set"));
                }
                match node.kind {
                    "QLinearGlobalAveragePool" => self.global_average_pool(node)?,
                    _ => self.pool(node)?,
                }
            }
        };
        match quantization {
            Some(quantization) => self.quantized(node.name, y, quantization),
            None => Ok(y),
        }
    }
}

fn describe(q: &Quantization) -> String {
    format!("scale {} and zero point {}", q.scale, q.zero_point)
}
