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
BRANCH = {"branch_steps": 4, "gradient_steps": 3, "batch": 16}
DIFFUSION = {"name": "diffusion", "steps": 500, "batch": 32, "rate": 1e-3, "warmup": 20}
IDENTITY = {"steps": 220, "rate": 1e-3, "schedule": "cosine", "diffusion": 0.1, "id": 1.0, **BRANCH}
ACCURATE = {"name": "identity", **IDENTITY}
NAIVE = {"name": "naive", **IDENTITY, "id_on": "estimate"}  # all else as in the accurate one
ALIGNED = {**ACCURATE, "name": "alignment", "steps": 160, "rate": 4e-4}
SEMANTIC = {**ALIGNED, "semantic": 10.0}
BOTH = {**SEMANTIC, "layout": 5.0}

# Of each variant: which one it goes on from, and its own stages.
VARIANTS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "L_diff": ("", [DIFFUSION]),
    "+ naive L_id": ("L_diff", [NAIVE]),
    "+ accurate L_id": ("L_diff", [ACCURATE]),
    "+ L_sem": ("+ accurate L_id", [SEMANTIC]),
    "+ L_sem + L_layout": ("+ accurate L_id", [BOTH]),
    "control: more L_id": ("+ accurate L_id", [ALIGNED]),
}
SHIPPED = "+ L_sem + L_layout"


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
        "optimizer": {"ema": 0.98},
        "validation": {"every": 10_000, "people": 8, "weights": [1.0]},
        "stage": VARIANTS[variant][1],
    }
    return from_tables(tables, folder, variant)
