#!/usr/bin/env python3
"""Draw a result of compare.py: `plot.py RESULT.json [--png]` writes RESULT.svg.

Per case: latency of each runtime. For the first case of each network with per-layer times: each layer's time beside its
limit (arithmetic at the machine's measured peak, or its weights from memory, whichever takes longer), and the roofline.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, THEIRS, CAPPED, LIMIT = "#c1440e", "#7f8fa6", "#b8c2d0", "#222222"


def is_winograd_shape(layer: dict) -> bool:
    """A 3x3 convolution of stride 1, which needs a quarter of the multiplications with F(4x4,3x3)."""
    if not layer["inputs"]:
        return False
    (channels, height, width), (outputs, *size) = layer["inputs"][0], layer["output"]
    return [height, width] == size and layer["macs"] == 9 * channels * outputs * height * width


def limits(layer: dict, batch: int, limit: dict) -> tuple[float, float]:
    """Milliseconds at least, by direct convolution and with F(4x4,3x3) where that applies."""
    memory = layer["weight_bytes"] / limit["gbytes_per_s"] / 1e6
    direct = layer["macs"] / limit["gmacs_per_s"] / 1e6
    fewer = direct / 4 if is_winograd_shape(layer) else direct
    return max(direct, memory), max(fewer, memory)


def bars(axes, case: dict) -> None:
    rows = [(k, r) for k, r in case["runtimes"].items() if "min_ms" in r]
    rows.sort(key=lambda row: -row[1]["min_ms"])
    names = [name for name, _ in rows]
    colours = [OURS if n.startswith("skipstone") else CAPPED if r["capped"] else THEIRS for n, r in rows]
    axes.barh(names, [r["min_ms"] for _, r in rows], color=colours)
    for index, (_, row) in enumerate(rows):
        axes.plot([row["median_ms"]], [index], "|", color=LIMIT, markersize=11)
        axes.text(row["min_ms"] * 0.98, index, f"{row['min_ms']:.1f}", ha="right", va="center", color="white", fontsize=8)
    threads, batch = case["threads"], case["batch"]
    axes.set_title(f"{case['model']}, {threads} thread{'s' if threads > 1 else ''}, batch {batch}", fontsize=10)
    axes.set_xlabel("ms per image: bar = minimum, tick = median")
    axes.tick_params(axis="y", labelsize=8)


def layers(axes, case: dict, limit: dict) -> None:
    shown = [layer for layer in case["layers"] if layer["macs"] > 0]
    both = [limits(layer, case["batch"], limit) for layer in shown]
    axes.bar(range(len(shown)), [layer["time_ms"] for layer in shown], color=OURS, width=0.8, label="measured")
    edges = [x + d for x in range(len(shown)) for d in (-0.45, 0.45)]
    axes.hlines([b[0] for b in both], edges[::2], edges[1::2], color=LIMIT, linewidth=1.6, label="limit, direct")
    fewer = [(i, b[1]) for i, b in enumerate(both) if b[1] < b[0]]
    if fewer:
        axes.hlines([f for _, f in fewer], [i - 0.45 for i, _ in fewer], [i + 0.45 for i, _ in fewer],
                    color="#1a9850", linewidth=1.6, label="limit, Winograd F(4x4,3x3)")
    total = sum(layer["time_ms"] for layer in case["layers"])
    direct, winograd = sum(b[0] for b in both), sum(b[1] for b in both)
    other = total - sum(layer["time_ms"] for layer in shown)
    axes.set_title(f"{case['model']}, {case['threads']} thread{'s' if case['threads'] > 1 else ''}: {total:.1f} ms in layers "
                   f"({other:.1f} in others than shown); limit {direct:.1f} direct, {winograd:.1f} Winograd", fontsize=10)
    axes.set_xticks(range(len(shown)), [layer["name"].strip("/")[-24:] for layer in shown], rotation=90, fontsize=6)
    axes.set_xlim(-0.7, len(shown) - 0.3)
    axes.set_ylabel("ms")
    axes.legend(fontsize=8)


def roofline(axes, case: dict, limit: dict) -> None:
    shown = [layer for layer in case["layers"] if layer["macs"] > 0]
    intensity = [layer["macs"] / max(layer["weight_bytes"] + layer["activation_bytes"], 1) for layer in shown]
    rate = [layer["macs"] / layer["time_ms"] / 1e6 for layer in shown]
    three = [is_winograd_shape(layer) for layer in shown]
    for chosen, colour, label in ((True, OURS, "3x3, stride 1"), (False, "#2c6fbb", "other layers")):
        points = [(i, r) for i, r, t in zip(intensity, rate, three) if t == chosen]
        if points:
            axes.scatter(*zip(*points), s=16, color=colour, label=label, alpha=0.8)
    left, right = min(intensity) / 2, max(intensity) * 2
    peak, bandwidth = limit["gmacs_per_s"], limit["gbytes_per_s"]
    corner = peak / bandwidth
    axes.plot([left, corner, right] if left < corner else [left, right],
              [left * bandwidth, peak, peak] if left < corner else [peak, peak], color=LIMIT, linewidth=1.5)
    axes.text(right, peak, f"{peak:.0f} GMAC/s ", ha="right", va="bottom", fontsize=8)
    if left < corner:
        axes.text(left, left * bandwidth, f" {bandwidth:.0f} GB/s from memory", va="top", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("MACs per byte of weights and activations")
    axes.set_ylabel("GMAC/s, counted as direct convolution")
    axes.set_title(f"{case['model']}, {case['threads']} thread{'s' if case['threads'] > 1 else ''}: roofline", fontsize=10)
    axes.legend(fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("result", type=pathlib.Path)
    parser.add_argument("--png", action="store_true", help="also RESULT.png")
    arguments = parser.parse_args()
    record = json.loads(arguments.result.read_text())
    cases = record["cases"]
    seen: set[str] = set()
    detailed = []
    for case in cases:
        if case["layers"] and str(case["threads"]) in record["limits"] and case["batch"] == 1 and case["model"] not in seen:
            seen.add(case["model"])
            detailed.append(case)

    columns = min(3, len(cases))
    rows = -(-len(cases) // columns)
    heights = [2.6] * rows + [3.8] * len(detailed)
    figure = plt.figure(figsize=(13, sum(heights) + 0.6), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for row, part in zip(range(rows), parts):
        for axes, case in zip(part.subplots(1, columns, squeeze=False)[0], cases[row * columns:]):
            bars(axes, case)
        for axes in part.axes[len(cases) - row * columns:]:
            axes.set_axis_off()
    for case, part in zip(detailed, parts[rows:]):
        left, right = part.subplots(1, 2, width_ratios=[2.4, 1])
        limit = record["limits"][str(case["threads"])]
        layers(left, case, limit)
        roofline(right, case, limit)
    cpu = record["cpu"]
    figure.suptitle(f"{cpu['model']} ({cpu['family'] or cpu['numbers']}), {record['date'][:10]}, skipstone "
                    f"{record['versions']['skipstone']} ({record['revision']}), {record['settings'].get('dtype', 'f32')}", fontsize=11)
    matplotlib.rcParams["svg.hashsalt"] = "skipstone"
    target = arguments.result.with_suffix("") if arguments.result.suffix == ".json" else arguments.result
    figure.savefig(f"{target}.svg", metadata={"Date": None})
    written = [f"{target}.svg"]
    if arguments.png:
        figure.savefig(f"{target}.png", dpi=110)
        written.append(f"{target}.png")
    print(" and ".join(written))


if __name__ == "__main__":
    main()
