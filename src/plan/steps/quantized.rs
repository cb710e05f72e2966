//! Steps of nodes that take quantized values.

use std::sync::Arc;

use skipstone_kernels::pool::Window;
use skipstone_kernels::qsplit;
use skipstone_kernels::qwinograd;
use skipstone_kernels::registry;
use skipstone_kernels::winograd::Variant;

use super::{Builder, Choice, pool_windows};
use crate::graph::{Conv, Node, Op, PoolKind, Quantization, Shape, ValueId};
use crate::ops::conv::WindowAttrs;
use crate::ops::division::Division;
use crate::ops::qconv::{Operands, QconvSpec, QconvStep};
use crate::ops::qconv16::{self, Qconv16Spec};
use crate::ops::qeltwise::QsumStep;
use crate::ops::qpool::{QmaxStep, QmeanStep};
use crate::ops::qsplit::{Parts, SplitStep};
use crate::ops::qsums::{Sums, SumsSpec};
use crate::ops::quads::Packing;
use crate::ops::qwinograd::{PackedFilters, Qwinograd};
use crate::ops::winograd::{self, Placement};
use crate::ops::{Act, Layout, Step};
use crate::plan::{layout, select};

impl Builder<'_> {
    /// An int8 convolution by groups of quads; a linear layer is one with a window of a pixel. `parts`
    /// are what the source is split into in a step before.
    pub(super) fn qconv(
        &mut self,
        (conv, window): (&Conv, WindowAttrs),
        node: &Node,
        (dst, quantization): (Act, Option<Quantization>),
        (division, parts): (Option<Division>, Option<Parts>),
    ) -> (Box<dyn Step>, Choice) {
        let geometry = *self.model.geometry(conv.weights).expect("weights have a geometry");
        let src = self.operand(node, 0);
        let max = if parts.is_some() { qsplit::LOW_MAX } else { src.1.max };
        let kernel = registry::qconv(self.isa, max);
        let certified_max = kernel.grouped.then_some(max);
        let quads = self.model.quads(conv.weights, Packing { layout: src.0.layout, certified_max });
        if self.slice.index == 0 {
            self.built.repacked_bytes += quads.bytes();
        }
        let groups = kernel.grouped.then(|| quads.quads_by_group());
        let sums = self.sums(conv, node, (dst, quantization), &quads.weight_sums);
        let step = QconvStep::new(QconvSpec {
            kernel,
            geometry,
            window,
            quads,
            sums,
            operands: self.operands(conv, window, node, dst),
            members: self.members,
            division,
            parts,
        });
        let algorithm = algorithm(src.0.layout, window);
        let split = step.split().name();
        (Box::new(step), Choice { algorithm, kernel: kernel.name, split, groups })
    }

    /// The same on a source that is split into two parts, in a step of its own.
    pub(super) fn qsplit(
        &mut self,
        (conv, window): (&Conv, WindowAttrs),
        node: &Node,
        result: (Act, Option<Quantization>),
        shared: usize,
    ) -> (Vec<Box<dyn Step>>, Choice) {
        let src = self.act(node.inputs[0]);
        let parts = Parts::new(registry::qsplit(self.isa), src, shared);
        let (step, choice) = self.qconv((conv, window), node, result, (None, Some(parts)));
        (vec![Box::new(SplitStep { src, parts }), step], choice)
    }

    /// The same on operands that are widened to 16 bits, in a step of its own.
    pub(super) fn qconv16(
        &mut self,
        (conv, window): (&Conv, WindowAttrs),
        node: &Node,
        (dst, quantization): (Act, Option<Quantization>),
        shared: usize,
    ) -> (Vec<Box<dyn Step>>, Choice) {
        let geometry = *self.model.geometry(conv.weights).expect("weights have a geometry");
        let kernel = registry::qconv16(self.isa);
        let weights = self.packed_filters(conv);
        let sums = self.sums(conv, node, (dst, quantization), &weights.weight_sums);
        let (steps, split) = qconv16::steps(Qconv16Spec {
            kernel,
            geometry,
            window,
            weights,
            sums,
            operands: self.operands(conv, window, node, dst),
            members: self.members,
            shared,
        });
        let algorithm = algorithm(self.act(node.inputs[0]).layout, window);
        let choice = Choice { algorithm, kernel: kernel.name, split: split.name(), groups: None };
        (steps.into(), choice)
    }

    /// An int8 convolution by Winograd.
    pub(super) fn qwinograd(
        &mut self,
        conv: &Conv,
        node: &Node,
        (dst, quantization): (Act, Option<Quantization>),
        (variant, chosen, shared): (Variant, &select::Choice, usize),
    ) -> (Vec<Box<dyn Step>>, Choice) {
        let residual = conv.residual.then(|| self.operand(node, 1).0);
        let integers = qwinograd::Variant::of(variant).expect("the method was chosen");
        let kernel = registry::qwinograd(integers, self.isa);
        let filters = self.packed_filters(conv);
        let sums = self.sums(conv, node, (dst, quantization), &filters.weight_sums);
        let place = Placement {
            geometry: *self.model.geometry(conv.weights).expect("weights have a geometry"),
            window: layout::window(conv, &self.model.graph().constants),
            src: self.act(node.inputs[0]),
            residual,
            dst,
            members: self.members,
            schedule: chosen.arrangement.schedule,
            shared,
        };
        let choice = Choice::winograd(variant, kernel.name, place.schedule);
        let arithmetic = Qwinograd { kernel, filters, sums, residual, dst };
        (winograd::steps(arithmetic, place), choice)
    }

    /// Operand `i` of an int8 node.
    fn operand(&self, node: &Node, i: usize) -> (Act, Quantization) {
        let value = node.inputs[i];
        (self.act(value), self.quantization(value).expect("a valid graph's int8 operands"))
    }

    /// The activations of an int8 convolution, and their tables.
    fn operands(&mut self, conv: &Conv, window: WindowAttrs, node: &Node, dst: Act) -> Operands {
        let src = self.act(node.inputs[0]);
        let residual = conv.residual.then(|| self.act(node.inputs[1]));
        let mut placed = |act: Act, window| (act, self.table(&act, window, dst.shape));
        let src = placed(src, window);
        let residual = residual.map(|act| placed(act, WindowAttrs::POINT));
        Operands { src, residual, dst: placed(dst, WindowAttrs::POINT) }
    }

    /// Int8 weights for kernels that widen them; counted once per plan.
    fn packed_filters(&mut self, conv: &Conv) -> Arc<PackedFilters> {
        let filters = self.model.packed_filters(conv.weights);
        if self.slice.index == 0 {
            self.built.repacked_bytes += filters.bytes();
        }
        filters
    }

    /// What becomes of an int8 convolution's sums.
    fn sums(
        &self,
        conv: &Conv,
        node: &Node,
        (dst, quantization): (Act, Option<Quantization>),
        weight_sums: &[i32],
    ) -> Sums {
        let scales = conv.weight_scales.expect("an int8 convolution");
        Sums::new(&SumsSpec {
            bias: conv.bias.map(|id| self.model.row_major_i32(id)),
            weight_sums,
            weight_scales: &self.model.row_major(scales),
            clamp: conv.clamp,
            before_add: conv.before_add,
            src: self.operand(node, 0).1,
            residual: conv.residual.then(|| self.operand(node, 1)),
            dst,
            quantization,
        })
    }

    /// Other operators that take quantized operands.
    pub(super) fn quantized(
        &self,
        node: &Node,
        (dst, quantization): (Act, Option<Quantization>),
    ) -> (Box<dyn Step>, Choice) {
        let operand = |v: &ValueId| {
            (self.act(*v), self.quantization(*v).expect("its elements are quantized"))
        };
        let src = operand(&node.inputs[0]);
        match &node.op {
            Op::Pool(pool) if pool.kind == PoolKind::Max => {
                let windows = pool_windows(pool, src.0.shape);
                (Box::new(QmaxStep { windows, src: src.0, dst }), Choice::new("window"))
            }
            Op::Pool(pool) => {
                let with_pad = pool.kind == PoolKind::Average { count_include_pad: true };
                let windows = pool_windows(pool, src.0.shape);
                let step = QmeanStep { windows, with_pad, src, dst, quantization };
                (Box::new(step), Choice::new("window"))
            }
            Op::GlobalAveragePool => {
                let Shape { h, w, .. } = src.0.shape;
                let whole =
                    |size| Window { size, pad: [0, 0], kernel: size, stride: 1, dilation: 1 };
                let windows = [whole(h), whole(w)];
                let step = QmeanStep { windows, with_pad: false, src, dst, quantization };
                (Box::new(step), Choice::new("plane"))
            }
            Op::Add(clamp) | Op::Clamp(clamp) => {
                let step = QsumStep {
                    operands: node.inputs.iter().map(operand).collect(),
                    clamp: *clamp,
                    dst,
                    quantization: quantization.expect("else the operands have shadows"),
                };
                (Box::new(step), Choice::new("elementwise"))
            }
            _ => unreachable!("not an operator over quantized values"),
        }
    }
}

/// The name of direct convolution in summaries.
fn algorithm(src: Layout, window: WindowAttrs) -> &'static str {
    match (src, window.kernel) {
        (Layout::Interleaved, _) => "stem",
        (_, [1, 1]) => "pointwise",
        _ => "direct",
    }
}
