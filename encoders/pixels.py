"""From an aligned face to EVA-CLIP's pixels: white around the face, grey, resized, normalised."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# CLIP's own normalisation, and the BiSeNet classes that are not the face: background, cloth, hat,
# ears, earring, neck, necklace (method of the PuLID authors).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
OUTSIDE_THE_FACE = (0, 16, 18, 7, 8, 9, 14, 15)
LUMA = (0.299, 0.587, 0.114)


def whiten(faces: torch.Tensor, labels: torch.Tensor, grayscale: bool = True) -> torch.Tensor:
    """Turn everything but the face white, and the face grey unless ``grayscale`` is off.

    faces [B, 512, 512, 3] in 0..1, labels [B, 512, 512] of BiSeNet's 19 classes -> like faces.
    """
    outside = torch.isin(labels, torch.tensor(OUTSIDE_THE_FACE, device=labels.device))
    if grayscale:
        faces = (faces * torch.tensor(LUMA)).sum(dim=-1, keepdim=True).expand_as(faces)
    return torch.where(outside.unsqueeze(-1), torch.ones_like(faces), faces)


def normalise(crops: torch.Tensor, size: int) -> torch.Tensor:
    """Resize crops [B, H, W, 3] in 0..1 to the tower's pixels [B, 3, size, size].

    Bicubic with antialias, not clamped, in float32 on the CPU: the same on every machine.
    """
    pixels = crops.float().cpu().permute(0, 3, 1, 2)
    pixels = F.interpolate(
        pixels, size=(size, size), mode="bicubic", align_corners=False, antialias=True
    )
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


def preprocess(
    faces: torch.Tensor, labels: torch.Tensor, size: int, grayscale: bool = True
) -> torch.Tensor:
    """Make the tower's pixels from aligned faces and their parsing (PuLID's own steps).

    faces [B, 512, 512, 3] in 0..1, labels [B, 512, 512] -> [B, 3, size, size].
    """
    return normalise(whiten(faces, labels, grayscale), size)
