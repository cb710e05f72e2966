#!/usr/bin/env python3
"""Make tools/cli/assets/photo.jpg from scikit-image's bundled `chelsea` (CC0).

    python3 tools/embedded/photo.py      (needs pip and Pillow)
"""

import io
import pathlib
import subprocess
import sys
import tempfile
import zipfile

from PIL import Image

PACKAGE = "scikit-image==0.26.0"
PHOTO = pathlib.Path(__file__).resolve().parents[1] / "cli" / "assets" / "photo.jpg"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        subprocess.run(pip, check=True)
        (wheel,) = pathlib.Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            png = archive.read("skimage/data/chelsea.png")
    Image.open(io.BytesIO(png)).convert("RGB").save(PHOTO, "JPEG", quality=95, optimize=True)
    print(f"{PHOTO.name}: {PHOTO.stat().st_size} bytes")


if __name__ == "__main__":
    main()
