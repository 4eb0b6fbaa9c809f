"""Face parsing: which pixels of the aligned crop are the face (BiSeNet, 19 classes)."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy.model_patcher import ModelPatcher

from ..state_dicts import read_state_dict
from .packages import require
from .weights import device_of, hold, load_strictly, on_device

EXPECTED = "parsing_bisenet.pth (BiSeNet with 19 classes, about 53 MB)"
CLASSES = 19
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Feature maps of one 512x512 crop, measured generously, in bytes.
RUN_MEMORY = 300 * 1024 * 1024


class Unread(torch.nn.Module):
    """In place of two heads that only training reads: with them a CPU takes a seventh longer."""

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [B, C, H, W] -> as little of them as can be, twice."""
        return features[..., :1, :1], features[..., :1, :1]


def load_parser(path: Path) -> ModelPatcher:
    """Load facexlib's BiSeNet from ``path``.

    Raises FileNotFoundError, ValueError for another or a damaged file, and RuntimeError if facexlib
    is missing.
    """
    bisenet = require("facexlib.parsing.bisenet", "Load InsightFace (face parsing)")
    path = Path(path)
    tensors = read_state_dict(path, EXPECTED)
    if not any(key.startswith("cp.") for key in tensors):
        some = ", ".join(sorted(tensors)[:3])
        raise ValueError(
            f"{path} is not a face parsing model. Expected {EXPECTED}; found {len(tensors)} "
            f"tensors such as {some}."
        )
    # Built without weights: nothing is initialised that the file overwrites, and no random
    # numbers are drawn.
    with torch.device("meta"):
        model = bisenet.BiSeNet(CLASSES)
    load_strictly(model, tensors, path, torch.float32)
    model.conv_out16 = model.conv_out32 = Unread()
    return hold(model)


def parse_faces(parser: ModelPatcher, faces: torch.Tensor) -> torch.Tensor:
    """Label aligned faces [B, 512, 512, 3] in 0..1; returns [B, 512, 512] of 0..18 on the CPU."""
    model = on_device(parser, memory=RUN_MEMORY)
    device = device_of(model)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    labels = []
    for face in faces.split(1):
        pixels = (face.permute(0, 3, 1, 2) - mean) / std
        labels.append(model(pixels.to(device))[0].argmax(dim=1).cpu())
    return torch.cat(labels)
