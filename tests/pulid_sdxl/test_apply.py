"""Which models and identities PuLID-SDXL is applied to, and which it refuses by name."""

from __future__ import annotations

import json

import comfy.model_base
import comfy.supported_models
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pulid_pack.identity.identity import Identity
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.nodes.sdxl import PuLIDSDXLApplyIdentity
from pulid_pack.pulid_sdxl.hooks import KEY
from pulid_pack.pulid_sdxl.unet import attention_layers
from standins.lab import person, small_flux, small_pulid
from standins.sdxl import (
    FIXED,
    GOLDEN,
    MANIFEST,
    TINY,
    empty_sdxl,
    someone,
    tiny_pulid,
    tiny_sdxl,
)


def apply(model, pulid, identity, **more):
    return PuLIDSDXLApplyIdentity.execute(model, pulid, identity, "fidelity", 0.8, 0.0, 1.0, **more)


def test_layers_are_in_the_order_of_the_files():
    table = json.loads((GOLDEN / "attn2_layers.json").read_text())["layers"]
    with torch.device("meta"):
        found = attention_layers(empty_sdxl().model.diffusion_model)
    assert [layer.key for layer in found] == [(x["block"], x["number"], x["index"]) for x in table]
    assert [x["layer"] for x in table] == list(range(1, 140, 2))
    narrow = MANIFEST["unet_with_id"]["dims"]["model_channels"] / 320
    assert [layer.width for layer in found] == [x["width"] * narrow for x in table]


def other_unet(kind: str, **dims) -> ModelPatcher:
    config = getattr(comfy.supported_models, kind)({**TINY, **FIXED, **dims})
    config.set_inference_dtype(torch.float32, None)
    base = comfy.model_base.BaseModel(config, device="meta")
    return ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("kind", "dims", "words"),
    [
        ("SD15", {"context_dim": 96}, "Stable Diffusion 1.5.*text of width \\[96\\]"),
        ("SD20", {"context_dim": 128}, "Stable Diffusion 2\\)"),
        ("SDXLRefiner", {"context_dim": 160}, "the SDXL refiner"),
        ("SSD1B", {"transformer_depth_middle": 0}, "SSD-1B, a smaller SDXL\\): it has 9 cross-"),
        ("Segmind_Vega", {"transformer_depth_middle": 0}, "Segmind Vega, a smaller SDXL"),
        ("KOALA_1B", {"transformer_depth_middle": 0}, "KOALA 1B, a smaller SDXL"),
    ],
)
def test_a_smaller_or_older_unet_is_refused_by_name(kind, dims, words):
    with pytest.raises(ValueError, match=words):
        apply(other_unet(kind, **dims), tiny_pulid(), someone(1))


def test_a_transformer_is_refused_by_name():
    with pytest.raises(ValueError, match=r"this model \(Flux, Flux\).*SDXL and every model"):
        apply(small_flux(depth=1, depth_single=1), tiny_pulid(), someone(1))


def test_sdxl_is_refused_by_the_flux_node():
    with pytest.raises(ValueError, match="PuLID-FLUX cannot be applied to this model"):
        PuLIDFluxApplyIdentity.execute(tiny_sdxl(), small_pulid(), person(1), 1.0, 0.0, 1.0)


@pytest.mark.parametrize("family", ["flux", "sdxl-v1.1"])
def test_an_identity_of_another_encoder_is_refused_by_name(family):
    with pytest.raises(ValueError, match=r"PuLID-(FLUX|SDXL v1.1), but tiny 1 is PuLID-SDXL v1:"):
        apply(tiny_sdxl(), tiny_pulid(), someone(1, 32, family))


def test_tokens_of_another_width_are_refused():
    wide = torch.zeros(1, 10, 96)
    with pytest.raises(ValueError, match="ID tokens of 96 values, but tiny 1 takes 64"):
        apply(tiny_sdxl(), tiny_pulid(), Identity(wide, wide, "sdxl-v1"))


def test_an_sdxl_identity_is_refused_by_the_flux_node():
    flux = small_flux(depth=1, depth_single=1)
    with pytest.raises(ValueError, match="made by PuLID-SDXL v1.1, but pulid 2 is PuLID-FLUX"):
        identity = someone(1, 32, "sdxl-v1.1")
        PuLIDFluxApplyIdentity.execute(flux, small_pulid(token_width=64), identity, 1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"weight": float("nan")}, "weight is nan"),
        ({"start_at": float("inf")}, "start_at is inf"),
        ({"method": "custom", "projection": "ortho_v3"}, "projection is 'ortho_v3'"),
        ({"method": "custom", "num_zero": -1}, "num_zero is -1"),
        ({"method": "best"}, "method is 'best'; choose one of fidelity, style, neutral, custom"),
    ],
)
def test_a_setting_that_cannot_be_is_named(setting, words):
    values = {"method": "fidelity", "weight": 0.8, "start_at": 0.0, "end_at": 1.0, **setting}
    with pytest.raises(ValueError, match=words):
        PuLIDSDXLApplyIdentity.execute(tiny_sdxl(), tiny_pulid(), someone(1), **values)


def test_each_identity_that_can_act_is_a_use_and_no_other():
    sdxl, pulid = tiny_sdxl(), tiny_pulid()
    model = sdxl
    for seed, weight in ((1, 0.8), (2, 0.0), (3, 0.5)):
        settings = ("fidelity", weight, 0.0, 1.0)
        model = PuLIDSDXLApplyIdentity.execute(model, pulid, someone(seed), *settings)[0]
    assert [use.weight for use in model.get_attachment(KEY).uses] == [0.8, 0.5]
    assert sdxl.get_attachment(KEY) is None
