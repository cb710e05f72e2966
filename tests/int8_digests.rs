//! Int8 results are the same bits on every instruction set, of every architecture: of each kernel family, for
//! activations of 7 and of 8 bits, and of networks that other tools quantized.
//!
//! Tiers of one CPU are compared here. Each result is also printed as a line `digest NAME HASH`, for `.ci/run`
//! to compare architectures.
#![cfg(all(unix, feature = "import"))]

mod common;

use std::path::Path;

use common::{Line, Rng};
use skipstone::format::{PackOptions, to_bytes};
use skipstone::import::{ImportOptions, onnx_file};
use skipstone::{Executor, ExecutorOptions, Isa, Model, Runtime};
use skipstone_kernels::qconv::{self, GROUPS, JobDst, MR, PanelJob, QUAD_LEN, StripJob, nb_quads};
use skipstone_kernels::qwinograd::{
    self, FilterArgs, InputArgs, MultiplyArgs, OutputArgs, Tile, TileRun, Variant, point_stride,
};
use skipstone_kernels::registry;
use skipstone_kernels::requant::{BeforeAdd, Dst, Requant, Residual};

/// Prints what all contenders found, which must be the same.
#[track_caller]
fn agree(name: &str, digests: impl IntoIterator<Item = (String, blake3::Hash)>) {
    let mut digests = digests.into_iter();
    let (first, digest) = digests.next().expect("the portable tier is always there");
    for (other, found) in digests {
        assert_eq!(found, digest, "{name}: {other} and {first} differ");
    }
    println!("digest {name} {}", &digest.to_hex()[..32]);
}

/// A quad of weights, aligned as kernels ask.
#[repr(C, align(32))]
struct Quad([i8; QUAD_LEN]);

/// Weights of which no group overflows 16 bits, most of them at that limit.
fn quads(groups: [usize; 4], max: u8, rng: &mut Rng) -> Vec<Quad> {
    let mut quads = Vec::new();
    for (n, size) in groups.into_iter().zip(GROUPS) {
        let limit = (32767 / (2 * size * usize::from(max))).min(127) as i32;
        let weight = |rng: &mut Rng| match rng.below(3) {
            0 => rng.below(2 * limit as usize + 1) as i32 - limit,
            1 => limit,
            _ => -limit,
        };
        quads.extend((0..n * size).map(|_| Quad(std::array::from_fn(|_| weight(rng) as i8))));
    }
    quads
}

fn qconv_digest(kernel: &qconv::Kernel, max: u8) -> blake3::Hash {
    // Strips apart, and paired.
    const GROUPS_OF: [[[usize; 4]; 2]; 2] = [[[9, 2, 3, 2], [0, 0, 1, 5]], [[3, 2, 1, 2]; 2]];
    let mut rng = Rng(u64::from(max));
    let mut hash = blake3::Hasher::new();
    for nb_pixels in (1..=2 * MR + 1).chain([49]) {
        for (i, (residual, before_add, nb_blocks)) in
            [(false, false, 0), (true, false, 0), (true, true, 0), (true, false, 2)]
                .into_iter()
                .enumerate()
        {
            let groups_of = GROUPS_OF[(i + nb_pixels) % 2];
            let strips = groups_of.map(|groups| {
                let taps: Vec<u32> = (0..nb_quads(groups) as u32).map(|t| 16 * t + 1).collect();
                (quads(groups, max, &mut rng), taps)
            });
            let byte = |rng: &mut Rng| match rng.below(3) {
                0 => rng.below(usize::from(max) + 1) as u8,
                1 => 0,
                _ => max,
            };
            let len = 16 * (nb_pixels + nb_quads(groups_of[0]));
            let src: Vec<u8> = (0..len).map(|_| byte(&mut rng)).collect();
            let res: Vec<u8> = (0..16 * nb_pixels).map(|_| rng.next() as u8).collect();
            let pixels: Vec<u32> = (0..nb_pixels as u32).map(|m| 16 * m).collect();
            let mut bytes = vec![0u8; 16 * nb_pixels];
            let mut floats = vec![0f32; 2 * 16 * nb_pixels];
            kernel.run(PanelJob {
                src: &src,
                src_pixels: &pixels,
                strips: [0, 1].map(|s: usize| StripJob {
                    // SAFETY: `Quad` is 32 bytes without padding.
                    weights: unsafe {
                        std::slice::from_raw_parts(
                            strips[s].0.as_ptr().cast(),
                            strips[s].0.len() * QUAD_LEN,
                        )
                    },
                    taps: &strips[s].1,
                    groups: groups_of[s],
                }),
                bias: &std::array::from_fn(|_| rng.below(20_000) as i32 - 10_000),
                // Of some channels most results are out of range, of others none.
                scale: &std::array::from_fn(|o| 1e-5 * (1 << o) as f32 * (1.1 + rng.f32())),
                before_add: before_add
                    .then_some(BeforeAdd { bounds: [-100.0, 155.0], scale: 0.73 }),
                residual: residual.then_some((&res[..], &pixels[..], 120, 0.37)),
                dst: match nb_blocks {
                    0 => JobDst::U8 { dst: &mut bytes, zero_point: 77, bounds: [3, max] },
                    _ => JobDst::F32 {
                        dst: &mut floats,
                        block_stride: 16 * nb_pixels,
                        nb_blocks,
                        bounds: [-100.0, 1e3],
                    },
                },
                dst_pixels: &pixels,
            });
            hash.update(&bytes).update(bytemuck::cast_slice(&floats));
        }
    }
    hash.finalize()
}

#[test]
fn convolutions_agree() {
    for max in [127, 255] {
        let kernels = registry::QCONV.iter().filter(|k| k.isa.is_available() && k.max >= max);
        let digests = kernels.map(|k| (k.name.to_owned(), qconv_digest(k, max)));
        agree(&format!("qconv-{max}"), digests);
    }
}

/// Channels of a block, and of a panel.
const C: usize = 16;

/// Zeroed memory for `len` elements, on cache lines.
fn zeroed<T>(len: usize) -> Vec<Line> {
    vec![Line([0.0; 16]); (len * size_of::<T>()).div_ceil(64)]
}

/// The bytes of lines.
fn bytes_of(lines: &[Line]) -> &[u8] {
    // SAFETY: `Line` has no padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}

/// All transforms of a panel of 32 input channels, and the products between them.
fn qwinograd_digest(kernel: &qwinograd::Kernel, max: u8) -> blake3::Hash {
    const NB_BLOCKS: usize = 2;
    let (variant, mut rng) = (kernel.variant, Rng(3));
    let (m, t, nb_points) = (variant.m(), variant.t(), variant.nb_points());
    // The last row and column of tiles overhang.
    let (h, w) = (4 * m - 1, 3 * m - 1);
    let (row_stride, plane_stride) = ((w + 2) * C, (h + 2) * (w + 2) * C);
    let extreme =
        |rng: &mut Rng, lo: u8, hi: u8| [lo, hi, rng.next() as u8 % (max / 2)][rng.below(3)];
    let src: Vec<u8> = (0..NB_BLOCKS * plane_stride).map(|_| extreme(&mut rng, 0, max)).collect();
    let g: Vec<i8> =
        (0..NB_BLOCKS * 9 * C * C).map(|_| extreme(&mut rng, 127, 128) as i8).collect();
    let res: Vec<u8> = (0..h * w * C).map(|_| rng.next() as u8).collect();
    let bias: [i32; C] = std::array::from_fn(|_| rng.below(20_000) as i32 - 10_000);
    let scale: [f32; C] = std::array::from_fn(|o| 1e-6 * (1 << o) as f32 * (1.1 + rng.f32()));
    let tiles: Vec<Tile> = (0..h.div_ceil(m) * w.div_ceil(m))
        .map(|i| {
            let (y, x) = (i / w.div_ceil(m) * m, i % w.div_ceil(m) * m);
            let dst = ((y * w + x) * C) as u32;
            Tile {
                src: (y * row_stride + x * C) as u32,
                dst,
                res: dst,
                src_extent: [(h + 2 - y).min(t) as u8, (w + 2 - x).min(t) as u8],
                dst_extent: [(h - y).min(m) as u8, (w - x).min(m) as u8],
            }
        })
        .collect();
    let block_stride = tiles.len() * C;
    let strides = [
        point_stride::<i16>(NB_BLOCKS * C * C),
        point_stride::<i16>(NB_BLOCKS * block_stride),
        point_stride::<i32>(block_stride),
    ];
    let mut u = zeroed::<i16>(nb_points * strides[0]);
    let mut v = zeroed::<i16>(nb_points * strides[1]);
    let mut products = zeroed::<i32>(nb_points * strides[2]);
    let mut dst = vec![0u8; h * w * C];
    // SAFETY: the kernel is available, and the buffers have the lengths and alignments of the contracts.
    unsafe {
        kernel.transform_filter_raw(&FilterArgs {
            src: g.as_ptr(),
            nb_blocks: NB_BLOCKS,
            dst: u.as_mut_ptr().cast(),
            point_stride: strides[0],
        });
        kernel.transform_input_raw(&InputArgs {
            src: src.as_ptr(),
            row_stride,
            plane_stride,
            nb_blocks: NB_BLOCKS,
            tiles: tiles.as_ptr(),
            nb_tiles: tiles.len(),
            dst: v.as_mut_ptr().cast(),
            block_stride,
            point_stride: strides[1],
        });
        kernel.multiply_raw(&MultiplyArgs {
            t,
            v: v.as_ptr().cast(),
            v_point_stride: strides[1],
            v_block_stride: block_stride,
            tiles: TileRun::whole(tiles.len()),
            nb_blocks: NB_BLOCKS,
            u: u.as_ptr().cast(),
            u_point_stride: strides[0],
            m: products.as_mut_ptr().cast(),
            m_point_stride: strides[2],
            first: true,
            next: g.as_ptr().cast(),
        });
        kernel.transform_output_raw(&OutputArgs {
            src: products.as_ptr().cast(),
            point_stride: strides[2],
            tiles: tiles.as_ptr(),
            nb_tiles: tiles.len(),
            bias: bias.as_ptr(),
            requant: Requant {
                scale: scale.as_ptr(),
                before_add: None,
                residual: Some(Residual { src: res.as_ptr(), zero_point: 9, scale: 0.3 }),
                dst: Dst::U8 { dst: dst.as_mut_ptr(), zero_point: 40, bounds: [0, max] },
            },
            dst_row_stride: w * C,
            res_row_stride: w * C,
        });
    }
    let mut hash = blake3::Hasher::new();
    // Not V and M: of what overhangs they hold anything.
    hash.update(bytes_of(&u)).update(&dst);
    hash.finalize()
}

#[test]
fn integer_winograd_agrees() {
    for (variant, max) in Variant::ALL.iter().flat_map(|v| [(*v, 127), (*v, 255)]) {
        let kernels = registry::QWINOGRAD.iter();
        let kernels = kernels.filter(|k| k.isa.is_available() && k.variant == variant);
        let digests = kernels.map(|k| (k.name.to_owned(), qwinograd_digest(k, max)));
        agree(&format!("qwinograd-{}x{0}-{max}", variant.m()), digests);
    }
}

#[test]
fn quantized_networks_agree() {
    for name in ["qdq-u8s8-channel", "qdq-s8s8-tensor", "qoperator-u8s8-channel", "nncf"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quantized");
        let file = folder.join(format!("{name}.onnx"));
        let network = onnx_file(&file, &ImportOptions::default()).expect("imports");
        let bytes = to_bytes(&network, &PackOptions::default()).expect("packs");
        let model = Model::from_bytes(&bytes).expect("opens");
        let batch = 3;
        let image = Rng(8).vec(batch * network.graph.input_shapes()[0].len());
        let run = |isa: Isa| {
            let runtime = Runtime::builder().threads(2).isa(isa).build().expect("starts");
            let options = ExecutorOptions { batch, ..Default::default() };
            let mut executor = Executor::new(&runtime, &model, &options).expect("plans");
            executor.run(&[&image]).expect("runs");
            blake3::hash(bytemuck::cast_slice(executor.output(0)))
        };
        let tiers = Isa::ALL.iter().copied().filter(|isa| isa.is_available());
        agree(&format!("network-{name}"), tiers.map(|isa| (isa.name().to_owned(), run(isa))));
    }
}
