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

Where the CPU has AVX-512, which skipstone does not use yet, the peers that can be held to AVX2 have a second row.

--realtime runs the measured bursts with real-time priority (root, or CAP_SYS_NICE), for machines that are busy.
"""

from __future__ import annotations

import argparse
import array
import datetime
import importlib.util
import json
import math
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REALTIME = ["chrt", "-f", "5"]
TOLERANCE = 1e-3

# This process must stay small, without numpy or onnx: Linux counts a parent's memory at the time of the fork into the
# peak that it later reports for the child.

# Names of peers.py, and what holds them to AVX2 where that can be done.
CAPS = {"openvino": {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "deepsparse": {"NM_ARCH": "avx2"}}
PEERS = ["onnxruntime", "openvino", "ncnn", "mnn", "deepsparse"]


def skipstone_binary() -> str:
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = pathlib.Path(os.environ.get("SKIPSTONE_BIN", target / "release" / "skipstone"))
    if not binary.is_file():
        raise SystemExit(f"{binary} is missing: cargo build --release --workspace, or set SKIPSTONE_BIN")
    return str(binary)


def clean_environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """Without what would change a runtime's own choice of threads and kernels."""
    foreign = ("OMP_", "KMP_", "GOMP_", "MKL_", "ONEDNN_", "DNNL_", "NM_", "TBB_", "SKIPSTONE_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return kept | (more or {})


def child(command: list[str], environment: dict[str, str] | None = None) -> tuple[str, float, float, int]:
    """(standard output, when it started, when it ended, peak resident bytes) of a process that must succeed."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment or clean_environment())
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return output, started, time.monotonic(), usage.ru_maxrss * 1024


def quiet(command: list[str]) -> None:
    """Run a converter; its output is shown only if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: exit code {done.returncode}\n{done.stdout[-2000:]}")


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


# ---- the environments of the peers


class Environments:
    """One virtual environment for most peers, one for DeepSparse; or the one that this script was started in."""

    def __init__(self, directory: pathlib.Path | None, wanted: list[str]):
        self.missing: dict[str, str] = {}
        if directory is None:
            self.main = self.apart = pathlib.Path(sys.executable)
            for name in wanted:
                module = {"mnn": "MNN"}.get(name, name)
                if importlib.util.find_spec(module) is None:
                    self.missing[name] = f"not in {sys.prefix}"
            return
        needs = {"main": [HERE / "requirements.txt"]}
        if "ncnn" in wanted:
            needs["main"].append(HERE / "requirements-no-deps.txt")
        if "torch" in wanted:
            needs["main"].append(HERE / "requirements-torch.txt")
        if "deepsparse" in wanted:
            needs["deepsparse"] = [HERE / "requirements-deepsparse.txt"]
        self.main = self.install(directory / "main", needs["main"], wanted)
        self.apart = self.main
        if "deepsparse" in needs:
            self.apart = self.install(directory / "deepsparse", needs["deepsparse"], wanted)

    def install(self, directory: pathlib.Path, files: list[pathlib.Path], wanted: list[str]) -> pathlib.Path:
        python = directory / "bin" / "python"
        if not python.exists():
            print(f"making {directory}", flush=True)
            venv.create(directory, with_pip=True)
            (directory.parent / ".gitignore").write_text("*\n")
        record = directory / "installed.json"
        installed = json.loads(record.read_text()) if record.exists() else {}
        for file in files:
            for line in file.read_text().splitlines():
                package = line.split("#")[0].strip()
                peer = package.split("==")[0].lower()
                if not package or (peer in PEERS and peer not in wanted):
                    continue
                if installed.get(package) != "ok":
                    print(f"installing {package}", flush=True)
                    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
                    command += ["--only-binary", ":all:"]
                    command += ["--no-deps"] if "no-deps" in file.name else []
                    done = subprocess.run([*command, package], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                    last = (done.stdout.strip().splitlines() or ["?"])[-1]
                    installed[package] = "ok" if done.returncode == 0 else last
                    record.write_text(json.dumps(installed, indent=1))
                if installed[package] != "ok":
                    self.missing["ncnn" if peer == "pnnx" else peer] = installed[package]
        return python

    def python(self, peer: str) -> pathlib.Path:
        return self.apart if peer == "deepsparse" else self.main


# ---- the runtimes


class Network:
    """A network's files for every runtime, each made when first asked for, and the input."""

    def __init__(self, model: str, size: str | None, scratch: pathlib.Path, environments: Environments):
        self.environments = environments
        self.directory = scratch / pathlib.Path(model).stem
        self.directory.mkdir(exist_ok=True)
        self.onnx = pathlib.Path(model)
        if not model.endswith(".onnx"):
            self.onnx = self.directory / f"{model}.onnx"
            sizes = ["--input-size", size] if size else []
            child([skipstone_binary(), "synth", model, "-o", str(self.onnx), *sizes])
        self.packed = self.directory / "model.skip"
        child([skipstone_binary(), "convert", str(self.onnx), "-o", str(self.packed)])
        described = json.loads(child([skipstone_binary(), "bench", str(self.packed), "--num-runs", "1", "--min-secs",
                                      "0", "--warmup-runs", "1", "--json"])[0])
        self.image_shape = tuple(described["input_dims"][1:])
        if size:
            self.image_shape = (self.image_shape[0], *map(int, size.split("x")))
        self.macs = described["macs"]

    def input(self, batch: int) -> pathlib.Path:
        path = self.directory / f"input{batch}.npy"
        if not path.exists():
            shape = (batch, *self.image_shape)
            source = random.Random(0)
            # Normally distributed, near enough: as a photograph after the usual normalisation.
            write_npy(path, shape, array.array("f", (source.random() + source.random() + source.random() * 2 - 2
                                                     for _ in range(math.prod(shape)))))
        return path

    def file_for(self, peer: str) -> pathlib.Path:
        bin = self.environments.main.parent
        if peer == "mnn":
            path = self.directory / "model.mnn"
            if not path.exists():
                quiet([str(bin / "mnnconvert"), "-f", "ONNX", "--modelFile", str(self.onnx), "--MNNModel", str(path),
                       "--bizCode", "x"])
            return path
        if peer == "ncnn":
            # pnnx writes its files beside the one it reads.
            own = self.directory / "ncnn.onnx"
            path = self.directory / "ncnn.ncnn.param"
            if not path.exists():
                if not own.exists():
                    os.symlink(self.onnx.resolve(), own)
                shape = ",".join(map(str, (1, *self.image_shape)))
                (pnnx,) = bin.parent.glob("lib/python*/site-packages/pnnx/pnnx")
                quiet([str(pnnx), str(own), f"inputshape=[{shape}]", "fp16=0"])
            return path
        return self.onnx


class Skipstone:
    """This project, through its CLI, on the packed file."""

    name, label, cap = "skipstone", "skipstone", None

    def __init__(self, network: Network, threads: int, batch: int, arguments):
        self.network = network
        self.prefix = REALTIME if arguments.realtime else []
        self.threads = ["--threads", str(threads)]
        self.size = ["--input-size", "x".join(map(str, network.image_shape[1:]))]
        self.batch = batch

    def logits(self, path: pathlib.Path) -> None:
        self.run(path)

    def run(self, path: pathlib.Path, prefix: list[str] = []) -> tuple[str, float, float, int]:
        command = [*prefix, skipstone_binary(), "run", str(self.network.packed), *self.threads]
        return child([*command, "--input", str(self.network.input(self.batch)), "--output", str(path)])

    def first(self, scratch: pathlib.Path) -> tuple[float, int]:
        """Milliseconds from process start to its end with the logits written, and peak resident bytes."""
        _, started, ended, peak = self.run(scratch / "first.npy", self.prefix)
        return (ended - started) * 1e3, peak

    def bench(self, runs: int, *more: str) -> dict:
        command = [*self.prefix, skipstone_binary(), "bench", str(self.network.packed), *self.threads, *self.size]
        command += ["--batch", str(self.batch), "--num-runs", str(runs), "--min-secs", "0", "--warmup-runs", "3"]
        return json.loads(child([*command, "--json", *more])[0])

    def burst(self, runs: int) -> dict[str, float]:
        report = self.bench(runs)
        self.about = {k: report.get(k) for k in ("isa", "init_ms", "arena_bytes", "scratch_bytes", "repacked_bytes")}
        return {k: report["latency_ms"][k] for k in ("min", "median", "p99")}

    def close(self) -> None:
        pass


class Peer:
    """A class of peers.py, in a Python process of its own that lives until `close`."""

    def __init__(self, name: str, cap: dict[str, str] | None, network: Network, threads: int, batch: int, arguments):
        self.name, self.cap, self.realtime = name, cap, arguments.realtime
        self.label = name + (" (AVX2)" if cap else "")
        python = network.environments.python(name)
        self.command = [str(python), str(HERE / "peers.py"), name, str(network.file_for(name))]
        self.command += ["--threads", str(threads), "--batch", str(batch), "--input", str(network.input(batch))]
        self.environment = clean_environment(cap)
        self.process = None

    def start(self) -> None:
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        stderr=self.errors, env=self.environment)
        self.about = self.answer()["loaded"]

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            tail = self.errors.read().strip().splitlines()[-3:]
            raise RuntimeError(f"{self.label} ended: " + " / ".join(tail))
        return json.loads(line)

    def ask(self, **command) -> dict:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def logits(self, path: pathlib.Path) -> None:
        self.ask(logits=str(path))

    def burst(self, runs: int) -> dict[str, float]:
        times = sorted(self.ask(runs=runs, warmup=2, realtime=self.realtime)["times"])
        return {"min": times[0], "median": statistics.median(times), "p99": times[int(0.99 * len(times))]}

    def first(self, scratch: pathlib.Path) -> tuple[float, int]:
        prefix = REALTIME if self.realtime else []
        output, started, _, peak = child([*prefix, *self.command, "--first"], self.environment)
        return (json.loads(output)["first_at"] - started) * 1e3, peak

    def close(self) -> None:
        if self.process:
            self.process.stdin.close()
            self.process.wait()


def write_npy(path: pathlib.Path, shape: tuple[int, ...], values: array.array) -> None:
    """A float32 .npy file, without numpy."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + values.tobytes())


def read_npy(path: pathlib.Path) -> array.array:
    data = path.read_bytes()
    length = int.from_bytes(data[8:10], "little")
    assert b"'<f4'" in data[10:10 + length] and data[6] == 1, path
    values = array.array("f")
    values.frombytes(data[10 + length:])
    return values


# ---- one case


def case(network: Network, threads: int, batch: int, peers: list[str], avx512: bool, arguments,
         scratch: pathlib.Path) -> dict:
    ours = Skipstone(network, threads, batch, arguments)
    reference = scratch / "ours.npy"
    ours.logits(reference)
    expected = read_npy(reference)
    largest = max(map(abs, expected))

    runtimes, rows = [ours], {"skipstone": {"logits_error": 0.0}}
    for name in peers:
        for cap in [None, *([CAPS[name]] if avx512 and name in CAPS else [])]:
            label = name + (" (AVX2)" if cap else "")
            try:
                peer = Peer(name, cap, network, threads, batch, arguments)
                peer.start()
                peer.logits(scratch / "theirs.npy")
            except (RuntimeError, OSError, ValueError) as error:
                rows[label] = {"failed": str(error)}
                print(f"{label}: {error}", flush=True)
                continue
            actual = read_npy(scratch / "theirs.npy")
            error = max((abs(a - b) for a, b in zip(actual, expected)), default=math.inf) / largest
            if len(actual) != len(expected):
                error = math.inf
            rows[label] = {"logits_error": error}
            runtimes.append(peer)

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
    profiles = [ours.bench(5, "--profile")["layers"] for _ in range(arguments.profiles)]
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
    for same in zip(*profiles):
        layers.append(same[0] | {"time_ms": min(layer["time_ms"] for layer in same)})
    return {"model": network.onnx.stem, "threads": threads, "batch": batch, "image_shape": network.image_shape,
            "macs_per_image": network.macs, "runtimes": rows, "ratios": ratios(rows), "layers": layers}


def ratios(rows: dict[str, dict]) -> dict:
    """ours / theirs, against each peer; the best, with all at their own settings; and with AVX2 rows where there are."""
    ours = rows["skipstone"]
    measured = {k: r for k, r in rows.items() if k != "skipstone" and "min_ms" in r and r["logits_error"] <= TOLERANCE}
    capped = {k for k in measured if not rows.get(f"{k} (AVX2)", {}).get("min_ms")}
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
    threads, batch = result["threads"], result["batch"]
    print(f"\n{result['model']}, {threads} thread{'s' if threads > 1 else ''}, batch {batch} "
          f"(milliseconds per image; ratios ours / theirs)")
    print(f"{'':20} {'min':>8} {'median':>8} {'ratio':>7} {'ratio':>7} {'spread':>7} {'logits':>8} {'start':>8} {'RSS':>8}")
    print(f"{'':20} {'ms':>8} {'ms':>8} {'of min':>7} {'of med.':>7} {'med/min':>7} {'error':>8} {'ms':>8} {'MiB':>8}")
    for label, row in sorted(result["runtimes"].items(), key=lambda item: item[1].get("min_ms", math.inf)):
        if "failed" in row:
            print(f"{label:20} {row['failed'][:90]}")
            continue
        least, middle = (result["ratios"][s]["each"].get(label) for s in ("min_ms", "median_ms"))
        number = lambda value, form: format(value, form) if value is not None else "–"
        rss = row.get("peak_rss_bytes")
        note = "" if row["logits_error"] <= TOLERANCE else "  WRONG LOGITS, not compared"
        print(f"{label:20} {row['min_ms']:8.2f} {row['median_ms']:8.2f} {number(least, '.3f'):>7} "
              f"{number(middle, '.3f'):>7} {row['median_ms'] / row['min_ms']:7.2f} {row['logits_error']:8.1e} "
              f"{number(row.get('start_to_logits_ms'), '.0f'):>8} {number(rss and rss / 2**20, '.0f'):>8}{note}")
    for title, text in (("best", "best peer"), ("best_avx2_where_possible", "best peer, held to AVX2 where possible")):
        best = [result["ratios"][s].get(title) for s in ("min_ms", "median_ms")]
        if all(best):
            print(f"{text}: {best[0]['ratio']:.3f} of {best[0]['peer']} by minima, "
                  f"{best[1]['ratio']:.3f} of {best[1]['peer']} by medians")
    rows = result["runtimes"]
    for label, row in rows.items():
        if label != "skipstone" and "start_to_logits_ms" in row:
            ours = rows["skipstone"]
            print(f"against {label}: start to first logits {ours['start_to_logits_ms'] / row['start_to_logits_ms']:.3f}, "
                  f"peak RSS {ours['peak_rss_bytes'] / row['peak_rss_bytes']:.3f}")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a network of `skipstone synth`, or an .onnx file")
    parser.add_argument("--model", nargs="+", default=[], help="the same")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--size", help="HEIGHTxWIDTH of the image [default: the network's]")
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=[*PEERS, "torch"])
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
    wanted = list(dict.fromkeys([*arguments.peers, *(["torch"] if arguments.torch else [])]))
    if arguments.realtime and subprocess.run([*REALTIME, "true"], capture_output=True).returncode != 0:
        print("real-time priority is not permitted: measuring without it")
        arguments.realtime = False

    inside = sys.prefix != sys.base_prefix
    save = not arguments.no_save and (arguments.output is not None or not inside)
    environments = Environments(None if inside else arguments.venv, wanted)
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
        "settings": {k: getattr(arguments, k) for k in ("rounds", "seconds", "pause", "realtime", "start_rounds")},
        "load_average": os.getloadavg(), "limits": {}, "cases": [],
    }
    slug = re.sub(r"[^a-z0-9]+", "-", f"{machine['model']} {machine['family']}".lower()).strip("-")
    stem = arguments.output or ROOT / "benches" / "results" / f"{now:%Y-%m-%d}-{slug}"
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
        for model in models:
            network = Network(model, arguments.size, scratch, environments)
            for batch in arguments.batch:
                for threads in arguments.threads:
                    result = case(network, threads, batch, peers, avx512, arguments, scratch)
                    record["cases"].append(result)
                    show(result)
                    best = result["ratios"]["min_ms"].get("best")
                    failed |= any(r.get("logits_error", 0) > TOLERANCE for r in result["runtimes"].values())
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
