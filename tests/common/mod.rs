//! What the integration tests share: seeded data, the reference convolution, tolerances.

#![allow(dead_code, reason = "each test binary uses a part")]

#[cfg(unix)]
pub(crate) mod guarded;
pub(crate) mod metered;
pub(crate) mod quantized;

/// 16 floats on a cache line, so that a buffer of them is aligned as kernels ask of weights.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Line(pub(crate) [f32; 16]);

/// The floats of lines.
pub(crate) fn flat(lines: &[Line]) -> &[f32] {
    // SAFETY: `Line` is 16 floats without padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16) }
}

/// A small deterministic generator (SplitMix64).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `-1.0..1.0`.
    pub(crate) fn f32(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Uniform in `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Of mean 0 and deviation 1, nearly normal.
    pub(crate) fn normal(&mut self) -> f32 {
        // 12 uniforms of variance 1/3 in -1..1 have variance 4.
        (0..12).map(|_| self.f32()).sum::<f32>() / 2.0
    }

    /// `len` values in `-1.0..1.0`.
    pub(crate) fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.f32()).collect()
    }
}

/// Rounding error of a direct sum in f32: `16 u * sum |a||w|` (u = 2^-24), where `magnitude` is the
/// sum of the absolute values of all terms. Holds for any order and with or without FMA, since the
/// errors of a few hundred terms of either sign grow like their square root.
pub(crate) fn direct_tolerance(magnitude: f64) -> f64 {
    16.0 * 2f64.powi(-24) * magnitude + 1e-30
}

/// Largest error of one level of Strassen's algorithm over the largest output of a layer, on data as in a trained
/// network.
pub(crate) fn strassen_tolerance() -> f64 {
    1e-5
}

/// Largest error of F(2x2, 3x3) over the largest output of a layer, on data as in a trained network.
pub(crate) fn winograd_f2_tolerance() -> f64 {
    5e-6
}

/// Largest error of F(4x4, 3x3) over the largest output of a layer, on data as in a trained network.
pub(crate) fn winograd_f4_tolerance() -> f64 {
    5e-5
}

/// Largest error of F(6x6, 3x3) over the largest output of a layer, on data as in a trained network.
pub(crate) fn winograd_f6_tolerance() -> f64 {
    5e-4
}

/// A synthetic network, imported and fused.
#[cfg(feature = "import")]
pub(crate) fn synth_network(arch: &str) -> skipstone::graph::Network {
    use skipstone::import::{ImportOptions, onnx, synth};
    let model = synth::synth(arch, 7, &synth::SynthOptions::default()).expect("known architecture");
    let mut network =
        onnx::network(model, None, &ImportOptions::default()).expect("the network imports");
    skipstone::graph::fuse::fuse(&mut network).expect("the network fuses");
    network
}

/// The network, packed and opened again.
pub(crate) fn packed(network: &skipstone::graph::Network) -> skipstone::Model {
    let bytes = skipstone::format::to_bytes(network, &skipstone::format::PackOptions::default())
        .expect("the network packs");
    skipstone::Model::from_bytes(&bytes).expect("the packed network opens")
}

/// An executor on a runtime of its own.
pub(crate) fn executor(
    model: &skipstone::Model,
    threads: usize,
    batch: usize,
) -> skipstone::Executor {
    let runtime = skipstone::Runtime::builder().threads(threads).build().expect("threads start");
    let options = skipstone::ExecutorOptions { batch, ..Default::default() };
    skipstone::Executor::new(&runtime, model, &options).expect("the model plans")
}

/// Bit patterns, which compare equal only for identical floats.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
