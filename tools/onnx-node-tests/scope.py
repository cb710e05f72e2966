"""Which programs skipstone promises to run, and why it does not promise the others.

skipstone runs images: float32 activations of rank 1 to 4 whose axes are batch, channel, height and width, with weights
that are known when the network is packed. Every rule below names the limit that a program meets. A program outside is
still run: `convert` must refuse it by name, or give the right answer.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cases import OLDEST_OPSET, Program, Test

# Element types that constants may have. 8- and 16-bit integers appear in quantized graphs only.
CONSTANT_TYPES = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
}
MAX_RANK = 4


def test_reason(test: Test) -> str | None:
    """Why no program of the test is promised."""
    if test.opset < OLDEST_OPSET:
        return f"opset {test.opset}, and its attributes have no equivalent in opset {OLDEST_OPSET}"
    if any(isinstance(v, list) for v in test.inputs + test.outputs):
        return "sequences and optionals: values are tensors"
    return None


def reason(program: Program) -> str | None:
    """Why the program is not promised, or None where it is."""
    nodes = list(program.model.graph.node)
    for rule in (element_types, sizes, constant_folding if program.kind == "constant" else activations):
        if why := rule(program, nodes):
            return why
    return None


def attributes(node: NodeProto) -> dict:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def constants(program: Program) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in program.model.graph.initializer}


def type_name(data_type: int) -> str:
    return TensorProto.DataType.Name(data_type).lower()


def element_types(program: Program, nodes) -> str | None:
    types = {i.data_type for i in program.model.graph.initializer}
    for node in nodes:
        for name, value in attributes(node).items():
            if node.op_type == "Cast" and name == "to":
                types.add(value)
            elif isinstance(value, TensorProto):
                types.add(value.data_type)
    for data_type in sorted(types - CONSTANT_TYPES):
        return f"element type {type_name(data_type)}: constants are float, double, float16, int32, int64 or bool"
    return None


def sizes(program: Program, _nodes) -> str | None:
    for value in (*program.feeds.values(), *program.expected):
        if value.size == 0:
            return "no elements: every axis has an extent of at least 1"
        if value.ndim > MAX_RANK:
            return f"rank {value.ndim}: activations have at most {MAX_RANK} axes"
    for value in program.expected:
        if value.ndim == 0:
            return "a scalar result: activations have a channel axis"
    if program.kind != "constant":
        inferred = onnx.shape_inference.infer_shapes(program.model, data_prop=True)
        rank = max((len(v.type.tensor_type.shape.dim) for v in inferred.graph.value_info), default=0)
        if rank > MAX_RANK:
            return f"an intermediate result of rank {rank}: activations have at most {MAX_RANK} axes"
    return None


def constant_folding(_program, _nodes) -> str | None:
    return None


def activations(program: Program, nodes) -> str | None:
    run_time = set(program.feeds)
    known = constants(program)
    for node in nodes:
        if why := OPERATOR_RULES.get(node.op_type, anything)(program, node, attributes(node), known, run_time):
            return f"{node.op_type}: {why}"
    return None


def anything(*_) -> str | None:
    return None


def batch_normalization(_program, _node, attrs, _known, _run_time):
    if attrs.get("training_mode", 0):
        return "training mode"


def dropout(_program, node, _attrs, known, _run_time):
    if len(node.input) > 2 and node.input[2] and known[node.input[2]].item():
        return "training mode"


def gather(_program, node, _attrs, _known, run_time):
    if node.input[0] in run_time:
        return "picks from an activation: only shapes and constants are indexed"


def gemm(program, node, attrs, known, _run_time):
    if attrs.get("transA", 0):
        return "transA: the batch would become the channels"
    bias = known.get(node.input[2]) if len(node.input) > 2 else None
    if bias is not None and bias.ndim == 2 and bias.shape[0] != 1:
        return "a bias per row: rows are images"


def matmul(program, node, _attrs, known, _run_time):
    data, weights = program.feeds.get(node.input[0]), known.get(node.input[1])
    if data is not None and data.ndim != 2 or weights is not None and weights.ndim != 2:
        return "only a matrix of images times a matrix of weights is a linear layer"


def pad(_program, node, attrs, known, _run_time):
    mode = attrs.get("mode", b"constant").decode()
    if mode != "constant":
        return f"mode {mode}: only constant padding"


def reduce_mean(program, node, attrs, known, _run_time):
    data = next(iter(program.feeds.values()))
    axes = attrs.get("axes") or (known[node.input[1]].tolist() if len(node.input) > 1 and node.input[1] else [])
    axes = sorted(a % data.ndim for a in axes) or list(range(data.ndim))
    if 0 in axes:
        return "over the batch axis: images are independent"


def reshape(program, node, _attrs, _known, run_time):
    if node.input[0] not in run_time:
        return None  # a constant's
    before, after = program.feeds[node.input[0]], program.expected[0]
    drop_ones = lambda shape: [d for d in shape if d != 1]  # noqa: E731
    flattened = after.ndim <= 2 and before.shape[0] in (after.shape[0], 1) or after.ndim == 1
    if drop_ones(before.shape) != drop_ones(after.shape) and not flattened:
        return "splits or regroups axes: only flattening, and axes of extent 1"


def slice_(_program, node, _attrs, known, _run_time):
    steps = known[node.input[4]] if len(node.input) > 4 and node.input[4] in known else np.array([1])
    if (steps < 0).any():
        return "negative steps"


def elementwise(program, node, _attrs, known, run_time):
    for name in node.input:
        if name in known and name not in run_time:
            varying = [d for d in known[name].shape if d != 1]
            if len(varying) > 1:
                return "by a constant that varies along several axes: one factor per channel"


OPERATOR_RULES = {
    "BatchNormalization": batch_normalization,
    "Div": elementwise,
    "Dropout": dropout,
    "Gather": gather,
    "Gemm": gemm,
    "MatMul": matmul,
    "Mul": elementwise,
    "Pad": pad,
    "ReduceMean": reduce_mean,
    "Reshape": reshape,
    "Slice": slice_,
}
