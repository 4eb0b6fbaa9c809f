"""docs/api.md: its programs run against a real server and agree, its tables are the nodes'."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
from PIL import Image
from places import ROOT, WORKFLOWS
from standins.server import node_of, saved_pictures, set_inputs

pytestmark = pytest.mark.server

PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
NAMES = ("urllib", "client", "comfy-api-simplified", "ComfyScript", "history", "identity")
SMALLER = {r"\b20\b": "2", r"\b896\b": "64", r"\b1152\b": "64"}
OURS = ("PuLIDFlux", "PuLIDSDXL")


@pytest.fixture(scope="module")
def folder(server, tmp_path_factory):
    """Return a folder with what the programs read; ComfyScript's photo is on the server as well."""
    folder = tmp_path_factory.mktemp("programs")
    Image.fromarray(skimage.data.astronaut()).save(folder / "me.jpg", quality=95)
    shutil.copy(WORKFLOWS / "api" / "flux_pulid_basic.json", folder)
    server.upload(folder / "me.jpg")
    return folder


@pytest.fixture(scope="module")
def expected(server, folder):
    """Return the picture that all programs with those settings are to make."""
    prompt = json.loads((folder / "flux_pulid_basic.json").read_text("utf-8"))
    set_inputs(prompt, "LoadImage", image="me.jpg")
    set_inputs(prompt, "KSampler", steps=2, seed=7)
    set_inputs(prompt, "EmptySD3LatentImage", width=64, height=64)
    set_inputs(prompt, "PuLIDFluxApply", weight=0.9)
    text = prompt[prompt[node_of(prompt, "FluxGuidance")]["inputs"]["conditioning"][0]]["inputs"]
    text["text"] = "a person reading in a train, evening light"
    (picture,) = saved_pictures(server, prompt)
    return picture


def test_there_is_a_program_for_each_name():
    assert len(PROGRAMS) == len(NAMES)


@pytest.mark.parametrize(("name", "program"), [*zip(NAMES, PROGRAMS, strict=False)], ids=NAMES)
def test_program(server, folder, expected, name, program):
    address = '"http://127.0.0.1:8188"'
    assert address in program
    program = program.replace(address, repr(server.url))
    for written, small in SMALLER.items():  # pictures that a CPU makes at once
        program = re.sub(written, small, program)
    (folder / "program.py").write_text(program)
    (folder / "out.png").unlink(missing_ok=True)
    path = os.pathsep.join([str(ROOT / "client"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = np.asarray(Image.open(folder / "out.png").convert("RGB"))
    if name == "history":  # the workflow's own text, weight and seed
        assert done.stdout.startswith("1 faces, number 0 was used")
        assert Image.open(folder / "crop.png").size == (512, 512)
        assert Image.open(folder / "photo.png").size == (512, 512)
        assert found.shape == (64, 64, 3)
    else:
        assert np.array_equal(found, expected)


def test_required_inputs_are_those_listed(server):
    rows = re.findall(r"^\| `(PuLID\w+)` \| (.*?) \|$", PAGE, re.M)
    listed = {node: re.findall(r"`(\w+)`", names) for node, names in rows}
    info = server.object_info()
    required = {
        node: described["input_order"]["required"]
        for node, described in info.items()
        if node.startswith(OURS)
    }
    assert listed == required


def test_a_prompt_with_nothing_but_required_inputs_makes_the_same_picture(server, folder, basic):
    info = server.object_info()
    set_inputs(basic, "KSampler", seed=71, steps=1)
    set_inputs(basic, "EmptySD3LatentImage", width=64, height=64)
    (expected,) = saved_pictures(server, basic)
    for node in basic.values():
        if node["class_type"].startswith(OURS):
            optional = info[node["class_type"]]["input"].get("optional", {})
            node["inputs"] = {k: v for k, v in node["inputs"].items() if k not in optional}
    set_inputs(basic, "SaveImage", filename_prefix="required")
    (found,) = saved_pictures(server, basic)
    assert np.array_equal(found, expected)
