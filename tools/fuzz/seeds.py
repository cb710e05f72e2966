#!/usr/bin/env python3
"""Writes the seeds of the corpora: the smallest files that reach every operator and container.

    tools/fuzz/seeds.py SKIPSTONE FOLDER     SKIPSTONE is the command-line program

Needs numpy and onnx. What fuzzing finds beyond them is added to corpus/ by
`cargo fuzz cmin`.
"""

import base64
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)


def constant(name, *shape, dtype=np.float32):
    return numpy_helper.from_array(RNG.normal(0, 0.3, shape).astype(dtype), name)


def save(path, nodes, constants, shape, output="y", opset=17):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, shape)],
        [value(output, TensorProto.FLOAT, [1, None])], constants)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    path.write_bytes(model.SerializeToString())


def classifier(path):
    """Convolution, batch normalisation, residual, pools, fully connected, softmax."""
    node = helper.make_node
    save(path, [
        node("Conv", ["x", "w0"], ["a"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        node("BatchNormalization", ["a", "s", "b", "m", "v"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("MaxPool", ["d"], ["e"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        node("Conv", ["e", "w1", "b1"], ["f"], kernel_shape=[3, 3], pads=[1] * 4),
        node("Add", ["f", "e"], ["g"]),
        node("Clip", ["g", "lo", "hi"], ["h"]),
        node("GlobalAveragePool", ["h"], ["i"]),
        node("Flatten", ["i"], ["j"]),
        node("Gemm", ["j", "w2", "b2"], ["k"], transB=1),
        node("Softmax", ["k"], ["y"]),
    ], [
        constant("w0", 4, 3, 3, 3), *(constant(n, 4) for n in "sbm"),
        numpy_helper.from_array(np.ones(4, np.float32), "v"),
        constant("w1", 4, 4, 3, 3), constant("b1", 4), constant("w2", 5, 4), constant("b2", 5),
        numpy_helper.from_array(np.float32(0), "lo"), numpy_helper.from_array(np.float32(6), "hi"),
    ], [1, 3, 9, 11])


def movement(path):
    """Pad, slice, concat, average pool, grouped and dilated convolutions, reshape."""
    node, ints = helper.make_node, lambda name, *v: numpy_helper.from_array(np.array(v), name)
    save(path, [
        node("Pad", ["x", "pads"], ["a"]),
        node("Slice", ["a", "start", "end", "axes", "step"], ["b"]),
        node("Concat", ["b", "b"], ["c"], axis=1),
        node("AveragePool", ["c"], ["d"], kernel_shape=[2, 2], ceil_mode=1, strides=[2, 2]),
        node("Conv", ["d", "w"], ["e"], kernel_shape=[2, 2], group=2, dilations=[2, 1]),
        node("ReduceMean", ["e"], ["f"], axes=[2, 3], keepdims=0),
        node("Mul", ["f", "scale"], ["g"]),
        node("Reshape", ["g", "shape"], ["y"]),
    ], [
        ints("pads", 0, 1, 1, 1, 0, 0, 1, 1), ints("start", 0, 1), ints("end", 9, 99),
        ints("axes", 2, 3), ints("step", 1, 2), constant("w", 4, 4, 2, 2),
        numpy_helper.from_array(np.float32(0.5), "scale"), ints("shape", 1, -1),
    ], [1, 3, 8, 9])


def quantized(path):
    """QuantizeLinear and DequantizeLinear around a convolution and a fully connected layer."""
    node, scalar = helper.make_node, lambda name, v: numpy_helper.from_array(v, name)
    byte = lambda name, *shape: numpy_helper.from_array(
        RNG.integers(-127, 127, shape).astype(np.int8), name)
    save(path, [
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        node("DequantizeLinear", ["wq", "sw", "zw"], ["w"], axis=0),
        node("DequantizeLinear", ["bq", "sb", "zb"], ["b"], axis=0),
        node("Conv", ["xd", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        node("Relu", ["c"], ["d"]),
        node("QuantizeLinear", ["d", "sy", "zy"], ["yq"]),
        node("DequantizeLinear", ["yq", "sy", "zy"], ["yd"]),
        node("GlobalAveragePool", ["yd"], ["p"]),
        node("Flatten", ["p"], ["y"]),
    ], [
        scalar("sx", np.float32(0.02)), scalar("zx", np.uint8(110)),
        scalar("sy", np.float32(0.05)), scalar("zy", np.uint8(0)), byte("wq", 4, 3, 3, 3),
        scalar("sw", np.full(4, 0.01, np.float32)), scalar("zw", np.zeros(4, np.int8)),
        scalar("bq", np.arange(4, dtype=np.int32)), scalar("sb", np.full(4, 2e-4, np.float32)),
        scalar("zb", np.zeros(4, np.int32)),
    ], [1, 3, 6, 7])


def tensors(folder):
    """Headers of several element types, and some that lie."""
    def pack(header, nb_bytes):
        header = json.dumps(header).encode()
        return struct.pack("<Q", len(header)) + header + bytes(nb_bytes)

    def tensor(dtype, shape, first, last):
        return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}

    bias = tensor("F32", [2], 0, 8)
    for name, header, nb_bytes in [
        ("two", {"fc.bias": bias, "fc.weight": tensor("F16", [2, 512], 8, 2056)}, 2056),
        ("double", {"conv1.weight": tensor("F64", [1, 3, 7, 7], 0, 1176)}, 1176),
        ("overlap", {"fc.bias": bias, "bn1.bias": tensor("BF16", [2], 4, 8)}, 8),
        ("metadata", {"__metadata__": {"format": "pt"}, "fc.bias": bias}, 8),
        ("empty", {}, 0),
    ]:
        (folder / name).write_bytes(pack(header, nb_bytes))


def requests(folder, images):
    """Requests to the model of the target: JSON, and binary tensors behind a zero byte."""
    def tensor(datatype, shape, **rest):
        return {"name": "input", "datatype": datatype, "shape": shape, **rest}

    def write(name, inputs, binary=b"", **rest):
        text = json.dumps({"inputs": [inputs], **rest}, separators=(",", ":")).encode()
        (folder / name).write_bytes(text + b"\0" + binary if binary else text)

    def size(data):
        return {"parameters": {"binary_data_size": len(data)}}

    file = (images / "gray-16-keyed.png").read_bytes()
    pixels, floats = bytes(range(256)) + bytes(41), np.arange(297, dtype=np.float32).tobytes()
    files = 2 * (struct.pack("<I", len(file)) + file)
    write("floats", tensor("FP32", [1, 3, 9, 11], data=[0.5] * 297), id="7")
    write("nested", tensor("UINT8", [1, 9, 11, 3], data=[[[[1, 2, 3]] * 11] * 9]),
          outputs=[{"name": "logits", "parameters": {"classification": 3}}])
    write("base64", tensor("BYTES", [1], data=[base64.b64encode(file).decode()]))
    write("binary", tensor("FP32", [1, 3, 9, 11], **size(floats)), floats,
          parameters={"binary_data_output": True, "timeout": 5_000_000})
    write("pixels", tensor("UINT8", [2, 3, 9, 11], **size(2 * pixels)), 2 * pixels,
          outputs=[{"name": "logits", "parameters": {"binary_data": True}}])
    write("files", tensor("BYTES", [2, 1], **size(files)), files)


def main():
    skipstone, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    for name in ("open", "onnx", "safetensors", "image", "infer"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for make in (classifier, movement, quantized):
        source = folder / "onnx" / make.__name__
        make(source)
        onnx.checker.check_model(onnx.load(source))
        model = source.rename(source.with_suffix(".onnx"))
        packed = folder / "open" / f"{make.__name__}.skip"
        done = subprocess.run([skipstone, "convert", model, "-q", "-o", packed], check=False)
        model.rename(source)
        if done.returncode == 0:
            packed.rename(folder / "open" / make.__name__)
    tensors(folder / "safetensors")
    images = Path(__file__).resolve().parents[2] / "tests" / "images"
    requests(folder / "infer", images)
    for image in images.iterdir():
        if image.suffix in (".jpg", ".png") and image.stat().st_size < 4000:
            (folder / "image" / image.name).write_bytes(image.read_bytes())


if __name__ == "__main__":
    main()
