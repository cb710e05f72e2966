//! Arrays made element by element inside micro-kernels.
//!
//! The functions of `std` of these names may be compiled out of line, depending on the codegen units and LTO of
//! whoever builds the program; their closures, which carry the tier's instructions, then become calls in
//! the inner loop. These are always inlined.

use std::mem::MaybeUninit;

/// [`std::array::from_fn`].
#[inline(always)]
pub(crate) fn from_fn<T: Copy, const N: usize>(f: impl Fn(usize) -> T) -> [T; N] {
    let mut array = MaybeUninit::<[T; N]>::uninit();
    let first = array.as_mut_ptr().cast::<T>();
    let mut i = 0;
    while i < N {
        // SAFETY: `i` is within the array.
        unsafe { first.add(i).write(f(i)) };
        i += 1;
    }
    // SAFETY: every element has been written.
    unsafe { array.assume_init() }
}

/// `[T; N]::map`.
#[inline(always)]
pub(crate) fn map<T: Copy, U: Copy, const N: usize>(array: [T; N], f: impl Fn(T) -> U) -> [U; N] {
    from_fn(|i| f(array[i]))
}

/// Gives all elements to `take`, each with its place.
#[inline(always)]
pub(crate) fn each<T: Copy, const N: usize>(array: [T; N], take: impl Fn(usize, T)) {
    let mut i = 0;
    while i < N {
        take(i, array[i]);
        i += 1;
    }
}
