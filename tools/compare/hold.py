"""Holds a peer to AVX2 on a CPU that has more: hold.py SITE-PACKAGES PACKAGE DIRECTORY

Few runtimes have a setting for that, but all ask the CPU what it can by the instruction `cpuid`. Here a peer gets copies
of its libraries in which that instruction traps, and avx2_only.c, preloaded, answers in its place. Nothing else of them
changes: they are at their best settings for a CPU with AVX2.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CPUID, TRAP = b"\x0f\xa2", b"\xcc\x90"


def installed(site: pathlib.Path, package: str) -> importlib.metadata.Distribution:
    (distribution,) = importlib.metadata.distributions(name=package, path=[str(site)])
    return distribution


def files(site: pathlib.Path, package: str, directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The library to preload, and the copy of the package."""
    return directory / "avx2_only.so", directory / f"held-{package}-{installed(site, package).version}"


def make(site: pathlib.Path, package: str, directory: pathlib.Path) -> None:
    """Make those of `files` that are not there; RuntimeError or OSError if there is no compiler or disassembler, or no
    `cpuid` in the package."""
    shim, held = files(site, package, directory)
    if not shim.exists():
        output(["cc", "-O2", "-Wall", "-shared", "-fPIC", str(HERE / "avx2_only.c"), "-o", str(shim)])
    if not held.exists():
        unfinished = directory / f"unfinished-{package}"
        shutil.rmtree(unfinished, ignore_errors=True)
        copy(site, package, unfinished)
        unfinished.rename(held)


def copy(site: pathlib.Path, package: str, to: pathlib.Path) -> None:
    """The files of an installed distribution, the `cpuid` instructions of its libraries trapping."""
    replaced = 0
    for file in installed(site, package).files or []:
        source, target = site / file, to / file
        if file.parts[0] == ".." or not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        replaced += trap(target)
    if not replaced:
        raise RuntimeError(f"no cpuid instruction in {package}")


def trap(library: pathlib.Path) -> int:
    """Replace each `cpuid` of an ELF file; their number."""
    data = bytearray(library.read_bytes())
    if not data.startswith(b"\x7fELF") or CPUID not in data:
        return 0
    # (virtual address, bytes, file offset) of each segment.
    headers = re.findall(r"LOAD off\s+0x(\w+) vaddr 0x(\w+) .*\n\s+filesz 0x(\w+)", output(["objdump", "-p", str(library)]))
    segments = [tuple(int(number, 16) for number in (address, size, offset)) for offset, address, size in headers]
    # Only a disassembly tells the instruction from the same two bytes inside another one.
    command = ["objdump", "-d", "-w", "--no-show-raw-insn", str(library)]
    count = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listing:
        for line in listing.stdout:
            found = re.match(r"\s*([0-9a-f]+):\s+cpuid\b", line)
            if found:
                at = int(found[1], 16)
                (offset,) = [offset + at - address for address, size, offset in segments if address <= at < address + size]
                assert data[offset : offset + 2] == CPUID, (library, hex(at))
                data[offset : offset + 2] = TRAP
                count += 1
    if listing.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {listing.returncode}")
    library.write_bytes(data)
    return count


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-1000:]}")
    return done.stdout


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]))
