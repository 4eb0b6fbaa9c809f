"""A ComfyUI models folder of the drawn world: its trained networks under the real file names."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from standins import faces
from standins.models import (
    EVA_CLIP,
    FACE_PACK,
    FLUX,
    PARSING,
    PULID,
    RETINAFACE,
    TEXT_ENCODERS,
    VAE,
)

JUDGE_PACK = "insightface/models/buffalo_l"
PACK = Path(__file__).with_name("drawn_pack")  # loads its VAE and its prompts


def write_drawn_models(folder: Path, adapter: Path, networks: Path | None = None) -> Path:
    """Write the models below ``folder`` and return it.

    adapter: a PuLID file of drawn people; networks: other ones than those that ship. The pack
    has to be loaded as ``pulid_pack``.
    """
    from pulid_pack.micro_world import files

    world = files.read_world(networks or files.TRAINED)
    for file in (FLUX, VAE, *TEXT_ENCODERS, PULID, EVA_CLIP, PARSING, RETINAFACE):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(world.networks["base"]), folder / FLUX)
    save_file(world.codec.state_dict(), folder / VAE)
    for file in TEXT_ENCODERS:  # only listed: drawn_pack reads none
        save_file({"drawn": torch.zeros(1)}, folder / file)
    shutil.copy2(adapter, folder / PULID)  # as it is: its metadata says how the layers lie
    tower = {key: value.float() for key, value in world.networks["tower"].items()}
    torch.save(tower, folder / EVA_CLIP)
    for pack, finder, name, net in (
        (FACE_PACK, "scrfd_10g_bnkps.onnx", "glintr100.onnx", world.recogniser),
        (JUDGE_PACK, "det_10g.onnx", "w600k_r50.onnx", world.judge),
    ):
        files.write_onnx(world.finder, folder / pack / finder, 640, 9)
        files.write_onnx(net, folder / pack / name, 112, 1)
    faces.write_parsing(folder / PARSING, bluish=9.0)  # the photos are on white already
    faces.write_retinaface(folder / RETINAFACE)
    return folder
