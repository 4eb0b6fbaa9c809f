"""Run the quick tests against every ComfyUI that the pack promises to work on; print a table.

    python scripts/matrix.py                   all
    python scripts/matrix.py 0.16.3 0.30.0     these versions

The versions share one environment, the newest one's: what differs is ComfyUI itself. Ends with 1
if a test failed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import hosting

# What meets the host: its models, samplers, patches, folders, queue and server. The face path and
# the demo see little of it, and the browser comes with the frontend package.
LIBRARY = ("golden", "injection", "cross_attention", "checkpoint", "identity", "folders", "legacy")
SERVER = ("server", "legacy")
QUICK = ("-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-k", "not demo")


@dataclass(frozen=True)
class Row:
    """One version's outcome: what pytest counted in either set, and whether both passed."""

    version: str
    library: str
    server: str
    passed: bool
    seconds: float

    def __str__(self) -> str:
        """Return the row of a Markdown table."""
        result = "passes" if self.passed else "FAILS"
        return f"| {self.version} | {self.library} | {self.server} | {result} |"


def main(versions: list[str]) -> int:
    """Run the versions given, or all, and return the exit code."""
    unknown = [version for version in versions if version not in hosting.ARCHIVES]
    if unknown:
        print(f"There is no archive of {', '.join(unknown)}, only {', '.join(hosting.ARCHIVES)}.")
        return 2
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON"):  # here the versions say which host it is
        os.environ.pop(name, None)
    python = hosting.prepare().python
    rows = []
    for version in versions or hosting.ARCHIVES:
        rows.append(row(version, python))
        print(f"{rows[-1]} {rows[-1].seconds:.0f} s", flush=True)
    print("\n| ComfyUI | library tests | server tests | result |\n|---|---|---|---|")
    print(*rows, sep="\n")
    return 0 if all(row.passed for row in rows) else 1


def row(version: str, python: Path) -> Row:
    """Run both sets of tests against ``version``."""
    start = time.monotonic()
    path = hosting.unpack_host(version)
    library, library_passed = run(LIBRARY, "not server", path, python)
    server, server_passed = run(SERVER, "server", path, python)
    seconds = time.monotonic() - start
    return Row(version, library, server, library_passed and server_passed, seconds)


def run(names: tuple[str, ...], marks: str, path: Path, python: Path) -> tuple[str, bool]:
    """Return what pytest counted, such as "180 passed, 2 skipped", and whether all is well."""
    files = [f"tests/test_{name}.py" for name in names]
    command = [str(python), "-m", "pytest", *files, *QUICK, "-m", marks]
    hosts = {"COMFYUI_PATH": str(path), "COMFYUI_PYTHON": str(python)}
    done = subprocess.run(
        command,
        cwd=hosting.ROOT,
        env={"OMP_WAIT_POLICY": "passive", **os.environ, **hosts},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        print(done.stdout)
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)\b", last_line(done.stdout))
    return ", ".join(counts) or f"pytest ended with {done.returncode}", done.returncode == 0


def last_line(text: str) -> str:
    """Return pytest's summary."""
    return next((line for line in reversed(text.splitlines()) if " in " in line), "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
