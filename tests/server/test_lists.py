"""A list of photos, or of masks, gives one picture for each, through Apply and through Encode."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import skimage.data
from PIL import Image
from standins.server import encodings, node_of, saved_pictures, set_inputs, split

pytestmark = pytest.mark.server

ONE = {"class_type": "ImageFromBatch", "inputs": {"image": ["both", 0], "length": 1}}
EACH = {"class_type": "RebatchImages", "inputs": {"images": ["both", 0], "batch_size": 1}}


@pytest.fixture
def two_photos(server, basic, tmp_path) -> dict[str, dict]:
    """Return the basic workflow with a batch of two photos, not linked to anything yet."""
    path = tmp_path / "listed.png"
    Image.fromarray(skimage.data.astronaut()).crop((60, 0, 460, 400)).save(path)
    closer = {"image": server.upload(path)}
    photo = node_of(basic, "LoadImage")
    basic["closer"] = {"class_type": "LoadImage", "inputs": closer}
    both = {"image1": [photo, 0], "image2": ["closer", 0]}
    basic["both"] = {"class_type": "ImageBatch", "inputs": both}
    set_inputs(basic, "KSampler", steps=2)
    set_inputs(basic, "EmptySD3LatentImage", width=64, height=64)
    return basic


def set_photo(prompt: dict, kind: str, node: dict) -> dict:
    """Return the prompt in which ``kind`` gets the photos of ``node``."""
    prompt = copy.deepcopy(prompt) | {"photos": copy.deepcopy(node)}
    set_inputs(prompt, kind, image=["photos", 0])
    return prompt


def one(index: int) -> dict:
    return ONE | {"inputs": ONE["inputs"] | {"batch_index": index}}


@pytest.mark.parametrize("form", ["Apply", "Encode and Apply Identity"])
def test_one_picture_for_each_photo(server, two_photos, form):
    prompt, kind = two_photos, "PuLIDFluxApply"
    if form != "Apply":
        prompt, kind = split(two_photos, "listed"), "PuLIDFluxEncodeIdentity"
        set_inputs(prompt, "PuLIDFluxApplyIdentity", identity=["encode", 0])
        del prompt["save"]
    alone = [saved_pictures(server, set_photo(prompt, kind, one(index))) for index in (0, 1)]
    assert [len(made) for made in alone] == [1, 1]
    assert not np.array_equal(alone[0][0], alone[1][0])
    listed = saved_pictures(server, set_photo(prompt, kind, EACH))
    assert len(listed) == 2
    assert np.array_equal(listed[0], alone[0][0]) and np.array_equal(listed[1], alone[1][0])


def test_a_new_weight_for_a_list_encodes_nothing(server, two_photos):
    prompt = set_photo(two_photos, "PuLIDFluxApply", EACH)
    after = [node_of(prompt, "VAEDecode"), 0]
    prompt["census"] = {"class_type": "ModelCensus", "inputs": {"after": after}}
    set_inputs(prompt, "PuLIDFluxApply", face_index=0, grayscale=False)
    first = encodings(server, prompt)
    set_inputs(prompt, "PuLIDFluxApply", weight=0.65)
    assert encodings(server, prompt) == first


def test_one_picture_for_each_mask(server, two_photos):
    prompt = two_photos
    for name, value in (("black", 0.0), ("white", 1.0)):
        size = {"value": value, "width": 64, "height": 64}
        prompt[name] = {"class_type": "SolidMask", "inputs": size}
        prompt[f"{name} image"] = {"class_type": "MaskToImage", "inputs": {"mask": [name, 0]}}
    both = {"image1": ["black image", 0], "image2": ["white image", 0]}
    prompt["both"] = {"class_type": "ImageBatch", "inputs": both}
    prompt["photos"] = copy.deepcopy(EACH)
    inputs = {"image": ["photos", 0], "channel": "red"}
    prompt["masks"] = {"class_type": "ImageToMask", "inputs": inputs}
    alone = []
    for name in ("black", "white"):
        set_inputs(prompt, "PuLIDFluxApply", attn_mask=[name, 0])
        alone += saved_pictures(server, prompt)
    set_inputs(prompt, "PuLIDFluxApply", attn_mask=["masks", 0])
    listed = saved_pictures(server, prompt)
    assert len(listed) == 2 == len(alone)
    assert np.array_equal(listed[0], alone[0]) and np.array_equal(listed[1], alone[1])
    assert not np.array_equal(listed[0], listed[1])
