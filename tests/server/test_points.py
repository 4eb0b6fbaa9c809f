"""A photo without a face is shown on the node that fails, and only to the page that asked."""

from __future__ import annotations

import asyncio

import pytest
from PIL import Image
from standins.listener import Listener, run
from standins.server import node_of, set_inputs

pytestmark = pytest.mark.server

POINTS = "35, 40; 65, 40; 50, 55; 40, 70; 60, 70"


@pytest.fixture
def faceless(server, basic, tmp_path) -> dict[str, dict]:
    """Return the basic workflow with a batch of two photos, a face and a wall."""
    path = tmp_path / "wall.png"
    Image.new("RGB", (300, 200), (150, 140, 130)).save(path)
    wall = {"class_type": "LoadImage", "inputs": {"image": server.upload(path)}}
    images = {"image1": [node_of(basic, "LoadImage"), 0], "image2": ["wall", 0]}
    set_inputs(basic, "KSampler", steps=1)
    set_inputs(basic, "EmptySD3LatentImage", width=64, height=64)
    set_inputs(basic, "PuLIDFluxApply", image=["batch", 0], on_no_face="error")
    return basic | {"wall": wall, "batch": {"class_type": "ImageBatch", "inputs": images}}


def shown(client: Listener) -> list[dict]:
    return [event["data"] for event in client.texts if event["type"] == "pulid_flux.faces"]


def test_the_page_that_asked_sees_the_photo_without_a_face(server, faceless):
    first, second, plain = Listener(server, True), Listener(server, True), Listener(server, False)
    history = asyncio.run(run(server, faceless, [first, second, plain]))
    assert history["status"]["status_str"] == "error"
    ((found,), others) = shown(first), shown(second) + shown(plain)
    assert others == []
    assert found["node"] == node_of(faceless, "PuLIDFluxApply")
    (photo,) = found["faces"]
    assert (photo["boxes"], photo["scores"], photo["chosen"]) == ([], [], None)
    assert photo["by_hand"] is False
    assert len(server.image(photo["picture"])) > 100
    assert shown(plain) == []


def test_a_client_that_is_no_page_gets_the_error_alone(server, faceless):
    plain = Listener(server, False)
    history = asyncio.run(run(server, faceless, [plain]))
    assert history["status"]["status_str"] == "error"
    assert shown(plain) == []


def test_a_face_by_hand_is_said_to_be_one(server, faceless):
    set_inputs(faceless, "PuLIDFluxApply", face_points=POINTS)
    result = server.queue(faceless)
    assert result.error is None, result.error
    photos = result.outputs[node_of(faceless, "PuLIDFluxApply")]["pulid_faces"]
    assert [(len(photo["boxes"]), photo["by_hand"]) for photo in photos] == [(1, True)] * 2
