"""The message for a package that is absent, and the environment while one is imported."""

from __future__ import annotations

import os
import sys

import pytest
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
