#!/usr/bin/env python3
"""Latency, start-up time and memory of skipstone beside other runtimes: same network, same machine, in turn.

    cargo build --release --workspace
    python3 tools/compare/compare.py resnet50 --threads 1 2
    python3 tools/compare/compare.py --model resnet50 resnet18 vgg16 --threads 1 2 --batch 1 8 --realtime

makes .venv-compare with the peers on first use (wheels only, pinned in requirements*.txt; what has no wheel here is
left out and named). Started with the Python of a virtual environment, it uses that one, installs nothing, and saves
results only to --output; otherwise they go to benches/results.

MODEL is a network of `skipstone synth`, or an .onnx file. Each peer gets it through its own converter, and must compute
the same logits. Each runtime then has one process, kept alive; in each round every runtime runs for a moment, in an
order that rotates, and nothing else of this script runs meanwhile. skipstone is a new process each time, whose start,
planning and first runs are not counted. "min" is the least of all rounds, "median" the median of the rounds' medians,
both per image. Ratios are ours / theirs: below 1 means that skipstone is faster.

--dtype int8 compares quantized networks: skipstone's from its own quantizer, and from the very file that ONNX Runtime
quantized; ONNX Runtime's, OpenVINO's and DeepSparse's from the files that quantize_peers.py makes with their tools, all
calibrated with the same images. skipstone's f32 is measured along with them. Logits are compared with its f32 logits, and
those of the imported file with ONNX Runtime's, which has a row more for that: without VNNI its own choice of kernels lets
sums saturate, "exact" is told not to (session.x64quantprecision).

Where the CPU has AVX-512, which skipstone does not use yet, each peer has a second row in which it takes the CPU for one
without it (hold.py; needs a C compiler and objdump).

--realtime runs the measured bursts with real-time priority (root, or CAP_SYS_NICE), for machines that are busy.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from runtimes import (
    AVX2, EXACT, FLOAT, HERE, IMPORTED, INT8_PEERS, PEERS, REALTIME, ROOT, Environments, Network, Peer, Skipstone, child,
    quiet, read_npy, skipstone_binary,
)  # fmt: skip

# Differences to skipstone's f32 logits that are allowed, as a part of the largest. Methods of quantization differ by
# much more than kernels do.
TOLERANCES = {"f32": 1e-3, "int8": 0.3}
# Of skipstone's import of ONNX Runtime's int8 file to ONNX Runtime's own logits.
IMPORT_TOLERANCE = 0.02


# ---- the machine


def cpu() -> dict:
    facts = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    family = {
        ("AuthenticAMD", 23): "Zen or Zen 2",
        ("AuthenticAMD", 25): "Zen 3 or Zen 4",
        ("AuthenticAMD", 26): "Zen 5",
    }.get((facts.get("vendor_id"), int(facts.get("cpu family", 0))), "")
    flags = facts.get("flags", "").split()
    if family == "Zen 3 or Zen 4":
        family = "Zen 4" if "avx512f" in flags else "Zen 3"
    return {
        "model": facts.get("model name", "unknown"),
        "family": family,
        "numbers": " ".join(f"{k} {facts.get(k, '?')}" for k in ("cpu family", "model", "stepping")),
        "cores": os.cpu_count(),
        "flags": [f for f in flags if re.match(r"avx|fma|f16c|amx|sse4|bmi", f)],
    }


def measure_peak(threads: int, scratch: pathlib.Path, realtime: bool) -> dict | None:
    """The machine's AVX2 multiply-accumulates and memory reads per second."""
    binary = scratch / "peak"
    try:
        if not binary.exists():
            quiet(["rustc", "-O", "--edition", "2021", str(HERE / "peak.rs"), "-o", str(binary)])
        tries = [json.loads(child([*(REALTIME if realtime else []), str(binary), str(threads)])[0]) for _ in range(3)]
        return {key: max(t[key] for t in tries) for key in tries[0]}
    except (OSError, RuntimeError) as error:
        print(f"no peak measured: {error}")
        return None


# ---- one case


def case(network: Network, threads: int, batch: int, peers: list[str], held: dict[str, dict], arguments,
         scratch: pathlib.Path) -> dict:
    reference = scratch / "f32.npy"
    Skipstone(FLOAT, network.packed, network, threads, batch, arguments).logits(reference)
    expected = read_npy(reference)
    tolerance = TOLERANCES[network.dtype]

    runtimes = [Skipstone(label, file, network, threads, batch, arguments) for label, file in network.ours().items()]
    rows: dict[str, dict] = {}
    logits = {}
    for ours in runtimes:
        ours.logits(scratch / "ours.npy")
        logits[ours.label] = read_npy(scratch / "ours.npy")
        error = difference(logits[ours.label], expected)
        rows[ours.label] = {"ours": True, "logits_error": error, "file_bytes": ours.packed.stat().st_size}
    for name in peers:
        try:
            files = network.theirs(name)
        except (RuntimeError, OSError, ValueError) as error:
            rows[name] = {"failed": str(error)}
            print(f"{name}: {error}", flush=True)
            continue
        for label, file in files.items():
            for cap in [None, *([held[name]] if name in held else [])]:
                peer = Peer(name, label, file, cap, network, threads, batch, arguments)
                try:
                    peer.start()
                    peer.logits(scratch / "theirs.npy")
                except (RuntimeError, OSError, ValueError) as error:
                    rows[peer.label] = {"failed": str(error)}
                    print(f"{peer.label}: {error}", flush=True)
                    continue
                logits[peer.label] = read_npy(scratch / "theirs.npy")
                rows[peer.label] = {"logits_error": difference(logits[peer.label], expected)}
                runtimes.append(peer)
    for label, row in rows.items():
        if row.get("logits_error", 0) > tolerance:
            row["wrong"] = True
    source = logits.get(f"onnxruntime QDQ{EXACT}")
    if IMPORTED in rows and source:
        rows[IMPORTED]["import_error"] = difference(logits[IMPORTED], source)
        if rows[IMPORTED]["import_error"] > IMPORT_TOLERANCE:
            rows[IMPORTED]["wrong"] = True

    rounds: dict[str, list[dict]] = {r.label: [] for r in runtimes}
    firsts: dict[str, list] = {r.label: [] for r in runtimes if r.name in ("skipstone", *arguments.start)}
    runs = {}
    for index in range(-1, arguments.rounds):
        turn = index % len(runtimes)
        for runtime in runtimes[turn:] + runtimes[:turn]:
            # Let the previous one's threads come to rest, and real-time throttling forget it.
            time.sleep(arguments.pause)
            if index < 0:
                # Not counted: warms up, and tells how many runs fit into a burst.
                latency = runtime.burst(2)["median"]
                runs[runtime.label] = max(2, min(arguments.max_runs, int(arguments.seconds * 1e3 / latency)))
            else:
                times = runtime.burst(runs[runtime.label])
                rounds[runtime.label].append({k: v / batch for k, v in times.items()})
    if batch == 1:
        for _ in range(arguments.start_rounds):
            for runtime in runtimes:
                if runtime.label in firsts:
                    time.sleep(arguments.pause)
                    firsts[runtime.label].append(runtime.first(scratch))
    profiles = [runtimes[0].bench(5, "--profile")["layers"] for _ in range(arguments.profiles)]
    for runtime in runtimes:
        runtime.close()
        row = rows[runtime.label]
        row["about"] = runtime.about
        row["capped"] = runtime.cap
        row["rounds"] = rounds[runtime.label]
        row["runs_per_round"] = runs[runtime.label]
        row["min_ms"] = min(r["min"] for r in rounds[runtime.label])
        row["median_ms"] = statistics.median(r["median"] for r in rounds[runtime.label])
        if firsts.get(runtime.label):
            row["start_to_logits_ms"] = min(f[0] for f in firsts[runtime.label])
            row["start_to_logits_median_ms"] = statistics.median(f[0] for f in firsts[runtime.label])
            row["peak_rss_bytes"] = statistics.median(f[1] for f in firsts[runtime.label])
    layers = []
    measures = {label: ratios(rows, label) for label, row in rows.items() if row.get("ours")}
    for same in zip(*profiles):
        layers.append(same[0] | {"time_ms": min(layer["time_ms"] for layer in same)})
    return {"model": network.onnx.stem, "threads": threads, "batch": batch, "image_shape": network.image_shape,
            "macs_per_image": network.macs, "dtype": network.dtype, "runtimes": rows, "ratios": measures.pop("skipstone"),
            "ratios_of": measures, "layers": layers}


def difference(actual, expected) -> float:
    """The largest difference as a part of the largest logit."""
    if len(actual) != len(expected):
        return math.inf
    return max(abs(a - b) for a, b in zip(actual, expected)) / max(map(abs, expected))


def ratios(rows: dict[str, dict], label: str) -> dict:
    """ours / theirs, against each peer; the best, with all at their own settings; and with AVX2 rows where there are."""
    ours = rows[label]
    measured = {k: r for k, r in rows.items() if "min_ms" in r and not r.get("ours") and not r.get("wrong")}
    capped = {k for k in measured if not rows.get(k + AVX2, {}).get("min_ms")}
    free = {k for k in measured if not measured[k]["capped"]}
    result = {}
    for statistic in ("min_ms", "median_ms"):
        each = {k: ours[statistic] / r[statistic] for k, r in measured.items()}
        result[statistic] = {"each": each}
        for title, names in (("best", free), ("best_avx2_where_possible", capped)):
            if names:
                peer = max(names, key=each.get)
                result[statistic][title] = {"peer": peer, "ratio": each[peer]}
    return result


def show(result: dict) -> None:
    threads, batch, rows = result["threads"], result["batch"], result["runtimes"]
    print(f"\n{result['model']}, {result['dtype']}, {threads} thread{'s' if threads > 1 else ''}, batch {batch} "
          f"(milliseconds per image; ratios ours / theirs)")
    print(f"{'':27} {'min':>8} {'median':>8} {'ratio':>7} {'ratio':>7} {'spread':>7} {'logits':>8} {'start':>8} {'RSS':>8}")
    print(f"{'':27} {'ms':>8} {'ms':>8} {'of min':>7} {'of med.':>7} {'med/min':>7} {'error':>8} {'ms':>8} {'MiB':>8}")
    for label, row in sorted(rows.items(), key=lambda item: item[1].get("min_ms", math.inf)):
        if "failed" in row:
            print(f"{label:27} {row['failed'][:90]}")
            continue
        least, middle = (result["ratios"][s]["each"].get(label) for s in ("min_ms", "median_ms"))
        number = lambda value, form: format(value, form) if value is not None else "–"
        rss = row.get("peak_rss_bytes")
        note = "  WRONG LOGITS, not compared" if row.get("wrong") else ""
        print(f"{label:27} {row['min_ms']:8.2f} {row['median_ms']:8.2f} {number(least, '.3f'):>7} "
              f"{number(middle, '.3f'):>7} {row['median_ms'] / row['min_ms']:7.2f} {row['logits_error']:8.1e} "
              f"{number(row.get('start_to_logits_ms'), '.0f'):>8} {number(rss and rss / 2**20, '.0f'):>8}{note}")
    show_best("skipstone", result["ratios"])
    for label, measures in result["ratios_of"].items():
        if label != FLOAT:
            show_best(label, measures)
    ours = rows["skipstone"]
    for label, row in rows.items():
        if label != "skipstone" and "start_to_logits_ms" in row and not (row.get("ours") and label != FLOAT):
            print(f"against {label}: start to first logits {ours['start_to_logits_ms'] / row['start_to_logits_ms']:.3f}, "
                  f"peak RSS {ours['peak_rss_bytes'] / row['peak_rss_bytes']:.3f}")
    if FLOAT in rows:
        print(f"against {FLOAT}: {ours['min_ms'] / rows[FLOAT]['min_ms']:.3f} of the time by minima, file "
              f"{ours['file_bytes'] / rows[FLOAT]['file_bytes']:.3f} of the bytes")
    if "import_error" in rows.get(IMPORTED, {}):
        error = 100 * rows[IMPORTED]["import_error"]
        print(f"{IMPORTED} differs from ONNX Runtime, exact, by {error:.2f} % of the largest logit")
    sys.stdout.flush()


def show_best(label: str, measures: dict) -> None:
    for title, text in (("best", "best peer"), ("best_avx2_where_possible", "best peer, held to AVX2 where possible")):
        best = [measures[s].get(title) for s in ("min_ms", "median_ms")]
        if all(best):
            print(f"{label} to the {text}: {best[0]['ratio']:.3f} of {best[0]['peer']} by minima, "
                  f"{best[1]['ratio']:.3f} of {best[1]['peer']} by medians")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a network of `skipstone synth`, or an .onnx file")
    parser.add_argument("--model", nargs="+", default=[], help="the same")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--size", help="HEIGHTxWIDTH of the image [default: the network's]")
    parser.add_argument("--dtype", choices=TOLERANCES, default="f32")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS, "torch"], help="[default: all that compute in that type]")
    parser.add_argument("--torch", action="store_true", help="also PyTorch, a download of some GB")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.6, help="of measurement per round and runtime [0.6]")
    parser.add_argument("--max-runs", type=int, default=1000, help="per round and runtime")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between bursts [0.3]")
    parser.add_argument("--start", nargs="*", default=["onnxruntime"], help="peers whose start is measured too")
    parser.add_argument("--start-rounds", type=int, default=5)
    parser.add_argument("--profiles", type=int, default=3, help="profiled runs of skipstone, for the per-layer figures")
    parser.add_argument("--realtime", action="store_true", help="measure with real-time priority")
    parser.add_argument("--peak", type=float, nargs=2, metavar=("GMAC/S", "GB/S"),
                        help="the machine's limits per thread, instead of measuring them")
    parser.add_argument("--max-ratio", type=float, help="fail if a ratio of minima to the best peer is above this")
    parser.add_argument("--venv", type=pathlib.Path, default=ROOT / ".venv-compare")
    parser.add_argument("--scratch", type=pathlib.Path, help="keep the converted networks here")
    parser.add_argument("--output", type=pathlib.Path, help="results without extension [benches/results/DATE-CPU]")
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    models = [*arguments.models, *arguments.model]
    if not models:
        parser.error("no MODEL")
    default = PEERS if arguments.dtype == "f32" else INT8_PEERS
    wanted = list(dict.fromkeys([*(arguments.peers or default), *(["torch"] if arguments.torch else [])]))
    if arguments.dtype == "int8" and not set(wanted) <= set(INT8_PEERS):
        parser.error(f"with --dtype int8 the peers are {', '.join(INT8_PEERS)}")
    if arguments.realtime and subprocess.run([*REALTIME, "true"], capture_output=True).returncode != 0:
        print("real-time priority is not permitted: measuring without it")
        arguments.realtime = False

    inside = sys.prefix != sys.base_prefix
    save = not arguments.no_save and (arguments.output is not None or not inside)
    environments = Environments(None if inside else arguments.venv, wanted, arguments.dtype)
    versions = {"skipstone": child([skipstone_binary(), "--version"])[0].split()[-1]}
    revision = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    peers = []
    for name in wanted:
        if name not in environments.missing:
            command = [str(environments.python(name)), str(HERE / "peers.py"), name, "--version"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                versions[name] = json.loads(done.stdout)["version"]
                peers.append(name)
                continue
            environments.missing[name] = (done.stderr.strip().splitlines() or ["does not import"])[-1]
        print(f"without {name}: {environments.missing[name]}")

    machine = cpu()
    avx512 = "avx512f" in machine["flags"]
    now = datetime.datetime.now(datetime.timezone.utc)
    print(f"{machine['model']} ({machine['family'] or machine['numbers']}), {machine['cores']} cores, "
          f"{'with' if avx512 else 'without'} AVX-512; " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    record = {
        "date": now.isoformat(timespec="seconds"), "cpu": machine, "versions": versions, "missing": environments.missing,
        "revision": revision.stdout.strip(), "python": sys.version.split()[0],
        "settings": {k: getattr(arguments, k) for k in ("dtype", "rounds", "seconds", "pause", "realtime", "start_rounds")},
        "load_average": os.getloadavg(), "limits": {}, "cases": [],
    }
    slug = re.sub(r"[^a-z0-9]+", "-", f"{machine['model']} {machine['family']}".lower()).strip("-")
    suffix = "" if arguments.dtype == "f32" else f"-{arguments.dtype}"
    stem = arguments.output or ROOT / "benches" / "results" / f"{now:%Y-%m-%d}-{slug}{suffix}"
    failed = False
    with tempfile.TemporaryDirectory() as directory:
        scratch = arguments.scratch or pathlib.Path(directory)
        scratch.mkdir(parents=True, exist_ok=True)
        for threads in arguments.threads:
            if arguments.peak:
                limit = {"gmacs_per_s": arguments.peak[0] * threads, "gbytes_per_s": arguments.peak[1] * threads}
            else:
                limit = measure_peak(threads, pathlib.Path(directory), arguments.realtime)
            if limit:
                record["limits"][str(threads)] = limit
                print(f"limits of {threads} thread{'s' if threads > 1 else ''}: {limit['gmacs_per_s']:.1f} GMAC/s in "
                      f"AVX2 registers, {limit['gbytes_per_s']:.1f} GB/s from memory", flush=True)
        held = {}
        for name in peers if avx512 else []:
            try:
                held[name] = environments.hold(name, scratch)
            except RuntimeError as error:
                print(f"no row of {name} with AVX2: {error}")
        for model in models:
            network = Network(model, arguments.size, arguments.dtype, scratch, environments)
            for batch in arguments.batch:
                for threads in arguments.threads:
                    result = case(network, threads, batch, peers, held, arguments, scratch)
                    record["cases"].append(result)
                    show(result)
                    best = result["ratios"]["min_ms"].get("best")
                    failed |= any(r.get("wrong") for r in result["runtimes"].values())
                    if arguments.max_ratio is not None and best and best["ratio"] > arguments.max_ratio:
                        print(f"above the allowed ratio {arguments.max_ratio}")
                        failed = True
                    if save:
                        stem.parent.mkdir(parents=True, exist_ok=True)
                        stem.with_name(stem.name + ".json").write_text(json.dumps(record, indent=1) + "\n")
    if save:
        draw = [str(environments.main), str(HERE / "plot.py"), str(stem.with_name(stem.name + ".json"))]
        drawn = subprocess.run(draw, capture_output=True, text=True)
        print(f"\nwrote {stem}.json" + (f" and {drawn.stdout.strip()}" if drawn.returncode == 0 else
                                        f"; no plot: {(drawn.stderr.strip().splitlines() or ['?'])[-1]}"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
