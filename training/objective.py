"""One part of a step: a batch of pictures becomes losses, and their gradients on the adapter.

The losses are computed one after the other, and each gives its gradient before the next begins: so
the memory of a step is that of its largest part, not of their sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import branch, losses
from .adapter import Adapter
from .base import FLOW, Base
from .config import Config, Stage
from .dataset import Batch, conditions
from .distributed import Group
from .draws import normals
from .models import Models, id_features
from .samples import BLOCKS, QUERIES

KINDS = {"auto": None, "features": BLOCKS, "queries": QUERIES}


@dataclass(frozen=True)
class Step:
    """Which part of which step this is: its draws depend on nothing else."""

    seed: int
    number: int
    slots: Sequence[int]  # of the batch, that this process takes

    def normals(self, shape: Sequence[int], what: str, like: Tensor) -> Tensor:
        """Return noise [slots, *shape] on ``like``'s device."""
        return normals(shape, self.seed, self.number, self.slots, what).to(like.device)

    def first(self, count: int) -> Step:
        """Return the same for the first ``count`` slots, all if 0."""
        return Step(self.seed, self.number, self.slots[: count or len(self.slots)])


@dataclass(frozen=True)
class Objective:
    """What computes the losses: models, adapter and processes of a run."""

    config: Config
    models: Models
    adapter: Adapter
    base: Base  # of L_diff
    branch: Base  # of the few steps
    group: Group
    sigmas: Mapping[int, list[float]]  # of the branch, by its number of steps

    def __call__(self, batch: Batch, step: Step, stage: Stage, share: float) -> dict[str, Tensor]:
        """Add the gradients of ``share`` times the stage's losses; return the losses, detached.

        "total" is the weighted sum, "faces" the share of the branch's pictures with a face.
        """
        tokens = self.adapter.tokens(*self.on_device(id_features(self.models, batch.samples)))
        leaf = tokens.detach().requires_grad_()
        found: dict[str, Tensor] = {}
        if stage.diffusion or (stage.id and stage.id_on == "estimate"):
            self.add(found, stage, share, self.diffusion(batch, step, stage, leaf))
        if stage.branches:
            rows = len(batch.first(stage.branch_batch).samples)
            part = step.first(stage.branch_batch)
            own = self.few_steps(batch.first(stage.branch_batch), part, stage, leaf[:rows])
            self.add(found, stage, share, own)
        tokens.backward(leaf.grad)
        return found

    def on_device(self, features: tuple[Tensor, list[Tensor]]) -> tuple[Tensor, list[Tensor]]:
        """Return the ID encoder's inputs on the adapter's device."""
        device = next(self.adapter.parameters()).device
        id_cond, hidden = features
        return id_cond.to(device), [states.to(device) for states in hidden]

    def add(
        self, found: dict[str, Tensor], stage: Stage, share: float, own: dict[str, Tensor]
    ) -> None:
        """Take the gradient of the weighted sum of some losses, and put them with those found."""
        weighted = [getattr(stage, name) * value for name, value in own.items() if name != "faces"]
        total = torch.stack(weighted).sum()
        (share * total).backward()
        found |= {name: value.detach() for name, value in own.items()}
        found["total"] = found.get("total", 0) + total.detach()

    def x0(self, batch: Batch, base: Base) -> Tensor:
        """Return the batch's latents as the model samples them."""
        return base.model.model.process_latent_in(batch.stack("latent").to(base.device))

    def diffusion(
        self, batch: Batch, step: Step, stage: Stage, tokens: Tensor
    ) -> dict[str, Tensor]:
        """Return L_diff on the batch's noised pictures, and the naive L_id if the stage has it."""
        base = self.base
        x0 = self.x0(batch, base)
        noise = step.normals(x0.shape[1:], "noise", x0)
        sigma = times(base, step.normals((), "time", x0), stage.shift)
        x = base.noised(x0, noise, sigma)
        cond = base.prepare(conditions(batch.samples, self.config.model.guidance), x)
        out = base(x, sigma, cond, self.adapter.identity(tokens))
        found = {"diffusion": base.diffusion_loss(out, x0, noise, sigma)}
        if stage.id and stage.id_on == "estimate":
            estimate = base.denoised(out, x, sigma)
            found |= self.likeness(batch, base, estimate)
        return found

    def few_steps(
        self, batch: Batch, step: Step, stage: Stage, tokens: Tensor
    ) -> dict[str, Tensor]:
        """Return what the branch gives: L_id of its pictures, L_sem and L_layout of its steps.

        It draws other pictures' prompts, so that a person does not come with a scene.
        """
        base = self.branch
        like = batch.samples[0].latent
        shape = base.model.model.process_latent_in(like[None]).shape[1:]
        device = next(self.adapter.parameters())
        noise = step.normals(shape, "branch", device)
        cond = base.prepare(conditions(batch.others, self.config.model.guidance), noise)
        aligned = stage.semantic > 0 or stage.layout > 0
        ran = branch.run(
            base,
            self.adapter.identity(tokens),
            noise,
            cond,
            self.sigmas[stage.branch_steps],
            stage.gradient_steps or stage.branch_steps,
            branch.align if aligned else None,
            KINDS[stage.alignment],
        )
        found: dict[str, Tensor] = {}
        if stage.id and stage.id_on == "branch":
            found |= self.likeness(batch, base, ran.latent)
        if aligned:
            semantic, layout = zip(*ran.compared, strict=True)
            found |= {"semantic": torch.stack(semantic).mean()}
            found |= {"layout": torch.stack(layout).mean()}
        return found

    def likeness(self, batch: Batch, base: Base, latent: Tensor) -> dict[str, Tensor]:
        """Return L_id of the pictures of ``latent``, and the share of them with a face.

        Pictures without a face do not count; over several processes those with one weigh alike.
        """
        vectors, seen = self.models.recognise(self.models.decode(base, latent))
        photos = batch.stack("vector").to(vectors)
        part = self.group.share(seen.sum().to(vectors))
        return {"id": losses.identity(photos, vectors, seen) * part, "faces": seen.mean()}


def schedules(config: Config, base: Base) -> dict[int, list[float]]:
    """Return the branch's sigmas for each number of steps that the settings have."""
    counts = {config.validation.steps, *(stage.branch_steps for stage in config.stages)}
    return {count: base.sigmas(count) for count in counts}


def times(base: Base, normal: Tensor, shift: float = 1.0) -> Tensor:
    """Return the noise levels [B] to train at, from N(0, 1) numbers.

    A flow model's are log-normal (Esser et al., arXiv 2403.03206) and moved by ``shift`` as FLUX's
    sampling is, those of SDXL uniform over its 1000 steps. Raises ValueError for a shift there.
    """
    if base.kind == FLOW:
        return (normal + math.log(shift)).sigmoid()  # t to shift · t / (1 + (shift − 1) · t)
    if shift != 1:
        raise ValueError(
            f"[[stage]] shift is {shift:g}, but SDXL's noise levels are not shifted, only those of "
            "FLUX, Chroma and FLUX.2. Leave it out."
        )
    uniform = 0.5 * (1 + torch.erf(normal / 2**0.5))
    return base.sampling.sigma(uniform * 999)


def tokens_of(objective: Objective, samples: Sequence[Any]) -> Tensor:
    """Return the ID tokens [B, T, C] of samples, without gradient."""
    with torch.no_grad():
        features = objective.on_device(id_features(objective.models, samples))
        return objective.adapter.tokens(*features)
