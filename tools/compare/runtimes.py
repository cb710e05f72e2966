"""What compare.py measures: the networks' files, the environments of the peers, and each runtime as an object.

Both stay small, without numpy or onnx: Linux counts a parent's memory at the time of the fork into the peak that it
later reports for the child.
"""

from __future__ import annotations

import array
import importlib.util
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
import venv

import hold
import peers

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REALTIME = ["chrt", "-f", "5"]

# Names of peers.py.
PEERS = ["onnxruntime", "openvino", "ncnn", "mnn", "deepsparse"]
# Those that compute in int8 what was trained in float.
INT8_PEERS = ["onnxruntime", "openvino", "deepsparse"]
# Settings for a CPU without AVX-512, beside what hold.py does. DeepSparse's makes int8 faster (55 ms to 42 for ResNet-50
# on one thread of a Zen 4), and its sums may saturate.
AVX2_SETTINGS = {"openvino": {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "deepsparse": {"NM_FAST_VNNI_EMULATION": "1"}}
# Images that int8 files are calibrated with.
CALIBRATION = 32

# Labels of rows: the peers held to AVX2; the file that ONNX Runtime quantized; the network before quantization; the
# weights copied to huge pages, as a library or server keeps them, and as peers do.
AVX2, IMPORTED, FLOAT = " (AVX2)", "skipstone of ORT's QDQ", "skipstone in f32"
RESIDENT = "skipstone --no-mmap"
# Ends the label of a peer whose int8 sums are told not to saturate.
EXACT = ", exact"


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


# ---- the environments of the peers


class Environments:
    """One virtual environment for most peers, one for DeepSparse; or the one that this script was started in."""

    def __init__(self, directory: pathlib.Path | None, wanted: list[str], dtype: str):
        self.missing: dict[str, str] = {}
        self.directory = directory
        if directory is None:
            self.main = self.apart = pathlib.Path(sys.executable)
            for name in wanted:
                module = {"mnn": "MNN"}.get(name, name)
                if importlib.util.find_spec(module) is None:
                    self.missing[name] = f"not in {sys.prefix}"
            return
        needs = {"main": [HERE / "requirements.txt"]}
        if dtype == "int8":
            needs["main"].append(HERE / "requirements-int8.txt")
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

    def hold(self, peer: str, scratch: pathlib.Path) -> dict[str, str]:
        """The environment variables that hold a peer to AVX2; RuntimeError if that cannot be done here."""
        (site,) = self.python(peer).parent.parent.glob("lib/python*/site-packages")
        package, directory = peers.PEERS[peer].package, self.directory or scratch
        shim, held = hold.files(site, package, directory)
        if not held.exists():
            print(f"holding a copy of {package} to AVX2", flush=True)
        quiet([sys.executable, str(HERE / "hold.py"), str(site), package, str(directory)])
        variables = {"LD_PRELOAD": str(shim), "PYTHONPATH": str(held)}
        if peer == "deepsparse":
            # What it can is not asked of the CPU, but read from /proc/cpuinfo by a program of its own.
            topology = json.loads(child([str(held / package / "arch.bin")], clean_environment(variables))[0])
            newer = ("bf16", "vbmi", "vbmi2", "vnni")
            file = directory / "deepsparse-avx2.json"
            file.write_text(json.dumps(topology | dict.fromkeys(newer, False) | {"isa": "avx2"}))
            variables["NM_ARCH_FILE"] = str(file)
        return variables | AVX2_SETTINGS.get(peer, {})


# ---- the runtimes


class Network:
    """A network's files for every runtime, each made when first asked for, and the input."""

    def __init__(self, model: str, size: str | None, dtype: str, scratch: pathlib.Path, environments: Environments):
        self.environments = environments
        self.dtype = dtype
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

    def ours(self) -> dict[str, pathlib.Path]:
        """Packed files by label; the first is the one that peers are compared with."""
        if self.dtype == "f32":
            return {"skipstone": self.packed, RESIDENT: self.packed}
        quantized, imported = self.directory / "int8.skip", self.directory / "ort-qdq.skip"
        if not quantized.exists():
            child([skipstone_binary(), "quantize", str(self.packed), "--calib", str(self.calibration()),
                   "-o", str(quantized)])
        if not imported.exists():
            child([skipstone_binary(), "convert", str(self.quantized("qdq")), "-o", str(imported)])
        return {"skipstone": quantized, IMPORTED: imported, FLOAT: self.packed}

    def theirs(self, peer: str) -> dict[str, pathlib.Path]:
        """The files that a peer may read, by label; which is fastest shows when it runs."""
        if self.dtype == "f32":
            return {peer: self.file_for(peer)}
        kinds = {
            "onnxruntime": {"QDQ": "qdq", "QOperator": "qoperator", f"QDQ{EXACT}": "qdq"},
            "openvino": {"NNCF": "nncf"},
            # Of files with a scale per channel, its own engine takes nothing.
            "deepsparse": {"QDQ": "deepsparse-qdq", "QOperator": "deepsparse-qoperator"},
        }
        return {f"{peer} {label}": self.quantized(kind) for label, kind in kinds[peer].items()}

    def quantized(self, kind: str) -> pathlib.Path:
        """The int8 file that quantize_peers.py makes."""
        path = self.directory / f"{kind}{'.xml' if kind == 'nncf' else '.onnx'}"
        if not path.exists():
            print(f"quantizing {self.onnx.stem}: {kind}", flush=True)
            python, script = self.environments.main, HERE / "quantize_peers.py"
            quiet([str(python), str(script), kind, str(self.onnx), str(self.calibration()), str(path)])
        return path

    def calibration(self) -> pathlib.Path:
        path = self.directory / "calibration.npy"
        if not path.exists():
            write_random(path, (CALIBRATION, *self.image_shape), seed=1)
        return path

    def input(self, batch: int) -> pathlib.Path:
        path = self.directory / f"input{batch}.npy"
        if not path.exists():
            write_random(path, (batch, *self.image_shape), seed=0)
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

    name, cap = "skipstone", None

    def __init__(self, label: str, packed: pathlib.Path, network: Network, threads: int, batch: int, arguments):
        self.label, self.packed, self.network = label, packed, network
        self.prefix = REALTIME if arguments.realtime else []
        self.options = ["--threads", str(threads), *(["--no-mmap"] if label == RESIDENT else [])]
        self.size = ["--input-size", "x".join(map(str, network.image_shape[1:]))]
        self.batch = batch

    def logits(self, path: pathlib.Path) -> None:
        self.run(path)

    def run(self, path: pathlib.Path, prefix: list[str] = []) -> tuple[str, float, float, int]:
        command = [*prefix, skipstone_binary(), "run", str(self.packed), *self.options]
        return child([*command, "--input", str(self.network.input(self.batch)), "--output", str(path)])

    def first(self, scratch: pathlib.Path) -> tuple[float, int]:
        """Milliseconds from process start to its end with the logits written, and peak resident bytes."""
        _, started, ended, peak = self.run(scratch / "first.npy", self.prefix)
        return (ended - started) * 1e3, peak

    def bench(self, runs: int, *more: str) -> dict:
        command = [*self.prefix, skipstone_binary(), "bench", str(self.packed), *self.options, *self.size]
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

    def __init__(self, name: str, label: str, file: pathlib.Path, cap: dict[str, str] | None, network: Network,
                 threads: int, batch: int, arguments):
        self.name, self.cap, self.realtime = name, cap, arguments.realtime
        self.label = label + (AVX2 if cap else "")
        python = network.environments.python(name)
        self.command = [str(python), str(HERE / "peers.py"), name, str(file)]
        self.command += ["--threads", str(threads), "--batch", str(batch), "--input", str(network.input(batch))]
        self.command += ["--exact"] if label.endswith(EXACT) else []
        self.environment = clean_environment(cap)
        self.process = None

    def start(self) -> None:
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        stderr=self.errors, env=self.environment)
        loaded = self.answer()
        self.about = loaded["loaded"]
        if self.cap and not loaded["cpuid_answers"]:
            raise RuntimeError(f"{self.label} never asked what the CPU can: it is not held to AVX2")

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


def write_random(path: pathlib.Path, shape: tuple[int, ...], seed: int) -> None:
    """Normally distributed, near enough: as a photograph after the usual normalisation."""
    source = random.Random(seed)
    write_npy(path, shape, array.array("f", (source.random() + source.random() + source.random() * 2 - 2
                                             for _ in range(math.prod(shape)))))


def read_npy(path: pathlib.Path) -> array.array:
    data = path.read_bytes()
    length = int.from_bytes(data[8:10], "little")
    assert b"'<f4'" in data[10:10 + length] and data[6] == 1, path
    values = array.array("f")
    values.frombytes(data[10 + length:])
    return values
