"""Drawn people for scripts: a ComfyUI models folder of their small trained networks, and photos."""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import hosting
from hosting import ROOT

PACK = ROOT / "tests" / "standins" / "drawn_pack"  # loads what ComfyUI's loaders cannot
PHOTO, PICTURE = 384, 128  # pixels of their sides; pictures are drawn at 64 and shown larger
STEPS, JUDGE = 8, "buffalo_l"
PERSON, OTHER = 5, 9  # numbers among the held-out people
BASIC = "a person, blue, plain, bareheaded, no glasses, white shirt, middle, serious"
PORTRAIT = "portrait"  # names the stand-ins that a real portrait goes through


def models() -> Path:
    """Return the models folder of drawn people, with the stand-ins' face models, written once."""
    sys.path.insert(0, str(ROOT / "tests"))
    from standins.models import HOST_DIR, prepare_folder
    from train import load_host

    load_host(hosting.prepare())
    from pulid_pack.micro_world.files import MANIFEST, TRAINED

    made_of = [TRAINED / MANIFEST, *(TRAINED.parent / f"{name}.py" for name in ("files", "nets"))]
    version = hashlib.sha256(b"".join(path.read_bytes() for path in made_of)).hexdigest()[:8]
    return prepare_folder(f"drawn-models-{version}", ("drawn", "models"), write, HOST_DIR)


def write(folder: Path) -> None:
    """Write the drawn models, and beside them what the real portrait needs."""
    from pulid_pack.micro_world.files import ADAPTER, TRAINED
    from standins.drawn import write_drawn_models
    from standins.models import EVA_CLIP, FACE_PACK, PULID, link_or_copy, prepare_models

    write_drawn_models(folder, TRAINED / ADAPTER)
    stand_ins = prepare_models()
    for file in (PULID, EVA_CLIP):
        target = folder / file
        link_or_copy(str(stand_ins / file), str(target.with_name(f"{PORTRAIT}_{target.name}")))
    pack = folder / FACE_PACK
    (pack.parent / PORTRAIT).mkdir()
    for file in (stand_ins / FACE_PACK).iterdir():
        link_or_copy(str(file), str(pack.parent / PORTRAIT / file.name))


def photos(folder: Path) -> list[Path]:
    """Draw the photos of the two people: bareheaded, smiling, on another day."""
    import torch
    from PIL import Image
    from pulid_pack.micro_world.people import HELD_OUT, WORDS, draw_people
    from pulid_pack.micro_world.renderer import photo

    people = draw_people(max(PERSON, OTHER) + 1, HELD_OUT)[[PERSON, OTHER]]
    words = people.words.clone()
    for line, word in (("hat", "bareheaded"), ("glasses", "no glasses"), ("expression", "smiling")):
        words[:, list(WORDS).index(line)] = WORDS[line].index(word)
    people = replace(people, words=words, nuisances=torch.zeros_like(people.nuisances))
    files = []
    for name, one in zip(("person", "other"), photo(people, PHOTO), strict=True):
        pixels = (255 * one.movedim(0, -1)).round().byte().numpy()
        files.append(folder / f"{name}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


def settle(options: argparse.Namespace) -> None:
    """Give a sweep what drawn people need: two photos, a prompt that they know, size and judge."""
    options.photo = options.photo or photos(options.output)
    options.prompt = options.prompt or BASIC
    options.steps, options.size = options.steps or STEPS, options.size or (PICTURE, PICTURE)
    options.judge = options.judge or JUDGE
