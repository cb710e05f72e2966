//! A promise: measured choices change the time and nothing else, and hold exactly where they were
//! measured.
#![cfg(feature = "import")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use common::{Rng, bits, synth_network};
use skipstone::format::{self, PackOptions};
use skipstone::graph::Op;
use skipstone::plan::{Algorithm, Numerics, Reason, StepSummary};
use skipstone::tune::{self, Key, Layer, Table, TableUse, Tables, TuneOptions};
use skipstone::{ErrorKind, Executor, ExecutorOptions, Isa, Model, Runtime};

const ARCH: &str = "tiny_resnet";

fn folder(test: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tune-{test}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a scratch folder");
    path
}

/// A packed network with everything a file can carry.
fn packed_file(test: &str) -> PathBuf {
    let network = synth_network(ARCH);
    let labels = (0..network.graph.outputs[0].shape.len()).map(|i| format!("class {i}"));
    let options = PackOptions {
        labels: Some(labels.collect()),
        metadata: BTreeMap::from([("licence".to_owned(), "none".to_owned())]),
        ..PackOptions::default()
    };
    let path = folder(test).join("model.skip");
    format::write(&network, &options, &path).expect("the network packs");
    path
}

fn runtime(threads: usize) -> Runtime {
    Runtime::builder().threads(threads).build().expect("threads start")
}

fn quick() -> TuneOptions {
    TuneOptions { rounds: TuneOptions::MIN_ROUNDS, ..TuneOptions::default() }
}

fn tuned(model: &Model, runtime: &Runtime, options: &TuneOptions) -> Table {
    tune::tune(model, runtime, options, &mut |_| {}).expect("the network can be tuned").table
}

/// The table's own choices, all replaced by `method`, or the first one of that algorithm, where it
/// was tried.
fn forced(table: &Table, method: &str) -> Table {
    let mut forced = table.clone();
    for Layer { method: chosen, measured, .. } in &mut forced.layers {
        let exact = measured.iter().find(|m| m.method == method);
        let found = exact.or_else(|| measured.iter().find(|m| m.method.starts_with(method)));
        *chosen = found.map_or("direct".to_owned(), |m| m.method.clone());
    }
    forced
}

fn given(table: Table) -> ExecutorOptions {
    ExecutorOptions { tables: Tables::Given(Arc::new(table)), ..ExecutorOptions::default() }
}

fn executor(model: &Model, runtime: &Runtime, options: &ExecutorOptions) -> Executor {
    Executor::new(runtime, model, options).expect("the model plans")
}

fn logits(executor: &mut Executor) -> Vec<u32> {
    let input = Rng(3).vec(executor.input_dims(0).iter().product());
    executor.run(&[&input]).expect("runs");
    bits(executor.output(0))
}

#[test]
fn every_candidate_gives_its_algorithms_bits() {
    let model = common::packed(&synth_network(ARCH));
    // The class that allows every algorithm.
    let numerics = Numerics::Relaxed;
    for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_available()) {
        for threads in [1, 3] {
            let runtime = Runtime::builder().threads(threads).isa(isa).build().expect("starts");
            let table = tuned(&model, &runtime, &TuneOptions { numerics, ..quick() });
            let methods: Vec<_> = table.layers.iter().flat_map(|l| &l.measured).collect();
            assert!(methods.len() > 2 * table.layers.len(), "{methods:?}");
            let mut expected: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
            let mut tried = std::collections::BTreeSet::new();
            for method in methods.iter().map(|m| &m.method).filter(|m| tried.insert(*m)) {
                let options = ExecutorOptions { numerics, ..given(forced(&table, method)) };
                let mut executor = executor(&model, &runtime, &options);
                let choices = executor.plan().steps.iter().filter_map(|s| s.choice.as_ref());
                assert!(choices.into_iter().any(|c| c.method == method), "{method} is not used");
                let algorithm = Algorithm::ALL.into_iter().find(|a| method.starts_with(a.name()));
                let algorithm = algorithm.expect("a method is named after its algorithm").name();
                let found = logits(&mut executor);
                let expected = expected.entry(algorithm).or_insert_with(|| found.clone());
                assert_eq!(&found, expected, "{method}, {isa}, {threads} threads");
            }
            assert_eq!(expected.len(), Algorithm::ALL.len(), "{tried:?}");
        }
    }
}

#[test]
fn int8_layers_are_measured_too_and_any_choice_keeps_their_bits() {
    // u8 ranges, so that groups of quads need splits.
    let model = common::packed(&common::quantized::quantized(&synth_network(ARCH), 255));
    let runtime = runtime(2);
    let strict = TuneOptions { numerics: Numerics::Strict, ..quick() };
    let table = tuned(&model, &runtime, &strict);
    let graph = model.graph();
    let tunable = graph.nodes.iter().filter(|n| matches!(n.op, Op::Conv(_) | Op::Linear(_)));
    assert_eq!(table.layers.len(), tunable.count(), "branches too: int8 has no joined steps");
    let numerics = Numerics::Strict;
    let untuned = ExecutorOptions { numerics, ..ExecutorOptions::default() };
    let mut untuned = executor(&model, &runtime, &untuned);
    let expected = logits(&mut untuned);
    let measured = table.layers.iter().flat_map(|l| &l.measured).map(|m| m.method.as_str());
    let methods: std::collections::BTreeSet<&str> = measured.collect();
    for method in ["direct", "direct-int16", "direct-split", "direct-pixels", "winograd-f4-panels"]
    {
        assert!(methods.contains(method), "{methods:?}");
    }
    for method in methods {
        let options = ExecutorOptions { numerics, ..given(forced(&table, method)) };
        let mut executor = executor(&model, &runtime, &options);
        let mut steps = executor.plan().steps.iter();
        let used = |s: &StepSummary| s.choice.as_ref().is_some_and(|c| c.method == method);
        assert!(steps.any(used), "{method} is not used");
        assert_eq!(logits(&mut executor), expected, "{method}");
    }
}

#[test]
fn a_table_lists_every_convolution_and_choices_among_what_was_measured() {
    let model = common::packed(&synth_network(ARCH));
    let mut calls = 0;
    let runtime = runtime(2);
    let tuned = tune::tune(&model, &runtime, &quick(), &mut |p| {
        calls += 1;
        assert!(p.done <= p.total);
    });
    let tuned = tuned.expect("the network can be tuned");
    assert!(calls > TuneOptions::MIN_ROUNDS);
    let table = &tuned.table;
    assert_eq!(tuned.heuristic.len(), table.layers.len());
    for (layer, heuristic) in table.layers.iter().zip(&tuned.heuristic) {
        assert_eq!(layer.measured[0].method, *heuristic);
        assert!(layer.measured.len() > 1 && layer.measured.iter().all(|m| m.ns > 0), "{layer:?}");
        assert!(layer.measured.iter().any(|m| m.method == layer.method), "{layer:?}");
    }
    // All but the branches, which go with the node that adds them.
    let graph = model.graph();
    let tunable = graph.nodes.iter().filter(|n| matches!(n.op, Op::Conv(_) | Op::Linear(_)));
    let branches = graph.nodes.iter().filter(|n| n.name.contains("downsample")).count();
    assert!(branches > 0);
    assert_eq!(table.layers.len(), tunable.count() - branches);
    let [before, after] = tuned.run_ns;
    assert!(0 < after && after <= before);
}

#[test]
fn kept_algorithms_keep_the_bits() {
    let model = common::packed(&synth_network(ARCH));
    let runtime = runtime(2);
    let expected = logits(&mut executor(&model, &runtime, &ExecutorOptions::default()));
    let table = tuned(&model, &runtime, &TuneOptions { keep_algorithms: true, ..quick() });
    let mut methods: Vec<_> = table.layers.iter().flat_map(|l| &l.measured).collect();
    methods.dedup();
    assert!(methods.iter().any(|m| m.method == "direct-channels"), "{methods:?}");
    for method in methods {
        let mut table = table.clone();
        let layers = table.layers.iter_mut();
        let fits = layers.filter(|l| l.measured.iter().any(|m| m.method == method.method));
        fits.for_each(|l| l.method.clone_from(&method.method));
        assert_eq!(logits(&mut executor(&model, &runtime, &given(table))), expected, "{method:?}");
    }
}

#[test]
fn a_table_holds_exactly_where_it_was_measured() {
    let path = packed_file("key");
    let model = Model::open(&path).expect("opens");
    let (one, two) = (runtime(1), runtime(2));
    let table = forced(&tuned(&model, &two, &quick()), "winograd-f2");
    tune::store(&path, model.graph(), &table).expect("stores");
    let model = Model::open(&path).expect("opens");
    assert_eq!(model.tables(), std::slice::from_ref(&table));

    let used = |runtime: &Runtime, options: &ExecutorOptions| {
        let executor = executor(&model, runtime, options);
        let plan = executor.plan();
        let mut reasons = plan.steps.iter().filter_map(|s| s.choice.as_ref().map(|c| c.reason));
        let tuned = reasons.any(|r| r == Reason::Tuned);
        assert_eq!(tuned, plan.table == TableUse::Used);
        if tuned {
            let steps = plan.steps.iter().filter_map(|s| s.choice.as_ref());
            let measured = steps.filter(|c| !c.measured.is_empty());
            assert!(measured.count() >= table.layers.len(), "alternatives are shown");
        }
        plan.table
    };
    let other = TableUse::NoMatch { nb_tables: 1 };
    let options = ExecutorOptions::default();
    assert_eq!(used(&two, &options), TableUse::Used);
    assert_eq!(used(&one, &options), other);
    assert_eq!(used(&two, &ExecutorOptions { batch: 2, ..options.clone() }), other);
    let sized = |size| ExecutorOptions { input_size: Some(size), ..options.clone() };
    assert_eq!(used(&two, &sized([48, 48])), other);
    let strict = ExecutorOptions { numerics: Numerics::Strict, ..options.clone() };
    assert_eq!(used(&two, &strict), other);
    let ignore = ExecutorOptions { tables: Tables::Ignore, ..options.clone() };
    assert_eq!(used(&two, &ignore), TableUse::Ignored);
    let shape = model.graph().inputs[0].shape;
    assert_eq!(used(&two, &sized([shape.h, shape.w])), TableUse::Used, "the default, given");
    let portable = Runtime::builder().threads(2).isa(Isa::Portable).build().expect("starts");
    let expected = if two.report().isa == Isa::Portable { TableUse::Used } else { other };
    assert_eq!(used(&portable, &options), expected);

    // Another CPU's table, as a file from another machine has it.
    let mut foreign = table.clone();
    foreign.key.cpu.l2_bytes += 1;
    let path = packed_file("foreign");
    tune::store(&path, model.graph(), &foreign).expect("stores");
    let model = Model::open(&path).expect("opens");
    assert_eq!(executor(&model, &two, &options).plan().table, other);
}

#[test]
fn a_table_never_changes_the_numerics_class() {
    let model = common::packed(&synth_network(ARCH));
    let runtime = runtime(2);
    let fast = tuned(&model, &runtime, &quick());
    let strict = ExecutorOptions { numerics: Numerics::Strict, ..ExecutorOptions::default() };
    let expected = logits(&mut executor(&model, &runtime, &strict));
    // Tables that a file could hold: Winograd, whatever their key says.
    for method in ["winograd-f4", "winograd-f2"] {
        let mut table = forced(&fast, method);
        table.key.numerics = Numerics::Strict.name().to_owned();
        let options = ExecutorOptions { tables: Tables::Given(Arc::new(table)), ..strict.clone() };
        let mut executor = executor(&model, &runtime, &options);
        let mut choices = executor.plan().steps.iter().filter_map(|s| s.choice.as_ref());
        assert!(choices.all(|c| c.method.starts_with("direct")), "{method}");
        assert_eq!(logits(&mut executor), expected, "{method}");
    }
    let tuned = tuned(&model, &runtime, &TuneOptions { numerics: Numerics::Strict, ..quick() });
    assert_eq!(tuned.key.numerics, "strict");
    let measured = tuned.layers.iter().flat_map(|l| &l.measured);
    assert!(measured.into_iter().all(|m| m.method.starts_with("direct")));
}

#[test]
fn what_a_table_cannot_mean_is_left_to_rules_of_thumb() {
    let model = common::packed(&synth_network(ARCH));
    let runtime = runtime(1);
    let mut plain = executor(&model, &runtime, &ExecutorOptions::default());
    let expected = logits(&mut plain);
    let key = Key::of(model.graph(), runtime.report(), &ExecutorOptions::default());
    // A later version's method, one that no strided or 1x1 layer can have, and nodes that do not exist.
    let table = tuned(&model, &runtime, &quick());
    let mut measured = table.layers.iter().flat_map(|l| &l.measured);
    let winograd = measured.find(|m| m.method.starts_with("winograd")).expect("a 3x3 layer");
    for method in ["winograd-f9-moons", &winograd.method, ""] {
        let strided = |op: &Op| matches!(op, Op::Conv(c) if c.stride != [1, 1]);
        let nodes = model.graph().nodes.iter().enumerate();
        let nodes = nodes.filter(|(_, n)| strided(&n.op) || method != winograd.method);
        let layer = |node| Layer { node, method: method.to_owned(), measured: Vec::new() };
        let layers = nodes.map(|(i, _)| i).chain([100_000]).map(layer).collect();
        let mut executor = executor(&model, &runtime, &given(Table { key: key.clone(), layers }));
        assert_eq!(logits(&mut executor), expected, "{method:?}");
        let mut choices = executor.plan().steps.iter().filter_map(|s| s.choice.as_ref());
        assert!(choices.all(|c| c.reason == Reason::Heuristic));
    }
}

#[test]
fn an_algorithm_that_is_asked_for_wins() {
    let model = common::packed(&synth_network(ARCH));
    let runtime = runtime(1);
    let table = forced(&tuned(&model, &runtime, &quick()), "winograd-f4");
    let name = "layer1.0.conv1".to_owned();
    let mut options = given(table);
    options.algorithms.insert(name.clone(), Algorithm::WinogradF2);
    let executor = executor(&model, &runtime, &options);
    let step = executor.plan().steps.iter().find(|s| s.name == name).expect("the node has a step");
    let choice = step.choice.as_ref().expect("a choice");
    assert_eq!(choice.reason, Reason::Asked);
    assert!(choice.method.starts_with("winograd-f2"), "{choice:?}");
}

#[test]
fn storing_replaces_the_same_key_and_keeps_all_else() {
    let path = packed_file("store");
    #[cfg(unix)]
    let mode = {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("sets");
        fs::metadata(&path).expect("exists").permissions()
    };
    let original = Model::open(&path).expect("opens");
    let graph = original.graph();
    let first = tuned(&original, &runtime(1), &quick());
    let mut second = first.clone();
    second.key.threads = 2;
    let again = forced(&first, "winograd-f2");
    for table in [&first, &second, &again] {
        tune::store(&path, graph, table).expect("stores");
    }
    let stored = Model::open(&path).expect("opens");
    stored.verify().expect("intact");
    assert_eq!(stored.tables(), [again, second]);
    assert_eq!(stored.file_info().version, (1, 1));
    assert_eq!(stored.to_network(), original.to_network());
    assert_eq!(stored.labels(), original.labels());
    assert_eq!(stored.metadata(), original.metadata());
    let sections = |model: &Model| -> Vec<_> {
        let sections = model.file_info().sections.into_iter();
        let rest = sections.filter(|s| s.kind != format::SectionKind::TUNE);
        rest.map(|s| (s.kind, s.len, s.crc32c, s.weights)).collect()
    };
    assert_eq!(sections(&stored), sections(&original));
    #[cfg(unix)]
    assert_eq!(fs::metadata(&path).expect("exists").permissions(), mode);
    let names = fs::read_dir(path.parent().expect("a folder")).expect("lists");
    assert_eq!(names.count(), 1, "no temporary file stays");
}

#[test]
fn what_cannot_be_stored_is_explained_and_changes_nothing() {
    let path = packed_file("refused");
    let model = Model::open(&path).expect("opens");
    let table = tuned(&model, &runtime(1), &quick());
    let bytes = fs::read(&path).expect("reads");
    let refused = |table: &Table, graph: &skipstone::graph::Graph, words: &str| {
        let error = tune::store(&path, graph, table).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("model.skip"), "{error}");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(fs::read(&path).expect("reads"), bytes);
    };
    refused(&table, &synth_network("tiny_vgg").graph, "another network");
    let mut unordered = table.clone();
    unordered.layers.reverse();
    refused(&unordered, model.graph(), "out of order");
    let mut outside = table.clone();
    outside.layers.last_mut().expect("layers").node = 100_000;
    refused(&outside, model.graph(), "no convolution");
    let mut long = table.clone();
    long.layers[0].method = "x".repeat(1000);
    refused(&long, model.graph(), "the name");

    let mut damaged = bytes.clone();
    let last = model.file_info().sections.pop().expect("weights");
    damaged[last.offset as usize] ^= 1;
    fs::write(&path, &damaged).expect("writes");
    let error = tune::store(&path, model.graph(), &table).expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::Checksum);
    assert_eq!(fs::read(&path).expect("reads"), damaged);

    let few = TuneOptions { rounds: 1, ..TuneOptions::default() };
    let error = tune::tune(&model, &runtime(1), &few, &mut |_| {}).expect_err("too few rounds");
    assert!(error.to_string().contains("1 rounds, expected at least"), "{error}");
}
