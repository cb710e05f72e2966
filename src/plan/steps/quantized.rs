//! Steps of nodes that take quantized values.

use skipstone_kernels::pool::Window;
use skipstone_kernels::registry;

use super::{Builder, Choice, pool_windows};
use crate::graph::{Conv, Node, Op, PoolKind, Quantization, Shape, ValueId};
use crate::ops::conv::WindowAttrs;
use crate::ops::qconv::{Operand, QconvSpec, QconvStep};
use crate::ops::qeltwise::QsumStep;
use crate::ops::qpool::{QmaxStep, QmeanStep};
use crate::ops::quads::Packing;
use crate::ops::{Act, Layout, Step};
use crate::plan::layout;

impl Builder<'_> {
    /// An int8 convolution, or a linear layer as one.
    pub(super) fn qconv(
        &mut self,
        conv: &Conv,
        node: &Node,
        (dst, quantization): (Act, Option<Quantization>),
    ) -> (Box<dyn Step>, Choice) {
        let geometry = *self.model.geometry(conv.weights).expect("weights have a geometry");
        let window = match node.op {
            Op::Conv(_) => layout::window(conv, &self.model.graph().constants),
            _ => WindowAttrs::POINT,
        };
        let mut operand = |i: usize, window: WindowAttrs| {
            let (act, value) = (self.act(node.inputs[i]), node.inputs[i]);
            let quantization = self.quantization(value).expect("a valid graph's int8 operands");
            Operand { act, quantization, pixels: self.table(&act, window, dst.shape) }
        };
        let src = operand(0, window);
        let residual = conv.residual.then(|| operand(1, WindowAttrs::POINT));
        let kernel = registry::qconv(self.isa, src.quantization.max);
        let certified_max = kernel.grouped.then_some(src.quantization.max);
        let quads =
            self.model.quads(conv.weights, Packing { layout: src.act.layout, certified_max });
        if self.slice.index == 0 {
            self.built.repacked_bytes += quads.bytes();
        }
        let groups = kernel.grouped.then(|| quads.quads_by_group());
        let algorithm = match (src.act.layout, window.kernel) {
            (Layout::Interleaved, _) => "stem",
            (_, [1, 1]) => "pointwise",
            _ => "direct",
        };
        let scales = conv.weight_scales.expect("an int8 convolution");
        let step = QconvStep::new(QconvSpec {
            kernel,
            geometry,
            window,
            quads,
            bias: conv.bias.map(|id| self.model.row_major_i32(id).to_vec()),
            weight_scales: self.model.row_major(scales).into_owned(),
            clamp: conv.clamp,
            before_add: conv.before_add,
            src,
            residual,
            dst,
            quantization,
            dst_pixels: self.table(&dst, WindowAttrs::POINT, dst.shape),
            members: self.members,
        });
        let split = step.split().name();
        let choice = Choice { algorithm, kernel: kernel.name, split, groups };
        (Box::new(step), choice)
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
