"""One use of an identity in a FLUX model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..identity.prepared import Prepared
from ..identity.run import IdentityUse
from .checkpoint import PulidModel
from .folding import FluxModel, fold


@dataclass(frozen=True, kw_only=True)
class FluxUse(IdentityUse):
    """One use of an identity in a FLUX model."""

    pulid: PulidModel
    double_weight: float = 1.0
    single_weight: float = 1.0

    @property
    def never_acts(self) -> bool:
        """True if it changes nothing in any run."""
        return super().never_acts or not (self.double_weight or self.single_weight)

    def prepare(self, token_sets: Sequence[Tensor], target: FluxModel) -> list[Prepared]:
        """Return these token sets folded into the layers of its file."""
        return fold(self.pulid, token_sets, target)
