"""The authors' ID encoder and EVA-CLIP tower with the golden weights, for tests in any folder."""

from __future__ import annotations

import json

import pytest
import torch
from golden.weights import golden_input, golden_state_dict
from places import GOLDEN
from standins.eva import EVA_FILE, EVA_SIDE


@pytest.fixture(scope="module")
def golden_encoder():
    """Return the ID encoder at full size."""
    from pulid_pack.identity.id_encoder import load_id_encoder

    shapes = json.loads((GOLDEN / "manifest.json").read_text())["idformer"]["shapes"]
    with torch.inference_mode():
        return load_id_encoder(golden_state_dict(shapes), "pulid_encoder.", "golden", "golden", "")


@pytest.fixture(scope="module")
def golden_tower(tmp_path_factory):
    """Return the tower at full size, loaded from an original-layout file."""
    from pulid_pack.encoders.eva_clip import load_eva_clip

    path = tmp_path_factory.mktemp("full") / EVA_FILE
    shapes = json.loads((GOLDEN / "eva_manifest.json").read_text())["eva_visual_shapes"]
    with torch.inference_mode():
        torch.save(golden_state_dict(shapes), path)
        eva = load_eva_clip(path)
    path.unlink()
    return eva


def golden_pixels(count: int = 2, side: int = EVA_SIDE) -> torch.Tensor:
    """Return the pictures that EVA-CLIP's golden numbers are of: [count, 3, side, side]."""
    return golden_input("eva.pixels", (count, 3, side, side))
