//! From the bytes of a file to owned, checked structures.

use std::ops::Range;

use skipstone_kernels::layout::LayoutTag;
use skipstone_kernels::pack::ConvGeometry;

use super::fields::Decoder;
pub(crate) use super::header::{HEADER_LEN, Header, SectionEntry};
use super::header::{SectionKind, check_crc, read_table};
use super::weights::{self, Use};
use super::{MAX_LABELS, PackOptions, TestVector, WeightDtype, ensure, graph, strings, within};
use crate::error::{Error, ErrorKind, Result};
use crate::graph::Graph;
use crate::tune::{Table, check_tables};

/// Everything in a file but the weights' values.
pub(crate) struct Contents {
    pub(crate) header: Header,
    /// All sections, in file order.
    pub(crate) sections: Vec<SectionEntry>,
    pub(crate) graph: Graph,
    /// Where each constant of the graph is.
    pub(crate) constants: Vec<StoredConstant>,
    /// What was packed beside the network.
    pub(crate) options: PackOptions,
    /// Measured choices.
    pub(crate) tables: Vec<Table>,
}

/// How and where a file stores a constant.
#[derive(Clone, Debug)]
pub(crate) struct StoredConstant {
    /// Index of its section.
    pub(crate) section: usize,
    /// The data, without fill and tail; a valid range of the file.
    pub(crate) range: Range<usize>,
    pub(crate) dtype: WeightDtype,
    pub(crate) layout: LayoutTag,
    /// Sizes, for weights of convolutions and linear layers; others are row-major.
    pub(crate) geometry: Option<ConvGeometry>,
}

impl StoredConstant {
    /// Whether it holds integers.
    pub(crate) fn is_integer(&self) -> bool {
        matches!(self.dtype, WeightDtype::I8 | WeightDtype::I32)
    }
}

/// Reads and checks everything but the content of `WEIGHTS` and unknown sections, which it does not
/// touch.
pub(crate) fn parse(file: &[u8]) -> Result<Contents> {
    let header = Header::decode(file, file.len())?;
    let sections = read_table(file, &header)?;
    let section = |kind: SectionKind| match sections.iter().position(|s| s.kind == kind) {
        Some(index) => check_section(file, index, &sections[index]).map(Some),
        None => Ok(None),
    };
    let required = |kind: SectionKind| {
        section(kind)?.ok_or_else(|| Error::format(format!("there is no section {}", kind.name())))
    };
    let in_kind = |kind: SectionKind| move |e: Error| within(kind.name(), e);

    let mut graph =
        graph::decode(required(SectionKind::GRAPH)?).map_err(in_kind(SectionKind::GRAPH))?;
    graph::decode_names(required(SectionKind::STRINGS)?, &mut graph)
        .map_err(in_kind(SectionKind::STRINGS))?;
    if let Some(bytes) = section(SectionKind::QUANT)? {
        graph::decode_quantization(bytes, &mut graph).map_err(in_kind(SectionKind::QUANT))?;
    }
    graph.validate()?;
    let constants = place_constants(&graph, &sections)?;

    let mut options = PackOptions::default();
    if constants.iter().any(|c| c.dtype == WeightDtype::F16) {
        options.dtype = WeightDtype::F16;
    }
    if let Some(bytes) = section(SectionKind::META)? {
        options.metadata = json(bytes).map_err(in_kind(SectionKind::META))?;
    }
    if let Some(bytes) = section(SectionKind::RECIPE)? {
        options.recipe = Some(json(bytes).map_err(in_kind(SectionKind::RECIPE))?);
    }
    if let Some(bytes) = section(SectionKind::LABELS)? {
        let labels = strings::decode(bytes, MAX_LABELS).map_err(in_kind(SectionKind::LABELS))?;
        options.labels = Some(labels.into_iter().map(str::to_owned).collect());
    }
    if let Some(bytes) = section(SectionKind::TESTVEC)? {
        let mut io = Decoder::new(bytes);
        let mut vector = TestVector::default();
        vector
            .fields(&mut io, bytes.len() / size_of::<f32>())
            .and_then(|()| ensure(io.rest().is_empty(), || "too long".to_owned()))
            .map_err(in_kind(SectionKind::TESTVEC))?;
        options.test_vector = Some(vector);
    }
    options.check(&graph)?;
    let mut tables = Vec::new();
    if let Some(bytes) = section(SectionKind::TUNE)? {
        tables = json(bytes)
            .and_then(|tables: Vec<Table>| check_tables(&tables, &graph).map(|()| tables))
            .map_err(in_kind(SectionKind::TUNE))?;
    }
    Ok(Contents { header, sections, graph, constants, options, tables })
}

/// Checks what [`parse`] leaves out: all sections' checksums, the tails of weights, the content hash.
pub(crate) fn verify(file: &[u8], contents: &Contents) -> Result<()> {
    for (index, entry) in contents.sections.iter().enumerate() {
        check_section(file, index, entry)?;
    }
    for constant in &contents.constants {
        let entry = &contents.sections[constant.section];
        let tail = &file[constant.range.end..entry.range().end];
        ensure(tail.iter().all(|&b| b == 0), || {
            format!("section {}: the bytes after the weights are not zero", constant.section)
        })?;
    }
    if blake3::hash(&file[HEADER_LEN..]) != contents.header.content_hash {
        return Err(Error::new(ErrorKind::Checksum, "the file does not have its content hash"));
    }
    Ok(())
}

fn check_section<'a>(file: &'a [u8], index: usize, entry: &SectionEntry) -> Result<&'a [u8]> {
    let bytes = &file[entry.range()];
    check_crc(entry.crc, bytes, format_args!("section {index} ({})", entry.kind.name()))?;
    Ok(bytes)
}

fn json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::format(e.to_string()).caused_by(e))
}

/// Finds each constant's section and checks that its length is what the layout takes.
fn place_constants(graph: &Graph, sections: &[SectionEntry]) -> Result<Vec<StoredConstant>> {
    let uses = weights::uses(graph)?;
    let first = sections.partition_point(|s| s.kind < SectionKind::WEIGHTS);
    let stored = sections[first..].iter().take_while(|s| s.kind == SectionKind::WEIGHTS);
    let nb_stored = stored.clone().count();
    ensure(nb_stored == uses.len(), || {
        format!("{nb_stored} WEIGHTS sections for {} constants", uses.len())
    })?;
    let mut constants = vec![None; uses.len()];
    for (section, (used, entry)) in (first..).zip(uses.iter().zip(stored)) {
        let name = &graph.constant(used.id).name;
        let constant = place_constant(used, entry, section, graph)
            .map_err(|e| within(&format!("section {section}, constant '{name}'"), e))?;
        constants[used.id.0 as usize] = Some(constant);
    }
    // `uses` has each constant once.
    Ok(constants.into_iter().flatten().collect())
}

fn place_constant(
    used: &Use,
    entry: &SectionEntry,
    section: usize,
    graph: &Graph,
) -> Result<StoredConstant> {
    let dtype = WeightDtype::from_code(entry.element_code).ok_or_else(|| {
        Error::unsupported(format!("element type {} is not known", entry.element_code))
    })?;
    let layout = LayoutTag::from_code(entry.layout_code).ok_or_else(|| {
        Error::unsupported(format!(
            "layout {} is not known to this version: convert the source model again",
            entry.layout_code
        ))
    })?;
    let declared = graph.constant(used.id).dtype;
    let may_be = dtype.can_hold(declared) && (used.geometry.is_some() || dtype != WeightDtype::F16);
    let len = used.len_in(layout, graph).filter(|_| may_be).ok_or_else(|| {
        let what = if used.geometry.is_some() { "weights" } else { "a constant" };
        let (found, layout, declared) = (dtype.name(), layout.name(), declared.name());
        Error::format(format!("{found} {layout} for {what} of type {declared}"))
    })?;
    let expected = (weights::section_len(len, dtype) * dtype.size_bytes()) as u64;
    ensure(entry.len == expected, || format!("{} bytes, expected {expected}", entry.len))?;
    let start = entry.range().start;
    let range = start..start + len * dtype.size_bytes();
    Ok(StoredConstant { section, range, dtype, layout, geometry: used.geometry })
}
