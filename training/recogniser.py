"""A face recogniser with gradient, for L_id: the crop by five points and ArcFace's ONNX in torch.

The points are found on the picture without gradient; the warp to the recogniser's 112 pixels and
the recogniser itself let it through. A picture without a face has no L_id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

SIDE = 112


@dataclass(frozen=True)
class Recogniser:
    """φ: a recogniser in torch, and how it wants its pixels."""

    net: nn.Module
    mean: float
    scale: float

    def vectors(self, pictures: Tensor, points: Tensor) -> Tensor:
        """pictures [B, 3, H, W] RGB in 0..1, points [B, 5, 2] in pixels -> vectors [B, 512]."""
        raise NotImplementedError


def load_recogniser(path: Path) -> Recogniser:
    """Read an ArcFace ONNX file (antelopev2's glintr100.onnx) as a torch module, frozen.

    Raises FileNotFoundError, ValueError or RuntimeError saying what is missing.
    """
    raise NotImplementedError


def find_points(pictures: Tensor, detect: Callable[..., Sequence]) -> tuple[Tensor, Tensor]:
    """Return the five points [B, 5, 2] of each picture's largest face, and which have one [B].

    Reads the pictures back to the CPU, where the detector runs.
    """
    raise NotImplementedError
