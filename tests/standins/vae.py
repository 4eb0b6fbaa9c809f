"""A stand-in for a VAE: a linear look at the latents, for the real loader."""

from __future__ import annotations

from pathlib import Path

import torch

from standins.flux import Weights, save

RED_GREEN_BLUE = (  # a fixed linear look at the 16 latent channels, one row a colour
    (9, -5, 3, 2, -7, 4, 0, 6, -3, 1, 5, -4, 2, 3, -6, 2),
    (7, 4, -5, 3, -2, -6, 5, 1, 4, -3, 2, 6, -1, -5, 3, 0),
    (6, 3, 5, -6, 2, 1, -4, -5, 6, 4, -3, 1, -7, 2, 0, 5),
)
FLUX_SCALE, FLUX_SHIFT = 0.3611, 0.1159


def write_vae(path: Path) -> None:
    """Write a linear VAE for FLUX's 16 channels."""
    save(vae_weights(RED_GREEN_BLUE, FLUX_SCALE, FLUX_SHIFT), path, torch.float32)


def vae_weights(look: tuple[tuple[int, ...], ...], scale: float, shift: float) -> Weights:
    """Return a linear VAE in the layout of the tiny autoencoder TAEF1 (or TAESDXL).

    Its picture is three weighted sums of the latent channels, smoothly enlarged; encoding is the
    pseudo-inverse of that, so a picture survives encode and decode but for its sharpness.
    """
    mix = torch.tensor(look, dtype=torch.float32)
    mix = 0.35 * mix / mix.norm(dim=1, keepdim=True)
    weights = {"vae_scale": torch.tensor(scale), "vae_shift": torch.tensor(shift)}
    weights |= {f"taesd_decoder.{key}": value for key, value in vae_decoder(mix).items()}
    weights |= {f"taesd_encoder.{key}": value for key, value in vae_encoder(mix).items()}
    return weights


def vae_decoder(mix: torch.Tensor) -> Weights:
    """Return latents to red, green, blue; ``mix`` [3, channels].

    Each colour travels as its positive and its negative part, because every block ends in a ReLU.
    """
    weights: Weights = {}
    for block in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        weights |= silent_block(block)
    channels = mix.shape[1]
    colours = torch.stack([mix, -mix], dim=1).reshape(6, channels)
    weights["1.weight"] = centre_kernel(colours, 64, channels)
    weights["1.bias"] = torch.zeros(64)
    slope = torch.tensor([1.0, 2.0, 1.0]) / 4  # after a doubling this is linear interpolation
    for conv in (7, 12, 17):
        weights[f"{conv}.weight"] = torch.eye(64)[..., None, None] * torch.outer(slope, slope)
    merge = torch.kron(torch.eye(3), torch.tensor([[1.0, -1.0]]))
    weights["19.weight"] = centre_kernel(merge, 3, 64)
    weights["19.bias"] = torch.full((3,), 0.5)
    return weights


def vae_encoder(mix: torch.Tensor) -> Weights:
    """Return red, green, blue to latents: the mean of 8x8 pixels through the inverse of ``mix``."""
    weights: Weights = {}
    for block in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
        weights |= silent_block(block)
    weights["0.weight"] = centre_kernel(torch.eye(3), 64, 3)
    weights["0.bias"] = torch.zeros(64)
    square = torch.zeros(3, 3)
    square[1:, 1:] = 0.25
    for conv in (2, 6, 10):
        weights[f"{conv}.weight"] = torch.eye(64)[..., None, None] * square
    inverse = torch.linalg.pinv(mix)
    weights["14.weight"] = centre_kernel(inverse, mix.shape[1], 64)
    weights["14.bias"] = inverse @ torch.full((3,), -0.5)
    return weights


def silent_block(index: int) -> Weights:
    """Return a residual block that adds nothing."""
    shapes = {"weight": (64, 64, 3, 3), "bias": (64,)}
    return {
        f"{index}.conv.{layer}.{name}": torch.zeros(shape)
        for layer in (0, 2, 4)
        for name, shape in shapes.items()
    }


def centre_kernel(matrix: torch.Tensor, outputs: int, inputs: int) -> torch.Tensor:
    """Return ``matrix`` as a 3x3 kernel that looks at its own pixel only, zero-padded."""
    kernel = torch.zeros(outputs, inputs, 3, 3)
    kernel[: matrix.shape[0], : matrix.shape[1], 1, 1] = matrix
    return kernel
