"""Measure what identity costs, against the authors' formula, and write BENCHMARKS.md.

    python scripts/bench.py                 everything, about 10 minutes on two cores
    python scripts/bench.py --quick         fewer blocks, sizes and rounds, under 3 minutes
    python scripts/bench.py --rows 1,2      some of the rows
    python scripts/bench.py --write         also bring BENCHMARKS.md and its plot up to date

Sets ComfyUI up if needed. The first row is counted on a virtual card (see bench/virtual_card.py)
and is the same everywhere; the others are timed on this machine. Every row runs in a process of
its own. What is compared is measured in turns, and every time is a median with its quartiles.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import hosting
from hosting import ROOT, Host

REPORT = ROOT / "BENCHMARKS.md"
PLOT = ROOT / "benchmarks.svg"
START, END = "<!-- table: start -->", "<!-- table: end -->"
ROWS = {  # number -> module in bench/ and its function
    1: ("cost", "run"),
    2: ("speed", "layer"),
    3: ("speed", "step"),
    4: ("photos", "run"),
    5: ("cost_sdxl", "run"),
}


def main() -> int:
    """Run the bench; return the exit code: 1 if a row failed."""
    options = parse_arguments()
    host = hosting.prepare()
    hosting.run_inside(host, Path(__file__).resolve(), sys.argv[1:])
    if options.child:
        measure(options.child, options.quick, options.json, host)
        return 0
    started = time.monotonic()
    result = {"machine": machine(host.path), "quick": options.quick, "rows": {}}
    failed = []
    for number in options.rows:
        row = measure_apart(number, options.quick)
        if row is None:
            failed.append(number)
            continue
        result["rows"][number] = row
    result["seconds"] = time.monotonic() - started
    text = report(result)
    print(f"\n{text}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if options.write:
        write(result, text)
    if failed:
        print(f"[bench] failed: row {', '.join(map(str, failed))}", file=sys.stderr)
    return bool(failed)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer blocks, sizes and rounds")
    parser.add_argument("--rows", type=numbers, default=list(ROWS), help="such as 1,2")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--write", action="store_true", help=f"bring {REPORT.name} up to date")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    """Return row numbers from text like 1,2."""
    chosen = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if not chosen or len(chosen) != len(text.split(",")) or not set(chosen) <= set(ROWS):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1,2; rows go from 1 to {len(ROWS)}")
    return chosen


def measure_apart(number: int, quick: bool) -> dict | None:
    """Measure one row in a fresh process; None if that failed (its message is on the terminal)."""
    started = time.monotonic()
    print(f"[bench] row {number}: {'.'.join(ROWS[number])}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "row.json")
        command = [sys.executable, str(Path(__file__).resolve()), "--child", str(number)]
        command += ["--json", str(file)] + ["--quick"] * quick
        # waiting threads that spin are the worst noise where something else runs as well
        if subprocess.call(command, stdin=subprocess.DEVNULL, env=hosting.sharing()) != 0:
            return None
        row = json.loads(file.read_text(encoding="utf-8"))
    row["seconds"] = time.monotonic() - started
    return row


def measure(number: int, quick: bool, file: Path, host: Host) -> None:
    """Measure one row here and write it as JSON."""
    use_comfyui(host.path)
    import torch

    from bench.report import Settings

    module, function = ROWS[number]
    run = getattr(importlib.import_module(f"bench.{module}"), function)
    with torch.inference_mode():
        row = run(Settings(quick))
    file.write_text(json.dumps(asdict(row)), encoding="utf-8")


def use_comfyui(path: Path) -> None:
    """Let ComfyUI, the pack, bench/ and the stand-in models of the tests be imported."""
    sys.path.insert(0, str(path))
    sys.path.append(str(ROOT / "tests"))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    args.use_pytorch_cross_attention = True  # what a GPU gets
    import utils.install_util  # noqa: F401  before ComfyUI puts comfy/ itself on the path

    load_package("pulid_pack", ROOT)
    load_package("bench", ROOT / "bench")


def load_package(name: str, folder: Path) -> None:
    """Import a folder as ComfyUI imports a pack, under ``name``."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def machine(host: Path) -> dict[str, str]:
    """Return what a figure depends on."""
    import psutil  # one of ComfyUI's own packages
    import torch

    version = (host / "comfyui_version.py").read_text(encoding="utf-8").split('"')[1]
    memory = psutil.virtual_memory().total / 2**30
    facts = {
        "processor": f"{processor()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()}",
        "memory": f"{memory:.0f} GiB",
        "system": platform.platform(terse=True),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"ComfyUI {version}, onnxruntime {importlib.metadata.version('onnxruntime')}",
    }
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        facts["GPU"] = f"{torch.cuda.get_device_name(0)}, {total:.0f} GiB"
    if hasattr(os, "getloadavg"):
        facts["load at the start"] = f"{os.getloadavg()[0]:.1f} (what else was running)"
    return facts


def processor() -> str:
    """Return the processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def report(result: dict) -> str:
    """Return facts, wanted figures and tables as Markdown."""
    load_package("bench", ROOT / "bench")
    from bench.report import checks_text, from_json, row_text

    rows = {number: from_json(row) for number, row in result["rows"].items()}
    facts = [f"- {name}: {fact}" for name, fact in result["machine"].items()]
    kind = "a quick run" if result["quick"] else "a full run"
    facts.append(f"- {kind}, {result['seconds'] / 60:.1f} minutes")
    parts = ["\n".join(facts)]
    checks = [check for row in rows.values() for check in row.checks]
    if checks:
        parts += ["### Wanted figures", checks_text(checks)]
    parts += [row_text(number, row) for number, row in rows.items()]
    return "\n\n".join(parts)


def write(result: dict, text: str) -> None:
    """Put the tables between the marks of the report, and draw the plot."""
    page = REPORT.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise RuntimeError(f"{REPORT} has lost its marks {START} and {END}.")
    page = f"{before}{START}\n{text}\n{END}{after}"
    REPORT.write_text(page, encoding="utf-8", newline="\n")
    if 1 in result["rows"]:
        from bench.report import draw

        PLOT.write_text(draw(result["rows"][1]["records"]), encoding="utf-8", newline="\n")
    print(f"[bench] {REPORT.name} is up to date")


if __name__ == "__main__":
    sys.exit(main())
