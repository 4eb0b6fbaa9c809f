"""Each shipped workflow runs to a picture; what older versions saved gives the same pictures.

That the page makes these prompts of the workflows is tested there (page/test_browser.py).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from places import WORKFLOWS
from pulid_pack.identity.files import load_identity
from saved.making import IDENTITY, SAVED, identities, read_prompt, run, saving_prompt
from standins.sdxl_files import CONVERTED
from standins.server import described_inputs, node_of, set_inputs
from standins.workshop import read_shipped, shown, smaller

pytestmark = pytest.mark.server

HELD_PLACE = "example.png"  # a drawing that every ComfyUI comes with
PICTURES = sorted(SAVED.glob("*/pictures/*.png"))
SHIPPED = sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
SAVED_WORKFLOWS = sorted(SAVED.glob("*/workflows/*.json"))
TOLERANCE = 2  # grey levels: rounding in float32, which the random stand-ins amplify


@pytest.mark.parametrize("name", SHIPPED)
def test_it_runs_to_a_picture_that_each_identity_changes(workshop, name):
    prompt = smaller(read_shipped(name))
    made = shown(workshop, workshop.queue(prompt), prompt)
    assert made
    for picture in made:
        assert picture.std(axis=(0, 1)).max() > 5, "one flat colour"
    applies = [node for node in prompt.values() if re.match("PuLID.*Apply", node["class_type"])]
    assert applies or name == "flux_pulid_save_identity"
    for apply in applies:
        weight, apply["inputs"]["weight"] = apply["inputs"]["weight"], 0.0
        pictures = shown(workshop, workshop.queue(prompt), prompt)
        changes = [abs(a.astype(int) - b).mean() for a, b in zip(made, pictures, strict=True)]
        assert max(changes) > 0.05
        apply["inputs"]["weight"] = weight


def test_what_one_workflow_saves_another_loads(workshop):
    save = smaller(read_shipped("flux_pulid_save_identity"))
    load = smaller(read_shipped("flux_pulid_from_identity"))
    set_inputs(save, "PuLIDFluxEncodeIdentity", fusion="max")
    set_inputs(save, "PuLIDFluxSaveIdentity", name="somebody new")
    (before,) = shown(workshop, workshop.queue(load), load)
    assert workshop.queue(save).error is None
    set_inputs(load, "PuLIDFluxLoadIdentity", name="somebody new.safetensors")
    (after,) = shown(workshop, workshop.queue(load), load)
    assert (before != after).any()
    assert not {"PuLIDFluxLoadEVACLIP", "PuLIDFluxLoadInsightFace"} & {
        node["class_type"] for node in load.values()
    }


def test_avatar_makes_what_its_parameters_say(workshop):
    prompt = smaller(read_shipped("sdxl_pulid_avatar"))
    titled = {node["_meta"]["title"]: node["inputs"] for node in prompt.values()}
    wanted = {"Width": 197, "Height": 134, "Number of images": 2, "Seed": 7}
    for title, value in wanted.items():
        titled[title]["value"] = value
    titled["Mode"]["method"], titled["ID mix"]["fusion"] = "style", "id_mix"
    made = shown(workshop, workshop.queue(prompt), prompt)
    assert [picture.shape for picture in made] == [(128, 192, 3)] * 2
    assert (made[0] != made[1]).any()


def test_a_converted_file_gives_the_same_picture(workshop):
    prompt = smaller(read_shipped("sdxl_pulid_lightning"))
    (expected,) = shown(workshop, workshop.queue(prompt), prompt)
    set_inputs(prompt, "PuLIDSDXLLoadModel", model_name=Path(CONVERTED).name)
    result = workshop.queue(prompt)
    assert node_of(prompt, "PuLIDSDXLApply") in result.executed
    (found,) = shown(workshop, result, prompt)
    assert np.array_equal(found, expected)


def test_the_picture_that_holds_the_place_is_an_error_about_its_face(workshop):
    prompt = smaller(read_shipped("flux_pulid_basic"))
    set_inputs(prompt, "LoadImage", image=HELD_PLACE)
    result = workshop.queue(prompt)
    assert result.error["node_type"] == "PuLIDFluxApply"
    assert "No face was found in image 0" in result.error["exception_message"]


def name_of(file) -> str:
    return f"{file.parts[-3]}-{file.stem}"


@pytest.fixture
def folder(workshop):
    """Return where the server keeps identities, without the one of these tests."""
    folder = identities(workshop)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    (folder / f"{IDENTITY}.safetensors").unlink(missing_ok=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the pictures were made on a CPU")
@pytest.mark.parametrize("file", PICTURES, ids=name_of)
def test_a_prompt_gives_the_picture_of_its_version(workshop, folder, file):
    version = file.parents[1]
    shutil.copy(version / f"{IDENTITY}.safetensors", folder)
    found = run(workshop, read_prompt(version.name, file.stem)).astype(int)
    difference = abs(found - np.asarray(Image.open(file)))
    assert difference.max() <= TOLERANCE, (difference.max(), difference.mean())


@pytest.mark.parametrize("version", sorted(path.name for path in SAVED.iterdir() if path.is_dir()))
def test_a_photo_gives_the_identity_of_its_version(workshop, folder, version):
    file = f"{IDENTITY}.safetensors"
    expected, _ = load_identity(SAVED / version / file)
    assert workshop.queue(saving_prompt(version)).error is None
    found, _ = load_identity(folder / file)
    # A pixel between two of the parsing's labels becomes either, as convolutions are summed on few
    # or many threads: it moves these tokens (standard deviation 5.7) by 0.015.
    assert np.allclose(found.id_tokens, expected.id_tokens, rtol=0, atol=0.03)
    assert np.allclose(found.uncond_id_tokens, expected.uncond_id_tokens, rtol=0, atol=1e-4)


@pytest.mark.parametrize("file", SAVED_WORKFLOWS, ids=name_of)
def test_a_workflows_values_are_still_in_their_places(workshop, file):
    """Files store a node's values in the order of its inputs; the page fills up what came later."""
    prompt = json.loads((file.parents[1] / "api" / file.name).read_text("utf-8"))
    info = workshop.object_info()
    for node in json.loads(file.read_text("utf-8"))["nodes"]:
        if node["type"].startswith("PuLIDFlux"):
            widgets = [
                name
                for name, kind, _ in described_inputs(info[node["type"]])
                if kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
            ]
            values = dict(zip(widgets, node["widgets_values"], strict=False))
            inputs = prompt[str(node["id"])]["inputs"]
            assert values == {k: v for k, v in inputs.items() if not isinstance(v, list)}
