//! What is packed comes back, the same input gives the same bytes, and files change only whole.

mod format_networks;

use std::fs;
use std::path::PathBuf;

use format_networks::{all_options, every_op, int8};
use skipstone::format::{self, PackOptions, SectionKind, WeightDtype};
use skipstone::graph::{ConstId, Network};
use skipstone::{ErrorKind, Executor, ExecutorOptions, Isa, Model, Runtime};
use skipstone_kernels::layout::LayoutTag;

/// An empty folder for one test.
fn folder(test: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a scratch folder");
    path
}

fn names_in(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn everything_packed_comes_back() {
    let network = every_op();
    for dtype in [WeightDtype::F32, WeightDtype::F16] {
        let options = all_options(dtype);
        let bytes = format::to_bytes(&network, &options).expect("packs");
        let model = Model::from_bytes(&bytes).expect("opens");
        assert_eq!(*model.graph(), network.graph);
        assert_eq!(model.to_network(), network, "{dtype:?}: the values are exact in f16");
        let found = model.pack_options();
        assert_eq!(found.dtype, dtype);
        assert_eq!(found.labels, options.labels);
        assert_eq!(found.recipe, options.recipe);
        assert_eq!(found.metadata, options.metadata);
        assert_eq!(found.test_vector, options.test_vector);
        let again = format::to_bytes(&model.to_network(), model.pack_options()).expect("packs");
        assert_eq!(bytes, again, "{dtype:?}: packing what was unpacked gives the same file");
    }
}

#[test]
fn quantized_networks_come_back() {
    let network = int8();
    let bytes = format::to_bytes(&network, &PackOptions::default()).expect("packs");
    let model = Model::from_bytes(&bytes).expect("opens");
    assert_eq!(model.to_network(), network);
    let info = model.file_info();
    assert_eq!(info.version, (1, 1));
    assert!(info.sections.iter().any(|s| s.kind == SectionKind::QUANT));
    let runtime = Runtime::builder().threads(1).build().expect("starts");
    let again = format::to_bytes(&model.to_network(), model.pack_options()).expect("packs");
    assert_eq!(bytes, again);
    for (i, dtype) in [WeightDtype::I8, WeightDtype::I32, WeightDtype::F32].into_iter().enumerate()
    {
        let stored = info.sections.iter().find_map(|s| s.weights.filter(|w| w.0.0 == i as u32));
        assert_eq!(stored, Some((ConstId(i as u32), dtype, LayoutTag::RowMajor)));
        let found = model.packed_or_repack(ConstId(i as u32), LayoutTag::RowMajor);
        assert_eq!(found.is_ok(), dtype == WeightDtype::F32, "integers are not turned to f32");
    }
    Executor::new(&runtime, &model, &ExecutorOptions::default()).expect("plans");
}

#[test]
fn nothing_optional_is_needed() {
    let network = every_op();
    let bytes = format::to_bytes(&network, &PackOptions::default()).expect("packs");
    let model = Model::from_bytes(&bytes).expect("opens");
    assert_eq!(model.to_network(), network);
    assert_eq!((model.recipe(), model.labels(), model.test_vector()), (None, None, None));
    assert!(model.metadata().is_empty());
}

/// A change of these hashes is a change of the format: it needs a new version.
#[test]
fn the_bytes_of_version_1_0_are_what_they_were() {
    let hash = |dtype| {
        let bytes = format::to_bytes(&every_op(), &all_options(dtype)).expect("packs");
        let hash = blake3::hash(&bytes).to_hex();
        (bytes.len(), hash[..16].to_owned())
    };
    assert_eq!(hash(WeightDtype::F32), (16768, "0ac1613f3c17571e".to_owned()));
    assert_eq!(hash(WeightDtype::F16), (11328, "eb787f4cf7f457de".to_owned()));
}

#[test]
fn all_ways_to_open_agree() {
    let path = folder("open").join("model.skip");
    let network = every_op();
    format::write(&network, &all_options(WeightDtype::F32), &path).expect("writes");
    let bytes = fs::read(&path).expect("reads");
    assert_eq!(bytes, format::to_bytes(&network, &all_options(WeightDtype::F32)).expect("packs"));
    let copied = Model::open(&path).expect("opens");
    // SAFETY: only this test uses the file, and only reads it from here on.
    let mapped = unsafe { Model::open_mmap(&path) }.expect("maps");
    mapped.verify().expect("intact");
    for model in [&copied, &mapped] {
        assert_eq!(model.to_network(), network);
        let info = model.file_info();
        assert_eq!((info.version, info.len), ((1, 0), bytes.len() as u64));
        assert_eq!(info.content_hash, *blake3::hash(&bytes[128..]).as_bytes());
        assert_eq!(info.content_hash, model.content_hash());
    }
}

#[test]
fn weights_lie_aligned_in_execution_order() {
    let bytes = format::to_bytes(&every_op(), &all_options(WeightDtype::F16)).expect("packs");
    let info = Model::from_bytes(&bytes).expect("opens").file_info();
    let weights: Vec<_> = info.sections.iter().filter(|s| s.kind == SectionKind::WEIGHTS).collect();
    assert_eq!(weights[0].offset % 4096, 0);
    for pair in weights.windows(2) {
        assert_eq!(pair[0].offset + pair[0].len, pair[1].offset, "no gap");
        assert_eq!(pair[1].offset % 64, 0);
    }
    for section in &weights {
        let end = (section.offset + section.len) as usize;
        assert_eq!(bytes[end - 64..end], [0; 64]);
    }
    let stored: Vec<_> = weights.iter().map(|s| s.weights.expect("a constant")).collect();
    // In order of use, which here is the order of creation but for the plane.
    let ids: Vec<_> = stored.iter().map(|(id, ..)| id.0).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6, 7]);
    use LayoutTag::{OIhw8i16o, Ohwi16o, RowMajor};
    let layouts: Vec<_> = stored.iter().map(|(_, _, layout)| *layout).collect();
    let expected =
        [Ohwi16o, RowMajor, OIhw8i16o, RowMajor, RowMajor, RowMajor, OIhw8i16o, RowMajor];
    assert_eq!(layouts, expected);
    let halves = stored.iter().map(|(_, dtype, _)| *dtype == WeightDtype::F16);
    assert!(halves.eq(expected.map(|layout| layout != RowMajor)), "vectors stay f32");
}

#[test]
fn constants_come_in_any_layout() {
    let network = every_op();
    for dtype in [WeightDtype::F32, WeightDtype::F16] {
        let bytes = format::to_bytes(&network, &all_options(dtype)).expect("packs");
        let model = Model::from_bytes(&bytes).expect("opens");
        for id in (0..network.data.len()).map(|i| ConstId(i as u32)) {
            let row_major = model.packed_or_repack(id, LayoutTag::RowMajor).expect("any constant");
            assert_eq!(*row_major, *network.constant(id));
            assert_eq!(*model.row_major(id), *network.constant(id));
            for layout in LayoutTag::ALL {
                let zero_copy = model.packed(id, layout);
                let found = model.packed_or_repack(id, layout);
                let Some(geometry) = model.geometry(id) else {
                    assert_eq!(found.is_ok(), layout == LayoutTag::RowMajor);
                    continue;
                };
                let found = found.expect("weights have any layout");
                assert_eq!(found.is_repacked(), zero_copy.is_none());
                assert_eq!(found.as_ptr().align_offset(64), 0);
                let mut expected = vec![0.0; geometry.packed_len(layout)];
                let source = network.constant(id);
                skipstone_kernels::pack::pack(geometry, layout, source, &mut expected);
                assert_eq!(*found, *expected, "{dtype:?} {layout:?}");
                let again = model.packed_or_repack(id, layout).expect("cached");
                assert_eq!(found.as_ptr(), again.as_ptr(), "converted once");
            }
        }
    }
}

/// Writer and planner choose layouts by one rule, so a plan for f32 weights copies none. The portable
/// tier widens halves once.
#[test]
fn plans_read_weights_where_the_file_has_them() {
    let portable = Isa::Portable;
    let repacked = |dtype, isa| {
        let runtime = Runtime::builder().threads(1).isa(isa).build().expect("starts");
        let bytes = format::to_bytes(&every_op(), &all_options(dtype)).expect("packs");
        let model = Model::from_bytes(&bytes).expect("opens");
        let executor = Executor::new(&runtime, &model, &ExecutorOptions::default());
        executor.expect("plans").plan().repacked_bytes
    };
    assert_eq!(repacked(WeightDtype::F32, portable), 0);
    assert_eq!(repacked(WeightDtype::F32, Isa::best()), 0);
    assert!(repacked(WeightDtype::F16, portable) > 0);
}

#[test]
fn weights_outlive_the_model() {
    let bytes = format::to_bytes(&every_op(), &PackOptions::default()).expect("packs");
    let model = Model::from_bytes(&bytes).expect("opens");
    let stored = model.packed_or_repack(ConstId(1), LayoutTag::RowMajor).expect("a vector");
    let converted = model.packed_or_repack(ConstId(0), LayoutTag::RowMajor).expect("weights");
    drop(model);
    assert_eq!(*stored, *every_op().constant(ConstId(1)));
    assert_eq!(*converted, *every_op().constant(ConstId(0)));
}

#[test]
fn the_written_file_is_all_that_appears() {
    let folder = folder("rename");
    let path = folder.join("model.skip");
    let write = |network: &Network| format::write(network, &PackOptions::default(), &path);
    write(&every_op()).expect("writes");
    assert_eq!(names_in(&folder), ["model.skip"]);
    // SAFETY: files are only replaced by renaming here.
    let mapped = unsafe { Model::open_mmap(&path) }.expect("maps");

    let mut other = every_op();
    other.data[0].f32_mut()[0] += 1.0;
    write(&other).expect("replaces");
    assert_eq!(names_in(&folder), ["model.skip"]);
    assert_eq!(Model::open(&path).expect("opens").to_network(), other);
    assert_eq!(mapped.to_network(), every_op(), "the old file is intact for who has it mapped");

    other.data[0].f32_mut()[0] = f32::NAN;
    let error = write(&other).expect_err("not a number");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("stem.weight"), "{error}");
    assert_eq!(names_in(&folder), ["model.skip"], "no temporary file is left");
    other.data[0].f32_mut()[0] = every_op().data[0].f32()[0] + 1.0;
    assert_eq!(Model::open(&path).expect("still there").to_network(), other);
}

#[test]
fn targets_that_are_not_files_are_refused() {
    let folder = folder("targets");
    let network = every_op();
    let write = |path: &std::path::Path| format::write(&network, &PackOptions::default(), path);
    assert_eq!(write(&folder).expect_err("a folder").kind(), ErrorKind::InvalidArgument);
    let nowhere = folder.join("absent").join("model.skip");
    assert_eq!(write(&nowhere).expect_err("no folder").kind(), ErrorKind::Io);
    assert!(names_in(&folder).is_empty());
    #[cfg(unix)]
    {
        let (real, link) = (folder.join("real.skip"), folder.join("link.skip"));
        fs::write(&real, "old").expect("writes");
        std::os::unix::fs::symlink(&real, &link).expect("links");
        write(&link).expect("writes through the link");
        assert!(fs::symlink_metadata(&link).expect("exists").is_symlink());
        assert_eq!(Model::open(&real).expect("opens").to_network(), network);
        let device = std::path::Path::new("/dev/null");
        assert_eq!(write(device).expect_err("a device").kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn a_safely_opened_model_does_not_see_its_file_change() {
    let path = folder("changed").join("model.skip");
    let network = every_op();
    format::write(&network, &all_options(WeightDtype::F32), &path).expect("writes");
    let model = Model::open(&path).expect("opens");
    let len = fs::metadata(&path).expect("exists").len() as usize;
    fs::write(&path, vec![0xff; len]).expect("overwrites in place");
    model.verify().expect("intact");
    assert_eq!(model.to_network(), network);
    fs::File::create(&path).expect("truncates");
    model.verify().expect("intact");
    assert_eq!(model.to_network(), network);
}

#[test]
fn only_regular_files_are_opened() {
    let folder = folder("irregular");
    let missing = folder.join("missing.skip");
    let error = Model::open(&missing).expect_err("missing");
    assert_eq!((error.kind(), error.file()), (ErrorKind::Io, Some(&*missing)));
    for path in [folder.as_path(), std::path::Path::new("/dev/zero")] {
        if path.exists() {
            let error = Model::open(path).expect_err("no file");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_name() {
    let refused = |change: fn(&mut Network, &mut PackOptions), expected: &str| {
        let (mut network, mut options) = (every_op(), all_options(WeightDtype::F16));
        change(&mut network, &mut options);
        let error = format::to_bytes(&network, &options).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused(
        |n, _| n.data[6].f32_mut()[3] = 1e6,
        "'fc.weight' has a value 1000000, too large for f16",
    );
    refused(|n, _| n.data[7].f32_mut()[0] = f32::INFINITY, "'fc.bias' has a value inf");
    refused(|n, _| _ = n.data[1].f32_mut().pop(), "'stem.bias' has 5 values");
    refused(|n, _| _ = n.data.pop(), "data for 7 constants");
    refused(|n, _| _ = n.add_constant("stray", &[1], vec![0.0]), "'stray' is used by no node");
    refused(|n, _| n.data[1] = vec![0i32; 6].into(), "'stem.bias' has values of type i32");
    refused(|_, o| o.dtype = WeightDtype::I8, "weights cannot be stored as i8");
    refused(|n, _| n.graph.nodes[3].name = "a\nb".into(), "control character");
    refused(|_, o| o.labels = Some(vec![String::new(); 4]), "4 labels");
    refused(|_, o| o.recipe.as_mut().expect("set").scale = 0.0, "scale is 0");
    refused(|_, o| o.recipe.as_mut().expect("set").std.clear(), "std has 0 values");
    refused(|_, o| _ = o.metadata.insert("k".into(), "\x1b[2J".into()), "control character");
    refused(|_, o| o.test_vector.as_mut().expect("set").outputs[1].clear(), "test vector");
    refused(|_, o| o.metadata = [("k".into(), "x".repeat(70_000))].into(), "META");
}
