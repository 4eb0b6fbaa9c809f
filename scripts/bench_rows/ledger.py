"""Row 5: what has to be on the device while sampling, ours against "all of it stays"."""

from __future__ import annotations

import math

import torch
from pulid_pack.encoders.sessions import ANTELOPEV2
from pulid_pack.identity.identity import Identity
from pulid_pack.identity.window import Window
from pulid_pack.pulid_flux.folding import UNCONDITIONAL, Applied, Target, make_terms
from standins.eva import eva_shapes

from .reference import TOKEN_WIDTH, WIDTH, id_tokens, true_pulid
from .rows import Check, Column, Row, Settings
from .true_files import EVA, pulid_shapes

LAYERS = 20
HALF = 2  # bytes of a number in 16 bit
PARSING = 53_289_463  # bytes of parsing_bisenet.pth as published
COLUMNS = [
    Column("what", "on the device while sampling (16 bit)"),
    Column("layers", "cross-attention, MB", "{:.1f}", 1e-6),
    Column("encoder", "ID encoder, MB", "{:.0f}", 1e-6),
    Column("eva", "EVA-CLIP, MB", "{:.0f}", 1e-6),
    Column("faces", "face models, MB", "{:.0f}", 1e-6),
    Column("total", "together, MB", "{:.1f}", 1e-6),
    Column("share", "of all", "{:.3f}"),
    Column("layers_share", "of the layers", "{:.3f}"),
]


def run(settings: Settings) -> Row:
    """Fold identities into layers of the true size and add up what is kept."""
    stays = all_stays()
    total = sum(stays.values())
    records = [{"what": "all of it stays", **stays, "total": total, "share": 1, "layers_share": 1}]
    # one layer is like another: quick folds two of them and counts them tenfold
    folded = settings.pick(2, LAYERS)
    pulid = true_pulid(folded)
    for people, kind in ((1, "none"), (1, "zero identity"), (2, "none"), (4, "none"), (8, "none")):
        kept = kept_bytes(pulid, people, kind) * LAYERS // folded
        one = "with" if kind != "none" else "without"
        records.append(
            {
                "what": f"ours, {people} x 32 ID tokens, {one} the zero identity for true CFG",
                "people": people,
                "unconditional": kind,
                "layers": kept,
                "encoder": 0,
                "eva": 0,
                "faces": 0,
                "total": kept,
                "share": kept / total,
                "layers_share": kept / stays["layers"],
            }
        )
    checks = [
        Check(
            "resident identity memory / the layers', one identity, conditional",
            records[1]["layers_share"],
            "at most",
            0.16,
        )
    ]
    note = (
        "Ours are the sizes of the modules that ComfyUI is told to have on the device for the run; "
        "it may take everything else off. Face models are antelopev2's two files and the parsing "
        "file as published. Five and more identities of 32 tokens take the plain form, which is as "
        "large as the maps to q and from the attention, plus keys and values."
    )
    return Row("Memory while sampling", note, COLUMNS, records, checks)


def all_stays() -> dict[str, int]:
    """Return the bytes of every part in 16 bit, by part."""
    sizes = {key: math.prod(shape) for key, shape in pulid_shapes(LAYERS).items()}
    return {
        "layers": HALF * sum(n for key, n in sizes.items() if key.startswith("pulid_ca.")),
        "encoder": HALF * sum(n for key, n in sizes.items() if key.startswith("pulid_encoder.")),
        "eva": HALF * sum(math.prod(shape) for shape in eva_shapes(**EVA).values()),
        "faces": PARSING + sum(size for size, _ in ANTELOPEV2.values()),
    }


def kept_bytes(pulid, people: int, unconditional: str) -> int:
    """Return the bytes of the terms that ``people`` identities are multiplied out into."""
    if unconditional not in UNCONDITIONAL:
        raise ValueError(f"{unconditional!r} is not one of {UNCONDITIONAL}.")
    target = Target(WIDTH, 2, len(pulid.layers), torch.bfloat16)
    applied = [
        Applied(
            pulid,
            Identity(id_tokens(32, seed), torch.zeros(1, 32, TOKEN_WIDTH)),
            1.0,
            Window(),
            unconditional=unconditional,
        )
        for seed in range(people)
    ]
    return sum(term.patcher.model_size() for term in make_terms(target, applied))
