"""Prompts in plain words, and what of them the drawn world understands."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from .flux import text_of
from .people import IDENTITY, NUISANCES, WORDS, People

BETWEEN = re.compile(r"\band a person\b", re.IGNORECASE)  # two people, from left to right


def tokens_of(prompt: str) -> Tensor:
    """Return the tokens of a prompt [7 or 14, 64]; words that no picture has are passed over."""
    parts = BETWEEN.split(prompt)[:2]
    people = [read(part) for part in parts]
    if len(people) == 1:
        return text_of(people[0])[0]
    return torch.cat([text_of(one, side)[0] for side, one in enumerate(people)])


def read(prompt: str) -> People:
    """Return the person that a prompt speaks of: their words, and which lines are said.

    Of a line's words that stand in the prompt the longest counts: "no glasses" is not "glasses".
    """
    words, said = [], []
    for line in WORDS.values():
        found = [
            word for word in line if re.search(rf"\b{re.escape(word)}\b", prompt, re.IGNORECASE)
        ]
        best = max(found, key=len, default=None)
        words.append(line.index(best) if best else 0)
        said.append(best is not None)
    return People(
        torch.full((1, len(IDENTITY)), 0.5),
        torch.tensor([words]),
        torch.zeros(1, len(NUISANCES)),
        torch.tensor([said]),
    )
