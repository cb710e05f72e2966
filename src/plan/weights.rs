//! Packed weights as a plan holds them.

use std::ops::Deref;
use std::ptr::NonNull;

use skipstone_kernels::layout::LayoutTag;
use skipstone_kernels::pack::{ConvGeometry, pack};

use crate::graph::ConstId;
use crate::model::Model;
use crate::tensor::AlignedBuf;

/// A convolution's weights in the layout its kernel reads, 64-byte aligned.
pub(crate) struct Weights {
    data: NonNull<[f32]>,
    /// What keeps `data` alive.
    _owner: Owner,
    repacked: bool,
}

enum Owner {
    Model { _model: Model },
    Own { _buffer: AlignedBuf },
}

// SAFETY: the data are immutable and owned, like `Arc<[f32]>`.
unsafe impl Send for Weights {}
// SAFETY: as above.
unsafe impl Sync for Weights {}

impl Weights {
    /// The model's own bytes where it stores this layout, else a repacked copy.
    pub(super) fn load(
        model: &Model,
        id: ConstId,
        geometry: &ConvGeometry,
        layout: LayoutTag,
    ) -> Self {
        if let Some(data) = model.packed(id, layout) {
            let owner = Owner::Model { _model: model.clone() };
            return Self { data: NonNull::from(data), _owner: owner, repacked: false };
        }
        let mut buffer = AlignedBuf::zeroed(geometry.packed_len(layout));
        pack(geometry, layout, &model.row_major(id), &mut buffer);
        let data = NonNull::from(&*buffer);
        Self { data, _owner: Owner::Own { _buffer: buffer }, repacked: true }
    }

    /// Bytes of memory beside the model's.
    pub(super) fn repacked_bytes(&self) -> usize {
        if self.repacked { size_of_val(&**self) } else { 0 }
    }
}

impl Deref for Weights {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `_owner` keeps the data alive and unchanged: a clone of the model, or the buffer,
        // whose heap memory does not move.
        unsafe { self.data.as_ref() }
    }
}
