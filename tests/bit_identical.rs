//! A promise: results are the same to the bit for any number of threads, and for an image in any
//! position of any batch.
#![cfg(feature = "import")]

mod common;

use common::{Rng, bits, executor, packed, synth_network};

const ARCHITECTURES: &[&str] =
    &["tiny_resnet", "tiny_vgg", "tiny_preact", "tiny_resnext", "resnet20_cifar"];

#[test]
fn any_number_of_threads() {
    for arch in ARCHITECTURES {
        let model = packed(&synth_network(arch));
        let mut expected = None;
        for threads in [1, 2, 3, 5] {
            let mut executor = executor(&model, threads, 2);
            let input = Rng(3).vec(executor.input_dims(0).iter().product());
            for _ in 0..2 {
                executor.run(&[&input]).expect("runs");
                let found = bits(executor.output(0));
                let expected = expected.get_or_insert_with(|| found.clone());
                assert_eq!(&found, expected, "{arch} on {threads} threads");
            }
        }
    }
}

#[test]
fn any_position_of_a_batch() {
    const BATCH: usize = 8;
    for arch in ARCHITECTURES {
        let model = packed(&synth_network(arch));
        let mut batched = executor(&model, 2, BATCH);
        let mut single = executor(&model, 2, 1);
        let len: usize = single.input_dims(0).iter().product();
        let input = Rng(5).vec(BATCH * len);
        batched.run(&[&input]).expect("runs");
        for (i, image) in input.chunks(len).enumerate() {
            single.run(&[image]).expect("runs");
            let logits = single.output(0);
            let of_batch = &batched.output(0)[i * logits.len()..][..logits.len()];
            assert_eq!(bits(of_batch), bits(logits), "{arch}, image {i} of {BATCH}");
        }
    }
}

/// The whole of ResNet-50: its layers have every division over threads.
#[test]
fn resnet50() {
    let model = packed(&synth_network("resnet50"));
    let mut expected: Option<Vec<u32>> = None;
    // From two images on, its early layers run in slices of the batch.
    for (threads, batch) in [(1, 1), (2, 1), (3, 1), (2, 4)] {
        let mut executor = executor(&model, threads, batch);
        let image = Rng(9).vec(3 * 224 * 224);
        executor.run(&[&image.repeat(batch)]).expect("runs");
        for logits in executor.output(0).chunks(1000) {
            let expected = expected.get_or_insert_with(|| bits(logits));
            assert_eq!(&bits(logits), expected, "{threads} threads, batch {batch}");
        }
    }
}
