//! An opened packed model.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::{Mmap, MmapMut};
use skipstone_kernels::layout::LayoutTag;
use skipstone_kernels::pack::{ConvGeometry, pack, unpack};
use skipstone_kernels::winograd;

use crate::error::{Error, Result};
use crate::file::open_regular;
use crate::format::reader::{self, Contents, HEADER_LEN, Header, StoredConstant};
use crate::format::{PackOptions, SectionKind, TestVector, WeightDtype};
use crate::graph::{ConstId, Data, Graph, Network};
use crate::ops::quads::{Packing, Quads};
use crate::ops::qwinograd::PackedFilters;
use crate::ops::swinograd::transform_filters;
use crate::recipe::Recipe;
use crate::tensor::AlignedBuf;
use crate::tune::Table;

/// An immutable packed model; cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    /// The file: mapped, or a private copy.
    file: Mmap,
    /// Whether it is mapped, so that the system can read its pages again.
    is_mapped: bool,
    contents: Contents,
    /// Per constant, and per layout in the order of [`LayoutTag::ALL`]: what had to be converted.
    converted: Vec<[OnceLock<Arc<AlignedBuf>>; LayoutTag::ALL.len()]>,
    /// Filters transformed for Winograd, by constant and kernel.
    transformed: Mutex<HashMap<(ConstId, &'static str), Arc<AlignedBuf>>>,
    /// Int8 weights packed for `qconv`.
    quads: Mutex<HashMap<(ConstId, Packing), Arc<Quads>>>,
    /// Int8 filters packed for `qwinograd`.
    packed_filters: Mutex<HashMap<ConstId, Arc<PackedFilters>>>,
}

/// What a packed file consists of, for listings.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FileInfo {
    /// Major and minor version of the format.
    pub version: (u16, u16),
    /// Length in bytes.
    pub len: u64,
    /// BLAKE3 of everything after the header.
    pub content_hash: [u8; 32],
    /// Sections in file order.
    pub sections: Vec<SectionInfo>,
}

/// One section of a packed file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SectionInfo {
    /// What it holds.
    pub kind: SectionKind,
    /// Start in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// CRC32C of its bytes.
    pub crc32c: u32,
    /// For weights: which, and how they are stored.
    pub weights: Option<(ConstId, WeightDtype, LayoutTag)>,
}

impl Model {
    /// Opens a packed file by copying it into memory, so that later changes of the file cannot be
    /// seen, and verifies all checksums.
    ///
    /// # Errors
    /// A file that cannot be read, or that breaks the format; names the file and the rule.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let read = |action| move |e: io::Error| Error::io(path, action, e);
        let (mut file, len) = open_regular(path)?;
        // The header first: it tells a file that is no model before its length costs memory.
        let mut header = Vec::with_capacity(HEADER_LEN);
        let nb_header = file.by_ref().take(HEADER_LEN as u64).read_to_end(&mut header);
        nb_header.map_err(read("read"))?;
        Header::decode(&header, len).map_err(|e| e.in_file(path))?;
        let mut copy = anonymous(len).map_err(read("hold in memory"))?;
        let (start, rest) = copy.split_at_mut(header.len().min(len));
        start.copy_from_slice(&header[..start.len()]);
        file.read_exact(rest).map_err(read("read"))?;
        Self::verified(copy).map_err(|e| e.in_file(path))
    }

    /// Opens a packed file without copying: weights are read from the shared page cache, and not
    /// before they are used. Their checksums are left to [`Self::verify`].
    ///
    /// # Safety
    /// Nobody may truncate or modify the file while a clone of the model, or of its
    /// [`Weights`], lives. (Replacing it by a rename, as [`write`](crate::format::write) does, is
    /// harmless.)
    ///
    /// # Errors
    /// As [`Self::open`].
    pub unsafe fn open_mmap(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, _) = open_regular(path)?;
        // SAFETY: the caller promises that nobody changes the file while the map lives; the map
        // lives in `Inner`, which only `Model` and `Weights` hold.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
        Self::parsed(map, true).map_err(|e| e.in_file(path))
    }

    /// Opens a packed model held in memory; copies it, and verifies all checksums.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Header::decode(bytes, bytes.len())?;
        let mut copy = anonymous(bytes.len())
            .map_err(|e| Error::invalid("no memory for the model").caused_by(e))?;
        copy.copy_from_slice(bytes);
        Self::verified(copy)
    }

    fn verified(copy: MmapMut) -> Result<Self> {
        let copy = copy.make_read_only();
        let model = Self::parsed(
            copy.map_err(|e| Error::invalid("cannot protect the model's memory").caused_by(e))?,
            false,
        )?;
        model.verify()?;
        Ok(model)
    }

    fn parsed(file: Mmap, is_mapped: bool) -> Result<Self> {
        if cfg!(target_endian = "big") {
            return Err(Error::unsupported("packed files need a little-endian machine"));
        }
        let contents = reader::parse(&file)?;
        let converted = contents.constants.iter().map(|_| Default::default()).collect();
        Ok(Self {
            inner: Arc::new(Inner {
                file,
                is_mapped,
                contents,
                converted,
                transformed: Mutex::default(),
                quads: Mutex::default(),
                packed_filters: Mutex::default(),
            }),
        })
    }

    /// Reads the whole file and verifies all checksums, also those that [`Self::open_mmap`] leaves
    /// out.
    ///
    /// # Errors
    /// [`ErrorKind::Checksum`](crate::ErrorKind::Checksum) with the damaged section.
    pub fn verify(&self) -> Result<()> {
        reader::verify(&self.inner.file, &self.inner.contents)
    }

    /// The network's structure.
    pub fn graph(&self) -> &Graph {
        &self.inner.contents.graph
    }

    /// What was packed beside the network: labels, recipe, metadata, test vector.
    pub fn pack_options(&self) -> &PackOptions {
        &self.inner.contents.options
    }

    /// The preprocessing recipe, if the file has one.
    pub fn recipe(&self) -> Option<&Recipe> {
        self.pack_options().recipe.as_ref()
    }

    /// Class labels, if the file has them.
    pub fn labels(&self) -> Option<&[String]> {
        self.pack_options().labels.as_deref()
    }

    /// Free metadata: source file, licence, ...
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.pack_options().metadata
    }

    /// The self-test vector, if the file has one.
    pub fn test_vector(&self) -> Option<&TestVector> {
        self.pack_options().test_vector.as_ref()
    }

    /// Measured choices, each for the plans of its key.
    pub fn tables(&self) -> &[Table] {
        &self.inner.contents.tables
    }

    /// The file's bytes and what they are.
    pub(crate) fn raw(&self) -> (&[u8], &Contents) {
        (&self.inner.file, &self.inner.contents)
    }

    /// BLAKE3 of the file's content. Known to be true after [`Self::open`], [`Self::from_bytes`] or
    /// [`Self::verify`], else what the file says.
    pub fn content_hash(&self) -> [u8; 32] {
        self.inner.contents.header.content_hash
    }

    /// The file's version, sections and checksums.
    pub fn file_info(&self) -> FileInfo {
        let Contents { header, sections, constants, .. } = &self.inner.contents;
        let mut sections: Vec<_> = sections
            .iter()
            .map(|s| SectionInfo {
                kind: s.kind,
                offset: s.offset,
                len: s.len,
                crc32c: s.crc,
                weights: None,
            })
            .collect();
        for (i, c) in constants.iter().enumerate() {
            sections[c.section].weights = Some((ConstId(i as u32), c.dtype, c.layout));
        }
        FileInfo {
            version: (Header::MAJOR, header.minor),
            len: header.file_len,
            content_hash: header.content_hash,
            sections,
        }
    }

    /// The sizes of a constant as a convolution's weights; `None` if it is not weights.
    pub fn geometry(&self, id: ConstId) -> Option<&ConvGeometry> {
        self.inner.stored(id).geometry.as_ref()
    }

    /// A constant's packed data in exactly this layout as 64-byte aligned f32, if the file stores it
    /// so; zero-copy.
    pub fn packed(&self, id: ConstId, layout: LayoutTag) -> Option<&[f32]> {
        let stored = self.inner.stored(id);
        let as_stored = stored.dtype == WeightDtype::F32 && stored.layout == layout;
        as_stored.then(|| self.inner.view(&stored.range))
    }

    /// A constant's data in this layout as 64-byte aligned f32: from the file where it stores them
    /// so, else converted. The conversion happens once, and is kept as long as the model, for all
    /// executors.
    ///
    /// # Errors
    /// A packed layout for a constant that is not weights, or integers.
    pub fn packed_or_repack(&self, id: ConstId, layout: LayoutTag) -> Result<Weights> {
        let inner = &self.inner;
        let stored = inner.stored(id);
        if stored.dtype == WeightDtype::F32 && stored.layout == layout {
            let file = Arc::clone(inner);
            return Ok(Weights(Source::File(file, stored.range.clone())));
        }
        // Every other constant is stored row-major, as f32.
        let Some(geometry) = stored.geometry.as_ref().filter(|_| !stored.is_integer()) else {
            let name = &inner.contents.graph.constant(id).name;
            let layout = layout.name();
            return Err(Error::invalid(format!("constant '{name}' cannot be f32 {layout}")));
        };
        let slots = &inner.converted[id.0 as usize];
        let (_, slot) = LayoutTag::ALL
            .iter()
            .zip(slots)
            .find(|(known, _)| **known == layout)
            .ok_or_else(|| Error::invalid(format!("no conversion to {}", layout.name())))?;
        let buf = slot.get_or_init(|| {
            let mut buf = AlignedBuf::zeroed(geometry.packed_len(layout));
            inner.convert(stored, geometry, layout, &mut buf);
            Arc::new(buf)
        });
        Ok(Weights(Source::Converted(Arc::clone(buf))))
    }

    /// Whether the file stores a constant as halves.
    pub(crate) fn is_half(&self, id: ConstId) -> bool {
        self.inner.stored(id).dtype == WeightDtype::F16
    }

    /// Weights in exactly this layout as 64-byte aligned halves, if the file stores them so; zero-copy.
    pub fn packed_half(&self, id: ConstId, layout: LayoutTag) -> Option<HalfWeights> {
        let stored = self.inner.stored(id);
        let as_stored = stored.dtype == WeightDtype::F16 && stored.layout == layout;
        as_stored.then(|| HalfWeights(Arc::clone(&self.inner), stored.range.clone()))
    }

    /// The filters of a 3x3 convolution of one group, transformed by `kernel`. This happens once, and is
    /// kept as long as the model, for all executors.
    ///
    /// # Errors
    /// A constant that is not weights.
    ///
    /// # Panics
    /// If the weights are not 3x3 of one group.
    pub(crate) fn transformed(&self, id: ConstId, kernel: &winograd::Kernel) -> Result<Weights> {
        let packed = self.packed_or_repack(id, LayoutTag::OIhw8i16o)?;
        let stored = self.inner.stored(id);
        let geometry = stored.geometry.as_ref().expect("what can be repacked is weights");
        let mut transformed = self.inner.transformed.lock().unwrap_or_else(PoisonError::into_inner);
        let transform = || Arc::new(transform_filters(kernel, geometry, &packed));
        let buf = transformed.entry((id, kernel.name)).or_insert_with(transform);
        Ok(Weights(Source::Converted(Arc::clone(buf))))
    }

    /// Int8 weights, packed as quads. This happens once, and is kept as long as the model, for all
    /// executors.
    ///
    /// # Panics
    /// If the constant is not i8 weights.
    pub(crate) fn quads(&self, id: ConstId, packing: Packing) -> Arc<Quads> {
        let geometry = self.geometry(id).expect("weights have a geometry");
        let mut quads = self.inner.quads.lock().unwrap_or_else(PoisonError::into_inner);
        let pack = || {
            let packed = Quads::pack(geometry, packing, &self.row_major_i8(id));
            self.inner.forget(id);
            Arc::new(packed)
        };
        Arc::clone(quads.entry((id, packing)).or_insert_with(pack))
    }

    /// Int8 weights, packed for kernels that widen them; as [`Self::quads`].
    ///
    /// # Panics
    /// If the constant is not i8 weights in one group.
    pub(crate) fn packed_filters(&self, id: ConstId) -> Arc<PackedFilters> {
        let geometry = self.geometry(id).expect("weights have a geometry");
        let mut filters = self.inner.packed_filters.lock().unwrap_or_else(PoisonError::into_inner);
        let pack = || {
            let packed = PackedFilters::pack(geometry, &self.row_major_i8(id));
            self.inner.forget(id);
            Arc::new(packed)
        };
        Arc::clone(filters.entry(id).or_insert_with(pack))
    }

    /// A constant's data in row-major order as f32, converted or unpacked from what the file stores.
    ///
    /// # Panics
    /// If the constant is not f32 in the graph.
    pub fn row_major(&self, id: ConstId) -> Cow<'_, [f32]> {
        let stored = self.inner.stored(id);
        assert!(!stored.is_integer(), "a constant of integers");
        match (self.packed(id, LayoutTag::RowMajor), &stored.geometry) {
            (None, Some(geometry)) => {
                let mut values = vec![0.0; geometry.packed_len(LayoutTag::RowMajor)];
                self.inner.convert(stored, geometry, LayoutTag::RowMajor, &mut values);
                Cow::Owned(values)
            }
            (view, _) => Cow::Borrowed(view.unwrap_or_default()),
        }
    }

    /// An i8 constant's data in row-major order, unpacked from what the file stores.
    ///
    /// # Panics
    /// If the constant is not i8.
    pub fn row_major_i8(&self, id: ConstId) -> Cow<'_, [i8]> {
        let stored = self.inner.stored(id);
        assert_eq!(stored.dtype, WeightDtype::I8, "type of the constant");
        let values = self.inner.view(&stored.range);
        match &stored.geometry {
            Some(geometry) if stored.layout != LayoutTag::RowMajor => {
                let mut row_major = vec![0; geometry.packed_len(LayoutTag::RowMajor)];
                unpack(geometry, stored.layout, values, &mut row_major);
                Cow::Owned(row_major)
            }
            _ => Cow::Borrowed(values),
        }
    }

    /// An i32 constant's data in row-major order.
    ///
    /// # Panics
    /// If the constant is not i32.
    pub fn row_major_i32(&self, id: ConstId) -> &[i32] {
        let stored = self.inner.stored(id);
        assert_eq!(stored.dtype, WeightDtype::I32, "type of the constant");
        self.inner.view(&stored.range)
    }

    /// A constant's data in row-major order.
    pub fn data(&self, id: ConstId) -> Data {
        match self.inner.stored(id).dtype {
            WeightDtype::F32 | WeightDtype::F16 => self.row_major(id).into_owned().into(),
            WeightDtype::I8 => self.row_major_i8(id).into_owned().into(),
            WeightDtype::I32 => self.row_major_i32(id).to_vec().into(),
        }
    }

    /// The network as it was packed (in f16, as it was rounded).
    pub fn to_network(&self) -> Network {
        let graph = self.graph().clone();
        let ids = (0..graph.constants.len()).map(|i| ConstId(i as u32));
        let data = ids.map(|id| self.data(id)).collect();
        Network { graph, data }
    }
}

impl Inner {
    fn stored(&self, id: ConstId) -> &StoredConstant {
        &self.contents.constants[id.0 as usize]
    }

    /// The elements at `range`, which is a stored constant's of type `T`.
    ///
    /// # Panics
    /// Never: maps start at a page, and ranges at multiples of 64.
    fn view<T: bytemuck::Pod>(&self, range: &Range<usize>) -> &[T] {
        bytemuck::cast_slice(&self.file[range.clone()])
    }

    /// Says that a constant will hardly be read again, since what runs need is a copy. If it is after all,
    /// the system reads its pages again.
    fn forget(&self, id: ConstId) {
        #[cfg(target_os = "linux")]
        if self.is_mapped {
            let range = &self.stored(id).range;
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: this is a shared map of a file that nobody writes to: dropped pages come back from
            // the file with the bytes they had.
            let _ = unsafe { self.file.unchecked_advise_range(advice, range.start, range.len()) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = id;
    }

    /// Writes weights to `dst` in `layout` as f32.
    fn convert(
        &self,
        stored: &StoredConstant,
        geometry: &ConvGeometry,
        layout: LayoutTag,
        dst: &mut [f32],
    ) {
        let widened = match stored.dtype {
            WeightDtype::I8 | WeightDtype::I32 => unreachable!("integers are not converted"),
            WeightDtype::F32 => Cow::Borrowed(self.view(&stored.range)),
            WeightDtype::F16 => {
                let halves: &[f16] = self.view(&stored.range);
                if stored.layout == layout {
                    return halves.convert_to_f32_slice(dst);
                }
                let mut values = vec![0.0; halves.len()];
                halves.convert_to_f32_slice(&mut values);
                Cow::Owned(values)
            }
        };
        if layout == LayoutTag::RowMajor {
            return unpack(geometry, stored.layout, &widened, dst);
        }
        let row_major = if stored.layout == LayoutTag::RowMajor {
            widened
        } else {
            let mut values = vec![0.0; geometry.packed_len(LayoutTag::RowMajor)];
            unpack(geometry, stored.layout, &widened, &mut values);
            Cow::Owned(values)
        };
        pack(geometry, layout, &row_major, dst);
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.graph().name;
        f.debug_struct("Model").field("name", name).finish_non_exhaustive()
    }
}

/// A constant's values in one layout, 64-byte aligned; keeps them alive by itself.
#[derive(Clone)]
pub struct Weights(Source);

#[derive(Clone)]
enum Source {
    File(Arc<Inner>, Range<usize>),
    Converted(Arc<AlignedBuf>),
}

impl Weights {
    /// Whether the values had to be converted from what the file stores, and so cost memory.
    pub fn is_repacked(&self) -> bool {
        matches!(self.0, Source::Converted(_))
    }
}

impl Deref for Weights {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &self.0 {
            Source::File(inner, range) => inner.view(range),
            Source::Converted(buf) => buf,
        }
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, repacked) = (self.len(), self.is_repacked());
        f.debug_struct("Weights").field("len", &len).field("repacked", &repacked).finish()
    }
}

/// Weights as a file's own halves, 64-byte aligned; keeps them alive by itself.
#[derive(Clone)]
pub struct HalfWeights(Arc<Inner>, Range<usize>);

impl Deref for HalfWeights {
    type Target = [f16];
    fn deref(&self) -> &[f16] {
        self.0.view(&self.1)
    }
}

impl fmt::Debug for HalfWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HalfWeights").field("len", &self.len()).finish()
    }
}

/// Private zeroed memory from a page on, or an error where [`AlignedBuf`] would abort: the length
/// comes from a file.
fn anonymous(len: usize) -> io::Result<MmapMut> {
    let map = MmapMut::map_anon(len)?;
    // Fewer page faults while copying and running; nothing is lost where it is not granted.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}
