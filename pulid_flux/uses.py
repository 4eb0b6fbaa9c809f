"""What is applied to a FLUX model: each use of an identity, and the folds that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..identity.run import IdentityUse
from .checkpoint import PulidModel
from .folding import FluxModel, Fold, fold


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


@dataclass(frozen=True)
class FoldUse:
    """A fold, and the numbers of the uses whose positive or negative prompt's rows get it."""

    fold: Fold
    positive: tuple[int, ...]
    negative: tuple[int, ...]


def fold_uses(flux: FluxModel, uses: Sequence[FluxUse]) -> tuple[FoldUse, ...]:
    """Fold what these uses need; equal ID tokens of one PuLID file are folded once."""
    found: dict[str, FoldUse] = {}
    for pulid in {id(use.pulid): use.pulid for use in uses}.values():
        wanted = [
            (tokens, number, negative)
            for negative in (False, True)
            for number, use in enumerate(uses)
            if use.pulid is pulid and (tokens := use.tokens(negative)) is not None
        ]
        folds = fold(pulid, [tokens for tokens, *_ in wanted], flux)
        for one, (_, number, negative) in zip(folds, wanted, strict=True):
            users = found.get(one.key, FoldUse(one, (), ()))
            sides = (
                (users.positive, (*users.negative, number))
                if negative
                else ((*users.positive, number), users.negative)
            )
            found[one.key] = FoldUse(one, *sides)
    return tuple(found.values())
