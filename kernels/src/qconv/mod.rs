//! `qconv`: int8 convolution, u8 activations by i8 weights, exact.
//!
//! A micro-kernel computes a run of output pixels of one panel of 16 output channels. A panel
//! consists of two *strips* of 8 channels, a strip's weights of *quads*: 4 consecutive input
//! channels (or bytes of an interleaved image's row) for its 8 output channels, `[8 oc][4]`.
//!
//! ```text
//! for each pixel m, and strip s:
//!     acc[0..8] = bias[8s..]                             (first k-chunk; else acc = partial[m][8s..])
//!     for each quad q of the strip:
//!         for o in 0..8, i in 0..4:
//!             acc[o] += src[src_pixels[m] + taps[q] + i] as i32 * weights[(q*8 + o)*4 + i] as i32
//!     partial[m][8s..] = acc                             (not the last k-chunk)
//!     requantize acc to dst[dst_pixels[m]]               (see `requant`)
//! ```
//!
//! As in [`sconv`](crate::sconv), offsets of pixels and taps serve every stride, dilation and
//! padding; padding is a frame of the source's zero point. Each strip has its own table of taps, so
//! its quads may come in any order. Where both strips of a panel have the same, a kernel may load what they
//! read once for both ([`PanelArgs::paired`]).
//!
//! # Groups and their certificate
//! `vpmaddubsw` adds two products in i16 and saturates; adding several of its results in i16
//! before widening saves multiplications. Neither is exact for all operands. So quads come in
//! *groups* of 4, then of 3, of 2, and single ones, and a kernel may add within a group, and per output
//! channel, in two i16: of the bytes 0, 1 and of the bytes 2, 3. A [`Kernel::grouped`] kernel needs
//! the certificate [`fits`] of every group. Sums of i32 are exact in any order, so grouping does not
//! show in results.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(target_arch = "aarch64")]
pub mod neon_dot;
#[cfg(target_arch = "aarch64")]
pub mod neon_i8mm;
pub mod portable;

use crate::isa::Isa;
use crate::layout::{C_BLOCK_U8, OC_PANEL};
use crate::requant::{BeforeAdd, Dst, HALF, Requant, Residual};

/// Consecutive source bytes of a quad.
pub const QUAD: usize = 4;
/// Quads of a pixel's block of channels.
pub const QUADS_PER_BLOCK: usize = C_BLOCK_U8 / QUAD;
/// Weights of a quad: for 8 output channels.
pub const QUAD_LEN: usize = QUAD * HALF;
/// Tallest register tile, in pixels.
pub const MR: usize = 8;
/// Quads per group, in the order of a strip.
pub const GROUPS: [usize; 4] = [4, 3, 2, 1];

/// Whether a group's sums fit i16 for all activations of `0..=max`: of each output channel and each
/// half of the quads, the sum of all positive terms, and that of all negative ones.
///
/// # Panics
/// If `weights` is not whole quads.
pub fn fits(max: u8, weights: &[i8]) -> bool {
    let (quads, []) = weights.as_chunks::<QUAD_LEN>() else { panic!("whole quads") };
    let mut sums = [[0i32; QUAD_LEN / 2]; 2];
    for quad in quads {
        for (lane, pair) in quad.as_chunks::<2>().0.iter().enumerate() {
            for w in pair {
                sums[0][lane] += i32::from(*w).max(0);
                sums[1][lane] -= i32::from(*w).min(0);
            }
        }
    }
    let max = i32::from(max);
    let [positive, negative] = sums.map(|lanes| lanes.into_iter().fold(0, i32::max));
    max * positive <= i32::from(i16::MAX) && max * negative <= -i32::from(i16::MIN)
}

/// One k-chunk of the weights of 8 output channels.
#[derive(Clone, Copy, Debug)]
pub struct Strip {
    /// Quads, `[nb_quads][8 oc][4]`, 32-byte aligned.
    pub weights: *const i8,
    /// Offset of each quad's bytes from a pixel's window; `nb_quads` of them.
    pub taps: *const u32,
    /// Numbers of groups, of the sizes [`GROUPS`].
    pub groups: [usize; 4],
}

impl Strip {
    /// Quads of all groups.
    pub fn nb_quads(&self) -> usize {
        nb_quads(self.groups)
    }
}

/// Quads in these numbers of groups.
pub fn nb_quads(groups: [usize; 4]) -> usize {
    groups.into_iter().zip(GROUPS).map(|(n, size)| n * size).sum()
}

/// Arguments of a micro-kernel. Lengths and strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct PanelArgs {
    /// Source activations.
    pub src: *const u8,
    /// Offset of each pixel's window in `src`; `nb_pixels` of them.
    pub src_pixels: *const u32,
    /// Number of pixels.
    pub nb_pixels: usize,
    /// Weights of both halves of the panel's channels.
    pub strips: [Strip; 2],
    /// Whether the strips have the same taps and numbers of groups.
    pub paired: bool,
    /// The weights that will be used next, to prefetch: start, and length in bytes.
    pub next_weights: (*const i8, usize),
    /// 16 biases.
    pub bias: *const i32,
    /// What becomes of the sums.
    pub requant: Requant,
    /// Offset of each pixel in the destination; `nb_pixels` of them.
    pub dst_pixels: *const u32,
    /// Offset of each pixel in the residual, if there is one; `nb_pixels` of them.
    pub res_pixels: *const u32,
    /// Sums carried between k-chunks, `[nb_pixels][16]`, 32-byte aligned; unused for a single chunk.
    pub partial: *mut i32,
    /// Whether this is the first k-chunk (start from the bias).
    pub first: bool,
    /// Whether this is the last k-chunk (requantize).
    pub last: bool,
}

/// A micro-kernel and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// `"{isa}-{op}-{tile}"`.
    pub name: &'static str,
    /// The tier its instructions need.
    pub isa: Isa,
    /// Whether it adds groups in i16, and so needs the certificate [`fits`] of each. Such a kernel is also faster on
    /// paired strips.
    pub grouped: bool,
    /// The largest activation for which its sums are exact.
    pub max: u8,
    raw: unsafe fn(&PanelArgs),
}

impl Kernel {
    pub(crate) const fn new(
        name: &'static str,
        isa: Isa,
        grouped: bool,
        max: u8,
        raw: unsafe fn(&PanelArgs),
    ) -> Self {
        Self { name, isa, grouped, max, raw }
    }

    /// Runs the kernel on raw addresses.
    ///
    /// # Safety
    /// - `self.isa` is available on this CPU.
    /// - For all pixels `m` and taps `t` of a strip: 4 elements of `src` at `src_pixels[m] + t` are
    ///   readable; the tables, `weights` and `bias` have the lengths their fields document; where `paired` is
    ///   set, the strips are.
    /// - If `last`: for all pixels `m`, what [`portable::store`](crate::requant::portable::store)
    ///   needs at `dst_pixels[m]` and `res_pixels[m]`, for all halves that the destination has.
    /// - `partial` is valid for `nb_pixels * 16` elements unless `first && last`.
    /// - No other thread accesses those elements of the destination and of `partial` during the
    ///   call, or writes what is read.
    ///
    /// Where the certificate is missing, a grouped kernel's sums are wrong, but nothing worse; so are
    /// those of any kernel where an activation exceeds `self.max`.
    #[inline]
    pub unsafe fn run_raw(&self, args: &PanelArgs) {
        // SAFETY: passed on to the caller.
        unsafe { (self.raw)(args) }
    }

    /// Runs the kernel on slices: one k-chunk from bias to result.
    ///
    /// # Panics
    /// If the CPU lacks `self.isa`, an offset leaves its slice, an activation exceeds `self.max`, or the
    /// kernel is grouped and a group does not fit the source's largest element.
    pub fn run(&self, job: PanelJob<'_>) {
        assert!(self.isa.is_available(), "{} needs {}", self.name, self.isa);
        let max = |offsets: &[u32]| offsets.iter().copied().max().unwrap_or(0) as usize;
        let nb_pixels = job.src_pixels.len();
        assert_eq!(nb_pixels, job.dst_pixels.len());
        if nb_pixels == 0 {
            return;
        }
        let largest = job.src.iter().copied().max().unwrap_or(0);
        assert!(largest <= self.max, "{} takes activations up to {}", self.name, self.max);
        for strip in &job.strips {
            let nb_quads = nb_quads(strip.groups);
            assert_eq!((strip.taps.len(), strip.weights.len()), (nb_quads, nb_quads * QUAD_LEN));
            assert!(nb_quads == 0 || strip.weights.as_ptr().addr().is_multiple_of(32));
            assert!(nb_quads == 0 || max(job.src_pixels) + max(strip.taps) + QUAD <= job.src.len());
            let mut groups = strip.groups.into_iter().zip(GROUPS);
            let mut rest = strip.weights;
            let fit = groups.all(|(n, size)| {
                let (these, others) = rest.split_at(n * size * QUAD_LEN);
                rest = others;
                these.chunks(size * QUAD_LEN).all(|group| fits(largest, group))
            });
            assert!(fit || !self.grouped, "a group of {} may overflow", self.name);
        }
        let (requant, res_pixels) =
            requant_over((job.scale, job.before_add), job.residual, job.dst, job.dst_pixels);
        let args = PanelArgs {
            src: job.src.as_ptr(),
            src_pixels: job.src_pixels.as_ptr(),
            nb_pixels,
            paired: job.strips[0].groups == job.strips[1].groups
                && job.strips[0].taps == job.strips[1].taps,
            strips: job.strips.map(|s| Strip {
                weights: s.weights.as_ptr(),
                taps: s.taps.as_ptr(),
                groups: s.groups,
            }),
            next_weights: (job.strips[0].weights.as_ptr(), 0),
            bias: job.bias.as_ptr(),
            requant,
            dst_pixels: job.dst_pixels.as_ptr(),
            res_pixels,
            partial: std::ptr::null_mut(),
            first: true,
            last: true,
        };
        // SAFETY: the assertions above are the contract; `dst` is borrowed uniquely.
        unsafe { self.run_raw(&args) }
    }
}

/// [`Requant`] over slices, and the address of the residual's pixels.
///
/// # Panics
/// If an offset leaves its slice.
pub(crate) fn requant_over(
    (scale, before_add): (&[f32; OC_PANEL], Option<BeforeAdd>),
    residual: Option<(&[u8], &[u32], u8, f32)>,
    dst: JobDst<'_>,
    dst_pixels: &[u32],
) -> (Requant, *const u32) {
    let max = |offsets: &[u32]| offsets.iter().copied().max().unwrap_or(0) as usize;
    let reach = max(dst_pixels) + HALF;
    let dst = match dst {
        JobDst::U8 { dst, zero_point, bounds } => {
            assert!(reach + HALF <= dst.len());
            Dst::U8 { dst: dst.as_mut_ptr(), zero_point, bounds }
        }
        JobDst::F32 { dst, block_stride, nb_blocks, bounds } => {
            assert!((1..=2).contains(&nb_blocks));
            assert!(reach + (nb_blocks - 1) * block_stride <= dst.len());
            Dst::F32 { dst: dst.as_mut_ptr(), block_stride, nb_blocks, bounds }
        }
    };
    let res_pixels = residual.map_or(std::ptr::null(), |(_, pixels, ..)| pixels.as_ptr());
    let residual = residual.map(|(src, pixels, zero_point, scale)| {
        assert_eq!(pixels.len(), dst_pixels.len());
        assert!(max(pixels) + OC_PANEL <= src.len());
        Residual { src: src.as_ptr(), zero_point, scale }
    });
    (Requant { scale: scale.as_ptr(), before_add, residual, dst }, res_pixels)
}

/// [`Strip`] over slices.
#[derive(Clone, Copy, Debug)]
pub struct StripJob<'a> {
    /// See [`Strip::weights`].
    pub weights: &'a [i8],
    /// See [`Strip::taps`].
    pub taps: &'a [u32],
    /// See [`Strip::groups`].
    pub groups: [usize; 4],
}

/// [`Dst`] over slices.
#[derive(Debug)]
pub enum JobDst<'a> {
    /// See [`Dst::U8`].
    U8 {
        /// Activations.
        dst: &'a mut [u8],
        /// What stands for zero.
        zero_point: u8,
        /// Smallest and largest result.
        bounds: [u8; 2],
    },
    /// See [`Dst::F32`].
    F32 {
        /// Activations.
        dst: &'a mut [f32],
        /// Distance of the panel's second block.
        block_stride: usize,
        /// Blocks to write: 1 or 2.
        nb_blocks: usize,
        /// Smallest and largest result.
        bounds: [f32; 2],
    },
}

/// [`PanelArgs`] over slices, for [`Kernel::run`].
#[derive(Debug)]
pub struct PanelJob<'a> {
    /// See [`PanelArgs::src`].
    pub src: &'a [u8],
    /// See [`PanelArgs::src_pixels`].
    pub src_pixels: &'a [u32],
    /// See [`PanelArgs::strips`].
    pub strips: [StripJob<'a>; 2],
    /// See [`PanelArgs::bias`].
    pub bias: &'a [i32; OC_PANEL],
    /// See [`Requant::scale`].
    pub scale: &'a [f32; OC_PANEL],
    /// See [`Requant::before_add`].
    pub before_add: Option<BeforeAdd>,
    /// Residual, its pixel offsets, zero point and scale.
    pub residual: Option<(&'a [u8], &'a [u32], u8, f32)>,
    /// The result.
    pub dst: JobDst<'a>,
    /// See [`PanelArgs::dst_pixels`].
    pub dst_pixels: &'a [u32],
}

/// Splits a run of pixels into as few register tiles of at most `tallest` rows as possible, of equal height or one
/// less: the height, how many tiles have it, and how many one row less.
pub const fn row_tiles(nb_pixels: usize, tallest: usize) -> (usize, usize, usize) {
    let nb_tiles = nb_pixels.div_ceil(tallest);
    if nb_tiles == 0 {
        return (0, 0, 0);
    }
    let rows = nb_pixels.div_ceil(nb_tiles);
    let short = nb_tiles * rows - nb_pixels;
    (rows, nb_tiles - short, short)
}
