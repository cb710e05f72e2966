#!/usr/bin/env python3
"""Make the golden files of tests/models_golden.rs: ONNX Runtime's outputs on deterministic inputs.

    cargo build --release --workspace
    python3 -m venv .venv && .venv/bin/pip install -r tools/golden/requirements.txt
    .venv/bin/python tools/golden/make.py            # or: make.py NAME...  for some cases only

Graphs too big to commit are made by `skipstone synth ARCH --seed N`; cases.tsv records the BLAKE3 hash of the graph that
the outputs belong to, so that a changed generator is told apart from a wrong result. Run again after such a change.
"""

import pathlib
import sys
import tempfile
import zlib

import blake3
import numpy as np
import onnx

from common import GOLDEN, ort_session_any_size, seeded_input, skipstone

# Case name -> (graph, input shapes). "synth ARCH SEED" is generated, anything else is a file under tests/golden.
# Batches above 1 and sizes other than 224 are here because a kernel's tails depend on them.
CASES = {
    "resnet18": ("synth resnet18 18", (2, 3, 224, 224)),
    "resnet18-odd-size": ("synth resnet18 18", (1, 3, 197, 173)),
    "resnet34": ("synth resnet34 34", (1, 3, 224, 224)),
    "resnet50": ("synth resnet50 50", (2, 3, 224, 224)),
    "resnet50-odd-size": ("synth resnet50 50", (3, 3, 129, 161)),
    "resnet50-v1": ("synth resnet50_v1 51", (1, 3, 224, 224)),
    "resnet50-v2": ("synth resnet50_v2 52", (1, 3, 224, 224)),
    "resnet101": ("synth resnet101 101", (1, 3, 224, 224)),
    "resnet152": ("synth resnet152 152", (1, 3, 224, 224)),
    "resnext50": ("synth resnext50_32x4d 53", (1, 3, 224, 224)),
    "wide-resnet50-2": ("synth wide_resnet50_2 54", (1, 3, 224, 224)),
    "plain34": ("synth plain34 35", (1, 3, 224, 224)),
    "vgg16": ("synth vgg16 16", (1, 3, 224, 224)),
    "cifar-resnet20-option-a": ("synth resnet20_cifar 20", (4, 3, 32, 32)),
    "light-resnet50": ("onnx-light/light_resnet50.onnx", (1, 3, 224, 224)),
    "light-vgg19": ("onnx-light/light_vgg19.onnx", (1, 3, 224, 224)),
    "tf2onnx-v1": ("tf2onnx/resnet_v1_opset9.onnx", (2, 64, 64, 3)),
    "tf2onnx-v1-odd-size": ("tf2onnx/resnet_v1_opset9.onnx", (1, 71, 90, 3)),
    "tf2onnx-v2": ("tf2onnx/resnet_v2_opset15.onnx", (2, 64, 64, 3)),
    "tf2onnx-features": ("tf2onnx/features_opset11.onnx", (2, 45, 64, 3)),
    "torchscript": ("torch/torchscript_opset11.onnx", (2, 3, 64, 64)),
    "torch-dynamo": ("torch/dynamo_opset18.onnx", (2, 3, 64, 64)),
}

HEADER = """\
# Made by tools/golden/make.py with ONNX Runtime; read by tests/models_golden.rs.
# case	graph (a file here, or `synth ARCH SEED`)	BLAKE3 of the graph's file	input shape	input seed	nb outputs
"""


def copy_light_models() -> None:
    """Copy the two Caffe2-style graphs out of the onnx package, with the logits as a second output.

    All their weights are constants, so their probabilities are 1/1000 whatever the arithmetic does; the logits are not.
    """
    data = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for name in ("light_resnet50", "light_vgg19"):
        model = onnx.load(data / f"{name}.onnx")
        logits = next(n.input[0] for n in model.graph.node if n.op_type == "Softmax")
        shape = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
        model.graph.output.append(onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, shape))
        (GOLDEN / "onnx-light" / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def main() -> None:
    copy_light_models()
    chosen = sys.argv[1:] or list(CASES)
    table = GOLDEN / "cases.tsv"
    known = [line for line in table.read_text().splitlines() if not line.startswith("#")] if table.exists() else []
    lines = {line.split("\t")[0]: line for line in known}
    outputs = GOLDEN / "outputs"
    outputs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in chosen:
            graph, shape = CASES[name]
            path = GOLDEN / graph
            if graph.startswith("synth "):
                _, arch, seed = graph.split()
                path = pathlib.Path(scratch) / f"{arch}-{seed}.onnx"
                if not path.exists():
                    skipstone("synth", arch, "--seed", seed, "-o", path)
            digest = blake3.blake3(path.read_bytes()).hexdigest()
            session = ort_session_any_size(path)
            input_seed = zlib.crc32(name.encode())
            results = session.run(None, {session.get_inputs()[0].name: seeded_input(input_seed, shape)})
            for index, result in enumerate(results):
                if not np.isfinite(result).all():
                    raise SystemExit(f"{name}: ONNX Runtime's output {index} is not finite")
                np.save(outputs / f"{name}.{index}.npy", result)
            fields = [name, graph, digest, "x".join(map(str, shape)), str(input_seed), str(len(results))]
            lines[name] = "\t".join(fields)
            spread = float(results[-1].std() / max(abs(results[-1]).max(), 1e-30))
            print(f"{name}: {[r.shape for r in results]}, standard deviation / max {spread:.3f}")
    for stale in set(lines) - set(CASES):
        del lines[stale]
    table.write_text(HEADER + "".join(f"{lines[name]}\n" for name in CASES if name in lines))
    for path in outputs.glob("*.npy"):
        if path.name.rsplit(".", 2)[0] not in lines:
            path.unlink()


if __name__ == "__main__":
    main()
