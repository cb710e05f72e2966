#!/usr/bin/env python3
"""Run the ONNX backend tests of every operator that skipstone imports.

    cargo build --release --workspace
    python3 -m venv .venv && .venv/bin/pip install -r tools/golden/requirements.txt
    .venv/bin/python tools/onnx-node-tests/run.py            # or: run.py PATTERN...  (parts of test names)

A program in scope (scope.py) must convert, run, and match within rtol 1e-3 / atol 1e-5, in its own opset and in every
older one that can say it. A program out of scope must be refused by `convert`, with the operator and the node (or the
tensor) named, or give the right answer. The exit code is 1 if anything else happens.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys
import tempfile

import numpy as np
import onnx

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "golden"))

import cases
import scope
from common import SkipstoneError, ort_session, run_skipstone

RTOL, ATOL = 1e-3, 1e-5
# Exit codes of a refusal: a shape that does not fit, a bad model, something unsupported.
REFUSALS = (1, 3, 5)


def close(ours: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(ours) == len(expected) and all(
        a.shape == b.shape and np.allclose(a, b, RTOL, ATOL, equal_nan=True) for a, b in zip(ours, expected)
    )


def agrees_with_ort(model: onnx.ModelProto, program: cases.Program) -> bool:
    """Whether ONNX Runtime, reading this form of the program, gives the test's outputs."""
    try:
        return close(ort_session(model.SerializeToString()).run(None, program.feeds), program.expected)
    except Exception:  # noqa: BLE001  "not implemented" and "invalid graph" have no common type
        return False


def names_the_place(message: str, model: onnx.ModelProto) -> bool:
    """Whether an error names a node with its operator, or one of the graph's tensors."""
    graph = model.graph
    if any(n.name in message and n.op_type in message for n in graph.node):
        return True
    tensors = [(t, "input") for t in graph.input] + [(t, "output") for t in graph.output]
    if any(f"{t.name} ({role})" in message for t, role in tensors):
        return True
    return any(f"'{t.name}'" in message for t in graph.initializer)


def verdict(model: onnx.ModelProto, program: cases.Program, promised: bool, scratch: pathlib.Path) -> tuple[str, str]:
    """("passed" | "refused" | "failed", what was said)."""
    path = scratch / "program.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        ours = run_skipstone(path, program.feeds, [o.name for o in model.graph.output], scratch)
    except SkipstoneError as error:
        if promised:
            return "failed", str(error)
        if error.verb != "convert" or error.code not in REFUSALS or "a defect of skipstone" in str(error):
            return "failed", f"{error.verb} ended with {error.code}, expected a refusal by convert: {error}"
        if not names_the_place(str(error), model):
            return "failed", f"the refusal names no node and operator: {error}"
        return "refused", str(error)
    if close(ours, program.expected):
        return "passed", ""
    worst = [
        f"shape {a.shape} for {b.shape}" if a.shape != b.shape else f"off by {np.abs(a - b).max():.3g}"
        for a, b in zip(ours, program.expected)
    ]
    return "failed", f"wrong answer: {', '.join(worst)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", help="only tests whose names contain one of these")
    parser.add_argument("--quick", action="store_true", help="each program in its own opset only")
    parser.add_argument("--report", type=pathlib.Path, help="also write the report to this file")
    arguments = parser.parse_args()

    report: list[str] = []

    def say(line: str = "") -> None:
        print(line, flush=True)
        report.append(line)

    tests = [t for t in cases.collect() if not arguments.patterns or any(p in t.name for p in arguments.patterns)]
    counts = collections.defaultdict(collections.Counter)
    left_out: dict[str, list[str]] = collections.defaultdict(list)
    failures: list[str] = []
    beyond: list[str] = []
    replaced: list[str] = []
    side_outputs: dict[str, list[str]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for test in tests:
            row = counts[test.operator]
            row["tests"] += 1
            if why := scope.test_reason(test):
                left_out[why].append(test.name)
                row["left out"] += 1
                continue
            in_scope = False
            for program in cases.programs(test):
                why = scope.reason(program)
                in_scope |= why is None
                if program.replaced:
                    replaced.append(program.name)
                if program.dropped:
                    side_outputs[f"{test.operator}: {program.dropped}"].append(program.name)
                forms = [(program.model, "")]
                if not arguments.quick:
                    older = ((v, cases.in_older_opset(program, v)) for v in cases.OLDER_OPSETS)
                    forms += [(m, f", opset {v}") for v, m in older if m is not None and agrees_with_ort(m, program)]
                for model, form in forms:
                    kind, said = verdict(model, program, why is None, scratch)
                    if kind == "failed":
                        failures.append(f"{program.name}{form}: {said}")
                    if why is None:
                        row["programs"] += 1
                        row["passed"] += kind == "passed"
                    elif not form:
                        if kind == "passed":
                            beyond.append(program.name)
                        else:
                            left_out[why].append(f"{program.name}\n        skipstone: {said}")
            row["in scope" if in_scope else "left out"] += 1

    say(f"ONNX backend tests (onnx {onnx.__version__}), rtol {RTOL}, atol {ATOL}")
    say()
    say(f"{'operator':20} {'tests':>6} {'in scope':>9} {'left out':>9} {'programs':>9} {'passed':>7}")
    total = collections.Counter()
    for operator, row in sorted(counts.items()):
        total.update(row)
        say(f"{operator:20} {row['tests']:6} {row['in scope']:9} {row['left out']:9} {row['programs']:9} {row['passed']:7}")
    say(f"{'total':20} {total['tests']:6} {total['in scope']:9} {total['left out']:9} {total['programs']:9} "
        f"{total['passed']:7}")
    say()
    say("Left out, and why:")
    for why, names in sorted(left_out.items()):
        say(f"  {why}")
        for name in names:
            say(f"      {name}")
    if side_outputs:
        say()
        say("Only the first output is compared (the others serve training or un-pooling):")
        for what, names in sorted(side_outputs.items()):
            say(f"  {what}: {', '.join(names)}")
    if replaced:
        say()
        say("With 1 in place of infinities and NaN, which constants may not be:")
        say(f"  {', '.join(replaced)}")
    if beyond:
        say()
        say("Right although not promised:")
        say("  " + ", ".join(beyond))
    if failures:
        say()
        say("FAILED:")
        for failure in failures:
            say(f"  {failure}")
    say()
    say(f"{total['passed']} passed, {len(failures)} failed")
    if arguments.report:
        arguments.report.write_text("\n".join(report) + "\n")
    missing = set() if arguments.patterns else set(cases.OPERATORS) - set(counts)
    if missing:
        say(f"no backend test covers {', '.join(sorted(missing))}")
    return 1 if failures or missing or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
