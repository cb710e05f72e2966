#!/usr/bin/env python3
"""Compares `skipstone serve` with the bare library, and with FastAPI before ONNX Runtime.

    python tools/server/compare.py target/release/skipstone resnet50.onnx

All serve the same network, to the same client, in turns: images as f32 in binary bodies, one per request.
With --apart the clients have the last CPU for themselves, so that their work is not taken for a server's.
Prints requests per second: the median of the rounds, and the ratio to ours. The two servers must give
the same logits. Needs `pip install -r tools/server/requirements-compare.txt`.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from client import Connection, closed_loop, during, post
from serving import CALM, Server, free_port, on, split_cpus

HERE = Path(__file__).parent
SERVED, BARE = "skipstone serve --hint throughput", "the library alone (bench --scenario offline)"


class Peer(Server):
    """peer.py under uvicorn."""

    ready = "/docs"
    # uvicorn cleans up, and then lets the signal have its way.
    clean = {0, -signal.SIGTERM}

    def __init__(self, args, streams):
        threads = str(len(args.cpus))
        environment = {"PEER_MODEL": args.model, "PEER_STREAMS": str(streams), "PEER_THREADS": threads}
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "peer:app", "--port", str(port), "--log-level", "warning"]
        self.start(port, command, args.cpus, cwd=HERE, env={**os.environ, **environment})


def infer_request(server, image):
    """The Open Inference Protocol's, with binary tensors."""
    about = json.loads(server.get("/v2/models/m"))
    given, wanted = about["inputs"][0], about["outputs"][0]
    binary = {"binary_data_size": image.nbytes}
    shape = [1, *given["shape"][1:]]
    tensor = {"name": given["name"], "shape": shape, "datatype": "FP32", "parameters": binary}
    output = {"name": wanted["name"], "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    fields = {"Inference-Header-Content-Length": len(head)}
    return post("/v2/models/m/infer", head + image.tobytes(), **fields)


async def answer(port, request, outputs):
    """The logits at the end of an answer's body."""
    connection = await Connection.open(port)
    status, body = await connection.request(request)
    assert status == 200, body[:500]
    connection.close()
    return np.frombuffer(body[len(body) - 4 * outputs :], np.float32)


async def load(server, request, args):
    await closed_loop(server.port, request, args.clients, during(args.seconds / 4))
    tally = await closed_loop(server.port, request, args.clients, during(args.seconds))
    assert set(tally.statuses) == {200} and not tally.lost, vars(tally)
    return tally.throughput()


def ours(args, hint, image, logits):
    options = ["--model", f"m={args.packed}", "--hint", hint, "--max-queue", "64"]
    with Server(args.binary, *options, *CALM, cpus=args.cpus) as server:
        request = infer_request(server, image)
        logits["ours"] = asyncio.run(answer(server.port, request, args.outputs))
        return asyncio.run(load(server, request, args))


def theirs(args, streams, image, logits):
    with Peer(args, streams) as server:
        request = post("/infer", image.tobytes())
        logits["theirs"] = asyncio.run(answer(server.port, request, args.outputs))
        return asyncio.run(load(server, request, args))


def library(args):
    command = [args.binary, "bench", args.packed, "--scenario", "offline", "--json", "--num-runs", "1",
               "--min-secs", str(args.seconds)]
    with on(args.cpus):
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(found)["metric"]["value"]


def image_len(ports):
    """Elements of the only one, for one image."""
    (port,) = ports
    return int(np.prod(port["shape"][1:]))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("model", type=os.path.abspath, help="an ONNX file with one input and one output")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8, help="each with one request at a time")
    parser.add_argument("--apart", action="store_true", help="give the clients a CPU of their own")
    return parser.parse_args()


def main():
    args = parse()
    args.cpus = os.sched_getaffinity(0)
    if args.apart:
        args.cpus, own = split_cpus()
        os.sched_setaffinity(0, own)
    streams = len(args.cpus)
    with tempfile.TemporaryDirectory() as folder:
        args.packed = f"{folder}/model.skip"
        subprocess.run([args.binary, "convert", "--quiet", args.model, "-o", args.packed], check=True,
                       stdout=subprocess.DEVNULL)
        about = json.loads(subprocess.run([args.binary, "inspect", "--json", args.packed], check=True,
                                          stdout=subprocess.PIPE).stdout)
        args.outputs = image_len(about["outputs"])
        image = np.random.default_rng(0).standard_normal(image_len(about["inputs"]), np.float32)
        logits, rates = {}, {}
        runs = {
            SERVED: lambda: ours(args, "throughput", image, logits),
            BARE: lambda: library(args),
            "skipstone serve --hint latency": lambda: ours(args, "latency", image, logits),
            "FastAPI, 1 request at a time": lambda: theirs(args, 1, image, logits),
            f"FastAPI, {streams} request{'s' * (streams > 1)} at a time": lambda: theirs(args, streams, image, logits),
        }
        for _ in range(args.rounds):
            for name, run in runs.items():
                rates.setdefault(name, []).append(run())
    scale = np.abs(logits["theirs"]).max()
    error = np.abs(logits["ours"] - logits["theirs"]).max() / scale
    assert error <= 2e-4, f"logits differ by {error:.1e} of the largest"
    served, bare = (rates[name] for name in (SERVED, BARE))
    first = statistics.median(served)
    for name, values in rates.items():
        middle = statistics.median(values)
        print(f"{middle:9.1f} /s  {middle / first:5.2f}  {name}")
    # Neighbours in time: the machine may be faster or slower a minute later.
    overhead = statistics.median(1 - ours / alone for ours, alone in zip(served, bare, strict=True))
    print(f"{overhead:9.1%} of the library's throughput is lost to the server, median of {args.rounds} rounds")


if __name__ == "__main__":
    main()
