"""Measure speed, memory and cost against the authors' formula and across sizes.

    python scripts/bench.py                 everything, under 20 minutes on two cores
    python scripts/bench.py --quick         fewer sizes and rounds, under 3 minutes
    python scripts/bench.py --rows 1,2      some of the rows
    python scripts/bench.py --write         also bring BENCHMARKS.md and its plot up to date

Sets ComfyUI up if needed. Every row runs in a process of its own, so that one row's memory does
not count as another's. What is compared is measured in turns inside one process, and every time
is a median with its quartiles.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
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
ROWS = {  # number -> module in bench_rows
    1: "layer",
    2: "step",
    3: "graph",
    4: "photos",
    5: "ledger",
    6: "install",
    7: "growth",
}
NO_PACK = {6}  # measures the pack's import in processes of its own


def main() -> int:
    """Run the bench; return the exit code: 1 if a row failed."""
    options = parse_arguments()
    host = hosting.prepare()
    hosting.run_inside(host, Path(__file__).resolve(), sys.argv[1:])
    if options.child:
        measure(options.child, options.quick, options.json, host)
        return 0
    from bench_rows.setup import machine  # inside the host's interpreter from here on

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
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    parser.add_argument("--rows", type=numbers, default=list(ROWS), help="such as 1,2,5")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--write", action="store_true", help=f"bring {REPORT.name} up to date")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    """Return row numbers from text like 1,2,5."""
    chosen = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if not chosen or len(chosen) != len(text.split(",")) or not set(chosen) <= set(ROWS):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1,2,5; rows go from 1 to 7")
    return chosen


def measure_apart(number: int, quick: bool) -> dict | None:
    """Measure one row in a fresh process; None if that failed (its message is on the terminal)."""
    started = time.monotonic()
    print(f"[bench] row {number}: {ROWS[number]}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "row.json")
        command = [sys.executable, str(Path(__file__).resolve()), "--child", str(number)]
        command += ["--json", str(file)] + ["--quick"] * quick
        # waiting threads that spin are the worst noise where something else runs as well
        quiet = {"OMP_WAIT_POLICY": "passive", **os.environ}
        if subprocess.call(command, stdin=subprocess.DEVNULL, env=quiet) != 0:
            return None
        row = json.loads(file.read_text(encoding="utf-8"))
    row["seconds"] = time.monotonic() - started
    return row


def measure(number: int, quick: bool, file: Path, host: Host) -> None:
    """Measure one row here and write it as JSON."""
    import torch
    from bench_rows import setup
    from bench_rows.rows import Settings

    setup.use_stand_ins()
    if number not in NO_PACK:
        setup.use_host(host.path)
        setup.load_pack()
    module = importlib.import_module(f"bench_rows.{ROWS[number]}")
    with torch.inference_mode():
        row = module.run(Settings(quick))
    file.write_text(json.dumps(asdict(row)), encoding="utf-8")


def report(result: dict) -> str:
    """Return facts, wanted figures and tables as Markdown."""
    from bench_rows.rows import checks_text, from_json, row_text

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
    from bench_rows.plot import draw

    page = REPORT.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise RuntimeError(f"{REPORT} has lost its marks {START} and {END}.")
    page = f"{before}{START}\n{text}\n{END}{after}"
    REPORT.write_text(page, encoding="utf-8", newline="\n")
    if picture := draw(result["rows"]):
        PLOT.write_text(picture, encoding="utf-8", newline="\n")
    print(f"[bench] {REPORT.name} is up to date")


if __name__ == "__main__":
    sys.exit(main())
