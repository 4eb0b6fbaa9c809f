"""The real server with stand-in models, for tests: fixtures, and handling of graphs."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import ROOT, WORKFLOWS

from standins.models import prepare_models

sys.path.append(str(ROOT / "scripts"))

TEXT_ENCODER_PACK = Path(__file__).parent / "text_encoder_pack"
STANDIN_PACKS = [TEXT_ENCODER_PACK, Path(__file__).parent / "small_sdxl_pack"]
CENSUS_PACK = Path(__file__).parent / "census_pack"
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTES = ("Note", "MarkdownNote")


@pytest.fixture(scope="session")
def models() -> Path:
    """Return a ComfyUI models folder of stand-ins."""
    return prepare_models()


@pytest.fixture(scope="session")
def server(host, models):
    """Return a running ComfyUI with the pack, stand-ins and a node that counts models."""
    from serving import Server

    with Server(host, models, [TEXT_ENCODER_PACK, CENSUS_PACK]) as running:
        yield running


@pytest.fixture(scope="session")
def portrait(server, tmp_path_factory) -> str:
    """Return the name of an uploaded photo with one face, for LoadImage."""
    import skimage.data

    path = tmp_path_factory.mktemp("photos") / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(path)
    return server.upload(path)


@pytest.fixture
def basic(portrait) -> dict[str, dict]:
    """Return the basic workflow in API form, small and quick, with the uploaded photo."""
    prompt = json.loads((WORKFLOWS / "api" / "flux_pulid_basic.json").read_text("utf-8"))
    set_inputs(prompt, "LoadImage", image=portrait)
    set_inputs(prompt, "KSampler", steps=3)
    set_inputs(prompt, "EmptySD3LatentImage", width=192, height=128)
    return prompt


def node_of(prompt: dict[str, dict], kind: str) -> str:
    """Return the id of the only node of class ``kind``."""
    (found,) = (node for node, entry in prompt.items() if entry["class_type"] == kind)
    return found


def set_inputs(prompt: dict[str, dict], kind: str, **inputs: object) -> None:
    """Set inputs of the only node of class ``kind``."""
    prompt[node_of(prompt, kind)]["inputs"] |= inputs


def split(prompt: dict, name: str) -> dict:
    """Return the prompt with Encode, Save and Apply Identity in place of Apply."""
    split = json.loads(json.dumps(prompt))
    apply = split.pop(node_of(split, "PuLIDFluxApply"))["inputs"]
    faces = {k: apply[k] for k in ("pulid_model", "eva_clip", "face_analysis", "image")}
    options = {
        "face": "largest",
        "face_index": 0,
        "fusion": "joint",
        "on_no_face": "error",
        "grayscale": True,
    }
    split["encode"] = {"class_type": "PuLIDFluxEncodeIdentity", "inputs": faces | options}
    split["save"] = {
        "class_type": "PuLIDFluxSaveIdentity",
        "inputs": {
            "identity": ["encode", 0],
            "name": name,
            "overwrite": True,
            "precision": "float32",
            "preview": ["encode", 1],
        },
    }
    rest = {k: apply[k] for k in ("model", "pulid_model", "weight", "start_at", "end_at")}
    split["apply"] = {
        "class_type": "PuLIDFluxApplyIdentity",
        "inputs": rest | {"identity": ["save", 0]},
    }
    set_inputs(split, "KSampler", model=["apply", 0])
    return split


def saved_pictures(server, prompt: dict) -> list[np.ndarray]:
    """Run the prompt and return what it saved."""
    result = server.queue(prompt)
    assert result.error is None, result.error
    saved = result.images(node_of(prompt, "SaveImage"))
    return [np.asarray(Image.open(io.BytesIO(server.image(i))).convert("RGB")) for i in saved]


def encodings(server, prompt: dict) -> dict[str, int]:
    """Run the prompt; return how often each encoder had run until its end."""
    result = server.queue(prompt)
    assert result.error is None, result.error
    return result.outputs["census"]["runs"][0]


def api_form(workflow: dict, info: dict[str, dict]) -> dict[str, dict]:
    """Return a UI workflow as the API takes it, by the input order of ``/object_info``.

    It knows nodes with sockets and widgets: no subgraphs, reroutes or bypassed nodes.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        described = info[node["type"]]
        values = iter(node["widgets_values"])
        inputs = {}
        for name, kind, options in described_inputs(described):
            if kind in WIDGET_TYPES:
                inputs[name] = next(values)
                if options.get("control_after_generate") or options.get("image_upload"):
                    next(values)  # a widget of the page's own
        assert next(values, None) is None, f"{node['type']}: more values than widgets"
        for socket in node["inputs"]:
            if socket.get("link") is not None:
                inputs[socket["name"]] = sources[socket["link"]]
        title = node.get("title") or described["display_name"] or node["type"]
        prompt[str(node["id"])] = {
            "inputs": inputs,
            "class_type": node["type"],
            "_meta": {"title": title},
        }
    return prompt


def described_inputs(described: dict) -> list[tuple[str, str, dict]]:
    """Return name, type and options of a node's inputs in order; lists of choices are COMBOs."""
    found = []
    for section in ("required", "optional"):
        for name in described["input_order"].get(section, []):
            kind, *options = described["input"][section][name]
            kind = "COMBO" if isinstance(kind, list) else kind
            found.append((name, kind, options[0] if options else {}))
    return found
