//! The few vector operations that the transforms are made of. All arithmetic wraps.

use wide::{i16x8, i32x8};

use crate::requant::{self, Requant};

/// Lanes of 16 bits: inputs and filters.
///
/// # Safety
/// All methods need the tier of the implementing type on the running CPU, and are to be inlined
/// into a function that enables it. Memory accesses need no alignment unless said.
pub(super) trait Words: Copy {
    /// Channels per vector: divides 16.
    const LANES: usize;

    /// Loads [`Self::LANES`] activations.
    unsafe fn load_u8(p: *const u8) -> Self;
    /// Loads [`Self::LANES`] weights.
    unsafe fn load_i8(p: *const i8) -> Self;
    /// Stores to an address aligned to the vector.
    unsafe fn store(self, p: *mut i16);
    /// `self + b`.
    unsafe fn add(self, b: Self) -> Self;
    /// `self - b`.
    unsafe fn sub(self, b: Self) -> Self;
    /// `2^N * self`.
    unsafe fn shl<const N: i32>(self) -> Self;
    /// `k * self`.
    unsafe fn times(self, k: i16) -> Self;
}

/// Lanes of 32 bits, sums of products: 8 output channels, half a panel.
///
/// # Safety
/// As [`Words`].
pub(super) trait Longs: Copy {
    /// Loads from any address.
    unsafe fn load(p: *const i32) -> Self;
    /// All lanes `x`.
    unsafe fn splat(x: i32) -> Self;
    /// `self + b`.
    unsafe fn add(self, b: Self) -> Self;
    /// `self - b`.
    unsafe fn sub(self, b: Self) -> Self;
    /// `self * b`.
    unsafe fn mul(self, b: Self) -> Self;
    /// `2^N * self`.
    unsafe fn shl<const N: i32>(self) -> Self;
    /// `self / 2^N`, rounded down.
    unsafe fn sra<const N: i32>(self) -> Self;
    /// Requantizes the sums of channels `8*half..8*half + 8` of `N` pixels.
    ///
    /// # Safety
    /// As [`store`](crate::requant::portable::store) for each pixel.
    unsafe fn requantize<const N: usize>(
        sums: [Self; N],
        requant: &Requant,
        half: usize,
        dst_pixels: [usize; N],
        res_pixels: [usize; N],
    );
}

impl Words for i16x8 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self {
        // SAFETY: the caller's.
        let bytes = unsafe { p.cast::<[u8; 8]>().read() };
        Self::from(bytes.map(i16::from))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        // SAFETY: the caller's.
        let bytes = unsafe { p.cast::<[i8; 8]>().read() };
        Self::from(bytes.map(i16::from))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i16) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[i16; 8]>().write(self.to_array()) }
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
    unsafe fn shl<const N: i32>(self) -> Self {
        self << N
    }
    #[inline(always)]
    unsafe fn times(self, k: i16) -> Self {
        self * Self::splat(k)
    }
}

impl Longs for i32x8 {
    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        // SAFETY: the caller's.
        Self::from(unsafe { p.cast::<[i32; 8]>().read() })
    }
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
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
    unsafe fn shl<const N: i32>(self) -> Self {
        self << N
    }
    #[inline(always)]
    unsafe fn sra<const N: i32>(self) -> Self {
        self >> N
    }
    #[inline(always)]
    unsafe fn requantize<const N: usize>(
        sums: [Self; N],
        requant: &Requant,
        half: usize,
        dst_pixels: [usize; N],
        res_pixels: [usize; N],
    ) {
        for ((sums, dst), res) in sums.into_iter().zip(dst_pixels).zip(res_pixels) {
            // SAFETY: the caller's.
            unsafe { requant::portable::store(requant, sums.to_array(), half, dst, res) }
        }
    }
}

/// 256 bits on AVX2.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::*;

    use super::{Longs, Words};
    use crate::arrays::map;
    use crate::requant::{self, Requant};

    /// 16 lanes of 16 bits.
    #[derive(Clone, Copy)]
    pub(in super::super) struct I16x16(__m256i);

    /// 8 lanes of 32 bits.
    #[derive(Clone, Copy)]
    pub(in super::super) struct I32x8(__m256i);

    // SAFETY (all blocks): the trait's contract: the tier is present; addresses are the caller's.
    impl Words for I16x16 {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn load_u8(p: *const u8) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()))) }
        }
        #[inline(always)]
        unsafe fn load_i8(p: *const i8) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast()))) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut i16) {
            // SAFETY: see above.
            unsafe { _mm256_store_si256(p.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_add_epi16(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_sub_epi16(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn shl<const N: i32>(self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_slli_epi16::<N>(self.0)) }
        }
        #[inline(always)]
        unsafe fn times(self, k: i16) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_mullo_epi16(self.0, _mm256_set1_epi16(k))) }
        }
    }

    // SAFETY (all blocks): the trait's contract: the tier is present; addresses are the caller's.
    impl Longs for I32x8 {
        #[inline(always)]
        unsafe fn load(p: *const i32) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn splat(x: i32) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_set1_epi32(x)) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_add_epi32(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_sub_epi32(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_mullo_epi32(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn shl<const N: i32>(self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_slli_epi32::<N>(self.0)) }
        }
        #[inline(always)]
        unsafe fn sra<const N: i32>(self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_srai_epi32::<N>(self.0)) }
        }
        #[inline(always)]
        unsafe fn requantize<const N: usize>(
            sums: [Self; N],
            requant: &Requant,
            half: usize,
            dst_pixels: [usize; N],
            res_pixels: [usize; N],
        ) {
            // SAFETY: see above.
            unsafe {
                let sums = map(sums, |s| s.0);
                requant::avx2::store_by_call(requant, &sums, half, &dst_pixels, &res_pixels);
            }
        }
    }
}

/// 128 bits on NEON.
#[cfg(target_arch = "aarch64")]
pub(super) mod neon {
    use std::arch::aarch64::*;

    use super::{Longs, Words};
    use crate::arrays::map;
    use crate::requant::{self, Requant};

    /// 8 lanes of 32 bits.
    #[derive(Clone, Copy)]
    pub(in super::super) struct I32x8([int32x4_t; 2]);

    // SAFETY (all blocks): NEON is the target's baseline; addresses are the caller's.
    impl Words for int16x8_t {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn load_u8(p: *const u8) -> Self {
            // SAFETY: see above.
            unsafe { vreinterpretq_s16_u16(vmovl_u8(vld1_u8(p))) }
        }
        #[inline(always)]
        unsafe fn load_i8(p: *const i8) -> Self {
            // SAFETY: see above.
            unsafe { vmovl_s8(vld1_s8(p)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut i16) {
            // SAFETY: see above.
            unsafe { vst1q_s16(p, self) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { vaddq_s16(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { vsubq_s16(self, b) }
        }
        #[inline(always)]
        unsafe fn shl<const N: i32>(self) -> Self {
            // SAFETY: see above.
            unsafe { vshlq_n_s16::<N>(self) }
        }
        #[inline(always)]
        unsafe fn times(self, k: i16) -> Self {
            // SAFETY: see above.
            unsafe { vmulq_n_s16(self, k) }
        }
    }

    // SAFETY (all blocks): as above.
    impl Longs for I32x8 {
        #[inline(always)]
        unsafe fn load(p: *const i32) -> Self {
            // SAFETY: see above.
            unsafe { Self([vld1q_s32(p), vld1q_s32(p.add(4))]) }
        }
        #[inline(always)]
        unsafe fn splat(x: i32) -> Self {
            // SAFETY: see above.
            unsafe { Self([vdupq_n_s32(x); 2]) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self([vaddq_s32(self.0[0], b.0[0]), vaddq_s32(self.0[1], b.0[1])]) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self([vsubq_s32(self.0[0], b.0[0]), vsubq_s32(self.0[1], b.0[1])]) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self([vmulq_s32(self.0[0], b.0[0]), vmulq_s32(self.0[1], b.0[1])]) }
        }
        #[inline(always)]
        unsafe fn shl<const N: i32>(self) -> Self {
            // SAFETY: see above.
            unsafe { Self(map(self.0, |v| vshlq_n_s32::<N>(v))) }
        }
        #[inline(always)]
        unsafe fn sra<const N: i32>(self) -> Self {
            // SAFETY: see above.
            unsafe { Self(map(self.0, |v| vshrq_n_s32::<N>(v))) }
        }
        #[inline(always)]
        unsafe fn requantize<const N: usize>(
            sums: [Self; N],
            requant: &Requant,
            half: usize,
            dst_pixels: [usize; N],
            res_pixels: [usize; N],
        ) {
            let sums = map(sums, |s| s.0);
            // SAFETY: see above.
            unsafe { requant::neon::store(requant, &sums, half, &dst_pixels, &res_pixels) }
        }
    }
}
