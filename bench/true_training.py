"""A training step at the models' true size, for the virtual card.

Everything is the trainer's own (objective, trainable, adapter); stand-ins are what has no size to
speak of: the vision tower's output, and a recogniser that is one matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.model_management
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencodingEngine
from comfy.model_patcher import ModelPatcher
from pulid_pack.identity.id_former import Sizes
from pulid_pack.training import branch
from pulid_pack.training.adapter import Adapter, new
from pulid_pack.training.config import Config, from_tables
from pulid_pack.training.dataset import Batch, Sample
from pulid_pack.training.distributed import Group
from pulid_pack.training.models import Models
from pulid_pack.training.objective import Objective, Step
from pulid_pack.training.optimization import clip
from pulid_pack.training.trainable import frozen, trainable
from standins.flux import TEXT_POOLED, TEXT_WIDTH
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .memory import Memory
from .virtual_backward import GRAPH, mixed_precision, walk

VIT, VIT_TOKENS, VECTOR, POOLED = 1024, 577, 512, 768
AE = {
    "double_z": True,
    "z_channels": 16,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
PARTS = "comfy.ldm.modules.diffusionmodules.model"


@dataclass(frozen=True)
class Counted:
    """What a step costs: bytes held all the time, the most beyond that, and FLOPs.

    kept: what of it is there when the backward pass begins.
    """

    held: int
    kept: int
    peak: int
    flops: float


def true_vae() -> comfy.sd.VAE:
    """Return FLUX's VAE as ComfyUI loads it from weights of its shapes in bfloat16."""
    target = "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"
    with torch.device("meta"):
        net = AutoencodingEngine(
            regularizer_config={"target": target},
            encoder_config={"target": f"{PARTS}.Encoder", "params": AE},
            decoder_config={"target": f"{PARTS}.Decoder", "params": AE},
        )
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    return comfy.sd.VAE(sd={k: torch.empty(v, dtype=torch.bfloat16) for k, v in shapes.items()})


def settings(stage: dict[str, Any]) -> Config:
    """Return the settings of a run with one stage."""
    tables = {
        "run": {"folder": "nowhere"},
        "model": {"base": "true size"},
        "data": {"source": "nothing"},
        "stage": [{"name": "counted", "steps": 1, **stage}],
    }
    return from_tables(tables, Path(), "the bench")


def samples(count: int, channels: int, side: int, text: int, width: int) -> Batch:
    """Return a batch of pictures without content; latents [channels, side, side]."""
    one = Sample(
        "nobody",
        torch.empty(channels, side, side),
        torch.empty(512, 512, 3),
        torch.empty(VECTOR),
        torch.empty(text, width),
        torch.empty(TEXT_POOLED),
        torch.empty(4),
        torch.empty(5, 2),
    )
    return Batch([one] * count, [one] * count)


def models_of(base: ModelPatcher, vae: comfy.sd.VAE) -> Models:
    """Return the models of a step: the true base and VAE, and stand-ins."""
    device = base.load_device

    def see(crops: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        states = [torch.empty(len(crops), VIT_TOKENS, VIT, device=device) for _ in range(5)]
        return torch.empty(len(crops), POOLED, device=device), tuple(states)

    def recognise(pictures: Tensor) -> tuple[Tensor, Tensor]:
        small = torch.nn.functional.interpolate(pictures, (16, 16), mode="area").flatten(1)
        matrix = torch.empty(small.shape[-1], VECTOR, device=device)
        return small @ matrix, torch.ones(len(pictures), device=device)

    def decode(caller: Any, latent: Tensor) -> Tensor:
        return branch.decode(vae, caller, latent)

    return Models("true size", base, base, [vae.patcher], decode, see, recognise, None)


def backward(loss: Tensor, gradient: Tensor | None = None) -> None:
    """Do what ``loss.backward(gradient)`` does, on the virtual card."""
    gradient = torch.ones_like(loss) if gradient is None else gradient
    with mock.patch.object(torch._C, "_current_graph_task_id", lambda: GRAPH), torch.no_grad():
        walk(loss.grad_fn, gradient)


def attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return torch's attention by the kernel that a card takes; without one torch asks for none."""
    if q.shape[-1] <= 256:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[0]


@contextmanager
def ready(model: ModelPatcher, stage: dict[str, Any], heads: int = 16) -> Iterator[tuple]:
    """Bring a model into training; yield objective and stage."""
    config = settings(stage)
    models = models_of(model, true_vae())
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Tensor, "backward", backward))
        stack.enter_context(mixed_precision())
        functional, name = torch.nn.functional, "scaled_dot_product_attention"
        stack.enter_context(mock.patch.object(functional, name, attention))
        stack.enter_context(frozen(models.others[0]))
        base = stack.enter_context(trainable(model, torch.bfloat16))
        together = [model, *models.others]
        comfy.model_management.load_models_gpu(together, force_full_load=True)
        adapter: Adapter = new(model, Sizes(), heads).to(base.device).requires_grad_(True)
        adapter.dtype = torch.bfloat16
        sigmas = {n: [1 - i / n for i in range(n + 1)] for n in range(1, 9)}
        yield Objective(config, models, adapter, base, base, Group(), sigmas), config.stages[0]


def counted(
    model: ModelPatcher,
    stage: dict[str, Any],
    side: int,
    count: int = 1,
    text: int = 512,
    width: int = TEXT_WIDTH,
) -> Counted:
    """Take a step at ``side`` pixels with ``count`` pictures up to its gradients, and count it.

    Weights, gradients and AdamW's two states are held all the time.
    """
    with ready(model, stage) as (objective, own):
        channels = model.model.latent_format.latent_channels
        ratio = model.model.latent_format.spacial_downscale_ratio
        batch = samples(count, channels, side // ratio, text, width)
        parameters = list(objective.adapter.parameters())

        states = [torch.empty_like(p) for p in parameters for _ in range(2)]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        with Memory() as memory, FlopCounterMode(display=False) as flops:
            held = memory.hold(
                [*model.model.parameters(), *objective.models.others[0].model.parameters()]
                + [*parameters, *(p.grad for p in parameters), *states]
            )
            begin: list[int] = []

            def noted(loss: Tensor, gradient: Tensor | None = None) -> None:
                begin.append(memory.alive)
                backward(loss, gradient)

            with mock.patch.object(Tensor, "backward", noted):
                objective(batch, Step(1, 0, range(count)), own, 1.0)
            clip(parameters, 1.0)
        return Counted(held, begin[0] - held, memory.peak - held, flops.get_total_flops())
