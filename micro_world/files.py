"""The trained networks as files: safetensors with a manifest, and ONNX for insightface."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .world import CPU, Networks, World

ADAPTER = "pulid.safetensors"
MANIFEST = "manifest.json"
EXACT = "codec"  # stays in float32
OPSET = 13
TRAINED = Path(__file__).with_name("trained")  # what ships with the repository


def write_networks(networks: Networks, folder: Path) -> list[Path]:
    """Write each network's file and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, weights in networks.items():
        files.append(folder / f"{name}.safetensors")
        dtype = torch.float32 if name == EXACT else torch.bfloat16
        save_file({key: narrow(value, dtype) for key, value in weights.items()}, files[-1])
    return files


def write_adapter(trained: Path, folder: Path) -> Path:
    """Write a trained PuLID file in bfloat16, its metadata as they are, and return the file."""
    with safe_open(trained, "pt") as file:
        metadata = file.metadata()
    weights = {key: narrow(value, torch.bfloat16) for key, value in load_file(trained).items()}
    save_file(weights, folder / ADAPTER, metadata)
    return folder / ADAPTER


def write_manifest(folder: Path, files: Iterable[Path], about: Mapping[str, Any]) -> None:
    """Write what is said about the files, and their sha256."""
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    text = json.dumps({**about, "sha256": sums}, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def narrow(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor as it is kept; whole numbers stay."""
    return (value.to(dtype) if value.is_floating_point() else value).contiguous()


def read_world(folder: Path = TRAINED, device: torch.device = CPU) -> World:
    """Return the world of a folder's files. Raises FileNotFoundError if there are none.

    device: of the networks that judge.
    """
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.name != ADAPTER]
    found = {path.stem: load_file(path) for path in files}
    if not found:
        raise FileNotFoundError(
            f"There are no trained networks in {folder}. Make them: python -m micro_world.train"
        )
    return World(found, device)


def write_onnx(net: nn.Module, path: Path, side: int, outputs: int) -> None:
    """Write a recogniser (side 112) or a finder (640) as insightface reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"out{number}" for number in range(outputs)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter needs onnxscript
        torch.onnx.export(
            net.eval(),
            (torch.zeros(1, 3, side, side),),
            str(path),
            input_names=["input.1"],
            output_names=names,
            opset_version=OPSET,
            dynamo=False,
        )
