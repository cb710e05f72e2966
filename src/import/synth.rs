//! Networks with random weights, for tests and measurements without a download.
//!
//! The same architecture, seed and options give the same bytes on every platform: the generator is
//! integer arithmetic, and everything else is IEEE-754 `+ - * /` and `sqrt`, which every platform
//! rounds alike. No function of a platform's mathematics library is called.
//!
//! Random weights alone would make a poor test: activations explode or vanish with depth, or all
//! images end in the same logits. So the mean and variance of every channel over images are
//! propagated through the graph while its parameters are drawn (as for Gaussian pre-activations),
//! and each batch normalisation gets the statistics that training would have measured, give or
//! take. Inputs are expected with mean 0 and variance 1 per channel.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use super::zoo::Architecture;
use crate::error::{Error, Result};

/// Settings of [`synth`].
#[derive(Clone, Debug, Default)]
pub struct SynthOptions {
    /// Height and width of the input instead of the architecture's.
    pub input_size: Option<[usize; 2]>,
    /// Number of classes instead of the architecture's.
    pub classes: Option<usize>,
}

/// Builds `arch` (a name of [`architectures`](super::zoo::architectures)) with weights drawn from
/// `seed`, as an ONNX model of opset 17: input `input` `[batch, 3, h, w]`, output `logits`
/// `[batch, classes]`.
///
/// # Errors
/// An unknown architecture, no classes, or an input size the network cannot take.
pub fn synth(arch: &str, seed: u64, options: &SynthOptions) -> Result<ModelProto> {
    if options.classes == Some(0) {
        return Err(Error::invalid("a classifier needs at least one class"));
    }
    let arch = Architecture::by_name(arch)?;
    let mut model = arch.blueprint(options.input_size, options.classes)?.model;
    if let Some(graph) = &mut model.graph {
        Filler::new(graph, arch.name, seed).fill(graph);
    }
    Ok(model)
}

/// Writes `model` to `path`, tensor by tensor: no second copy of the weights is made.
///
/// # Errors
/// The file cannot be written.
pub fn write_onnx(model: &ModelProto, path: &Path) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        write_model(model, &mut file)?;
        file.into_inner()?.sync_all()
    };
    write().map_err(|e| Error::io(path, "write", e))
}

fn write_model(model: &ModelProto, out: &mut impl Write) -> std::io::Result<()> {
    // Cloning a tensor shares its raw data.
    let shell = ModelProto { graph: None, ..model.clone() };
    out.write_all(&shell.encode_to_vec())?;
    let Some(graph) = &model.graph else { return Ok(()) };
    write_field_header(out, 7, graph.encoded_len())?;
    let nodes = GraphProto { initializer: vec![], ..graph.clone() };
    out.write_all(&nodes.encode_to_vec())?;
    for tensor in &graph.initializer {
        write_field_header(out, 5, tensor.encoded_len())?;
        let shell = TensorProto { raw_data: Bytes::new(), ..tensor.clone() };
        out.write_all(&shell.encode_to_vec())?;
        if !tensor.raw_data.is_empty() {
            write_field_header(out, 9, tensor.raw_data.len())?;
            out.write_all(&tensor.raw_data)?;
        }
    }
    Ok(())
}

fn write_field_header(out: &mut impl Write, tag: u32, len: usize) -> std::io::Result<()> {
    let mut header = Vec::new();
    encode_key(tag, WireType::LengthDelimited, &mut header);
    encode_varint(len as u64, &mut header);
    out.write_all(&header)
}

/// Deviation of the output of a residual branch, so that a sum of dozens stays of order 1.
const BRANCH_GAIN: f64 = 0.3;
/// Mean before a ReLU, in deviations: the larger it is, the less rounding errors grow with depth.
const SHIFT: f64 = 0.5;
/// Deviation of logits over classes.
const LOGIT_GAIN: f64 = 1.5;
/// Share of the features' mean that the classifier's bias removes: what is left makes classes
/// differ whatever the image, the rest of the logits depends on the image.
const CENTRED: f64 = 0.8;
/// Variance left over images after averaging a channel over all positions.
const GLOBAL_AVERAGE_VARIANCE: f64 = 0.05;
/// Shift and variance of a pool's maximum, in deviations and variances of its input.
const MAX_SHIFT: f64 = 0.8;
const MAX_VARIANCE: f64 = 0.7;
/// `BatchNormalization`'s epsilon.
const EPSILON: f64 = 1e-5;

/// Mean and variance of each channel, over images and positions.
#[derive(Clone)]
struct Moments {
    mean: Vec<f64>,
    variance: Vec<f64>,
}

/// Fills initializers in node order while propagating moments.
struct Filler {
    seed: u64,
    /// Index of each initializer.
    tensors: HashMap<String, usize>,
    moments: HashMap<String, Moments>,
    /// Values that are a residual branch's output.
    branches: HashSet<String>,
    /// Values that a batch normalisation reads.
    normalised: HashSet<String>,
}

impl Filler {
    fn new(graph: &GraphProto, arch: &str, seed: u64) -> Self {
        let first_input = |op: &str| {
            let nodes = graph.node.iter().filter(|n| n.op_type == op);
            nodes.map(|n| n.input[0].clone()).collect()
        };
        let tensors = graph.initializer.iter().enumerate();
        Self {
            seed: seed ^ fnv1a(arch),
            tensors: tensors.map(|(i, t)| (t.name.clone(), i)).collect(),
            moments: HashMap::new(),
            branches: first_input("Add"),
            normalised: first_input("BatchNormalization"),
        }
    }

    fn fill(mut self, graph: &mut GraphProto) {
        let image = Moments { mean: vec![0.0; 3], variance: vec![1.0; 3] };
        self.moments.insert(graph.input[0].name.clone(), image);
        for node in &graph.node {
            if node.op_type == "Constant" {
                continue;
            }
            let x = self.moments[&node.input[0]].clone();
            let y = match node.op_type.as_str() {
                "Conv" | "Gemm" => self.fill_linear(node, &x, &mut graph.initializer),
                "BatchNormalization" => self.fill_batch_norm(node, x, &mut graph.initializer),
                "Relu" => x.relu(),
                "MaxPool" => x.max_pool(),
                "GlobalAveragePool" => {
                    x.map(|mean, variance| (mean, variance * GLOBAL_AVERAGE_VARIANCE))
                }
                "Add" => x.add(&self.moments[&node.input[1]]),
                "Pad" => x.pad(channel_pads(&graph.node, &node.input[1])),
                _ => x,
            };
            self.moments.insert(node.output[0].clone(), y);
        }
    }

    fn fill_batch_norm(
        &self,
        node: &NodeProto,
        x: Moments,
        tensors: &mut [TensorProto],
    ) -> Moments {
        // A shift of every branch would add up along the shortcuts.
        let is_branch = self.branches.contains(&node.output[0]);
        let (gain, shift) = if is_branch { (BRANCH_GAIN, 0.0) } else { (1.0, SHIFT) };
        let mut rngs = [1, 2, 3, 4].map(|i| self.rng(&node.input[i]));
        let mut data = [1, 2, 3, 4].map(|_| Vec::with_capacity(x.mean.len()));
        let y = x.map(|mean, variance| {
            let deviation = variance.sqrt();
            let drawn = [
                gain * rngs[0].uniform(0.7, 1.1),
                gain * (shift + 0.2 * rngs[1].gaussian()),
                mean + 0.1 * deviation * rngs[2].gaussian(),
                variance * rngs[3].uniform(0.8, 1.2),
            ]
            .map(|v| v as f32);
            for (data, v) in data.iter_mut().zip(drawn) {
                data.push(v);
            }
            let [gamma, beta, running_mean, running_var] = drawn.map(f64::from);
            let scale = gamma / (running_var + EPSILON).sqrt();
            (beta + scale * (mean - running_mean), scale * scale * variance)
        });
        for (name, data) in node.input[1..].iter().zip(data) {
            self.set(tensors, name, &data);
        }
        y
    }

    /// Weights and bias of a convolution or a linear layer.
    fn fill_linear(&self, node: &NodeProto, x: &Moments, tensors: &mut [TensorProto]) -> Moments {
        let tensor = &mut tensors[self.tensors[&node.input[1]]];
        let dims: Vec<usize> = tensor.dims.iter().map(|&d| d as usize).collect();
        let (oc, fan_in) = (dims[0], dims[1..].iter().product::<usize>());
        // A linear layer after `Flatten` sees each channel's positions side by side.
        let is_conv = node.op_type == "Conv";
        let groups = if is_conv { x.mean.len() / dims[1] } else { 1 };
        let icg = x.mean.len() / groups;
        let area = fan_in / icg;

        let is_classifier = node.output[0] == "logits";
        let has_bias = node.input.len() > 2;
        // Share of the input's mean that passes.
        let kept = match (is_classifier, has_bias) {
            (true, _) => 1.0 - CENTRED,
            (_, true) => 0.0,
            (_, false) => 1.0,
        };
        let deviation = if self.normalised.contains(&node.output[0]) {
            // He et al., "Delving deep into rectifiers".
            (2.0 / fan_in as f64).sqrt()
        } else {
            let gain = match () {
                () if is_classifier => LOGIT_GAIN,
                () if self.branches.contains(&node.output[0]) => BRANCH_GAIN,
                () => 1.0,
            };
            let power: f64 =
                x.mean.iter().zip(&x.variance).map(|(m, v)| v + kept * kept * m * m).sum();
            gain / (power / groups as f64 * area as f64).sqrt()
        };

        let mut rng = self.rng(&node.input[1]);
        let mut raw = Vec::with_capacity(oc * fan_in * 4);
        let mut y = Moments { mean: Vec::with_capacity(oc), variance: Vec::with_capacity(oc) };
        let mut row = vec![0.0; fan_in];
        for o in 0..oc {
            row.fill_with(|| rng.gaussian() * deviation);
            // A filter without a mean does not see errors that all channels' moments share.
            let excess = row.iter().sum::<f64>() / fan_in as f64;
            let first = o / (oc / groups) * icg;
            let (mut mean, mut variance) = (0.0, 0.0);
            for (i, weights) in (first..).zip(row.chunks_exact(area)) {
                let (mut sum, mut squares) = (0.0, 0.0);
                for w in weights {
                    let w = (w - excess) as f32;
                    raw.extend_from_slice(&w.to_le_bytes());
                    sum += f64::from(w);
                    squares += f64::from(w) * f64::from(w);
                }
                mean += sum * x.mean[i];
                variance += squares * x.variance[i];
            }
            y.mean.push(mean);
            y.variance.push(variance);
        }
        tensor.raw_data = raw.into();

        if has_bias {
            let mut rng = self.rng(&node.input[2]);
            let bias = |mean: f64| ((kept - 1.0) * mean + SHIFT + 0.2 * rng.gaussian()) as f32;
            let bias: Vec<f32> = y.mean.iter().copied().map(bias).collect();
            self.set(tensors, &node.input[2], &bias);
            y.mean.iter_mut().zip(&bias).for_each(|(m, b)| *m += f64::from(*b));
        }
        y
    }

    fn set(&self, tensors: &mut [TensorProto], name: &str, data: &[f32]) {
        let raw: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors[self.tensors[name]].raw_data = raw.into();
    }

    /// Each tensor has its own stream, so that none depends on what was drawn before it.
    fn rng(&self, tensor: &str) -> SplitMix64 {
        SplitMix64(SplitMix64(self.seed).next() ^ fnv1a(tensor))
    }
}

impl Moments {
    fn map(&self, mut f: impl FnMut(f64, f64) -> (f64, f64)) -> Self {
        let (mean, variance) = self.mean.iter().zip(&self.variance).map(|(&m, &v)| f(m, v)).unzip();
        Self { mean, variance }
    }

    /// Of a Gaussian's positive part.
    fn relu(&self) -> Self {
        self.map(|mean, variance| {
            let deviation = variance.sqrt();
            let (density, below) = normal(if deviation > 0.0 { mean / deviation } else { 0.0 });
            let m = mean * below + deviation * density;
            let square = (mean * mean + variance) * below + mean * deviation * density;
            (m, (square - m * m).max(0.0))
        })
    }

    fn max_pool(&self) -> Self {
        self.map(|mean, variance| (mean + MAX_SHIFT * variance.sqrt(), MAX_VARIANCE * variance))
    }

    fn pad(&self, [before, after]: [usize; 2]) -> Self {
        let zeros = |n| vec![0.0; n];
        Self {
            mean: [zeros(before), self.mean.clone(), zeros(after)].concat(),
            variance: [zeros(before), self.variance.clone(), zeros(after)].concat(),
        }
    }

    /// Of a sum of independent operands.
    fn add(&self, other: &Self) -> Self {
        let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect();
        Self { mean: sum(&self.mean, &other.mean), variance: sum(&self.variance, &other.variance) }
    }
}

/// Channels before and after in the `Constant` called `pads`, which has begins and ends of NCHW.
fn channel_pads(nodes: &[NodeProto], pads: &str) -> [usize; 2] {
    let constant = nodes.iter().find(|n| n.output[0] == pads).expect("the zoo emits it");
    let value = constant.attribute[0].t.as_ref().expect("a Constant has a value");
    [1, 5].map(|i| value.int64_data[i] as usize)
}

/// Density of the standard normal distribution at `x`, and the probability below `x`, to about
/// three digits.
fn normal(x: f64) -> (f64, f64) {
    // exp(-x^2/2) as a power, which ten squarings compute.
    let mut power = (1.0 - x * x / 2048.0).max(0.0);
    for _ in 0..10 {
        power *= power;
    }
    let density = 0.398_942_280_401_432_7 * power;
    // Abramowitz and Stegun, 26.2.16.
    let t = 1.0 / (1.0 + 0.33267 * x.abs());
    let above = density * t * (0.436_183_6 + t * (0.937_298 * t - 0.120_167_6));
    (density, if x < 0.0 { above } else { 1.0 - above })
}

/// Steele, Lea and Flood's generator.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 32) as f64 / 4_294_967_296.0
    }

    /// Nearly Gaussian, of mean 0 and variance 1: the sum of four uniform 16-bit numbers.
    fn gaussian(&mut self) -> f64 {
        /// Reciprocal of the sum's deviation, `sqrt((2^32 - 1) / 3)`.
        const SCALE: f64 = 2.642_864_e-5;
        let bits = self.next();
        let sum: u64 = (0..4).map(|i| bits >> (16 * i) & 0xffff).sum();
        (sum as f64 - 131_070.0) * SCALE
    }
}

/// The 64-bit Fowler-Noll-Vo hash of `text`.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaussians_have_unit_moments() {
        const N: usize = 1 << 16;
        let mut rng = SplitMix64(5);
        let values: Vec<f64> = (0..N).map(|_| rng.gaussian()).collect();
        let moment = |p| values.iter().map(|v| v.powi(p)).sum::<f64>() / N as f64;
        assert!(moment(1).abs() < 0.01, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "{}", moment(2));
        assert!(moment(3).abs() < 0.05, "{}", moment(3));
        // 3 for a true Gaussian, 2.7 for a sum of four uniform numbers.
        assert!((moment(4) - 2.7).abs() < 0.1, "{}", moment(4));
    }

    #[test]
    fn normal_distribution_at_known_points() {
        let table = [(0.0, 0.5), (1.0, 0.841_345), (-1.0, 0.158_655), (2.5, 0.993_790)];
        for (x, below) in table {
            let (density, found) = normal(x);
            assert!((found - below).abs() < 1e-3, "{x}: {found}");
            let exact = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            assert!((density - exact).abs() < 1e-3, "{x}: {density}");
        }
        assert_eq!(normal(100.0), (0.0, 1.0));
    }

    #[test]
    fn rectified_moments_match_samples() {
        const N: usize = 1 << 16;
        let mut rng = SplitMix64(6);
        for (mean, deviation) in [(0.0, 1.0), (0.5, 1.0), (-1.0, 2.0)] {
            let sample: Vec<f64> =
                (0..N).map(|_| (mean + deviation * rng.gaussian()).max(0.0)).collect();
            let m = sample.iter().sum::<f64>() / N as f64;
            let v = sample.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / N as f64;
            let x = Moments { mean: vec![mean], variance: vec![deviation * deviation] }.relu();
            assert!((x.mean[0] - m).abs() < 0.02 * deviation, "{} {m}", x.mean[0]);
            assert!((x.variance[0] / v - 1.0).abs() < 0.05, "{} {v}", x.variance[0]);
        }
    }
}
