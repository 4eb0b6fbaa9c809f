"""Row 6: how long importing the pack takes in ComfyUI, and the size of what it installs."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import hosting
from serving import NOT_THE_PACK

from .rows import Check, Column, Row, Settings
from .timing import Spread

# In a fresh process: what ComfyUI has imported when it comes to its custom nodes, then the pack.
CHILD = """
import asyncio, sys, time
sys.path.insert(0, {scripts!r})
from pathlib import Path
from bench_rows import setup
setup.use_host(Path({host!r}))
import comfy.sample, comfy.sd, execution, folder_paths, nodes, server
import comfy_api.latest, comfy_execution.graph_utils
before, start = set(sys.modules), time.perf_counter()
setup.load_pack("pack")
extension = asyncio.run(sys.modules["pack"].comfy_entrypoint())
asyncio.run(extension.on_load())
classes = asyncio.run(extension.get_node_list())
for node in classes:
    node.GET_SCHEMA()
taken = time.perf_counter() - start
heavy = [m for m in {heavy!r} if m in sys.modules and m not in before]
print("RESULT", taken, ",".join(heavy))
"""
HEAVY = ("insightface", "onnxruntime", "facexlib", "timm", "cv2", "open_clip")
COLUMNS = [
    Column("what", "what"),
    Column("seconds", "seconds", "{:.3f}"),
    Column("bytes", "MB", "{:.1f}", 1e-6),
    Column("packages", "packages"),
]


def run(settings: Settings) -> Row:
    """Import the pack in fresh processes; add up the files of what it requires."""
    host = hosting.prepare()
    times, heavy = [], set()
    for _ in range(settings.pick(1, 7)):
        taken, found = import_once(host)
        times.append(taken)
        heavy |= found
    spread = Spread.of(times)
    records = [
        {
            "what": "importing the pack and making its node descriptions, after ComfyUI's own",
            "seconds": asdict(spread),
            "packages": f"face and vision packages imported: {', '.join(sorted(heavy)) or 'none'}",
        },
        {"what": "the pack itself", "bytes": pack_bytes(), "packages": "-"},
    ]
    own = names_of(hosting.ROOT / "requirements.txt")
    brought = closure(names_of(host.path / "requirements.txt"))
    for name in sorted(own):
        new = closure({name}) - brought
        sizes = {each: distribution_bytes(each) for each in new}
        largest = sorted(new, key=lambda each: -sizes[each])[:4]
        told = ", ".join(f"{each} {sizes[each] / 1e6:.0f}" for each in largest)
        more = f" and {len(new) - len(largest)} more" if len(new) > len(largest) else ""
        records.append(
            {
                "what": f"{name} with what it needs and ComfyUI has not",
                "bytes": sum(sizes.values()),
                "packages": told + more,
            }
        )
    together = closure(own) - brought
    records.append(
        {
            "what": "requirements.txt altogether",
            "bytes": sum(distribution_bytes(each) for each in together),
            "packages": f"{len(together)} packages",
        }
    )
    checks = [Check("pack import beyond ComfyUI's own modules, s", spread.median, "at most", 0.5)]
    note = (
        "Import times are of fresh processes in which ComfyUI's own modules are loaded already, "
        "as they are when it comes to its custom nodes; files are in the system's cache. Sizes are "
        "of the files in this environment; packages needed by two of ours are counted once in the "
        "last line."
    )
    return Row("Import and installation", note, COLUMNS, records, checks)


def import_once(host: hosting.Host) -> tuple[float, set[str]]:
    """Return seconds and which of HEAVY came with the pack, from a fresh process."""
    scripts = str(hosting.ROOT / "scripts")
    code = CHILD.format(scripts=scripts, host=str(host.path), heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=host.path
    )
    found = re.search(r"^RESULT (\S+) (\S*)$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"Importing the pack failed:\n{done.stderr[-4000:]}")
    return float(found[1]), set(filter(None, found[2].split(",")))


def pack_bytes() -> int:
    """Return the size of the pack's files without tests, caches and hidden folders."""
    root = hosting.ROOT
    skipped = {name for name in NOT_THE_PACK if not name.startswith(".")}
    files = (f for f in root.rglob("*") if f.is_file())
    return sum(
        f.stat().st_size
        for f in files
        if not any(part in skipped or part.startswith(".") for part in f.relative_to(root).parts)
    )


def names_of(requirements: Path) -> set[str]:
    """Return the distributions a requirements file names."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"\s*([A-Za-z0-9][\w.-]*)", line) for line in lines)
    return {normalised(match[1]) for match in found if match}


def normalised(name: str) -> str:
    """Return a distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: set[str]) -> set[str]:
    """Return the installed distributions among ``names`` and all they require here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [normalised(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(normalised(need.name))
    return found


def distribution_bytes(name: str) -> int:
    """Return the size of a distribution's files."""
    files = importlib.metadata.files(name) or []
    paths = (Path(file.locate()) for file in files)
    return sum(path.stat().st_size for path in paths if path.is_file())
