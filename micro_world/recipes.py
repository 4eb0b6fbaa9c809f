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
DIFFUSION = {"name": "diffusion", "steps": 500, "batch": 32, "rate": 1e-3, "warmup": 20}
# Both ways of L_id begin at the same adapter, and have the same people, steps and rate. More of
# L_diff than in the paper keeps faces whole; at its most noise the one-step estimate shows a person
# as sampling's first step does, so that is where L_diff and it learn most.
IDENTITY = {"batch": 16, "diffusion": 8.0, "id": 1.0, "shift": 4.0, "schedule": "cosine"}
ESTIMATE = {**IDENTITY, "name": "naive", "id_on": "estimate"}
START = {**ESTIMATE, "name": "start", "steps": 400, "rate": 1e-3, "warmup": 20}
NAIVE = {**ESTIMATE, "steps": 400, "rate": 5e-4}
LONG = {**ESTIMATE, "steps": 1500, "rate": 1e-3}
ACCURATE = {**IDENTITY, **BRANCH, "name": "identity", "steps": 400, "rate": 5e-4, "diffusion": 10.0}
MORE = {**ACCURATE, "name": "alignment", "steps": 300, "rate": 3e-4}
BOTH = {**MORE, "semantic": 10.0, "layout": 5.0}

# Of each variant: which one it goes on from, and its own stages.
VARIANTS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "L_diff": ("", [DIFFUSION]),
    "a start": ("L_diff", [START]),
    "+ naive L_id": ("a start", [NAIVE]),
    "+ accurate L_id": ("a start", [ACCURATE]),
    "long naive L_id": ("a start", [LONG]),
    "long, then accurate": ("long naive L_id", [ACCURATE]),
    "control: more L_id": ("long, then accurate", [MORE]),
    "+ alignment": ("long, then accurate", [BOTH]),
}
SHIPPED, UNALIGNED = "+ alignment", "control: more L_id"
# Better above worse: what the ablation asks.
QUESTIONS = (("+ naive L_id", "L_diff"), ("+ accurate L_id", "+ naive L_id"))
SHOWN = ("L_diff", "+ naive L_id", "+ accurate L_id", UNALIGNED, SHIPPED)  # of the picture grid


def recipe(variant: str, folder: Path, seed: int, start: Path | None) -> Config:
    """Return the settings of a variant's run; ``start``: the file of the one it goes on from."""
    tables = {
        "run": {
            "folder": str(folder),
            "seed": seed,
            "precision": "float32",
            "checkpoint_every": 100,
        },
        "model": {"base": "drawn"},
        "data": {"source": "drawn", "size": 64},
        "adapter": {**ADAPTER, "start": str(start) if start else ""},
        "optimizer": {"ema": 0.98, "weight_decay": 0.3},
        "validation": {"every": 10_000, "people": 8, "weights": [1.0]},
        "stage": VARIANTS[variant][1],
    }
    return from_tables(tables, folder, variant)
