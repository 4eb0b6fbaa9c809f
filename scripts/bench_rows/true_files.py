"""Model files of the true size with arbitrary weights, for loading times and memory."""

from __future__ import annotations

from pathlib import Path

import hosting
import torch

from . import setup

FACE_PACK = "faces"  # under antelopev2's name, its files would be compared with the published ones
EVA = {"width": 1024, "depth": 24, "image_size": 336, "pooled": 768}


def write_true_files(folder: Path, layers: int) -> None:
    """Write EVA-CLIP in float16, PuLID in bfloat16 with ``layers`` layers, and the face models.

    Runs in a process of its own, so it puts ComfyUI and the pack on the path itself.
    """
    setup.use_stand_ins()
    setup.use_host(hosting.prepare().path)
    setup.load_pack()
    from standins.eva import eva_shapes
    from standins.faces import write_face_pack, write_parsing

    from .reference import filled

    eva = {key: filled(s, i, torch.float16) for i, (key, s) in enumerate(eva_shapes(**EVA).items())}
    torch.save(eva, folder / "eva.pt")
    write_pulid(folder / "pulid.safetensors", layers)
    write_face_pack(folder / FACE_PACK)
    write_parsing(folder / "parsing_bisenet.pth")


def pulid_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Return key and shape of every tensor of a PuLID-FLUX file with ``layers`` layers."""
    from standins.pulid import encoder_shapes

    from .reference import HEADS, TOKEN_WIDTH, WIDTH

    shapes = encoder_shapes(1024, TOKEN_WIDTH, EVA["width"], 512 + EVA["pooled"])
    inner = HEADS * 128
    for layer in (f"pulid_ca.{i}" for i in range(layers)):
        for norm, width in (("norm1", TOKEN_WIDTH), ("norm2", WIDTH)):
            shapes |= {f"{layer}.{norm}.weight": (width,), f"{layer}.{norm}.bias": (width,)}
        shapes[f"{layer}.to_q.weight"] = (inner, WIDTH)
        shapes[f"{layer}.to_kv.weight"] = (2 * inner, TOKEN_WIDTH)
        shapes[f"{layer}.to_out.weight"] = (WIDTH, inner)
    return shapes


def write_pulid(path: Path, layers: int) -> None:
    """Write a PuLID-FLUX file."""
    from safetensors.torch import save_file

    from .reference import filled

    shapes = pulid_shapes(layers)
    save_file({k: filled(s, i, torch.bfloat16) for i, (k, s) in enumerate(shapes.items())}, path)
