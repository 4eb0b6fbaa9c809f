"""The versions of ComfyUI: the ones promised, and what the pack says on an older one."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hosting import ARCHIVES, NEWEST
from places import ROOT
from pulid_pack import host_versions as versions

LOAD = """
import importlib.util, logging, sys
root, host = sys.argv[1:]
sys.path.insert(0, host)
logging.basicConfig(format="%(levelname)s %(message)s")
spec = importlib.util.spec_from_file_location(
    "pack", root + "/__init__.py", submodule_search_locations=[root])
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
print(pack.NODE_CLASS_MAPPINGS, hasattr(pack, "comfy_entrypoint"), "pack.nodes" in sys.modules)
"""


@pytest.mark.parametrize("version", ["0.16.2", "0.9.30", "0.3.64-dev", None])
def test_an_older_host_gets_one_line_and_an_empty_pack(version, tmp_path):
    if version:
        (tmp_path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    command = [sys.executable, "-c", LOAD, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.split("\n")[0] == "{} False False", done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ERROR PuLID-Flux Native needs ComfyUI {versions.OLDEST} or newer")
    assert (version or "unknown") in line


@pytest.mark.parametrize(
    ("version", "numbers"), [("0.16.3", (0, 16, 3)), ("0.100.0-dev", (0, 100, 0)), ("1", (1,))]
)
def test_versions_are_compared_as_numbers(version, numbers):
    assert versions.numbers(version) == numbers >= versions.numbers(versions.OLDEST)


def test_the_host_under_test_is_new_enough():
    assert versions.too_old() is None


def test_fields_that_the_host_does_not_know_are_left_out():
    assert versions.newer(node_id="a", no_such_field=1) == {"node_id": "a"}


def test_the_oldest_version_is_the_same_everywhere():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'requires-comfyui = ">={versions.OLDEST}"' in project
    assert min(ARCHIVES, key=versions.numbers) == versions.OLDEST
    assert max(ARCHIVES, key=versions.numbers) == NEWEST
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| ([\d.]+) \| \d+ passed.* \| passes \|$", readme, re.M)
    assert set(rows) == set(ARCHIVES)
