//! Calibration: what a network's values look like on images.

use crate::error::{Error, Result};
use crate::exec::{Executor, ExecutorOptions};
use crate::format::{PackOptions, to_bytes};
use crate::graph::{AxisOrder, Network, Port, Shape, ValueId};
use crate::model::Model;
use crate::plan::Numerics;
use crate::threads::Runtime;

use super::histogram::Histogram;

/// What has been observed of one value.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed {
    pub(super) histogram: Histogram,
    /// Sum of each channel's elements.
    sums: Vec<f64>,
    /// Elements per channel.
    nb_elements: u64,
}

impl Observed {
    /// Mean of each channel.
    pub(super) fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|sum| sum / self.nb_elements.max(1) as f64).collect()
    }

    fn add(&mut self, values: &[f32], shape: Shape) {
        self.histogram.add(values);
        self.sums.resize(shape.c, 0.0);
        let plane = shape.h * shape.w;
        for (sum, plane) in self.sums.iter_mut().zip(values.chunks(plane)) {
            *sum += plane.iter().map(|v| f64::from(*v)).sum::<f64>();
        }
        self.nb_elements += plane as u64;
    }
}

/// Observes all values of a network while it runs; memory does not grow with the number of images.
#[derive(Debug)]
pub struct Calibration {
    executor: Executor,
    shapes: Vec<Shape>,
    observed: Vec<Observed>,
    /// Order of axes of each input.
    axes: Vec<AxisOrder>,
    nb_images: usize,
}

impl Calibration {
    /// Plans `network` so that all its values can be seen.
    ///
    /// # Errors
    /// A network that has 8-bit values already, or cannot be planned.
    pub fn new(runtime: &Runtime, network: &Network) -> Result<Self> {
        if network.graph.is_quantized() {
            return Err(Error::invalid("the network is quantized already"));
        }
        let shapes = network.graph.infer_shapes(&network.graph.input_shapes())?;
        let model = seen_through(network, &shapes)?;
        let options = ExecutorOptions { numerics: Numerics::Strict, ..Default::default() };
        Ok(Self {
            executor: Executor::new(runtime, &model, &options)?,
            observed: vec![Observed::default(); shapes.len()],
            shapes,
            axes: network.graph.inputs.iter().map(|p| p.axes.clone()).collect(),
            nb_images: 0,
        })
    }

    /// Runs one image and adds its values to what is known. `inputs` are as [`Executor::run`] takes
    /// them.
    ///
    /// # Errors
    /// Inputs of the wrong number or length, or values that are infinite or not a number.
    pub fn observe(&mut self, inputs: &[&[f32]]) -> Result<()> {
        self.executor.run(inputs)?;
        for (v, observed) in self.observed.iter_mut().enumerate() {
            let image;
            let values = match v.checked_sub(self.axes.len()) {
                None => {
                    image = channels_first(inputs[v], &self.axes[v], self.shapes[v]);
                    &image
                }
                Some(i) => self.executor.output(i),
            };
            if values.iter().any(|v| !v.is_finite()) {
                return Err(Error::invalid("a value is infinite or not a number"));
            }
            observed.add(values, self.shapes[v]);
        }
        self.nb_images += 1;
        Ok(())
    }

    /// Number of images observed.
    pub fn nb_images(&self) -> usize {
        self.nb_images
    }

    pub(super) fn of(&self, value: ValueId) -> &Observed {
        &self.observed[value.0 as usize]
    }
}

/// The network with each node's value as an output.
pub(super) fn seen_through(network: &Network, shapes: &[Shape]) -> Result<Model> {
    let mut network = network.clone();
    let graph = &mut network.graph;
    let ports = (0..graph.nodes.len()).map(|i| {
        let value = graph.value_of(i);
        let (name, axes) = (graph.nodes[i].name.clone(), AxisOrder::nchw());
        Port { name, value, shape: shapes[value.0 as usize], axes }
    });
    graph.outputs = ports.collect();
    Model::from_bytes(&to_bytes(&network, &PackOptions::default())?)
}

/// An image in the order `C, H, W`.
fn channels_first(image: &[f32], axes: &AxisOrder, shape: Shape) -> Vec<f32> {
    let (c, h, w) = axes.strides(shape);
    let (plane, width) = (shape.h * shape.w, shape.w);
    (0..shape.len()).map(|i| image[i / plane * c + i % plane / width * h + i % width * w]).collect()
}
