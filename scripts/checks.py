"""Check the package that the registry would get, and its imports against ComfyUI's sources.

    python scripts/checks.py            the oldest and the newest ComfyUI
    python scripts/checks.py 0.20.1     these versions

comfy-cli validates the pack and packs it as it would publish it; comfy-import-guard looks up every
name of ComfyUI that the packed sources use, and how they call it. Both come from PyPI into an
environment in ``.host/``; nothing else is fetched but ComfyUI (see hosting.py). Exits with 1 and
the tool's own words if something is wrong.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import hosting
from hosting import ARCHIVES, HOST_DIR, NEWEST, ROOT, say

OLDEST = next(iter(ARCHIVES))
TOOLS = ("comfy-cli==1.23.0", "comfy-import-guard==1.3.0")
GUARD = HOST_DIR / "import-guard"
# What nobody who installs the pack needs, and what it cannot do without.
LEFT_OUT = ("tests", "bench", "client", "scripts", ".ci", ".github")
NEEDED = ("__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "docs/errors.md")
LARGEST = 850_000  # bytes of the zip file; 460,000 are the pictures of 18 workflows
GIT = ("-c", "user.name=checks", "-c", "user.email=checks@localhost", "-c", "core.autocrlf=false")


def main(versions: list[str]) -> int:
    """Run both tools; return 1 if one of them objects."""
    programs = install_tools()
    HOST_DIR.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=HOST_DIR, prefix="checks-") as scratch:
            folder = Path(scratch)
            package = pack(programs, copy_checkout(folder / "checkout"), folder)
            check_imports(programs, package, versions or [OLDEST, NEWEST])
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def install_tools() -> Path:
    """Return the folder with the tools' programs, in an environment of their own."""
    folder = HOST_DIR / "venv-checks"
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    stamp = folder / "ready"  # written last, as in hosting.environment
    wanted = "\n".join([sys.version, *TOOLS])
    if not (stamp.is_file() and stamp.read_text() == wanted):
        say("installing comfy-cli and comfy-import-guard")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        hosting.pip(programs / "python", "install", *TOOLS)
        stamp.write_text(wanted)
    return programs


def run(command: list[str | Path], folder: Path, **environment: str) -> str:
    """Run a program in ``folder`` and return its output; RuntimeError with it if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        called = " ".join([Path(command[0]).stem, *map(str, command[1:])])
        raise RuntimeError(f"{called}:\n{done.stdout}")
    return done.stdout


def copy_checkout(target: Path) -> Path:
    """Copy what git would commit, so that neither tool writes into the checkout."""
    listed = run(["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not those deleted but not yet committed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    return target


def pack(programs: Path, checkout: Path, scratch: Path) -> Path:
    """Validate and pack the checkout; return a folder with what an installation would hold."""
    # a home of its own: comfy-cli keeps settings there, and would ask whether it may report usage
    home = {name: str(scratch) for name in ("HOME", "USERPROFILE", "APPDATA", "XDG_CONFIG_HOME")}
    for command in ("validate", "pack"):
        comfy = [programs / "comfy", "--no-json", "--skip-prompt", "node", command]
        # it reads the settings of git's repository around it: here there is to be none
        run(comfy, checkout, DO_NOT_TRACK="1", GIT_CEILING_DIRECTORIES=str(scratch), **home)
    archive = checkout / "node.zip"
    package = scratch / "custom_nodes" / "pulid-flux-native"
    with zipfile.ZipFile(archive) as packed:
        names, size = packed.namelist(), archive.stat().st_size
        packed.extractall(package)
    problems = [f"it lacks {name}" for name in NEEDED if name not in names]
    problems += [f"it contains {name}" for name in names if name.split("/")[0] in LEFT_OUT]
    if size > LARGEST:
        problems.append(f"its {size} bytes are more than {LARGEST}: see .comfyignore")
    if problems:
        raise RuntimeError("The package is wrong:\n" + "\n".join(problems))
    say(f"comfy node validate and pack: {len(names)} files, {size / 1e6:.2f} MB zipped")
    return package


def check_imports(programs: Path, package: Path, versions: list[str]) -> None:
    """Let comfy-import-guard look up what the package uses of each ComfyUI version."""
    guard = [programs / "comfy-import-guard", "--offline", "--quiet", "--cache-dir", GUARD]
    for version in versions:
        repository(version)
        check = ["check", "--no-update", "--strict", "--target", f"v{version}"]
        run([*guard, *check, "--comfy-dir", package.parent.parent], GUARD)
        say(f"comfy-import-guard: safe on ComfyUI {version}")


def repository(version: str) -> None:
    """Add ComfyUI ``version`` to the git repository that comfy-import-guard reads, as a tag.

    It would clone ComfyUI's own; a commit for each unpacked tree gives the same answers offline.
    """
    folder = GUARD / "ComfyUI"
    if not (folder / ".git").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        run(["git", "init", "-q"], folder)
    if f"v{version}" in run(["git", "tag"], folder).split():
        return
    tree = hosting.unpack_host(version)
    # the sources are all it reads; forced, since ComfyUI ignores some of its own folders
    run(["git", "--work-tree", tree, "add", "-A", "-f", "--", "*.py"], folder)
    run(["git", *GIT, "commit", "-q", "--no-gpg-sign", "--no-verify", "-m", version], folder)
    run(["git", *GIT, "tag", f"v{version}"], folder)
    run(["git", "reset", "-q", "--hard"], folder)  # it warns where the files themselves are absent


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
