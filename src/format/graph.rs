//! `GRAPH` and the names in `STRINGS`: fixed-size records of a network's structure.

use super::fields::{Decoder, Encoder, Fields};
use super::{MAX_CONSTANTS, MAX_NODES, MAX_OPERANDS, MAX_PORTS, ensure, strings, within};
use crate::error::{Error, Result};
use crate::graph::{
    Affine, Axis, AxisOrder, Clamp, ConstId, ConstSpec, Conv, Dtype, Graph, Linear, Node, Op, Pad,
    Pool, PoolKind, Port, Quantization, Shape, Slice, ValueId,
};

const COUNTS_LEN: usize = 32;
const PORT_LEN: usize = 32;
const CONSTANT_LEN: usize = 32;
const NODE_LEN: usize = 128;
const QUANTIZATION_LEN: usize = 12;
const MAX_RANK: usize = 6;
const NO_CONSTANT: u32 = u32::MAX;

/// The `GRAPH` and `STRINGS` sections of a graph.
pub(super) fn encode(graph: &Graph) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut copy = graph.clone();
    let mut counts = Counts {
        inputs: graph.inputs.len(),
        outputs: graph.outputs.len(),
        constants: graph.constants.len(),
        nodes: graph.nodes.len(),
        operands: graph.nodes.iter().map(|n| n.inputs.len()).sum(),
        fixed_size: graph.fixed_size,
    };
    let mut out = Encoder::default();
    counts.fields(&mut out)?;
    records(&mut out, &mut copy, counts.operands)?;
    let names: Vec<String> = names_mut(&mut copy).map(std::mem::take).collect();
    Ok((out.0, strings::encode(names.iter().map(String::as_str))?))
}

/// The graph in a `GRAPH` section; it has no names yet, and is not validated.
pub(super) fn decode(bytes: &[u8]) -> Result<Graph> {
    let mut io = Decoder::new(bytes);
    let mut counts = Counts::default();
    counts.fields(&mut io)?;
    let len = counts.section_len();
    ensure(len == bytes.len(), || format!("{} bytes, the counts need {len}", bytes.len()))?;
    let blank = Port {
        name: String::new(),
        value: ValueId(0),
        shape: Shape::default(),
        axes: AxisOrder(Vec::new()),
    };
    let mut graph = Graph {
        name: String::new(),
        inputs: vec![blank.clone(); counts.inputs],
        nodes: vec![Node { name: String::new(), op: Op::Concat, inputs: Vec::new() }; counts.nodes],
        outputs: vec![blank; counts.outputs],
        constants: vec![
            ConstSpec { name: String::new(), shape: Vec::new(), dtype: Dtype::F32 };
            counts.constants
        ],
        fixed_size: counts.fixed_size,
        quantization: Vec::new(),
    };
    records(&mut io, &mut graph, counts.operands)?;
    Ok(graph)
}

/// The `QUANT` section of a graph with quantized values.
pub(super) fn encode_quantization(graph: &Graph) -> Result<Vec<u8>> {
    let mut out = Encoder::default();
    graph.quantization.clone().iter_mut().try_for_each(|q| quantization(&mut out, q))?;
    Ok(out.0)
}

/// Sets the quantizations that a `QUANT` section holds.
pub(super) fn decode_quantization(bytes: &[u8], graph: &mut Graph) -> Result<()> {
    let expected = graph.nb_values() * QUANTIZATION_LEN;
    ensure(bytes.len() == expected, || format!("{} bytes, expected {expected}", bytes.len()))?;
    graph.quantization = vec![None; graph.nb_values()];
    let mut io = Decoder::new(bytes);
    graph.quantization.iter_mut().try_for_each(|q| quantization(&mut io, q))?;
    ensure(graph.is_quantized(), || "no value is quantized".to_owned())
}

/// Sets the names that a `STRINGS` section holds.
pub(super) fn decode_names(bytes: &[u8], graph: &mut Graph) -> Result<()> {
    let expected = names_mut(graph).count();
    let names = strings::decode(bytes, expected)?;
    ensure(names.len() == expected, || format!("{} names, expected {expected}", names.len()))?;
    names_mut(graph).zip(names).for_each(|(slot, name)| name.clone_into(slot));
    Ok(())
}

/// All names, in the order of `STRINGS`.
fn names_mut(graph: &mut Graph) -> impl Iterator<Item = &mut String> {
    std::iter::once(&mut graph.name)
        .chain(graph.inputs.iter_mut().chain(&mut graph.outputs).map(|p| &mut p.name))
        .chain(graph.constants.iter_mut().map(|c| &mut c.name))
        .chain(graph.nodes.iter_mut().map(|n| &mut n.name))
}

/// The start of the section.
#[derive(Default)]
struct Counts {
    inputs: usize,
    outputs: usize,
    constants: usize,
    nodes: usize,
    operands: usize,
    fixed_size: bool,
}

impl Counts {
    fn fields(&mut self, io: &mut impl Fields) -> Result<()> {
        for (count, what, max) in [
            (&mut self.inputs, "inputs", MAX_PORTS),
            (&mut self.outputs, "outputs", MAX_PORTS),
            (&mut self.constants, "constants", MAX_CONSTANTS),
            (&mut self.nodes, "nodes", MAX_NODES),
            (&mut self.operands, "operands", MAX_OPERANDS),
        ] {
            io.size(count)?;
            ensure(*count <= max, || format!("{count} {what}, expected at most {max}"))?;
        }
        io.flag(&mut self.fixed_size, "the fixed size flag")?;
        io.reserved_to(COUNTS_LEN)
    }

    fn section_len(&self) -> usize {
        COUNTS_LEN
            + (self.inputs + self.outputs) * PORT_LEN
            + self.constants * CONSTANT_LEN
            + self.nodes * NODE_LEN
            + self.operands * size_of::<u32>()
    }
}

fn records(io: &mut impl Fields, graph: &mut Graph, nb_operands: usize) -> Result<()> {
    for (i, p) in graph.inputs.iter_mut().chain(&mut graph.outputs).enumerate() {
        port(io, p).map_err(|e| within(&format!("port {i}"), e))?;
    }
    for (i, spec) in graph.constants.iter_mut().enumerate() {
        constant(io, spec).map_err(|e| within(&format!("constant {i}"), e))?;
    }
    let mut operands_left = nb_operands;
    for (i, n) in graph.nodes.iter_mut().enumerate() {
        node(io, n, &mut operands_left).map_err(|e| within(&format!("node {i}"), e))?;
    }
    ensure(operands_left == 0, || format!("{operands_left} operands belong to no node"))?;
    let mut operands = graph.nodes.iter_mut().flat_map(|n| &mut n.inputs);
    operands.try_for_each(|v| io.u32(&mut v.0))
}

fn port(io: &mut impl Fields, port: &mut Port) -> Result<()> {
    const ABSENT: u8 = 0;
    const AXES: [(u8, Axis); 4] = [(1, Axis::N), (2, Axis::C), (3, Axis::H), (4, Axis::W)];
    let end = io.position() + PORT_LEN;
    io.u32(&mut port.value.0)?;
    for extent in [&mut port.shape.c, &mut port.shape.h, &mut port.shape.w] {
        io.size(extent)?;
    }
    let mut codes = [ABSENT; 4];
    for (code, axis) in codes.iter_mut().zip(&port.axes.0) {
        *code = AXES.iter().find(|(_, a)| a == axis).map_or(ABSENT, |(code, _)| *code);
    }
    io.bytes(&mut codes)?;
    let axis_of = |code: &u8| AXES.iter().find(|(c, _)| c == code).map(|(_, axis)| *axis);
    port.axes.0 = codes.iter().map_while(axis_of).collect();
    ensure(codes[port.axes.0.len()..].iter().all(|c| *c == ABSENT), || format!("axes {codes:?}"))?;
    io.reserved_to(end)
}

fn constant(io: &mut impl Fields, spec: &mut ConstSpec) -> Result<()> {
    let end = io.position() + CONSTANT_LEN;
    let mut rank = spec.shape.len();
    io.size(&mut rank)?;
    ensure(rank <= MAX_RANK, || format!("rank {rank}, expected at most {MAX_RANK}"))?;
    spec.shape.resize(rank, 0);
    spec.shape.resize(MAX_RANK, 0);
    io.sizes(&mut spec.shape)?;
    ensure(spec.shape[rank..].iter().all(|extent| *extent == 0), || {
        format!("extents {:?} of rank {rank}", spec.shape)
    })?;
    spec.shape.truncate(rank);
    io.one_of(&mut spec.dtype, &[Dtype::F32, Dtype::I8, Dtype::I32], "the element type")?;
    io.reserved_to(end)
}

fn node(io: &mut impl Fields, node: &mut Node, operands_left: &mut usize) -> Result<()> {
    let end = io.position() + NODE_LEN;
    let mut code = code_of(&node.op);
    io.u32(&mut code)?;
    if code != code_of(&node.op) {
        node.op = blank_op(code)
            .ok_or_else(|| Error::unsupported(format!("operator {code} is not known")))?;
    }
    let mut nb_operands = node.inputs.len();
    io.size(&mut nb_operands)?;
    *operands_left = operands_left.checked_sub(nb_operands).ok_or_else(|| {
        Error::format(format!("{nb_operands} operands, {operands_left} are left"))
    })?;
    node.inputs.resize(nb_operands, ValueId(0));
    attributes(io, &mut node.op)?;
    io.reserved_to(end)
}

/// An operator with this code, to be filled in; the one list of codes.
fn blank_op(code: u32) -> Option<Op> {
    let id = ConstId(0);
    let (stride, dilation, kernel, pad) = ([1; 2], [1; 2], [1; 2], Pad::default());
    let clamp = Clamp::NONE;
    Some(match code {
        1 => Op::Conv(Conv {
            weights: id,
            bias: None,
            stride,
            pad,
            dilation,
            groups: 1,
            residual: false,
            clamp,
            weight_scales: None,
            before_add: None,
        }),
        2 => {
            let kind = PoolKind::Max;
            Op::Pool(Pool { kind, kernel, stride, pad, dilation, ceil_mode: false })
        }
        3 => Op::GlobalAveragePool,
        4 => Op::Linear(Linear { weights: id, bias: None, clamp, weight_scales: None }),
        5 => Op::Add(clamp),
        6 => Op::Affine(Affine { scale: id, shift: id, clamp }),
        7 => Op::Clamp(clamp),
        8 => Op::Concat,
        9 => Op::Pad { channels: [0; 2], frame: pad, value: 0.0 },
        10 => Op::Slice(Slice { start: [0; 3], step: [1; 3], end: [0; 3] }),
        11 => Op::Flatten { channels_last: false },
        12 => Op::Softmax { log: false },
        13 => Op::Constant(id),
        _ => return None,
    })
}

fn code_of(op: &Op) -> u32 {
    let same = |blank: Op| std::mem::discriminant(&blank) == std::mem::discriminant(op);
    (1..).find(|&code| blank_op(code).is_none_or(same)).unwrap_or_default()
}

fn attributes(io: &mut impl Fields, op: &mut Op) -> Result<()> {
    match op {
        Op::Conv(c) => {
            io.u32(&mut c.weights.0)?;
            optional_constant(io, &mut c.bias)?;
            io.sizes(&mut c.stride)?;
            pad(io, &mut c.pad)?;
            io.sizes(&mut c.dilation)?;
            io.size(&mut c.groups)?;
            io.flag(&mut c.residual, "the residual flag")?;
            clamp(io, &mut c.clamp)?;
            weight_scales(io, &mut c.weight_scales)?;
            quantization(io, &mut c.before_add)
        }
        Op::Pool(p) => {
            const KINDS: [PoolKind; 3] = [
                PoolKind::Max,
                PoolKind::Average { count_include_pad: false },
                PoolKind::Average { count_include_pad: true },
            ];
            io.one_of(&mut p.kind, &KINDS, "the kind of pool")?;
            io.sizes(&mut p.kernel)?;
            io.sizes(&mut p.stride)?;
            pad(io, &mut p.pad)?;
            io.sizes(&mut p.dilation)?;
            io.flag(&mut p.ceil_mode, "the ceil mode")
        }
        Op::Linear(l) => {
            io.u32(&mut l.weights.0)?;
            optional_constant(io, &mut l.bias)?;
            clamp(io, &mut l.clamp)?;
            weight_scales(io, &mut l.weight_scales)
        }
        Op::Affine(a) => {
            io.u32(&mut a.scale.0)?;
            io.u32(&mut a.shift.0)?;
            clamp(io, &mut a.clamp)
        }
        Op::Add(c) | Op::Clamp(c) => clamp(io, c),
        Op::Pad { channels, frame, value } => {
            io.sizes(channels)?;
            pad(io, frame)?;
            io.f32(value)
        }
        Op::Slice(s) => {
            io.sizes(&mut s.start)?;
            io.sizes(&mut s.step)?;
            // Ends are clipped to the image, so a larger one means the same.
            s.end = s.end.map(|end| end.min(u32::MAX as usize));
            io.sizes(&mut s.end)
        }
        Op::Flatten { channels_last } => io.flag(channels_last, "the order of axes"),
        Op::Softmax { log } => io.flag(log, "the logarithm flag"),
        Op::Constant(id) => io.u32(&mut id.0),
        Op::GlobalAveragePool | Op::Concat => Ok(()),
    }
}

fn optional_constant(io: &mut impl Fields, id: &mut Option<ConstId>) -> Result<()> {
    let mut stored = id.map_or(NO_CONSTANT, |id| id.0);
    io.u32(&mut stored)?;
    *id = (stored != NO_CONSTANT).then_some(ConstId(stored));
    Ok(())
}

/// A constant's number plus one, or zero.
fn weight_scales(io: &mut impl Fields, id: &mut Option<ConstId>) -> Result<()> {
    let mut stored = id.map_or(0, |id| id.0 + 1);
    io.u32(&mut stored)?;
    *id = stored.checked_sub(1).map(ConstId);
    Ok(())
}

/// Scale, zero point and largest integer; all zero where there is no quantization.
fn quantization(io: &mut impl Fields, quantization: &mut Option<Quantization>) -> Result<()> {
    let absent = Quantization { scale: 0.0, zero_point: 0, max: 0 };
    let mut q = quantization.unwrap_or(absent);
    io.f32(&mut q.scale)?;
    for value in [&mut q.zero_point, &mut q.max] {
        let mut stored = u32::from(*value);
        io.u32(&mut stored)?;
        *value = u8::try_from(stored)
            .map_err(|_| Error::format(format!("a quantization has the integer {stored}")))?;
    }
    *quantization = (q != absent).then_some(q);
    Ok(())
}

fn pad(io: &mut impl Fields, pad: &mut Pad) -> Result<()> {
    for side in [&mut pad.top, &mut pad.left, &mut pad.bottom, &mut pad.right] {
        io.size(side)?;
    }
    Ok(())
}

fn clamp(io: &mut impl Fields, clamp: &mut Clamp) -> Result<()> {
    io.f32(&mut clamp.min)?;
    io.f32(&mut clamp.max)?;
    ensure(!clamp.min.is_nan() && !clamp.max.is_nan(), || "a bound is not a number".to_owned())
}
