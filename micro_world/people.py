"""Who is drawn, what the prompt says, and what no prompt says: the numbers behind a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Who somebody is: each is a number in 0..1, and any of them makes a person.
IDENTITY = (
    *("skin", "blush", "face_width", "face_length", "eye_size", "eye_spacing", "eye_colour"),
    *("brows", "nose", "mouth", "hair_colour", "hair_length", "hair_volume", "beard"),
)
# What a prompt says, a word of each line; a line that it leaves out is drawn anyhow.
WORDS: dict[str, tuple[str, ...]] = {
    "background": ("red", "green", "blue", "yellow", "violet", "grey"),
    "pattern": ("plain", "striped", "dotted", "chequered"),
    "hat": ("bareheaded", "cap", "top hat", "beanie"),
    "glasses": ("no glasses", "round glasses", "square glasses", "sunglasses"),
    "shirt": ("white shirt", "black shirt", "orange shirt", "teal shirt", "pink shirt"),
    "place": ("left", "middle", "right"),
    "expression": ("smiling", "serious", "surprised"),
}
NUISANCES = ("light", "warmth", "size", "height")  # -1..1, in no prompt
UNSAID = 0.25  # share of the lines that a prompt leaves out
TRAINED, HELD_OUT = 11, 12  # seeds: people of the adapter's training set, and of validation
OTHER_DAY = 100  # added to a seed: other words and light of the same people


@dataclass(frozen=True)
class People:
    """B drawings: identity [B, 14] in 0..1; words [B, 7], a number of each line; nuisances [B, 4].

    said [B, 7]: whether the prompt has that line.
    """

    identity: Tensor
    words: Tensor
    nuisances: Tensor
    said: Tensor

    def __getitem__(self, rows: slice | list[int]) -> People:
        return People(*(value[rows] for value in vars(self).values()))

    def __len__(self) -> int:
        return len(self.identity)

    def number(self, name: str) -> Tensor:
        """Return one of the identity's numbers or the nuisances, [B, 1, 1]."""
        if name in IDENTITY:
            return self.identity[:, IDENTITY.index(name), None, None]
        return self.nuisances[:, NUISANCES.index(name), None, None]

    def word(self, line: str) -> Tensor:
        """Return the numbers of the words of a line, [B]."""
        return self.words[:, list(WORDS).index(line)]

    def is_(self, line: str, word: str) -> Tensor:
        """Return 1 where a line has this word, else 0, [B, 1, 1]."""
        return (self.word(line) == WORDS[line].index(word)).float()[:, None, None]

    def prompts(self) -> list[str]:
        """Return what the prompts say."""
        lines = list(WORDS.values())
        return [
            ", ".join(
                ["a person", *(lines[i][w] for i, w in enumerate(row) if said[i])],
            )
            for row, said in zip(self.words.tolist(), self.said.tolist(), strict=True)
        ]


def draw_people(count: int, seed: int) -> People:
    """Return ``count`` people; the first n of a seed are the same whatever the count."""
    rows = []
    for number in range(count):
        own = torch.Generator().manual_seed(seed * 1_000_003 + number)
        identity = torch.rand(len(IDENTITY), generator=own)
        words = torch.stack(
            [torch.randint(len(line), (), generator=own) for line in WORDS.values()]
        )
        nuisances = 2 * torch.rand(len(NUISANCES), generator=own) - 1
        said = torch.rand(len(WORDS), generator=own) >= UNSAID
        rows.append((identity, words, nuisances, said))
    return People(*(torch.stack(column) for column in zip(*rows, strict=True)))


def on_another_day(people: People, seed: int) -> People:
    """Return the people of a seed with other words and light, as their photos show them."""
    return replace(draw_people(len(people), seed + OTHER_DAY), identity=people.identity)
