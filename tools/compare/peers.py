#!/usr/bin/env python3
"""The other runtimes that compare.py measures: one class each, one runtime per process.

    peers.py NAME FILE --threads T --batch B --input IMAGE.npy [--first]

loads FILE, says so with a line of JSON, and then obeys lines of JSON on standard input: {"runs": N, "warmup": W} runs the
network and answers with N times; {"logits": PATH} writes the logits of the input. With --first it computes the logits
once, tells when it had them, and ends. `peers.py NAME --version` tells the version. To add a runtime, add a class with
`load` and `run` (and to compare.py how its file is made) and list it in PEERS.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import sys
import time


class OnnxRuntime:
    package = "onnxruntime"
    # Without VNNI, its kernels for int8 let sums of two products saturate, unless they are told not to.
    exact = False

    def load(self, model: str, threads: int, shape: tuple[int, ...]) -> dict:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if self.exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        # The batch is an open axis of the file: fixing it lets shapes be inferred before the first run.
        options.add_free_dimension_override_by_name("batch", shape[0])
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name
        return {}

    def run(self, image):
        return self.session.run(None, {self.name: image})[0]


class OpenVino:
    package = "openvino"

    def load(self, model: str, threads: int, shape: tuple[int, ...]) -> dict:
        import openvino as ov

        network = ov.Core().read_model(model)
        network.reshape(list(shape))
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = ov.Core().compile_model(network, "CPU", settings)
        self.request = compiled.create_infer_request()
        return {"settings": settings}

    def run(self, image):
        self.request.infer([image], share_inputs=True)
        return self.request.get_output_tensor(0).data


class Ncnn:
    package = "ncnn"

    def load(self, model: str, threads: int, shape: tuple[int, ...]) -> dict:
        import ncnn

        self.net = ncnn.Net()
        options = self.net.opt
        options.num_threads = threads
        for name in dir(options):
            # Its default stores and computes in 16 bits where the CPU can.
            if name.startswith(("use_fp16", "use_bf16")):
                setattr(options, name, False)
        assert self.net.load_param(model) == 0
        assert self.net.load_model(model.removesuffix(".param") + ".bin") == 0
        self.ncnn = ncnn
        return {"batch": "one image after the other: ncnn has no batch"}

    def run(self, image):
        import numpy as np

        logits = []
        for one in image:
            extractor = self.net.create_extractor()
            extractor.input("in0", self.ncnn.Mat(one))
            logits.append(np.array(extractor.extract("out0")[1]))
        return np.stack(logits)


class Mnn:
    package = "MNN"

    def load(self, model: str, threads: int, shape: tuple[int, ...]) -> dict:
        import MNN

        settings = {"backend": "CPU", "numThread": threads}
        self.net = MNN.Interpreter(model)
        self.session = self.net.createSession(settings)
        self.input = self.net.getSessionInput(self.session)
        self.net.resizeTensor(self.input, shape)
        self.net.resizeSession(self.session)
        self.output = self.net.getSessionOutput(self.session)
        self.tensor, self.type, self.planar = MNN.Tensor, MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe
        return {"settings": settings}

    def run(self, image):
        import numpy as np

        self.input.copyFrom(self.tensor(image.shape, self.type, image, self.planar))
        self.net.runSession(self.session)
        shape = self.output.getShape()
        logits = np.zeros(shape, np.float32)
        host = self.tensor(shape, self.type, logits, self.planar)
        self.output.copyToHostTensor(host)
        return np.array(host.getNumpyData()).reshape(shape)


class DeepSparse:
    package = "deepsparse"

    def load(self, model: str, threads: int, shape: tuple[int, ...]) -> dict:
        import deepsparse

        self.engine = deepsparse.compile_model(model, batch_size=shape[0], num_cores=threads)
        return {"instruction_set": self.engine.cpu_avx_type}

    def run(self, image):
        return self.engine.run([image])[0]


class Torch:
    """TorchScript, frozen and optimised for inference, channels last: the fastest that needs no compiler at run time."""

    package = "torch"

    def load(self, model: str, threads: int, shape: tuple[int, ...]) -> dict:
        import onnx
        import onnx.numpy_helper
        import torch
        import torch.nn.functional as F

        torch.set_num_threads(threads)
        graph = onnx.load(model).graph
        weights = {
            i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()).to(
                memory_format=torch.channels_last if len(i.dims) == 4 else torch.contiguous_format
            )
            for i in graph.initializer
        }

        class Network(torch.nn.Module):
            def forward(self, x):
                values = dict(weights) | {graph.input[0].name: x}
                for node in graph.node:
                    a = {k.name: onnx.helper.get_attribute_value(k) for k in node.attribute}
                    v = [values[name] for name in node.input if name]
                    match node.op_type:
                        case "Conv":
                            stride, pads, groups = a.get("strides", 1), a.get("pads", [0, 0, 0, 0])[:2], a.get("group", 1)
                            y = F.conv2d(*v, stride=stride, padding=pads, groups=groups)
                        case "BatchNormalization":
                            y = F.batch_norm(v[0], v[3], v[4], v[1], v[2], eps=a.get("epsilon", 1e-5))
                        case "Relu":
                            y = F.relu(v[0])
                        case "Add":
                            y = v[0] + v[1]
                        case "MaxPool":
                            y = F.max_pool2d(v[0], a["kernel_shape"], a.get("strides"), a.get("pads", [0, 0, 0, 0])[:2])
                        case "GlobalAveragePool":
                            y = F.adaptive_avg_pool2d(v[0], 1)
                        case "AveragePool":
                            y = F.avg_pool2d(v[0], a["kernel_shape"], a.get("strides"), a.get("pads", [0, 0, 0, 0])[:2])
                        case "Flatten":
                            y = torch.flatten(v[0], 1)
                        case "Gemm":
                            y = F.linear(v[0], v[1] if a.get("transB") else v[1].t(), v[2])
                        case "Identity" | "Dropout":
                            y = v[0]
                        case other:
                            raise SystemExit(f"torch: {other} is not translated")
                    values[node.output[0]] = y
                return values[graph.output[0].name]

        image = torch.zeros(shape).to(memory_format=torch.channels_last)
        with torch.no_grad():
            traced = torch.jit.trace(Network().eval(), image, check_trace=False)
            self.network = torch.jit.optimize_for_inference(torch.jit.freeze(traced.eval()))
        self.torch = torch
        return {"settings": "TorchScript, freeze, optimize_for_inference, channels_last"}

    def run(self, image):
        with self.torch.no_grad():
            x = self.torch.from_numpy(image).contiguous(memory_format=self.torch.channels_last)
            return self.network(x).numpy()


PEERS = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "ncnn": Ncnn,
    "mnn": Mnn,
    "deepsparse": DeepSparse,
    "torch": Torch,
}


def cpuid_answers() -> int | None:
    """How often avx2_only.c has told this process what the CPU can; None where it is not loaded."""
    try:
        return ctypes.c_uint.in_dll(ctypes.CDLL(None), "avx2_only_answers").value
    except ValueError:
        return None


def set_priority(realtime: bool) -> None:
    """Of all threads of this process, those that the runtime made included."""
    for thread in os.listdir("/proc/self/task"):
        try:
            policy, level = (os.SCHED_FIFO, 5) if realtime else (os.SCHED_OTHER, 0)
            os.sched_setscheduler(int(thread), policy, os.sched_param(level))
        except ProcessLookupError:
            pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--input")
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--exact", action="store_true", help="int8 sums that do not saturate (onnxruntime)")
    parser.add_argument("--version", action="store_true")
    arguments = parser.parse_args()
    # Some runtimes print to standard output, which carries the answers here.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**what) -> None:
        print(json.dumps(what), file=answers, flush=True)

    peer = PEERS[arguments.peer]()
    if arguments.exact:
        peer.exact = True
    if arguments.version:
        version = importlib.metadata.version(peer.package)
        __import__(peer.package)
        answer(version=version)
        return

    import numpy as np

    image = np.load(arguments.input)
    loaded = peer.load(arguments.model, arguments.threads, image.shape)
    if arguments.first:
        peer.run(image)
        # The monotonic clock is the machine's: the parent subtracts its own reading from before the process started.
        answer(first_at=time.monotonic())
        return
    answer(loaded=loaded, cpuid_answers=cpuid_answers())
    for line in sys.stdin:
        command = json.loads(line)
        if "logits" in command:
            np.save(command["logits"], np.ascontiguousarray(peer.run(image), dtype=np.float32))
            answer(done=True)
            continue
        set_priority(command["realtime"])
        for _ in range(command["warmup"]):
            peer.run(image)
        times = []
        for _ in range(command["runs"]):
            before = time.perf_counter()
            peer.run(image)
            times.append((time.perf_counter() - before) * 1e3)
        set_priority(False)
        answer(times=times)


if __name__ == "__main__":
    main()
