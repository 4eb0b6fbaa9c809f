"""Run the quick tests on every ComfyUI and every Python that the pack promises; print tables.

    python scripts/matrix.py                   all of them
    python scripts/matrix.py 0.16.3 3.13       these versions of ComfyUI and of Python

The ComfyUIs share one environment, the newest one's: what differs is ComfyUI itself. Each Python
that is on this machine gets an environment of its own (several GB) with the newest ComfyUI; the
oldest Python gets the oldest packages. Ends with 1 if a test failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import hosting

# What meets the host: its models, samplers, patches, folders, queue and server. The face path and
# the demo see little of it, and the browser comes with the frontend package.
LIBRARY = (
    "pulid_flux/test_golden",
    "pulid_flux/test_hooks",
    "pulid_flux/test_foreign_loops",
    "pulid_flux/test_apply",
    "pulid_flux/test_cross_attention",
    "pulid_flux/test_checkpoint",
    "pulid_sdxl/test_golden",
    "pulid_sdxl/test_hooks",
    "pulid_sdxl/test_apply",
    "pulid_sdxl/test_checkpoint",
    "house/test_nvidia",
    "identity/test_fusion",
    "identity/test_files",
    "identity/test_masks",
    "nodes/test_identities",
    "nodes/test_folders",
    "nodes/old_packs/test_upgrade",
    "nodes/old_packs/test_sdxl",
)
# Of these, what a Python could do otherwise; how FLUX calls our blocks depends on the host alone.
OF_PYTHON = (
    "pulid_flux/test_golden",
    "pulid_flux/test_cross_attention",
    "pulid_flux/test_checkpoint",
    "pulid_sdxl/test_checkpoint",
    "identity",
    "nodes/test_identities",
    "nodes/old_packs/test_upgrade",
    "nodes/old_packs/test_sdxl",
)
SERVER = (
    "server/test_server",
    "server/test_queue",
    "server/test_lists",
    "server/test_clients",
    "nodes/old_packs/test_upgrade",
    "nodes/old_packs/test_sdxl",
)
# What meets the packages besides: photos, face models, files, and the pack as a whole.
PACKAGES = ("encoders", "house/test_faults", "house/test_security")
# What differs from torch to torch: run with the oldest packages, which have an older one.
OF_TORCH = ("pulid_flux/test_compile", "pulid_sdxl/test_compile")
QUICK = ("-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-k", "not demo")
PYTHONS = [f"{major}.{minor}" for major, minor in hosting.PYTHONS]
VERSIONS = (
    "import sys, torch, numpy, insightface;"
    "print(sys.version.split()[0], torch.__version__.split('+')[0],"
    "numpy.__version__, insightface.__version__)"
)


@dataclass(frozen=True)
class Row:
    """One version's outcome: the cells of its table, and whether its tests passed."""

    cells: tuple[str, ...]
    passed: bool
    seconds: float = 0.0

    def __str__(self) -> str:
        """Return the row of a Markdown table."""
        result = "passes" if self.passed else "FAILS"
        return f"| {' | '.join(self.cells)} | {result} |"


def main(versions: list[str]) -> int:
    """Run the versions given, or all, and return the exit code."""
    known = [*hosting.ARCHIVES, *PYTHONS]
    unknown = [version for version in versions if version not in known]
    if unknown:
        print(f"There is no {', '.join(unknown)} here, only {', '.join(known)}.")
        return 2
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON"):  # here the versions say which host it is
        os.environ.pop(name, None)
    wanted = versions or known
    found = {version: find_python(version) for version in wanted if version in PYTHONS}
    # an environment takes one core a minute, which the tests meanwhile leave it
    with ThreadPoolExecutor(1) as beside:
        made = {
            version: beside.submit(environment_for, version, interpreter)
            for version, interpreter in found.items()
            if interpreter
        }
        hosts = [told(host_row(version)) for version in wanted if version in hosting.ARCHIVES]
        pythons = [told(python_row(version, python.result())) for version, python in made.items()]
    for version in found.keys() - made.keys():
        print(f"Python {version} is not on this machine.", flush=True)
    show("| ComfyUI | library tests | server tests | result |", hosts)
    show("| Python | torch | numpy | insightface | tests | result |", pythons)
    return 0 if all(row.passed for row in (*hosts, *pythons)) else 1


def told(row: Row) -> Row:
    """Print a row as soon as there is one."""
    print(f"{row} {row.seconds:.0f} s", flush=True)
    return row


def show(head: str, rows: list[Row]) -> None:
    """Print a Markdown table, if it has rows."""
    if rows:
        print(f"\n{head}", "|---" * (head.count("|") - 1) + "|", *rows, sep="\n")


def host_row(version: str) -> Row:
    """Run the library's and the server's tests against ComfyUI ``version``."""
    start = time.monotonic()
    python = hosting.prepare().python
    path = hosting.unpack_host(version)
    library, library_passed = run(LIBRARY, "not server", path, python)
    server, server_passed = run(SERVER, "server", path, python)
    passed = library_passed and server_passed
    return Row((version, library, server), passed, time.monotonic() - start)


def python_row(version: str, python: Path | None) -> Row:
    """Run the methods' and the packages' tests on Python ``version`` and the newest ComfyUI."""
    start = time.monotonic()
    if python is None:
        return Row((version, "", "", "", "no environment"), False)
    files = (*OF_PYTHON, *PACKAGES, *(OF_TORCH if version == PYTHONS[0] else ()))
    found = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    path = hosting.unpack_host(hosting.NEWEST)
    counts, passed = run(files, "not server and not browser", path, python)
    cells = (*found.stdout.splitlines()[-1].split(), counts)
    return Row(cells, passed, time.monotonic() - start)


def environment_for(version: str, interpreter: Path) -> Path | None:
    """Return the Python of the environment in which ``version`` is tried; None if there is none."""
    if version == PYTHONS[0]:
        if python := environment(interpreter, "--oldest"):
            return python
        # the old insightface comes as source and wants a compiler
        print(f"Python {version} could not install the oldest packages; it takes the newest.")
    return environment(interpreter)


def environment(interpreter: Path, *options: str) -> Path | None:
    """Return the Python of ``interpreter``'s environment for the host; None if it was not made."""
    command = [str(interpreter), str(Path(hosting.__file__)), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def find_python(version: str) -> Path | None:
    """Return a Python ``version`` of this machine: on PATH, from pyenv or Windows' launcher.

    One that cannot make environments (some systems leave those modules out) does not count.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    commands = [
        [sys.executable],
        [shutil.which(f"python{version}")],
        *([str(path)] for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python"))),
        [shutil.which("py"), f"-{version}"],
    ]
    ask = "import ensurepip, sys, venv; print(sys.executable)"
    ask += "; print('{}.{}'.format(*sys.version_info))"
    for command in commands:
        if command[0]:
            done = subprocess.run([*command, "-c", ask], capture_output=True, text=True)
            if done.returncode == 0 and done.stdout.split("\n")[1:2] == [version]:
                return Path(done.stdout.split("\n")[0])
    return None


def run(names: tuple[str, ...], marks: str, path: Path, python: Path) -> tuple[str, bool]:
    """Return what pytest counted, such as "180 passed, 2 skipped", and whether all is well."""
    files = [f"tests/{name}" + ".py" * ("/test_" in name) for name in names]
    command = [str(python), "-m", "pytest", *files, *QUICK, *hosting.WORKERS, "-m", marks]
    hosts = {"COMFYUI_PATH": str(path), "COMFYUI_PYTHON": str(python)}
    done = subprocess.run(
        command,
        cwd=hosting.ROOT,
        env={**hosting.ONE_THREAD, **hosting.KEPT, **hosting.sharing(), **hosts},
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
