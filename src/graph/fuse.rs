//! Graph rewriting before packing: folding, fusion, removal of dead nodes.
//!
//! One forward sweep. Each node looks at the nodes behind its operands, already simplified, and
//! absorbs one if a rule allows it; this repeats until no rule applies. The absorbing node keeps
//! its place, so operands stay computed before their use, and takes over the absorbed node's name
//! where that one does the work.
//!
//! | node | absorbs | condition |
//! |---|---|---|
//! | any | constant operands | all are constant |
//! | `Clamp` | into `Conv`, `Linear`, `Affine`, `Add`, `Clamp` | used once |
//! | `Clamp` without bounds (rounding to 8 bits) | into any; into an input | used once |
//! | `Affine` | into `Conv`, `Linear`, `Affine` | used once, nothing after their sum |
//! | `Add` | into `Conv` | used once, nothing after its sum; int8: both operands are 8-bit |
//! | `Add` | per-channel constant | |
//! | `Concat` | constants of one value | one operand is none |
//! | `Conv`, `Linear` | `Affine` before it | used once; exact also in the padding |
//! | `Conv` | `Pad` with zeros | |
//! | `MaxPool` | `Pad` with zeros | the input is never negative |
//!
//! Folded factors are multiplied in f64 and rounded once. No rounding to 8 bits is left out.

mod algebra;
mod cleanup;
mod epilogue;

use super::{
    Affine, Clamp, ConstId, Conv, Data, Network, Node, Op, Pad, Pool, PoolKind, Shape, ValueId,
};
use super::{Axis, reference};
use crate::error::Result;

/// Elements of constants that may be read and written to compute constants; real networks have
/// none to compute.
const MAX_FOLDED: usize = 1 << 26;

/// Simplifies the network in place: folds constants into weights, fuses clamp and residual
/// additions into convolutions, drops what no output needs.
///
/// # Errors
/// A network that is not valid, or constants that are infinite or not a number; names the node.
pub fn fuse(network: &mut Network) -> Result<()> {
    network.graph.validate()?;
    cleanup::drop_dead_nodes(network);
    let mut rewriter = Rewriter::new(network)?;
    for i in 0..rewriter.network.graph.nodes.len() {
        while rewriter.simplify(i) {}
        rewriter.describe(i);
    }
    let Rewriter { alias, .. } = rewriter;
    cleanup::redirect(network, &alias);
    cleanup::drop_dead_nodes(network);
    cleanup::compact_constants(network)?;
    network.graph.validate()
}

/// What is known of a value at any input size.
#[derive(Clone, Copy, Default)]
struct Facts {
    /// Height and width are 1.
    is_vector: bool,
    /// No element is negative.
    is_nonnegative: bool,
}

struct Rewriter<'a> {
    network: &'a mut Network,
    /// The value that stands in for each value.
    alias: Vec<ValueId>,
    /// How often each value is used, aliases resolved.
    uses: Vec<usize>,
    /// How often nodes refer to each constant.
    constant_uses: Vec<usize>,
    /// At the default input size.
    shapes: Vec<Shape>,
    facts: Vec<Facts>,
    left_to_fold: usize,
}

impl<'a> Rewriter<'a> {
    fn new(network: &'a mut Network) -> Result<Self> {
        let graph = &network.graph;
        let mut constant_uses = vec![0; graph.constants.len()];
        for id in graph.nodes.iter().flat_map(|n| n.op.constants()) {
            constant_uses[id.0 as usize] += 1;
        }
        let no_image = |a: &Axis| !matches!(a, Axis::H | Axis::W);
        let facts = |port: &super::Port| Facts {
            is_vector: port.axes.0.iter().all(no_image),
            is_nonnegative: false,
        };
        Ok(Self {
            alias: (0..graph.nb_values() as u32).map(ValueId).collect(),
            uses: graph.use_counts(),
            constant_uses,
            shapes: graph.infer_shapes(&graph.input_shapes())?,
            facts: graph.inputs.iter().map(facts).collect(),
            left_to_fold: MAX_FOLDED,
            network,
        })
    }

    /// Applies one rule to node `i`; returns whether one applied.
    fn simplify(&mut self, i: usize) -> bool {
        let own = self.network.graph.value_of(i);
        if self.alias[own.0 as usize] != own {
            return false;
        }
        for input in &mut self.network.graph.nodes[i].inputs {
            *input = self.alias[input.0 as usize];
        }
        if self.fold_constants(i) {
            return true;
        }
        match self.network.graph.nodes[i].op.clone() {
            Op::Clamp(clamp) => self.clamp(i, clamp),
            Op::Affine(affine) => {
                self.affine_into_int8(i, &affine) || self.affine_into_producer(i, &affine)
            }
            Op::Add(clamp) => self.add_constant(i, clamp) || self.add_into_conv(i, clamp),
            Op::Conv(conv) => self.pad_into_conv(i, &conv) || self.affine_into_conv(i, &conv),
            Op::Linear(linear) => {
                self.affine_before(i, linear.weights, linear.bias, 1, |op, bias| {
                    if let Op::Linear(linear) = op {
                        linear.bias = bias;
                    }
                })
            }
            Op::Pool(pool) => self.pad_into_max_pool(i, &pool),
            Op::Concat if self.network.graph.nodes[i].inputs.len() == 1 && self.may_bypass(i) => {
                self.bypass(i)
            }
            Op::Concat => self.concat_constants(i),
            Op::Flatten { .. } if self.operand_facts(i, 0).is_vector && self.may_bypass(i) => {
                self.bypass(i)
            }
            Op::Pad { channels: [0, 0], frame, .. }
                if frame == Pad::default() && self.may_bypass(i) =>
            {
                self.bypass(i)
            }
            _ => false,
        }
    }

    /// Records what is known of node `i`'s value, once it is simplified.
    fn describe(&mut self, i: usize) {
        let node = &self.network.graph.nodes[i];
        let mut facts = node.inputs.iter().map(|v| self.facts[v.0 as usize]);
        let first = facts.next().unwrap_or_default();
        let others_nonnegative = facts.all(|f| f.is_nonnegative);
        let is_vector = match &node.op {
            Op::GlobalAveragePool | Op::Linear(_) | Op::Flatten { .. } => true,
            Op::Constant(id) => self.network.graph.constant(*id).shape[1..] == [1, 1],
            Op::Conv(c) => {
                let pixel = self.network.graph.constant(c.weights).shape[2..] == [1, 1];
                first.is_vector && pixel && c.pad == Pad::default()
            }
            Op::Pool(_) => false,
            Op::Pad { frame, .. } => first.is_vector && *frame == Pad::default(),
            _ => first.is_vector,
        };
        let clamp = node.op.clamp();
        let is_bounded = clamp.min >= 0.0 && clamp.max >= 0.0;
        let is_nonnegative = match &node.op {
            Op::Conv(_) | Op::Linear(_) | Op::Affine(_) => is_bounded,
            Op::Add(_) | Op::Concat => {
                is_bounded || clamp.max >= 0.0 && first.is_nonnegative && others_nonnegative
            }
            Op::Clamp(_) => is_bounded || clamp.max >= 0.0 && first.is_nonnegative,
            Op::Pad { value, .. } => first.is_nonnegative && *value >= 0.0,
            Op::Softmax { log } => !log,
            Op::Constant(_) => false,
            Op::Pool(_) | Op::GlobalAveragePool | Op::Slice(_) | Op::Flatten { .. } => {
                first.is_nonnegative
            }
        };
        self.facts.push(Facts { is_vector, is_nonnegative });
    }

    fn operand_facts(&self, i: usize, k: usize) -> Facts {
        self.facts[self.network.graph.nodes[i].inputs[k].0 as usize]
    }

    /// The node behind operand `k` of node `i`.
    fn producer(&self, i: usize, k: usize) -> Option<usize> {
        self.network.graph.node_of(self.network.graph.nodes[i].inputs[k])
    }

    /// As [`Self::producer`], if nothing else uses its value, and that is not rounded to 8 bits.
    fn sole_producer(&self, i: usize, k: usize) -> Option<usize> {
        let value = self.network.graph.nodes[i].inputs[k];
        let is_real = self.quantization(value).is_none();
        self.producer(i, k).filter(|_| is_real && self.uses[value.0 as usize] == 1)
    }

    /// The constant that a value is, as it is.
    fn constant_behind(&self, value: ValueId) -> Option<ConstId> {
        let from = self.network.graph.node_of(value).filter(|_| self.quantization(value).is_none());
        match self.op(from?) {
            Op::Constant(id) => Some(*id),
            _ => None,
        }
    }

    fn op(&self, i: usize) -> &Op {
        &self.network.graph.nodes[i].op
    }

    /// Lets node `i`'s operand stand in for its value.
    fn bypass(&mut self, i: usize) -> bool {
        let own = self.network.graph.value_of(i);
        let operand = self.network.graph.nodes[i].inputs[0];
        self.alias[own.0 as usize] = operand;
        self.uses[operand.0 as usize] += self.uses[own.0 as usize];
        self.uses[operand.0 as usize] -= 1;
        self.uses[own.0 as usize] = 0;
        true
    }

    /// Gives node `i` another operator and operands.
    fn rewrite(&mut self, i: usize, op: Op, inputs: Vec<ValueId>) {
        for v in &inputs {
            self.uses[v.0 as usize] += 1;
        }
        for id in op.constants() {
            self.constant_uses[id.0 as usize] += 1;
        }
        let node = &mut self.network.graph.nodes[i];
        let name = std::mem::take(&mut node.name);
        let old = std::mem::replace(node, Node { name, op, inputs });
        for v in old.inputs {
            self.release(v);
        }
        for id in old.op.constants() {
            self.constant_uses[id.0 as usize] -= 1;
        }
    }

    /// Takes back one use of a value; unused nodes give up their operands and constants.
    fn release(&mut self, value: ValueId) {
        let mut pending = vec![value];
        while let Some(v) = pending.pop() {
            self.uses[v.0 as usize] -= 1;
            if self.uses[v.0 as usize] > 0 {
                continue;
            }
            let Some(i) = self.network.graph.node_of(v) else { continue };
            let node = &self.network.graph.nodes[i];
            pending.extend(node.inputs.iter().map(|v| self.alias[v.0 as usize]));
            for id in node.op.constants() {
                self.constant_uses[id.0 as usize] -= 1;
            }
        }
    }

    /// Moves the node `from`, used by node `into` only, to that node's place, with another
    /// operator and operands.
    fn absorb(&mut self, from: usize, into: usize, op: Op, inputs: Vec<ValueId>) {
        let name = self.network.graph.nodes[from].name.clone();
        self.rewrite(into, op, inputs);
        self.network.graph.nodes[into].name = name;
    }

    fn add_constant_data(&mut self, name: &str, shape: &[usize], data: impl Into<Data>) -> ConstId {
        self.constant_uses.push(0);
        self.network.add_constant(name, shape, data)
    }

    /// Computes a node of constants, if that is little work.
    fn fold_constants(&mut self, i: usize) -> bool {
        let node = &self.network.graph.nodes[i];
        if matches!(node.op, Op::Conv(_) | Op::Linear(_) | Op::Pool(_)) {
            return false;
        }
        let ids: Option<Vec<ConstId>> =
            node.inputs.iter().map(|v| self.constant_behind(*v)).collect();
        let Some(ids) = ids.filter(|ids| !ids.is_empty()) else { return false };
        let output = self.shapes[self.network.graph.value_of(i).0 as usize];
        let operands = ids.iter().map(|id| self.network.constant(*id).len());
        let work = operands.sum::<usize>() + output.len();
        let Some(left) = self.left_to_fold.checked_sub(work) else { return false };
        self.left_to_fold = left;
        let widened: Vec<Vec<f64>> = ids
            .iter()
            .map(|id| self.network.constant(*id).iter().map(|&v| v.into()).collect())
            .collect();
        let shapes = node.inputs.iter().map(|v| self.shapes[v.0 as usize]);
        let operands: Vec<(&[f64], Shape)> =
            widened.iter().map(Vec::as_slice).zip(shapes).collect();
        let result = reference::apply(self.network, &node.op, &operands, output);
        let result: Vec<f32> = result.into_iter().map(|v| v as f32).collect();
        let name = node.name.clone();
        let id = self.add_constant_data(&name, &[output.c, output.h, output.w], result);
        self.rewrite(i, Op::Constant(id), Vec::new());
        true
    }

    fn affine_into_producer(&mut self, i: usize, affine: &Affine) -> bool {
        let ones = self.network.constant(affine.scale).iter().all(|v| *v == 1.0);
        if ones && self.network.constant(affine.shift).iter().all(|v| *v == 0.0) {
            let inputs = self.network.graph.nodes[i].inputs.clone();
            self.rewrite(i, Op::Clamp(affine.clamp), inputs);
            return true;
        }
        let Some(from) = self.sole_producer(i, 0) else { return false };
        let node = &self.network.graph.nodes[from];
        let (op, inputs) = (node.op.clone(), node.inputs.clone());
        let op = match op {
            Op::Conv(conv)
                if conv.clamp == Clamp::NONE
                    && !conv.residual
                    && conv.weight_scales.is_none()
                    && self.may_scale(conv.weights, affine) =>
            {
                let (weights, bias) = self.scale_outputs(conv.weights, conv.bias, affine);
                Op::Conv(Conv { weights, bias, clamp: affine.clamp, ..conv })
            }
            Op::Linear(linear)
                if linear.clamp == Clamp::NONE
                    && linear.weight_scales.is_none()
                    && self.may_scale(linear.weights, affine) =>
            {
                let (weights, bias) = self.scale_outputs(linear.weights, linear.bias, affine);
                Op::Linear(super::Linear { weights, bias, clamp: affine.clamp, ..linear })
            }
            Op::Affine(first) if first.clamp == Clamp::NONE => {
                let constant = |id| self.network.constant(id);
                let (scale, shift) = algebra::affine_after_affine(
                    (constant(first.scale), constant(first.shift)),
                    (constant(affine.scale), constant(affine.shift)),
                );
                let c = scale.len();
                let scale = self.add_constant_data("scale", &[c], scale);
                let shift = self.add_constant_data("shift", &[c], shift);
                Op::Affine(Affine { scale, shift, clamp: affine.clamp })
            }
            _ => return false,
        };
        self.absorb(from, i, op, inputs);
        true
    }

    /// Whether weights may be scaled: in place, or not at all. Copying shared weights for each of
    /// their uses could cost more memory than folding saves time.
    fn may_scale(&self, weights: ConstId, affine: &Affine) -> bool {
        self.constant_uses[weights.0 as usize] == 1
            || self.network.constant(affine.scale).iter().all(|v| *v == 1.0)
    }

    fn scale_outputs(
        &mut self,
        weights: ConstId,
        bias: Option<ConstId>,
        affine: &Affine,
    ) -> (ConstId, Option<ConstId>) {
        let scale = self.network.constant(affine.scale).to_vec();
        let shift = self.network.constant(affine.shift);
        let old = bias.map(|id| self.network.constant(id));
        let bias = algebra::scaled_bias(old, &scale, shift);
        if scale.iter().any(|v| *v != 1.0) {
            algebra::scale_rows(self.network.data[weights.0 as usize].f32_mut(), &scale);
        }
        let name = format!("{}.bias", self.network.graph.constant(weights).name);
        (weights, Some(self.add_constant_data(&name, &[scale.len()], bias)))
    }

    /// `x + constant` is an affine map where the constant has one number per channel.
    fn add_constant(&mut self, i: usize, clamp: Clamp) -> bool {
        for k in 0..2 {
            let operand = self.network.graph.nodes[i].inputs[k];
            let Some(id) = self.constant_behind(operand) else { continue };
            let shape = self.shapes[self.network.graph.value_of(i).0 as usize];
            let plane = shape.h * shape.w;
            let planes = self.network.constant(id).chunks(plane);
            if !planes.clone().all(|p| p.iter().all(|v| v == &p[0])) {
                continue;
            }
            let shift: Vec<f32> = planes.map(|p| p[0]).collect();
            // An image of another size would not fit; a vector always does.
            self.network.graph.fixed_size |= plane > 1;
            let x = self.network.graph.nodes[i].inputs[1 - k];
            let scale = self.add_constant_data("scale", &[shape.c], vec![1.0; shape.c]);
            let shift = self.add_constant_data("shift", &[shape.c], shift);
            self.rewrite(i, Op::Affine(Affine { scale, shift, clamp }), vec![x]);
            return true;
        }
        false
    }

    /// Concatenation with constants of one value is channel padding, as the zero-padded identity
    /// shortcuts of the first ResNets need it.
    fn concat_constants(&mut self, i: usize) -> bool {
        let inputs = self.network.graph.nodes[i].inputs.clone();
        let uniform = |v: ValueId| {
            let data = self.network.constant(self.constant_behind(v)?);
            data.iter().all(|v| *v == data[0]).then_some(data[0])
        };
        let fills: Vec<Option<f32>> = inputs.iter().map(|v| uniform(*v)).collect();
        let mut others = (0..inputs.len()).filter(|&k| fills[k].is_none());
        let (Some(k), None) = (others.next(), others.next()) else { return false };
        let mut values = fills.iter().flatten();
        let Some(&value) = values.next() else { return false };
        if values.any(|v| *v != value) {
            return false;
        }
        let channels = |range: &[ValueId]| range.iter().map(|v| self.shapes[v.0 as usize].c).sum();
        let channels = [channels(&inputs[..k]), channels(&inputs[k + 1..])];
        self.network.graph.fixed_size |= !self.facts[inputs[k].0 as usize].is_vector;
        self.rewrite(i, Op::Pad { channels, frame: Pad::default(), value }, vec![inputs[k]]);
        true
    }

    /// The zero padding before node `i`: its frame and operand.
    fn zero_pad_before(&self, i: usize) -> Option<(Pad, ValueId)> {
        let from = self.producer(i, 0).filter(|from| self.may_bypass(*from))?;
        match *self.op(from) {
            Op::Pad { channels: [0, 0], frame, value: 0.0 } => {
                let operand = self.network.graph.nodes[from].inputs[0];
                Some((frame, self.alias[operand.0 as usize]))
            }
            _ => None,
        }
    }

    fn pad_into_conv(&mut self, i: usize, conv: &Conv) -> bool {
        let Some((frame, x)) = self.zero_pad_before(i) else { return false };
        let mut inputs = self.network.graph.nodes[i].inputs.clone();
        inputs[0] = x;
        let pad = algebra::both_pads(conv.pad, frame);
        self.rewrite(i, Op::Conv(Conv { pad, ..conv.clone() }), inputs);
        true
    }

    /// Zeros never win over what is not negative, and every window sees a pixel.
    fn pad_into_max_pool(&mut self, i: usize, pool: &Pool) -> bool {
        let Some((frame, x)) = self.zero_pad_before(i) else { return false };
        let pad = algebra::both_pads(pool.pad, frame);
        let sees_a_pixel = pool.dilation == [1; 2]
            && pad.top.max(pad.bottom) < pool.kernel[0]
            && pad.left.max(pad.right) < pool.kernel[1];
        let applies = pool.kind == PoolKind::Max
            && !pool.ceil_mode
            && sees_a_pixel
            && self.facts[x.0 as usize].is_nonnegative;
        if applies {
            self.rewrite(i, Op::Pool(Pool { pad, ..pool.clone() }), vec![x]);
        }
        applies
    }

    fn affine_into_conv(&mut self, i: usize, conv: &Conv) -> bool {
        let Some(from) = self.sole_producer(i, 0) else { return false };
        let Op::Affine(affine) = self.op(from) else { return false };
        // A shifted image's padding is not zero.
        let exact = conv.pad == Pad::default()
            || self.network.constant(affine.shift).iter().all(|v| *v == 0.0);
        exact
            && self.affine_before(i, conv.weights, conv.bias, conv.groups, |op, bias| {
                if let Op::Conv(conv) = op {
                    conv.bias = bias;
                }
            })
    }

    /// Folds an `Affine` before node `i` into the node's weights and bias.
    fn affine_before(
        &mut self,
        i: usize,
        weights: ConstId,
        bias: Option<ConstId>,
        groups: usize,
        set_bias: impl Fn(&mut Op, Option<ConstId>),
    ) -> bool {
        let Some(from) = self.sole_producer(i, 0) else { return false };
        let Op::Affine(affine) = self.op(from).clone() else { return false };
        if affine.clamp != Clamp::NONE || self.constant_uses[weights.0 as usize] != 1 {
            return false;
        }
        let shape = self.network.graph.constant(weights).shape.clone();
        let scale = self.network.constant(affine.scale).to_vec();
        let shift = self.network.constant(affine.shift).to_vec();
        let old = bias.map(|id| self.network.constant(id).to_vec());
        let data = self.network.data[weights.0 as usize].f32_mut();
        let bias = algebra::scale_columns(data, &shape, groups, (&scale, &shift), old.as_deref());
        let name = format!("{}.bias", self.network.graph.constant(weights).name);
        let bias = self.add_constant_data(&name, &[shape[0]], bias);
        let node = &self.network.graph.nodes[i];
        let (mut op, mut inputs) = (node.op.clone(), node.inputs.clone());
        set_bias(&mut op, Some(bias));
        inputs[0] = self.alias[self.network.graph.nodes[from].inputs[0].0 as usize];
        self.rewrite(i, op, inputs);
        true
    }
}
