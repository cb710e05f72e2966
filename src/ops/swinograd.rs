//! Winograd's convolution in f32.

use skipstone_kernels::layout::{C_BLOCK, LayoutTag, OC_PANEL};
use skipstone_kernels::pack::ConvGeometry;
use skipstone_kernels::winograd::{
    FilterArgs, InputArgs, Kernel, MultiplyArgs, OutputArgs, Variant,
};

use super::conv::WeightType;
use super::winograd::{Arithmetic, Filters, Products, filter_stride, filters_len};
use super::{Act, Worker};
use crate::graph::Clamp;
use crate::model::Weights;
use crate::tensor::AlignedBuf;

/// Transforms all filters: from [`LayoutTag::OIhw8i16o`] to what [`Filters::Ready`] holds.
///
/// # Panics
/// If the packed length is not what the geometry says, or the kernel's tier is missing.
pub(crate) fn transform_filters(
    kernel: &Kernel,
    geometry: &ConvGeometry,
    packed: &[f32],
) -> AlignedBuf {
    assert!(kernel.isa.is_available());
    assert_eq!((geometry.kernel(), geometry.groups()), ([3, 3], 1));
    assert_eq!(packed.len(), geometry.packed_len(LayoutTag::OIhw8i16o));
    let (nb_panels, ic_blocks) = (geometry.nb_panels(), geometry.ic().div_ceil(C_BLOCK));
    let mut ready = AlignedBuf::zeroed(filters_len::<f32>(kernel.variant, nb_panels, ic_blocks));
    let panels = packed.chunks_exact(geometry.panel_len(LayoutTag::OIhw8i16o));
    let panel_len = ready.len() / nb_panels;
    for (src, dst) in panels.zip(ready.chunks_exact_mut(panel_len)) {
        let args = FilterArgs {
            src: src.as_ptr(),
            nb_blocks: ic_blocks,
            dst: dst.as_mut_ptr(),
            point_stride: filter_stride::<f32>(ic_blocks),
        };
        // SAFETY: the tier is available; a panel of a single group holds all input channels, and
        // `dst` a panel of points; it is borrowed uniquely.
        unsafe { kernel.transform_filter_raw(&args) };
    }
    ready
}

/// A convolution in f32, of filters in `W`.
pub(crate) struct Swinograd<W: WeightType> {
    pub(crate) kernel: Kernel,
    pub(crate) filters: Filters<Weights, W::Weights>,
    /// One per output channel of all panels.
    pub(crate) bias: AlignedBuf,
    pub(crate) clamp: Clamp,
    pub(crate) residual: Option<Act>,
    pub(crate) dst: Act,
}

// The plan takes kernels from the registry, for an available tier.
impl<W: WeightType> Arithmetic for Swinograd<W> {
    type Pixel = f32;
    type Weight = W;
    type Factor = f32;
    type Sum = f32;

    fn variant(&self) -> Variant {
        self.kernel.variant
    }

    fn filters(&self) -> Filters<&[f32], &[W]> {
        match &self.filters {
            Filters::Ready(u) => Filters::Ready(u),
            Filters::Packed(g) => Filters::Packed(g),
        }
    }

    unsafe fn transform_filter(&self, args: &FilterArgs<W>) {
        // SAFETY: the caller's.
        unsafe { W::transform_filter(&self.kernel, args) }
    }

    unsafe fn transform_input(&self, args: &InputArgs) {
        // SAFETY: the caller's.
        unsafe { self.kernel.transform_input_raw(args) }
    }

    unsafe fn multiply(&self, args: &MultiplyArgs) {
        // SAFETY: the caller's.
        unsafe { self.kernel.multiply_raw(args) }
    }

    unsafe fn transform_output(&self, worker: &Worker<'_>, products: &Products<'_, f32>) {
        let Self { dst, residual, clamp, .. } = self;
        // Blocks of 8 channels before the panel.
        let first = products.panel * OC_PANEL / C_BLOCK;
        let args = OutputArgs {
            src: products.m,
            point_stride: products.point_stride,
            tiles: products.tiles.as_ptr(),
            nb_tiles: products.tiles.len(),
            bias: self.bias[products.panel * OC_PANEL..][..OC_PANEL].as_ptr(),
            dst: worker.arena(dst.base + first * dst.plane_stride()),
            dst_row_stride: dst.row_stride(),
            dst_block_stride: dst.plane_stride(),
            nb_blocks: (dst.nb_planes() - first).min(OC_PANEL / C_BLOCK),
            residual: residual.map_or(std::ptr::null(), |res| {
                worker.arena(res.base + first * res.plane_stride())
            }),
            res_row_stride: residual.map_or(0, |res| res.row_stride()),
            res_block_stride: residual.map_or(0, |res| res.plane_stride()),
            clamp: [clamp.min, clamp.max],
        };
        // SAFETY: the caller's.
        unsafe { self.kernel.transform_output_raw(&args) };
    }
}
