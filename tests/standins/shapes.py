"""The shapes of the host's own modules, also where ComfyUI's NVIDIA switches are thrown."""

from __future__ import annotations

import torch
from pulid_pack.micro_world.flux import Whole


def shapes_of(kind: type[torch.nn.Module], **config) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of a module of the host."""
    module = kind(**config, device="meta", operations=Whole)
    return {key: tuple(weight.shape) for key, weight in module.state_dict().items()}
