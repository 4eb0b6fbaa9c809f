"""Runs on drawn people that take seconds, for the tests of the loop."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from places import ROOT
from pulid_pack.micro_world import drawn
from pulid_pack.training import distributed, loop, studio
from pulid_pack.training.config import Config, from_tables

ADAPTER = {"dim": 64, "depth": 5, "encoder_heads": 1, "queries": 4, "face_tokens": 1}
ADAPTER |= {"token_width": 64, "heads": 1, "dtype": "float32", "name": "small"}
FIRST = {"name": "diffusion", "steps": 3, "batch": 2, "rate": 1e-3, "warmup": 2}
BRANCH = {"branch_steps": 2, "gradient_steps": 1}
SECOND = {"name": "identity", "steps": 3, "batch": 2, "rate": 1e-3, "id": 1.0, **BRANCH}
THIRD = {**SECOND, "name": "alignment", "schedule": "cosine", "semantic": 1.0, "layout": 1.0}


def tables(folder: Path, stages: list[dict[str, Any]] | None = None, **run: Any) -> dict:
    """Return the tables of a small run; ``run`` changes its run table."""
    return {
        "run": {"folder": str(folder), "precision": "float32", "log_every": 1} | run,
        "model": {"base": "drawn"},
        "data": {"source": "drawn", "size": 16, "people": 6, "held_out": 0.2},
        "adapter": ADAPTER,
        "optimizer": {"ema": 0.9},
        "validation": {"every": 1000, "people": 2, "shown": 1, "steps": 1, "weights": [1.0]},
        "stage": stages or [FIRST, SECOND, THIRD],
    }


def settings(folder: Path, stages: list[dict[str, Any]] | None = None, **run: Any) -> Config:
    """Return the settings of a small run."""
    return from_tables(tables(folder, stages, **run), Path(), "the test's settings")


def host_of_the_tests() -> dict[str, str]:
    """Return the environment that makes a script take the ComfyUI that the tests have."""
    path = Path(comfy.model_management.__file__).parents[1]
    return {"COMFYUI_PATH": str(path), "COMFYUI_PYTHON": sys.executable}


def start(folder: Path, config: dict, *how: str, **environment: str) -> subprocess.Popen:
    """Start a process that trains with these tables; ``how``: "resume"."""
    path = folder / f"settings {environment.get('RANK', '')}.json"
    path.write_text(json.dumps(config))
    script = Path(__file__).with_name("training_process.py")
    return subprocess.Popen(
        [sys.executable, str(script), str(ROOT / "scripts"), str(path), *how],
        env={**os.environ, **host_of_the_tests(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(config: Config, made: drawn.Drawn, **more: Any) -> Path:
    """Train as the command line does, in this process alone."""
    with torch.inference_mode(False):
        adapter = studio.make_adapter(config, made.models, made.pictures)
        group = distributed.Group()
        return loop.train(config, made.models, made.pictures, adapter, group, **more)


def rows(folder: Path, name: str = "metrics.csv") -> list[dict[str, str]]:
    """Return the rows of a run's table."""
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
