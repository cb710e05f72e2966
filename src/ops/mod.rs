//! Drivers: the loop nests around the micro-kernels. Each file is one kind of [`Step`].
//!
//! A step is made when a plan is built; all addresses are fixed then, as offsets into the executor's
//! arena. At run time every member of the team calls [`Step::run`] and does its share, of convolutions also what is left of
//! others' ([`division`]); a barrier separates steps. So within a step no member reads what another writes, and between steps
//! everything is visible.

pub(crate) mod conv;
pub(crate) mod division;
pub(crate) mod eltwise;
pub(crate) mod input;
pub(crate) mod pool;
pub(crate) mod qconv;
pub(crate) mod qconv16;
pub(crate) mod qeltwise;
pub(crate) mod qpool;
pub(crate) mod qsplit;
pub(crate) mod qsums;
pub(crate) mod quads;
pub(crate) mod qwinograd;
pub(crate) mod reorder;
pub(crate) mod softmax;
pub(crate) mod strassen;
pub(crate) mod swinograd;
pub(crate) mod winograd;

use skipstone_kernels::layout::{C_BLOCK, C_BLOCK_U8};

use crate::graph::{Pad, Shape};
use crate::threads::Queue;
use input::Inputs;

/// How an activation lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Layout {
    /// Planes of a block of channels, all channels of a pixel adjacent: `nChw8c` of f32, `nChw16c` of
    /// u8. Absent channels of the last plane stand for zero.
    Blocked,
    /// `NHWC`, channels not padded: images for the stem.
    Interleaved,
}

/// The elements of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Elements {
    /// Real numbers.
    F32,
    /// Quantized ones; the zero point stands for zero.
    U8 { zero_point: u8 },
}

impl Elements {
    /// Bytes of one.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::U8 { .. } => 1,
        }
    }
}

/// Bytes past a row's end that kernels may read of an interleaved image of u8: rows of a window are
/// read in whole quads.
const QUAD_SLACK: usize = 3;

/// An activation in the arena: `batch` images, each with a frame of zeros around its pixels.
///
/// All offsets and strides are in elements of its own, but `base` is in f32 of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Act {
    pub(crate) batch: usize,
    pub(crate) shape: Shape,
    pub(crate) elements: Elements,
    pub(crate) layout: Layout,
    pub(crate) frame: Pad,
    /// Start in the arena.
    pub(crate) base: usize,
}

impl Act {
    /// `images` images of it from `first` on; all of it where it holds no more.
    pub(crate) fn images(&self, first: usize, images: usize) -> Self {
        if self.batch == images {
            return *self;
        }
        let base =
            self.base + first * self.image_stride() * self.elements.size() / size_of::<f32>();
        Self { batch: images, base, ..*self }
    }

    /// Elements per pixel of a plane.
    pub(crate) fn pixel_len(&self) -> usize {
        match (self.layout, self.elements) {
            (Layout::Blocked, Elements::F32) => C_BLOCK,
            (Layout::Blocked, Elements::U8 { .. }) => C_BLOCK_U8,
            (Layout::Interleaved, _) => self.shape.c,
        }
    }

    /// Planes per image.
    pub(crate) fn nb_planes(&self) -> usize {
        match self.layout {
            Layout::Blocked => self.shape.c.div_ceil(self.pixel_len()),
            Layout::Interleaved => 1,
        }
    }

    pub(crate) fn row_stride(&self) -> usize {
        (self.frame.left + self.shape.w + self.frame.right) * self.pixel_len()
    }

    pub(crate) fn plane_stride(&self) -> usize {
        (self.frame.top + self.shape.h + self.frame.bottom) * self.row_stride()
    }

    pub(crate) fn image_stride(&self) -> usize {
        let len = self.nb_planes() * self.plane_stride();
        match (self.layout, self.elements) {
            (Layout::Interleaved, Elements::U8 { .. }) => {
                (len + QUAD_SLACK).next_multiple_of(size_of::<f32>())
            }
            // A pixel of a block is a multiple of an f32.
            _ => len,
        }
    }

    /// Elements in all.
    pub(crate) fn len(&self) -> usize {
        self.batch * self.image_stride()
    }

    /// Its length in the arena, in f32.
    pub(crate) fn arena_len(&self) -> usize {
        self.len() * self.elements.size() / size_of::<f32>()
    }

    /// Offset from `base` of the pixel at row `y` and column `x`, counted from the frame's corner.
    pub(crate) fn framed_pixel(&self, image: usize, plane: usize, y: usize, x: usize) -> usize {
        image * self.image_stride()
            + plane * self.plane_stride()
            + y * self.row_stride()
            + x * self.pixel_len()
    }

    /// Offset from `base` of the image's pixel at row `h` and column `w`.
    pub(crate) fn pixel(&self, image: usize, plane: usize, h: usize, w: usize) -> usize {
        self.framed_pixel(image, plane, self.frame.top + h, self.frame.left + w)
    }

    /// Bytes of the image's elements, frame and absent channels included.
    pub(crate) fn bytes(&self) -> u64 {
        (self.len() * self.elements.size()) as u64
    }
}

/// One member of the team during a run.
pub(crate) struct Worker<'a> {
    pub(crate) member: usize,
    pub(crate) count: usize,
    /// What is left of each member's units of the running step.
    pub(crate) queues: &'a [Queue],
    /// The executor's activations.
    arena: *mut f32,
    arena_len: usize,
    /// This member's scratch memory.
    scratch: *mut f32,
    scratch_len: usize,
    /// The user's inputs, checked against the plan.
    pub(crate) inputs: Inputs<'a>,
}

impl<'a> Worker<'a> {
    /// # Safety
    /// - `arena` is valid for reads and writes of `arena_len` elements during the run, by all
    ///   members, and `scratch` of `scratch_len` elements by this member alone.
    pub(crate) unsafe fn new(
        (member, count): (usize, usize),
        (arena, arena_len): (*mut f32, usize),
        (scratch, scratch_len): (*mut f32, usize),
        inputs: Inputs<'a>,
    ) -> Self {
        let queues = &[];
        Self { member, count, queues, arena, arena_len, scratch, scratch_len, inputs }
    }

    /// This member's share of `0..total`.
    pub(crate) fn share(&self, total: usize) -> std::ops::Range<usize> {
        crate::threads::share(total, self.member, self.count)
    }

    /// This member's share of `len` bytes: whole cache lines, but for the last.
    pub(crate) fn share_lines(&self, len: usize) -> std::ops::Range<usize> {
        const LINE: usize = 64;
        let lines = self.share(len.div_ceil(LINE));
        (lines.start * LINE).min(len)..(lines.end * LINE).min(len)
    }

    /// Address of element `offset`, for kernels on raw pointers; their arguments are checked when
    /// the step is made.
    pub(crate) fn arena(&self, offset: usize) -> *mut f32 {
        debug_assert!(offset <= self.arena_len);
        self.arena.wrapping_add(offset)
    }

    /// Address of byte `offset` from element `base` on; as [`Self::arena`].
    pub(crate) fn arena_u8(&self, base: usize, offset: usize) -> *mut u8 {
        self.arena(base).cast::<u8>().wrapping_add(offset)
    }

    /// This member's scratch memory.
    pub(crate) fn scratch(&self, len: usize) -> *mut f32 {
        assert!(len <= self.scratch_len, "scratch is planned");
        self.scratch
    }

    /// Elements that no member writes during this step.
    ///
    /// # Safety
    /// No member writes them before the next barrier.
    pub(crate) unsafe fn read(&self, offset: usize, len: usize) -> &'a [f32] {
        assert!(offset <= self.arena_len && len <= self.arena_len - offset);
        // SAFETY: in bounds of the arena, which lives through the run; the caller excludes writes.
        unsafe { std::slice::from_raw_parts(self.arena.add(offset), len) }
    }

    /// Elements that this member alone touches during this step.
    ///
    /// # Safety
    /// No other member accesses them before the next barrier, and the slice is the only one to
    /// them while it lives.
    #[allow(clippy::mut_from_ref, reason = "the arena is shared; the caller excludes aliasing")]
    pub(crate) unsafe fn write(&self, offset: usize, len: usize) -> &'a mut [f32] {
        assert!(offset <= self.arena_len && len <= self.arena_len - offset);
        // SAFETY: in bounds of the arena, which lives through the run; the caller excludes aliases.
        unsafe { std::slice::from_raw_parts_mut(self.arena.add(offset), len) }
    }

    /// Bytes of a u8 activation: `len` at byte `offset` from its element `base` on.
    ///
    /// # Safety
    /// As [`Self::read`].
    pub(crate) unsafe fn read_u8(&self, base: usize, offset: usize, len: usize) -> &'a [u8] {
        let first = self.check_bytes(base, offset, len);
        // SAFETY: in bounds of the arena, which lives through the run; the caller excludes writes.
        unsafe { std::slice::from_raw_parts(first, len) }
    }

    /// As [`Self::read_u8`], to write.
    ///
    /// # Safety
    /// As [`Self::write`].
    #[allow(clippy::mut_from_ref, reason = "the arena is shared; the caller excludes aliasing")]
    pub(crate) unsafe fn write_u8(&self, base: usize, offset: usize, len: usize) -> &'a mut [u8] {
        let first = self.check_bytes(base, offset, len);
        // SAFETY: in bounds of the arena, which lives through the run; the caller excludes aliases.
        unsafe { std::slice::from_raw_parts_mut(first, len) }
    }

    /// The address of bytes, once they are found to be in the arena.
    fn check_bytes(&self, base: usize, offset: usize, len: usize) -> *mut u8 {
        let (start, total) = (base * size_of::<f32>() + offset, self.arena_len * size_of::<f32>());
        assert!(start <= total && len <= total - start);
        self.arena.cast::<u8>().wrapping_add(start)
    }
}

/// One executable unit of a plan.
pub(crate) trait Step: Send + Sync {
    /// Does this member's share; of a step that has [`Self::units`], what is left of others' as well.
    ///
    /// # Safety
    /// - The worker's arena has the length that the plan of this step asked for, and its scratch
    ///   [`Self::scratch_len`].
    /// - All members run the same step, with barriers before and after it. At the first, the worker's queues, which
    ///   are all members', held [`Self::units`] of each.
    unsafe fn run(&self, worker: &Worker<'_>);

    /// Units of a member's share that others may take over; see [`division`].
    fn units(&self, _member: usize) -> usize {
        0
    }

    /// Scratch elements each member needs.
    fn scratch_len(&self) -> usize {
        0
    }
}

/// Fills this member's share of an activation's frame with what stands for zero. Whoever writes an
/// activation does it: the arena reuses memory.
///
/// # Safety
/// As [`Step::run`]; `act` is the step's destination, and no other call writes its frame.
pub(crate) unsafe fn zero_frame(worker: &Worker<'_>, act: &Act) {
    let Pad { top, left, bottom, right } = act.frame;
    if act.frame == Pad::default() {
        return;
    }
    let (len, row) = (act.pixel_len(), act.row_stride());
    let zero = |offset: usize, elements: usize| {
        // SAFETY: frame elements belong to one plane, and planes are divided over the members.
        unsafe {
            match act.elements {
                Elements::F32 => worker.write(act.base + offset, elements).fill(0.0),
                Elements::U8 { zero_point } => {
                    worker.write_u8(act.base, offset, elements).fill(zero_point);
                }
            }
        }
    };
    for plane in worker.share(act.batch * act.nb_planes()) {
        let (image, plane) = (plane / act.nb_planes(), plane % act.nb_planes());
        let start = act.framed_pixel(image, plane, 0, 0);
        zero(start, top * row);
        zero(start + (top + act.shape.h) * row, bottom * row);
        for h in 0..act.shape.h {
            let start = start + (top + h) * row;
            zero(start, left * len);
            zero(start + row - right * len, right * len);
        }
    }
}
