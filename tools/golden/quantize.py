#!/usr/bin/env python3
"""Make the golden files of tests/quantized_exact.rs: a small residual network, quantized by the tools that people use.

    python3 -m venv .venv && .venv/bin/pip install -r tools/golden/requirements.txt nncf
    .venv/bin/python tools/golden/quantize.py

Each graph lies in tests/golden/quantized/ beside ONNX Runtime's outputs for it, on inputs that the test makes again.
"""

import pathlib
import tempfile

import nncf
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from common import GOLDEN, ort_session, seeded_input

FOLDER = GOLDEN / "quantized"
SHAPE = (8, 3, 16, 16)
SEED = 20
# File -> arguments of quantize_static, or None for NNCF.
CASES = {
    "qdq-u8s8-channel": {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8},
    "qdq-s8s8-tensor": {
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True},
    },
    "qdq-u8u8-tensor": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "qoperator-u8s8-channel": {
        "quant_format": QuantFormat.QOperator,
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    },
    "qoperator-s8s8-tensor": {
        "quant_format": QuantFormat.QOperator,
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
    },
    "nncf": None,
}


def network() -> onnx.ModelProto:
    """Stem, max pool, a residual block with an identity and one with a downsampling convolution, classifier."""
    rng = np.random.default_rng(SEED)
    nodes, weights = [], []

    def constant(name: str, shape: tuple[int, ...], scale: float) -> str:
        data = rng.standard_normal(shape).astype(np.float32) * np.float32(scale)
        weights.append(numpy_helper.from_array(data, name))
        return name

    def node(op: str, inputs: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def conv(x: str, name: str, ic: int, oc: int, kernel: int, stride: int = 1, relu: bool = True) -> str:
        w = constant(f"{name}.weight", (oc, ic, kernel, kernel), (2 / (ic * kernel * kernel)) ** 0.5)
        b = constant(f"{name}.bias", (oc,), 0.2)
        pads = [kernel // 2] * 4
        y = node("Conv", [x, w, b], name, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)
        return node("Relu", [y], f"{name}.relu") if relu else y

    def block(x: str, name: str, ic: int, oc: int, stride: int) -> str:
        y = conv(x, f"{name}.conv1", ic, oc, 3, stride)
        y = conv(y, f"{name}.conv2", oc, oc, 3, relu=False)
        shortcut = x if ic == oc else conv(x, f"{name}.downsample", ic, oc, 1, stride, relu=False)
        return node("Relu", [node("Add", [y, shortcut], f"{name}.add")], f"{name}.relu")

    x = conv("x", "stem", 3, 8, 3)
    x = node("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = block(x, "block1", 8, 8, 1)
    x = block(x, "block2", 8, 20, 2)
    x = node("Flatten", [node("GlobalAveragePool", [x], "mean")], "flat")
    fc = [constant("fc.weight", (10, 20), 0.3), constant("fc.bias", (10,), 0.1)]
    node("Gemm", [x, *fc], "logits", transB=1)
    port = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "small", [port("x", ["N", *SHAPE[1:]])], [port("logits", ["N", 10])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Calibration(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": seeded_input(SEED + 1, (32, *SHAPE[1:]))}])

    def get_next(self):
        return next(self.batches, None)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    model = network()
    onnx.checker.check_model(model)
    x = seeded_input(SEED, SHAPE)
    with tempfile.TemporaryDirectory() as scratch:
        source = pathlib.Path(scratch) / "small.onnx"
        onnx.save(model, source)
        (reference,) = ort_session(source).run(None, {"x": x})
        for name, options in CASES.items():
            path = FOLDER / f"{name}.onnx"
            if options is None:
                batch = seeded_input(SEED + 1, (32, *SHAPE[1:]))
                dataset = nncf.Dataset([{"x": image[None]} for image in batch])
                onnx.save(nncf.quantize(model, dataset, subset_size=len(batch)), path)
            else:
                options = {"quant_format": QuantFormat.QDQ, **options}
                quantize_static(source, path, Calibration(), **options)
            (y,) = ort_session(path).run(None, {"x": x})
            np.save(FOLDER / f"{name}.npy", y)
            error = np.abs(y - reference).max() / np.abs(reference).max()
            print(f"{name}: {path.stat().st_size} bytes, {100 * error:.1f} % from f32")


if __name__ == "__main__":
    main()
