#!/usr/bin/env python3
"""Compare skipstone with ONNX Runtime on whole networks, now, on random inputs.

    cargo build --release --workspace
    python3 -m venv .venv && .venv/bin/pip install -r tools/golden/requirements.txt
    .venv/bin/python tools/golden/live.py            # or: live.py PATTERN...  (parts of model names)

Every output must keep max |difference| <= 2e-4 * max |reference|. Batches, thread counts and image sizes vary.
SKIPSTONE_ISA=portable checks the portable kernels. The exit code is 1 if any comparison fails.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time

import numpy as np
import onnx
from onnx import numpy_helper

from common import (
    GOLDEN, LOGIT_TOLERANCE, SkipstoneError, ort_session_any_size, relative_error, run_packed, skipstone,
)

# Networks of `skipstone synth`, and the sizes beside their own that they run at.
SYNTHETIC = {
    "resnet18": [(224, 224), (160, 192), (225, 97)],
    "resnet34": [(224, 224)],
    "resnet50": [(224, 224), (288, 288), (97, 131)],
    "resnet50_v1": [(224, 224)],
    "resnet50_v2": [(224, 224)],
    "resnet101": [(224, 224)],
    "resnet152": [(224, 224)],
    "resnext50_32x4d": [(224, 224), (192, 160)],
    "wide_resnet50_2": [(224, 224)],
    "plain34": [(224, 224)],
    "vgg11_bn": [(224, 224)],
    "vgg16": [(224, 224)],
    "resnet20_cifar": [(32, 32)],
    "tiny_resnet": [(32, 32), (33, 47), (64, 50)],
    "tiny_bottleneck": [(32, 32), (33, 47), (64, 50)],
    "tiny_bottleneck_v1": [(32, 32), (33, 47)],
    "tiny_resnext": [(32, 32), (33, 47)],
    "tiny_plain": [(32, 32), (33, 47)],
    "tiny_preact": [(32, 32), (33, 47)],
    "tiny_preact_bottleneck": [(32, 32), (33, 47)],
}
# Graphs under tests/golden and their NCHW or NHWC image sizes.
COMMITTED = {
    "tf2onnx/resnet_v1_opset9.onnx": [(64, 64), (99, 75)],
    "tf2onnx/resnet_v2_opset15.onnx": [(64, 64)],
    "tf2onnx/features_opset11.onnx": [(64, 64), (37, 50)],
    "torch/torchscript_opset11.onnx": [(64, 64)],
    "torch/dynamo_opset18.onnx": [(64, 64)],
    "onnx-light/light_resnet50.onnx": [(224, 224)],
    "onnx-light/light_vgg19.onnx": [(224, 224)],
}
# The Caffe2-style graphs once more, with seeded weights in place of their constant ones.
RESEEDED = ("onnx-light/light_resnet50.onnx", "onnx-light/light_vgg19.onnx")
# Strided "same" padding depends on the image size, so this one is converted for each.
CONVERTED_PER_SIZE = {"tf2onnx/features_opset11.onnx"}
# (batch, threads); the Caffe2-style graphs reshape to one image
SETTINGS = ((1, 1), (3, 2))
ONE_IMAGE_SETTINGS = ((1, 1), (1, 2))


def reseeded(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The graph with its ConstantOfShape weights replaced by well-scaled random initializers."""
    rng = np.random.default_rng(seed)
    shapes = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    weights, scales, variances = {}, set(), set()
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            weights[node.output[0]] = tuple(shapes[node.input[0]])
        elif node.op_type == "BatchNormalization":
            scales.add(node.input[1])
            variances.add(node.input[4])
        elif node.op_type == "Reshape":  # [1, features] becomes [batch, features]
            for tensor in model.graph.initializer:
                if tensor.name == node.input[1]:
                    tensor.CopyFrom(numpy_helper.from_array(np.array([-1, shapes[tensor.name][1]]), tensor.name))
    kept = [n for n in model.graph.node if n.op_type != "ConstantOfShape"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for name, shape in weights.items():
        if len(shape) > 1:
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name in scales:
            value = rng.uniform(0.5, 0.9, shape)
        elif name in variances:
            value = rng.uniform(0.7, 1.3, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return model


def models(scratch: pathlib.Path, patterns: list[str], seed: int):
    """(name, path, sizes), each made just before it is used, because some are large."""
    wanted = lambda name: not patterns or any(p in name for p in patterns)  # noqa: E731
    for graph, sizes in COMMITTED.items():
        if wanted(graph):
            yield graph, GOLDEN / graph, sizes
    for graph in RESEEDED:
        name = f"{graph} (seeded weights)"
        if wanted(name):
            path = scratch / "reseeded.onnx"
            onnx.save(reseeded(onnx.load(GOLDEN / graph), seed), path)
            yield name, path, COMMITTED[graph]
    for arch, sizes in SYNTHETIC.items():
        if wanted(f"synth {arch}"):
            path = scratch / "synthetic.onnx"
            skipstone("synth", arch, "--seed", seed, "-o", path)
            yield f"synth {arch}", path, sizes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", help="only models whose names contain one of these")
    parser.add_argument("--seed", type=int, default=1, help="of weights and inputs")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)

    compared = failed = 0
    print(f"{'model':46} {'input':>18} {'threads':>7} {'error':>9} {'top-1':>6}  verdict (error <= {LOGIT_TOLERANCE})")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for name, path, sizes in models(scratch, arguments.patterns, arguments.seed):
            started = time.monotonic()
            packed = scratch / "packed.skip"
            try:
                skipstone("convert", path, "-o", packed)
            except SkipstoneError as error:
                failed += 1
                print(f"{name:46} {'':18} {'':7} {'':9} {'':6}  FAILED: {error}", flush=True)
                continue
            session = ort_session_any_size(path, threads=2)
            feed = session.get_inputs()[0]
            outputs = [o.name for o in session.get_outputs()]
            channels_last = feed.shape[3] == 3
            for height, width in sizes:
                if name in CONVERTED_PER_SIZE:
                    skipstone("convert", path, "--input-size", f"{height}x{width}", "-o", packed)
                for batch, threads in ONE_IMAGE_SETTINGS if name in RESEEDED else SETTINGS:
                    shape = (batch, height, width, 3) if channels_last else (batch, 3, height, width)
                    image = rng.standard_normal(shape, dtype=np.float32)
                    reference = session.run(None, {feed.name: image})
                    compared += 1
                    try:
                        ours = run_packed(packed, {feed.name: image}, outputs, scratch, threads)
                        error = max(relative_error(a, b) for a, b in zip(ours, reference))
                        top1 = "same" if (ours[-1].argmax(-1) == reference[-1].argmax(-1)).all() else "other"
                        verdict = "ok" if error <= LOGIT_TOLERANCE else "FAILED"
                    except SkipstoneError as refusal:
                        error, top1, verdict = float("nan"), "", f"FAILED: {refusal}"
                    failed += not verdict == "ok"
                    print(
                        f"{name:46} {'x'.join(map(str, shape)):>18} {threads:7} {error:9.1e} {top1:>6}  {verdict}",
                        flush=True,
                    )
            print(f"{'':46} {time.monotonic() - started:.1f} s", flush=True)
    print(f"{compared} comparisons, {failed} failed")
    return 1 if failed or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
