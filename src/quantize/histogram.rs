//! The distribution of a value's elements, in bounded memory, and the range that represents it best.

use crate::graph::Quantization;

/// Bins over the whole range.
const BINS: usize = 4096;
/// Ranges that are tried, as parts of the largest one.
const CANDIDATES: usize = 60;
/// Smallest range that is tried, as a part of the largest one.
const SMALLEST: f64 = 0.25;

/// How a range is chosen from what was observed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Method {
    /// All that was observed.
    MinMax,
    /// All but this part of the elements, in percent, e.g. 99.99.
    Percentile(f64),
    /// The range whose quantized distribution has the least Kullback-Leibler divergence from the
    /// observed one, as TensorRT chooses (S. Migacz, 8-bit inference with TensorRT, GTC 2017).
    Entropy,
    /// The range with the least mean square error of rounding and clipping together.
    #[default]
    Mse,
}

/// Counts of elements in equal bins over `-bound..bound`. The bound doubles when an element exceeds
/// it, and bins merge in pairs, so that one pass over the data is enough.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    bound: f64,
    counts: Vec<u64>,
    min: f32,
    max: f32,
    sum_of_squares: f64,
    nb_elements: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            bound: 2f64.powi(-20),
            counts: vec![0; BINS],
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            sum_of_squares: 0.0,
            nb_elements: 0,
        }
    }
}

impl Histogram {
    /// Counts elements; all are finite.
    pub(super) fn add(&mut self, values: &[f32]) {
        let (min, max) =
            values.iter().fold((self.min, self.max), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
        (self.min, self.max) = (min, max);
        let largest = f64::from(min.abs().max(max.abs()));
        while largest >= self.bound {
            self.widen();
        }
        let per_bin = (BINS / 2) as f64 / self.bound;
        for v in values {
            let bin = (f64::from(*v) * per_bin) as i64 + i64::from(*v >= 0.0) - 1;
            let bin = (bin + (BINS / 2) as i64).clamp(0, BINS as i64 - 1);
            self.counts[bin as usize] += 1;
            self.sum_of_squares += f64::from(*v) * f64::from(*v);
        }
        self.nb_elements += values.len() as u64;
    }

    /// Doubles the bound.
    fn widen(&mut self) {
        let merged = self.counts.chunks(2).map(|pair| pair[0] + pair[1]);
        let mut wide = vec![0; BINS];
        wide[BINS / 4..BINS / 4 * 3].iter_mut().zip(merged).for_each(|(w, m)| *w = m);
        self.counts = wide;
        self.bound *= 2.0;
    }

    /// Smallest and largest element, widened to hold zero.
    fn range(&self) -> [f64; 2] {
        [f64::from(self.min.min(0.0)), f64::from(self.max.max(0.0))]
    }

    /// The occupied bins: centre and count.
    fn bins(&self) -> impl Iterator<Item = (f64, f64)> {
        let width = self.bound / (BINS / 2) as f64;
        let all = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        all.map(move |(i, count)| ((i as f64 + 0.5) * width - self.bound, *count as f64))
    }

    /// The quantization with integers up to `max` that `method` chooses.
    pub(super) fn quantization(&self, method: Method, max: u8) -> Quantization {
        let [lo, hi] = self.range();
        let scaled = |part: f64| quantization([lo * part, hi * part], max);
        let candidates = || {
            let step = (1.0 - SMALLEST) / (CANDIDATES - 1) as f64;
            (0..CANDIDATES).map(move |i| 1.0 - i as f64 * step)
        };
        let best = |loss: &dyn Fn(&Quantization) -> f64| {
            let losses = candidates().map(|part| (scaled(part), loss(&scaled(part))));
            losses.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(scaled(1.0), |(q, _)| q)
        };
        match method {
            Method::MinMax => scaled(1.0),
            Method::Percentile(percent) => quantization(self.percentile(percent), max),
            Method::Mse => best(&|q| self.noise(q)),
            Method::Entropy => best(&|q| self.divergence(q)),
        }
    }

    /// What is left without the `100 - percent` of elements furthest from zero.
    fn percentile(&self, percent: f64) -> [f64; 2] {
        let [lo, hi] = self.range();
        let allowed = self.nb_elements as f64 * (1.0 - percent / 100.0);
        let mut distant: Vec<(f64, f64)> = self.bins().map(|(x, n)| (x.abs(), n)).collect();
        distant.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut left_out = 0.0;
        for (distance, count) in distant {
            left_out += count;
            if left_out > allowed {
                return [lo.max(-distance), hi.min(distance)];
            }
        }
        [lo, hi]
    }

    /// Mean square error of storing the elements so.
    pub(super) fn noise(&self, q: &Quantization) -> f64 {
        let error = |(x, n): (f64, f64)| {
            let stored = f64::from(q.dequantize(q.quantize(x as f32)));
            n * (x - stored) * (x - stored)
        };
        self.bins().map(error).sum::<f64>() / self.nb_elements.max(1) as f64
    }

    /// Mean square of the elements.
    pub(super) fn power(&self) -> f64 {
        self.sum_of_squares / self.nb_elements.max(1) as f64
    }

    /// Divergence of the distribution over the integers, spread over the bins of each, from the
    /// observed one with its outliers at the ends. Zeros are left out: any range holds them.
    fn divergence(&self, q: &Quantization) -> f64 {
        let levels = usize::from(q.max) + 1;
        let (mut mass, mut occupied) = (vec![0.0; levels], vec![0.0; levels]);
        let [lo, hi] = [q.dequantize(0), q.dequantize(q.max)].map(f64::from);
        let half = f64::from(q.scale) / 2.0;
        let width = self.bound / (BINS / 2) as f64;
        let bins = || self.bins().filter(|(x, _)| x.abs() > width);
        for (x, n) in bins().filter(|(x, _)| (lo - half..=hi + half).contains(x)) {
            let level = usize::from(q.quantize(x as f32));
            mass[level] += n;
            occupied[level] += 1.0;
        }
        let kept: f64 = mass.iter().sum();
        let total = bins().map(|(_, n)| n).sum::<f64>().max(1.0);
        let mut divergence = 0.0;
        // Outliers are where the nearest integer is, whose share does not know of them.
        let (mut below, mut above) = (0.0, 0.0);
        for (x, n) in bins() {
            if x < lo - half {
                below += n;
            } else if x > hi + half {
                above += n;
            } else {
                let level = usize::from(q.quantize(x as f32));
                let share = mass[level] / occupied[level] / kept;
                divergence += n / total * (n / total / share).ln();
            }
        }
        for (outliers, level) in [(below, 0), (above, levels - 1)] {
            let share = mass[level].max(1.0) / kept;
            divergence += outliers / total * ((outliers / total + share) / share).ln();
        }
        divergence
    }
}

/// The quantization of a range that holds zero.
fn quantization([lo, hi]: [f64; 2], max: u8) -> Quantization {
    let [least, most] = Quantization::SCALES.map(f64::from);
    let levels = f64::from(max);
    let scale = ((hi - lo) / levels).clamp(least.max(1e-20), most);
    let zero_point = (-lo / scale).round().clamp(0.0, levels) as u8;
    Quantization { scale: scale as f32, zero_point, max }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(len: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..len).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn min_max_holds_all_and_zero() {
        let mut histogram = Histogram::default();
        histogram.add(&[0.5, 2.0]);
        histogram.add(&[254.0]);
        let q = histogram.quantization(Method::MinMax, 127);
        assert_eq!(q, Quantization { scale: 2.0, zero_point: 0, max: 127 });
        histogram.add(&[-254.0]);
        let q = histogram.quantization(Method::MinMax, 127);
        assert_eq!(q, Quantization { scale: 4.0, zero_point: 64, max: 127 });
        assert!((histogram.power() - (0.25 + 4.0 + 2.0 * 254.0 * 254.0) / 4.0).abs() < 1e-3);
    }

    #[test]
    fn outliers_are_clipped_by_all_but_min_max() {
        let mut histogram = Histogram::default();
        histogram.add(&normal(100_000));
        histogram.add(&[16.0, -16.0]);
        let width = |method| {
            let q = histogram.quantization(method, 127);
            q.scale * 127.0
        };
        assert!((width(Method::MinMax) - 32.0).abs() < 1e-3);
        for method in [Method::Percentile(99.99), Method::Mse, Method::Entropy] {
            let width = width(method);
            assert!((6.0..20.0).contains(&width), "{method:?} {width}");
        }
        let noise = |method| histogram.noise(&histogram.quantization(method, 127));
        for method in [Method::MinMax, Method::Percentile(99.99), Method::Entropy] {
            assert!(noise(Method::Mse) <= noise(method), "{method:?}");
        }
    }

    #[test]
    fn nothing_observed_is_still_a_quantization() {
        let mut histogram = Histogram::default();
        histogram.add(&[0.0; 10]);
        for method in [Method::MinMax, Method::Percentile(99.0), Method::Mse, Method::Entropy] {
            let q = histogram.quantization(method, 127);
            assert_eq!((q.quantize(0.0), q.zero_point), (0, 0), "{method:?}");
            assert!(q.scale > 0.0);
        }
    }
}
