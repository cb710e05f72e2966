//! Winograd's convolution of integers.

use std::sync::Arc;

use skipstone_kernels::pack::ConvGeometry;
use skipstone_kernels::qconv16::pack::{pack, packed_len};
use skipstone_kernels::qwinograd::{FilterArgs, InputArgs, Kernel, MultiplyArgs, OutputArgs};

use skipstone_kernels::winograd::Variant;

use super::qsums::Sums;
use super::winograd::{Arithmetic, Filters, Products};
use super::{Act, Worker};
use crate::tensor::AlignedBuf;

/// Int8 weights of one group, packed for kernels that widen them, and their sums.
pub(crate) struct PackedFilters {
    /// `OIhw8i16o2i`, of i8.
    packed: AlignedBuf,
    /// Of each output channel, modulo 2^32.
    pub(crate) weight_sums: Vec<i32>,
}

impl PackedFilters {
    /// Packs row-major `OIHW` weights of one group.
    pub(crate) fn pack(geometry: &ConvGeometry, oihw: &[i8]) -> Self {
        let (oc, ic, [kh, kw]) = (geometry.oc(), geometry.ic(), geometry.kernel());
        // A panel's block is a multiple of an f32.
        let len = packed_len(oc, ic, kh * kw) / size_of::<f32>();
        let mut packed = AlignedBuf::zeroed(len);
        pack([oc, ic, kh * kw], oihw, bytemuck::cast_slice_mut(&mut packed));
        let sum = |w: &[i8]| w.iter().fold(0i32, |sum, w| sum.wrapping_add(i32::from(*w)));
        Self { packed, weight_sums: oihw.chunks(ic * kh * kw).map(sum).collect() }
    }

    /// The weights, see [`skipstone_kernels::qconv16::pack`].
    pub(crate) fn packed(&self) -> &[i8] {
        bytemuck::cast_slice(&self.packed)
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.packed)
    }
}

/// A convolution of integers, whose certificate the plan has checked.
pub(crate) struct Qwinograd {
    pub(crate) kernel: Kernel,
    pub(crate) filters: Arc<PackedFilters>,
    pub(crate) sums: Sums,
    pub(crate) residual: Option<Act>,
    pub(crate) dst: Act,
}

// The plan takes kernels from the registry, for an available tier.
impl Arithmetic for Qwinograd {
    type Pixel = u8;
    type Weight = i8;
    type Factor = i16;
    type Sum = i32;

    fn variant(&self) -> Variant {
        self.kernel.variant.tile()
    }

    fn filters(&self) -> Filters<&[i16], &[i8]> {
        Filters::Packed(self.filters.packed())
    }

    unsafe fn transform_filter(&self, args: &FilterArgs) {
        // SAFETY: the caller's.
        unsafe { self.kernel.transform_filter_raw(args) }
    }

    unsafe fn transform_input(&self, args: &InputArgs) {
        // SAFETY: the caller's.
        unsafe { self.kernel.transform_input_raw(args) }
    }

    unsafe fn multiply(&self, args: &MultiplyArgs) {
        // SAFETY: the caller's.
        unsafe { self.kernel.multiply_raw(args) }
    }

    unsafe fn transform_output(&self, worker: &Worker<'_>, products: &Products<'_, i32>) {
        let args = OutputArgs {
            src: products.m,
            point_stride: products.point_stride,
            tiles: products.tiles.as_ptr(),
            nb_tiles: products.tiles.len(),
            bias: self.sums.bias(products.panel).as_ptr(),
            requant: self.sums.requant(worker, products.panel),
            dst_row_stride: self.dst.row_stride(),
            res_row_stride: self.residual.map_or(0, |res| res.row_stride()),
        };
        // SAFETY: the caller's.
        unsafe { self.kernel.transform_output_raw(&args) };
    }
}
