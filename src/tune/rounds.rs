//! Executors that run in turns, and how their times are compared.

use super::TuneOptions;
use crate::error::{Error, Result};
use crate::exec::Executor;

/// What is faster must save at least this part of the time.
const MIN_GAIN: f64 = 0.02;
/// And at least this many standard errors of the median saving.
const MIN_ERRORS: f64 = 3.0;
/// Runs of each executor before times count.
pub(crate) const WARM_UPS: usize = 2;

/// Times of `rounds` runs of each executor, which profile and are of one graph's nodes; `ran` is called
/// after every run, warm-ups included. Executors take turns, one run each per round, so that
/// whatever else happens on the machine happens to all.
///
/// # Errors
/// Fewer than [`TuneOptions::MIN_ROUNDS`]; as [`Executor::run`].
pub(crate) fn in_turns(
    executors: &mut [Executor],
    inputs: &[&[f32]],
    (nb_nodes, rounds): (usize, usize),
    ran: &mut dyn FnMut(),
) -> Result<Times> {
    if rounds < TuneOptions::MIN_ROUNDS {
        let least = TuneOptions::MIN_ROUNDS;
        return Err(Error::invalid(format!("{rounds} rounds, expected at least {least}")));
    }
    let mut times = Times(vec![vec![Vec::new(); nb_nodes + 2]; executors.len()]);
    for round in 0..WARM_UPS + rounds {
        for turn in 0..executors.len() {
            // Another order each time: a run finds the caches as the one before left them.
            let k = (turn + round) % executors.len();
            executors[k].run(inputs)?;
            if round >= WARM_UPS {
                times.add(k, &executors[k]);
            }
            ran();
        }
    }
    Ok(times)
}

/// Nanoseconds by executor, node and round. After the nodes come what takes in the inputs, and what
/// hands out the outputs.
pub(crate) struct Times(pub(crate) Vec<Vec<Vec<f64>>>);

impl Times {
    /// Takes the times of an executor's last run.
    fn add(&mut self, executor: usize, run: &Executor) {
        let nodes = &mut self.0[executor];
        nodes.iter_mut().for_each(|rounds| rounds.push(0.0));
        let nb_nodes = nodes.len() - 2;
        for (step, ns) in run.plan().steps.iter().zip(run.step_times_ns()) {
            let port = if step.op == "Input" { nb_nodes } else { nb_nodes + 1 };
            let rounds = &mut nodes[step.node.unwrap_or(port)];
            if let Some(sum) = rounds.last_mut() {
                *sum += *ns as f64;
            }
        }
    }

    /// The sum of some nodes' times in each round.
    pub(crate) fn of(&self, nodes: &[usize], executor: usize) -> Vec<f64> {
        let mut sums = vec![0.0; self.0[executor][0].len()];
        for node in nodes {
            sums.iter_mut().zip(&self.0[executor][*node]).for_each(|(sum, ns)| *sum += ns);
        }
        sums
    }

    /// The sum of all nodes' medians: what disturbs one node's run does not count.
    pub(crate) fn run_ns(&self, executor: usize) -> u64 {
        self.0[executor].iter().map(|rounds| median(rounds)).sum::<f64>().round() as u64
    }

    /// What some nodes save on the first executor's time by the other, if that is more than noise.
    pub(crate) fn saving(&self, nodes: &[usize], [base, other]: [usize; 2]) -> Option<f64> {
        saving(&self.of(nodes, base), &self.of(nodes, other))
    }

    /// The median of what some nodes save on the first executor's time by the other in the same
    /// rounds, however small.
    pub(crate) fn difference(&self, nodes: &[usize], [base, other]: [usize; 2]) -> f64 {
        median(&differences(&self.of(nodes, base), &self.of(nodes, other)))
    }
}

fn differences(base: &[f64], other: &[f64]) -> Vec<f64> {
    base.iter().zip(other).map(|(b, o)| b - o).collect()
}

/// The median of `base - other` in the same rounds, if it is above [`MIN_GAIN`] and [`MIN_ERRORS`].
fn saving(base: &[f64], other: &[f64]) -> Option<f64> {
    let differences = differences(base, other);
    let middle = median(&differences);
    // For a normal distribution, the deviation is 1.4826 times the median absolute deviation, and
    // the error of the median 1.2533 times the deviation over the root of their number.
    let error = 1.4826 * 1.2533 * deviation(&differences) / (differences.len() as f64).sqrt();
    let margin = (MIN_GAIN * median(base)).max(MIN_ERRORS * error);
    (middle > margin).then_some(middle)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}

/// The median absolute deviation from the median.
pub(crate) fn deviation(values: &[f64]) -> f64 {
    let middle = median(values);
    median(&values.iter().map(|v| (v - middle).abs()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values around `middle`, by a fixed pattern of noise.
    fn times(middle: f64, noise: f64) -> Vec<f64> {
        (0..21).map(|i| middle + noise * ((i * 8 % 21) as f64 / 10.0 - 1.0)).collect()
    }

    #[test]
    fn a_saving_stands_out_from_noise() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let found = saving(&times(100.0, 1.0), &times(90.0, 1.0));
        assert!((found.expect("10 % is clear") - 10.0).abs() < 1e-9);
        assert_eq!(saving(&times(100.0, 0.0), &times(99.0, 0.0)), None, "below the least gain");
        assert_eq!(saving(&times(100.0, 1.0), &times(110.0, 1.0)), None, "slower");
        let mut noisy = times(95.0, 30.0);
        noisy.reverse();
        assert_eq!(saving(&times(100.0, 30.0), &noisy), None, "5 % in noise of 30 %");
        let mut outlier = times(90.0, 1.0);
        outlier[4] = 1e6;
        assert!(saving(&times(100.0, 1.0), &outlier).is_some(), "one interrupted run");
    }
}
