//! What one machine can do at most: AVX2 multiply-accumulates per second and bytes read from memory per second, by all
//! threads together. `rustc -O peak.rs && ./peak THREADS` prints both as JSON; the best of many short tries counts.

use std::arch::x86_64::*;
use std::sync::Barrier;
use std::time::Instant;

const STEPS: usize = 1_000_000;
const CHAINS: usize = 12;
const WORDS: usize = 8 << 20;

/// Independent chains hide the latency of the multiply-accumulate; none of them touches memory.
#[target_feature(enable = "avx2,fma")]
fn multiply_accumulate(seed: f32) -> f32 {
    let factor = _mm256_set1_ps(seed);
    let mut sums = [_mm256_set1_ps(1.0); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(factor, factor, *sum);
        }
    }
    let total = sums.into_iter().fold(_mm256_setzero_ps(), |a, b| _mm256_add_ps(a, b));
    _mm256_cvtss_f32(total)
}

#[target_feature(enable = "avx2")]
fn read(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    for chunk in words.chunks_exact(32) {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum ^= *word;
        }
    }
    sums.iter().fold(0, |a, b| a ^ b)
}

/// Seconds from the moment all threads have started to the last one's end, the least of several tries.
fn best(threads: usize, tries: usize, work: impl Fn(usize) + Sync) -> f64 {
    (0..tries)
        .map(|_| {
            let barrier = Barrier::new(threads);
            let times: Vec<f64> = std::thread::scope(|scope| {
                let run = |index| {
                    let (barrier, work) = (&barrier, &work);
                    move || {
                        barrier.wait();
                        let start = Instant::now();
                        work(index);
                        start.elapsed().as_secs_f64()
                    }
                };
                let handles: Vec<_> = (0..threads).map(|i| scope.spawn(run(i))).collect();
                handles.into_iter().map(|h| h.join().expect("no panic")).collect()
            });
            times.into_iter().fold(0.0, f64::max)
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    let threads: usize = std::env::args().nth(1).and_then(|t| t.parse().ok()).unwrap_or(1);
    assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"), "no AVX2");
    let arithmetic = best(threads, 30, |_| {
        // SAFETY: the features were just detected.
        std::hint::black_box(unsafe { multiply_accumulate(std::hint::black_box(1e-20)) });
    });
    // Each thread reads 64 MiB of its own, more than it has of any cache.
    let memory: Vec<Vec<u64>> = (0..threads).map(|i| vec![i as u64 + 1; WORDS]).collect();
    let reading = best(threads, 8, |i| {
        // SAFETY: as above.
        std::hint::black_box(unsafe { read(std::hint::black_box(&memory[i])) });
    });
    println!(
        "{{\"gmacs_per_s\": {:.2}, \"gbytes_per_s\": {:.2}}}",
        (threads * STEPS * CHAINS * 8) as f64 / arithmetic / 1e9,
        (threads * WORDS * 8) as f64 / reading / 1e9
    );
}
