"""What versions of the pack saved, run again: for the tests, and to make the expected pictures.

    python tests/saved/making.py 0.1 <checkout of that version>

makes the identity and the pictures in ``tests/saved/0.1`` anew, with that checkout as the pack and
today's stand-in models. Only other stand-ins or another ComfyUI make that necessary.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SAVED = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(SAVED.parent))
    import real_host  # noqa: F401  it puts ComfyUI and scripts/ on the path

from standins.photos import pictures  # noqa: E402
from standins.server import TEXT_ENCODER_PACK, set_inputs  # noqa: E402
from standins.workshop import shown, smaller  # noqa: E402

EVERY = 4  # every fourth pixel of every fourth row is kept
IDENTITY = "saved before"
# Chroma's stand-in has few blocks, and since 0.2 blocks that a model lacks take no layers away from
# the others: its picture changed on purpose.
NO_PICTURE = ("save_identity", "chroma")


def read_prompt(version: str, name: str) -> dict[str, dict[str, Any]]:
    """Return an API prompt that ``version`` saved, small, with the identity of that version."""
    prompt = json.loads((SAVED / version / "api" / f"{name}.json").read_text("utf-8"))
    prompt = smaller(prompt)
    for node in prompt.values():
        if node["class_type"] == "PuLIDFluxLoadIdentity":
            node["inputs"]["name"] = f"{IDENTITY}.safetensors"
    return prompt


def run(server, prompt: dict[str, dict[str, Any]]) -> np.ndarray:
    """Run a prompt; return some pixels of the only picture that it saves: [h, w, 3], 8 bits."""
    (picture,) = shown(server, server.queue(prompt), prompt)
    return picture[::EVERY, ::EVERY]


def saving_prompt(version: str) -> dict[str, dict[str, Any]]:
    """Return the prompt that saves an identity, without previews, which make its file large."""
    prompt = read_prompt(version, "save_identity")
    kept = {k: n for k, n in prompt.items() if n["class_type"] != "PreviewImage"}
    set_inputs(kept, "PuLIDFluxSaveIdentity", name=IDENTITY)
    del kept["9"]["inputs"]["preview"]
    return kept


def identities(server) -> Path:
    """Return the folder into which the server saves identities."""
    return server.models / "pulid_identities"  # the first of its folders


def make(version: str, checkout: Path) -> None:
    """Write what ``version`` makes of its own prompts."""
    import hosting
    from serving import PACK_NAME, Server
    from standins.more import prepare_more_models

    server = Server(hosting.prepare(), prepare_more_models(), [TEXT_ENCODER_PACK])
    server.packs[PACK_NAME] = checkout
    folder = SAVED / version
    with server, tempfile.TemporaryDirectory() as scratch:
        for name, picture in pictures().items():
            picture.save(Path(scratch, name))
            server.upload(Path(scratch, name))
        result = server.queue(saving_prompt(version))
        assert result.error is None, result.error
        shutil.copy(identities(server) / f"{IDENTITY}.safetensors", folder)
        for file in sorted((folder / "api").glob("*.json")):
            if file.stem not in NO_PICTURE:
                pixels = run(server, read_prompt(version, file.stem))
                Image.fromarray(pixels).save(folder / "pictures" / f"{file.stem}.png")


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]).resolve())
