#!/usr/bin/env python3
"""Latency, start-up time and memory of skipstone beside other runtimes: same model, same machine, in turn.

    cargo build --release --workspace
    python3 -m venv .venv && .venv/bin/pip install -r tools/golden/requirements.txt
    .venv/bin/python tools/compare/compare.py resnet50 --threads 1 2
    .venv/bin/python tools/compare/compare.py some.onnx --rounds 10 --seconds 5 --json result.json

MODEL is an .onnx file or a network of `skipstone synth`. In each round every runtime runs once, in a process of its own,
so that drift of a shared machine hits all alike. The ratio to believe is "ratio of minima" (ours / theirs, below 1 means
ours is faster); "rounds" shows how the per-round ratio of medians scattered.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# This process must stay small, without numpy or onnx: Linux counts a parent's memory at the time of the fork into the
# peak that it later reports for the child.


def skipstone_binary() -> str:
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = pathlib.Path(os.environ.get("SKIPSTONE_BIN", target / "release" / "skipstone"))
    if not binary.is_file():
        raise SystemExit(f"{binary} is missing: cargo build --release --workspace, or set SKIPSTONE_BIN")
    return str(binary)


def child(command: list[str]) -> tuple[str, float, float, int]:
    """(standard output, when it started, when it ended, peak resident bytes) of a process that must succeed."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return output, started, time.monotonic(), usage.ru_maxrss * 1024


class Skipstone:
    """This project, through its CLI, on the packed file."""

    name = "skipstone"

    def __init__(self, onnx: str, scratch: pathlib.Path, arguments):
        self.model = str(scratch / "model.skip")
        self.batch, self.size = arguments.batch, arguments.size
        child([skipstone_binary(), "convert", onnx, "-o", self.model])
        self.image = str(scratch / "image.npy")
        inspected, *_ = child([skipstone_binary(), "inspect", self.model, "--json"])
        height, width = map(int, self.size.split("x"))
        extents = {"N": self.batch, "C": 3, "H": height, "W": width}
        write_npy(self.image, tuple(extents[axis] for axis in json.loads(inspected)["inputs"][0]["axes"]))
        self.logits = str(scratch / "logits.npy")

    def bench(self, threads: int, seconds: float) -> dict:
        command = [skipstone_binary(), "bench", self.model, "--threads", str(threads), "--batch", str(self.batch)]
        command += ["--input-size", self.size]
        output, *_ = child([*command, "--min-secs", str(seconds), "--json"])
        return json.loads(output)["latency_ms"]

    def first(self, threads: int) -> tuple[float, int]:
        """Milliseconds from process start to its end with the logits written, and peak resident bytes."""
        command = [skipstone_binary(), "run", self.model, "--input", self.image, "--output", self.logits]
        _, started, ended, peak = child([*command, "--threads", str(threads)])
        return (ended - started) * 1e3, peak


class Peer:
    """A class of peers.py, in a Python process of its own."""

    def __init__(self, name: str, onnx: str, arguments):
        self.name = name
        self.common = [onnx, "--batch", str(arguments.batch), "--size", arguments.size]

    def call(self, what: str, *more: str):
        return child([sys.executable, str(HERE / "peers.py"), what, self.name, *self.common, *more])

    def bench(self, threads: int, seconds: float) -> dict:
        output, *_ = self.call("bench", "--threads", str(threads), "--seconds", str(seconds))
        return json.loads(output)["latency_ms"]

    def first(self, threads: int) -> tuple[float, int]:
        output, started, _, peak = self.call("first", "--threads", str(threads))
        return (json.loads(output)["first_at"] - started) * 1e3, peak


def write_npy(path: str, shape: tuple[int, ...]) -> None:
    """A float32 .npy file of small varying values, without numpy."""
    import array
    import math

    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    values = array.array("f", ((i * 37 % 199 - 99) / 60 for i in range(math.prod(shape))))
    pathlib.Path(path).write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + values.tobytes())


def processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="an .onnx file, or a network of `skipstone synth`")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", default="224x224", help="HEIGHTxWIDTH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of measurement per round and runtime")
    parser.add_argument("--peers", nargs="+", default=["onnxruntime"], help="classes of peers.py")
    parser.add_argument("--max-ratio", type=float, help="fail if a ratio of minima is above this")
    parser.add_argument("--json", type=pathlib.Path, help="also write every round's numbers to this file")
    arguments = parser.parse_args()

    record = {"processor": processor(), "model": arguments.model, "batch": arguments.batch, "size": arguments.size}
    record["settings"] = []
    too_slow = False
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        onnx = arguments.model
        if not onnx.endswith(".onnx"):
            onnx = str(scratch / "model.onnx")
            child([skipstone_binary(), "synth", arguments.model, "-o", onnx])
        runtimes = [Skipstone(onnx, scratch, arguments), *(Peer(p, onnx, arguments) for p in arguments.peers)]
        print(f"{arguments.model}, batch {arguments.batch}, {arguments.size}, {record['processor']}, "
              f"{arguments.rounds} rounds of {arguments.seconds:g} s in turn")
        for threads in arguments.threads:
            rounds = {r.name: [] for r in runtimes}
            starts = {r.name: [] for r in runtimes}
            for index in range(arguments.rounds):
                # Every other round runs backwards, so that no runtime always inherits the same neighbour's heat.
                for runtime in runtimes if index % 2 == 0 else reversed(runtimes):
                    rounds[runtime.name].append(runtime.bench(threads, arguments.seconds))
                    starts[runtime.name].append(runtime.first(threads))
            record["settings"].append({"threads": threads, "latency_ms": rounds, "first_ms_and_peak_bytes": starts})

            print(f"\n{threads} thread{'s' if threads > 1 else ''}")
            print(f"{'runtime':14} {'min ms':>8} {'median':>8} {'p90':>8} {'p99':>8}   {'start to first logits':>21} "
                  f"{'peak RSS':>10}")
            for name in rounds:
                middle = {k: statistics.median(r[k] for r in rounds[name]) for k in ("median", "p90", "p99")}
                least = min(r["min"] for r in rounds[name])
                first, peak = min(s[0] for s in starts[name]), max(s[1] for s in starts[name])
                print(f"{name:14} {least:8.2f} {middle['median']:8.2f} {middle['p90']:8.2f} {middle['p99']:8.2f}   "
                      f"{first:18.0f} ms {peak / 2**20:6.0f} MiB")
            ours = rounds["skipstone"]
            for peer in arguments.peers:
                theirs = rounds[peer]
                ratio = min(r["min"] for r in ours) / min(r["min"] for r in theirs)
                scatter = sorted(a["median"] / b["median"] for a, b in zip(ours, theirs))
                print(f"skipstone / {peer}: ratio of minima {ratio:.3f}, of medians {statistics.median(scatter):.3f} "
                      f"(rounds {scatter[0]:.3f} to {scatter[-1]:.3f})", flush=True)
                too_slow |= arguments.max_ratio is not None and ratio > arguments.max_ratio
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    if too_slow:
        print(f"above the allowed ratio {arguments.max_ratio}")
    return 1 if too_slow else 0


if __name__ == "__main__":
    sys.exit(main())
