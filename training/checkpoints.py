"""Checkpoints: everything that the next step depends on, in one safetensors file each.

    RUN/checkpoints/step_00000120.safetensors

A file is written beside its place, brought to the disk and then renamed: it is whole or not there.
Weights, averaged weights and the optimizer's state are its tensors; where the run is stands in its
metadata. No random state is in it, since every draw is a function of seed, step and place.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT, VERSION = "pulid-training", "1"
UNFINISHED = ".saving"
NAME = re.compile(r"step_(\d{8})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is, and all that its next step needs.

    step: steps done; position: pictures taken from the set; digest: of the settings; weights by
    name; averaged: the same, or empty; optimizer: its state_dict; more: further numbers.
    """

    step: int
    position: int
    digest: str
    weights: Mapping[str, Tensor]
    averaged: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]


def save(checkpoint: Checkpoint, folder: Path, keep: int) -> Path:
    """Write a checkpoint into ``folder`` and remove all but the newest ``keep``.

    Raises RuntimeError with the reason if it cannot be written; the older ones stay then.
    """
    path = folder / f"step_{checkpoint.step:08d}.safetensors"
    tensors = {f"weights.{k}": v for k, v in checkpoint.weights.items()}
    tensors |= {f"averaged.{k}": v for k, v in checkpoint.averaged.items()}
    states, groups = flat_optimizer(checkpoint.optimizer)
    tensors |= states
    state = {
        "step": checkpoint.step,
        "position": checkpoint.position,
        "digest": checkpoint.digest,
        "optimizer": groups,
    }
    metadata = {"format": FORMAT, "version": VERSION, "state": json.dumps(state)}
    # one tensor, one memory: some optimizers share tables between their states
    own = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    scratch = folder / f"{UNFINISHED}-{path.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(own, scratch, metadata)
        to_disk(scratch)
        os.replace(scratch, path)
        to_disk(folder)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise RuntimeError(
            f"The checkpoint {path} could not be written: {error}. Make room there, or make the "
            "folder writable, and go on with --resume from the last one."
        ) from error
    for old in all_of(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk itself."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle of a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def all_of(folder: Path) -> list[Path]:
    """Return a folder's checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name))


def newest(folder: Path) -> Path:
    """Return the newest checkpoint; FileNotFoundError if there is none."""
    found = all_of(folder)
    if not found:
        raise FileNotFoundError(
            f"There is no checkpoint in {folder} to go on from. Start the run without --resume."
        )
    return found[-1]


def load(path: Path, digest: str) -> Checkpoint:
    """Read a checkpoint, on the CPU.

    Raises ValueError if it is no checkpoint, or was made with settings other than ``digest``'s.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a checkpoint: {error}. Delete it.") from error
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"{path} is not a checkpoint of version {VERSION}. Delete it.")
    state = json.loads(metadata["state"])
    if state["digest"] != digest:
        raise ValueError(
            f"{path} was made with other settings than those given, so going on from it would "
            "train something else. Use the settings it was made with, or start a new run in "
            "another folder, with [adapter] start set to what this one exported."
        )
    return Checkpoint(
        state["step"],
        state["position"],
        state["digest"],
        below(tensors, "weights."),
        below(tensors, "averaged."),
        whole_optimizer(below(tensors, "optimizer."), state["optimizer"]),
    )


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def flat_optimizer(state_dict: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an optimizer's tensors by name, and the rest of its state_dict.

    The states of 8 bits lie in a dict of their own inside a parameter's state.
    """
    tensors, others = {}, {}

    def put(name: str, value: Any, rest: dict[str, Any], key: str) -> None:
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Mapping):
            rest[key] = {}
            for inner, own in value.items():
                put(f"{name}/{inner}", own, rest[key], inner)
        else:
            rest[key] = value

    for number, state in state_dict["state"].items():
        for name, value in state.items():
            put(f"optimizer.{number}.{name}", value, others.setdefault(str(number), {}), name)
    return tensors, {"groups": state_dict["param_groups"], "others": others}


def whole_optimizer(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Put an optimizer's state_dict together again."""
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in rest["others"].items()}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        *folders, name = name.split("/")
        place = state.setdefault(int(number), {})
        for folder in folders:
            place = place[folder]
        place[name] = value
    groups = [{k: tuple(v) if k == "betas" else v for k, v in g.items()} for g in rest["groups"]]
    return {"state": state, "param_groups": groups}


def remove_unfinished(folder: Path) -> None:
    """Remove what a run left half-written when it was ended."""
    if folder.is_dir():
        for path in folder.glob(f"{UNFINISHED}-*"):
            path.unlink(missing_ok=True)


def finite(weights: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first weight with values that are not numbers, or None."""
    totals = torch.stack([value.sum() for value in weights.values()]).isfinite().tolist()
    return next((name for name, good in zip(weights, totals, strict=True) if not good), None)
