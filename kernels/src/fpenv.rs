//! The floating-point environment of a thread.

/// Treats denormal numbers as zero while it lives, then restores the thread's former setting.
///
/// Denormal operands cost over a hundred cycles each on many CPUs; a network's results do not depend
/// on numbers that small.
#[derive(Debug)]
pub struct FlushDenormals {
    former: u64,
}

impl FlushDenormals {
    /// Sets the thread's flush-to-zero bits.
    pub fn set() -> Self {
        let former = imp::read();
        imp::write(former | imp::FLUSH);
        Self { former }
    }
}

impl Drop for FlushDenormals {
    fn drop(&mut self) {
        imp::write(self.former);
    }
}

#[cfg(target_arch = "x86_64")]
mod imp {
    /// MXCSR: flush-to-zero (15) and denormals-are-zero (6).
    pub(super) const FLUSH: u64 = 1 << 15 | 1 << 6;

    pub(super) fn read() -> u64 {
        let mut mxcsr = 0u32;
        // SAFETY: stores MXCSR to a local.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr, options(nostack)) };
        u64::from(mxcsr)
    }

    pub(super) fn write(value: u64) {
        let mxcsr = value as u32;
        // SAFETY: loads a value that `read` returned, with flush bits set or not: no reserved bit.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod imp {
    /// FPCR: flush-to-zero (24).
    pub(super) const FLUSH: u64 = 1 << 24;

    pub(super) fn read() -> u64 {
        let fpcr: u64;
        // SAFETY: reads a control register.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) fpcr, options(nomem, nostack)) };
        fpcr
    }

    pub(super) fn write(value: u64) {
        // SAFETY: writes a value that `read` returned, with the flush bit set or not.
        unsafe { std::arch::asm!("msr fpcr, {}", in(reg) value, options(nomem, nostack)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod imp {
    pub(super) const FLUSH: u64 = 0;
    pub(super) fn read() -> u64 {
        0
    }
    pub(super) fn write(_: u64) {}
}
