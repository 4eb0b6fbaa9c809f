"""Steps of training at the models' true widths on the virtual card.

A tensor on the wrong device or of the wrong dtype is an error here as on a card, and so is a value
that is read back from it. Blocks are alike, so few are enough; ``--long`` takes all of them.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pulid_pack.training.adapter import new
from pulid_pack.training.branch import align, run
from pulid_pack.training.samples import Conditions
from pulid_pack.training.trainable import frozen, trainable
from standins.flux import TEXT_POOLED, TEXT_WIDTH
from standins.lab import small_flux
from standins.training import noise, photos, random_adapter
from torch._subclasses.fake_tensor import DataDependentOutputException

from bench.true_sdxl import true_sdxl, unet_shapes
from bench.true_size import DEPTHS, TEXT_TOKENS, true_model
from bench.virtual_backward import backward, mixed_precision
from bench.virtual_card import GIB, virtual_card

pytestmark = pytest.mark.own_switches

FEW = (1, 1)
SIGMAS = [1.0, 0.5, 0.0]
CASES = [("FLUX.1-dev", torch.float8_e4m3fn, FEW)]
LONG = [
    ("FLUX.1-dev", torch.bfloat16, DEPTHS),
    ("FLUX.1-schnell", torch.bfloat16, FEW),
    ("Chroma", torch.bfloat16, FEW),
]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in LONG]


@pytest.fixture(autouse=True)
def inference_mode():
    """Leave inference mode to the card."""


def steps(model: ModelPatcher, cond: Conditions, channels: int):
    """Run a step of stage 1 and one of the branch with alignment; return the adapter."""
    with trainable(model) as base:
        adapter = new(model).to(base.device)
        adapter.dtype = torch.bfloat16
        x0 = torch.empty(1, channels, 64, 64, device=base.device)
        prepared = base.prepare(cond, x0)
        id_cond = torch.empty(1, 1, 1280, device=base.device)
        hidden = [torch.empty(1, 577, 1024, device=base.device) for _ in range(5)]

        def identity():
            return adapter.identity(adapter.tokens(id_cond, hidden))

        eps, sigma = torch.randn_like(x0), torch.rand(1, device=base.device)
        out = base(base.noised(x0, eps, sigma), sigma, prepared, identity())
        loss = base.diffusion_loss(out, x0, eps, sigma)
        backward(loss)
        check(adapter, loss)
        adapter.zero_grad()
        found = run(base, identity(), eps, prepared, SIGMAS, 1, align)
        sem, layout = (torch.stack(every).mean() for every in zip(*found.compared, strict=True))
        backward(sem + layout + found.latent.square().mean())
        check(adapter, sem)
        with pytest.raises(DataDependentOutputException):
            sem.item()  # so it would have been seen above


@pytest.mark.parametrize(("memory", "fits"), [(80 * GIB, True), (2 * GIB, False)])
def test_models_of_one_run_stay_on_the_card_together_or_it_is_said(memory, fits):
    with virtual_card(memory) as card, card.running():
        model, other = (true_model(depths=FEW) for _ in range(2))
        with trainable(model) as base, frozen(other):
            x = torch.empty(1, 16, 16, 16, device=base.device)
            cond = base.prepare(Conditions(torch.empty(1, 8, 4096), torch.empty(1, 768)), x)
            said = nullcontext() if fits else pytest.raises(RuntimeError, match="sent off the card")
            with said:
                base(x, torch.rand(1, device=base.device), cond)


def test_the_card_s_backward_pass_is_torch_s():
    """On the CPU, where both run: recomputed blocks, identity, references."""
    with torch.inference_mode(False), trainable(small_flux(depth=3, depth_single=5)) as base:
        adapter = random_adapter(base.model)
        x = noise(1, 16, 4, 6).float()
        cond = Conditions(noise(1, 8, TEXT_WIDTH).float(), noise(1, TEXT_POOLED).float())
        identity = adapter.identity(adapter.tokens(*photos(1, dtype=torch.float32)))
        cond = base.prepare(cond, x)
        found = run(base, identity, x, cond, [1.0, 0.5, 0.0], 2, align)
        loss = found.latent.square().mean() + sum(map(sum, found.compared))
        loss.backward(retain_graph=True)
        wanted = [p.grad for p in adapter.parameters()]
        adapter.zero_grad()
        backward(loss)
    for p, gradient in zip(adapter.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def check(adapter, loss):
    for name, p in adapter.named_parameters():
        assert (p.grad.dtype, p.grad.device) == (torch.float32, loss.device), name
    assert (loss.device.type, loss.dtype) == ("cuda", torch.float32)


@pytest.mark.parametrize(("name", "dtype", "depths"), CASES)
def test_steps_of_flux(name, dtype, depths):
    with virtual_card(80 * GIB) as card, card.running(), mixed_precision():
        model = true_model(name, dtype, depths)
        pooled = None if name == "Chroma" else torch.empty(1, 768)
        steps(model, Conditions(torch.empty(1, TEXT_TOKENS, 4096), pooled), 16)


@pytest.mark.slow
def test_steps_of_sdxl():
    shapes = unet_shapes()
    with virtual_card(80 * GIB) as card, card.running(), mixed_precision():
        model = true_sdxl(shapes)
        steps(model, Conditions(torch.empty(1, 77, 2048), torch.empty(1, 1280)), 4)
