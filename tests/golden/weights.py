"""Deterministic pseudo-weights shared by the golden files and the tests.

A golden file holds inputs and outputs only. The weights behind it are made
here from each tensor's checkpoint key and shape, so a full-size network costs
no disk. The stream is numpy's frozen ``RandomState``, so it never changes.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch


def golden_tensor(key: str, shape: tuple[int, ...], salt: str = "") -> torch.Tensor:
    """Return the float32 tensor that stands for ``key`` in a golden checkpoint.

    Matrices and kernels (2 or more axes) are N(0, 1/fan_in); one-axis
    ``weight``/``scale`` tensors are 1 + 0.1 N(0, 1); every other one-axis
    tensor is 0.1 N(0, 1). ``salt`` selects another set of weights.
    """
    stream = np.random.RandomState(zlib.crc32(f"{salt}{key}".encode()))
    values = stream.standard_normal(size=shape).astype(np.float32)
    if len(shape) >= 2:
        values /= math.sqrt(math.prod(shape[1:]))
    elif key.rsplit(".", 1)[-1] in ("weight", "scale"):
        values = 1.0 + 0.1 * values
    else:
        values *= 0.1
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def golden_input(name: str, shape: tuple[int, ...], salt: str = "") -> torch.Tensor:
    """Return the N(0, 1) float32 input tensor called ``name``."""
    stream = np.random.RandomState(zlib.crc32(f"input:{salt}{name}".encode()))
    return torch.from_numpy(stream.standard_normal(size=shape).astype(np.float32))


def golden_state_dict(
    shapes: dict[str, tuple[int, ...]], salt: str = ""
) -> dict[str, torch.Tensor]:
    """Return ``golden_tensor`` for every ``key: shape`` of ``shapes``."""
    return {key: golden_tensor(key, tuple(shape), salt) for key, shape in shapes.items()}
