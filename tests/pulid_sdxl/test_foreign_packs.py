"""Kinds of faults that were found beside other packs: their rows, and their own attention."""

from __future__ import annotations

import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_extras.nodes_sag import SelfAttentionGuidance
from pulid_pack.nodes.sdxl import PuLIDSDXLApplyIdentity
from pulid_pack.pulid_sdxl.hooks import OTHER_TEXT
from pulid_pack.pulid_sdxl.unet import attention_layers
from standins.sdxl import sample, someone, tiny_pulid, tiny_sdxl
from standins.sdxl_packs import Tiled, coupled, further_text


@pytest.fixture(scope="module")
def sdxl():
    with torch.inference_mode():
        return tiny_sdxl()


@pytest.fixture(scope="module")
def apply():
    with torch.inference_mode():
        pulid = tiny_pulid()

    def execute(model, weight=0.8):
        settings = ("fidelity", weight, 0.0, 1.0)
        return PuLIDSDXLApplyIdentity.execute(model, pulid, someone(1), *settings)[0]

    return execute


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare latents; sums in another order are amplified by cfg and a random UNet."""
    assert float((found - expected).abs().max()) <= 5e-4 * float(expected.abs().max())


# A call's rows, repeated for tiles, are repeated once more in the layers


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(("batch", "cfg"), [(1, 1.0), (1, 5.0), (2, 5.0)])
def test_attention_couple_in_tiles_acts_on_the_right_rows(sdxl, apply, tells, batch, cfg):
    """Equal prompts for both parts of the picture are the tiles alone."""
    pictures = []
    for model in (apply(sdxl), coupled(apply(sdxl), 2, tells), apply(coupled(sdxl, 2, tells))):
        model.set_model_unet_function_wrapper(Tiled(at_once=True))
        pictures.append(sample(model, cfg=cfg, batch=batch))
    near(pictures[1], pictures[0])
    near(pictures[2], pictures[0])


@pytest.mark.parametrize("tells", [True, False])
def test_a_negative_prompt_called_alone_is_known_in_attention_couple(sdxl, apply, tells):
    """Self-attention guidance calls it with a positive one's index, so its rows are repeated."""

    def guided(model):
        return SelfAttentionGuidance.execute(model, 0.5, 2.0)[0]

    expected = sample(guided(apply(sdxl)), cfg=3.0)
    near(sample(guided(apply(coupled(sdxl, 2, tells))), cfg=3.0), expected)


# An attention of another pack gets more rows of text than of the image


@pytest.mark.parametrize("apply_first", [True, False])
def test_text_for_an_attention_that_was_replaced_is_an_error(sdxl, apply, apply_first):
    """The host's attention would read the further rows as more tokens of the first ones."""
    before = sample(sdxl, cfg=3.0)
    assert torch.equal(sample(further_text(sdxl), cfg=3.0), before)
    assert torch.equal(sample(further_text(apply(sdxl, 0.0)), cfg=3.0), before)
    model = further_text(apply(sdxl)) if apply_first else apply(further_text(sdxl))
    with pytest.raises(RuntimeError) as error:
        sample(model, cfg=3.0)
    assert str(error.value) == OTHER_TEXT.format(text=3, image=2)
    assert torch.equal(sample(sdxl, cfg=3.0), before)


def test_a_function_that_knows_the_further_text_gets_it(sdxl, apply):
    """What stands under a layer's key is called with the text as it is."""
    rows = []

    def attend(q, k, v, extra):
        rows.append((len(q), len(k)))
        return optimized_attention(q, k[: len(q)], v[: len(q)], extra["n_heads"])

    model = further_text(apply(sdxl))
    layers = attention_layers(sdxl.model.diffusion_model)
    for layer in layers:
        model.set_model_attn2_replace(attend, *layer.key)
    assert torch.equal(sample(model, cfg=3.0), sample(apply(sdxl), cfg=3.0))
    assert rows == [(2, 3)] * 2 * len(layers)
