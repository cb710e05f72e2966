//! Values stored as 8-bit integers, and the rules of a graph that has them.

use super::{Clamp, ConstId, ConstSpec, Dtype, Graph, Node, Op, PoolKind, ValueId};
use crate::error::{Error, Result};

/// How a value is stored in u8: `real = scale * (q - zero_point)` with `q` in `0..=max`.
///
/// Signed values (ONNX's `int8` activations) are stored with 128 added to `q` and `zero_point`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    /// The real distance of neighbouring integers.
    pub scale: f32,
    /// The integer that stands for zero; padding has it.
    pub zero_point: u8,
    /// The largest integer: 127 for what this library quantizes itself, since then two products of
    /// neighbours fit 16 bits; 255 for ONNX's full range.
    pub max: u8,
}

impl Quantization {
    /// The smallest and the largest scale.
    pub const SCALES: [f32; 2] = [1e-30, 1e30];

    /// Bounds for `real / scale` before it is rounded and `zero_point` is added, so that the result
    /// is in `0..=max` and, up to its own rounding, inside `clamp`.
    pub fn bounds(&self, clamp: Clamp) -> [f32; 2] {
        let zero_point = f32::from(self.zero_point);
        let (lowest, highest) = (-zero_point, f32::from(self.max) - zero_point);
        let bound = |real: f32| (real / self.scale).round_ties_even().max(lowest).min(highest);
        [bound(clamp.min), bound(clamp.max)]
    }

    /// The integer for a number of scales: bounded as [`Self::bounds`] says, rounded to the nearest
    /// one, ties to even, and shifted by the zero point. What is not a number becomes the lower bound.
    pub fn round(&self, scales: f32, [lowest, highest]: [f32; 2]) -> u8 {
        (scales.max(lowest).min(highest).round_ties_even() as i32 + i32::from(self.zero_point))
            as u8
    }

    /// The integer nearest to a real number.
    pub fn quantize(&self, real: f32) -> u8 {
        self.round(real / self.scale, self.bounds(Clamp::NONE))
    }

    /// The distance of an integer from zero, in scales.
    pub fn centred(&self, q: u8) -> i32 {
        i32::from(q) - i32::from(self.zero_point)
    }

    /// The real number that an integer stands for.
    pub fn dequantize(&self, q: u8) -> f32 {
        self.centred(q) as f32 * self.scale
    }

    pub(crate) fn check(&self) -> Result<()> {
        let [min, max] = Self::SCALES;
        if !(min..=max).contains(&self.scale) {
            let scale = self.scale;
            return Err(Error::format(format!(
                "the quantization's scale is {scale}, expected {min:e} to {max:e}"
            )));
        }
        if self.max == 0 || self.zero_point > self.max {
            return Err(Error::format(format!(
                "the quantization has zero point {} in 0..={}",
                self.zero_point, self.max
            )));
        }
        Ok(())
    }
}

impl Node {
    /// Whether it computes with 8-bit integers: a convolution or linear layer whose weights are.
    pub fn is_int8(&self) -> bool {
        match &self.op {
            Op::Conv(conv) => conv.weight_scales.is_some(),
            Op::Linear(linear) => linear.weight_scales.is_some(),
            _ => false,
        }
    }
}

impl Graph {
    /// How a value is stored in u8; `None` if it is f32.
    pub fn quantization_of(&self, value: ValueId) -> Option<Quantization> {
        self.quantization.get(value.0 as usize).copied().flatten()
    }

    /// Whether any value is stored in u8.
    pub fn is_quantized(&self) -> bool {
        self.quantization.iter().any(Option::is_some)
    }

    /// The quantization that an operator's result has because its operands have it: of those that
    /// pick or move elements, where all operands agree.
    pub fn kept_quantization(&self, value: ValueId) -> Option<Quantization> {
        let node = &self.nodes[self.node_of(value)?];
        let keeps = match &node.op {
            Op::Pool(pool) => pool.kind == PoolKind::Max,
            Op::Pad { value, .. } => *value == 0.0,
            Op::Concat | Op::Slice(_) | Op::Flatten { .. } => true,
            _ => false,
        };
        let mut operands = node.inputs.iter().map(|v| self.quantization_of(*v));
        let first = operands.next().flatten().filter(|_| keeps)?;
        operands.all(|q| q == Some(first)).then_some(first)
    }

    /// Makes the list as long as there are values, or empty where all are f32.
    pub fn complete_quantization(&mut self) {
        let nb_values = if self.is_quantized() { self.nb_values() } else { 0 };
        self.quantization.resize(nb_values, None);
    }

    /// Sets how a value is stored.
    pub fn set_quantization(&mut self, value: ValueId, quantization: Option<Quantization>) {
        self.quantization.resize(self.nb_values(), None);
        self.quantization[value.0 as usize] = quantization;
    }

    /// Checks the quantizations, and that 8-bit nodes find 8-bit operands.
    pub(super) fn check_quantization(&self) -> Result<()> {
        let (found, expected) = (self.quantization.len(), self.nb_values());
        if found != 0 && found != expected {
            return Err(Error::format(format!(
                "{found} quantizations, expected one for each of {expected} values or none"
            )));
        }
        for (v, quantization) in self.quantization.iter().enumerate() {
            let label = || match self.node_of(ValueId(v as u32)) {
                Some(i) => self.nodes[i].label(),
                None => self.inputs[v].name.clone(),
            };
            let check = quantization.as_ref().map_or(Ok(()), Quantization::check);
            check.map_err(|e| e.at_node(label()))?;
        }
        for node in self.nodes.iter().filter(|n| n.is_int8()) {
            self.check_int8(node).map_err(|e| e.at_node(node.label()))?;
        }
        Ok(())
    }

    fn check_int8(&self, node: &Node) -> Result<()> {
        for (k, v) in node.inputs.iter().enumerate() {
            if self.quantization_of(*v).is_none() {
                return Err(Error::format(format!("operand {k} of an int8 node is not quantized")));
            }
        }
        let max = self.quantization_of(node.inputs[0]).map_or(0, |q| q.max);
        let weights = node.op.constants().next().map(|id| self.constant(id));
        let Some(weights) = weights else { return Ok(()) };
        let inputs: usize = weights.shape[1..].iter().product();
        // |weight| <= 128; the bias is bounded when a network is made.
        let largest = inputs as u64 * u64::from(max) * 128;
        if largest > i32::MAX as u64 {
            return Err(Error::unsupported(format!(
                "sums of {inputs} products may exceed 32 bits; leave this node in f32"
            )));
        }
        Ok(())
    }
}

/// Checks the types of an operator's constants, and the shape of its weights' scales.
pub(super) fn check_constants(op: &Op, constants: &[ConstSpec]) -> Result<()> {
    let has = |id: ConstId, dtype: Dtype, what: &str| {
        let spec = &constants[id.0 as usize];
        if spec.dtype == dtype {
            return Ok(());
        }
        let (found, expected) = (spec.dtype.name(), dtype.name());
        Err(Error::format(format!("{what} '{}' is {found}, expected {expected}", spec.name)))
    };
    let (weights, bias, scales) = match op {
        Op::Conv(c) => (c.weights, c.bias, c.weight_scales),
        Op::Linear(l) => (l.weights, l.bias, l.weight_scales),
        _ => return op.constants().try_for_each(|id| has(id, Dtype::F32, "constant")),
    };
    let [weights_dtype, bias_dtype] = match scales {
        Some(_) => [Dtype::I8, Dtype::I32],
        None => [Dtype::F32; 2],
    };
    has(weights, weights_dtype, "weight")?;
    bias.map_or(Ok(()), |id| has(id, bias_dtype, "bias"))?;
    let Some(scales) = scales else { return Ok(()) };
    has(scales, Dtype::F32, "weight scale")?;
    let (spec, outputs) =
        (&constants[scales.0 as usize], constants[weights.0 as usize].shape.first());
    if !spec.shape.iter().eq(outputs) {
        return Err(Error::shape(format!(
            "weight scale '{}' has shape {:?}, expected one number for each output channel",
            spec.name, spec.shape
        )));
    }
    Ok(())
}
