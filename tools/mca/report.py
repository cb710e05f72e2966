#!/usr/bin/env python3
"""How close the kernels' inner loops come to the bound of their multiplications, by LLVM's models of CPUs.

    tools/mca/report.py [--date DATE] [--output FILE]

compiles `skipstone-kernels` for x86-64 and aarch64, disassembles it, and gives each inner loop to llvm-mca. Writes
benches/results/DATE-llvm-mca.md, unless told otherwise. Ends with an error if a loop spills vectors, or if
the largest f32 tiles are below 90 % of their bound on any CPU.

On Debian: apt-get install llvm-19; `tools/aarch64/cargo` installs the cross compiler. The models know no caches and
no memory, and take every branch for predicted.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LLVM = "19"
REQUIRED = 0.9
# Iterations between which the cycles of one are measured: the first ones fill the pipeline.
ITERATIONS = (100, 300)


@dataclass(frozen=True, eq=False)
class Architecture:
    """What differs in reading machine code."""

    name: str
    cargo: str
    triple: str
    cpus: tuple[str, ...]
    tiers: re.Pattern[str]  # of a function's path
    multiply: re.Pattern[str]
    branch: re.Pattern[str]
    vector: re.Pattern[str]  # a vector register
    stack: re.Pattern[str]
    destination: int  # the operand that an instruction writes
    features: dict[str, tuple[str, ...]] = field(default_factory=dict)  # mnemonic -> CPUs that have it


AARCH64 = Architecture(
    name="aarch64",
    cargo="tools/aarch64/cargo",
    triple="aarch64-unknown-linux-gnu",
    cpus=("neoverse-n1", "neoverse-v1", "cortex-a76", "apple-m1"),
    tiers=re.compile(r"::neon(_\w+)?::"),
    multiply=re.compile(r"fmla|fmls|[su]mlal2?$|[su]mull2?$|sdot|udot|sudot|usdot|[su]mmla|usmmla"),
    branch=re.compile(r"(b|b\.\w+|cbn?z|tbn?z)$"),
    vector=re.compile(r"\b[vqd]\d+\b"),
    stack=re.compile(r"\[sp\b"),
    destination=0,
    features={"sudot": ("neoverse-v1",), "usdot": ("neoverse-v1",), "usmmla": ("neoverse-v1",)},
)
X86_64 = Architecture(
    name="x86-64",
    cargo="cargo",
    triple="x86_64-unknown-linux-gnu",
    cpus=("znver3", "znver4", "skylake", "alderlake"),
    tiers=re.compile(r"::avx2::"),
    multiply=re.compile(r"vfn?m(add|sub)|vpmaddubsw|vpmaddwd"),
    branch=re.compile(r"j\w+$"),
    vector=re.compile(r"%[xy]mm\d+"),
    stack=re.compile(r"\(%rsp"),
    destination=-1,
)


@dataclass
class Loop:
    """An innermost loop: its function, and its instructions, which branch to `.L`."""

    function: str
    body: list[str]
    architecture: Architecture

    @property
    def spills(self) -> list[str]:
        """Vectors that go to the stack or come from it."""
        a = self.architecture
        return [text for text in self.body if a.stack.search(text) and a.vector.search(text)]

    @property
    def multiplications(self) -> list[str]:
        """The instructions that there is no doing without."""
        return [text for text in self.body if self.architecture.multiply.match(mnemonic(text))]


def mnemonic(text: str) -> str:
    return text.split(None, 1)[0]


def run(*command: str, **options) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, cwd=ROOT, **options).stdout


def compile_kernels(architecture: Architecture) -> Path:
    """The kernels' object file, compiled as in a release but without link-time optimization."""
    folder = ROOT / "target" / "mca"
    folder.mkdir(parents=True, exist_ok=True)
    objects = folder / f"{architecture.name}.o"
    run(
        *("env", f"CARGO_TARGET_DIR={folder}", "CARGO_PROFILE_RELEASE_LTO=off", architecture.cargo),
        *("rustc", "-p", "skipstone-kernels", "--release", "--lib", "--"),
        *("-C", "symbol-mangling-version=v0", "--emit", f"link,obj={objects}"),
    )
    return objects


def functions(architecture: Architecture, objects: Path):
    """Names of functions with their instructions: addresses and text."""
    listing = run(f"llvm-objdump-{LLVM}", "-d", "--no-show-raw-insn", "--demangle", str(objects))
    name, instructions = None, []
    for line in listing.splitlines():
        if start := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            if name:
                yield name, instructions
            name, instructions = start[1].removeprefix("skipstone_kernels::"), []
        elif instruction := re.match(r"\s*([0-9a-f]+):\s+(.*)$", line):
            text = re.sub(r"\s*(//|# |<).*$", "", instruction[2]).replace("\t", " ").strip()
            instructions.append((int(instruction[1], 16), text))
    if name:
        yield name, instructions


def loops(architecture: Architecture, objects: Path) -> list[Loop]:
    """All innermost loops of the tiers' products; transforms are bound by loads and stores."""
    found = []
    for name, instructions in functions(architecture, objects):
        if not architecture.tiers.search(f"{name}::"):
            continue
        first = instructions[0][0]
        ranges = []
        for address, text in instructions:
            target = re.search(r"(0x)?([0-9a-f]+)$", text)
            if architecture.branch.match(mnemonic(text)) and target:
                if first <= (start := int(target[2], 16)) <= address:
                    ranges.append((start, address))
        ranges = {start: end for start, end in sorted(ranges)}.items()  # the last branch to a loop's start
        for start, end in ranges:
            if any(start <= s and e <= end and (s, e) != (start, end) for s, e in ranges):
                continue
            body = [text for address, text in instructions if start <= address <= end]
            to_label = lambda text: re.sub(r"(0x)?[0-9a-f]+$", ".L", text)
            body = [to_label(t) if architecture.branch.match(mnemonic(t)) else t for t in body]
            loop = Loop(short(name), body, architecture)
            if "transform_" not in name and len(loop.multiplications) > 1:
                found.append(loop)
    return found


def short(name: str) -> str:
    """A function's path without what all have in common."""
    return name.replace("skipstone_kernels::", "").replace("half::binary16::", "").replace("usize", "")


def mca(architecture: Architecture, cpu: str, blocks: list[list[str]], iterations: int) -> tuple[list[dict], list[str]]:
    """llvm-mca's views of blocks, and the names of the CPU's resources."""
    features = ["-mattr=+dotprod,+i8mm"] if architecture is AARCH64 else []
    lines = []
    for i, body in enumerate(blocks):
        lines += [f"# LLVM-MCA-BEGIN {i}", *body, f"# LLVM-MCA-END {i}"]
    report = json.loads(
        run(
            *(f"llvm-mca-{LLVM}", f"-mtriple={architecture.triple}", f"-mcpu={cpu}", *features),
            *("-json", f"-iterations={iterations}"),
            input="\n".join(lines) + "\n",
        )
    )
    return report["CodeRegions"], report["TargetInfo"]["Resources"]


@dataclass
class Modelled:
    """A loop on a CPU."""

    cycles: float
    bound: float
    port: str  # the most loaded resource, with the part of the cycles it is busy

    @property
    def part(self) -> float:
        return self.bound / self.cycles

    def __str__(self) -> str:
        percent = f"{100 * self.part:.0f} %"
        return percent if self.part >= REQUIRED else f"{percent} ({self.port})"


def model(found: list[Loop], cpu: str) -> list[Modelled | None]:
    """Each loop on a CPU; none where it lacks an instruction."""
    if not found:
        return []
    a = found[0].architecture
    bodies = [loop.body for loop in found]
    (few, _), (many, names) = (mca(a, cpu, bodies, n) for n in ITERATIONS)
    bounds, _ = mca(a, cpu, [loop.multiplications for loop in found], 1)
    models: list[Modelled | None] = []
    for loop, less, more, bound in zip(found, few, many, bounds):
        if any(cpu not in a.features.get(mnemonic(text), a.cpus) for text in loop.body):
            models.append(None)
            continue
        cycles = [region["SummaryView"]["TotalCycles"] for region in (less, more)]
        cycles = (cycles[1] - cycles[0]) / (ITERATIONS[1] - ITERATIONS[0])
        port = busiest(more, names, cycles)
        models.append(Modelled(cycles, bound["SummaryView"]["BlockRThroughput"], port))
    return models


def busiest(region: dict, names: list[str], cycles: float) -> str:
    """The most loaded resource, or dispatch, and the part of the cycles it is busy."""
    whole = len(region["Instructions"])  # the index of the sums over all instructions
    loads = {
        names[use["ResourceIndex"]]: use["ResourceUsage"]
        for use in region["ResourcePressureView"]["ResourcePressureInfo"]
        if use["InstructionIndex"] == whole
    }
    summary = region["SummaryView"]
    loads["dispatch"] = summary["TotaluOps"] / summary["Iterations"] / summary["DispatchWidth"]
    port, load = max(loads.items(), key=lambda item: item[1])
    port = re.sub(r"^(N1|V1|Zn\d|SKL|ADLP|A57|Cy)Unit|^(Zn\d|SKL|ADLP)", "", port)
    port = re.sub(r"\.([\x00-\x1f])$", lambda unit: f".{ord(unit[1])}", port)  # of several, as a character
    return f"{port} {100 * min(load / cycles, 1):.0f} %"


def rows(found: list[Loop], cpus: tuple[str, ...]):
    """Lines of a table, and the loops with their models. Equal loops of several functions share a line."""
    seen: dict[tuple, list[Loop]] = {}
    for loop in found:
        shape = (loop.function.split("::<")[0], *(mnemonic(text) for text in loop.body))
        seen.setdefault(shape, []).append(loop)
    loops = [same[0] for same in seen.values()]
    models = zip(*(model(loops, cpu) for cpu in cpus))
    for same, loop, on_cpus in zip(seen.values(), loops, models):
        cells = " | ".join(str(m) if m else "-" for m in on_cpus)
        names = "`, `".join(dict.fromkeys(other.function for other in same))
        spills = max(len(other.spills) for other in same) or "none"
        yield f"| `{names}` | {len(loop.multiplications)} | {len(loop.body)} | {spills} | {cells} |", loop, on_cpus


def section(title: str, found: list[Loop], cpus: tuple[str, ...], results: list) -> list[str]:
    if not found:
        return []
    lines = [f"### {title}", "", f"| loop | multiplications | instructions | spills | {' | '.join(cpus)} |"]
    lines.append("|---|---|---|---|" + "---|" * len(cpus))
    for line, loop, models in rows(found, cpus):
        lines.append(line)
        results.append((loop, models))
    return [*lines, ""]


def largest(found: list[Loop]) -> list[Loop]:
    """Of each family the loops of the tallest tiles, which have the most multiplications per load."""
    families: dict[str, list[Loop]] = {}
    for loop in found:
        families.setdefault(HEIGHT.sub(r"<\1_\3>", loop.function), []).append(loop)
    tallest = []
    for same in families.values():
        most = max(map(height, same))
        tallest += [loop for loop in same if height(loop) == most]
    return tallest


# The rows of a tile among the parameters of its function: the last, or before the length of a tap.
HEIGHT = re.compile(r"<(.*?)\b(\d)(, [08])?>$")


def height(loop: Loop) -> int:
    """The rows of a tile, or where one function has tiles of all heights, a number that grows with them: its sums."""
    rows = HEIGHT.search(loop.function) if "::tile::" in loop.function else None
    sums = {text.split(None, 1)[1].split(", ")[loop.architecture.destination] for text in loop.multiplications}
    return int(rows[2]) if rows else len(sums)


def report(date: str) -> tuple[str, list[str]]:
    version = re.search(r"LLVM version (\S+)", run(f"llvm-mca-{LLVM}", "--version"))[1]
    rustc = {a: run("rustc" if a is X86_64 else "/usr/bin/rustc", "--version").split()[1] for a in (X86_64, AARCH64)}
    lines = [f"# Inner loops by llvm-mca {version}, {date}", "", *PREAMBLE, ""]
    failures = []
    for architecture in (AARCH64, X86_64):
        objects = compile_kernels(architecture)
        found = loops(architecture, objects)
        tall = largest(found)
        lines += [f"## {architecture.name} (rustc {rustc[architecture]})", ""]
        results: list = []
        lines += section("Largest tiles", tall, architecture.cpus, results)
        for loop, models in results:
            is_f32 = re.search(r"^(sconv|winograd)\b", loop.function) and "f16" not in loop.function
            low = [cpu for cpu, m in zip(architecture.cpus, models) if m and m.part < REQUIRED]
            if is_f32 and low:
                failures.append(f"{loop.function} is below {REQUIRED:.0%} on {', '.join(low)}")
        lines += section("Lower tiles", [l for l in found if l not in tall], architecture.cpus, results)
        failures += [f"{loop.function} spills: {loop.spills}" for loop in found if loop.spills]
    return "\n".join(lines), failures


PREAMBLE = """\
Made by `tools/mca/report.py`. Cells are the percentage of the bound: the cycles that the CPU's units need for the
loop's multiplications alone, by the cycles of the whole loop. Below 90 %, the parentheses name the most loaded port,
or the dispatch of instructions, and the part of the cycles it is busy; where that is far from 100 %, results wait
for each other. Spills are instructions that move vectors to the stack or back. Models know no caches: operands are in L1. Some CPUs
borrow their model: LLVM has cortex-a57's for cortex-a76 (2 vector pipes, 3 instructions per cycle, 1 load), cyclone's
for apple-m1. Nothing here was measured on aarch64 hardware.""".splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    output = arguments.output or ROOT / "benches" / "results" / f"{arguments.date}-llvm-mca.md"
    text, failures = report(arguments.date)
    output.write_text(text.rstrip("\n") + "\n")
    print(text)
    print(f"written to {output}")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
