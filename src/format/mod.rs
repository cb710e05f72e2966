//! The packed file `.skip`: one network, ready to be memory-mapped and run.
//!
//! This page is the specification of version 1.1. Numbers are little-endian. Offsets and lengths
//! are in bytes, offsets count from the start of the file. *Reserved* bytes are zero, and a reader
//! refuses them otherwise.
//!
//! # File
//! ```text
//! header | GRAPH | STRINGS | META | RECIPE | LABELS | TESTVEC | TUNE | QUANT | WEIGHTS ... WEIGHTS | section table
//! ```
//! A section starts where the one before it ends, rounded up to 64; the first `WEIGHTS` section
//! at a multiple of 4096. The table starts where the last section ends, rounded up to 64, and ends the file.
//! The bytes between are zero. So the lengths in the table determine every offset, sections
//! cannot overlap, and no byte of the file is outside a checksum or this rule.
//!
//! # Header, 128 bytes
//! | offset | type | content |
//! |---|---|---|
//! | 0 | 8 bytes | `89 'S' 'K' 'P' 0D 0A 1A 0A`, which a text-mode transfer damages |
//! | 8 | u16 | major version, 1: another one is refused |
//! | 10 | u16 | minor version, the lowest that has what the file uses: a reader accepts all |
//! | 12 | u32 | `0x01020304` |
//! | 16 | u32 | length of the header, 128 |
//! | 20 | u32 | required flags: a reader refuses bits it does not know; none is defined |
//! | 24 | u32 | optional flags: a reader ignores bits it does not know; none is defined |
//! | 28 | u32 | number of sections |
//! | 32 | u64 | length of the file |
//! | 40 | 32 bytes | BLAKE3 of everything after the header: the file's *content hash* |
//! | 72 | u32 | CRC32C of the section table |
//! | 76 | 48 bytes | reserved |
//! | 124 | u32 | CRC32C of the bytes 0 to 123 |
//!
//! # Section table, 64 bytes per section
//! | offset | type | content |
//! |---|---|---|
//! | 0 | u32 | kind |
//! | 4 | u32 | flags: bit 0, *required*: a reader that does not know the kind refuses the file; others reserved |
//! | 8 | u64 | offset |
//! | 16 | u64 | length |
//! | 24 | u32 | `WEIGHTS`: element type, 1 = f32, 2 = IEEE half, 3 = i8, 4 = i32; else 0 |
//! | 28 | u32 | `WEIGHTS`: layout, a [`LayoutTag`]; else 0 |
//! | 32 | u32 | CRC32C of the section |
//! | 36 | 28 bytes | reserved |
//!
//! Kinds come in ascending order, and each at most once except `WEIGHTS`. A kind that a reader does
//! not know and that is not required is skipped.
//!
//! | kind | name | required | content | longest |
//! |---|---|---|---|---|
//! | 1 | `GRAPH` | yes | the network's structure; always present | 8 MiB |
//! | 2 | `STRINGS` | yes | its names; always present | 4 MiB |
//! | 3 | `META` | no | JSON object of strings: source, licence, ...; keys in byte order | 64 KiB |
//! | 4 | `RECIPE` | no | the preprocessing, JSON of [`Recipe`] | 64 KiB |
//! | 5 | `LABELS` | no | class names of output 0, in index order, as a string list | 4 MiB |
//! | 6 | `TESTVEC` | no | outputs for a generated input, see [`TestVector`] | 4 MiB |
//! | 7 | `TUNE` | no | measured choices for some machines, JSON array of [`Table`] | 1 MiB |
//! | 8 | `QUANT` | yes | how values are stored in 8 bits; present where one is | 1 MiB |
//! | 16 | `WEIGHTS` | yes | one constant's data | |
//!
//! # `GRAPH`
//! Eight u32: the numbers of inputs, outputs, constants, nodes, and operands of all nodes together;
//! whether the default input size is the only one, 0/1; two reserved. Then the records of the inputs, outputs, constants and nodes, and the operands.
//! Fields are u32 unless said otherwise; what a record does not use up is reserved.
//!
//! - **Input or output, 32 bytes**: value, channels, height, width (one image, for inputs the
//!   default), then 4 bytes: the axes of the user's tensor in memory order, 1 = N, 2 = C, 3 = H,
//!   4 = W, 0 = none.
//! - **Constant, 32 bytes**: rank (at most 6), then that many extents, row-major, and zeros up to
//!   six; element type, 0 = f32, 1 = i8, 2 = i32.
//! - **Node, 128 bytes**: operator, number of operands, then the operator's attributes:
//!
//! | code | operator | attributes |
//! |---|---|---|
//! | 1 | convolution | weights, bias or `FFFFFFFF`, stride (2), padding top left bottom right, dilation (2), groups, residual 0/1, clamp, weight scales plus 1 or 0, quantization before the residual |
//! | 2 | pool | 0 = maximum, 1 = mean without padding, 2 = mean with padding, kernel (2), stride (2), padding (4), dilation (2), ceil mode 0/1 |
//! | 3 | global average pool | |
//! | 4 | linear | weights, bias or `FFFFFFFF`, clamp, weight scales plus 1 or 0 |
//! | 5 | add | clamp |
//! | 6 | affine | scale, shift, clamp |
//! | 7 | clamp | clamp |
//! | 8 | concat | |
//! | 9 | pad | channels (2), frame (4), value as f32 |
//! | 10 | slice | start (3), step (3), end (3; `FFFFFFFF` or more in the network is stored as `FFFFFFFF`) |
//! | 11 | flatten | channels last 0/1 |
//! | 12 | softmax | logarithm 0/1 |
//! | 13 | constant | constant |
//!
//! A clamp is two f32, lower and upper bound. A quantization is its scale as f32, its zero point and
//! its largest integer, see [`Quantization`]; absent ones are zeros. Pairs are vertical, then horizontal.
//! - **Operands**: the values of each node's operands, node after node. Values are numbered: the
//!   inputs first, then one per node, and an operand's value is below its node's.
//!
//! The graph stored is the fused one, [`Graph`]; what makes one valid is
//! [`Graph::validate`], and in addition every constant is used, and used as weights
//! with one number of groups only.
//!
//! # String lists: `STRINGS` and `LABELS`
//! u32 count, then `count` u32: the end of each string, counted from the end of this table; then
//! the strings, UTF-8, without control characters, at most 4096 bytes each. `STRINGS` holds the
//! name of the network, of the inputs, outputs, constants and nodes, in that order.
//!
//! # `QUANT`
//! A quantization for each value, in order.
//!
//! # `WEIGHTS`
//! One section per constant, in *execution order*: constant after constant as nodes first use them,
//! weights before bias before weight scales, scale before shift. Weights of convolutions and linear
//! layers may have any layout, and f32 ones may be halves; [`ConvGeometry`] gives their length, and
//! where each weight is. Other constants are row-major, of the type that `GRAPH` says. After the data come zeros up to a multiple of 64,
//! and 64 more zeros, all inside the section: so sections follow one another without a gap, and a
//! vector load that starts at a weight ends inside the file.
//!
//! # `TESTVEC`
//! u64 seed, u32 number of outputs, u32 reserved, then for each output a u32 length and that many
//! f32. See [`TestVector`] for the input.
//!
//! # `TUNE`
//! ```text
//! [ { "key": { "cpu": { "name": "AuthenticAMD 25/33 ...", "l2_bytes": 524288, "l3_bytes": 33554432 },
//!              "isa": "avx2", "threads": 2, "batch": 1, "input_size": [224, 224], "numerics": "fast" },
//!     "layers": [ { "node": 4, "method": "winograd-f4-panels",
//!                   "measured": [ { "method": "direct", "ns": 652000 }, ... ] }, ... ] }, ... ]
//! ```
//! No two tables have the same key; layers are in ascending order of their node, a convolution or
//! linear layer. At most 256 tables, 64 measured methods of a layer, 256 bytes and no control
//! characters in a string. Tables are advice: a reader ignores a method that it does not know, that does not
//! fit the node, or that is outside the numerics class asked for. Unknown keys of objects are ignored.
//!
//! # Limits, checked before memory is allocated
//! File 16 GiB; 16,384 nodes; 65,536 operands; 256 inputs, 256 outputs; 16,384 constants;
//! 65,536 labels; sections as in the table above, and 64 of other kinds. Extents as
//! [`Graph::validate`] says.
//!
//! # What a reader checks
//! Always: header, table, all offsets and lengths, the bytes between sections, the checksums of all known sections but
//! `WEIGHTS`, and everything in them. These are all bytes that a memory address or a length is
//! computed from, and they are copied out of the file: a reader never looks at them again. The
//! checksums and tails of `WEIGHTS`, skipped sections and the content hash: by [`Model::open`] and
//! [`Model::from_bytes`] always, for a mapped file by [`Model::verify`] on request.
//!
//! # Versions
//! A new minor version may add optional flags and kinds of sections, which earlier readers skip, and
//! required kinds, which make them refuse a file that has one. Everything else is a new major
//! version.
//!
//! - 1.1: `QUANT`; constants of i8 and i32, weight scales and quantization in convolutions and
//!   linear layers, for files that have `QUANT`. `TUNE` has a content; readers of 1.0 skip it.
//! - 1.0: the first.
//!
//! [`Model::open`]: crate::Model::open
//! [`Model::from_bytes`]: crate::Model::from_bytes
//! [`Model::verify`]: crate::Model::verify
//! [`LayoutTag`]: skipstone_kernels::layout::LayoutTag
//! [`ConvGeometry`]: skipstone_kernels::pack::ConvGeometry
//! [`Graph::validate`]: crate::graph::Graph::validate
//! [`Quantization`]: crate::graph::Quantization
//! [`Table`]: crate::tune::Table

mod fields;
mod graph;
mod header;
pub(crate) mod reader;
mod strings;
mod temporary;
mod testvec;
mod weights;
mod writer;

use std::collections::BTreeMap;

pub use header::SectionKind;
pub use temporary::{Abandoned, abandon};
pub use testvec::TestVector;
pub use writer::{store, to_bytes, write};

use crate::error::{Error, Result};
use crate::graph::{Dtype, Graph};
use crate::recipe::Recipe;

/// Element type of stored weights. The numbers are stored in packed files and never change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum WeightDtype {
    /// IEEE single.
    #[default]
    F32 = 1,
    /// IEEE half: half the file, widened by kernels or when a plan is built.
    F16 = 2,
    /// 8 bits, signed: weights of int8 nodes.
    I8 = 3,
    /// 32 bits, signed: biases of int8 nodes.
    I32 = 4,
}

impl WeightDtype {
    /// The type with this stored number.
    fn from_code(code: u32) -> Option<Self> {
        [Self::F32, Self::F16, Self::I8, Self::I32].into_iter().find(|dtype| *dtype as u32 == code)
    }

    /// Name in dumps.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I8 => "i8",
            Self::I32 => "i32",
        }
    }

    /// Size of an element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<half::f16>(),
            Self::I8 => size_of::<i8>(),
            Self::I32 => size_of::<i32>(),
        }
    }

    /// Whether a constant of a graph may be stored so.
    fn can_hold(self, dtype: Dtype) -> bool {
        matches!(
            (self, dtype),
            (Self::F32 | Self::F16, Dtype::F32) | (Self::I8, Dtype::I8) | (Self::I32, Dtype::I32)
        )
    }
}

/// What goes into a packed file beside the network.
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// Element type of stored convolution and linear weights that are f32 in the graph.
    pub dtype: WeightDtype,
    /// Class labels of output 0, index order.
    pub labels: Option<Vec<String>>,
    /// Preprocessing recipe.
    pub recipe: Option<Recipe>,
    /// Free metadata, key-value (source file, source hash, licence, ...), sorted by key.
    pub metadata: BTreeMap<String, String>,
    /// Outputs to check a machine's kernels against.
    pub test_vector: Option<TestVector>,
}

impl PackOptions {
    /// Checks that everything fits the network it travels with.
    fn check(&self, graph: &Graph) -> Result<()> {
        let output = &graph.outputs[0];
        ensure(self.dtype.can_hold(Dtype::F32), || {
            format!("weights cannot be stored as {}", self.dtype.name())
        })?;
        if let Some(labels) = &self.labels {
            ensure(labels.len() <= MAX_LABELS, || format!("more than {MAX_LABELS} labels"))?;
            ensure(labels.len() == output.shape.len(), || {
                let found = labels.len();
                format!("{found} labels, the output '{}' has shape {}", output.name, output.shape)
            })?;
        }
        if let Some(recipe) = &self.recipe {
            recipe.validate().map_err(|e| Error::format(e.to_string()))?;
            let (found, expected) =
                (recipe.channels.count(), graph.inputs.first().map(|p| p.shape.c));
            ensure(expected == Some(found), || {
                format!("the recipe makes {found} channels, the network takes {expected:?}")
            })?;
        }
        for (key, value) in &self.metadata {
            let printable = |c: char| !c.is_control() || c == '\n' || c == '\t';
            ensure(key.chars().chain(value.chars()).all(printable), || {
                format!("a control character in the metadata {key:?}")
            })?;
        }
        self.test_vector.as_ref().map_or(Ok(()), |vector| vector.check(graph))
    }
}

/// Alignment of sections: a cache line, and a 512-bit vector.
const SECTION_ALIGN: usize = crate::tensor::ALIGN_BYTES;
/// Alignment of the first `WEIGHTS` section: a page.
const FIRST_WEIGHTS_ALIGN: usize = 4096;
/// Zeros at the end of each `WEIGHTS` section, at least.
const WEIGHTS_TAIL: usize = 64;

const MAX_FILE_LEN: u64 = 16 << 30;
const MAX_NODES: usize = 16_384;
const MAX_OPERANDS: usize = 65_536;
const MAX_PORTS: usize = 256;
const MAX_CONSTANTS: usize = 16_384;
const MAX_LABELS: usize = 65_536;
/// Sections that are not `WEIGHTS`.
const MAX_OTHER_SECTIONS: usize = 64;

/// An error of the file's content, unless `ok`.
pub(crate) fn ensure(ok: bool, message: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::format(message())) }
}

/// The error, with the part of the file it is about.
fn within(part: &str, error: Error) -> Error {
    Error::new(error.kind(), format!("{part}: {error}"))
}
