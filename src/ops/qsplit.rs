//! Int8 convolution of a source in two parts: what [`qconv`](super::qconv) does beside its own loop nest.
//!
//! ```text
//! all of src, frame included, to low and high in the arena     once, divided over members
//! barrier
//! for each block of MC pixels (of this member's units):
//!     the quads of high that are not zero, to scratch memory
//!     for each panel of 16 output channels (of this member's units):
//!         few quads:  sums start from their products; for each k-chunk: micro-kernel over low
//!         many quads: for each k-chunk: micro-kernel over low, then over high
//! ```
//!
//! Weights are certified for [`LOW_MAX`], which holds both parts.

use skipstone_kernels::layout::OC_PANEL;
use skipstone_kernels::pack::ConvGeometry;
use skipstone_kernels::qconv::{QUADS_PER_BLOCK, nb_quads};
use skipstone_kernels::qsplit::{AddArgs, Excess, Kernel, LOW_MAX, Windows};

use super::conv::{WindowAttrs, tap_table};
use super::quads::{Quads, STRIPS};
use super::{Act, Layout, Step, Worker};

/// The share of a block's quads that are many, as 1 in this: then a second run of the micro-kernel over all
/// takes no longer than the products of those alone.
const MANY: usize = 4;
/// f32 of scratch memory that a found quad takes.
const EXCESS_LEN: usize = size_of::<Excess>() / size_of::<f32>();

/// f32 of the arena that both parts take.
pub(crate) fn shared_len(src: &Act) -> usize {
    2 * src.arena_len()
}

/// A source, and where its parts are in the arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    pub(crate) kernel: Kernel,
    /// `low`, then `high`.
    pub(crate) acts: [Act; 2],
}

impl Parts {
    /// Parts of `src` in [`shared_len`] elements of the arena at `shared`.
    pub(crate) fn new(kernel: Kernel, src: Act, shared: usize) -> Self {
        let at = |base| Act { base, ..src };
        Self { kernel, acts: [at(shared), at(shared + src.arena_len())] }
    }
}

/// Splits a source.
pub(crate) struct SplitStep {
    pub(crate) src: Act,
    pub(crate) parts: Parts,
}

impl Step for SplitStep {
    unsafe fn run(&self, worker: &Worker<'_>) {
        let bytes = worker.share_lines(self.src.len());
        let [low, high] = self.parts.acts;
        // SAFETY: no member writes the source in this step; members have disjoint lines of the parts, of
        // which these are the only slices.
        unsafe {
            let src = worker.read_u8(self.src.base, bytes.start, bytes.len());
            let low = worker.write_u8(low.base, bytes.start, bytes.len());
            let high = worker.write_u8(high.base, bytes.start, bytes.len());
            self.parts.kernel.split(src, low, high);
        }
    }
}

/// What adds the products of `high` where they are few.
pub(crate) struct Excesses {
    parts: Parts,
    /// The offset of each tap from a window's corner.
    taps: Vec<u32>,
    /// `[panel][strip][quad of the window]`: the place of its weights; of zeros for one that was left out.
    places: Vec<u32>,
}

impl Excesses {
    /// # Panics
    /// If a quad of weights was split, which the certificate for [`LOW_MAX`] never needs.
    pub(crate) fn new(
        parts: Parts,
        geometry: &ConvGeometry,
        window: &WindowAttrs,
        quads: &Quads,
    ) -> Self {
        let [low, _] = &parts.acts;
        assert_eq!((geometry.groups(), low.layout), (1, Layout::Blocked));
        let taps = tap_table(low, window, low.nb_planes());
        let nb_sources = taps.len() * QUADS_PER_BLOCK;
        let absent = quads.zero_quad();
        let mut places = vec![absent; geometry.nb_panels() * STRIPS * nb_sources];
        for panel in 0..geometry.nb_panels() {
            for chunk in 0..quads.nb_chunks {
                for (half, strip) in quads.panel(panel, chunk).strips.iter().enumerate() {
                    let places = &mut places[(panel * STRIPS + half) * nb_sources..][..nb_sources];
                    for at in strip.first..strip.first + nb_quads(strip.groups) {
                        let place = &mut places[quads.sources[at] as usize];
                        assert_eq!(*place, absent, "a quad's weights are in one place");
                        *place = at as u32;
                    }
                }
            }
        }
        Self { parts, taps, places }
    }

    /// `low`, and `high` if all of it is to be added as well.
    pub(super) fn sources(&self, all: bool) -> &[Act] {
        &self.parts.acts[..1 + usize::from(all)]
    }

    /// Most quads of a block that are few.
    fn capacity(&self, nb_pixels: usize) -> usize {
        nb_pixels * self.taps.len() * QUADS_PER_BLOCK / MANY
    }

    /// f32 of scratch memory for the quads of a block.
    pub(super) fn scratch_len(&self, nb_pixels: usize) -> usize {
        self.capacity(nb_pixels) * EXCESS_LEN
    }

    /// The quads of a block's windows that are not zero, if they are few.
    ///
    /// # Safety
    /// No member writes the parts in this step; `scratch` is this member's, of
    /// [`Self::scratch_len`] elements, and not used otherwise as long as the result.
    pub(super) unsafe fn find<'s>(
        &self,
        worker: &Worker<'_>,
        pixels: &[u32],
        scratch: *mut f32,
    ) -> Option<&'s [Excess]> {
        let [_, high] = &self.parts.acts;
        let capacity = self.capacity(pixels.len());
        // SAFETY: the caller's; any bytes are an `Excess`, whose alignment is that of f32.
        let (high, found) = unsafe {
            let found = std::slice::from_raw_parts_mut(scratch.cast::<Excess>(), capacity);
            (worker.read_u8(high.base, 0, high.len()), found)
        };
        let nb_found =
            self.parts.kernel.find(&Windows { high, pixels, taps: &self.taps }, found)?;
        Some(&found[..nb_found])
    }

    /// Starts a panel's sums from the bias and the products of what [`Self::find`] found.
    ///
    /// # Safety
    /// `found` is of `nb_pixels` pixels; `partial` is 32-byte aligned scratch memory of this member's for
    /// their sums, and `quads` is what this was made for.
    pub(super) unsafe fn add(
        &self,
        found: &[Excess],
        (quads, panel): (&Quads, usize),
        bias: &[i32],
        (partial, nb_pixels): (*mut i32, usize),
    ) {
        assert_eq!(bias.len(), OC_PANEL);
        let nb_sources = self.taps.len() * QUADS_PER_BLOCK;
        let places = &self.places[panel * STRIPS * nb_sources..][..STRIPS * nb_sources];
        let args = AddArgs {
            found: found.as_ptr(),
            nb_found: found.len(),
            weights: quads.weights().as_ptr(),
            places: [places[..nb_sources].as_ptr(), places[nb_sources..].as_ptr()],
            bias: bias.as_ptr(),
            nb_pixels,
            partial,
        };
        // SAFETY:
        // - The plan took the kernel from the registry for an available tier.
        // - The search numbers pixels of the block and quads of the window, of which each has a place in the
        //   tables; places are of packed quads, or of the zeros behind them.
        // - Scratch memory is this member's.
        unsafe { self.parts.kernel.add_raw(&args) };
    }
}

/// Whether a largest element needs two parts.
pub(crate) const fn exceeds(max: u8) -> bool {
    max > LOW_MAX
}
