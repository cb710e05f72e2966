"""The ONNX backend tests of our operators, made into programs that skipstone can run.

A test is one graph with inputs and expected outputs. skipstone takes float32 activations, whose first axis is the batch,
and constant weights. So a test becomes up to four *programs*:

  activation   its data input stays a run-time input, the other inputs become initializers
  activations  all its inputs stay run-time inputs (operators that join branches)
  image        as `activation`, with the test's whole tensor as one image of a batch: every run-time input and output
               gets a leading axis of extent 1, and axes in the node's attributes and operands move along
  images       as `activations`, likewise
  constant     all its inputs become initializers, so that the importer must fold the operator

Outputs that are not float32, and all outputs of constant programs, reach the output through
Cast -> Reshape [1, -1] -> Add(run-time "probe"), as shape arithmetic in real networks ends in a float operator.

Each program is also written in older opsets, where operands of today's operators were attributes.
"""

from __future__ import annotations

import contextlib
import pathlib
import warnings
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

OPERATORS = (
    "Add AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv Div Dropout Flatten Gather Gemm "
    "GlobalAveragePool Identity LogSoftmax MatMul MaxPool Mul Pad ReduceMean Relu Reshape Shape Slice Softmax Squeeze "
    "Sub Sum Transpose Unsqueeze"
).split()

# Operators that join branches of a network: their programs also run with all inputs at run time.
JOINS = {"Add", "Sum", "Concat"}
# Operators that exporters use on shapes and weights: their programs also run on constants alone.
FOLDED = set(
    "Add Cast Concat Constant ConstantOfShape Div Gather Identity Mul Reshape Shape Slice Squeeze Sub Transpose "
    "Unsqueeze".split()
)
# Operators whose programs also run as an image of a batch.
LIFTED = set("Add Concat Div LogSoftmax Mul ReduceMean Reshape Slice Softmax Squeeze Sub Sum Transpose Unsqueeze".split())
# Second outputs which only training or un-pooling reads; a program keeps the first.
SIDE_OUTPUTS = {"Dropout": "mask", "MaxPool": "indices", "BatchNormalization": "running statistics"}

OLDEST_OPSET, NEWEST_OPSET = 7, 21
OLDER_OPSETS = (7, 9, 11, 13, 17)


@dataclass
class Test:
    """One backend test as the onnx package gives it."""

    name: str
    model: onnx.ModelProto
    inputs: list  # np.ndarray, or TensorProto for types that numpy lacks, or a list for sequences
    outputs: list
    operator: str = ""  # the one a report files it under
    operators: set[str] = field(default_factory=set)

    def __post_init__(self):
        self.operators = {n.op_type for n in self.model.graph.node}
        listed = [n.op_type for n in self.model.graph.node if n.op_type in OPERATORS]
        self.operator = listed[0] if len(self.operators) == 1 else "several"

    @property
    def opset(self) -> int:
        return next(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx"))


@dataclass
class Program:
    """A test as skipstone gets it."""

    test: Test
    kind: str  # activation, activations, image, images or constant
    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    expected: list[np.ndarray]
    dropped: str = ""  # the side output that is left out
    replaced: int = 0  # non-finite elements of the test's data that a constant cannot have

    @property
    def name(self) -> str:
        return f"{self.test.name}/{self.kind}"


def collect() -> list[Test]:
    """All backend tests whose operators are all ours: the node tests, and PyTorch's old exports."""
    warnings.filterwarnings("ignore")
    from onnx.backend.test.loader import load_model_tests

    def ours(model: onnx.ModelProto) -> bool:
        return all(n.op_type in OPERATORS and n.domain in ("", "ai.onnx") for n in model.graph.node)

    tests = []
    for case in load_model_tests(kind="node"):
        if ours(case.model):
            inputs, outputs = case.data_sets[0]
            tests.append(Test(case.name, case.model, list(inputs), list(outputs)))
    for kind in ("pytorch-converted", "pytorch-operator", "simple"):
        for case in sorted(load_model_tests(kind=kind), key=lambda c: c.name):
            folder = pathlib.Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            if ours(model):
                with contextlib.suppress(Exception):  # the converter raises several types; scope.py sees the old opset
                    if model.opset_import[0].version < OLDEST_OPSET:
                        model = version_converter.convert_version(model, OLDEST_OPSET)
                data = folder / "test_data_set_0"
                tests.append(Test(f"{kind}:{case.name}", model, load(data, "input"), load(data, "output")))
    return tests


def load(folder: pathlib.Path, what: str) -> list[np.ndarray]:
    paths = sorted(folder.glob(f"{what}_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
    return [numpy_helper.to_array(onnx.load_tensor(str(p))) for p in paths]


def is_float32(value) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float32


def as_tensor(value, name: str) -> TensorProto:
    if isinstance(value, TensorProto):
        tensor = TensorProto()
        tensor.CopyFrom(value)
        tensor.name = name
        return tensor
    return numpy_helper.from_array(np.asarray(value), name)


def as_float32(value) -> np.ndarray:
    if isinstance(value, TensorProto):
        value = numpy_helper.to_array(value)
    return np.asarray(value).astype(np.float32)


def programs(test: Test) -> list[Program]:
    """The test's programs in opset NEWEST_OPSET or its own older one."""
    if any(isinstance(v, list) for v in test.inputs + test.outputs):
        return []  # scope.py says why
    names = input_names(test)
    values = dict(zip(names, test.inputs))
    made = []
    data = data_input(test, values)
    if data:
        run_time = [{data}]
        if test.operator in JOINS and len(names) > 1 and all(map(is_float32, test.inputs)):
            run_time.append(set(names))
        for chosen in run_time:
            plural = "s" if len(chosen) > 1 else ""
            made.append(build(test, f"activation{plural}", chosen))
            if test.operator in LIFTED and len(test.model.graph.node) == 1:
                made.append(lift(build(test, f"image{plural}", chosen)))
    if not made or test.operator in FOLDED:
        made.append(build(test, "constant", set()))
    return [p for p in made if p is not None]


def data_input(test: Test, values: dict) -> str | None:
    """The graph input that carries the activation: the first float32 one that is some node's first operand."""
    firsts = {n.input[0] for n in test.model.graph.node if n.input}
    return next((n for n, v in values.items() if n in firsts and is_float32(v) and v.ndim > 0), None)


def input_names(test: Test) -> list[str]:
    initialized = {i.name for i in test.model.graph.initializer}
    return [i.name for i in test.model.graph.input if i.name not in initialized]


def finite_casts(test: Test) -> tuple[list, list, int]:
    """The inputs and outputs of a Cast with ones where float32 would hold an infinity or no number."""
    (source,), (result,) = test.inputs, test.outputs
    source, result = (numpy_helper.to_array(v) if isinstance(v, TensorProto) else v for v in (source, result))
    with np.errstate(all="ignore"):
        bad = ~(np.isfinite(source.astype(np.float32)) & np.isfinite(result.astype(np.float32)))
    if not bad.any():
        return test.inputs, test.outputs, 0
    return [np.where(bad, source.dtype.type(1), source)], [np.where(bad, result.dtype.type(1), result)], int(bad.sum())


def build(test: Test, kind: str, run_time: set[str]) -> Program:
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    graph = model.graph
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = min(opset.version, NEWEST_OPSET)
    model.ir_version = min(model.ir_version, 10)

    inputs, test_outputs, replaced = test.inputs, test.outputs, 0
    if kind == "constant" and test.operator == "Cast" and len(test.inputs) == 1:
        inputs, test_outputs, replaced = finite_casts(test)
    feeds, constants = {}, []
    for name, value in zip(input_names(test), inputs):
        if name in run_time:
            feeds[name] = np.ascontiguousarray(value)
        else:
            constants.append(as_tensor(value, name))
    kept = [i for i in graph.input if i.name in run_time]
    batch = next((v.shape[0] for v in feeds.values()), 1)
    del graph.input[:]
    graph.input.extend(kept)
    graph.initializer.extend(constants)

    results = list(zip([o.name for o in graph.output], test_outputs))
    outputs, expected, dropped = [], [], ""
    side = SIDE_OUTPUTS.get(test.operator)
    if side and len(results) > 1:
        dropped, results = side, results[:1]
    for name, value in results:
        if kind != "constant" and is_float32(value):
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(value.shape)))
            expected.append(value)
            continue
        flat = as_float32(value).reshape(1, -1)
        probe = np.linspace(-1, 1, batch * flat.size, dtype=np.float32).reshape(batch, -1)
        feeds[f"{name}_probe"] = probe
        graph.input.append(helper.make_tensor_value_info(f"{name}_probe", TensorProto.FLOAT, list(probe.shape)))
        graph.initializer.append(numpy_helper.from_array(np.array([1, -1], np.int64), f"{name}_flat_shape"))
        graph.node.extend([
            helper.make_node("Cast", [name], [f"{name}_float"], f"{name}_to_float", to=TensorProto.FLOAT),
            helper.make_node("Reshape", [f"{name}_float", f"{name}_flat_shape"], [f"{name}_flat"], f"{name}_flatten"),
            helper.make_node("Add", [f"{name}_probe", f"{name}_flat"], [f"{name}_probed"], f"{name}_add"),
        ])
        outputs.append(helper.make_tensor_value_info(f"{name}_probed", TensorProto.FLOAT, list(probe.shape)))
        expected.append(probe + flat)
    del graph.output[:]
    graph.output.extend(outputs)
    for index, node in enumerate(graph.node):
        node.name = node.name or f"node{index}"
    return Program(test, kind, model, feeds, expected, dropped, replaced)


def lift(program: Program) -> Program | None:
    """The program on one image of a batch, or None where its node has no such form."""
    graph = program.model.graph
    (node,) = graph.node
    constants = {i.name: i for i in graph.initializer}
    rank = max(v.ndim for v in program.feeds.values())
    if program.test.opset < 13 or any(len(o) and o not in {v.name for v in graph.output} for o in node.output):
        return None

    def shifted(axes: list[int]) -> list[int]:
        return [a + 1 if a >= 0 else a for a in axes]

    def set_attribute(name: str, value) -> None:
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    def set_constant(index: int, value: np.ndarray) -> None:
        constants[node.input[index]].CopyFrom(numpy_helper.from_array(value, node.input[index]))

    def constant(index: int) -> list[int] | None:
        present = index < len(node.input) and node.input[index]
        return numpy_helper.to_array(constants[node.input[index]]).tolist() if present else None

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in ("Softmax", "LogSoftmax", "Concat"):
        if "axis" in attributes:
            set_attribute("axis", shifted([attributes["axis"]])[0])
        for name in node.input:
            if name in constants and node.op_type == "Concat":
                value = numpy_helper.to_array(constants[name])
                constants[name].CopyFrom(numpy_helper.from_array(value[None], name))
    elif node.op_type == "Transpose":
        permutation = attributes.get("perm", list(reversed(range(rank))))
        set_attribute("perm", [0, *shifted(permutation)])
    elif node.op_type in ("Squeeze", "Unsqueeze", "ReduceMean"):
        axes = constant(1) or (list(range(rank)) if node.op_type == "ReduceMean" else None)
        if axes is None:
            return None
        if node.op_type == "ReduceMean" and constant(1) == []:
            axes = list(range(rank))
        set_constant(1, np.array(shifted(axes), np.int64))
    elif node.op_type == "Reshape":
        set_constant(1, np.array([1, *constant(1)], np.int64))
    elif node.op_type == "Slice":
        axes = constant(3)
        if axes is None:
            node.input.extend([""] * (4 - len(node.input)))
            node.input[3] = "axes_of_all"
            constants["axes_of_all"] = graph.initializer.add()
            axes = list(range(len(constant(1))))
        set_constant(3, np.array(shifted(axes), np.int64))

    for tensor in (*graph.input, *graph.output):
        dims = tensor.type.tensor_type.shape.dim
        extents = [d.dim_value for d in dims]
        del dims[:]
        for extent in (1, *extents):
            dims.add().dim_value = extent
    program.feeds = {name: value[None] for name, value in program.feeds.items()}
    program.expected = [value[None] for value in program.expected]
    return program


# Operands that were attributes before an opset: operator -> (first opset with operands, {operand index: attribute}).
ATTRIBUTES_BEFORE = {
    "Clip": (11, {1: "min", 2: "max"}),
    "Squeeze": (13, {1: "axes"}),
    "Unsqueeze": (13, {1: "axes"}),
    "ReduceMean": (18, {1: "axes"}),
    "Pad": (11, {1: "pads", 2: "value"}),
    "Slice": (10, {1: "starts", 2: "ends", 3: "axes"}),
    "Dropout": (12, {1: "ratio"}),
}


def in_older_opset(program: Program, opset: int) -> onnx.ModelProto | None:
    """The program's graph in an older opset, or None where that opset cannot say it.

    Whether the result still means the same is for the caller to check against the expected outputs.
    """
    if opset >= program.test.opset or opset >= NEWEST_OPSET:
        return None
    model = onnx.ModelProto()
    model.CopyFrom(program.model)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    model.ir_version = 8 if opset >= 13 else 4
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Softmax", "LogSoftmax") and opset < 13 and node.input[0] in program.feeds:
            # It ran over all axes from `axis`, 1 by default, to the last.
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            if axis % (rank := program.feeds[node.input[0]].ndim) != rank - 1:
                return None
        since, operands = ATTRIBUTES_BEFORE.get(node.op_type, (0, {}))
        if opset >= since:
            continue
        for index, attribute in operands.items():
            if index < len(node.input) and node.input[index]:
                if node.input[index] not in constants:
                    return None
                value = constants[node.input[index]]
                value = value.item() if value.ndim == 0 else value.tolist()
                if value != []:  # no axes: the attribute's default
                    node.attribute.append(helper.make_attribute(attribute, value))
        if any(node.input[max(operands) + 1 :]):
            return None
        del node.input[min(operands) :]
    used = {name for node in model.graph.node for name in node.input}
    kept = [i for i in model.graph.initializer if i.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    if opset < 13:  # initializers were also listed as inputs (IR version 3 demands it; exporters kept doing it)
        model.graph.input.extend(
            helper.make_tensor_value_info(i.name, i.data_type, list(i.dims)) for i in kept
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:  # noqa: BLE001  the checker raises several types; all mean "not expressible"
        return None
    return model
