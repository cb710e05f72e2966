//! What `quantize --measure` notes in a file's metadata of int8 and f32, and `inspect` shows.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use skipstone::Model;
use skipstone::quantize::{Measured, Time, Verdict};
use skipstone::tune::Key;

/// The metadata's key of the result in one line.
pub(crate) const SUMMARY: &str = "int8_vs_f32";
/// And that of the layers' times, in JSON: a map of [`LayerTimes`] by name.
pub(crate) const TIMES: &str = "int8_times";

/// How long a layer takes in f32 and in int8, as a median and the median absolute deviation from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerTimes {
    pub(crate) f32_ms: f64,
    f32_spread_ms: f64,
    /// Absent if it was not measured in int8.
    pub(crate) int8_ms: Option<f64>,
    int8_spread_ms: Option<f64>,
    /// The layer in whose step f32 computes this one too; times are those of both together.
    pub(crate) within: Option<String>,
    verdict: String,
}

impl fmt::Display for LayerTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.within, self.int8_ms) {
            (Some(first), _) => write!(f, "in {first}"),
            (None, Some(int8_ms)) => write!(f, "{:.3} / {int8_ms:.3}", self.f32_ms),
            (None, None) => write!(f, "{:.3} / -", self.f32_ms),
        }
    }
}

/// A measurement.
#[derive(Serialize)]
pub(crate) struct Record {
    /// The result in one line.
    pub(crate) summary: String,
    key: Key,
    /// Of a run, the sum of its layers' medians: in f32, and quantized.
    pub(crate) f32_ms: f64,
    pub(crate) quantized_ms: f64,
    /// Of each layer, in order.
    #[serde(skip)]
    pub(crate) layers: Vec<LayerTimes>,
}

impl Record {
    pub(crate) fn new(measured: &Measured) -> Self {
        let name = |layer: usize| measured.quantized.layers[layer].name.clone();
        let of = |layer: &skipstone::quantize::LayerTimes| LayerTimes {
            f32_ms: millis(layer.f32.ns),
            f32_spread_ms: millis(layer.f32.deviation_ns),
            int8_ms: layer.int8.map(|Time { ns, .. }| millis(ns)),
            int8_spread_ms: layer.int8.map(|Time { deviation_ns, .. }| millis(deviation_ns)),
            within: layer.within.map(name),
            verdict: layer.verdict.name().to_owned(),
        };
        let [f32_ms, quantized_ms] = measured.run_ns.map(millis);
        Self {
            summary: summary(measured),
            key: measured.key.clone(),
            f32_ms,
            quantized_ms,
            layers: measured.layers.iter().map(of).collect(),
        }
    }
}

impl LayerTimes {
    /// By name, as a file notes them; none where it does not, or not in this form.
    pub(crate) fn noted(model: &Model) -> BTreeMap<String, Self> {
        let noted = model.metadata().get(TIMES).and_then(|text| serde_json::from_str(text).ok());
        noted.unwrap_or_default()
    }

    pub(crate) fn is(&self, verdict: Verdict) -> bool {
        self.verdict == verdict.name()
    }

    /// Int8's part of the time in f32; none for a layer within another.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.int8_ms.filter(|_| self.within.is_none()).map(|int8| int8 / self.f32_ms)
    }
}

/// The result in one line.
fn summary(measured: &Measured) -> String {
    let named = |verdict: Verdict| -> Vec<&str> {
        let layers = measured.quantized.layers.iter().zip(&measured.layers);
        layers.filter(|(_, l)| l.verdict == verdict).map(|(l, _)| l.name.as_str()).collect()
    };
    let nb_measured = measured.layers.len() - named(Verdict::NoChoice).len();
    let nb_int8 = named(Verdict::Int8).len();
    let mut text =
        format!("{nb_int8} of {nb_measured} layers no slower than in f32 ({})", measured.key);
    let others = [
        ("in f32", Verdict::Slower),
        ("slower, but conversions to f32 cost more", Verdict::KeptByConversions),
    ];
    for (what, names) in others.map(|(what, verdict)| (what, named(verdict))) {
        if !names.is_empty() {
            text += &format!("; {what}: {}", names.join(", "));
        }
    }
    text
}

/// Nanoseconds in milliseconds.
fn millis(ns: u64) -> f64 {
    ns as f64 / 1e6
}
