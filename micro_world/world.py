"""The trained drawn world: its networks as training, measuring and ComfyUI's nodes take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..encoders.eva_clip import EvaClip
from ..encoders.weights import hold
from ..training.base import Base
from ..training.models import Models, Recognise
from ..training.recogniser import TEMPLATE, warp
from ..training.studio import seer
from .codec import Codec
from .flux import as_model
from .nets import CELL, FINDER_SHRINK, Finder, Recogniser, WordReader
from .school import CANVAS, TOWER, empty_tower

CPU = torch.device("cpu")
SURE = 0.5  # a finder's least score
Networks = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class World:
    """Weights by the network's name (see school.NETWORKS), and "codec".

    device: of the finder, recognisers and reader; base and tower are on ComfyUI's.
    """

    networks: Networks
    device: torch.device = CPU

    def put(self, name: str, net: nn.Module) -> nn.Module:
        """Return ``net`` with the weights of that name, frozen, float32."""
        weights = {key: value.float() for key, value in self.networks[name].items()}
        net.load_state_dict(weights)
        return net.to(self.device).eval().requires_grad_(False)

    @cached_property
    def codec(self) -> Codec:
        return Codec(**self.networks["codec"])

    @cached_property
    def finder(self) -> Finder:
        return self.put("finder", Finder())

    @cached_property
    def recogniser(self) -> Recogniser:
        """The loss's, which also gives PuLID its vectors."""
        return self.put("recogniser", sized(self.networks["recogniser"]))

    @cached_property
    def judge(self) -> Recogniser:
        """What measures, and is never trained on."""
        return self.put("judge", sized(self.networks["judge"]))

    @cached_property
    def reader(self) -> WordReader:
        return self.put("reader", WordReader())

    @cached_property
    def tower(self) -> EvaClip:
        net = self.put("tower", empty_tower())
        return EvaClip(hold(net), TOWER.side * TOWER.patch, "drawn")

    def base(self) -> ModelPatcher:
        """Return the diffusion model as ComfyUI loads it; it computes in float32."""
        return as_model({key: value.float() for key, value in self.networks["base"].items()})

    def find(self, pictures: Tensor, sure: float = SURE) -> tuple[Tensor, Tensor]:
        """pictures [B, 3, H, W] about 0..1 -> the surest face's points [B, 5, 2], and if any [B].

        Where none is as sure as asked, the points are the recogniser's template.
        """
        pixels = 2 * pictures.detach().to(self.device) - 1
        small = interpolate(pixels, (CANVAS, CANVAS), mode="bilinear", antialias=True)
        score, _, points = self.finder.cells(small)
        best = score.flatten(1).argmax(1)
        width = score.shape[-1]
        cell = torch.stack([best % width, best // width], 1)
        rows = torch.arange(len(best), device=best.device)
        five = points.flatten(2)[rows, :, best].reshape(-1, 5, 2) + cell[:, None]
        found = score.flatten(1)[rows, best].sigmoid() > sure
        five = five * (CELL / FINDER_SHRINK) * (pictures.shape[-1] / CANVAS)
        return torch.where(found[:, None, None], five, five.new_tensor(TEMPLATE)), found.float()

    def vectors(self, net: Recogniser) -> Recognise:
        """Return what gives the vectors of pictures' faces, with gradient, and which have one."""

        def recognise(pictures: Tensor) -> tuple[Tensor, Tensor]:
            points, found = self.find(pictures)
            return net(2 * warp(pictures.to(self.device), points) - 1), found

        return recognise

    def models(self) -> Models:
        """Return the frozen models of a training run."""

        def decode(_: Base, latent: Tensor) -> Tensor:
            return self.codec.decode(latent)

        base = self.base()
        return Models(
            name="drawn people",
            base=base,
            branch=base,
            others=[self.tower.patcher],
            decode=decode,
            see=seer(self.tower.patcher, self.tower.image_size),
            recognise=self.vectors(self.recogniser),
            judge=self.vectors(self.judge),
        )


def sized(weights: Mapping[str, Tensor]) -> Recogniser:
    """Return a recogniser of the sizes of ``weights``, whose values are put in later."""
    widths = [value.shape[0] for key, value in weights.items() if key.endswith("0.weight")]
    return Recogniser(tuple(widths), weights["head.weight"].shape[0])
