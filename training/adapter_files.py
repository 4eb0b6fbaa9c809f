"""Read an adapter to go on with from a PuLID file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..pulid_flux import checkpoint as flux_file
from ..pulid_sdxl import checkpoint as sdxl_file
from ..pulid_sdxl.id_attention import PROJECTIONS
from ..state_dicts import read_metadata, read_state_dict
from .adapter import Adapter, FluxAdapter, SDXLAdapter

SDXL = tuple(prefix for layout in sdxl_file.LAYOUTS for prefix in layout[:2])


def load(path: Path) -> Adapter:
    """Read an adapter to go on with, as float32: a PuLID-FLUX or PuLID-SDXL file.

    Raises FileNotFoundError, or ValueError naming the file and what in it is wrong.
    """
    tensors = read_state_dict(path, "a PuLID file for FLUX or SDXL")
    metadata = read_metadata(path)
    if any(key.startswith(SDXL) for key in tensors):
        adapter, tensors = of_sdxl_file(tensors, path.name, metadata)
    else:
        adapter = of_flux_file(tensors, path.name, metadata)
    with torch.inference_mode(False):
        own = {key: value.to(torch.float32, copy=True) for key, value in tensors.items()}
        adapter.load_state_dict(own, assign=True)
    adapter.metadata = metadata
    return adapter


def of_flux_file(tensors: dict[str, Tensor], name: str, metadata: Mapping[str, str]) -> FluxAdapter:
    """Return an adapter of a PuLID-FLUX file's sizes, without weights."""
    pulid = flux_file.from_state_dict(tensors, name, metadata)
    sizes, layers = pulid.id_encoder.patcher.model.sizes, pulid.layers
    with torch.device("meta"):
        return FluxAdapter(
            sizes, pulid.width, len(layers), layers[0].heads, pulid.double_layers, name
        )


def of_sdxl_file(
    tensors: dict[str, Tensor], name: str, metadata: Mapping[str, str]
) -> tuple[SDXLAdapter, dict[str, Tensor]]:
    """Return an adapter of a PuLID-SDXL file's sizes, and the tensors under the authors' names."""
    pulid = sdxl_file.from_state_dict(tensors, name)
    sizes = pulid.id_encoder.patcher.model.sizes
    widths = [layer.id_to_k.out_features for layer in pulid.layers]
    settings = (int(metadata.get("num_zero", 0)), metadata.get("projection", PROJECTIONS[-1]))
    with torch.device("meta"):
        adapter = SDXLAdapter(sizes, widths, *settings, name)
    layout, _ = sdxl_file.recognise(tensors, name)
    named = {}
    for key, value in tensors.items():
        for old, new_name in zip(layout, sdxl_file.LAYOUTS[0], strict=True):
            key = key.replace(old, new_name)
        named[key] = value
    return adapter, named
