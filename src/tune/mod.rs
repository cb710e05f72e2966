//! Choices by measurement: tables of which method is fastest for each layer.
//!
//! [`tune`] runs the network with every method that a layer can have and times each layer in place,
//! where its weights come from memory and its input from the cache that the layer before left it
//! in. The result is a [`Table`], for one CPU model, instruction set, number of threads, batch, input
//! size and numerics class: its [`Key`]. A packed file may hold several ([`store`]). A plan uses the
//! table whose key is exactly its own ([`Tables::File`]); without one it follows rules of thumb. Tables name methods,
//! and with them algorithms, within the numerics class that was tuned: tables for several numbers of threads may
//! choose algorithms that round differently, unless [`TuneOptions::keep_algorithms`] says otherwise.

mod measure;
pub(crate) mod rounds;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::exec::ExecutorOptions;
use crate::format::ensure;
use crate::graph::{Graph, Op};
use crate::plan::MAX_BATCH;
use crate::threads::{MAX_THREADS, RuntimeReport};

pub use crate::format::store;
pub use crate::plan::Candidates;
pub use measure::{Progress, TuneOptions, Tuned, candidates, tune};

/// Most tables of a file, and most methods of a layer.
const MAX_TABLES: usize = 256;
const MAX_METHODS: usize = 64;
/// Longest string of a table, in bytes.
const MAX_STRING_LEN: usize = 256;

/// What measured times depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The CPU model and its caches.
    pub cpu: Cpu,
    /// Instruction set tier, by name.
    pub isa: String,
    /// Threads per inference.
    pub threads: usize,
    /// Images per run.
    pub batch: usize,
    /// Height and width of the first input.
    pub input_size: [usize; 2],
    /// Numerics class, by name.
    pub numerics: String,
}

impl Key {
    /// The key of a plan on this machine.
    pub fn of(graph: &Graph, runtime: &RuntimeReport, options: &ExecutorOptions) -> Self {
        let default = graph.inputs.first().map_or([1, 1], |port| [port.shape.h, port.shape.w]);
        Self {
            cpu: Cpu::detect(),
            isa: runtime.isa.name().to_owned(),
            threads: runtime.threads,
            batch: options.batch,
            input_size: options.input_size.unwrap_or(default),
            numerics: options.numerics.name().to_owned(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, isa, threads, batch, input_size: [h, w], numerics } = self;
        let (l2, l3) = (cpu.l2_bytes >> 10, cpu.l3_bytes >> 20);
        write!(
            f,
            "{} (L2 {l2} KiB, L3 {l3} MiB), {isa}, {threads} threads, batch {batch}, {h}x{w}, {numerics}",
            cpu.name
        )
    }
}

/// How long a layer takes by one method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// The method's name, e.g. `winograd-f4-panels`.
    pub method: String,
    /// Median time of the layer in a run of the whole network.
    pub ns: u64,
}

/// The choice for one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Index of the graph's node, a convolution or linear layer.
    pub node: usize,
    /// The method to use. One that a version does not know, or that does not fit the node, is ignored.
    pub method: String,
    /// All methods that were tried, the rule of thumb's first.
    pub measured: Vec<Measured>,
}

/// Choices for one network on one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Where they hold.
    pub key: Key,
    /// Layers in order of nodes. Others are left to the rules of thumb.
    pub layers: Vec<Layer>,
}

impl Table {
    /// The choice for a node, if the table has one.
    pub fn layer(&self, node: usize) -> Option<&Layer> {
        let at = self.layers.binary_search_by_key(&node, |l| l.node).ok()?;
        self.layers.get(at)
    }

    fn check(&self, graph: &Graph) -> Result<()> {
        let Key { cpu, isa, threads, batch, input_size, numerics } = &self.key;
        let layers = &self.layers;
        let measured = || layers.iter().flat_map(|l| &l.measured).map(|m| &m.method);
        let methods = layers.iter().map(|l| &l.method).chain(measured());
        for text in [&cpu.name, isa, numerics].into_iter().chain(methods) {
            ensure(text.len() <= MAX_STRING_LEN && !text.contains(char::is_control), || {
                format!("the name {text:?}")
            })?;
        }
        ensure((1..=MAX_THREADS).contains(threads), || format!("{threads} threads"))?;
        ensure((1..=MAX_BATCH).contains(batch), || format!("batch {batch}"))?;
        ensure(input_size.iter().all(|n| (1..=1 << 20).contains(n)), || {
            format!("an input of {input_size:?}")
        })?;
        ensure(layers.is_sorted_by(|a, b| a.node < b.node), || "layers out of order".to_owned())?;
        for Layer { node, measured, .. } in layers {
            let op = graph.nodes.get(*node).map(|n| &n.op);
            ensure(matches!(op, Some(Op::Conv(_) | Op::Linear(_))), || {
                format!("a choice for node {node}, which is no convolution")
            })?;
            ensure(measured.len() <= MAX_METHODS, || {
                format!("{} methods for node {node}", measured.len())
            })?;
        }
        Ok(())
    }
}

/// Checks the tables of a file against its network.
pub(crate) fn check_tables(tables: &[Table], graph: &Graph) -> Result<()> {
    let in_table = |i: usize| move |e: Error| Error::format(format!("table {i}: {e}"));
    ensure(tables.len() <= MAX_TABLES, || format!("{} tables", tables.len()))?;
    let mut keys = HashSet::new();
    for (i, table) in tables.iter().enumerate() {
        table.check(graph).map_err(in_table(i))?;
        ensure(keys.insert(&table.key), || format!("table {i} is for the same as another"))?;
    }
    Ok(())
}

/// Where a plan's measured choices come from.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Tables {
    /// The model's own table for exactly this plan, if it has one.
    #[default]
    File,
    /// Nowhere: rules of thumb.
    Ignore,
    /// This table, whatever its key.
    Given(Arc<Table>),
}

/// Whether a plan uses a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableUse {
    /// The file has none.
    Absent,
    /// None of the file's tables is for this plan.
    NoMatch {
        /// How many there are.
        nb_tables: usize,
    },
    /// An option says to use none.
    Ignored,
    /// One is used.
    Used,
}

impl fmt::Display for TableUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("none in the file: by rules of thumb"),
            Self::NoMatch { nb_tables } => {
                let s = if *nb_tables == 1 { "" } else { "s" };
                write!(f, "{nb_tables} table{s} in the file, none for this: by rules of thumb")
            }
            Self::Ignored => f.write_str("ignored: by rules of thumb"),
            Self::Used => f.write_str("tuned for this"),
        }
    }
}
