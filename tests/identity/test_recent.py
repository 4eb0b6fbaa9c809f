"""The last encoded photos: what counts as the same, how many are kept, and for how long."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import skimage.data
import torch
from pulid_pack.encoders.eva_clip import load_eva_clip
from pulid_pack.encoders.faces import load_face_analysis
from pulid_pack.identity import recent
from pulid_pack.identity.recent import Recent
from pulid_pack.nodes import encode, encoding
from pulid_pack.pulid_flux.checkpoint import load_pulid
from standins.eva import EVA_POOLED, EVA_WIDTH, write_eva_clip
from standins.faces import write_face_pack, write_parsing
from standins.pulid import write_pulid


class Maker:
    """Stands for a loaded model."""


class Node:
    """Stands for a node outside a run."""

    hidden = None


@pytest.fixture(scope="module")
def loaders(tmp_path_factory):
    """Return functions that load PuLID, EVA-CLIP and the face models anew."""
    folder = tmp_path_factory.mktemp("recent")
    pulid = folder / "pulid.safetensors"
    write_pulid(pulid, vit_width=EVA_WIDTH, id_cond_width=512 + EVA_POOLED)
    eva = write_eva_clip(folder)
    write_parsing(folder)
    write_face_pack(folder / "antelopev2")
    return {
        "pulid_model": lambda: load_pulid(pulid),
        "eva_clip": lambda: load_eva_clip(eva),
        "face_analysis": lambda: load_face_analysis(
            folder / "antelopev2", "CPU", folder / "parsing_bisenet.pth"
        ),
    }


@pytest.fixture
def models(loaders):
    return {name: load() for name, load in loaders.items()}


@pytest.fixture
def counted(monkeypatch):
    """Return the list of photos whose faces were looked for."""
    seen = []
    whole = encoding.face_features

    def looked(analysis, eva, images, *rest):
        seen.append(images)
        return whole(analysis, eva, images, *rest)

    monkeypatch.setattr(encoding, "face_features", looked)
    return seen


def portrait() -> torch.Tensor:
    return torch.from_numpy(skimage.data.astronaut().astype(np.float32) / 255)[None]


def test_the_same_photo_gives_the_same_again_without_a_look(models, counted):
    first = encode.PuLIDFluxEncodeIdentity.execute(image=portrait(), **models)
    again = encode.PuLIDFluxEncodeIdentity.execute(image=portrait(), **models)
    assert len(counted) == 1
    assert again.args[0] is first.args[0]
    assert torch.equal(again.args[1], first.args[1]) and torch.equal(again.args[2], first.args[2])
    for kind in ("order", "chosen", "boxes", "scores"):
        (before,), (after,) = first.ui["pulid_faces"], again.ui["pulid_faces"]
        assert before[kind] == after[kind]
    assert len(again.ui["images"]) == len(first.ui["images"]) == 1
    assert again.ui["pulid_notes"] == first.ui["pulid_notes"] == []


def test_an_identity_knows_the_vectors_of_all_its_photos_and_whose_they_are(models):
    both = torch.cat((portrait(), portrait().flip(2)))
    run = encode.PuLIDFluxEncodeIdentity.execute
    joint = run(image=both, **models).args[0].faces
    assert (joint.recogniser, joint.pack) == ("glintr100.onnx", "antelopev2")
    looked = encoding.face_features(models["face_analysis"], models["eva_clip"], both)
    assert torch.equal(joint.vectors, looked.arcface)
    prior = {"fusion": "mean", "prior_image": portrait()}
    mean = run(image=both[1:], **models, **prior).args[0].faces
    assert torch.equal(mean.vectors, joint.vectors), "the prior comes first"
    wall = torch.full_like(portrait(), 0.5)
    assert run(image=wall, on_no_face="skip", **models).args[0].faces is None


def test_the_crops_are_those_of_eight_bits(models):
    crops = encode.PuLIDFluxEncodeIdentity.execute(image=portrait(), **models).args[1]
    assert crops.shape == (1, 512, 512, 3) and crops.dtype == torch.float32
    assert torch.equal((crops * 255).round() / 255, crops)


CHANGES = {
    "face": "smallest",
    "face_index": 0,
    "fusion": "mean",
    "on_no_face": "skip",
    "grayscale": False,
    "fusion_weight_max": 2.0,
    "fusion_weight_min": 0.5,
    "train_step": 7,
    "prior_image": portrait(),
    "image": portrait() * 0.99,
}


def test_every_setting_counts(models, counted):
    inputs = {"image": portrait(), **models}
    encode.PuLIDFluxEncodeIdentity.execute(**inputs)
    for name, value in CHANGES.items():
        before = len(counted)
        encode.PuLIDFluxEncodeIdentity.execute(**(inputs | {name: value}))
        assert len(counted) - before == (name != "face_index"), name  # 0 is what it was


@pytest.mark.parametrize("name", ["pulid_model", "eva_clip", "face_analysis"])
def test_a_model_loaded_anew_is_another_model(models, loaders, counted, name):
    inputs = {"image": portrait(), **models}
    first = encode.PuLIDFluxEncodeIdentity.execute(**inputs).args[0]
    again = encode.PuLIDFluxEncodeIdentity.execute(**(inputs | {name: loaders[name]()})).args[0]
    assert len(counted) == 2
    assert torch.equal(first.id_tokens, again.id_tokens)


def test_what_is_kept_keeps_no_model_alive(models):
    encode.PuLIDFluxEncodeIdentity.execute(image=portrait(), **models)
    store = models["pulid_model"].id_encoder.recent
    refs = [weakref.ref(models.pop(name)) for name in ("eva_clip", "face_analysis")]
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    assert len(store.results) == 1
    store.put("other", (Maker(),), 1, 1)  # what nobody can ask for again goes with the next
    assert list(store.results) == ["other"]
    kept = weakref.ref(store)
    del store, models["pulid_model"]
    gc.collect()
    assert kept() is None


def test_one_photo_takes_a_megabyte_and_sixty_four_less_than_a_hundred():
    tokens = torch.zeros(1, 32, 2048)
    for photos, at_most in ((1, 1.1e6), (64, 52e6)):
        crops = torch.zeros(photos, 512, 512, 3, dtype=torch.uint8)
        arcface = torch.zeros(photos, 512)
        made = encoding.Encoded(encoding.Identity(tokens, tokens), crops, (), arcface)
        assert made.size == photos * (512 * 512 * 3 + 2048) + 32 * 2048 * 4 < at_most


def test_the_oldest_go_by_number_and_by_size():
    maker = Maker()
    store = Recent()
    for number in range(recent.KEPT + 1):
        store.put(number, (maker,), str(number), 1)
        assert store.get(1, (maker,)) == ("1" if number >= 1 else None)  # used: it stays
    assert list(store.results) == [*range(2, recent.KEPT + 1), 1]
    half = recent.BYTES // 2
    store.put("a", (maker,), "a", half)
    store.put("b", (maker,), "b", half)
    assert list(store.results) == ["a", "b"] and store.size == recent.BYTES
    store.put("large", (maker,), "large", 2 * recent.BYTES)
    assert list(store.results) == ["large"]  # the newest stays: the next weight asks for it
