"""The message for a package that is absent, and the environment while one is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from places import TESTS
from pulid_pack.encoders import packages

SWITCH = "NO_ALBUMENTATIONS_UPDATE"
NEEDS = {
    "cv2": "import absent_below\n",
    "facexlib": "try:\n    import absent_below\nexcept ImportError:\n    raise ImportError('no')\n",
    "timm": "import absent_below.part\n",
    "insightface": "from os import absent_below\n",  # a module that is there lacks a name
}


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Return a function that puts a module of these lines on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text)

    return write


def test_a_package_that_is_there_is_imported():
    assert packages.require("os.path", "Load EVA-CLIP") is os.path


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("cv2", "absent_below opencv-python"),
        ("facexlib", "absent_below facexlib"),
        ("timm", "absent_below timm"),
        ("insightface", "insightface"),
    ],
)
def test_what_is_absent_below_a_package_is_installed_with_it(fresh, module, names):
    fresh(module, NEEDS[module])
    with pytest.raises(RuntimeError) as raised:
        packages.require(module, "Load it")
    text = str(raised.value)
    assert text.startswith(f"Load it needs the Python package {module}, which cannot be imported")
    assert f"    python -m pip install {names}\n" in text


def test_a_module_of_an_absent_package_names_the_package():
    with pytest.raises(RuntimeError, match=r"pip install absent_above\n"):
        packages.require("absent_above.part", "Load it")


@pytest.mark.parametrize("before", [None, "0"])
def test_the_update_check_is_off_for_the_import_alone(fresh, monkeypatch, before):
    monkeypatch.delenv(SWITCH, raising=False)
    if before:
        monkeypatch.setenv(SWITCH, before)
    fresh("asks_pypi", f"import os\nseen = os.environ[{SWITCH!r}]\n")
    assert packages.require("asks_pypi", "Load it").seen == "1"
    assert os.environ.get(SWITCH) == before


def test_a_second_import_leaves_the_environment_alone(fresh, monkeypatch):
    fresh("seen_before", "")
    packages.require("seen_before", "Load it")
    monkeypatch.setattr(packages, "no_update_check", None)
    assert packages.require("seen_before", "Load it") is sys.modules["seen_before"]


BLOCKED = """
import sys
from pathlib import Path

class Without:
    # A finder that finds nothing of the blocked packages, as if they were not installed.
    blocked = set()

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *args):
        return None if name.split(".")[0] in self.blocked else self.finder.find_spec(name, *args)

    def __getattr__(self, name):
        return getattr(self.finder, name)

TESTS, FILES = sys.argv[1:]
every = {"open_clip", "timm", "insightface", "onnxruntime", "facexlib", "cv2"}
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
Without.blocked = every
sys.path.insert(0, TESTS)
import real_host
from pulid_pack.encoders.eva_clip import load_eva_clip
from pulid_pack.encoders.faces import load_face_analysis
from standins.lab import small_pulid

small_pulid()  # identities that were saved need none of them
files = Path(FILES)
calls = {
    "timm": lambda: load_eva_clip(files / "any.pt"),
    "faces": lambda: load_face_analysis(files / "antelopev2", "CPU", files / "parsing_bisenet.pth"),
}
# Each package is blocked until it was asked for in vain, so none has been imported before.
for blocked, call in (
    (every, "timm"),
    ({"open_clip"}, "timm"),
    (every, "faces"),
    ({"onnxruntime"}, "faces"),
    ({"cv2"}, "faces"),
    ({"facexlib"}, "faces"),
):
    Without.blocked = blocked
    try:
        calls[call]()
    except RuntimeError as error:
        print(error)
Without.blocked = set()
print(calls["faces"]().provider)
"""


def test_a_missing_package_is_named_with_the_install_line(face_files):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(TESTS), str(face_files)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("    python ")]
    assert lines == [
        "python -m pip install timm",
        "python -m pip install open_clip_torch",
        "python -m pip install insightface",
        "python -m pip install insightface onnxruntime",
        "python -m pip install insightface opencv-python",
        "python -m pip install facexlib",
    ]
    assert done.stdout.splitlines()[-1] == "CPU"
