//! Damaged and malicious files are errors, found quickly and in little memory.

mod common;
mod format_networks;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::metered::{Counting, within};
use format_networks::forged::Forged;
use format_networks::{all_options, every_op, int8};
use skipstone::format::{self, PackOptions, SectionKind, WeightDtype};
use skipstone::graph::{
    Affine, AxisOrder, Clamp, ConstId, Network, Node, Op, Port, Shape, ValueId,
};
use skipstone::tune::{Key, Layer, Measured, Table};
use skipstone::{Error, ErrorKind, ExecutorOptions, Model, Runtime};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Opens a file and holds the attempt to the promised cost. The copy of the file itself is a
/// mapping, which the allocator does not see.
fn open(open: impl Fn() -> Result<Model, Error>) -> Result<Model, Error> {
    within(16 << 20, Duration::from_millis(50), open)
}

fn open_bytes(bytes: &[u8]) -> Result<Model, Error> {
    open(|| Model::from_bytes(bytes))
}

fn open_mapped(path: &Path) -> Result<Model, Error> {
    // SAFETY: the tests change a file only while it is not open.
    open(|| unsafe { Model::open_mmap(path) })
}

fn small_file() -> Vec<u8> {
    format::to_bytes(&every_op(), &all_options(WeightDtype::F16)).expect("packs")
}

fn small_files() -> [Vec<u8>; 2] {
    let quantized = format::to_bytes(&int8(), &PackOptions::default()).expect("packs");
    [small_file(), quantized]
}

fn scratch(name: &str, bytes: &[u8]) -> (PathBuf, File) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, bytes).expect("writes");
    let file = File::options().write(true).open(&path).expect("opens");
    (path, file)
}

/// Uses everything an opened model hands out.
fn exercise(model: &Model) {
    model.graph().validate().expect("an opened graph is valid");
    for id in (0..model.graph().constants.len()).map(|i| ConstId(i as u32)) {
        assert_eq!(model.data(id).len(), model.graph().constant(id).len());
    }
    let _ = (model.file_info(), model.verify());
}

#[test]
fn every_truncation_is_refused() {
    for bytes in small_files() {
        for len in 0..bytes.len() {
            open_bytes(&bytes[..len]).expect_err("truncated");
        }
        let (path, file) = scratch("truncated.skip", &bytes);
        for len in (0..bytes.len()).rev() {
            file.set_len(len as u64).expect("truncates");
            open(|| Model::open(&path)).expect_err("truncated");
            open_mapped(&path).expect_err("truncated");
        }
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let mut bytes = small_file();
    for _ in 0..100 {
        bytes.push(0);
        open_bytes(&bytes).expect_err("appended");
    }
}

#[test]
fn every_changed_byte_is_found() {
    for bytes in small_files() {
        let mut bytes = bytes;
        let sections = Model::from_bytes(&bytes).expect("opens").file_info().sections;
        let (path, file) = scratch("changed.skip", &bytes);
        for at in 0..bytes.len() {
            let original = bytes[at];
            let is_weight = sections.iter().any(|s| {
                s.kind == SectionKind::WEIGHTS
                    && (s.offset..s.offset + s.len).contains(&(at as u64))
            });
            for changed in [original ^ 1 << (at % 8), !original] {
                bytes[at] = changed;
                open_bytes(&bytes).expect_err("changed");
                file.write_all_at(&[changed], at as u64).expect("writes");
                open(|| Model::open(&path)).expect_err("changed");
                match open_mapped(&path) {
                    Ok(model) => {
                        assert!(is_weight, "byte {at} is not a weight");
                        assert_eq!(model.verify().expect_err("found").kind(), ErrorKind::Checksum);
                    }
                    Err(_) => assert!(!is_weight, "weights are not read when mapped"),
                }
            }
            bytes[at] = original;
            file.write_all_at(&[original], at as u64).expect("writes");
        }
    }
}

#[test]
fn resealing_restores_the_file() {
    let bytes = small_file();
    assert_eq!(Forged(bytes.clone()).seal(), bytes);
}

/// Every 32-bit word of header, table and structure, with values that break naive arithmetic, behind
/// right checksums.
#[test]
fn forged_words_are_judged_without_panic() {
    for bytes in small_files() {
        let forged = Forged(bytes);
        let structure = (0..forged.nb_sections()).filter(|&i| forged.u32(forged.entry(i)) < 16);
        let mut ranges: Vec<_> = structure.map(|i| forged.section(i)).collect();
        ranges.push(Forged::HEADER);
        ranges.push(forged.entry(0)..forged.0.len());
        let (mut opened, mut refused) = (0, 0);
        for at in ranges.into_iter().flat_map(|r| r.step_by(4)) {
            let word = forged.0.get(at..at + 4).map_or(0, |_| forged.u32(at));
            let values = [
                0,
                1,
                2,
                16,
                1 << 12,
                1 << 20,
                0x7fff_ffff,
                0x8000_0000,
                u32::MAX,
                word.wrapping_add(1),
                word.wrapping_sub(1),
                word.wrapping_add(64),
                word.wrapping_mul(2),
                word ^ 0x0001_0000,
            ];
            for value in values.into_iter().filter(|v| *v != word) {
                let mut forged = forged.clone();
                for (byte, new) in forged.0[at..].iter_mut().zip(value.to_le_bytes()) {
                    *byte = new;
                }
                match open_bytes(&forged.seal()) {
                    Ok(model) => {
                        opened += 1;
                        exercise(&model);
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        // Names, labels, padding and many attributes may be anything.
        assert!(opened > 500 && refused > 500, "{opened} opened, {refused} refused");
    }
}

/// Several random changes at once.
#[test]
fn forged_bytes_are_judged_without_panic() {
    for bytes in small_files() {
        let original = Forged(bytes);
        let structure = original.section(0).start..original.section(1).end;
        let mut state = 1u64;
        let mut random = |n: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for _ in 0..30_000 {
            let mut forged = original.clone();
            for _ in 0..=random(4) {
                let at = match random(4) {
                    0 => original.entry(0) + random(original.0.len() - original.entry(0)),
                    1 => random(forged.0.len()),
                    _ => structure.start + random(structure.len()),
                };
                match random(3) {
                    0 => forged.0[at] = random(256) as u8,
                    1 => forged.0[at] ^= 1 << random(8),
                    _ => {
                        let from = structure.start + random(structure.len());
                        let len = random(64).min(forged.0.len() - at.max(from));
                        forged.0.copy_within(from..from + len, at);
                    }
                }
            }
            if let Ok(model) = open_bytes(&forged.seal()) {
                exercise(&model);
            }
        }
    }
}

#[test]
fn broken_rules_of_quantization_are_named() {
    let [_, quantized] = small_files();
    let refused = |change: &dyn Fn(&mut Forged), kind: ErrorKind, expected: &str| {
        let mut forged = Forged(quantized.clone());
        change(&mut forged);
        let error = open_bytes(&forged.seal()).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
    };
    use ErrorKind::Format;
    // Sections: GRAPH, STRINGS, QUANT, then weights, bias, scales of the first convolution.
    let entry = |section: usize, field: usize, value: u32| {
        move |f: &mut Forged| f.set_u32(f.entry(section) + field, value)
    };
    refused(&entry(2, 4, 0), Format, "section 2: flags 0x0");
    refused(&entry(2, 16, 48), Format, "QUANT: 48 bytes, expected 60");
    refused(&entry(3, 24, 1), Format, "f32 row-major for weights of type i8");
    refused(&entry(4, 24, 1), Format, "f32 row-major for a constant of type i32");
    refused(&entry(5, 24, 4), Format, "i32 row-major for a constant of type f32");
    refused(&entry(4, 28, 1), Format, "OIhw8i16o for a constant");
    let quant = |word: usize, value: u32| {
        move |f: &mut Forged| f.set_u32(f.section(2).start + 4 * word, value)
    };
    refused(&quant(0, 0), Format, "node x: the quantization's scale is 0");
    refused(&quant(3, f32::NAN.to_bits()), Format, "node first (Conv): the quantization's scale");
    refused(&quant(4, 256), Format, "the integer 256");
    refused(&quant(4, 128), Format, "zero point 128 in 0..=127");
    let clear = |f: &mut Forged| (0..15).for_each(|word| quant(word, 0)(f));
    refused(&clear, Format, "no value is quantized");
    let unquantized_image = |f: &mut Forged| (0..3).for_each(|word| quant(word, 0)(f));
    refused(&unquantized_image, Format, "operand 0 of an int8 node is not quantized");
    // Counts, 2 ports, 8 constants, then nodes: 2 words, 12 of attributes, clamp, scales, quantization.
    let graph = |word: usize, value: u32| {
        move |f: &mut Forged| f.set_u32(f.section(0).start + 4 * word, value)
    };
    let (constant, node) = (8 + 2 * 8, 8 + 2 * 8 + 8 * 8);
    refused(&graph(constant + 7, 3), Format, "the element type is 3");
    refused(&graph(constant + 7, 0), Format, "weight 'weight' is f32, expected i8");
    refused(&graph(constant + 6, 1), Format, "of rank 4");
    refused(&graph(node + 16, 0), Format, "weight 'weight' is i8, expected f32");
    refused(&graph(node + 16, 99), Format, "constant 98 does not exist");
    refused(&graph(node + 17, 1f32.to_bits()), Format, "rounds before an addition");
    refused(&graph(node + 32 + 18, 300), Format, "the integer 300");
    refused(&graph(node + 32 + 19, 0), Format, "zero point 128 in 0..=0");
}

#[test]
fn broken_rules_are_named() {
    let refused = |change: &dyn Fn(&mut Forged), kind: ErrorKind, expected: &str| {
        let mut forged = Forged(small_file());
        change(&mut forged);
        let error = open_bytes(&forged.seal()).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
    };
    use ErrorKind::{Checksum, Format, Shape, Unsupported, Version};
    // The header.
    refused(&|f| f.0[4] = b'\n', Format, "not a .skip file");
    refused(&|f| f.0[8] = 2, Version, "format version 2.0");
    refused(&|f| f.0[12..16].reverse(), Format, "endian mark");
    refused(&|f| f.set_u32(16, 256), Format, "header of 256 bytes");
    refused(&|f| f.set_u32(20, 4), Version, "features 0x4");
    refused(&|f| f.set_u32(28, 1 << 20), Format, "1048576 sections");
    refused(&|f| f.set_u32(36, 1), Format, "the header says");
    refused(&|f| f.set_u32(76, 1), Format, "reserved byte 76");
    // The table. Sections 0 to 5 are structure, 6 and on are weights.
    let entry = |section: usize, field: usize, value: u32| {
        move |f: &mut Forged| f.set_u32(f.entry(section) + field, value)
    };
    refused(&entry(1, 0, 1), Format, "kind 1 after kind 1");
    refused(&entry(0, 4, 0), Format, "section 0: flags 0x0");
    refused(&entry(2, 4, 1), Format, "section 2: flags 0x1");
    refused(&entry(1, 8, 128), Format, "section 1: offset 128");
    refused(&entry(7, 8, 1 << 30), Format, "section 7: offset");
    refused(&entry(7, 12, 1), Format, "section 7: offset");
    refused(&entry(7, 20, 1), Format, "of WEIGHTS, expected at most");
    refused(&entry(0, 16, 1 << 24), Format, "of GRAPH, expected at most");
    refused(&entry(0, 24, 1), Format, "section without weights");
    refused(&entry(6, 24, 5), Unsupported, "element type 5");
    refused(&entry(6, 24, 3), Format, "i8 Ohwi16o for weights of type f32");
    refused(&entry(6, 28, 9), Unsupported, "layout 9 is not known");
    refused(&entry(6, 28, 1), Format, "constant 'stem.weight'");
    refused(&entry(7, 24, 2), Format, "f16 row-major for a constant of type f32");
    refused(&entry(7, 36, 1), Format, "reserved byte");
    refused(&entry(2, 0, 9), Format, "kind 4 after kind 9");
    let unknown_required = |f: &mut Forged| {
        f.set_u32(f.entry(5), 9);
        f.set_u32(f.entry(5) + 4, 1);
    };
    refused(&unknown_required, Version, "required section of kind 9");
    // Bytes between and after sections.
    let poke = |at: fn(&Forged) -> usize| {
        move |f: &mut Forged| {
            let at = at(f);
            f.0[at] = 1;
        }
    };
    refused(&poke(|f| f.section(1).end), Checksum, "not all zero");
    refused(&poke(|f| f.section(6).start - 1), Checksum, "not all zero");
    refused(&poke(|f| f.section(6).end - 1), Format, "bytes after the weights are not zero");
    // The graph: counts are words 0 to 7, the first input's record follows.
    let graph = |word: usize, value: u32| {
        move |f: &mut Forged| f.set_u32(f.section(0).start + 4 * word, value)
    };
    refused(&graph(3, 20_000), Format, "20000 nodes");
    refused(&graph(4, 5), Format, "the counts need");
    refused(&graph(5, 2), Format, "fixed size flag");
    refused(&graph(6, 1), Format, "reserved byte 24");
    refused(&graph(8, 1), Format, "has value 1");
    refused(&graph(9, 1 << 21), Shape, "node image");
    refused(&graph(9, u32::MAX), Shape, "4294967295x9x8");
    refused(&graph(10, 0), Shape, "3x0x8");
    refused(&graph(12, 0x0101_0101), Format, "not an order of N, C, H, W");
    refused(&graph(12, 9), Format, "axes");
    // Constants start after 4 ports.
    refused(&graph(40, 7), Format, "rank 7");
    refused(&graph(41, u32::MAX), Shape, "elements");
}

#[test]
fn unknown_optional_parts_are_skipped() {
    let mut forged = Forged(small_file());
    forged.0[10] = 7; // The minor version.
    forged.set_u32(24, 0x8000_0001); // Optional flags.
    let test_vector = forged.entry(5);
    forged.set_u32(test_vector, 9);
    let model = open_bytes(&forged.seal()).expect("a later minor version");
    assert_eq!(model.file_info().version, (1, 7));
    assert_eq!(model.test_vector(), None);
    assert_eq!(model.file_info().sections[5].kind, SectionKind(9));
    assert_eq!(model.to_network(), every_op());
}

#[test]
fn lengths_that_only_the_header_claims_cost_nothing() {
    let bytes = small_file();
    let (path, file) = scratch("sparse.skip", &bytes);
    // Files of many GiB that occupy 16 KiB, with headers that agree about their lengths.
    for (len, expected) in [(20u64 << 30, "the header says"), (15 << 30, "section table")] {
        file.set_len(len).expect("extends");
        let mut forged = Forged(bytes.clone());
        forged.0[32..40].copy_from_slice(&len.to_le_bytes());
        let header = &forged.seal()[Forged::HEADER];
        file.write_all_at(header, 0).expect("writes");
        let error = open_mapped(&path).expect_err("absurd");
        assert!(error.to_string().contains(expected), "{error}");
        if len > 16 << 30 {
            open(|| Model::open(&path)).expect_err("absurd");
        }
    }
    fs::remove_file(&path).expect("removes");
}

/// As many nodes, operands, constants, sections and letters as the limits allow.
#[test]
fn the_largest_structure_keeps_the_promises() {
    let mut network = Network::default();
    let port = |value, c| Port {
        name: "p".repeat(2048),
        value: ValueId(value),
        shape: Shape::vector(c),
        axes: AxisOrder::nc(),
    };
    let name = |i: usize| format!("{i:0>100}");
    network.graph.inputs = vec![port(0, 1)];
    for i in 0..8192 {
        let mut constant = |value| network.add_constant(&name(i), &[1], vec![value]);
        let affine = Affine { scale: constant(1.0), shift: constant(0.0), clamp: Clamp::NONE };
        let node = Node { name: name(i), op: Op::Affine(affine), inputs: vec![ValueId(i as u32)] };
        network.graph.nodes.push(node);
    }
    for i in 0..8192 {
        let inputs = (0..7).map(ValueId).collect();
        network.graph.nodes.push(Node { name: name(i), op: Op::Concat, inputs });
    }
    network.graph.outputs = vec![port(16_384, 7); 256];
    let bytes = format::to_bytes(&network, &Default::default()).expect("packs");
    let model = open_bytes(&bytes).expect("at the limits");
    assert_eq!(*model.graph(), network.graph);

    let extra = Node { name: name(0), op: Op::Clamp(Clamp::RELU), inputs: vec![ValueId(0)] };
    network.graph.nodes.push(extra);
    let error = format::to_bytes(&network, &Default::default()).expect_err("over a limit");
    assert!(error.to_string().contains("16385 nodes, expected at most 16384"), "{error}");
}

/// A small file with a table in it, and that table. The first weights are of node 0.
fn tuned_file() -> (Vec<u8>, Table) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tuned.skip");
    fs::write(&path, small_file()).expect("writes");
    let graph = every_op().graph;
    let runtime = Runtime::builder().threads(1).build().expect("starts");
    let key = Key::of(&graph, runtime.report(), &ExecutorOptions::default());
    let measured = |method: &str| Measured { method: method.to_owned(), ns: 123_456 };
    let layer = |node| Layer {
        node,
        method: "direct".to_owned(),
        measured: ["direct", "another", "a third"].map(measured).to_vec(),
    };
    let table = Table { key, layers: vec![layer(0), layer(1)] };
    format::store(&path, &graph, &table).expect("stores");
    let bytes = fs::read(&path).expect("reads");
    fs::remove_file(&path).expect("removes");
    (bytes, table)
}

#[test]
fn tables_are_judged_like_everything_else() {
    let (bytes, table) = tuned_file();
    let sections = Model::from_bytes(&bytes).expect("opens").file_info().sections;
    let tune = sections.iter().position(|s| s.kind == SectionKind::TUNE).expect("a table");
    let range = Forged(bytes.clone()).section(tune);
    for at in range.clone() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        open_bytes(&changed).expect_err("changed");
    }
    // JSON of any length up to that of the section, behind right checksums.
    let forged = |json: &str| {
        let mut forged = Forged(bytes.clone());
        assert!(json.len() <= range.len(), "{json}");
        let section = &mut forged.0[range.clone()];
        section.fill(b' ');
        section[..json.len()].copy_from_slice(json.as_bytes());
        open_bytes(&forged.seal())
    };
    let with = |change: &dyn Fn(&mut Table)| {
        let mut table = table.clone();
        change(&mut table);
        table.key.cpu.name.truncate(1);
        serde_json::to_string(&[table]).expect("serialises")
    };
    let model = forged(&with(&|_| ())).expect("valid");
    assert_eq!(model.tables().len(), 1);
    exercise(&model);
    assert_eq!(forged("[]").expect("no table").tables(), []);
    let one = serde_json::to_string(&Table { layers: vec![], ..table.clone() }).expect("JSON");
    let broken = [
        (String::new(), "EOF"),
        ("{}".to_owned(), "expected"),
        ("[1]".to_owned(), "expected"),
        (format!("[{{\"x\":{}", "[".repeat(200)), "EOF"),
        (format!("[{one}]x"), "trailing"),
        (format!("[{one},{one}]"), "table 1 is for the same"),
        (with(&|t| t.key.threads = 0), "0 threads"),
        (with(&|t| t.key.threads = 1 << 40), "threads"),
        (with(&|t| t.key.batch = 0), "batch 0"),
        (with(&|t| t.key.batch = usize::MAX), "batch"),
        (with(&|t| t.key.input_size = [0, 1]), "input of [0, 1]"),
        (with(&|t| t.key.isa = "\n".to_owned()), "the name"),
        (with(&|t| t.layers[1].node = 0), "out of order"),
        (with(&|t| t.layers[1].node = 9999), "node 9999"),
        (with(&|t| t.layers[1].node = 2), "node 2, which is no convolution"),
        (with(&|t| t.layers[0].method = "\u{7f}".to_owned()), "the name"),
    ];
    for (json, expected) in broken {
        let error = forged(&json).expect_err(expected);
        assert!(error.to_string().contains(expected), "{json}: {error}");
        assert!(error.to_string().contains("TUNE"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Format, "{error}");
    }
}
