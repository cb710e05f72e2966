//! The algorithm of every convolution.

use std::fmt;
use std::str::FromStr;

use skipstone_kernels::layout::C_BLOCK;
use skipstone_kernels::winograd::Variant;

use super::layout::window;
use crate::error::{Error, Result};
use crate::exec::ExecutorOptions;
use crate::graph::{Graph, Op};
use crate::knobs;
use crate::ops::winograd::{Schedule, nb_tiles, shared_len};
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
    /// Direct convolution only: the error of plain sums in f32.
    #[default]
    Strict,
    /// Also Winograd: a few times that error.
    Fast,
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
    members: usize,
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
    let choices = graph.nodes.iter().enumerate().map(|(i, node)| {
        let (src, dst) = match node.inputs.first() {
            Some(input) => (&acts[input.0 as usize], &acts[graph.value_of(i).0 as usize]),
            None => return Ok(Choice::DIRECT),
        };
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
            (None, Numerics::Fast) => fastest(src, dst),
        };
        Ok(match algorithm.variant() {
            None => Choice::DIRECT,
            Some(variant) => winograd(algorithm, variant, src, dst, members),
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

/// The algorithm with the fewest cycles.
fn fastest(_src: &Act, _dst: &Act) -> Algorithm {
    Algorithm::WinogradF4
}

fn winograd(
    algorithm: Algorithm,
    variant: Variant,
    src: &Act,
    dst: &Act,
    members: usize,
) -> Choice {
    let tiles = nb_tiles(variant, dst);
    let per_tile = variant.nb_points() * src.nb_planes() * C_BLOCK * 4;
    let env = |k: &str, d: usize| std::env::var(k).ok().and_then(|v| v.parse().ok()).unwrap_or(d);
    let budget = env("W_BUDGET", 256) << 10;
    let block = (budget / per_tile / 6 * 6).max(env("W_MIN", 12));
    let _ = members;
    let (schedule, ready) = if src.shape.c <= env("W_TILES_C", 128) {
        (Schedule::Tiles(block), true)
    } else {
        (Schedule::Panels(env("W_PASS", 64)), env("W_READY", 0) == 1)
    };
    Choice {
        algorithm,
        schedule,
        ready_filters: ready,
        shared_len: shared_len(variant, schedule, src, dst),
    }
}
