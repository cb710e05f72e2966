//! From a network to a file, section by section, so that the file is never in memory as a whole.

use std::fs::{self, File};
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::path::Path;

use bytemuck::Pod;
use half::f16;
use half::slice::HalfFloatSliceExt;
use skipstone_kernels::layout::LayoutTag;
use skipstone_kernels::pack::{ConvGeometry, pack};

use super::fields::Encoder;
use super::header::{HEADER_LEN, Header, SectionEntry, SectionKind, section_start};
use super::temporary::Temporary;
use super::weights::{self, Use};
use super::{PackOptions, WeightDtype, graph, strings};
use crate::error::{Error, ErrorKind, Result};
use crate::graph::{Data, Graph, Network};
use crate::model::Model;
use crate::plan::layout::preferred_weight_layout;
use crate::tune::{Table, check_tables};

/// Serialises `network`; the same input gives the same bytes.
///
/// # Errors
/// A network that is not valid, or over the format's limits; weights that are infinite or undefined,
/// or become so as f16; labels, a recipe or a test vector that do not fit the network.
pub fn to_bytes(network: &Network, options: &PackOptions) -> Result<Vec<u8>> {
    let mut out = Cursor::new(Vec::new());
    stream(network, options, &mut out)?;
    Ok(out.into_inner())
}

/// Writes `network` to `path`, which appears complete or not at all: through a temporary file in the
/// same folder and a rename. A file that was there stays intact for whoever has it open or mapped.
///
/// # Errors
/// As [`to_bytes`], or the file cannot be written, or `path` is not a regular file.
pub fn write(network: &Network, options: &PackOptions, path: &Path) -> Result<()> {
    replace(path, |file| stream(network, options, file))
}

/// Adds a table of measured choices to the packed file at `path`, in place of one for the same key.
/// Everything else stays as it is. The file is replaced as [`write()`] does it; who has it mapped
/// keeps the old one.
///
/// # Errors
/// A file that is damaged or of another network than `graph`, which the table is for; a table that does
/// not fit it; or as [`write()`].
pub fn store(path: &Path, graph: &Graph, table: &Table) -> Result<()> {
    let in_file = |e: Error| e.in_file(path);
    // A copy: what is written is what was checked.
    let model = Model::open(path)?;
    if model.graph() != graph {
        return Err(in_file(Error::invalid("holds another network than the one that was tuned")));
    }
    let mut tables = model.tables().to_vec();
    match tables.iter_mut().find(|t| t.key == table.key) {
        Some(old) => old.clone_from(table),
        None => tables.push(table.clone()),
    }
    check_tables(&tables, graph).map_err(|e| in_file(Error::invalid(e.to_string())))?;
    let json = serde_json::to_vec(&tables)
        .map_err(|e| in_file(Error::invalid(e.to_string()).caused_by(e)))?;
    let (file, contents) = model.raw();
    replace(path, |out| {
        let (before, after): (Vec<_>, Vec<_>) = contents
            .sections
            .iter()
            .filter(|s| s.kind != SectionKind::TUNE)
            .partition(|s| s.kind < SectionKind::TUNE);
        let mut stream = SectionStream::start(out, contents.header.minor)?;
        let copy = |stream: &mut SectionStream<'_, File>, entry: &SectionEntry| {
            stream.put(entry.kind, entry.clone(), &file[entry.range()])
        };
        before.into_iter().try_for_each(|entry| copy(&mut stream, entry))?;
        stream.section(SectionKind::TUNE, &json)?;
        after.into_iter().try_for_each(|entry| copy(&mut stream, entry))?;
        stream.finish()
    })
}

/// Makes the file at `path` what `fill` writes, as a whole or not at all. An existing file's
/// permissions stay.
fn replace(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let in_file = |e: Error| e.in_file(path);
    // A rename would replace the link, not what it points to.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let existing = fs::metadata(&target).ok();
    if existing.as_ref().is_some_and(|m| !m.is_file()) {
        return Err(in_file(Error::invalid("exists and is not a regular file")));
    }
    let io = |action: &'static str| move |e: io::Error| Error::io(path, action, e);
    let (temporary, mut file) =
        Temporary::create_beside(&target).map_err(io("create a file here"))?;
    fill(&mut file).map_err(in_file)?;
    if let Some(existing) = existing {
        file.set_permissions(existing.permissions()).map_err(io("write"))?;
    }
    file.sync_all().map_err(io("write"))?;
    drop(file);
    temporary.rename(&target).map_err(io("write"))
}

fn stream(network: &Network, options: &PackOptions, out: &mut (impl Write + Seek)) -> Result<()> {
    let graph = &network.graph;
    let (graph_bytes, names) = graph::encode(graph)?;
    graph.validate()?;
    options.check(graph).map_err(|e| Error::invalid(e.to_string()))?;
    let uses = weights::uses(graph)?;
    if network.data.len() != graph.constants.len() {
        return Err(Error::invalid(format!(
            "data for {} constants, the graph has {}",
            network.data.len(),
            graph.constants.len()
        )));
    }
    let json_error = |e: serde_json::Error| Error::invalid(e.to_string()).caused_by(e);

    let mut file = SectionStream::start(out, 0)?;
    file.section(SectionKind::GRAPH, &graph_bytes)?;
    file.section(SectionKind::STRINGS, &names)?;
    if !options.metadata.is_empty() {
        let json = serde_json::to_vec(&options.metadata).map_err(json_error)?;
        file.section(SectionKind::META, &json)?;
    }
    if let Some(recipe) = &options.recipe {
        let json = serde_json::to_vec(recipe).map_err(json_error)?;
        file.section(SectionKind::RECIPE, &json)?;
    }
    if let Some(labels) = &options.labels {
        let list = strings::encode(labels.iter().map(String::as_str))?;
        file.section(SectionKind::LABELS, &list)?;
    }
    if let Some(vector) = &options.test_vector {
        file.section(SectionKind::TESTVEC, &vector.encode()?)?;
    }
    if graph.is_quantized() {
        file.section(SectionKind::QUANT, &graph::encode_quantization(graph)?)?;
    }
    for used in &uses {
        constant(&mut file, network, used, options.dtype)?;
    }
    file.finish()
}

fn constant<W: Write + Seek>(
    file: &mut SectionStream<'_, W>,
    network: &Network,
    used: &Use,
    dtype: WeightDtype,
) -> Result<()> {
    let (spec, data) = (network.graph.constant(used.id), &network.data[used.id.0 as usize]);
    let about = |message: String| Error::invalid(format!("constant '{}' {message}", spec.name));
    if data.len() != spec.len() {
        let found = data.len();
        return Err(about(format!("has {found} values, its shape is {:?}", spec.shape)));
    }
    if data.dtype() != spec.dtype {
        let (found, expected) = (data.dtype().name(), spec.dtype.name());
        return Err(about(format!("has values of type {found}, expected {expected}")));
    }
    let node = &network.graph.nodes[used.node];
    let packing = used.geometry.map(|g| (g, preferred_weight_layout(&network.graph, node)));
    let data = match data {
        Data::F32(data) => data,
        Data::I8(data) => return weights_section(file, packing, WeightDtype::I8, data),
        Data::I32(data) => return weights_section(file, None, WeightDtype::I32, data),
    };
    if let Some(bad) = data.iter().find(|v| !v.is_finite()) {
        return Err(about(format!("has a value {bad}")));
    }
    if dtype == WeightDtype::F16 && packing.is_some() {
        let mut halves = vec![f16::ZERO; data.len()];
        halves.convert_from_f32_slice(data);
        if let Some(i) = halves.iter().position(|v| v.is_infinite()) {
            return Err(about(format!("has a value {}, too large for f16", data[i])));
        }
        weights_section(file, packing, dtype, &halves)
    } else {
        weights_section(file, packing, WeightDtype::F32, data)
    }
}

fn weights_section<T: Pod + Default, W: Write + Seek>(
    file: &mut SectionStream<'_, W>,
    packing: Option<(ConvGeometry, LayoutTag)>,
    dtype: WeightDtype,
    data: &[T],
) -> Result<()> {
    let len = packing.map_or(data.len(), |(geometry, layout)| geometry.packed_len(layout));
    let mut section = vec![T::default(); weights::section_len(len, dtype)];
    match packing {
        Some((geometry, layout)) => pack(&geometry, layout, data, &mut section[..len]),
        None => section[..len].copy_from_slice(data),
    }
    let layout = packing.map_or(LayoutTag::RowMajor, |(_, layout)| layout);
    let (element_code, layout_code) = (dtype as u32, layout as u32);
    let entry = SectionEntry { element_code, layout_code, ..SectionEntry::default() };
    file.put(SectionKind::WEIGHTS, entry, bytemuck::cast_slice(&section))
}

/// Writes sections in order, then the table, then the header in front.
struct SectionStream<'a, W> {
    out: &'a mut W,
    hash: blake3::Hasher,
    end: u64,
    entries: Vec<SectionEntry>,
    /// The format's minor version, at least.
    minor: u16,
}

fn cannot_write(e: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot write: {e}")).caused_by(e)
}

impl<'a, W: Write + Seek> SectionStream<'a, W> {
    fn start(out: &'a mut W, minor: u16) -> Result<Self> {
        out.write_all(&[0; HEADER_LEN]).map_err(cannot_write)?;
        let hash = blake3::Hasher::new();
        Ok(Self { out, hash, end: HEADER_LEN as u64, entries: Vec::new(), minor })
    }

    fn section(&mut self, kind: SectionKind, bytes: &[u8]) -> Result<()> {
        self.put(kind, SectionEntry::default(), bytes)
    }

    /// Appends a section; `entry` says what only its kind knows.
    fn put(&mut self, kind: SectionKind, entry: SectionEntry, bytes: &[u8]) -> Result<()> {
        let previous = self.entries.last().map(|e| e.kind).unwrap_or_default();
        let offset = section_start(self.end, kind, previous);
        self.pad_to(offset)?;
        let (len, crc) = (bytes.len() as u64, crc32c::crc32c(bytes));
        let entry = SectionEntry { kind, offset, len, crc, ..entry };
        entry.check_place(self.end, previous, super::MAX_FILE_LEN)?;
        self.append(bytes)?;
        self.entries.push(entry);
        Ok(())
    }

    fn pad_to(&mut self, offset: u64) -> Result<()> {
        let zeros = [0; super::FIRST_WEIGHTS_ALIGN];
        self.append(&zeros[..(offset - self.end) as usize])
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.end += bytes.len() as u64;
        self.out.write_all(bytes).map_err(cannot_write)
    }

    fn finish(mut self) -> Result<()> {
        self.pad_to(section_start(self.end, SectionKind::default(), SectionKind::default()))?;
        let mut table = Encoder::default();
        for entry in &mut self.entries {
            entry.fields(&mut table)?;
        }
        self.append(&table.0)?;
        let header = Header {
            minor: self.minor.max(Header::minor_version(&self.entries)),
            nb_sections: self.entries.len(),
            file_len: self.end,
            content_hash: self.hash.finalize().into(),
            table_crc: crc32c::crc32c(&table.0),
        };
        self.out.seek(SeekFrom::Start(0)).map_err(cannot_write)?;
        self.out.write_all(&header.encode()?).map_err(cannot_write)?;
        self.out.flush().map_err(cannot_write)
    }
}
