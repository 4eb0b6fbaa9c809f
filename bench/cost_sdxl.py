"""What identity costs a card in SDXL, counted exactly; see cost.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy.model_patcher import ModelPatcher
from pulid_pack.pulid_sdxl.checkpoint import PulidSDXLModel

from . import true_sdxl
from .cost import COLUMNS, compare
from .report import Check, Row, Settings
from .true_size import Picture
from .virtual_card import virtual_card

LIMITS = {"sdxl-v1": (0.001, 7e6), "sdxl-v1.1": (0.0025, 22e6)}  # share of the FLOPs, bytes


def run(settings: Settings) -> Row:
    """Count one forward without identity, with it, and with the authors' processors."""
    square, guided = true_sdxl.SQUARE, true_sdxl.GUIDED
    cases: list[tuple[str, Picture, int, float | None]] = [("cfg 7", guided, 1, None)]
    if not settings.quick:
        cases = [
            ("cfg 1", square, 1, None),
            *cases,
            ("two identities", square, 2, None),
            ("a mask", square, 1, 0.5),
            ("1536", replace(square, height=1536, width=1536), 1, None),
        ]
    records, checks = [], []
    shapes = true_sdxl.unet_shapes()
    with virtual_card(80 << 30) as card, card.running():
        model = true_sdxl.true_sdxl(shapes)
        for family, (flops, kept) in LIMITS.items():
            pulid = true_sdxl.true_pulid_sdxl(family)
            found = [record(model, pulid, *rest) for _, *rest in cases]
            records += [
                {"case": f"{family}, {name}", **one}
                for (name, *_), one in zip(cases, found, strict=True)
            ]
            (both,) = [one for (name, *_), one in zip(cases, found, strict=True) if name == "cfg 7"]
            name = f"SDXL, {family}, cfg 7"
            checks += [
                Check(f"{name}: % of the FLOPs", both["flops_share"] * 100, "at most", flops * 100),
                Check(f"{name}: MB on the card", both["kept"] / 1e6, "at most", kept / 1e6),
            ]
    note = (
        "One forward in float16 at 1024 x 1024 with 77 text tokens, all 70 cross-attention layers, "
        "all weights on the card; v1 with 10 ID tokens and 8 zero tokens, v1.1 with 32 and 20, "
        "ortho_v2. The authors' processors stand at the same layers."
    )
    return Row("What identity costs a card in SDXL", note, COLUMNS, records, checks)


def record(
    model: ModelPatcher, pulid: PulidSDXLModel, picture: Picture, people: int, mask: float | None
) -> dict[str, Any]:
    """Return the counted figures of one case."""
    ours = true_sdxl.with_identity(model, pulid, people, mask)
    theirs = true_sdxl.with_authors(model, pulid, picture, people)
    return compare(model, ours, theirs, picture, pulid.layers)
