//! What follows a convolution and becomes part of it: bounds, rounding to 8 bits, addition; and for
//! int8 ones a scale and shift.
//!
//! Rounding is kept. A value that is stored in 8 bits is absorbed only where its reader rounds to the
//! same integers, or where the reader can round twice ([`Conv::before_add`]).

use super::{Affine, Clamp, ConstId, Conv, Op, Rewriter, algebra};
use crate::graph::{Linear, Quantization, ValueId};

impl Rewriter<'_> {
    pub(super) fn quantization(&self, value: ValueId) -> Option<Quantization> {
        self.network.graph.quantization_of(value)
    }

    /// Whether node `i`'s value is stored as that of its operand 0 is, or not in 8 bits.
    pub(super) fn may_bypass(&self, i: usize) -> bool {
        let graph = &self.network.graph;
        let own = self.quantization(graph.value_of(i));
        own.is_none() || own == self.quantization(graph.nodes[i].inputs[0])
    }

    /// Bounds, or with [`Clamp::NONE`] rounding alone.
    pub(super) fn clamp(&mut self, i: usize, clamp: Clamp) -> bool {
        if clamp == Clamp::NONE && self.may_bypass(i) {
            return self.bypass(i);
        }
        let operand = self.network.graph.nodes[i].inputs[0];
        let own = self.quantization(self.network.graph.value_of(i));
        let rounded = self.quantization(operand);
        if self.uses[operand.0 as usize] != 1 || rounded.is_some() && rounded != own {
            return false;
        }
        let Some(from) = self.producer(i, 0) else {
            if clamp != Clamp::NONE {
                return false;
            }
            // An input that is read in 8 bits only arrives in 8 bits.
            self.network.graph.set_quantization(operand, own);
            return self.bypass(i);
        };
        let mut op = self.op(from).clone();
        match op.clamp_mut() {
            Some(inner) => *inner = algebra::both_clamps(*inner, clamp),
            None if clamp != Clamp::NONE || self.constant_behind(operand).is_some() => {
                return false;
            }
            None => {}
        }
        let inputs = self.network.graph.nodes[from].inputs.clone();
        self.absorb(from, i, op, inputs);
        true
    }

    pub(super) fn add_into_conv(&mut self, i: usize, clamp: Clamp) -> bool {
        let inputs = self.network.graph.nodes[i].inputs.clone();
        let conv = |k: usize| {
            let from = self.producer(i, k).filter(|_| self.uses[inputs[k].0 as usize] == 1)?;
            let Op::Conv(conv) = self.op(from) else { return None };
            let fits = match conv.weight_scales {
                Some(_) => self.quantization(inputs[1 - k]).is_some(),
                None => self.quantization(inputs[k]).is_none(),
            };
            (fits && !conv.residual && conv.clamp == Clamp::NONE).then_some((from, k))
        };
        // Of two, the one computed later: the other is then ready to be added.
        let Some((from, k)) = conv(0).into_iter().chain(conv(1)).max() else { return false };
        let node = &self.network.graph.nodes[from];
        let Op::Conv(conv) = node.op.clone() else { return false };
        let operands = vec![node.inputs[0], inputs[1 - k]];
        let before_add = self.quantization(inputs[k]);
        let op = Op::Conv(Conv { residual: true, clamp, before_add, ..conv });
        self.absorb(from, i, op, operands);
        true
    }

    /// A scale and shift after an int8 node whose result is real.
    pub(super) fn affine_into_int8(&mut self, i: usize, affine: &Affine) -> bool {
        let Some(from) = self.sole_producer(i, 0) else { return false };
        let (op, inputs) = (self.op(from).clone(), self.network.graph.nodes[from].inputs.clone());
        let scaled =
            |weights, bias, scales| self.scaled_int8((weights, bias, scales), inputs[0], affine);
        let made = match &op {
            Op::Conv(Conv {
                weights,
                bias,
                weight_scales: Some(scales),
                residual: false,
                clamp,
                ..
            })
            | Op::Linear(Linear { weights, bias, weight_scales: Some(scales), clamp })
                if *clamp == Clamp::NONE =>
            {
                scaled(*weights, *bias, *scales)
            }
            _ => None,
        };
        let Some((scales, sums)) = made else { return false };
        let outputs = scales.len();
        let scales = self.add_constant_data("weight_scales", &[outputs], scales);
        let sums = self.add_constant_data("bias", &[outputs], sums);
        let mut op = op;
        match &mut op {
            Op::Conv(conv) => {
                (conv.bias, conv.weight_scales, conv.clamp) =
                    (Some(sums), Some(scales), affine.clamp);
            }
            Op::Linear(linear) => {
                (linear.bias, linear.weight_scales, linear.clamp) =
                    (Some(sums), Some(scales), affine.clamp);
            }
            _ => unreachable!("matched above"),
        }
        self.absorb(from, i, op, inputs);
        true
    }

    /// The scales and bias of an int8 node with `affine` after it; `None` where the bias does not fit.
    fn scaled_int8(
        &self,
        (weights, bias, scales): (ConstId, Option<ConstId>, ConstId),
        input: ValueId,
        affine: &Affine,
    ) -> Option<(Vec<f32>, Vec<i32>)> {
        let input = self.quantization(input)?;
        let data = |id: ConstId| &self.network.data[id.0 as usize];
        let weights = data(weights).i8();
        let rows = weights.chunks(weights.len() / data(scales).len());
        let (mut new_scales, mut sums) = (Vec::new(), Vec::new());
        for (o, row) in rows.enumerate() {
            let scale = data(scales).f32()[o] * self.network.constant(affine.scale)[o];
            let unit = f64::from(input.scale) * f64::from(scale);
            let shift = f64::from(self.network.constant(affine.shift)[o]) / unit;
            let old = bias.map_or(0, |id| data(id).i32()[o]);
            let sum = f64::from(old) + shift.round_ties_even();
            let products: u32 = row.iter().map(|w| u32::from(w.unsigned_abs())).sum();
            let largest = f64::from(products) * f64::from(input.max) + sum.abs();
            if largest.is_nan() || largest > f64::from(i32::MAX) {
                return None;
            }
            new_scales.push(scale);
            sums.push(sum as i32);
        }
        Some((new_scales, sums))
    }
}
