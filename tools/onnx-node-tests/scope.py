"""Which programs skipstone promises to run, and why it does not promise the others.

skipstone runs images: float32 activations of rank 2 to 4 whose first axis is the batch (or of rank 1, without a batch),
with weights that are known when the network is packed. Images of a batch never meet. Every rule below names the limit that a program meets. A program outside is
still run: `convert` must refuse it by name, or give the right answer.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cases import FOLDED, OLDEST_OPSET, Program, Test

# Element types that constants may have.
CONSTANT_TYPES = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.BOOL,
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.UINT16,
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
        return f"element type {type_name(data_type)}: constants are (b)float16, float, double, (u)int8 to 16, int32 to 64"
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


def constant_folding(program: Program, nodes) -> str | None:
    if program.test.operator not in (*FOLDED, "several"):
        data_type = next(iter(constants(program).values())).dtype
        return f"activations of type {data_type}: activations are float32"
    if not all(np.isfinite(v).all() for v in program.expected):
        return "a constant that is infinite or no number in float32"
    return None


def activations(program: Program, nodes) -> str | None:
    known = constants(program)
    for node in nodes:
        if rule := OPERATOR_RULES.get(node.op_type):
            if why := rule(program.feeds, node, attributes(node), known):
                return f"{node.op_type}: {why}"
    return None


# One rule per operator, for its run-time form: (run-time inputs, node, attributes, constants) -> reason or None.
# Operands that are neither (results of other nodes) are not judged.


def batch_normalization(_feeds, _node, attrs, _known):
    if attrs.get("training_mode", 0):
        return "training mode"


def concat(feeds, node, attrs, known):
    rank = next(iter(feeds.values())).ndim
    if rank > 1 and attrs["axis"] % rank == 0:
        return "along the batch: images are independent"
    if rank > 1 and any(known[name].shape[0] != 1 for name in node.input if name in known):
        return "a constant of its own for each image"


def dropout(_feeds, node, _attrs, known):
    if len(node.input) > 2 and node.input[2] and known[node.input[2]].item():
        return "training mode"


def elementwise(feeds, node, _attrs, known):
    run_time = [feeds[name].shape for name in node.input if name in feeds]
    if not run_time:
        return None
    if len(set(run_time)) > 1:
        return "run-time operands of unequal shapes"
    (data,) = set(run_time)
    for name in node.input:
        if name not in known:
            continue
        shape = known[name].shape
        if len(shape) > len(data) or np.broadcast_shapes(shape, data) != data:
            return "a constant that changes the activation's shape"
        shape = (1,) * (len(data) - len(shape)) + shape
        if len(data) > 1 and shape[0] != 1:
            return "a constant of its own for each image"
        if node.op_type in ("Mul", "Div") and sum(extent != 1 for extent in shape) > 1:
            return "a constant that varies along several axes: one factor per channel"


def flatten(feeds, node, attrs, _known):
    if node.input[0] in feeds and attrs.get("axis", 1) % feeds[node.input[0]].ndim != 1:
        return "only of each image (axis 1)"


def gather(feeds, node, _attrs, _known):
    if node.input[0] in feeds:
        return "picks from an activation: only shapes and constants are indexed"


def gemm(_feeds, node, attrs, known):
    if attrs.get("transA", 0):
        return "transA: the batch would become the channels"
    bias = known.get(node.input[2]) if len(node.input) > 2 else None
    if bias is not None and bias.ndim == 2 and bias.shape[0] != 1:
        return "a constant of its own for each image"


def matmul(feeds, node, _attrs, known):
    data, weights = feeds.get(node.input[0]), known.get(node.input[1])
    if data is not None and data.ndim != 2 or weights is not None and weights.ndim != 2:
        return "only a matrix of images times a matrix of weights is a linear layer"


def pad(_feeds, _node, attrs, _known):
    mode = attrs.get("mode", b"constant").decode()
    if mode != "constant":
        return f"mode {mode}: only constant padding"


def reduce_mean(feeds, node, attrs, known):
    if node.input[0] not in feeds:
        return None
    rank = feeds[node.input[0]].ndim
    axes = attrs.get("axes") or (known[node.input[1]].tolist() if len(node.input) > 1 and node.input[1] else [])
    axes = {a % rank for a in axes} or set(range(rank))
    if 0 in axes:
        return "over the batch: images are independent"


def reshape(feeds, node, _attrs, known):
    if node.input[0] not in feeds or node.input[1] not in known:
        return None
    before, wanted = feeds[node.input[0]].shape, known[node.input[1]].tolist()
    after = [before[i] if extent == 0 else extent for i, extent in enumerate(wanted)]
    after = [extent if extent != -1 else -int(np.prod(before) // np.prod(after)) for extent in after]
    if not after or after[0] != before[0]:
        return "the first axis must stay the batch"
    without_ones = lambda extents: [e for e in extents[1:] if e != 1]  # noqa: E731
    if len(after) > 2 and without_ones(before) != without_ones(after):
        return "regroups axes: only flattening, and axes of extent 1"


def shape(feeds, node, attrs, _known):
    if node.input[0] not in feeds:
        return None
    rank = feeds[node.input[0]].ndim
    axes = list(range(rank))[attrs.get("start", 0) : attrs.get("end")]
    if 0 in axes:
        return "the batch as a number: it is free when the network is packed"
    if any(axis > 1 for axis in axes):
        return "the image's height or width as a number: they are free when the network is packed"


def slice_(feeds, node, attrs, known):
    operands = [known.get(name) for name in node.input[1:]] + [None] * 4
    starts, _ends, axes, steps = operands[:4]
    starts, axes = attrs.get("starts", starts), attrs.get("axes", axes)
    if node.input[0] not in feeds or starts is None:
        return None
    rank = feeds[node.input[0]].ndim
    if 0 in [axis % rank for axis in (axes if axes is not None else range(len(starts)))]:
        return "of the batch: images are independent"
    if steps is not None and (steps < 0).any():
        return "negative steps"


def softmax(feeds, node, attrs, _known):
    if node.input[0] in feeds and attrs.get("axis", -1) % feeds[node.input[0]].ndim == 0:
        return "over the batch: images are independent"


def squeeze(feeds, node, attrs, known):
    axes = attrs.get("axes") or known.get(node.input[1] if len(node.input) > 1 else None)
    if node.input[0] in feeds and axes is not None:
        rank = feeds[node.input[0]].ndim + (len(axes) if node.op_type == "Unsqueeze" else 0)
        if 0 in [a % rank for a in axes]:
            return "the first axis must stay the batch"


def transpose(feeds, node, attrs, _known):
    if node.input[0] in feeds:
        rank = feeds[node.input[0]].ndim
        if attrs.get("perm", range(rank - 1, -1, -1))[0] != 0:
            return "the first axis must stay the batch"


OPERATOR_RULES = {
    "Add": elementwise,
    "BatchNormalization": batch_normalization,
    "Concat": concat,
    "Div": elementwise,
    "Dropout": dropout,
    "Flatten": flatten,
    "Gather": gather,
    "Gemm": gemm,
    "LogSoftmax": softmax,
    "MatMul": matmul,
    "Mul": elementwise,
    "Pad": pad,
    "ReduceMean": reduce_mean,
    "Reshape": reshape,
    "Shape": shape,
    "Slice": slice_,
    "Softmax": softmax,
    "Squeeze": squeeze,
    "Sub": elementwise,
    "Sum": elementwise,
    "Transpose": transpose,
    "Unsqueeze": squeeze,
}
