"""A server with every model and photo that workflows name, and their prompts in a small form."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import WORKFLOWS

from standins import more
from standins.photos import SDXL_SIZE, SIZE, pictures
from standins.server import CENSUS_PACK, STANDIN_PACKS, node_of, set_inputs

# which photo takes its place in the node of each title
PHOTOS = {
    "Photo of the person": "portrait.png",
    "Photo of the person on the left": "portrait.png",
    "Photo of the person on the right": "portrait2.png",
    "Photo 1": "portrait.png",
    "Photo 2": "portrait2.png",
    "Photo 3": "portrait3.png",
    "Picture to edit": "scene.png",
    "Picture to change, with a mask": "scene.png",
    "Picture whose outlines to follow": "pose.png",
}
CLIP_LOADERS = {"clip_name1": "t5xxl_fp8_e4m3fn.safetensors", "clip_name2": "clip_l.safetensors"}


@pytest.fixture(scope="session")
def workshop(host, tmp_path_factory):
    """Return a server that has every model and photo which the workflows name, both families'."""
    from serving import Server

    folder = tmp_path_factory.mktemp("photos")
    with Server(host, more.prepare_more_models(), [*STANDIN_PACKS, CENSUS_PACK]) as running:
        for name, picture in pictures().items():
            picture.save(folder / name)
            running.upload(folder / name)
        yield running


def read_shipped(name: str) -> dict[str, Any]:
    """Return the API form of a workflow that the pack ships."""
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text("utf-8"))


def smaller(prompt: dict[str, Any]) -> dict[str, Any]:
    """Return the prompt with photos, few steps and a small picture; Chroma as fits its width."""
    kinds = {node["class_type"] for node in prompt.values()}
    width, height = SDXL_SIZE if any("SDXL" in kind for kind in kinds) else SIZE
    sizes = {"Width": width, "Height": height}
    for node in prompt.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = PHOTOS.get(node["_meta"]["title"], node["inputs"]["image"])
        if node["_meta"]["title"] in sizes:
            node["inputs"]["value"] = sizes[node["_meta"]["title"]]
    for kind in kinds & {"EmptySD3LatentImage", "EmptyLatentImage"}:
        if not isinstance(prompt[node_of(prompt, kind)]["inputs"]["width"], list):
            set_inputs(prompt, kind, width=width, height=height)
    for kind in kinds & {"KSampler", "BasicScheduler"}:
        set_inputs(prompt, kind, steps=3)
    if "FluxKontextImageScale" in kinds:  # it would make it a megapixel
        picture = prompt[node_of(prompt, "FluxKontextImageScale")]["inputs"]["image"]
        set_inputs(prompt, "VAEEncode", pixels=picture)
    if "CLIPLoader" in kinds:
        set_inputs(prompt, "PuLIDFluxLoadModel", model_name=Path(more.CHROMA_PULID).name)
        loader = prompt[node_of(prompt, "CLIPLoader")]  # T5-XXL cannot be made small
        loader["class_type"] = "DualCLIPLoader"
        loader["inputs"] = {**CLIP_LOADERS, "type": "flux"}
        set_inputs(prompt, "EmptySD3LatentImage", width=64, height=64)
        set_inputs(prompt, "KSampler", steps=1)  # at its full width it is slow
    return prompt


def shown(server, result, prompt: dict[str, Any]) -> list[np.ndarray]:
    """Return every picture that a run saved or previewed."""
    assert result.error is None, result.error["exception_message"]
    nodes = [k for k, n in prompt.items() if n["class_type"] in ("SaveImage", "PreviewImage")]
    files = [file for node in nodes for file in result.images(node)]
    return [np.asarray(Image.open(io.BytesIO(server.image(file)))) for file in files]
