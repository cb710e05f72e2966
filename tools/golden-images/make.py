#!/usr/bin/env python3
"""Make tests/images: small image files, and what Pillow and torchvision make of them.

    python3 tools/golden-images/make.py      (needs Pillow 13 or newer, and torchvision)

Every line of tests/images/cases.json is one image file, one recipe, and the pixels (a PNG file) that
`ImageOps.exif_transpose`, `convert("RGB")`, torchvision's `resize` and `center_crop` give. The pictures are cut from
tools/cli/assets/photo.jpg, so its licence (CC0) holds for all of them.
"""

import io
import json
import pathlib
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "images"
PHOTO = "../../tools/cli/assets/photo.jpg"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: np.ndarray, color_type: int, depth: int = 8, extra: bytes = b"") -> bytes:
    """A PNG file of the kinds that Pillow does not write."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2" if depth == 16 else "u1").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encode(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def inputs() -> dict[str, bytes]:
    photo = Image.open(OUT / PHOTO).convert("RGB")
    face = photo.resize((77, 51), Image.Resampling.BICUBIC, box=(60, 30, 360, 229))
    small = face.resize((45, 30))
    alpha = Image.fromarray(np.tile(np.arange(45, dtype=np.uint8) * 5, (30, 1)))
    wide = np.asarray(small).astype(np.uint16) * 257 + np.arange(45, dtype=np.uint16)[None, :, None] % 7
    files = {
        "gray.jpg": encode(face.convert("L"), "JPEG", quality=85),
        "cmyk.jpg": encode(face.convert("CMYK"), "JPEG", quality=85),
        "420.jpg": encode(face, "JPEG", quality=70, subsampling=2),
        "422.jpg": encode(face, "JPEG", quality=70, subsampling=1),
        "444.jpg": encode(face, "JPEG", quality=90, subsampling=0),
        "progressive.jpg": encode(face, "JPEG", quality=80, progressive=True),
        "restart.jpg": encode(face, "JPEG", quality=60, restart_marker_rows=1),
        "row.png": encode(photo.crop((0, 150, 123, 151)), "PNG"),
        "column.jpg": encode(photo.crop((200, 0, 201, 97)), "JPEG", quality=90),
        "tall.jpg": encode(photo.crop((200, 0, 217, 280)), "JPEG", quality=75),
        "gray.png": encode(small.convert("L"), "PNG"),
        "bilevel.png": encode(small.convert("1"), "PNG"),
        "palette.png": encode(small.quantize(13), "PNG", transparency=3),
        "alpha.png": encode(Image.merge("RGBA", (*small.split(), alpha)), "PNG"),
        "gray-alpha.png": encode(Image.merge("LA", (small.convert("L"), alpha)), "PNG"),
        "keyed.png": encode(small, "PNG", transparency=small.getpixel((3, 3))),
        "gray-16.png": png((np.asarray(small.convert("L")).astype(np.uint16) * 2)[..., None], 0, 16),
        "gray-16-keyed.png": png(np.full((5, 5, 1), 300), 0, 16, extra=chunk(b"tRNS", b"\1\x2c")),
        "rgb-16.png": png(wide, 2, 16),
        "rgb-alpha-16.png": png(np.dstack([wide, wide[..., :1]]), 6, 16),
        "gray-alpha-16.png": png(wide[..., :2], 4, 16),
    }
    for orientation in range(1, 9):
        files[f"exif-{orientation}.jpg"] = encode(small, "JPEG", quality=80, exif=exif_of(orientation))
    files["exif-6.png"] = encode(small, "PNG", exif=exif_of(6))
    return files


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def recipe(resize, crop, interpolation="bilinear", channels="rgb") -> dict:
    return {
        "resize": resize,
        "interpolation": interpolation,
        "crop": crop,
        "channels": channels,
        "scale": 1.0 / 255.0,
        "mean": MEAN if channels != "gray" else [0.5],
        "std": STD if channels != "gray" else [0.5],
    }


def short(side: int) -> dict:
    return {"short-side": side}


def cases(files) -> list[tuple[str, dict]]:
    # The photograph through the usual recipe, all filters; shrunk to a thumbnail; enlarged.
    listed = [(PHOTO, recipe(short(256), [64, 64], f)) for f in ("nearest", "bilinear", "bicubic", "lanczos")]
    listed += [(PHOTO, recipe(short(37), [32, 32], f)) for f in ("nearest", "bilinear", "bicubic", "lanczos")]
    listed += [(PHOTO, recipe({"exact": {"height": 700, "width": 333}}, [33, 48], f)) for f in ("bilinear", "bicubic")]
    listed += [(PHOTO, recipe(short(40), [33, 33], "bicubic", c)) for c in ("bgr", "gray")]
    # Every kind of file; the crop also leaves odd margins, and pads what is smaller.
    listed += [(name, recipe(short(27), [24, 24])) for name in files]
    listed += [("444.jpg", recipe(None, [60, 90])), ("444.jpg", recipe(None, [44, 80])), ("444.jpg", recipe(None, None))]
    listed += [("tall.jpg", recipe({"exact": {"height": 31, "width": 31}}, None, "lanczos"))]
    return listed


def apply(image: Image.Image, recipe: dict) -> Image.Image:
    image = ImageOps.exif_transpose(image).convert("RGB")
    if recipe["channels"] == "gray":
        image = image.convert("L")
    size = recipe["resize"]
    if size is not None:
        size = [size["short-side"]] if "short-side" in size else [size["exact"]["height"], size["exact"]["width"]]
        image = F.resize(image, size, InterpolationMode[recipe["interpolation"].upper()])
    if recipe["crop"] is not None:
        image = F.center_crop(image, recipe["crop"])
    if recipe["channels"] == "bgr":
        image = Image.merge("RGB", image.split()[::-1])
    return image


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("**/*.*g"):
        old.unlink()
    (OUT / "expected").mkdir(exist_ok=True)
    files = inputs()
    for name, data in files.items():
        (OUT / name).write_bytes(data)
    rows = []
    for index, (name, steps) in enumerate(cases(files)):
        result = apply(Image.open(OUT / name), steps)
        expected = f"expected/{index:02}.png"
        result.info.clear()  # No transparency key, no EXIF.
        (OUT / expected).write_bytes(encode(result, "PNG", optimize=True))
        tensor = torch.flatten(F.normalize(F.to_tensor(result), steps["mean"], steps["std"]))
        samples = torch.linspace(0, len(tensor) - 1, 5).long()
        values = [[int(i), round(float(tensor[i]), 6)] for i in samples]
        rows.append({"file": name, "recipe": steps, "expected": expected, "tensor": values})
    lines = ",\n".join(json.dumps(row) for row in rows)
    (OUT / "cases.json").write_text(f"[\n{lines}\n]\n")
    total = sum(f.stat().st_size for f in OUT.glob("**/*") if f.is_file())
    print(f"{len(rows)} cases, {total} bytes")


if __name__ == "__main__":
    main()
