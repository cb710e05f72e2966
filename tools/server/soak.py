#!/usr/bin/env python3
"""Loads a server of the built-in network for a while, and checks that it does not grow.

    python3 tools/server/soak.py target/release/skipstone --seconds 600

First it measures what the server can do, then it asks for a part of that: photographs, tensors and
requests that are refused. Memory is compared between the second and the last quarter of the time;
open files and threads must not be more at the end. Exits with 1 if the server grew, or failed.
"""

import argparse
import http.client
import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path

from serving import CALM, MODEL, PATIENCE, PHOTO, Server

INPUT = "input:0"
CLIENTS = 4
# What the allocator may keep more or less of from one quarter to another.
MAX_GROWTH_KIB = 2048


def requests():
    """Path, headers, body, and the status that answers them."""
    pixels = bytes(i % 251 for i in range(224 * 224 * 3))
    tensor = {"name": INPUT, "datatype": "UINT8", "shape": [1, 224, 224, 3],
              "parameters": {"binary_data_size": len(pixels)}}
    header = json.dumps({"inputs": [tensor]}).encode()
    binary = {"Inference-Header-Content-Length": str(len(header))}
    infer = f"/v2/models/{MODEL}/infer"
    return [
        ("/v1/classify", {}, PHOTO.read_bytes(), 200),
        (infer, binary, header + pixels, 200),
        ("/v1/classify", {}, PHOTO.read_bytes()[:1000], 400),
        (infer, {}, b"[" * 100, 400),
    ]


class Client(threading.Thread):
    """Sends one request after another, each `interval` seconds after the last at the earliest."""

    def __init__(self, port, interval, seconds):
        super().__init__()
        self.port, self.interval, self.seconds = port, interval, seconds
        self.answers, self.wrong = 0, []

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        script, next_start = requests(), time.monotonic()
        end = next_start + self.seconds
        while (now := time.monotonic()) < end:
            time.sleep(max(0, next_start - now))
            # A late request does not make the next ones hurry.
            next_start = max(next_start, now) + self.interval
            # Most requests are answered with 200.
            path, headers, body, expected = script[(0, 1, 0, 1, 0, 2, 1, 3)[self.answers % 8]]
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            self.answers += 1
            if answer.status != expected:
                self.wrong.append((answer.status, text[:200]))


def load(port, interval, seconds, watch=lambda: None):
    """Number of answers; fails at the first wrong one."""
    clients = [Client(port, interval, seconds) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        watch()
        time.sleep(1)
    wrong = [answer for client in clients for answer in client.wrong]
    if wrong:
        raise SystemExit(f"{len(wrong)} wrong answers; the first: {wrong[0]}")
    return sum(client.answers for client in clients)


def usage(pid):
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    field = {line.split(":")[0]: line.split()[1] for line in status if len(line.split()) > 1}
    return int(field["VmRSS"]), len(os.listdir(f"/proc/{pid}/fd")), int(field["Threads"])


def soak(server, seconds, part):
    port, pid = server.port, server.process.pid
    calibration = max(2, min(20, seconds / 10))
    capacity = load(port, 0, calibration) / calibration
    samples = []
    answers = load(port, CLIENTS / (part * capacity), seconds,
                   lambda: samples.append((time.monotonic(), *usage(pid))))
    start, span = samples[0][0], samples[-1][0] - samples[0][0]

    def quarter(i):
        inside = [s for s in samples if i / 4 <= (s[0] - start) / span <= (i + 1) / 4]
        return [statistics.median(s[k] for s in inside) for k in (1, 2, 3)]

    before, after = quarter(1), quarter(3)
    print(f"{seconds:.0f} s at {part:.0%} of {capacity:.1f} requests/s: {answers} answers, none wrong; "
          f"resident KiB {before[0]:.0f}, then {after[0]:.0f}; files {before[1]:.0f}, {after[1]:.0f}; "
          f"threads {before[2]:.0f}, {after[2]:.0f}", flush=True)
    if after[0] - before[0] > MAX_GROWTH_KIB or after[1] > before[1] or after[2] > before[2]:
        raise SystemExit("the server grew")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("skipstone")
    arguments.add_argument("--seconds", type=float, default=600)
    arguments.add_argument("--part", type=float, default=0.7, help="of what the server can do")
    arguments = arguments.parse_args()
    with Server(arguments.skipstone, *CALM, "--log-level", "warn") as server:
        soak(server, arguments.seconds, arguments.part)


if __name__ == "__main__":
    sys.exit(main())
