//! From the sums of an int8 convolution to its results, whichever algorithm finds the sums.

use skipstone_kernels::layout::OC_PANEL;
use skipstone_kernels::requant::{BeforeAdd, Dst, Requant, Residual};

use super::{Act, Elements, Worker};
use crate::graph::{Clamp, Quantization};

/// What a convolution's sums become.
pub(crate) struct SumsSpec<'a> {
    /// One per output channel, in steps of a sum.
    pub(crate) bias: Option<&'a [i32]>,
    /// Of each output channel, modulo 2^32.
    pub(crate) weight_sums: &'a [i32],
    /// One per output channel.
    pub(crate) weight_scales: &'a [f32],
    pub(crate) clamp: Clamp,
    /// What the sum is rounded to before the residual is added.
    pub(crate) before_add: Option<Quantization>,
    pub(crate) src: Quantization,
    pub(crate) residual: Option<(Act, Quantization)>,
    pub(crate) dst: Act,
    /// The result's; f32 if absent.
    pub(crate) quantization: Option<Quantization>,
}

/// The same, prepared.
pub(crate) struct Sums {
    /// Per output channel of all panels: biases with the source's zero point in them, and what makes
    /// a sum a result.
    bias: Vec<i32>,
    scale: Vec<f32>,
    clamp: Clamp,
    before_add: Option<Quantization>,
    residual: Option<(Act, Quantization)>,
    dst: Act,
    quantization: Option<Quantization>,
}

impl Sums {
    pub(crate) fn new(spec: &SumsSpec<'_>) -> Self {
        let SumsSpec { clamp, before_add, residual, dst, quantization, .. } = *spec;
        assert_eq!(dst.elements == Elements::F32, quantization.is_none());
        assert_eq!(spec.weight_scales.len(), dst.shape.c);
        let zero_point = i32::from(spec.src.zero_point);
        let padded = dst.shape.c.next_multiple_of(OC_PANEL);
        let mut bias = spec.bias.map_or_else(|| vec![0; dst.shape.c], <[i32]>::to_vec);
        for (bias, sum) in bias.iter_mut().zip(spec.weight_sums) {
            *bias = bias.wrapping_sub(sum.wrapping_mul(zero_point));
        }
        bias.resize(padded, 0);
        let result = before_add.or(quantization);
        let factor = |weight_scale: &f32| {
            let factor = spec.src.scale * weight_scale;
            result.map_or(factor, |q| factor / q.scale)
        };
        let mut scale: Vec<f32> = spec.weight_scales.iter().map(factor).collect();
        scale.resize(padded, 0.0);
        Self { bias, scale, clamp, before_add, residual, dst, quantization }
    }

    /// A panel's 16 biases.
    pub(crate) fn bias(&self, panel: usize) -> &[i32] {
        &self.bias[panel * OC_PANEL..][..OC_PANEL]
    }

    /// What becomes of a panel's sums.
    pub(crate) fn requant(&self, worker: &Worker<'_>, panel: usize) -> Requant {
        let steps = |scale: f32| self.quantization.map_or(scale, |q| scale / q.scale);
        let dst = &self.dst;
        Requant {
            scale: self.scale[panel * OC_PANEL..][..OC_PANEL].as_ptr(),
            before_add: self
                .before_add
                .map(|q| BeforeAdd { bounds: q.bounds(Clamp::NONE), scale: steps(q.scale) }),
            residual: self.residual.map(|(act, q)| Residual {
                src: worker.arena_u8(act.base, panel * act.plane_stride()),
                zero_point: q.zero_point,
                scale: steps(q.scale),
            }),
            dst: match self.quantization {
                Some(q) => Dst::U8 {
                    dst: worker.arena_u8(dst.base, panel * dst.plane_stride()),
                    zero_point: q.zero_point,
                    // Integers of 0..=255.
                    bounds: q
                        .bounds(self.clamp)
                        .map(|steps| (steps + f32::from(q.zero_point)) as u8),
                },
                None => Dst::F32 {
                    dst: worker.arena(dst.base + 2 * panel * dst.plane_stride()),
                    block_stride: dst.plane_stride(),
                    nb_blocks: (dst.nb_planes() - 2 * panel).min(2),
                    bounds: [self.clamp.min, self.clamp.max],
                },
            },
        }
    }
}
