"""Workflows, API prompts and identity files that older versions saved give the same pictures."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pulid_pack.identity.files import load_identity
from saved.making import IDENTITY, SAVED, identities, read_prompt, run, saving_prompt
from standins.server import described_inputs

pytestmark = pytest.mark.server

PICTURES = sorted(SAVED.glob("*/pictures/*.png"))
WORKFLOWS = sorted(SAVED.glob("*/workflows/*.json"))
TOLERANCE = 2  # grey levels: rounding in float32, which the random stand-ins amplify


def name_of(file) -> str:
    return f"{file.parts[-3]}-{file.stem}"


@pytest.fixture
def folder(workshop):
    """Return where the server keeps identities, without the one of these tests."""
    folder = identities(workshop)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    (folder / f"{IDENTITY}.safetensors").unlink(missing_ok=True)


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
    assert np.allclose(found.id_tokens, expected.id_tokens, rtol=0, atol=1e-4)
    assert np.allclose(found.uncond_id_tokens, expected.uncond_id_tokens, rtol=0, atol=1e-4)


@pytest.mark.parametrize("file", WORKFLOWS, ids=name_of)
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
