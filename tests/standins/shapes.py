"""The shapes of the host's own modules, also where ComfyUI's NVIDIA switches are thrown."""

from __future__ import annotations

import comfy.ops
import torch


class Whole(comfy.ops.disable_weight_init):
    """Layers that have weights at once: under dynamic VRAM the host's Linear gets them late."""

    Linear = torch.nn.Linear


def shapes_of(kind: type[torch.nn.Module], **config) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of a module of the host."""
    module = kind(**config, device="meta", operations=Whole)
    return {key: tuple(weight.shape) for key, weight in module.state_dict().items()}
