"""How the drawn world's adapter is trained: the paper's stages, and each without something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..training.config import Config, from_tables

ADAPTER = {
    "name": "pulid",
    "dim": 128,
    "depth": 5,
    "encoder_heads": 2,
    "queries": 8,
    "face_tokens": 2,
    "token_width": 128,
    "heads": 2,
    "dtype": "float32",
}
BRANCH = {"branch_steps": 4, "gradient_steps": 4}  # with 3, faces come apart
DIFFUSION = {"name": "diffusion", "batch": 32, "rate": 3e-4, "warmup": 20}
# More of L_diff than in the paper keeps faces whole. At its most noise the one-step estimate shows
# a person as sampling's first step does: that is where it and L_diff learn most. At a rate of 1e-3
# the ID tokens grow what they have in common, and L_id falls at a third of the speed.
IDENTITY = {"batch": 16, "id": 1.0, "shift": 4.0, "warmup": 20}
ESTIMATE = {**IDENTITY, "id_on": "estimate"}
START = {**ESTIMATE, "name": "start", "steps": 360, "rate": 3e-4, "warmup": 50, "diffusion": 3.0}
# Both ways of L_id go on from the same adapter, with the same people, steps, rate and L_diff.
COMPARED = {"steps": 300, "rate": 2e-4, "diffusion": 8.0}
NAIVE = {**ESTIMATE, **COMPARED, "name": "naive"}
ACCURATE = {**IDENTITY, **BRANCH, **COMPARED, "name": "identity"}
MORE = {**ACCURATE, "name": "alignment", "steps": 200, "schedule": "cosine"}
BOTH = {"semantic": 10.0, "layout": 5.0}
# What ships is trained by Muon, from calibrated first weights: a fifth of the steps for as much
# likeness. The ablation compares losses, and has AdamW and the first weights as they are drawn.
LONG = {**ESTIMATE, "name": "naive", "steps": 1500, "rate": 3e-3, "schedule": "cosine"}
LONG |= {"warmup": 50, "diffusion": 3.0}
LAST = {**ACCURATE, "steps": 1200, "rate": 1e-3, "schedule": "cosine"}
ALIGNED_LAST = {**BOTH, "name": "alignment", "steps": 250, "rate": 5e-4}
LEARNT = ("adamw", 0), ("muon", 256)  # optimizer, and photos that calibrate

# Of each variant: which one it goes on from, and its own stages.
VARIANTS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "L_diff": ("", [{**DIFFUSION, "steps": 480}]),
    "a start": ("", [{**DIFFUSION, "steps": 120}, START]),
    "+ naive L_id": ("a start", [NAIVE]),
    "+ accurate L_id": ("a start", [ACCURATE]),
    "control: more L_id": ("+ accurate L_id", [MORE]),
    "+ alignment": ("+ accurate L_id", [{**MORE, **BOTH}]),
    # what ships: the same losses, for longer
    "long naive L_id": ("", [LONG]),
    "long accurate L_id": ("long naive L_id", [LAST]),
    "shipped": ("long accurate L_id", [{**LAST, **ALIGNED_LAST}]),
}
ABLATION = tuple(VARIANTS)[:6]  # the shipped one stands beside it
SHIPPED, ALIGNED, UNALIGNED = "shipped", "+ alignment", "control: more L_id"
# Better above worse: what the ablation asks.
QUESTIONS = (("+ naive L_id", "L_diff"), ("+ accurate L_id", "+ naive L_id"))
SHOWN = ("L_diff", "+ naive L_id", "+ accurate L_id", UNALIGNED, ALIGNED)  # of the picture grid


def recipe(variant: str, folder: Path, seed: int, start: Path | None) -> Config:
    """Return the settings of a variant's run; ``start``: the file of the one it goes on from."""
    kind, photos = LEARNT[variant not in ABLATION]
    tables = {
        "run": {
            "folder": str(folder),
            "seed": seed,
            "precision": "float32",
            "checkpoint_every": 100,
        },
        "model": {"base": "drawn"},
        "data": {"source": "drawn", "size": 64},
        "adapter": {**ADAPTER, "calibrate": photos, "start": str(start) if start else ""},
        "optimizer": {"kind": kind, "ema": 0.98, "weight_decay": 0.3},
        "validation": {"every": 10_000, "people": 8, "weights": [1.0]},
        "stage": VARIANTS[variant][1],
    }
    return from_tables(tables, folder, variant)
