"""An upgraded "Enhanced" file gives the tokens of that pack's formulas, written out here by hand.

There the prior stands before the photos in the batch, whatever the mode, and everything is asked of
it that is asked of them.
"""

from __future__ import annotations

import random

import folder_paths
import pytest
import torch
from insightface.data import get_image
from pulid_pack.encoders.eva_clip import load_eva_clip
from pulid_pack.encoders.faces import face_features
from pulid_pack.identity.id_encoder import encode_each
from pulid_pack.nodes.encode import PuLIDFluxEncodeIdentity
from pulid_pack.nodes.old_packs import prompts
from pulid_pack.nodes.old_packs.rows import APPLY
from standins.eva import EVA_FILE
from standins.formulas import FORMULAS, HIGH, LOW
from standins.lab import small_pulid

STEPS = 6


@pytest.fixture(scope="module")
def models(analysis, face_files):
    """Return a small PuLID model, EVA-CLIP and face analysis."""
    with torch.inference_mode():
        return small_pulid(), load_eva_clip(face_files / EVA_FILE), analysis


@pytest.fixture
def previews(monkeypatch, tmp_path):
    """Let ComfyUI keep the node's previews in a folder of the test's own."""
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))


@pytest.fixture(scope="module")
def group() -> torch.Tensor:
    """Return a small photo of a few people."""
    photo = torch.from_numpy(get_image("t1")[:, :700, ::-1].copy()).float()[None] / 255
    return photo[:, : photo.shape[1] // 2 * 2].unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2))


def train_weight(x):
    """Train weights for all photos but the first, so that they give a quarter of its tokens."""
    chance = random.Random(42)
    target, others = x[0].clone(), torch.stack(list(x[1:])).clone()
    weight = torch.ones(others.shape[:2], requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=0.001, weight_decay=0.0001)
    for _ in range(STEPS):
        optimizer.zero_grad()
        far = (target - (others * weight[:, :, None]).sum(0)).norm(dim=1)
        far[chance.sample(range(len(far)), int(0.25 * len(far)))].mean().backward()
        optimizer.step()
    return (weight.detach()[:, :, None] * others + target / len(others)).mean(0)


MODES = FORMULAS | {"train_weight": train_weight}
# In these it counts who stands first, or what the old node's settings say; all modes by themselves
# are in identity/test_fusion.py.
ASKED = [("concat", False), ("auto_weight", False), ("train_weight", False), ("mean", True)]


def upgraded(mode: str, use_gray: bool) -> dict:
    """Return what an old prompt asks of our node, as far as Encode takes it."""
    values = {"fusion": mode, "fusion_weight_max": HIGH, "fusion_weight_min": LOW}
    values |= {"train_step": STEPS, "use_gray": use_gray, "options": ["2", 0]}
    chosen = {"input_faces_order": "left-right", "input_faces_index": 1}
    old = {"1": {"class_type": "ApplyPulidFlux", "inputs": values}}
    old |= {"2": {"class_type": "PulidFluxOptions", "inputs": chosen}}
    after, _ = prompts.upgrade(old)
    assert after["1"]["class_type"] == APPLY
    names = {one.id for one in PuLIDFluxEncodeIdentity.define_schema().inputs}
    return {name: value for name, value in after["1"]["inputs"].items() if name in names}


@pytest.fixture(scope="module")
def case(models, group):
    """Return prior, photos, and by use_gray the tokens of each photo, the prior's first."""
    pulid, eva, analysis = models
    prior = group[:, 20:, 15:]  # another size, another crop of every face
    photos = torch.cat((group, group.flip(2)))
    made = {True: [], False: []}
    with torch.inference_mode():
        for use_gray, tokens in made.items():
            for picture in (prior, photos):
                seen = face_features(analysis, eva, picture, "leftmost", 1, "error", use_gray)
                tokens += encode_each(pulid.id_encoder, seen.id_cond, seen.hidden)
    return prior, photos, made


@pytest.mark.parametrize(("mode", "use_gray"), ASKED)
def test_tokens_of_prior_and_photos_are_the_formula(models, case, previews, mode, use_gray):
    prior, photos, made = case
    with torch.inference_mode(False), torch.enable_grad():
        expected = MODES[mode]([one.clone() for one in made[use_gray]])
    inputs = upgraded(mode, use_gray) | {"prior_image": prior}
    pulid, eva, analysis = models
    identity = PuLIDFluxEncodeIdentity.execute(pulid, eva, analysis, photos, **inputs)[0]
    torch.testing.assert_close(identity.id_tokens[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("on_no_face", ["skip", "plain model"])
@pytest.mark.parametrize("photos", [1, 2], ids=["no face", "one of two has none"])
def test_prior_without_a_face_is_left_out(models, group, previews, photos, on_no_face):
    pulid, eva, analysis = models
    seen = face_features(analysis, eva, group, "leftmost", 1)
    (expected,) = encode_each(pulid.id_encoder, seen.id_cond, seen.hidden)
    blank = torch.zeros_like(group)
    prior = torch.cat((blank, group))[:photos]
    if photos == 2 and on_no_face == "skip":
        expected = (expected + expected) / 2  # the other one counts
    inputs = upgraded("mean", True) | {"prior_image": prior, "on_no_face": on_no_face}
    identity = PuLIDFluxEncodeIdentity.execute(pulid, eva, analysis, group, **inputs)[0]
    torch.testing.assert_close(identity.id_tokens[0], expected)


def test_prior_without_a_face_is_named_where_that_is_an_error(models, group, previews):
    """It has no number in the batch, so no photo of the batch may be shown as the one at fault."""
    pulid, eva, analysis = models
    blank = {"prior_image": torch.zeros_like(group), "on_no_face": "error"}
    with pytest.raises(ValueError, match="No face was found in prior_image"):
        PuLIDFluxEncodeIdentity.execute(
            pulid, eva, analysis, group, **upgraded("mean", True) | blank
        )
