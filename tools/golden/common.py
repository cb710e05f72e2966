"""What the golden files, the live comparison and the Rust tests agree on.

The input generator is repeated, bit for bit, in tests/models_golden.rs.
"""

from __future__ import annotations

import os
import pathlib
import subprocess

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"

# Acceptance: max |difference| <= LOGIT_TOLERANCE * max |reference|.
LOGIT_TOLERANCE = 2e-4


def seeded_input(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform values in [-2, 2), the same on every machine and in every language.

    Element i is SplitMix64's i-th output from state `seed`; its upper 24 bits k become
    (k - 2^23) / 2^22, which float32 holds exactly.
    """
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    k = (z >> np.uint64(40)).astype(np.int32) - (1 << 23)
    return (k.astype(np.float32) / np.float32(1 << 22)).reshape(shape)


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """max |difference| / max |reference|; infinite where either side is not finite or shapes differ."""
    if ours.shape != reference.shape or not np.isfinite(ours).all() or not np.isfinite(reference).all():
        return float("inf")
    # float64: light_resnet50's logits are near 1e19, whose squares float32 would still hold, but differences of
    # nearly equal float32 numbers should not be rounded again.
    difference = np.abs(ours.astype(np.float64) - reference.astype(np.float64)).max(initial=0.0)
    return float(difference / max(np.abs(reference.astype(np.float64)).max(initial=0.0), 1e-30))


def ort_session(model, threads: int = 1):
    """An ONNX Runtime CPU session on a path or on serialized bytes."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors reach us as exceptions
    model = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def ort_session_any_size(path: pathlib.Path, threads: int = 1):
    """As ort_session, with the batch and the image size left open where the file fixes them."""
    import onnx

    model = onnx.load(path)
    initializers = {i.name for i in model.graph.initializer}
    (feed,) = [i for i in model.graph.input if i.name not in initializers]
    for tensor in (feed, *model.graph.output):
        for axis, dim in enumerate(tensor.type.tensor_type.shape.dim):
            if tensor is not feed or dim.dim_value != 3:
                dim.dim_param = f"{tensor.name}_{axis}"
    del model.graph.value_info[:]
    return ort_session(model.SerializeToString(), threads)


def skipstone_binary() -> pathlib.Path:
    """The release CLI: $SKIPSTONE_BIN, or the workspace's target folder."""
    if given := os.environ.get("SKIPSTONE_BIN"):
        return pathlib.Path(given)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = target / "release" / "skipstone"
    if not binary.is_file():
        raise SystemExit(f"{binary} is missing: cargo build --release --workspace, or set SKIPSTONE_BIN")
    return binary


class SkipstoneError(Exception):
    """The CLI's failure: which verb, its exit code, and what it said."""

    def __init__(self, verb: str, code: int, said: str):
        super().__init__(said.strip())
        self.verb, self.code = verb, code


def skipstone(*args, env: dict[str, str] | None = None) -> str:
    """Run the CLI and return what it printed."""
    command = [str(skipstone_binary()), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        raise SkipstoneError(str(args[0]), done.returncode, done.stderr or done.stdout)
    return done.stdout


def run_packed(
    packed: pathlib.Path, feeds: dict[str, np.ndarray], outputs: list[str], scratch: pathlib.Path, threads: int = 1
) -> list[np.ndarray]:
    """The packed model's outputs for the inputs, through .npy files in `scratch`."""
    arguments = []
    for index, (name, value) in enumerate(feeds.items()):
        path = scratch / f"input{index}.npy"
        np.save(path, value)
        arguments += ["--input", f"{name}={path}" if len(feeds) > 1 else path]
    paths = [scratch / f"output{index}.npy" for index in range(len(outputs))]
    for name, path in zip(outputs, paths):
        arguments += ["--output", f"{name}={path}" if len(outputs) > 1 else path]
    skipstone("run", packed, *arguments, "--threads", threads)
    return [np.load(path) for path in paths]


def run_skipstone(
    onnx_path: pathlib.Path, feeds: dict[str, np.ndarray], outputs: list[str], scratch: pathlib.Path, threads: int = 1
) -> list[np.ndarray]:
    """Convert the ONNX file, then `run_packed`."""
    packed = scratch / "converted.skip"
    packed.unlink(missing_ok=True)
    skipstone("convert", onnx_path, "-o", packed)
    return run_packed(packed, feeds, outputs, scratch, threads)
