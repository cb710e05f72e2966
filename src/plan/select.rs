//! The algorithm of every convolution.

use std::fmt;
use std::str::FromStr;

use skipstone_kernels::layout::C_BLOCK;
use skipstone_kernels::winograd::Variant;
use skipstone_kernels::winograd::multiply::MR;

use super::layout::window;
use super::slices::Part;
use crate::error::{Error, Result};
use crate::exec::ExecutorOptions;
use crate::graph::{Graph, Op, ValueId};
use crate::knobs;
use crate::ops::winograd::{Schedule, shared_len};
use crate::ops::{Act, Layout};

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// Sums over the window.
    Direct,
    /// Winograd's F(2x2, 3x3): for 3x3 windows of stride 1.
    WinogradF2,
    /// Winograd's F(4x4, 3x3): for 3x3 windows of stride 1.
    WinogradF4,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Direct, Self::WinogradF2, Self::WinogradF4];

    /// Name in options, tables and dumps.
    pub fn name(self) -> &'static str {
        match self.variant() {
            None => "direct",
            Some(variant) => variant.name(),
        }
    }

    /// The tile of a Winograd algorithm.
    pub(crate) fn variant(self) -> Option<Variant> {
        match self {
            Self::Direct => None,
            Self::WinogradF2 => Some(Variant::F2),
            Self::WinogradF4 => Some(Variant::F4),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|a| a.name() == s);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(format!("unknown algorithm '{s}', expected one of: {names}"))
        })
    }
}

/// Which rounding errors a plan may trade for time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// Also Winograd, whose error is a few times that of plain sums.
    #[default]
    Fast,
    /// Direct convolution only: the error of plain sums in f32.
    Strict,
}

impl Numerics {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Fast, Self::Strict];

    /// Name in options and dumps.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Strict => "strict",
        }
    }
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Numerics {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|n| n.name() == s);
        found.ok_or_else(|| {
            Error::invalid(format!("unknown numerics '{s}', expected fast or strict"))
        })
    }
}

/// The choice for one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) algorithm: Algorithm,
    pub(super) schedule: Schedule,
    /// Whether filters are transformed before the first run, and not in every run.
    pub(super) ready_filters: bool,
    /// Elements of the arena that the node's steps share.
    pub(super) shared_len: usize,
}

impl Choice {
    const DIRECT: Self = Self {
        algorithm: Algorithm::Direct,
        schedule: Schedule::Tiles(0),
        ready_filters: false,
        shared_len: 0,
    };
}

/// The choices for all nodes.
///
/// # Errors
/// An option that names no convolution, or an algorithm that the named one cannot have.
pub(super) fn choose(
    graph: &Graph,
    acts: &[Act],
    parts: &[Part],
    options: &ExecutorOptions,
) -> Result<Vec<Choice>> {
    if let Some(unknown) =
        options.algorithms.keys().find(|name| graph.nodes.iter().all(|n| n.name != **name))
    {
        return Err(Error::invalid(format!(
            "an algorithm is given for '{unknown}', which is no node"
        )));
    }
    let knob = knobs::ALGORITHM.get().map(|name| name.parse::<Algorithm>()).transpose()?;
    let nodes = parts.iter().flat_map(|p| p.nodes.clone().map(|i| (i, p.images)));
    let choices = nodes.map(|(i, images)| {
        let node = &graph.nodes[i];
        let Some(input) = node.inputs.first() else { return Ok(Choice::DIRECT) };
        // As the steps will see them: the images of one slice.
        let sliced = |v: ValueId| Act { batch: images, ..acts[v.0 as usize] };
        let (src, dst) = (&sliced(*input), &sliced(graph.value_of(i)));
        let fits = fits_winograd(graph, &node.op, src);
        let asked = options.algorithms.get(&node.name).copied();
        if asked.is_some_and(|a| a != Algorithm::Direct && !fits) {
            return Err(Error::invalid("Winograd needs a 3x3 window of stride 1 and one group")
                .at_node(node.label()));
        }
        let algorithm = match (asked.or(knob), options.numerics) {
            (_, _) if !fits => Algorithm::Direct,
            (Some(algorithm), _) => algorithm,
            (None, Numerics::Strict) => Algorithm::Direct,
            (None, Numerics::Fast) => FASTEST,
        };
        Ok(match algorithm.variant() {
            None => Choice::DIRECT,
            Some(variant) => winograd(algorithm, variant, src, dst),
        })
    });
    choices.collect()
}

/// Whether an operator is a convolution that Winograd can compute.
fn fits_winograd(graph: &Graph, op: &Op, src: &Act) -> bool {
    let Op::Conv(conv) = op else { return false };
    let window = window(conv, &graph.constants);
    src.layout == Layout::Blocked
        && conv.groups == 1
        && window.kernel == [3, 3]
        && window.stride == [1, 1]
        && window.dilation == [1, 1]
}

/// The fastest algorithm that the numerics allow, for a convolution that Winograd fits: F(4x4, 3x3)
/// needs a quarter of the multiplications, 2.25 times fewer than F(2x2, 3x3), and still the fewest on
/// 7x7 images, where a quarter of its tiles overhangs.
const FASTEST: Algorithm = Algorithm::WinogradF4;

/// Channels up to which a convolution has more tiles than filters to stream: members then have
/// tiles of their own and find filters transformed. Above, a run transforms the filters in L2 from
/// a quarter of the bytes, since all of them would come from memory.
const MAX_TILES_CHANNELS: usize = 128;
/// Bytes of V that a member's block of tiles may take: a quarter of the smallest L2 among target CPUs.
const V_BYTES: usize = 128 << 10;
/// Fewest tiles of a block: two register tiles.
const MIN_TILES: usize = 12;
/// Tiles of a pass that members share: V of 512 channels is then 4.5 MiB.
const PASS_TILES: usize = 64;

fn winograd(algorithm: Algorithm, variant: Variant, src: &Act, dst: &Act) -> Choice {
    let (schedule, ready_filters) = if src.shape.c <= MAX_TILES_CHANNELS {
        let bytes_per_tile = variant.nb_points() * src.nb_planes() * C_BLOCK * size_of::<f32>();
        let block = (V_BYTES / bytes_per_tile / MR * MR).max(MIN_TILES);
        (Schedule::Tiles(block), true)
    } else {
        (Schedule::Panels(PASS_TILES), false)
    };
    Choice {
        algorithm,
        schedule,
        ready_filters,
        shared_len: shared_len(variant, schedule, src, dst),
    }
}
