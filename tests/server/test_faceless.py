"""Photos without a face in unattended queues: the picture of the plain model, and a note of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image
from standins.server import node_of, saved_pictures, set_inputs, split

pytestmark = pytest.mark.server


@pytest.fixture
def faceless(server, basic, tmp_path) -> dict[str, dict]:
    """Return the basic workflow with a photo of a wall."""
    path = tmp_path / "wall.png"
    Image.new("RGB", (300, 200), (150, 140, 130)).save(path)
    set_inputs(basic, "LoadImage", image=server.upload(path))
    set_inputs(basic, "KSampler", steps=2)
    set_inputs(basic, "EmptySD3LatentImage", width=64, height=64)
    return basic


def without_pack(prompt: dict) -> dict:
    """Return the prompt with the plain model in the place of Apply's."""
    prompt = copy.deepcopy(prompt)
    apply = node_of(prompt, "PuLIDFluxApply")
    set_inputs(prompt, "KSampler", model=prompt[apply]["inputs"]["model"])
    del prompt[apply]
    return prompt


@pytest.mark.parametrize("on_no_face", ["skip", "plain model"])
@pytest.mark.parametrize("form", ["Apply", "Encode and Apply Identity"])
def test_without_a_face_the_picture_is_the_plain_models_and_the_node_says_so(
    server, faceless, form, on_no_face
):
    (plain,) = saved_pictures(server, without_pack(faceless))
    prompt, kind = faceless, "PuLIDFluxApply"
    if form != "Apply":
        prompt, kind = split(faceless, "nobody"), "PuLIDFluxEncodeIdentity"
        set_inputs(prompt, "PuLIDFluxApplyIdentity", identity=["encode", 0])
        del prompt["save"]
    set_inputs(prompt, kind, on_no_face=on_no_face)
    result = server.queue(prompt)
    assert result.error is None, result.error
    (note,) = result.outputs[node_of(prompt, kind)]["pulid_notes"]
    text = "No face in image 0: the model is used as it is, without identity."
    assert note == {"text": text, "warning": True}
    (found,) = saved_pictures(server, prompt)
    assert np.array_equal(found, plain)


def test_the_identity_of_nobody_is_not_saved(server, faceless):
    prompt = split(faceless, "nobody")
    set_inputs(prompt, "PuLIDFluxEncodeIdentity", on_no_face="skip")
    result = server.queue(prompt)
    assert "The identity 'nobody' is empty" in result.error["exception_message"]
