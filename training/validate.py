"""Validation: people who are never trained on, drawn at several weights and looked at.

- likeness: cosine of photo and picture by ``judge``, another recogniser than the loss's; its floor
  is the picture without identity, its ceiling what two photos of one person would have;
- change: mean difference to the picture without identity, of 255, outside the photo's face;
- light: correlation over the people of the photo's brightness in the face with what the identity
  adds to the picture's brightness: the photo's light should not come along.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from ..measure.disruption import difference, outside_faces
from . import branch
from .dataset import Pictures, Sample, conditions
from .draws import normals
from .objective import Objective, tokens_of

log = logging.getLogger(__name__)
COLUMNS = ("step", "weight", "likeness", "faces", "change", "light")
LUMA = (0.299, 0.587, 0.114)
ALL_SAME = -1  # in place of a step: validation draws the same noise every time
PANEL, BAND = 192, 18


@dataclass(frozen=True)
class Looked:
    """What was found at one weight."""

    weight: float
    likeness: float | None  # None without a judge, or where no picture has a face
    faces: float | None
    change: float
    light: float | None  # None where all photos are equally bright


def validate(objective: Objective, pictures: Pictures) -> tuple[list[Looked], Image.Image]:
    """Return the figures at each weight, 0 first, and a sheet of samples.

    One person at a time: validation needs no more memory than a step.
    """
    settings = objective.config.validation
    held = pictures.held_out[: settings.people]
    weights = [0.0, *(w for w in settings.weights if w)]
    rows, numbers = [], []
    for place, index in enumerate(held):
        sample, other = (pictures.sample(i) for i in (index, held[(place + 1) % len(held)]))
        photo, drawn = draw(objective, sample, other, place, weights)
        numbers.append(measure(objective, sample, photo, drawn))
        if len(rows) < settings.shown:
            rows.append([photo, *drawn])
    return summed(weights, numbers), sheet(rows, weights)


@torch.no_grad()
def draw(
    objective: Objective, sample: Sample, other: Sample, place: int, weights: Sequence[float]
) -> tuple[Tensor, list[Tensor]]:
    """Return the photo and the pictures with another's prompt at each weight, all [1, 3, H, W]."""
    base, config = objective.branch, objective.config
    tokens = tokens_of(objective, [sample])
    latent = base.model.model.process_latent_in(sample.latent[None].float().to(base.device))
    noise = normals(latent.shape[1:], config.run.seed, ALL_SAME, [place], "validation")
    noise = noise.to(base.device)
    cond = base.prepare(conditions([other], config.model.guidance), noise)
    sigmas = objective.sigmas[config.validation.steps]
    drawn = []
    for weight in weights:
        identity = objective.adapter.identity(tokens, weight) if weight else None
        ran = branch.run(base, identity, noise, cond, sigmas, 1)
        drawn.append(objective.models.decode(base, ran.latent).float().cpu())
    return objective.models.decode(base, latent).float().cpu(), drawn


def measure(
    objective: Objective, sample: Sample, photo: Tensor, drawn: Sequence[Tensor]
) -> dict[str, list[float]]:
    """Return one person's figures, a number for each picture."""
    outside = outside_faces(photo.shape[-2:], [sample.box.numpy()], grow=0.0)
    plain = drawn[0]
    first, *others = (one[0].movedim(0, -1).numpy() for one in drawn)
    luma = torch.tensor(LUMA).view(3, 1, 1)
    face = (photo * luma).sum(1)[0][torch.from_numpy(~outside)]
    found = {
        "change": [0.0, *(255 * (difference(first, one, outside) or 0.0) for one in others)],
        "lit": [float(((one - plain) * luma).sum(1).mean()) for one in drawn],
        "photo": [float(face.sum())] * len(drawn),
    }
    judge = objective.models.judge
    if judge is not None:
        with torch.no_grad():
            device = objective.base.device
            own, has_face = judge(photo.to(device))
            vectors, seen = judge(torch.cat(list(drawn)).to(device))
        alike = cosine_similarity(own.float(), vectors.float(), dim=-1).tolist()
        found["faces"] = seen.float().tolist()
        counts = [bool(has_face.item()) and s > 0 for s in found["faces"]]
        found["likeness"] = [a if c else float("nan") for a, c in zip(alike, counts, strict=True)]
    return found


def summed(weights: Sequence[float], numbers: Sequence[dict[str, list[float]]]) -> list[Looked]:
    """Return the means over the people, for each weight."""
    table = {name: np.array([one[name] for one in numbers]) for name in numbers[0]}
    looked = []
    for column, weight in enumerate(weights):
        of = {name: values[:, column] for name, values in table.items()}
        alike = of.get("likeness", np.array([]))
        alike = alike[np.isfinite(alike)]
        spread = of["photo"].std() * of["lit"].std()
        covariance = ((of["photo"] - of["photo"].mean()) * (of["lit"] - of["lit"].mean())).mean()
        looked.append(
            Looked(
                weight,
                float(alike.mean()) if len(alike) else None,
                float(of["faces"].mean()) if "faces" in of else None,
                float(of["change"].mean()),
                float(covariance / spread) if spread > 1e-12 else None,
            )
        )
    return looked


def sheet(rows: Sequence[Sequence[Tensor]], weights: Sequence[float]) -> Image.Image:
    """Return the samples as one picture: a person a row, the photo first."""
    names = ["photo", "without", *(f"weight {w:g}" for w in weights if w)]
    page = Image.new("RGB", (PANEL * len(names), BAND + PANEL * len(rows)), "#fbfaf7")
    pen = ImageDraw.Draw(page)
    for column, name in enumerate(names):
        pen.text((PANEL * column + 6, 3), name, "#1c1c1e", ImageFont.load_default(12))
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            shown = interpolate(picture.clamp(0, 1), (PANEL, PANEL), mode="nearest")[0]
            pixels = (shown.movedim(0, -1) * 255).round().to(torch.uint8).numpy()
            page.paste(Image.fromarray(pixels), (PANEL * column, BAND + PANEL * line))
    return page
