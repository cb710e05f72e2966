//! The few vector operations that the transforms are made of.

use half::f16;
use wide::f32x4;

/// A vector of [`Self::LANES`] channels.
///
/// # Safety
/// All methods need the tier of the implementing type on the running CPU, and are to be inlined
/// into a function that enables it. Memory accesses need no alignment unless said.
pub(super) trait Vector: Copy {
    /// Channels per vector: divides 8.
    const LANES: usize;

    /// Loads from any address.
    unsafe fn load(p: *const f32) -> Self;
    /// Loads halves from any address, and widens them.
    #[inline(always)]
    unsafe fn load_half(p: *const f16) -> Self {
        let mut wide = [0.0; 8];
        for (i, x) in wide.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: the caller's.
            *x = unsafe { p.add(i).read_unaligned() }.to_f32();
        }
        // SAFETY: the array holds a vector.
        unsafe { Self::load(wide.as_ptr()) }
    }
    /// Stores to any address.
    unsafe fn store(self, p: *mut f32);
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self;
    /// `self + b`.
    unsafe fn add(self, b: Self) -> Self;
    /// `self - b`.
    unsafe fn sub(self, b: Self) -> Self;
    /// `self * b`.
    unsafe fn mul(self, b: Self) -> Self;
    /// `self * b + c`.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// `self * b - c`.
    unsafe fn mul_sub(self, b: Self, c: Self) -> Self;
    /// `c - self * b`.
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self;
    /// `min(max(self, min), max)`; NaN passes through.
    unsafe fn clamp(self, min: Self, max: Self) -> Self;
}

/// An element type that vectors are loaded from.
pub(super) trait Source: Copy {
    /// # Safety
    /// As [`Vector::load`].
    unsafe fn load<V: Vector>(p: *const Self) -> V;
}

impl Source for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load(p) }
    }
}

impl Source for f16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_half(p) }
    }
}

// Half a block: with 4-lane hardware the transforms' twelve live values fit 16 registers.
impl Vector for f32x4 {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's; an array of f32 has its alignment.
        Self::from(unsafe { p.cast::<[f32; 4]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's; an array of f32 has its alignment.
        unsafe { p.cast::<[f32; 4]>().write(self.to_array()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self::splat(x)
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self + b
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self - b
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self * b
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        self * b + c
    }
    #[inline(always)]
    unsafe fn mul_sub(self, b: Self, c: Self) -> Self {
        self * b - c
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        c - self * b
    }
    #[inline(always)]
    unsafe fn clamp(self, min: Self, max: Self) -> Self {
        let v = self.simd_lt(min).select(min, self);
        v.simd_gt(max).select(max, v)
    }
}

/// 8 channels on AVX2 + FMA + F16C.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    // SAFETY (all blocks): the trait's contract: the tier is present; addresses are the caller's.
    impl super::Vector for __m256 {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_half(p: *const super::f16) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm256_storeu_ps(p, self) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_add_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_sub_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn mul_sub(self, b: Self, c: Self) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_fmsub_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: see above.
            unsafe { _mm256_fnmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn clamp(self, min: Self, max: Self) -> Self {
            // SAFETY: see above. The second operand is returned when one is NaN: NaN passes.
            unsafe { _mm256_min_ps(max, _mm256_max_ps(min, self)) }
        }
    }
}

/// 4 channels on NEON.
#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    // SAFETY (all blocks): NEON is the target's baseline; addresses are the caller's.
    impl super::Vector for float32x4_t {
        const LANES: usize = 4;

        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: see above.
            unsafe { vld1q_f32(p) }
        }
        #[inline(always)]
        unsafe fn load_half(p: *const super::f16) -> Self {
            // SAFETY: see above.
            unsafe { crate::sconv::neon::widen(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: see above.
            unsafe { vst1q_f32(p, self) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: see above.
            unsafe { vdupq_n_f32(x) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { vaddq_f32(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { vsubq_f32(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { vmulq_f32(self, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: see above.
            unsafe { vfmaq_f32(c, self, b) }
        }
        #[inline(always)]
        unsafe fn mul_sub(self, b: Self, c: Self) -> Self {
            // SAFETY: see above.
            unsafe { vfmaq_f32(vnegq_f32(c), self, b) }
        }
        #[inline(always)]
        unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: see above.
            unsafe { vfmsq_f32(c, self, b) }
        }
        #[inline(always)]
        unsafe fn clamp(self, min: Self, max: Self) -> Self {
            // SAFETY: see above. NaN passes through both.
            unsafe { vminq_f32(vmaxq_f32(self, min), max) }
        }
    }
}
