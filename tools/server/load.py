#!/usr/bin/env python3
"""Loads a server as it should not be, and checks that it stays what it promises.

    python tools/server/load.py target/release/skipstone --short

Without --short each part takes its full time, and times are checked too: for a machine that does nothing
else (--busy: for one that does). Parts: overload, drain, slow, hostile, idle. Needs nothing but Python.

The clients, this process, run on the last of the CPUs that it may use, the server on all others: what it costs
to offer a load is not taken from the server's throughput, neither at most nor under overload.
"""

import argparse
import asyncio
import json
import os
import random
import struct
import sys
import time
import zlib
from pathlib import Path

from client import Connection, Tally, closed_loop, during, open_loop, post
from serving import CALM, MODEL, MODEL_FILE, PATIENCE, PHOTO, Server, split_cpus

MIB = 1 << 20
# Numbers of clients in turns: one of them gets the most out of a server.
CLIENTS = [4, 8, 16]
OVERLOAD = 5
DRAINING = ["--drain-delay", "0.5", "--timeout-ms", "60000"]


def classify():
    return post("/v1/classify", PHOTO.read_bytes())


def rss(server):
    """Resident bytes."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(server):
    """To the nanosecond: Linux' number for the clock of another process, as clock_getcpuclockid makes it."""
    return time.clock_gettime((~server.process.pid << 3) | 2)


def timed(args, holds, what):
    """Checks what depends on an idle machine, where one was promised."""
    assert holds or args.short or args.busy, what
    return "" if holds else " (beyond the bound, but the machine is not idle)"


# ---- parts


async def overload(args):
    """Five times as many requests as can be answered: 200, 503 and 504, memory flat, throughput kept."""
    seconds = 8 if args.short else 60
    options = ["--hint", "throughput", "--drain-delay", "0", *args.options]
    with Server(args.binary, *options, cpus=args.cpus) as server:
        most = await most_throughput(server, seconds / 6)
        assert most, "too slow to answer anything"
        sizes, busy = [], time.process_time()
        load = asyncio.create_task(open_loop(server.port, classify(), OVERLOAD * most, seconds))
        while not load.done():
            sizes.append(rss(server))
            await asyncio.sleep(0.25)
        tally, throughput = load.result()
        busy = (time.process_time() - busy) / tally.seconds
        # The same machine may be faster or slower a minute later.
        most = (most + await most_throughput(server, seconds / 6)) / 2
    # Memory for the requests that may be in flight comes in the first seconds.
    settled = sizes[len(sizes) // 4 :]
    growth = max(settled) / min(settled) - 1
    kept = throughput / most
    offered = sum(tally.statuses.values()) / tally.seconds / most
    counts = ", ".join(f"{count} x {status}" for status, count in sorted(tally.statuses.items()))
    found = (
        f"{counts}; memory within {growth:.1%} of {max(settled) / MIB:.0f} MiB; {kept:.1%} of {most:.1f} answers a "
        f"second, {offered:.1f} times as many requests (by {busy:.0%} of a CPU)"
    )
    assert set(tally.statuses) <= {200, 503, 504} and tally.lost == tally.not_accepted == 0, (
        f"{tally.lost} lost, {tally.not_accepted} not accepted: {found}"
    )
    assert growth <= 0.05, f"memory moves: {found}"
    return found + timed(args, kept >= 0.95 and offered >= 0.95 * OVERLOAD, f"not as promised: {found}")


async def most_throughput(server, seconds):
    """Answers a second without overload, with as many clients as get the most out of the server."""

    async def throughput(clients, seconds):
        return (await closed_loop(server.port, classify(), clients, during(seconds))).throughput()

    tried = {clients: await throughput(clients, seconds / 4) for clients in CLIENTS}
    return await throughput(max(tried, key=tried.get), seconds)


async def drain(args):
    """SIGTERM under load, again and again: every accepted request is answered, exit code 0."""
    answered, not_accepted, rounds = 0, 0, 4 if args.short else 20
    for _ in range(rounds):
        with Server(args.binary, *DRAINING, cpus=args.cpus) as server:
            load = closed_loop(server.port, classify(), 8, lambda: True)
            load = asyncio.create_task(load)
            await asyncio.sleep(random.uniform(0.1, 0.7))
            server.process.terminate()
            tally = await load
            # A second signal would end it at once.
            await asyncio.to_thread(server.process.wait, PATIENCE)
        assert tally.lost == 0, f"{tally.lost} accepted requests were lost"
        assert set(tally.statuses) <= {200, 503}, tally.statuses
        answered += tally.statuses[200]
        not_accepted += tally.not_accepted
    return f"{rounds} times: {answered} answered, 0 lost, {not_accepted} came when the port closed"


async def slow(args):
    """200 silent and 200 slow connections end within 15 s, and nobody else notices."""
    rounds, last, alone, beside = 1 if args.short else 4, 0, Tally(), Tally()
    with Server(args.binary, *CALM, cpus=args.cpus) as server:
        await closed_loop(server.port, classify(), 1, during(2))
        # In turns: the machine may be faster or slower a minute later.
        for _ in range(rounds):
            alone.add(await closed_loop(server.port, classify(), 1, during(5 if args.short else 10)))
            ends = [asyncio.create_task(end_of(server.port, kind)) for kind in [False, True] * 200]
            beside.add(await closed_loop(server.port, classify(), 1, lambda: not all(e.done() for e in ends)))
            last = max(last, *(end.result() for end in ends))
    assert set(beside.statuses) == {200}, beside.statuses
    assert last <= 15, f"a connection was open for {last:.1f} s"
    found = ", ".join(
        f"{name} {alone.percentile(part):.2f} ms alone and {beside.percentile(part):.2f} ms beside them"
        for name, part in [("median", 0.5), ("99th percentile", 0.99)]
    )
    change = beside.percentile(0.99) / alone.percentile(0.99) - 1
    late = timed(args, change <= 0.2, f"the 99th percentile grows by {change:.1%}: {found}")
    return f"all closed after {last:.1f} s; another client's {found} ({change:+.1%}), {rounds} times in turns{late}"


async def end_of(port, slow_head):
    """After how long the server closes a connection that says nothing, or a head byte by byte."""
    # Not all at once: the client that is measured shares this thread.
    await asyncio.sleep(random.random())
    start = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if slow_head:
            writer.write(b"GET /v2 HTTP/1.1\r\nX-Slow: ")
        while True:
            try:
                if not await asyncio.wait_for(reader.read(4096), 1):
                    break
            except TimeoutError:
                if slow_head:
                    writer.write(b"x")
    except ConnectionError:
        pass
    finally:
        writer.close()
    return time.monotonic() - start


async def hostile(args):
    """Bombs, lies and broken files: refused, soon, and without the memory they ask for."""
    times, before = [], None
    with Server(args.binary, *CALM, cpus=args.cpus) as server:
        connection = await Connection.open(server.port)
        assert (await connection.request(classify()))[0] == 200
        before = rss(server)
        peak = before
        for name, request in hostile_requests():
            if not connection.is_open:
                connection = await Connection.open(server.port)
            sent = time.monotonic()
            status, body = await connection.request(request)
            times.append(time.monotonic() - sent)
            assert 400 <= status < 500 and b"error" in body, f"{name}: {status} {body[:200]}"
            peak = max(peak, rss(server))
        assert (await connection.request(classify()))[0] == 200
    grown = (peak - before) / MIB
    assert grown <= 200, f"{grown:.0f} MiB more"
    worst = max(times) * 1e3
    late = timed(args, worst <= 100, f"an answer took {worst:.0f} ms")
    return f"{len(times)} refused, the slowest after {worst:.0f} ms{late}; {grown:.0f} MiB more"


def hostile_requests():
    photo = PHOTO.read_bytes()
    frame = photo.index(b"\xff\xc0" if b"\xff\xc0" in photo else b"\xff\xc2") + 5
    bomb = photo[:frame] + struct.pack(">HH", 60000, 60000) + photo[frame + 4 :]
    images = {
        "a PNG of 60,000 x 60,000": png(60000, 60000, b"\0" * 1000),
        "a PNG of more pixels than allowed": png(8000, 8000, b"\0" * 1000),
        "a JPEG of 60,000 x 60,000": bomb,
        "half a JPEG": photo[: len(photo) // 2],
        "half a PNG": png(64, 64, b"\0" * 64)[:60],
        "a GIF with a JPEG behind it": b"GIF89a" + photo,
        "a JPEG's start with a PNG behind it": photo[:4] + png(4, 4, b"\0" * 52),
        "an EXIF block that ends nowhere": photo[:2] + b"\xff\xe1\xff\xffExif\0\0MM\0*\0\0\0\x08",
        "nothing": b"",
    }
    for name, image in images.items():
        yield name, post("/v1/classify", image)
    infer = f"/v2/models/{MODEL}/infer"
    texts = {
        "10,000 arrays": "[" * 10_000,
        "one key twice": '{"inputs": [], "inputs": []}',
        "a huge shape": tensor([10**11]),
        "a negative shape": tensor([-1, 224, 224, 3]),
        "numbers that are none": tensor([1], data="[NaN]"),
        "numbers beyond all": tensor([1], data="[1e999]"),
        "a million numbers": tensor([1, 3, 224, 224], data=json.dumps([0] * 1_000_000)),
    }
    for name, text in texts.items():
        yield name, post(infer, text.encode(), Content_Type="application/json")
    for size in (0, 3, 10**12, -1):
        text = tensor([1, 3, 224, 224], parameters=f'{{"binary_data_size": {size}}}').encode()
        fields = {"Inference-Header-Content-Length": len(text)}
        yield f"binary_data_size {size}", post(infer, text + b"\0" * 16, **fields)
    too_long = {"Inference-Header-Content-Length": 10**9}
    yield "a JSON part beyond the body", post(infer, b"{}", **too_long)


def tensor(shape, **fields):
    given = {"name": '"data"', "shape": json.dumps(shape), "datatype": '"FP32"', **fields}
    text = ", ".join(f'"{key}": {value}' for key, value in given.items())
    return f'{{"inputs": [{{{text}}}]}}'


def png(width, height, rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


async def idle(args):
    """No CPU time from one second after the last request on, with a model in a file too,
    where its file system tells of changes."""
    seconds, found = 3 if args.short else 20, []
    # A part of one CPU: timers of connections, of files once a minute.
    most = 5e-5
    for model, options in [("built in", []), ("in a file", ["--model", f"m={MODEL_FILE}"])]:
        with Server(args.binary, *options, *CALM, cpus=args.cpus) as server:
            await closed_loop(server.port, classify(), 4, during(2))
            await asyncio.sleep(1)
            # On a busy machine the last threads may come to rest later; who polls does so all the time.
            for _ in range(3):
                before = cpu_seconds(server)
                await asyncio.sleep(seconds)
                spent = cpu_seconds(server) - before
                if spent <= most * seconds:
                    break
        found.append(f"{spent / seconds * 1e6:.0f} us of CPU a second with a model {model}")
        assert spent <= most * seconds, found[-1]
    return ", ".join(found)


PARTS = {part.__name__: part for part in (overload, drain, slow, hostile, idle)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated (default: all)")
    parser.add_argument("--short", action="store_true", help="seconds, as if --busy")
    parser.add_argument("--busy", action="store_true", help="no bounds on times")
    parser.add_argument("options", nargs="*", help="of the server under overload, after --")
    args = parser.parse_args()
    args.cpus, own = split_cpus()
    os.sched_setaffinity(0, own)
    for name in args.part or PARTS:
        print(f"{name:9} {asyncio.run(PARTS[name](args))}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
