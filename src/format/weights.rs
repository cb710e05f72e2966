//! Which constants are weights, and the order of all: what writer and reader agree on.

use skipstone_kernels::layout::LayoutTag;
use skipstone_kernels::pack::ConvGeometry;

use super::{SECTION_ALIGN, WEIGHTS_TAIL, WeightDtype};
use crate::error::{Error, Result};
use crate::graph::{ConstId, ConstSpec, Graph, Op};

/// The weights that an operator streams, and the number of groups they are for.
fn weights_of(op: &Op) -> Option<(ConstId, usize)> {
    match op {
        Op::Conv(conv) => Some((conv.weights, conv.groups)),
        Op::Linear(linear) => Some((linear.weights, 1)),
        _ => None,
    }
}

/// The sizes of weights as those of a convolution.
fn geometry_of(weights: &ConstSpec, groups: usize) -> Result<ConvGeometry> {
    let geometry = match weights.shape[..] {
        [oc, icg, kh, kw] => {
            icg.checked_mul(groups).and_then(|ic| ConvGeometry::new(oc, ic, kh, kw, groups))
        }
        [oc, ic] => ConvGeometry::new(oc, ic, 1, 1, groups),
        _ => None,
    };
    geometry.ok_or_else(|| {
        let ConstSpec { name, shape, .. } = weights;
        Error::shape(format!("weights '{name}' of shape {shape:?} cannot be packed"))
    })
}

/// A constant and what it is used for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) id: ConstId,
    /// Sizes, for weights of convolutions and linear layers.
    pub(super) geometry: Option<ConvGeometry>,
    /// Index of the first node that uses it.
    pub(super) node: usize,
}

/// All constants in execution order: the order of `WEIGHTS` sections.
///
/// # Errors
/// A constant without a use, or with uses that need different packings.
pub(super) fn uses(graph: &Graph) -> Result<Vec<Use>> {
    let mut uses: Vec<Use> = Vec::with_capacity(graph.constants.len());
    let mut place = vec![None; graph.constants.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        let weights = weights_of(&node.op);
        for id in node.op.constants() {
            let spec = graph.constant(id);
            let groups = weights.filter(|(weights, _)| *weights == id).map(|(_, groups)| groups);
            match place[id.0 as usize] {
                None => {
                    let geometry = groups.map(|groups| geometry_of(spec, groups)).transpose();
                    let geometry = geometry.map_err(|e| e.at_node(node.label()))?;
                    place[id.0 as usize] = Some(uses.len());
                    uses.push(Use { id, geometry, node: index });
                }
                Some(first) if uses[first].geometry.map(|g| g.groups()) != groups => {
                    return Err(Error::unsupported(format!(
                        "constant '{}' is also used elsewhere, with another number of groups",
                        spec.name
                    ))
                    .at_node(node.label()));
                }
                Some(_) => {}
            }
        }
    }
    match place.iter().position(Option::is_none) {
        Some(unused) => Err(Error::format(format!(
            "constant '{}' is used by no node",
            graph.constants[unused].name
        ))),
        None => Ok(uses),
    }
}

impl Use {
    /// Elements in `layout`; `None` if the constant cannot have it.
    pub(super) fn len_in(&self, layout: LayoutTag, graph: &Graph) -> Option<usize> {
        match self.geometry {
            Some(geometry) => Some(geometry.packed_len(layout)),
            None if layout == LayoutTag::RowMajor => Some(graph.constant(self.id).len()),
            None => None,
        }
    }
}

/// Elements of a whole `WEIGHTS` section that stores `len` of them: data, fill and tail.
pub(super) fn section_len(len: usize, dtype: WeightDtype) -> usize {
    let bytes = (len * dtype.size_bytes()).next_multiple_of(SECTION_ALIGN) + WEIGHTS_TAIL;
    bytes / dtype.size_bytes()
}
