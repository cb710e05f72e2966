//! From nodes to steps: algorithm, kernel, operands.

use std::collections::HashMap;

use skipstone_kernels::isa::Isa;
use skipstone_kernels::layout::LayoutTag;
use skipstone_kernels::pack::ConvGeometry;
use skipstone_kernels::pool::{Reduce, Window};
use skipstone_kernels::winograd::Variant;
use skipstone_kernels::{registry, sconv};

use super::layout::{weight_layout, window};
use super::{Acts, StepSummary, select};
use crate::graph::{
    AxisOrder, Clamp, ConstId, Conv, Linear, Node, Op, Pad, Pool, PoolKind, Port, Shape, ValueId,
};
use crate::model::Model;
use crate::ops::conv::{ConvSpec, ConvStep, PixelTable, WindowAttrs, window_table};
use crate::ops::eltwise::{EltwiseStep, Function};
use crate::ops::pool::{GlobalMeanStep, PoolStep};
use crate::ops::reorder::{Copy, ReorderStep, Source, View};
use crate::ops::softmax::SoftmaxStep;
use crate::ops::winograd::{self, Filters, Schedule, WinogradSpec};
use crate::ops::{Act, Step};
use crate::tensor::AlignedBuf;
use crate::threads::RuntimeReport;

/// Kernel name of steps that have one portable form.
const PORTABLE: &str = "portable";

/// Makes the steps of one plan.
pub(super) struct Builder<'a> {
    model: &'a Model,
    acts: &'a Acts,
    batch: usize,
    members: usize,
    isa: Isa,
    sconv: sconv::Kernel,
    tables: HashMap<(Act, WindowAttrs, Shape), PixelTable>,
    steps: Vec<Box<dyn Step>>,
    summaries: Vec<StepSummary>,
    repacked_bytes: usize,
}

/// What a step's summary says beyond its node.
#[derive(Clone, Copy)]
struct Choice {
    algorithm: &'static str,
    kernel: &'static str,
    split: &'static str,
}

impl Choice {
    fn new(algorithm: &'static str) -> Self {
        Self { algorithm, kernel: PORTABLE, split: "rows" }
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        model: &'a Model,
        runtime: &RuntimeReport,
        batch: usize,
        acts: &'a Acts,
    ) -> Self {
        Self {
            model,
            acts,
            batch,
            members: runtime.threads,
            isa: runtime.isa,
            sconv: registry::sconv(runtime.isa),
            tables: HashMap::new(),
            steps: Vec::new(),
            summaries: Vec::new(),
            repacked_bytes: 0,
        }
    }

    /// The steps, their summaries, and the bytes of repacked weights.
    pub(super) fn finish(self) -> (Vec<Box<dyn Step>>, Vec<StepSummary>, usize) {
        (self.steps, self.summaries, self.repacked_bytes)
    }

    fn act(&self, value: ValueId) -> Act {
        self.acts[value.0 as usize]
    }

    /// The step that takes the user's input `index` into the arena.
    pub(super) fn input(&mut self, index: usize, port: &Port) {
        let dst = self.act(port.value);
        let src = View::dense(dst.shape, &port.axes, 0);
        let copy = Copy::whole(Source::Input(index), src);
        self.push(
            Box::new(self.reorder(vec![copy], &dst)),
            Choice::new("reorder"),
            (&port.name, "Input", &[], dst),
            (0, 0),
        );
    }

    /// The step that copies an output to a dense tensor at `place`; returns its length.
    pub(super) fn output(&mut self, port: &Port, place: usize) -> usize {
        let src = self.act(port.value);
        let step = ReorderStep {
            copies: vec![Copy::whole(Source::Arena, View::act(&src))],
            dst: View::dense(src.shape, &port.axes, place),
            batch: self.batch,
            act: None,
        };
        self.push(
            Box::new(step),
            Choice::new("reorder"),
            (&port.name, "Output", &[src], src),
            (0, 0),
        );
        self.batch * src.shape.len()
    }

    /// The step of one node.
    pub(super) fn node(
        &mut self,
        node: &Node,
        value: ValueId,
        chosen: &select::Choice,
        shared: usize,
    ) {
        let dst = self.act(value);
        let operands: Vec<Act> = node.inputs.iter().map(|v| self.act(*v)).collect();
        let constants = &self.model.graph().constants;
        let macs = node.op.macs(constants, dst.shape) * self.batch as u64;
        let weights: usize = node.op.constants().map(|id| constants[id.0 as usize].len()).sum();
        let weight_bytes = (weights * size_of::<f32>()) as u64;
        let (step, choice): (Box<dyn Step>, Choice) = match &node.op {
            Op::Conv(conv) => {
                if let Some(variant) = chosen.algorithm.variant() {
                    let (steps, choice) =
                        self.winograd(conv, &operands, dst, (variant, chosen, shared));
                    // The steps of a pass, and what they read, share the node's work.
                    let (count, nb_passes) = (steps.len(), steps.len().div_ceil(2) as u64);
                    for (i, step) in steps.into_iter().enumerate() {
                        let (choice, work) = if i + 1 < count && i % 2 == 0 {
                            (Choice { algorithm: input_step_name(variant), ..choice }, (0, 0))
                        } else {
                            (choice, (macs / nb_passes, weight_bytes / nb_passes))
                        };
                        self.push(step, choice, (&node.name, "Conv", &operands, dst), work);
                    }
                    return;
                }
                self.conv(conv, &operands, dst)
            }
            Op::Linear(linear) => self.linear(linear, operands[0], dst),
            Op::Pool(pool) => (Box::new(pool_step(pool, operands[0], dst)), Choice::new("window")),
            Op::GlobalAveragePool => {
                (Box::new(GlobalMeanStep { src: operands[0], dst }), Choice::new("plane"))
            }
            Op::Softmax { log } => {
                (Box::new(SoftmaxStep { log: *log, src: operands[0], dst }), Choice::new("pixel"))
            }
            Op::Add(clamp) => self.eltwise(Function::Add, *clamp, operands.clone(), dst),
            Op::Affine(a) => {
                let function = Function::Affine {
                    scale: self.channels(a.scale, &dst),
                    shift: self.channels(a.shift, &dst),
                };
                self.eltwise(function, a.clamp, operands.clone(), dst)
            }
            Op::Clamp(clamp) => {
                let c = dst.nb_planes() * dst.pixel_len();
                let identity = Function::Affine { scale: vec![1.0; c], shift: vec![0.0; c] };
                self.eltwise(identity, *clamp, operands.clone(), dst)
            }
            Op::Concat | Op::Pad { .. } | Op::Slice(_) | Op::Flatten { .. } | Op::Constant(_) => {
                let step = self.movement(&node.op, &operands, dst);
                (Box::new(step), Choice::new("reorder"))
            }
        };
        self.push(step, choice, (&node.name, node.op.kind(), &operands, dst), (macs, weight_bytes));
    }

    fn push(
        &mut self,
        step: Box<dyn Step>,
        choice: Choice,
        (name, op, operands, dst): (&str, &'static str, &[Act], Act),
        (macs, weight_bytes): (u64, u64),
    ) {
        self.steps.push(step);
        self.summaries.push(StepSummary {
            name: name.to_owned(),
            op,
            inputs: operands.iter().map(|a| a.shape).collect(),
            output: dst.shape,
            algorithm: choice.algorithm,
            kernel: choice.kernel,
            split: if self.members == 1 { "none" } else { choice.split },
            macs,
            weight_bytes,
            activation_bytes: operands.iter().map(Act::bytes).sum::<u64>() + dst.bytes(),
        });
    }

    fn conv(&mut self, conv: &Conv, operands: &[Act], dst: Act) -> (Box<dyn Step>, Choice) {
        let constants = &self.model.graph().constants;
        let window = window(conv, constants);
        let algorithm = match (operands[0].layout, window.kernel) {
            (crate::ops::Layout::Interleaved, _) => "stem",
            (_, [1, 1]) => "pointwise",
            _ => "direct",
        };
        let residual = conv.residual.then(|| operands[1]);
        let step = self.sconv(
            (conv.weights, conv.bias, conv.groups),
            (window, conv.clamp),
            (operands[0], residual, dst),
        );
        let choice = Choice { algorithm, kernel: self.sconv.name, split: step.split().name() };
        (Box::new(step), choice)
    }

    fn winograd(
        &mut self,
        conv: &Conv,
        operands: &[Act],
        dst: Act,
        (variant, chosen, shared): (Variant, &select::Choice, usize),
    ) -> (Vec<Box<dyn Step>>, Choice) {
        let src = operands[0];
        let kernel = registry::winograd(variant, self.isa);
        let geometry = ConvGeometry::new(dst.shape.c, src.shape.c, 3, 3, 1);
        let filters = if chosen.ready_filters {
            let ready = self.model.transformed(conv.weights, &kernel).expect("weights");
            self.repacked_bytes += size_of_val(&*ready);
            Filters::Ready(ready)
        } else {
            let packed = self.model.packed_or_repack(conv.weights, LayoutTag::OIhw8i16o);
            Filters::Packed(packed.expect("weights"))
        };
        let steps = winograd::steps(WinogradSpec {
            kernel,
            geometry: geometry.expect("the graph is validated"),
            window: window(conv, &self.model.graph().constants),
            clamp: conv.clamp,
            filters,
            bias: conv.bias.map(|id| self.model.row_major(id).into_owned()),
            src,
            residual: conv.residual.then(|| operands[1]),
            dst,
            members: self.members,
            schedule: chosen.schedule,
            shared,
        });
        let split = match chosen.schedule {
            Schedule::Tiles(_) => "tiles",
            Schedule::Panels(_) => "channels",
        };
        (steps, Choice { algorithm: variant.name(), kernel: kernel.name, split })
    }

    fn linear(&mut self, linear: &Linear, src: Act, dst: Act) -> (Box<dyn Step>, Choice) {
        let step = self.sconv(
            (linear.weights, linear.bias, 1),
            (WindowAttrs::POINT, linear.clamp),
            (src, None, dst),
        );
        let split = step.split().name();
        (Box::new(step), Choice { algorithm: "pointwise", kernel: self.sconv.name, split })
    }

    fn sconv(
        &mut self,
        (weights, bias, groups): (ConstId, Option<ConstId>, usize),
        (window, clamp): (WindowAttrs, Clamp),
        (src, residual, dst): (Act, Option<Act>, Act),
    ) -> ConvStep {
        let [kh, kw] = window.kernel;
        let geometry = ConvGeometry::new(dst.shape.c, src.shape.c, kh, kw, groups)
            .expect("the graph is validated");
        let layout = weight_layout(src.layout);
        let weights = self.model.packed_or_repack(weights, layout);
        let weights = weights.expect("a convolution's weights have every layout");
        if weights.is_repacked() {
            self.repacked_bytes += size_of_val(&*weights);
        }
        ConvStep::new(ConvSpec {
            kernel: self.sconv,
            geometry,
            window,
            clamp,
            layout,
            weights,
            bias: bias.map(|id| self.model.row_major(id).into_owned()),
            src,
            residual,
            dst,
            src_pixels: self.table(&src, window, dst.shape),
            res_pixels: residual.map(|res| self.table(&res, WindowAttrs::POINT, dst.shape)),
            dst_pixels: self.table(&dst, WindowAttrs::POINT, dst.shape),
            members: self.members,
        })
    }

    /// The table of `act`, shared by all steps with the same geometry.
    fn table(&mut self, act: &Act, window: WindowAttrs, output: Shape) -> PixelTable {
        let window = match window.kernel {
            // A 1x1 window has no taps to dilate.
            [1, 1] => WindowAttrs { dilation: [1, 1], ..window },
            _ => window,
        };
        let key = (Act { base: 0, ..*act }, window, Shape { c: 0, ..output });
        self.tables.entry(key).or_insert_with(|| window_table(act, &window, output)).clone()
    }

    fn eltwise(
        &self,
        function: Function,
        clamp: Clamp,
        operands: Vec<Act>,
        dst: Act,
    ) -> (Box<dyn Step>, Choice) {
        (Box::new(EltwiseStep { function, clamp, operands, dst }), Choice::new("elementwise"))
    }

    /// A constant per channel, zero for absent channels of the last block.
    fn channels(&self, id: ConstId, act: &Act) -> Vec<f32> {
        let mut values = self.model.row_major(id).into_owned();
        values.resize(act.nb_planes() * act.pixel_len(), 0.0);
        values
    }

    fn reorder(&self, copies: Vec<Copy>, dst: &Act) -> ReorderStep {
        ReorderStep { copies, dst: View::act(dst), batch: self.batch, act: Some(*dst) }
    }

    /// Operators that only move elements.
    fn movement(&self, op: &Op, operands: &[Act], dst: Act) -> ReorderStep {
        let from_arena = |act: &Act| Copy::whole(Source::Arena, View::act(act));
        let all = 0..dst.shape.c;
        match op {
            Op::Concat => {
                let mut next = 0;
                let copies = operands.iter().map(|act| {
                    let channels = next..next + act.shape.c;
                    next = channels.end;
                    Copy { channels, ..from_arena(act) }
                });
                self.reorder(copies.collect(), &dst)
            }
            Op::Pad { channels, frame, value } => {
                let before = [channels[0], frame.top, frame.left].map(|n| -(n as isize));
                let copy =
                    Copy { channels: all, start: before, fill: *value, ..from_arena(&operands[0]) };
                self.reorder(vec![copy], &dst)
            }
            Op::Slice(slice) => {
                let copy = Copy {
                    channels: all,
                    start: slice.start.map(|n| n as isize),
                    step: slice.step,
                    ..from_arena(&operands[0])
                };
                self.reorder(vec![copy], &dst)
            }
            Op::Constant(id) => {
                let data = AlignedBuf::from_slice(&self.model.row_major(*id));
                let src = View::dense(dst.shape, &AxisOrder::nchw(), 0).shared_image();
                self.reorder(vec![Copy::whole(Source::Constant(data), src)], &dst)
            }
            Op::Flatten { channels_last } => {
                // The vector's memory, seen with the source's axes.
                let src = &operands[0];
                let axes = if *channels_last { AxisOrder::nhwc() } else { AxisOrder::nchw() };
                ReorderStep {
                    copies: vec![from_arena(src)],
                    dst: View::vector(&dst, src.shape, &axes),
                    batch: self.batch,
                    act: Some(dst),
                }
            }
            _ => unreachable!("not a movement"),
        }
    }
}

/// The algorithm's name in the summary of the step that transforms its input.
fn input_step_name(variant: Variant) -> &'static str {
    match variant {
        Variant::F2 => "winograd-f2-input",
        Variant::F4 => "winograd-f4-input",
    }
}

fn pool_step(pool: &Pool, src: Act, dst: Act) -> PoolStep {
    let Pad { top, left, bottom, right } = pool.pad;
    let axis = |i: usize, size: usize, pad: [usize; 2]| Window {
        size,
        pad,
        kernel: pool.kernel[i],
        stride: pool.stride[i],
        dilation: pool.dilation[i],
    };
    PoolStep {
        reduce: match pool.kind {
            PoolKind::Max => Reduce::Max,
            PoolKind::Average { count_include_pad: false } => Reduce::Mean,
            PoolKind::Average { count_include_pad: true } => Reduce::MeanWithPad,
        },
        windows: [axis(0, src.shape.h, [top, bottom]), axis(1, src.shape.w, [left, right])],
        src,
        dst,
    }
}
