#!/usr/bin/env python3
"""Measures a model with MLPerf's own LoadGen, which drives the C library.

    python tools/loadgen/run.py MODEL.skip --library target/dest/usr/lib/libskipstone.so --short

runs SingleStream, MultiStream, Server and Offline, each for performance and for accuracy, and fails
unless LoadGen calls each result valid and its accuracy log holds, to the bit, what direct runs give.
Needs `pip install -r tools/loadgen/requirements.txt`; README.md says what the settings are.
"""

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path

import mlperf_loadgen as lg
import numpy as np
from skipstone import Library, Session

# What suits each scenario; --option overrides it.
OPTIONS = {
    "SingleStream": {"hint": "latency"},
    "MultiStream": {"hint": "throughput"},
    "Server": {"hint": "throughput"},
    "Offline": {"hint": "throughput"},
}
METRICS = {
    "SingleStream": "90.0th percentile latency (ns)",
    "MultiStream": "99.0th percentile latency (ns)",
    "Server": "Completed samples per second",
    "Offline": "Samples per second",
}
# Images that may be in the session at a time: the rest of an Offline query waits here.
IN_FLIGHT = 256
# LoadGen prepares as many queries as this multiple of the measured rate fills its minimum time with; a machine
# that was busy while it was measured may be several times as fast later.
MARGIN = 10
# An Offline query holds its samples at once, and all of them are run.
OFFLINE_MARGIN = 3
# Of the throughput just measured, unless --target-qps says what Server must sustain.
SERVER_LOAD = 0.5


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--library", default="libskipstone.so", help="path of the shared library")
    parser.add_argument("--scenario", choices=OPTIONS, nargs="+", default=list(OPTIONS))
    parser.add_argument("--short", action="store_true", help="seconds, not MLPerf's ten minutes")
    parser.add_argument("--samples", help=".npy of f32 images (N first); without it, seeded noise")
    parser.add_argument("--target-qps", type=float, help="of Server (default: half of what was measured)")
    parser.add_argument("--option", metavar="KEY=VALUE", action="append", default=[],
                        help="of the session, as skipstone_options_set takes it")
    parser.add_argument("--log-class", action="store_true",
                        help="log the best class as int32, as MLPerf's accuracy scripts read it")
    parser.add_argument("--output", default="target/loadgen", help="folder of the logs")
    return parser.parse_args()


def images(path, shape, count):
    """Images in the network's own axes, `count` of them or all of the file."""
    if path:
        return np.load(path, mmap_mode="r")
    generator = np.random.Generator(np.random.PCG64(0))
    return generator.standard_normal((count, *shape), dtype=np.float32)


class System:
    """What LoadGen calls: samples in memory, and queries of them."""

    def __init__(self, session, samples, to_log):
        self.session, self.samples, self.to_log = session, samples, to_log
        self.loaded = {}
        self.room = threading.BoundedSemaphore(IN_FLIGHT)

    def load(self, indices):
        for index in indices:
            self.loaded[index] = np.ascontiguousarray(self.samples[index], np.float32)

    def unload(self, indices):
        # A set for MultiStream may name a sample twice.
        for index in indices:
            self.loaded.pop(index, None)

    def issue(self, query):
        for sample in query:
            self.room.acquire()
            self.session.submit(self.loaded[sample.index], self.completion(sample.id))

    def completion(self, sample_id):
        def done(outputs):
            logged = self.to_log(outputs)
            response = lg.QuerySampleResponse(sample_id, logged.ctypes.data, logged.nbytes)
            lg.QuerySamplesComplete([response])
            self.room.release()

        return done


def whole(outputs):
    return outputs


def best_class(outputs):
    return np.argmax(outputs, keepdims=True).astype(np.int32)


def measured_qps(session, image, in_flight):
    """Images a second, with so many of them in the session at a time: the best of some short spells."""
    session.run(image)
    return max(spell(session, image, in_flight) for _ in range(5))


def spell(session, image, in_flight, seconds=0.15):
    room, count = threading.BoundedSemaphore(in_flight), 0
    start = time.monotonic()
    while time.monotonic() - start < seconds or count < 8:
        room.acquire()
        session.submit(image, lambda _outputs: room.release())
        count += 1
    for _ in range(in_flight):
        room.acquire()
    return count / (time.monotonic() - start)


def settings(args, scenario, session, image):
    """MLPerf's rules for ResNet-50, which LoadGen carries; and what they leave to the submitter."""
    made = lg.TestSettings()
    if made.FromConfig("", "resnet50", scenario, 0) != 0:
        sys.exit(f"LoadGen has no rules for {scenario}")
    made.scenario = getattr(lg.TestScenario, scenario)
    if args.short:
        made.min_duration_ms = 2000
        made.performance_sample_count_override = 64
        # A shared machine may stop for longer than MLPerf's 15 ms.
        made.server_target_latency_ns = 250_000_000
        if scenario == "Offline":
            made.min_query_count = 1024
    one = measured_qps(session, image, 1)
    made.single_stream_expected_latency_ns = int(1e9 / one / MARGIN)
    eight = made.multi_stream_samples_per_query
    made.multi_stream_expected_latency_ns = int(1e9 * eight / measured_qps(session, image, eight) / MARGIN)
    most = measured_qps(session, image, IN_FLIGHT)
    made.offline_expected_qps = most * OFFLINE_MARGIN if args.short else most * 1.2
    made.server_target_qps = args.target_qps or most * SERVER_LOAD
    return made


def start(system, made, mode, folder):
    made.mode = mode
    folder.mkdir(parents=True, exist_ok=True)
    logs = lg.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.log_output.copy_summary_to_stdout = False
    logs.enable_trace = False
    count = len(system.samples)
    performance = min(made.performance_sample_count_override or count, count)
    library = lg.ConstructQSL(count, performance, system.load, system.unload)
    test = lg.ConstructSUT(system.issue, lambda: None)
    try:
        lg.StartTestWithLogSettings(test, library, made, logs)
    finally:
        lg.DestroySUT(test)
        lg.DestroyQSL(library)


def summary(folder):
    """The fields of LoadGen's summary by name."""
    lines = (folder / "mlperf_log_summary.txt").read_text().splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def check_accuracy(system, folder):
    """Every sample once, with what a direct run gives."""
    entries = json.loads((folder / "mlperf_log_accuracy.json").read_text())
    logged = {entry["qsl_idx"]: bytes.fromhex(entry["data"]) for entry in entries}
    count = len(system.samples)
    assert len(entries) == len(logged) == count, f"{len(entries)} results of {count} samples"
    for index, data in logged.items():
        image = np.ascontiguousarray(system.samples[index], np.float32)
        direct = system.to_log(system.session.run(image)).tobytes()
        assert data == direct, f"sample {index}: the log differs from a direct run"


def measure(args, scenario):
    given = dict(option.split("=", 1) for option in args.option)
    options = {"warm_up": 1, "max_queue": IN_FLIGHT, **OPTIONS[scenario], **given}
    with Session(Library(args.library), args.model, options) as session:
        samples = images(args.samples, session.input_shape, 64 if args.short else 1024)
        system = System(session, samples, best_class if args.log_class else whole)
        made = settings(args, scenario, session, np.ascontiguousarray(samples[0], np.float32))
        folder = Path(args.output) / scenario
        start(system, made, lg.TestMode.PerformanceOnly, folder / "performance")
        start(system, made, lg.TestMode.AccuracyOnly, folder / "accuracy")
        check_accuracy(system, folder / "accuracy")
    found = summary(folder / "performance")
    metric = METRICS[scenario]
    print(f"{scenario:13} Result is : {found['Result is']}  {metric} : {found[metric]}")
    return found["Result is"] == "VALID"


def main():
    args = arguments()
    args.model = os.fspath(args.model)
    valid = [measure(args, scenario) for scenario in args.scenario]
    if not all(valid):
        sys.exit(f"not valid: see {args.output}")
    print("all valid; accuracy logs are those of direct runs")


if __name__ == "__main__":
    main()
