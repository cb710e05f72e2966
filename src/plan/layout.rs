//! Layout and frame of every activation.

use skipstone_kernels::layout::LayoutTag;

use super::shadows::takes_values;
use crate::error::{Error, Result};
use crate::graph::{ConstSpec, Conv, Graph, Node, Op, Pad, Shape, ValueId};
use crate::ops::conv::WindowAttrs;
use crate::ops::{Act, Elements, Layout};

/// Most channels of an image that stays interleaved for its convolution.
const MAX_INTERLEAVED: usize = 4;

/// The activations of all values: layouts and frames as their consumers need them; not yet placed.
///
/// # Errors
/// An activation too large for the kernels' offsets; names the node.
pub(super) fn activations(graph: &Graph, shapes: &[Shape], batch: usize) -> Result<Vec<Act>> {
    let mut acts: Vec<Act> = shapes
        .iter()
        .enumerate()
        .map(|(v, &shape)| Act {
            batch,
            shape,
            elements: elements(graph, ValueId(v as u32)),
            layout: value_layout(graph, ValueId(v as u32)),
            frame: Pad::default(),
            base: 0,
        })
        .collect();
    for (i, node) in graph.nodes.iter().enumerate() {
        let Op::Conv(conv) = &node.op else { continue };
        // Others read a shadow of their operand.
        if takes_values(graph, i) || graph.quantization_of(node.inputs[0]).is_none() {
            let output = shapes[graph.value_of(i).0 as usize];
            let act = &mut acts[node.inputs[0].0 as usize];
            fit_frame(act, &window(conv, &graph.constants), output);
        }
    }
    for (v, act) in acts.iter().enumerate() {
        let name = || match graph.node_of(ValueId(v as u32)) {
            Some(i) => graph.nodes[i].label(),
            None => graph.inputs[v].name.clone(),
        };
        check_size(act).map_err(|e| e.at_node(name()))?;
    }
    Ok(acts)
}

/// Widens a source's frame to what the windows over `output` pixels need.
pub(super) fn fit_frame(act: &mut Act, window: &WindowAttrs, output: Shape) {
    let needed = window.frame(act.shape, output);
    act.frame = Pad {
        top: act.frame.top.max(needed.top),
        left: act.frame.left.max(needed.left),
        bottom: act.frame.bottom.max(needed.bottom),
        right: act.frame.right.max(needed.right),
    };
}

/// Checks that kernels can address an activation.
pub(super) fn check_size(act: &Act) -> Result<()> {
    // In f64 first: a frame may be as large as 2^20 on each side.
    let planes = (act.batch * act.nb_planes() * act.pixel_len()) as f64;
    let height = (act.frame.top + act.shape.h + act.frame.bottom) as f64;
    let width = (act.frame.left + act.shape.w + act.frame.right) as f64;
    if planes * height * width > f64::from(i32::MAX) {
        let (batch, shape) = (act.batch, act.shape);
        return Err(Error::shape(format!(
            "{batch} images of {shape} exceed 2^31 elements; use a smaller batch or input"
        )));
    }
    Ok(())
}

fn elements(graph: &Graph, value: ValueId) -> Elements {
    match graph.quantization_of(value) {
        Some(q) => Elements::U8 { zero_point: q.zero_point },
        None => Elements::F32,
    }
}

/// A convolution's window.
pub(super) fn window(conv: &Conv, constants: &[ConstSpec]) -> WindowAttrs {
    let weights = &constants[conv.weights.0 as usize].shape;
    WindowAttrs {
        kernel: [weights[2], weights[3]],
        stride: conv.stride,
        dilation: conv.dilation,
        pad: conv.pad,
    }
}

/// The weight layout that goes with a source's layout.
pub(super) fn weight_layout(src: Layout) -> LayoutTag {
    match src {
        Layout::Blocked => LayoutTag::OIhw8i16o,
        Layout::Interleaved => LayoutTag::Ohwi16o,
    }
}

/// The layout in which a plan reads the weights of a convolution or linear layer, so that packed
/// files store it.
pub(crate) fn preferred_weight_layout(graph: &Graph, node: &Node) -> LayoutTag {
    if node.is_int8() {
        return LayoutTag::RowMajor;
    }
    weight_layout(value_layout(graph, node.inputs[0]))
}

/// Input images of few channels that only convolutions read stay interleaved: blocks of 8 channels
/// would be mostly padding. Everything else is blocked.
fn value_layout(graph: &Graph, value: ValueId) -> Layout {
    let Some(port) = graph.inputs.get(value.0 as usize) else { return Layout::Blocked };
    let quantized = graph.quantization_of(value).is_some();
    let stays = |node: &Node| match &node.op {
        Op::Conv(c) => {
            let plain = c.groups == 1 && c.dilation[1] == 1 && node.is_int8() == quantized;
            plain && !node.inputs[1..].contains(&value)
        }
        _ => false,
    };
    let mut readers = graph.nodes.iter().filter(|n| n.inputs.contains(&value)).peekable();
    let is_output = graph.outputs.iter().any(|p| p.value == value);
    let few = port.shape.c <= MAX_INTERLEAVED;
    if few && !is_output && readers.peek().is_some() && readers.all(stays) {
        Layout::Interleaved
    } else {
        Layout::Blocked
    }
}
