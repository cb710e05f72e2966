//! From nodes to steps: algorithm, kernel, operands.

mod movement;
mod quantized;

use std::collections::HashMap;

use half::f16;
use skipstone_kernels::isa::Isa;
use skipstone_kernels::layout::{LayoutTag, OC_PANEL};
use skipstone_kernels::pool::{Reduce, Window};
use skipstone_kernels::winograd::{self as winograd_kernels, Variant};
use skipstone_kernels::{registry, sconv};

use super::layout::{self, weight_layout};
use super::select::{self, Arrangement, Prepared};
use super::shadows::Shadows;
use super::{Acts, Algorithm, ChoiceSummary, StepSummary};
use crate::graph::{
    Clamp, ConstId, Conv, Linear, Node, Op, Pad, Pool, PoolKind, Port, Quantization, Shape, ValueId,
};
use crate::model::{Model, Weights};
use crate::ops::conv::{
    ConvSpec, ConvStep, PixelTable, Segment, WeightType, WindowAttrs, window_table,
};
use crate::ops::eltwise::{EltwiseStep, Function};
use crate::ops::input::InputStep;
use crate::ops::pool::{GlobalMeanStep, PoolStep};
use crate::ops::reorder::{Copy, ReorderStep, Source, View};
use crate::ops::softmax::SoftmaxStep;
use crate::ops::strassen::StrassenStep;
use crate::ops::swinograd::Swinograd;
use crate::ops::winograd::{self, Filters, Placement, Schedule};
use crate::ops::{Act, Elements, Step};
use crate::tensor::AlignedBuf;
use crate::threads::RuntimeReport;

/// Kernel name of steps that have one portable form.
const PORTABLE: &str = "portable";

/// Makes the steps of one plan.
pub(super) struct Builder<'a> {
    model: &'a Model,
    /// Activations of the present slice.
    acts: Vec<Act>,
    slice: Slice,
    members: usize,
    isa: Isa,
    sconv: sconv::Kernel,
    hconv: sconv::Kernel<f16>,
    tables: HashMap<(Act, WindowAttrs, Shape), PixelTable>,
    built: Built,
}

/// What a builder has made.
#[derive(Default)]
pub(super) struct Built {
    pub(super) steps: Vec<Box<dyn Step>>,
    /// The entry of `summaries` for each step.
    pub(super) entries: Vec<usize>,
    pub(super) summaries: Vec<StepSummary>,
    pub(super) repacked_bytes: usize,
}

/// The slice whose steps are being made.
#[derive(Default)]
struct Slice {
    index: usize,
    /// The first image of the batch in it.
    first_image: usize,
    /// The part's first entry in the summary, and how many steps of this slice are made.
    first_entry: usize,
    nb_steps: usize,
}

/// A source and the weights it is convolved with.
struct Product {
    weights: ConstId,
    bias: Option<ConstId>,
    window: WindowAttrs,
    src: Act,
}

/// What a step's summary says beyond its node.
#[derive(Clone, Copy)]
struct Choice {
    algorithm: &'static str,
    kernel: &'static str,
    split: &'static str,
    groups: Option<[usize; 4]>,
}

impl Choice {
    fn new(algorithm: &'static str) -> Self {
        Self { algorithm, kernel: PORTABLE, split: "rows", groups: None }
    }
}

impl Choice {
    fn winograd(variant: Variant, kernel: &'static str, schedule: Schedule) -> Self {
        let split = match schedule {
            Schedule::Tiles(_) => "tiles",
            Schedule::Panels(_) | Schedule::Copies(_) => "channels",
        };
        Self { algorithm: variant.name(), kernel, split, groups: None }
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(model: &'a Model, runtime: &RuntimeReport) -> Self {
        Self {
            model,
            acts: Vec::new(),
            slice: Slice::default(),
            members: runtime.threads,
            isa: runtime.isa,
            sconv: registry::sconv(runtime.isa),
            hconv: registry::hconv(runtime.isa),
            tables: HashMap::new(),
            built: Built::default(),
        }
    }

    /// Turns to slice `index` of a part that runs `images` images at a time. `acts` are the
    /// activations of all values; those of the whole batch are narrowed to the slice.
    pub(super) fn begin_slice(&mut self, acts: &Acts, images: usize, index: usize) {
        let first_image = index * images;
        self.acts = acts.iter().map(|act| act.images(first_image, images)).collect();
        let first_entry =
            if index == 0 { self.built.summaries.len() } else { self.slice.first_entry };
        self.slice = Slice { index, first_image, first_entry, nb_steps: 0 };
    }

    /// The steps and what is known of them.
    pub(super) fn finish(self) -> Built {
        self.built
    }

    fn act(&self, value: ValueId) -> Act {
        self.acts[value.0 as usize]
    }

    fn quantization(&self, value: ValueId) -> Option<Quantization> {
        self.model.graph().quantization_of(value)
    }

    fn view(&self, value: ValueId) -> View {
        View::act(&self.act(value), self.quantization(value))
    }

    /// The step that takes the user's input `index` into the arena.
    pub(super) fn input(&mut self, index: usize, port: &Port) {
        let dst = self.act(port.value);
        let quantization = self.quantization(port.value);
        let (first_image, axes) = (self.slice.first_image, port.axes.clone());
        self.push(
            Box::new(InputStep { index, first_image, axes, dst, quantization }),
            Choice::new("reorder"),
            (&port.name, "Input", &[], dst),
            (0, 0),
        );
    }

    /// The step that copies an output to a dense tensor at `place`; returns its length.
    pub(super) fn output(&mut self, port: &Port, place: usize) -> usize {
        let src = self.act(port.value);
        let step = ReorderStep {
            copies: vec![Copy::whole(Source::Arena, self.view(port.value))],
            dst: View::dense(src.shape, &port.axes, place),
            batch: src.batch,
            act: None,
        };
        self.push(
            Box::new(step),
            Choice::new("reorder"),
            (&port.name, "Output", &[src], src),
            (0, 0),
        );
        src.batch * src.shape.len()
    }

    /// The steps of node `index`, and of the convolution that joins it as its residual operand, as
    /// chosen. `shared` is where the arena has room for what the node's own steps share.
    pub(super) fn node(
        &mut self,
        index: usize,
        (chosen, summary): (&select::Choice, Option<ChoiceSummary>),
        shadows: &Shadows,
        branch: Option<usize>,
        shared: usize,
    ) {
        let first = self.built.summaries.len();
        self.node_steps(index, (chosen, shadows), branch, shared);
        for step in &mut self.built.summaries[first..] {
            step.node = Some(index);
            step.choice = summary.clone();
        }
    }

    /// A node's own steps, and those of its shadows.
    fn node_steps(
        &mut self,
        index: usize,
        (chosen, shadows): (&select::Choice, &Shadows),
        branch: Option<usize>,
        shared: usize,
    ) {
        let graph = self.model.graph();
        let (node, value) = (&graph.nodes[index], graph.value_of(index));
        for (v, shadow) in node.inputs.iter().zip(&shadows.operands) {
            if let Some(shadow) = shadow {
                let step = self.reorder(
                    vec![Copy::whole(Source::Arena, self.view(*v))],
                    View::act(shadow, None),
                    *shadow,
                );
                let src = [self.act(*v)];
                self.push(
                    Box::new(step),
                    Choice::new("dequantize"),
                    (&node.name, "Reorder", &src, *shadow),
                    (0, 0),
                );
            }
        }
        self.own_steps(index, (chosen, shadows), branch, shared);
        if let Some(shadow) = shadows.result {
            let copy = Copy::whole(Source::Arena, View::act(&shadow, None));
            let dst = self.act(value);
            let step = self.reorder(vec![copy], self.view(value), dst);
            self.push(
                Box::new(step),
                Choice::new("quantize"),
                (&node.name, "Reorder", &[shadow], dst),
                (0, 0),
            );
        }
    }

    /// The steps of node `index` over its values, or their shadows.
    fn own_steps(
        &mut self,
        index: usize,
        (chosen, shadows): (&select::Choice, &Shadows),
        branch: Option<usize>,
        shared: usize,
    ) {
        let graph = self.model.graph();
        let (node, value) = (&graph.nodes[index], graph.value_of(index));
        let dst = shadows.result.unwrap_or_else(|| self.act(value));
        let seen = |(i, v): (usize, &ValueId)| {
            shadows.operands.get(i).copied().flatten().unwrap_or_else(|| self.act(*v))
        };
        let mut operands: Vec<Act> = node.inputs.iter().enumerate().map(seen).collect();
        let branch = branch.map(|i| &graph.nodes[i]);
        let name = match branch {
            Some(branch) => {
                operands[1] = self.act(branch.inputs[0]);
                format!("{} + {}", node.name, branch.name)
            }
            None => node.name.clone(),
        };
        let constants = &graph.constants;
        let ops = || [Some(node), branch].into_iter().flatten().map(|n| &n.op);
        let macs = ops().map(|op| op.macs(constants, dst.shape)).sum::<u64>() * dst.batch as u64;
        let bytes = |id: ConstId| {
            let spec = &constants[id.0 as usize];
            spec.len() * spec.dtype.size_bytes()
        };
        let weight_bytes = ops().flat_map(Op::constants).map(bytes).sum::<usize>() as u64;
        let quantized = graph.quantization_of(value).filter(|_| shadows.result.is_none());
        let result = (dst, quantized);
        let int8 = self.int8_conv(node);
        // What takes a step of its own to prepare its source, and that step's name.
        let prepared = match (&node.op, chosen.algorithm.variant()) {
            (Op::Conv(conv), Some(variant)) => {
                let how = (variant, chosen, shared);
                let steps = match &int8 {
                    Some((conv, _)) => self.qwinograd(conv, node, result, how),
                    None => self.winograd(conv, &operands, dst, how),
                };
                Some((steps, input_step_name(variant)))
            }
            _ => int8.as_ref().zip(chosen.arrangement.prepared).map(|((conv, window), how)| {
                let conv = (conv, *window);
                match how {
                    Prepared::Widened => (self.qconv16(conv, node, result, shared), "widen"),
                    Prepared::Split => (self.qsplit(conv, node, result, shared), "split"),
                }
            }),
        };
        if let Some(((steps, choice), input_step)) = prepared {
            // The steps of a pass, and what they read, share the node's work.
            let (count, nb_passes) = (steps.len(), steps.len().div_ceil(2) as u64);
            for (i, step) in steps.into_iter().enumerate() {
                let (choice, work) = if i + 1 < count && i % 2 == 0 {
                    (Choice { algorithm: input_step, ..choice }, (0, 0))
                } else {
                    (choice, (macs / nb_passes, weight_bytes / nb_passes))
                };
                self.push(step, choice, (&name, node.op.kind(), &operands, dst), work);
            }
            return;
        }
        let (step, choice): (Box<dyn Step>, Choice) = match &node.op {
            _ if let Some((conv, window)) = &int8 => {
                let division = chosen.arrangement.division;
                self.qconv((conv, *window), node, result, (division, None))
            }
            Op::Pool(_) | Op::GlobalAveragePool | Op::Add(_) | Op::Clamp(_)
                if operands.iter().all(|act| act.elements != Elements::F32) =>
            {
                self.quantized(node, result)
            }
            Op::Conv(conv) => self.conv(conv, branch.map(|b| &b.op), &operands, (dst, chosen)),
            Op::Linear(linear) => self.linear(linear, operands[0], (dst, chosen)),
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
                let step = self.movement(node, value);
                (Box::new(step), Choice::new("reorder"))
            }
        };
        self.push(step, choice, (&name, node.op.kind(), &operands, dst), (macs, weight_bytes));
    }

    /// An int8 node as a convolution, and its window.
    fn int8_conv(&self, node: &Node) -> Option<(Conv, WindowAttrs)> {
        match &node.op {
            _ if !node.is_int8() => None,
            Op::Conv(conv) => {
                Some((conv.clone(), layout::window(conv, &self.model.graph().constants)))
            }
            Op::Linear(linear) => {
                let conv = Conv {
                    weight_scales: linear.weight_scales,
                    clamp: linear.clamp,
                    ..Conv::pointwise(linear.weights, linear.bias)
                };
                Some((conv, WindowAttrs::POINT))
            }
            _ => None,
        }
    }

    fn push(
        &mut self,
        step: Box<dyn Step>,
        choice: Choice,
        (name, op, operands, dst): (&str, &'static str, &[Act], Act),
        (macs, weight_bytes): (u64, u64),
    ) {
        let activation_bytes = operands.iter().map(Act::bytes).sum::<u64>() + dst.bytes();
        let (built, slice) = (&mut self.built, &mut self.slice);
        let entry = slice.first_entry + slice.nb_steps;
        slice.nb_steps += 1;
        built.steps.push(step);
        built.entries.push(entry);
        if slice.index > 0 {
            let summary = &mut built.summaries[entry];
            summary.macs += macs;
            summary.activation_bytes += activation_bytes;
            return;
        }
        built.summaries.push(StepSummary {
            name: name.to_owned(),
            op,
            inputs: operands.iter().map(|a| a.shape).collect(),
            output: dst.shape,
            algorithm: choice.algorithm,
            node: None,
            choice: None,
            kernel: choice.kernel,
            groups: choice.groups,
            split: if self.members == 1 { "none" } else { choice.split },
            images: dst.batch,
            macs,
            weight_bytes,
            activation_bytes,
        });
    }

    /// A convolution; with `branch`, operand 1 is the source of the convolution that it adds.
    fn conv(
        &mut self,
        conv: &Conv,
        branch: Option<&Op>,
        operands: &[Act],
        (dst, chosen): (Act, &select::Choice),
    ) -> (Box<dyn Step>, Choice) {
        let constants = &self.model.graph().constants;
        let algorithm = match (operands[0].layout, layout::window(conv, constants).kernel) {
            (crate::ops::Layout::Interleaved, _) => "stem",
            _ if chosen.algorithm == Algorithm::Strassen => "strassen",
            (_, [1, 1]) => "pointwise",
            _ => "direct",
        };
        let product = |conv: &Conv, src: Act| Product {
            weights: conv.weights,
            bias: conv.bias,
            window: layout::window(conv, constants),
            src,
        };
        let mut products = vec![product(conv, operands[0])];
        let residual = match branch {
            Some(Op::Conv(branch)) => {
                products.push(product(branch, operands[1]));
                None
            }
            _ => conv.residual.then(|| operands[1]),
        };
        let (step, [kernel, split]) = self.sconv(&products, conv.clamp, (residual, dst), chosen);
        (step, Choice { algorithm, kernel, split, groups: None })
    }

    fn winograd(
        &mut self,
        conv: &Conv,
        operands: &[Act],
        dst: Act,
        (variant, chosen, shared): (Variant, &select::Choice, usize),
    ) -> (Vec<Box<dyn Step>>, Choice) {
        let kernel = registry::winograd(variant, self.isa);
        let Arrangement { schedule, ready_filters, widened, .. } = chosen.arrangement;
        let place = Placement {
            geometry: *self.model.geometry(conv.weights).expect("weights have a geometry"),
            window: layout::window(conv, &self.model.graph().constants),
            src: operands[0],
            residual: conv.residual.then(|| operands[1]),
            dst,
            members: self.members,
            schedule,
            shared,
        };
        let halves = self.model.packed_half(conv.weights, LayoutTag::OIhw8i16o);
        let steps = if ready_filters {
            let ready = self.model.transformed(conv.weights, &kernel).expect("weights");
            self.count_repacked(&ready);
            self.winograd_steps::<f32>(kernel, Filters::Ready(ready), conv, place)
        } else if let Some(halves) = halves.filter(|_| !widened) {
            self.winograd_steps::<f16>(kernel, Filters::Packed(halves), conv, place)
        } else {
            let packed = self.model.packed_or_repack(conv.weights, LayoutTag::OIhw8i16o);
            let packed = packed.expect("weights");
            self.count_repacked(&packed);
            self.winograd_steps::<f32>(kernel, Filters::Packed(packed), conv, place)
        };
        (steps, Choice::winograd(variant, kernel.name, schedule))
    }

    fn winograd_steps<W: WeightType>(
        &self,
        kernel: winograd_kernels::Kernel,
        filters: Filters<Weights, W::Weights>,
        conv: &Conv,
        place: Placement,
    ) -> Vec<Box<dyn Step>> {
        let Placement { geometry, residual, dst, .. } = place;
        let mut bias = AlignedBuf::zeroed(geometry.nb_panels() * OC_PANEL);
        if let Some(id) = conv.bias {
            bias[..geometry.oc()].copy_from_slice(&self.model.row_major(id));
        }
        let arithmetic = Swinograd::<W> { kernel, filters, bias, clamp: conv.clamp, residual, dst };
        winograd::steps(arithmetic, place)
    }

    /// Counts weights that the plan needs in another form than the file has, once per plan.
    fn count_repacked(&mut self, weights: &Weights) {
        if weights.is_repacked() && self.slice.index == 0 {
            self.built.repacked_bytes += size_of_val(&**weights);
        }
    }

    fn linear(
        &mut self,
        linear: &Linear,
        src: Act,
        (dst, chosen): (Act, &select::Choice),
    ) -> (Box<dyn Step>, Choice) {
        let (weights, bias) = (linear.weights, linear.bias);
        let product = Product { weights, bias, window: WindowAttrs::POINT, src };
        let (step, [kernel, split]) = self.sconv(&[product], linear.clamp, (None, dst), chosen);
        (step, Choice { algorithm: "pointwise", kernel, split, groups: None })
    }

    /// A convolution, or the sum of several, whose outputs have the shape of `dst`: the step, and the
    /// names of its kernel and its division. Weights that the file has in halves stay so, unless they
    /// are to be widened.
    fn sconv(
        &mut self,
        products: &[Product],
        clamp: Clamp,
        (residual, dst): (Option<Act>, Act),
        chosen: &select::Choice,
    ) -> (Box<dyn Step>, [&'static str; 2]) {
        let operands = (residual, dst);
        let halves = |product: &Product| {
            self.model.packed_half(product.weights, weight_layout(product.src.layout))
        };
        let halves: Option<Vec<_>> = products.iter().map(halves).collect();
        if let Some(halves) = halves.filter(|_| !chosen.arrangement.widened) {
            let spec = self.conv_spec(products, clamp, operands, chosen);
            let step = ConvStep::new(self.hconv, spec, halves);
            let names = [self.hconv.name, step.split().name()];
            return (Box::new(step), names);
        }
        let weights = products.iter().map(|product| {
            let layout = weight_layout(product.src.layout);
            let weights = self.model.packed_or_repack(product.weights, layout);
            let weights = weights.expect("a convolution's weights have every layout");
            self.count_repacked(&weights);
            weights
        });
        let weights = weights.collect();
        let spec = self.conv_spec(products, clamp, operands, chosen);
        let kernel = self.sconv;
        if chosen.algorithm == Algorithm::Strassen {
            let step = StrassenStep::new((kernel, registry::strassen(self.isa)), spec, weights);
            let names = [kernel.name, step.split().name()];
            return (Box::new(step), names);
        }
        let step = ConvStep::new(kernel, spec, weights);
        let names = [kernel.name, step.split().name()];
        (Box::new(step), names)
    }

    fn conv_spec(
        &mut self,
        products: &[Product],
        clamp: Clamp,
        (residual, dst): (Option<Act>, Act),
        chosen: &select::Choice,
    ) -> ConvSpec {
        let mut bias = vec![0.0; dst.shape.c];
        let segments = products.iter().map(|product| {
            let Product { window, src, .. } = *product;
            if let Some(id) = product.bias {
                bias.iter_mut().zip(&*self.model.row_major(id)).for_each(|(sum, b)| *sum += b);
            }
            let geometry = self.model.geometry(product.weights);
            Segment {
                geometry: *geometry.expect("weights have a geometry"),
                window,
                layout: weight_layout(src.layout),
                src,
                src_pixels: self.table(&src, window, dst.shape),
            }
        });
        let segments = segments.collect();
        ConvSpec {
            clamp,
            segments,
            bias,
            residual,
            dst,
            res_pixels: residual.map(|res| self.table(&res, WindowAttrs::POINT, dst.shape)),
            dst_pixels: self.table(&dst, WindowAttrs::POINT, dst.shape),
            members: self.members,
            division: chosen.arrangement.division,
        }
    }

    /// The table of `act`, shared by all steps with the same geometry.
    fn table(&mut self, act: &Act, window: WindowAttrs, output: Shape) -> PixelTable {
        let window = match window.kernel {
            // A 1x1 window has no taps to dilate.
            [1, 1] => WindowAttrs { dilation: [1, 1], ..window },
            _ => window,
        };
        let elements = match act.elements {
            Elements::F32 => Elements::F32,
            Elements::U8 { .. } => Elements::U8 { zero_point: 0 },
        };
        let key = (Act { base: 0, elements, ..*act }, window, Shape { c: 0, ..output });
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
}

/// The algorithm's name in the summary of the step that transforms its input.
fn input_step_name(variant: Variant) -> &'static str {
    match variant {
        Variant::F2 => "winograd-f2-input",
        Variant::F4 => "winograd-f4-input",
        Variant::F6 => "winograd-f6-input",
        Variant::F2S2 => "winograd-s2-f2-input",
    }
}

fn pool_step(pool: &Pool, src: Act, dst: Act) -> PoolStep {
    PoolStep {
        reduce: match pool.kind {
            PoolKind::Max => Reduce::Max,
            PoolKind::Average { count_include_pad: false } => Reduce::Mean,
            PoolKind::Average { count_include_pad: true } => Reduce::MeanWithPad,
        },
        windows: pool_windows(pool, src.shape),
        src,
        dst,
    }
}

/// The vertical and the horizontal window.
fn pool_windows(pool: &Pool, input: Shape) -> [Window; 2] {
    let Pad { top, left, bottom, right } = pool.pad;
    let axis = |i: usize, size: usize, pad: [usize; 2]| Window {
        size,
        pad,
        kernel: pool.kernel[i],
        stride: pool.stride[i],
        dilation: pool.dilation[i],
    };
    [axis(0, input.h, [top, bottom]), axis(1, input.w, [left, right])]
}
