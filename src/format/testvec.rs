//! The self-test vector.

use super::fields::{Encoder, Fields};
use super::{MAX_PORTS, ensure};
use crate::error::{Error, Result};
use crate::graph::Graph;

/// What a network computes for a generated input, so that a machine can check its kernels.
///
/// The input is one image at the network's default size. Its elements, and with several inputs one
/// input after the other, come from SplitMix64 that starts with `seed`: the upper 24 bits `b` of
/// each number make the element `b / 2^23 - 1`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TestVector {
    /// Start of the generator.
    pub seed: u64,
    /// The expected outputs, each with the elements and order of its port.
    pub outputs: Vec<Vec<f32>>,
}

impl TestVector {
    /// The generated inputs of `graph`, dense, in each port's order of axes.
    pub fn inputs(seed: u64, graph: &Graph) -> Vec<Vec<f32>> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let ports = graph.inputs.iter();
        ports.map(|port| (0..port.shape.len()).map(|_| next()).collect()).collect()
    }

    /// Checks that there is one finite value for each element of the graph's outputs.
    pub(super) fn check(&self, graph: &Graph) -> Result<()> {
        let expected = graph.outputs.iter().map(|port| port.shape.len());
        ensure(self.outputs.iter().map(Vec::len).eq(expected), || {
            "the test vector does not have the outputs' sizes".to_owned()
        })?;
        ensure(self.outputs.iter().flatten().all(|v| v.is_finite()), || {
            "the test vector has an infinite or undefined value".to_owned()
        })
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Encoder::default();
        let mut copy = self.clone();
        copy.fields(&mut out, usize::MAX)?;
        Ok(out.0)
    }

    /// Reads or writes the vector; `room` is the number of values that can follow.
    pub(super) fn fields(&mut self, io: &mut impl Fields, room: usize) -> Result<()> {
        io.u64(&mut self.seed)?;
        let mut nb_outputs = self.outputs.len();
        io.size(&mut nb_outputs)?;
        ensure(nb_outputs <= MAX_PORTS, || format!("{nb_outputs} outputs in the test vector"))?;
        io.reserved_to(io.position() + size_of::<u32>())?;
        self.outputs.resize(nb_outputs, Vec::new());
        for output in &mut self.outputs {
            let mut len = output.len();
            io.size(&mut len)?;
            if len > room {
                return Err(Error::format(format!("{len} values in a test vector of {room}")));
            }
            output.resize(len, 0.0);
            output.iter_mut().try_for_each(|v| io.f32(v))?;
        }
        Ok(())
    }
}
