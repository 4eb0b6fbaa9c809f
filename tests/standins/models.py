"""A ComfyUI models folder of stand-ins: the real file names in the real subfolders."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from places import ROOT
from safetensors.torch import save_file

from standins import eva, faces
from standins.flux import write_flux
from standins.pulid import write_pulid
from standins.vae import write_vae

HOST_DIR = ROOT / ".host"
WRITERS = ("eva", "faces", "flux", "models", "pulid", "vae")
FLUX = "diffusion_models/flux1-dev.safetensors"
VAE = "vae/ae.safetensors"
TEXT_ENCODERS = ("text_encoders/t5xxl_fp8_e4m3fn.safetensors", "text_encoders/clip_l.safetensors")
PULID = "pulid/pulid_flux_v0.9.1.safetensors"
EVA_CLIP = "eva_clip/EVA02_CLIP_L_336_psz14_s6B.pt"
FACE_PACK = "insightface/models/antelopev2"
PARSING = "facexlib/parsing_bisenet.pth"
RETINAFACE = "facexlib/detection_Resnet50_Final.pth"


def prepare_models(parent: Path = HOST_DIR) -> Path:
    """Return the stand-in models folder below ``parent``, written if this version has none yet."""
    return prepare_folder("standin-models", WRITERS, write_files, parent)


def prepare_folder(
    name: str, writers: Sequence[str], write: Callable[[Path], None], parent: Path = HOST_DIR
) -> Path:
    """Return a folder ``name``-version below ``parent``, made by ``write`` if it is not there.

    writers: the modules beside this one whose sources make the version. Folders of other versions
    go after an hour, when nobody is likely to use them any more. A new one appears in one rename,
    so a run that was cut off leaves nothing half-made under its name.
    """
    sources = [Path(__file__).with_name(f"{writer}.py") for writer in writers]
    version = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    folder = parent / f"{name}-{version}"
    for other in parent.glob(f"{name}-*"):
        if other != folder and time.time() - other.stat().st_mtime > 3600:
            shutil.rmtree(other, ignore_errors=True)
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=parent, prefix=f"{folder.name}-"))
    try:
        write(scratch)
        os.replace(scratch, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, with the same files
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def write_files(folder: Path) -> None:
    """Write every stand-in file below ``folder``."""
    for file in (FLUX, VAE, *TEXT_ENCODERS, PULID, EVA_CLIP, PARSING, RETINAFACE):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / FACE_PACK).mkdir(parents=True)
    write_flux(folder / FLUX)
    write_vae(folder / VAE)
    for file in TEXT_ENCODERS:  # only listed: the text encoder pack does not read them
        save_file({"stand_in": torch.zeros(1)}, folder / file)
    write_pulid(folder / PULID, vit_width=eva.EVA_WIDTH, id_cond_width=512 + eva.EVA_POOLED)
    eva.write_eva_clip(folder / EVA_CLIP)
    faces.write_face_pack(folder / FACE_PACK)
    faces.write_parsing(folder / PARSING)
    faces.write_retinaface(folder / RETINAFACE)


def link_or_copy(source: str, target: str) -> None:
    """Give a file a second name where the file system can do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
