//! From a network in f32 to one in int8: calibration, choice of ranges, quantized weights.
//!
//! 1. [`Calibration`] runs images through the network and keeps a histogram of every value, and the
//!    mean of every channel.
//! 2. [`quantize`] decides which values are stored in u8 (all between the first convolution and the
//!    logits: operands of int8 nodes, and what only moves on to them), chooses each one's range, and
//!    quantizes weights, symmetric and per output channel. Values that a maximum or a movement passes
//!    on share one range.
//! 3. The mean error that rounded weights cause in each output channel is taken back by the bias
//!    (M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019).
//!
//! [`quantize_measured`] then runs both networks and leaves in f32 what int8 makes slower on this machine.
//!
//! ```no_run
//! use skipstone::quantize::{Calibration, Options, quantize};
//! use skipstone::{Model, Runtime, format};
//!
//! let model = Model::open("resnet50.skip")?;
//! let network = model.to_network();
//! let mut calibration = Calibration::new(&Runtime::builder().build()?, &network)?;
//! # let images: Vec<Vec<f32>> = Vec::new();
//! for image in &images {
//!     calibration.observe(&[image])?;
//! }
//! let quantized = quantize(&network, &calibration, &Options::default())?;
//! format::write(&quantized.network, model.pack_options(), "resnet50.int8.skip".as_ref())?;
//! # Ok::<(), skipstone::Error>(())
//! ```

mod calibrate;
mod histogram;
mod measure;
mod values;
mod weights;

pub use calibrate::Calibration;
pub use histogram::Method;
pub use measure::{LayerTimes, Measured, Measurement, Time, Verdict, quantize_measured};

use crate::error::{Error, Result};
use crate::graph::{Network, Op, Quantization};

/// Signal over noise, in dB, below which a layer is better left in float: 3 % of noise.
pub const LEAST_DECIBELS: f64 = 15.0;

/// Settings of [`quantize`].
#[derive(Clone, Debug)]
pub struct Options {
    /// How ranges are chosen.
    pub method: Method,
    /// The largest integer of an activation: 127, which AVX2 multiplies fastest, or 255.
    pub max: u8,
    /// Names of convolutions and linear layers that stay in float.
    pub exclude: Vec<String>,
    /// Whether biases take back the mean error of rounded weights.
    pub correct_biases: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { method: Method::default(), max: 127, exclude: Vec::new(), correct_biases: true }
    }
}

/// A quantized network, and what is known of it.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The network.
    pub network: Network,
    /// Its convolutions and linear layers, in execution order.
    pub layers: Vec<Layer>,
}

/// A convolution or linear layer of a quantized network.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The node's name.
    pub name: String,
    /// Whether it computes in int8.
    pub is_int8: bool,
    /// Its input's quantization, if it is stored in 8 bits.
    pub input: Option<Quantization>,
    /// Signal over the noise that rounding and clipping the input cause, in dB.
    pub input_decibels: f64,
    /// Signal over the noise that rounding the weights causes, in dB.
    pub weights_decibels: f64,
}

impl Layer {
    /// Signal over noise of what the layer multiplies, both noises together, in dB.
    pub fn decibels(&self) -> f64 {
        let noise = |decibels: f64| 10f64.powf(-decibels / 10.0);
        -10.0 * (noise(self.input_decibels) + noise(self.weights_decibels)).log10()
    }

    /// Whether it loses so much that it is better left in float.
    pub fn should_stay_in_float(&self) -> bool {
        self.is_int8 && self.decibels() < LEAST_DECIBELS
    }
}

/// Signal over noise in dB; noise-free is 200.
fn decibels(signal: f64, noise: f64) -> f64 {
    (10.0 * (signal / noise.max(signal * 1e-20)).log10()).clamp(-200.0, 200.0)
}

/// Quantizes a network that `calibration` has observed.
///
/// # Errors
/// No image was observed; an excluded layer that does not exist; a percentile or largest integer out of
/// range; names the node.
pub fn quantize(
    network: &Network,
    calibration: &Calibration,
    options: &Options,
) -> Result<Quantized> {
    check(network, calibration, options)?;
    let graph = &network.graph;
    let is_int8: Vec<bool> = graph
        .nodes
        .iter()
        .map(|node| {
            let has_weights = matches!(node.op, Op::Conv(_) | Op::Linear(_));
            has_weights && !options.exclude.contains(&node.name) && weights::sums_fit(network, node)
        })
        .collect();
    let ranges = values::quantizations(graph, &is_int8, calibration, options);
    let mut quantized = network.clone();
    let mut layers = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        if !matches!(node.op, Op::Conv(_) | Op::Linear(_)) {
            continue;
        }
        let observed = calibration.of(node.inputs[0]);
        let input = ranges[node.inputs[0].0 as usize];
        let mut layer = Layer {
            name: node.name.clone(),
            is_int8: is_int8[i],
            input,
            input_decibels: input.map_or(200.0, |q| {
                decibels(observed.histogram.power(), observed.histogram.noise(&q))
            }),
            weights_decibels: 200.0,
        };
        if let Some(input) = input.filter(|_| is_int8[i]) {
            let means = options.correct_biases.then(|| observed.means());
            layer.weights_decibels = weights::quantize(&mut quantized, i, &input, means.as_deref());
        }
        layers.push(layer);
    }
    quantized.graph.quantization = ranges;
    quantized.graph.complete_quantization();
    weights::drop_unused(&mut quantized);
    quantized.graph.validate()?;
    Ok(Quantized { network: quantized, layers })
}

fn check(network: &Network, calibration: &Calibration, options: &Options) -> Result<()> {
    if calibration.nb_images() == 0 {
        return Err(Error::invalid("no image was observed"));
    }
    if options.max == 0 {
        return Err(Error::invalid("the largest integer is 0"));
    }
    if let Method::Percentile(percent) = options.method
        && !(50.0..=100.0).contains(&percent)
    {
        return Err(Error::invalid(format!("the percentile is {percent}, expected 50 to 100")));
    }
    for name in &options.exclude {
        let is_layer = |op: &Op| matches!(op, Op::Conv(_) | Op::Linear(_));
        if !network.graph.nodes.iter().any(|n| n.name == *name && is_layer(&n.op)) {
            return Err(Error::invalid(format!(
                "no convolution or linear layer is called '{name}'"
            )));
        }
    }
    Ok(())
}
