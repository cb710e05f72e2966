//! The algorithm of every convolution.

use std::cell::LazyCell;
use std::fmt;
use std::str::FromStr;

use skipstone_kernels::isa::Isa;
use skipstone_kernels::qwinograd::{self, certified};
use skipstone_kernels::registry;
use skipstone_kernels::requant::HALF;
use skipstone_kernels::winograd::Variant;
use skipstone_kernels::winograd::multiply::MR;

use super::layout::window;
use super::shadows::Shadows;
use super::slices::Part;
use super::{ChoiceSummary, join};
use crate::error::{Error, Result};
use crate::exec::ExecutorOptions;
use crate::graph::{Graph, Node, Op, ValueId};
use crate::knobs;
use crate::model::Model;
use crate::ops::division::Division;
use crate::ops::quads::{Packing, Quads};
use crate::ops::winograd::{Schedule, V_BLOCK_BYTES, nb_products, nb_tiles, shared_len};
use crate::ops::{Act, Layout, qconv16, qsplit, strassen};
use crate::threads::RuntimeReport;
use crate::tune::{Layer, Table};

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
    /// Winograd's F(6x6, 3x3): for 3x3 windows of stride 1. Its error is some ten times that of F(4x4, 3x3).
    WinogradF6,
    /// Winograd's F(2x2, 3x3) of stride 2: for 3x3 windows of stride 2.
    WinogradF2S2,
    /// One level of Strassen's algorithm, in Winograd's form: for 1x1 windows.
    Strassen,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Direct,
        Self::WinogradF2,
        Self::WinogradF4,
        Self::WinogradF6,
        Self::WinogradF2S2,
        Self::Strassen,
    ];

    /// Name in options, tables and dumps.
    pub fn name(self) -> &'static str {
        match (self, self.variant()) {
            (Self::Strassen, _) => "strassen",
            (_, None) => "direct",
            (_, Some(variant)) => variant.name(),
        }
    }

    /// The tile of a Winograd algorithm.
    pub(crate) fn variant(self) -> Option<Variant> {
        match self {
            Self::Direct | Self::Strassen => None,
            Self::WinogradF2 => Some(Variant::F2),
            Self::WinogradF4 => Some(Variant::F4),
            Self::WinogradF6 => Some(Variant::F6),
            Self::WinogradF2S2 => Some(Variant::F2S2),
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
    /// Also Strassen, and Winograd up to F(4x4, 3x3), whose error is a few times that of plain sums.
    #[default]
    Fast,
    /// Direct convolution only: the error of plain sums in f32.
    Strict,
    /// Also F(6x6, 3x3): the largest error of a layer is up to 5e-4 of its largest output.
    Relaxed,
}

impl Numerics {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Strict, Self::Relaxed];

    /// Name in options and dumps.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
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
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(format!("unknown numerics '{s}', expected one of: {names}"))
        })
    }
}

impl Numerics {
    /// Whether plans of this class may use an algorithm.
    pub fn allows(self, algorithm: Algorithm) -> bool {
        match self {
            Self::Strict => algorithm == Algorithm::Direct,
            Self::Fast => algorithm != Algorithm::WinogradF6,
            Self::Relaxed => true,
        }
    }
}

/// Why a node is computed as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// By the rule of thumb, which knows no measurements.
    Heuristic,
    /// It measured fastest on this machine: a table of `tune` says so.
    Tuned,
    /// An option or environment variable asks for the algorithm.
    Asked,
}

impl Reason {
    /// Name in dumps.
    pub fn name(self) -> &'static str {
        match self {
            Self::Heuristic => "heuristic",
            Self::Tuned => "tuned",
            Self::Asked => "asked",
        }
    }
}

/// One way to compute a node: an algorithm, which decides the result to the bit, and a schedule,
/// which decides only the time.
#[derive(Clone, Copy)]
struct Method {
    /// Name in tables and dumps.
    name: &'static str,
    algorithm: Algorithm,
    /// The schedule, or `None` where the method does not fit the node.
    plan: fn(&Site) -> Option<Arrangement>,
}

/// Every method: what `tune` tries, and what tables name. Names are stored in packed files and keep
/// their meaning.
const METHODS: &[Method] = &[
    direct("direct", |_| Some(Arrangement::DIRECT)),
    direct("direct-pixels", |site| site.divided(Division::Pixels)),
    direct("direct-channels", |site| site.divided(Division::Channels)),
    direct("direct-widened", |site| site.widened(Arrangement::DIRECT)),
    direct("direct-int16", |site| site.int16()),
    direct("direct-split", |site| site.split()),
    Method { name: "strassen", algorithm: Algorithm::Strassen, plan: |site| site.quarters() },
    winograd("winograd-f2-tiles", Algorithm::WinogradF2, |s| s.tiles(Variant::F2, V_BYTES)),
    winograd("winograd-f2-tiles-packed", Algorithm::WinogradF2, |s| s.passes(Variant::F2)),
    winograd("winograd-f2-panels", Algorithm::WinogradF2, |s| s.panels(Variant::F2, false)),
    winograd("winograd-f2-copies", Algorithm::WinogradF2, |s| s.copies(Variant::F2)),
    winograd("winograd-f2-panels-ready", Algorithm::WinogradF2, |s| s.panels(Variant::F2, true)),
    winograd("winograd-f4-tiles", Algorithm::WinogradF4, |s| s.tiles(Variant::F4, V_BYTES)),
    winograd("winograd-f4-tiles-2x", Algorithm::WinogradF4, |s| s.tiles(Variant::F4, 2 * V_BYTES)),
    winograd("winograd-f4-tiles-packed", Algorithm::WinogradF4, |s| s.passes(Variant::F4)),
    winograd("winograd-f4-panels", Algorithm::WinogradF4, |s| s.panels(Variant::F4, false)),
    winograd("winograd-f4-copies", Algorithm::WinogradF4, |s| s.copies(Variant::F4)),
    winograd("winograd-f4-panels-widened", Algorithm::WinogradF4, |s| {
        s.widened(s.panels(Variant::F4, false)?)
    }),
    winograd("winograd-f4-panels-ready", Algorithm::WinogradF4, |s| s.panels(Variant::F4, true)),
    winograd("winograd-f6-tiles", Algorithm::WinogradF6, |s| s.tiles(Variant::F6, V_BYTES)),
    winograd("winograd-f6-tiles-packed", Algorithm::WinogradF6, |s| s.passes(Variant::F6)),
    winograd("winograd-f6-panels", Algorithm::WinogradF6, |s| s.panels(Variant::F6, false)),
    winograd("winograd-f6-copies", Algorithm::WinogradF6, |s| s.copies(Variant::F6)),
    winograd("winograd-s2-f2-tiles", Algorithm::WinogradF2S2, |s| s.tiles(Variant::F2S2, V_BYTES)),
    winograd("winograd-s2-f2-tiles-packed", Algorithm::WinogradF2S2, |s| s.passes(Variant::F2S2)),
    winograd("winograd-s2-f2-panels", Algorithm::WinogradF2S2, |s| s.panels(Variant::F2S2, false)),
    winograd("winograd-s2-f2-copies", Algorithm::WinogradF2S2, |s| s.copies(Variant::F2S2)),
];

const fn direct(name: &'static str, plan: fn(&Site) -> Option<Arrangement>) -> Method {
    Method { name, algorithm: Algorithm::Direct, plan }
}

const fn winograd(
    name: &'static str,
    algorithm: Algorithm,
    plan: fn(&Site) -> Option<Arrangement>,
) -> Method {
    Method { name, algorithm, plan }
}

fn method(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|m| m.name == name)
}

/// How the work of a node is arranged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrangement {
    /// Winograd: tiles and panels.
    pub(super) schedule: Schedule,
    /// Winograd: whether filters are transformed before the first run, and not in every run.
    pub(super) ready_filters: bool,
    /// Winograd: elements of the arena that the node's steps share.
    pub(super) shared_len: usize,
    /// Direct: how threads divide the work; by a cost model where absent.
    pub(super) division: Option<Division>,
    /// Whether weights that the file has in halves are widened when the plan is made, and not by the
    /// kernels as they load them.
    pub(super) widened: bool,
    /// Direct convolution of int8: what is done to the source first.
    pub(super) prepared: Option<Prepared>,
}

/// What is done to the source of a direct int8 convolution, in a step of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prepared {
    /// Widened to 16 bits, so that products need no groups.
    Widened,
    /// Split into two parts of half the range, of which groups hold more.
    Split,
}

impl Arrangement {
    const DIRECT: Self = Self {
        schedule: Schedule::Tiles(0),
        ready_filters: false,
        shared_len: 0,
        division: None,
        widened: false,
        prepared: None,
    };
}

/// The choice for one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) algorithm: Algorithm,
    /// The method's name, and why it was chosen; absent for a node with nothing to choose.
    pub(super) method: Option<(&'static str, Reason)>,
    pub(super) arrangement: Arrangement,
}

impl Choice {
    const NONE: Self =
        Self { algorithm: Algorithm::Direct, method: None, arrangement: Arrangement::DIRECT };

    /// For listings; `layer` is what was measured.
    pub(super) fn summary(&self, layer: Option<&Layer>) -> Option<ChoiceSummary> {
        let (method, reason) = self.method?;
        let measured = layer.map_or(Vec::new(), |l| l.measured.clone());
        Some(ChoiceSummary { method, reason, measured })
    }
}

/// A node that has a choice, as its steps will see it: its shadows, or the images of one slice.
struct Site<'a> {
    graph: &'a Graph,
    node: &'a Node,
    src: Act,
    dst: Act,
    members: usize,
    /// Whether the file has the weights in halves.
    halves: bool,
    /// Whether the tier has a kernel of its own that reads them.
    fast_halves: bool,
    /// What is known of int8 weights, if the node has them.
    int8: Option<Int8>,
}

/// What choices for an int8 node depend on beside its shapes.
struct Int8 {
    /// The Winograd variants whose integers hold the node's sums.
    certified: Vec<qwinograd::Variant>,
    /// What direct convolution is fastest on, as a sample of the weights suggests.
    prepared: Option<Prepared>,
    /// Whether the source may exceed half the range.
    exceeds: bool,
}

/// What choices depend on.
pub(super) struct Selector<'a> {
    pub(super) graph: &'a Graph,
    /// Activations of all values, and shadows of all nodes.
    pub(super) acts: (&'a [Act], &'a [Shadows]),
    pub(super) parts: &'a [Part],
    pub(super) runtime: &'a RuntimeReport,
    pub(super) options: &'a ExecutorOptions,
    pub(super) model: &'a Model,
    /// Measured choices, if there are any for this plan.
    pub(super) table: Option<&'a Table>,
}

impl<'a> Selector<'a> {
    /// The choices for all nodes.
    ///
    /// # Errors
    /// An option that names no node, or an algorithm that the named one cannot have.
    pub(super) fn choose(&self) -> Result<Vec<Choice>> {
        let Self { graph, options, .. } = self;
        if let Some(unknown) =
            options.algorithms.keys().find(|name| graph.nodes.iter().all(|n| n.name != **name))
        {
            return Err(Error::invalid(format!(
                "an algorithm is given for '{unknown}', which is no node"
            )));
        }
        let knob = knobs::ALGORITHM.get().map(|name| name.parse::<Algorithm>()).transpose()?;
        let mut choices = (0..graph.nodes.len())
            .map(|i| self.choose_node(i, knob))
            .collect::<Result<Vec<_>>>()?;
        for (i, branch) in join::branches(graph, |_, _| true).into_iter().enumerate() {
            if let Some(branch) = branch
                && let Some(choice) = self.as_joined(branch, &choices[branch], &choices[i])
            {
                choices[branch] = choice;
            }
        }
        Ok(choices)
    }

    /// The choice for a branch that goes the way of the node that adds it, so that the two can join, if it has another
    /// one and nobody asked for that.
    fn as_joined(&self, branch: usize, own: &Choice, node: &Choice) -> Option<Choice> {
        let joins = node.algorithm != own.algorithm && node.algorithm.variant().is_none();
        let (_, reason) = own.method.filter(|(_, reason)| joins && *reason != Reason::Asked)?;
        let site = self.site(branch)?;
        site.choice(site.rule_of_thumb(node.algorithm), reason)
    }

    fn choose_node(&self, index: usize, knob: Option<Algorithm>) -> Result<Choice> {
        let node = &self.graph.nodes[index];
        let asked = self.options.algorithms.get(&node.name).copied();
        let refused = || {
            let message = "Winograd needs a 3x3 window and one group, stride 1 (winograd-s2-f2: stride 2; with \
                           int8 weights not that one, and sums that its integers hold), Strassen a 1x1 window, \
                           one group, weights in float, inputs in multiples of 16 and outputs of 32 channels";
            Error::invalid(message).at_node(node.label())
        };
        let Some(site) = self.site(index) else {
            let fits = asked.is_none_or(|a| a == Algorithm::Direct);
            return if fits { Ok(Choice::NONE) } else { Err(refused()) };
        };
        let choice = |method, reason| site.choice(method, reason);
        if let Some(algorithm) = asked {
            return choice(site.rule_of_thumb(algorithm), Reason::Asked).ok_or_else(refused);
        }
        let asked = knob.and_then(|a| choice(site.rule_of_thumb(a), Reason::Asked));
        let tuned = || {
            let name = &self.table?.layer(index)?.method;
            let allowed = |m: &&Method| self.allows(&site, m.algorithm);
            choice(method(name).filter(allowed)?, Reason::Tuned)
        };
        let heuristic = || {
            let fastest = FASTEST.into_iter().filter(|a| self.allows(&site, *a) && site.pays(*a));
            fastest.flat_map(|a| choice(site.rule_of_thumb(a), Reason::Heuristic)).next()
        };
        let direct = || choice(site.rule_of_thumb(Algorithm::Direct), Reason::Heuristic);
        let chosen = asked.or_else(tuned).or_else(heuristic).or_else(direct);
        Ok(chosen.expect("direct convolution fits every node"))
    }

    /// The methods that a node can have and the numerics allow, or only those of one algorithm: what
    /// `tune` tries. None for a node with nothing to choose.
    pub(super) fn candidates(&self, index: usize, only: Option<Algorithm>) -> Vec<&'static str> {
        let Some(site) = self.site(index) else { return Vec::new() };
        let allowed = METHODS.iter().filter(|m| match only {
            Some(algorithm) => m.algorithm == algorithm,
            None => self.allows(&site, m.algorithm),
        });
        allowed.filter(|m| (m.plan)(&site).is_some()).map(|m| m.name).collect()
    }

    fn site(&self, index: usize) -> Option<Site<'a>> {
        let node = &self.graph.nodes[index];
        if !matches!(node.op, Op::Conv(_) | Op::Linear(_)) {
            return None;
        }
        let part = self.parts.iter().find(|p| p.nodes.contains(&index))?;
        let (acts, shadows) = (self.acts.0, &self.acts.1[index]);
        let sliced = |v: ValueId| Act { batch: part.images, ..acts[v.0 as usize] };
        let shadow = shadows.operands.first().copied().flatten();
        let src = sliced(*node.inputs.first()?);
        let isa = self.runtime.isa;
        let src = shadow.unwrap_or(src);
        let dst = shadows.result.unwrap_or_else(|| sliced(self.graph.value_of(index)));
        Some(Site {
            graph: self.graph,
            node,
            src,
            dst,
            int8: self.int8(node, &src, &dst),
            members: self.runtime.threads,
            halves: self.has_halves(&node.op),
            fast_halves: registry::hconv(isa).isa == registry::sconv(isa).isa
                && isa != Isa::Portable,
        })
    }
}

impl Selector<'_> {
    /// Whether the numerics allow an algorithm: on integers, all give the same bits.
    fn allows(&self, site: &Site, algorithm: Algorithm) -> bool {
        site.int8.is_some() || self.options.numerics.allows(algorithm)
    }

    fn int8(&self, node: &Node, src: &Act, dst: &Act) -> Option<Int8> {
        let weights = match &node.op {
            _ if !node.is_int8() => return None,
            Op::Conv(conv) => conv.weights,
            Op::Linear(linear) => linear.weights,
            _ => return None,
        };
        let geometry = self.model.geometry(weights)?;
        let oihw = LazyCell::new(|| self.model.row_major_i8(weights));
        let (max, zero_point) = self
            .graph
            .quantization_of(node.inputs[0])
            .map_or((u8::MAX, 0), |q| (q.max, q.zero_point));
        let mut certified_variants = qwinograd::Variant::ALL.to_vec();
        if fits_winograd(self.graph, &node.op, src, 1) {
            let per_channel = oihw.len() / geometry.oc();
            certified_variants
                .retain(|v| oihw.chunks(per_channel).all(|weights| certified(*v, max, weights)));
        }
        let nb_pixels = dst.batch * dst.shape.h * dst.shape.w;
        // Of u7, groups hold so much that they are always faster.
        let open = qsplit::exceeds(max)
            && nb_pixels >= MIN_PREPARED_PIXELS
            && registry::qconv(self.runtime.isa, max).grouped
            && fits_prepared(geometry.groups(), src);
        let prepared = open.then(|| {
            let packing = Packing { layout: src.layout, certified_max: Some(max) };
            let (groups, quads) = Quads::sample(geometry, packing, &oihw);
            let cost = groups.iter().zip(GROUP_COST).map(|(n, cost)| *n as f64 * cost);
            let nb_strips = geometry.oc().div_ceil(HALF) as f64;
            // Where zero is the smallest, as after a ReLU, few elements exceed half the range.
            let (how, quad_cost) = match zero_point {
                0 => (Prepared::Split, SPLIT_COST),
                _ => (Prepared::Widened, INT16_COST),
            };
            let pays =
                cost.sum::<f64>() > quads as f64 * (quad_cost + PREPARATION_COST / nb_strips);
            pays.then_some(how)
        });
        Some(Int8 {
            certified: certified_variants,
            prepared: prepared.flatten(),
            exceeds: qsplit::exceeds(max),
        })
    }

    fn has_halves(&self, op: &Op) -> bool {
        let weights = match op {
            Op::Conv(conv) => conv.weights,
            Op::Linear(linear) => linear.weights,
            _ => return false,
        };
        self.model.is_half(weights)
    }
}

impl Site<'_> {
    /// The choice of a method, if it fits.
    fn choice(&self, method: &'static Method, reason: Reason) -> Option<Choice> {
        (method.plan)(self).map(|arrangement| Choice {
            algorithm: method.algorithm,
            method: Some((method.name, reason)),
            arrangement,
        })
    }

    /// Whether one of [`FASTEST`] pays, if it fits: there are tiles enough, or few products. Of images in f32 nothing
    /// but their size counts, so that results do not depend on the batch.
    fn pays(&self, algorithm: Algorithm) -> bool {
        let dst = self.dst.shape;
        match algorithm.variant() {
            Some(v @ Variant::F2S2) => {
                let products = nb_products(v, dst) as f64;
                products <= MAX_S2_PRODUCTS * (9 * dst.h * dst.w) as f64
            }
            Some(v) => self.int8.is_none() || nb_tiles(v, &self.dst) >= MIN_INT8_TILES,
            None if algorithm == Algorithm::Strassen => {
                let (ic, oc) = (self.src.shape.c, dst.c);
                dst.h * dst.w >= MIN_STRASSEN_PIXELS
                    && ic <= MAX_STRASSEN_CHANNELS
                    && ic * oc >= MIN_STRASSEN_MEAN * (ic + oc)
            }
            None => true,
        }
    }

    /// The method of an algorithm that is best by rules of thumb.
    ///
    /// Filters are transformed in every run: ready, they are t^2 / 9 times as many bytes, and all of them
    /// would come from memory. Where every member of a team has tiles enough to use them on, each
    /// transforms all filters for tiles of its own; else members share tiles, so that each filter is
    /// transformed once, and where they are few, each transforms all tiles, which costs less than to wait for
    /// and read what another transformed. Only with many tiles and few channels do ready filters pay.
    fn rule_of_thumb(&self, algorithm: Algorithm) -> &'static Method {
        if algorithm == Algorithm::Strassen {
            return method("strassen").expect("the method exists");
        }
        let Some(variant) = algorithm.variant() else {
            let widened = self.halves && !self.reads_halves();
            let name = match self.int8.as_ref().and_then(|int8| int8.prepared) {
                _ if widened => "direct-widened",
                Some(Prepared::Widened) => "direct-int16",
                Some(Prepared::Split) => "direct-split",
                None => "direct",
            };
            return method(name).expect("the method exists");
        };
        let own_tiles = nb_tiles(variant, &self.dst) / self.members;
        let few_channels = self.src.shape.c <= MAX_READY_CHANNELS;
        let schedule = if own_tiles >= MIN_READY_TILES && few_channels && self.int8.is_none() {
            "-tiles"
        } else if self.members > 1 && own_tiles >= MIN_OWN_TILES {
            "-tiles-packed"
        } else if self.members <= MAX_COPIES
            && self.int8.is_none()
            && self.copies(variant).is_some()
        {
            "-copies"
        } else {
            "-panels"
        };
        let wanted = |m: &&Method| m.name.strip_prefix(variant.name()) == Some(schedule);
        METHODS.iter().find(wanted).expect("each tile has all schedules")
    }

    /// Whether direct convolution by rule of thumb reads weights in halves as they are: with few
    /// pixels to each weight it waits for weights, and half the bytes are less to wait for; with
    /// larger windows it is no slower. Else converting them in every tile costs some percent.
    fn reads_halves(&self) -> bool {
        let windowed = match &self.node.op {
            Op::Conv(conv) => window(conv, &self.graph.constants).kernel != [1, 1],
            _ => false,
        };
        let nb_pixels = self.dst.batch * self.dst.shape.h * self.dst.shape.w;
        self.fast_halves && (windowed || nb_pixels <= MAX_HALF_PIXELS)
    }

    /// Direct convolution with a given division over threads.
    fn divided(&self, division: Division) -> Option<Arrangement> {
        let several = self.members > 1;
        several.then_some(Arrangement { division: Some(division), ..Arrangement::DIRECT })
    }

    /// Quarters in seven multiplications, on weights in f32.
    fn quarters(&self) -> Option<Arrangement> {
        let Op::Conv(conv) = &self.node.op else { return None };
        let window = window(conv, &self.graph.constants);
        let fits =
            self.int8.is_none() && strassen::fits(&self.src, &self.dst, &window, conv.groups);
        fits.then_some(Arrangement { widened: self.halves, ..Arrangement::DIRECT })
    }

    /// The same on weights that were widened before, where the file has them in halves.
    fn widened(&self, arrangement: Arrangement) -> Option<Arrangement> {
        self.halves.then_some(Arrangement { widened: true, ..arrangement })
    }

    /// Direct convolution of int8 on operands widened to 16 bits.
    fn int16(&self) -> Option<Arrangement> {
        self.int8.as_ref()?;
        self.prepared(Prepared::Widened, qconv16::shared_len(&self.src))
    }

    /// Direct convolution of int8 on a source in two parts.
    fn split(&self) -> Option<Arrangement> {
        self.int8.as_ref().filter(|int8| int8.exceeds)?;
        self.prepared(Prepared::Split, qsplit::shared_len(&self.src))
    }

    fn prepared(&self, how: Prepared, shared_len: usize) -> Option<Arrangement> {
        let groups = match &self.node.op {
            Op::Conv(conv) => conv.groups,
            _ => 1,
        };
        let prepared = Some(how);
        fits_prepared(groups, &self.src).then_some(Arrangement {
            prepared,
            shared_len,
            ..Arrangement::DIRECT
        })
    }

    /// Winograd with tiles of each member's own and transformed filters, in blocks whose V takes up to
    /// `v_bytes`.
    fn tiles(&self, variant: Variant, v_bytes: usize) -> Option<Arrangement> {
        let block = (v_bytes / self.bytes_per_tile(variant) / MR * MR).max(MIN_TILES);
        self.winograd(variant, Schedule::Tiles(block), true)
    }

    /// Bytes of V of a tile.
    fn bytes_per_tile(&self, variant: Variant) -> usize {
        variant.nb_points() * self.src.nb_planes() * V_BLOCK_BYTES
    }

    /// Winograd with tiles of each member's own, in passes of enough of them to transform filters for.
    fn passes(&self, variant: Variant) -> Option<Arrangement> {
        self.winograd(variant, Schedule::Tiles(PASS_TILES), false)
    }

    /// Winograd with panels of each member's own.
    fn panels(&self, variant: Variant, ready_filters: bool) -> Option<Arrangement> {
        self.winograd(variant, Schedule::Panels(PASS_TILES), ready_filters)
    }

    /// The same, and copies of the transformed input, where they fit each member's L2.
    fn copies(&self, variant: Variant) -> Option<Arrangement> {
        let tiles = nb_tiles(variant, &self.dst).min(PASS_TILES);
        let v_bytes = self.bytes_per_tile(variant) * tiles;
        let schedule = Schedule::Copies(PASS_TILES);
        (v_bytes <= MAX_COPY_BYTES).then(|| self.winograd(variant, schedule, false)).flatten()
    }

    fn winograd(
        &self,
        variant: Variant,
        schedule: Schedule,
        ready_filters: bool,
    ) -> Option<Arrangement> {
        let shared_len = shared_len(variant, schedule, &self.src, &self.dst);
        let integers = qwinograd::Variant::of(variant);
        let holds =
            |int8: &Int8| !ready_filters && integers.is_some_and(|v| int8.certified.contains(&v));
        let fits = fits_winograd(self.graph, &self.node.op, &self.src, variant.stride())
            && self.int8.as_ref().is_none_or(holds);
        fits.then_some(Arrangement { schedule, ready_filters, shared_len, ..Arrangement::DIRECT })
    }
}

/// Whether the source of a direct int8 convolution can be prepared.
fn fits_prepared(groups: usize, src: &Act) -> bool {
    groups == 1 && src.layout == Layout::Blocked
}

/// Whether an operator is a convolution that Winograd of that stride can compute.
fn fits_winograd(graph: &Graph, op: &Op, src: &Act, stride: usize) -> bool {
    let Op::Conv(conv) = op else { return false };
    let window = window(conv, &graph.constants);
    src.layout == Layout::Blocked
        && conv.groups == 1
        && window.kernel == [3, 3]
        && window.stride == [stride; 2]
        && window.dilation == [1, 1]
}

/// The fastest algorithms by rule of thumb, for convolutions that Winograd fits: of stride 1, F(4x4, 3x3) needs a
/// quarter of the multiplications, 2.25 times fewer than F(2x2, 3x3), and still the fewest on 7x7 images,
/// where most of its tiles are partial. F(6x6, 3x3) needs a fifth on large images, but what its transforms
/// move costs more: only a measurement chooses it.
const FASTEST: [Algorithm; 3] =
    [Algorithm::WinogradF4, Algorithm::WinogradF2S2, Algorithm::Strassen];

/// Most products of F(2x2, 3x3) of stride 2, relative to those of direct convolution: 0.69 where all tiles are whole,
/// 0.73 on 7x7 images; transforms outweigh what is left on the smallest.
const MAX_S2_PRODUCTS: f64 = 0.8;

/// Least and most work for which Strassen's algorithm is taken. What additions cost is in proportion to 1 / oc for the
/// source and 1 / ic for the result, of which this is the inverse of the sum; to 1 / pixels for the weights; and
/// of more channels, too few pixels fit L2 to use sums of weights on.
const MIN_STRASSEN_MEAN: usize = 48;
/// See above.
const MIN_STRASSEN_PIXELS: usize = 192;
/// See above.
const MAX_STRASSEN_CHANNELS: usize = 512;

/// Fewest tiles of an int8 convolution for which F(4x4, 3x3) is taken: with fewer, transforming the filters costs what
/// it saves.
const MIN_INT8_TILES: usize = 4;
/// Times of a quad for a pixel: in a group of each of [`GROUPS`](skipstone_kernels::qconv::GROUPS), in proportion to
/// what paired tiles of 4 by 16 take on Zen 4; widened to 16 bits; of a source in two parts; and of preparing the
/// source, which all strips share.
const GROUP_COST: [f64; 4] = [0.625, 0.645, 0.7, 0.86];
const INT16_COST: f64 = 1.08;
const SPLIT_COST: f64 = 0.75;
const PREPARATION_COST: f64 = 0.6;
/// Fewest pixels for which the source is prepared.
const MIN_PREPARED_PIXELS: usize = 32;
/// Fewest tiles of a member, and most channels, for filters that are ready; see [`Site::rule_of_thumb`].
const MIN_READY_TILES: usize = 96;
/// See above.
const MAX_READY_CHANNELS: usize = 128;
/// Fewest tiles of a member that has its own; see [`Site::rule_of_thumb`]. Transforming the filters
/// then takes a fifteenth of the time.
const MIN_OWN_TILES: usize = 40;
/// Most members that each transform the whole input; see [`Site::copies`].
const MAX_COPIES: usize = 2;
/// Most bytes of V that a member has a copy of.
const MAX_COPY_BYTES: usize = 1 << 20;
/// Pixels up to which a pointwise convolution streams its weights; see [`Site::reads_halves`].
const MAX_HALF_PIXELS: usize = 64;
/// Bytes of V that a member's block of tiles may take: a quarter of the smallest L2 among target CPUs.
const V_BYTES: usize = 128 << 10;
/// Fewest tiles of a block: two register tiles.
const MIN_TILES: usize = 12;
/// Tiles of a pass: enough to use transformed filters on, few enough for V to stay in cache (of 512
/// channels it is 4.5 MiB).
const PASS_TILES: usize = 64;
