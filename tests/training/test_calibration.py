"""A new adapter's norms are set by photos: its tokens differ with the person."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pulid_pack.identity.id_former import Attention, Sizes
from pulid_pack.micro_world.drawn import make
from pulid_pack.training import studio
from pulid_pack.training.adapter import new
from pulid_pack.training.calibration import calibrate
from pulid_pack.training.config import from_tables
from standins import small_runs
from standins.lab import small_flux
from standins.sdxl import tiny_sdxl

SIZES = Sizes(64, 64, 256, 5, 4, 2, 64, 24, 16, 64)
PHOTOS, STATES = 48, 9


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode, as training does."""


@pytest.fixture(scope="module")
def features():
    """Return photos' features as EVA-CLIP gives them: most of a hidden state is everybody's."""
    draw = torch.Generator().manual_seed(2)
    id_cond = torch.randn(PHOTOS, 1, SIZES.id_cond, generator=draw)
    hidden = [
        3 * torch.randn(1, STATES, SIZES.vit, generator=draw)
        + torch.randn(PHOTOS, STATES, SIZES.vit, generator=draw)
        for _ in range(5)
    ]
    return id_cond, hidden


@pytest.fixture(params=[small_flux, tiny_sdxl], ids=["FLUX", "SDXL"])
def adapter(request):
    with torch.inference_mode(False):
        return new(request.param(), SIZES, 1)


def own_share(x: torch.Tensor) -> float:
    """Return which part of the mean square of [photos, tokens, C] differs with the photo."""
    return float((x - x.mean(0)).square().mean() / x.square().mean())


def test_tokens_become_the_persons(adapter, features):
    with torch.no_grad():
        before = own_share(adapter.tokens(*features))
        calibrate(adapter, *features)
        after = own_share(adapter.tokens(*features))
    assert before < 0.25 and after > 0.5


def test_what_norms_pass_on_has_mean_0_and_variance_1(adapter, features):
    calibrate(adapter, *features)
    seen, spreads = {}, {}

    def watch(module, inputs, out):
        if isinstance(module, Attention):
            spreads.setdefault(module, scores(module, *inputs))
        else:
            seen.setdefault(module, out)

    for module in adapter.id_encoder.modules():
        if isinstance(module, (torch.nn.LayerNorm, Attention)):
            module.register_forward_hook(watch)
    with torch.no_grad():
        adapter.tokens(*features)
    assert len(seen) == 3 * 5 + 2 * 6 and len(spreads) == 5
    for out in seen.values():
        rows = out.flatten(0, -2)
        assert rows.mean(0).abs().max() < 1e-3
        # but for channels that vary by less than an eighth, which are left quieter
        assert rows.std(0).median() == pytest.approx(1, abs=0.05)
        assert rows.std(0).max() < 1.1
    for found in spreads.values():
        assert found.std(-1).mean() == pytest.approx(1.5, rel=0.05)


def scores(attention: Attention, context: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Return an attention's scores [B, heads, Q, S], by its formula."""
    context, latents = attention.norm1(context), attention.norm2(latents)
    k = attention.to_kv(torch.cat((context, latents), 1))[..., :64]
    return (attention.to_q(latents) @ k.mT)[:, None] / 8


def test_it_still_changes_nothing_and_no_hook_stays(adapter, features):
    calibrate(adapter, *features)
    lasts = [getattr(layer, "to_out", None) or layer.id_to_v for layer in adapter.layers]
    assert lasts and not any(last.weight.any() for last in lasts)
    assert not any(module._forward_hooks for module in adapter.modules())


def test_one_photo_is_taken_too(adapter, features):
    id_cond, hidden = features
    calibrate(adapter, id_cond[:1], [states[:1] for states in hidden])
    with torch.no_grad():
        assert adapter.tokens(*features).isfinite().all()


@pytest.mark.parametrize(("asked", "taken"), [(3, [0, 3, 6]), (6, [0, 1, 3, 5, 6, 8]), (64, None)])
def test_its_photos_lie_all_over_the_set(tmp_path, asked, taken):
    """Pictures of one person often stand together."""
    tables = small_runs.tables(tmp_path)
    tables["data"] |= {"people": 12}
    tables["adapter"] = {**tables["adapter"], "calibrate": asked}
    config = from_tables(tables, tmp_path, "the test's settings")
    made, seen = make(config), []

    def sample(number: int):
        seen.append(number)
        return made.pictures.sample(number)

    every = made.pictures.train
    studio.make_adapter(config, made.models, replace(made.pictures, sample=sample))
    assert len(every) == 10
    assert seen == [every[place] for place in (range(10) if taken is None else taken)]
    seen.clear()
    studio.make_adapter(config, made.models, replace(made.pictures, sample=sample), resume=True)
    assert len(seen) == 1, "a checkpoint has the weights; one photo tells the sizes"
