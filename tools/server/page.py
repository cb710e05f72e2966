#!/usr/bin/env python3
"""Uses the server's page as a visitor does, in Chromium without a window.

    python tools/server/page.py target/release/skipstone target/page

Drops a photograph, reads classes, stages and charts, and leaves screenshots in the folder. Needs
Debian's `chromium`; exits with 1 at the first thing that is not so.
"""

import re
import sys
from pathlib import Path

from browser import Page
from serving import CALM, PHOTO, Server

TEXTS = "[...document.querySelectorAll('{}')].map((e) => e.textContent)"


def number(text):
    return float(re.search(r"[0-9.]+", text).group())


def sees_classes(page):
    page.drop("#drop", PHOTO.resolve())
    page.wait("!document.querySelector('#classes').hidden")
    labels = page.value(TEXTS.format("#classes th[scope=row]"))
    percents = [number(text) for text in page.value(TEXTS.format("#classes td"))]
    assert labels[0] == "sfw" and set(labels) == {"sfw", "nsfw"}, labels
    assert percents == sorted(percents, reverse=True) and abs(sum(percents) - 100) < 0.2, percents
    page.wait("document.querySelector('#preview').naturalWidth > 100")


def sees_stages(page):
    stages = dict(zip(page.value(TEXTS.format("#stages dt")), page.value(TEXTS.format("#stages dd")), strict=True))
    assert set(stages) == {"decode", "queue", "compute", "transfer"}, stages
    total = number(page.value("document.querySelector('#total').textContent"))
    times = {stage: number(text) for stage, text in stages.items()}
    assert times["decode"] > 0 and times["compute"] > 0, times
    # Each is rounded to a tenth.
    assert abs(sum(times.values()) - total) < 0.4, (times, total)
    widths = "[...document.querySelectorAll('#bar i')].map((e) => e.getBoundingClientRect().width)"
    assert max(page.value(widths)) > 20


def sees_charts(page):
    """Photographs dropped over some seconds show up in both."""
    for name in ("#throughput .ok", "#latency .median", "#latency .p99"):
        page.wait(f"document.querySelector('{name}')?.points.length > 1")
    for _ in range(4):
        page.drop("#drop", PHOTO.resolve())
        answered = number(page.value("document.querySelector('#answered').textContent"))
        page.wait(f"Number(document.querySelector('#answered').textContent) > {answered}")
    heights = "[...document.querySelector('#throughput .ok').points].map((p) => p.y)"
    page.wait(f"(y => Math.max(...y) - Math.min(...y) > 20)({heights})")
    page.wait("Number(document.querySelector('#latency-now').textContent) > 0")
    assert page.value("document.querySelector('#memory').textContent").endswith("MiB")


def sees_problems(page):
    before = list(page.errors)
    assert not before, before
    page.drop("#drop", Path(__file__).resolve())
    page.wait("!document.querySelector('#problem').hidden")
    assert "JPEG" in page.value("document.querySelector('#problem').textContent")
    assert page.value("document.querySelector('#classes').hidden")
    page.errors.clear()


def looks_right(page, folder):
    assert page.unnamed() == [], page.unnamed()
    page.screenshot(folder / "wide.png")
    page.dark(True)
    page.screenshot(folder / "dark.png")
    page.dark(False)
    page.resize(360, 800)
    too_wide = page.value("document.documentElement.scrollWidth - innerWidth")
    assert too_wide <= 0, f"{too_wide} pixels wider than a telephone"
    for chart in ("#throughput", "#latency"):
        drawn = f"document.querySelector('{chart}').viewBox.baseVal.width"
        page.wait(f"{drawn} === document.querySelector('{chart}').clientWidth")
    page.screenshot(folder / "narrow.png")
    page.resize(1280, 900)


def visit(page, address, folder):
    page.open(f"http://{address}/")
    page.wait("document.querySelector('#status')?.textContent === 'ready'")
    page.screenshot(folder / "empty.png")
    sees_classes(page)
    sees_stages(page)
    sees_charts(page)
    looks_right(page, folder)
    sees_problems(page)
    page.screenshot(folder / "problem.png")
    ours = (f"http://{address}/", "blob:", "data:")
    others = [url for url in page.requests if not url.startswith(ours)]
    assert page.requests and not others, others
    assert not page.errors, page.errors


def main():
    binary, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    with Server(binary, *CALM) as server, Page(1280, 900) as page:
        visit(page, server.address, folder)
    print(f"classes, stages, charts, problems, names for screen readers: ok; screenshots in {folder}")


if __name__ == "__main__":
    main()
