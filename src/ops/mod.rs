//! Drivers: the loop nests around the micro-kernels. Each file is one kind of [`Step`].
//!
//! A step is made when a plan is built; all addresses are fixed then, as offsets into the executor's
//! arena. At run time every member of the team calls [`Step::run`] and does its share; a barrier
//! separates steps. So within a step no member reads what another writes, and between steps
//! everything is visible.

pub(crate) mod conv;
pub(crate) mod eltwise;
pub(crate) mod pool;
pub(crate) mod reorder;
pub(crate) mod softmax;
pub(crate) mod winograd;

use skipstone_kernels::layout::C_BLOCK;

use crate::graph::{Pad, Shape};

/// How an activation lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Layout {
    /// `nChw8c`: planes of 8 channels; absent channels of the last plane are zero.
    Blocked,
    /// `NHWC`, channels not padded: images for the stem.
    Interleaved,
}

/// An activation in the arena: `batch` images, each with a frame of zeros around its pixels.
///
/// All offsets and strides are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Act {
    pub(crate) batch: usize,
    pub(crate) shape: Shape,
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
        let base = self.base + first * self.image_stride();
        Self { batch: images, base, ..*self }
    }

    /// Elements per pixel of a plane.
    pub(crate) fn pixel_len(&self) -> usize {
        match self.layout {
            Layout::Blocked => C_BLOCK,
            Layout::Interleaved => self.shape.c,
        }
    }

    /// Planes per image.
    pub(crate) fn nb_planes(&self) -> usize {
        match self.layout {
            Layout::Blocked => self.shape.c.div_ceil(C_BLOCK),
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
        self.nb_planes() * self.plane_stride()
    }

    /// Elements in all.
    pub(crate) fn len(&self) -> usize {
        self.batch * self.image_stride()
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
        (self.len() * size_of::<f32>()) as u64
    }
}

/// One member of the team during a run.
pub(crate) struct Worker<'a> {
    pub(crate) member: usize,
    pub(crate) count: usize,
    /// The executor's activations.
    arena: *mut f32,
    arena_len: usize,
    /// This member's scratch memory.
    scratch: *mut f32,
    scratch_len: usize,
    /// The user's inputs, checked against the plan.
    pub(crate) inputs: &'a [&'a [f32]],
}

impl<'a> Worker<'a> {
    /// # Safety
    /// - `arena` is valid for reads and writes of `arena_len` elements during the run, by all
    ///   members, and `scratch` of `scratch_len` elements by this member alone.
    pub(crate) unsafe fn new(
        (member, count): (usize, usize),
        (arena, arena_len): (*mut f32, usize),
        (scratch, scratch_len): (*mut f32, usize),
        inputs: &'a [&'a [f32]],
    ) -> Self {
        Self { member, count, arena, arena_len, scratch, scratch_len, inputs }
    }

    /// This member's share of `0..total`.
    pub(crate) fn share(&self, total: usize) -> std::ops::Range<usize> {
        crate::threads::share(total, self.member, self.count)
    }

    /// Address of element `offset`, for kernels on raw pointers; their arguments are checked when
    /// the step is made.
    pub(crate) fn arena(&self, offset: usize) -> *mut f32 {
        debug_assert!(offset <= self.arena_len);
        self.arena.wrapping_add(offset)
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
}

/// One executable unit of a plan.
pub(crate) trait Step: Send + Sync {
    /// Does this member's share.
    ///
    /// # Safety
    /// - The worker's arena has the length that the plan of this step asked for, and its scratch
    ///   [`Self::scratch_len`].
    /// - All members run the same step, with barriers before and after it.
    unsafe fn run(&self, worker: &Worker<'_>);

    /// Scratch elements each member needs.
    fn scratch_len(&self) -> usize {
        0
    }
}

/// Zeroes this member's share of an activation's frame. Whoever writes an activation does it: the
/// arena reuses memory.
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
        unsafe { worker.write(act.base + offset, elements) }.fill(0.0);
    };
    for plane in worker.share(act.batch * act.nb_planes()) {
        let start = plane * act.plane_stride();
        zero(start, top * row);
        zero(start + (top + act.shape.h) * row, bottom * row);
        for h in 0..act.shape.h {
            let start = start + (top + h) * row;
            zero(start, left * len);
            zero(start + row - right * len, right * len);
        }
    }
}
