"""An identity: the ID tokens of a person."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Identity:
    """ID tokens of one person, float32 on the CPU.

    ``uncond_id_tokens`` is what the same encoder makes of nothing (zeros pushed through it); the
    authors use it on the unconditional rows under true CFG.
    """

    id_tokens: Tensor  # [1, T, C]
    uncond_id_tokens: Tensor  # [1, T', C]

    @property
    def is_nobody(self) -> bool:
        """True if it has no tokens: no photo had a face, and the model is to stay as it is."""
        return self.id_tokens.shape[1] == 0
