#!/usr/bin/env python3
"""The other runtimes that compare.py measures, one class each; run as a child process, one runtime per process.

    peers.py bench NAME MODEL.onnx --threads T --batch B --seconds S --size HxW     latency of repeated runs
    peers.py first NAME MODEL.onnx --threads T --batch B --size HxW                 the first logits of this process

Prints one JSON object. To add a runtime, add a class with `load` and `run` and list it in PEERS.
"""

from __future__ import annotations

import argparse
import json
import time


class OnnxRuntime:
    """ONNX Runtime's CPU provider with its defaults, as a user would call it."""

    requirement = "onnxruntime==1.32.0"

    def load(self, model: str, threads: int) -> tuple[int | None, ...]:
        """Load the model; returns its input's shape with None for open axes."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (feed, *_) = self.session.get_inputs()
        self.name = feed.name
        return tuple(d if isinstance(d, int) else None for d in feed.shape)

    def run(self, image):
        return self.session.run(None, {self.name: image})[0]


PEERS = {"onnxruntime": OnnxRuntime}


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(milliseconds: list[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    return {
        "min": ordered[0],
        "median": percentile(ordered, 0.5),
        "p90": percentile(ordered, 0.9),
        "p99": percentile(ordered, 0.99),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["bench", "first"])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--size", default="224x224")
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))

    started = time.monotonic()
    peer = PEERS[arguments.peer]()
    shape = peer.load(arguments.model, arguments.threads)

    import numpy as np

    own = (arguments.batch, height, width, 3) if shape[3] == 3 else (arguments.batch, 3, height, width)
    image = np.random.default_rng(0).standard_normal(own, dtype=np.float32)
    loaded = time.monotonic()
    peer.run(image)
    done = time.monotonic()
    # The monotonic clock is the machine's: the parent subtracts its own reading from before the process started.
    result = {"first_at": done, "init_ms": (loaded - started) * 1e3, "first_ms": (done - loaded) * 1e3}
    if arguments.what == "bench":
        for _ in range(3):
            peer.run(image)
        times: list[float] = []
        end = time.monotonic() + arguments.seconds
        while time.monotonic() < end or len(times) < 5:
            before = time.perf_counter()
            peer.run(image)
            times.append((time.perf_counter() - before) * 1e3)
        result["latency_ms"] = summary(times)
        result["runs"] = len(times)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
