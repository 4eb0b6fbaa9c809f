"""What a queue runs again on a real server, what it leaves behind, and one result per list item."""

from __future__ import annotations

import json
import time

import pytest
from standins.server import encodings, node_of, set_inputs

pytestmark = pytest.mark.server

# the ID encoder: the photo and zeros; both folded into 20 layers
ENCODED_ONCE = {"parser": 1, "eva": 1, "id_encoder": 2, "folded": 40}


@pytest.fixture
def counted(basic) -> dict[str, dict]:
    """Return the basic workflow with a node that counts, after the picture is made."""
    after = [node_of(basic, "VAEDecode"), 0]
    basic["census"] = {"class_type": "ModelCensus", "inputs": {"after": after}}
    set_inputs(basic, "KSampler", steps=1)
    set_inputs(basic, "EmptySD3LatentImage", width=64, height=64)
    return basic


def free(server) -> None:
    """Press "free model and node cache"."""
    body = json.dumps({"unload_models": True, "free_memory": True}).encode()
    server.open("/free", body).close()


def census(server) -> dict[str, list]:
    """Return what is alive, and what has run, when no prompt needs anything."""
    result = server.queue({"1": {"class_type": "ModelCensus", "inputs": {}}})
    assert result.error is None, result.error
    return result.outputs["1"]


def added(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """Return the runs between two counts."""
    return {k: n for k in after if (n := after[k] - before.get(k, 0))}


def test_new_strength_mask_or_seed_encodes_and_folds_nothing(server, counted):
    start = census(server)["runs"][0]
    set_inputs(counted, "PuLIDFluxApply", face_index=0, grayscale=False)  # unlike other tests
    first = encodings(server, counted)
    assert added(first, start) == ENCODED_ONCE
    counted["mask"] = {
        "class_type": "SolidMask",
        "inputs": {"value": 0.5, "width": 64, "height": 64},
    }
    for change in (
        {"weight": 0.6},
        {"start_at": 0.2, "end_at": 0.9},
        {"attn_mask": ["mask", 0]},
        {"double_weight": 0.5},
    ):
        set_inputs(counted, "PuLIDFluxApply", **change)
        assert encodings(server, counted) == first, change
    for seed in (11, 12):
        set_inputs(counted, "KSampler", seed=seed)
        assert encodings(server, counted) == first
    set_inputs(counted, "PuLIDFluxApply", weight=0.7)  # when Apply itself was cached before
    assert encodings(server, counted) == first
    set_inputs(counted, "PuLIDFluxApply", grayscale=True)
    assert added(encodings(server, counted), first) == {
        "parser": 1,
        "eva": 1,
        "id_encoder": 1,
        "folded": 20,
    }


def test_free_leaves_nothing_alive_and_the_next_run_works(server, counted):
    before = encodings(server, counted)
    free(server)
    deadline = time.monotonic() + 30
    while (alive := census(server))["records"] != [0] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive["records"] == [0]
    assert alive["census"][0]["loaded"] == alive["census"][0]["patchers"] == 0
    assert added(encodings(server, counted), before) == ENCODED_ONCE
