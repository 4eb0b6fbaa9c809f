"""What only a real card shows: run with ``python scripts/test.py --gpu``.

Speed is the bench's, counts are those of bench/test_virtual_card.py. Here: the identity of the card
is that of the CPU, under ComfyUI's flags and under torch.compile, and memory is what was promised.
"""

from __future__ import annotations

from math import isfinite
from types import SimpleNamespace

import comfy.model_management
import pytest
import torch
from golden.fixtures import golden_pixels
from places import GOLDEN
from pulid_pack.encoders.eva_clip import run_tower
from pulid_pack.micro_world.album import samples
from pulid_pack.micro_world.drawn import make
from pulid_pack.micro_world.files import ADAPTER, TRAINED, read_world
from pulid_pack.micro_world.held_out import HeldOut
from pulid_pack.nodes.apply import PuLIDFluxApplyIdentity
from pulid_pack.training import adapter_files
from pulid_pack.training.models import id_features
from pulid_pack.training.studio import seer
from safetensors.torch import load_file
from standins.lab import person, sample, small_flux, small_pulid
from standins.small_runs import rows, settings, train

pytestmark = pytest.mark.gpu
HIDDEN = 256


@pytest.fixture(autouse=True)
def needs_cuda():
    """Fail, not skip: who asks for these tests wants to know."""
    if not torch.cuda.is_available():
        pytest.fail("--gpu was given, but torch finds no CUDA device.")


@pytest.fixture(scope="module")
def pulid():
    return small_pulid(HIDDEN)


def applied(model, pulid, seed: int = 1):
    return PuLIDFluxApplyIdentity.execute(model, pulid, person(seed), 1.0, 0.0, 1.0).args[0]


def drawn(pulid, dtype=torch.float32, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a latent sampled without identity and one with it."""
    model = small_flux(HIDDEN, dtype)
    return sample(model, **settings), sample(applied(model, pulid), **settings)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_float16_is_finite_and_close_to_float32(pulid, cfg):
    plain, exact = drawn(pulid, cfg=cfg)
    _, rounded = drawn(pulid, torch.float16, cfg=cfg)
    assert rounded.isfinite().all()
    assert (rounded - exact).abs().mean() < 0.25 * (exact - plain).abs().mean()


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_bfloat16_is_finite_and_shows_the_identity(pulid, cfg):
    plain, shown = drawn(pulid, torch.bfloat16, cfg=cfg)  # random weights blow its rounding up
    assert shown.isfinite().all()
    assert (shown - plain).abs().mean() > 0.1


def test_low_vram_draws_the_same(pulid, monkeypatch):
    _, expected = drawn(pulid)
    comfy.model_management.unload_all_models()
    monkeypatch.setattr(
        comfy.model_management, "vram_state", comfy.model_management.VRAMState.LOW_VRAM
    )
    _, found = drawn(pulid)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_fast_accumulation_is_close(pulid, monkeypatch):
    """--fast lets float16 products accumulate in float16."""
    plain, expected = drawn(pulid, torch.float16)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", True)
    _, found = drawn(pulid, torch.float16)
    assert found.isfinite().all()
    assert (found - expected).abs().mean() < 0.25 * (expected - plain).abs().mean()


@pytest.mark.parametrize("backend", ["inductor", "cudagraphs"])
def test_compiled_draws_the_same(pulid, backend):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    torch._dynamo.reset()
    model = applied(small_flux(HIDDEN), pulid)
    expected = sample(model)
    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend=backend)
    torch.testing.assert_close(sample(compiled), expected, atol=1e-3, rtol=1e-3)
    if backend == "cudagraphs":
        assert not torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]


def test_memory_is_the_layers_and_no_more(pulid):
    """Resident: the folded layers. Peak of a run: less than a tenth above the plain model's."""
    model = small_flux(HIDDEN, torch.bfloat16)
    peaks = []
    for each in (model, applied(model, pulid)):
        sample(each, size=(64, 64), steps=1)  # loads, and warms up
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        sample(each, size=(64, 64), steps=2)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 1.1 * peaks[0] + (1 << 20)
    needed = {id(m): m for m in applied(model, pulid).get_nested_additional_models()}
    assert sum(m.model_size() for m in needed.values()) < 2 * 20 * 2 * 2 * HIDDEN * 64 * 1.1


def test_eva_clip_in_float16_is_close_to_golden(golden_tower):
    assert golden_tower.patcher.model.head.weight.dtype == torch.float16
    golden = load_file(GOLDEN / "eva_clip.safetensors")
    pooled, hidden = run_tower(golden_tower, golden_pixels(side=336))
    found = {"pooled": pooled}
    states = sorted(key for key in golden if key != "pooled")
    found |= {key: h[:, ::36, ::8] for key, h in zip(states, hidden, strict=True)}
    for key, expected in golden.items():
        assert (found[key] - expected).abs().max() < 1e-2 * expected.abs().max(), key


def test_all_stages_of_training_run(tmp_path):
    config = settings(tmp_path / "run")
    made = make(config)
    assert train(config, made).is_file()
    losses = [float(row["total"]) for row in rows(tmp_path / "run")]
    assert len(losses) == config.steps and all(map(isfinite, losses))
    assert next(made.models.base.model.parameters()).device.type == "cuda"


def test_a_photos_vector_meets_the_towers_on_its_card(golden_tower):
    comfy.model_management.load_models_gpu([golden_tower.patcher])
    models = SimpleNamespace(see=seer(golden_tower.patcher, golden_tower.image_size))
    one = SimpleNamespace(crop=torch.rand(336, 336, 3), vector=torch.rand(512))
    id_cond, hidden = id_features(models, [one])
    assert {each.device.type for each in (id_cond, *hidden)} == {"cuda"}
    assert torch.equal(id_cond[0, 0, :512].cpu(), one.vector)


def test_drawn_people_are_judged_on_the_card():
    world = read_world(device=comfy.model_management.get_torch_device())
    assert world.vectors(world.judge)(torch.rand(2, 3, 64, 64))[0].is_cuda
    assert {one.vector.device.type for one in samples(world, 4, 1)} == {"cpu"}
    found = HeldOut(world, 64).summary(adapter_files.load(TRAINED / ADAPTER))
    assert found["at weight 1"]["likeness"] > 0.4 > abs(found["without identity"]["likeness"])
