"""Every setting of every node can come from a link, and a link makes nothing run again."""

from __future__ import annotations

import copy
import json

import pytest
import skimage.data
from PIL import Image
from pulid_pack.nodes import NODES
from standins.server import (
    WIDGET_TYPES,
    described_inputs,
    node_of,
    set_inputs,
    split,
)
from standins.workshop import read_shipped

pytestmark = pytest.mark.server

SOURCES = {
    "STRING": ("PrimitiveString", "value"),
    "INT": ("PrimitiveInt", "value"),
    "FLOAT": ("PrimitiveFloat", "value"),
    "BOOLEAN": ("PrimitiveBoolean", "value"),
    "COMBO": ("Anything", "text"),  # core has no node that gives a choice
}
NODE_IDS = [node.__name__ for node in NODES]  # a class is called as its id
SDXL_IDS = [name for name in NODE_IDS if "SDXL" in name]
FLUX_IDS = [name for name in NODE_IDS if name not in SDXL_IDS]


@pytest.fixture
def all_nodes(server, basic) -> dict[str, dict]:
    """Return a prompt with every node of the pack once, and nothing that samples."""
    prompt = split(basic, "linked")
    prompt |= {node_of(basic, "PuLIDFluxApply"): basic[node_of(basic, "PuLIDFluxApply")]}
    for kind in ("KSampler", "VAEDecode", "SaveImage"):
        del prompt[node_of(prompt, kind)]
    prompt["out"] = {"class_type": "Sink", "inputs": {"thing": ["save", 0]}}
    assert server.queue(prompt).error is None  # so that there is an identity to load
    load = {"class_type": "PuLIDFluxLoadIdentity", "inputs": {"name": "linked.safetensors"}}
    two = {"identity_1": ["load", 0], "identity_2": ["load", 0], "method": "linear"}
    blend = {"class_type": "PuLIDFluxBlendIdentities", "inputs": two}
    prompt |= {"load": load, "blend": blend}
    prompt["apply"]["inputs"]["identity"] = ["load", 0]
    photo = [node_of(prompt, "LoadImage"), 0]
    judge = {"face_analysis": [node_of(prompt, "PuLIDFluxLoadInsightFace"), 0], "image": photo}
    measures = {"Identity": {"reference": photo}, "Disruption": {"plain_image": photo}}
    for what, inputs in measures.items():
        prompt[what] = {"class_type": f"PuLIDMeasure{what}", "inputs": judge | inputs}
    assert {n["class_type"] for n in prompt.values()} >= set(FLUX_IDS)
    return with_defaults(server, prompt)


@pytest.fixture
def sdxl_nodes(workshop, tmp_path) -> dict[str, dict]:
    """Return a prompt with every node for SDXL once, and nothing that samples."""
    prompt = read_shipped("sdxl_pulid_basic")
    picture = tmp_path / "portrait.png"
    Image.fromarray(skimage.data.astronaut()).save(picture)
    set_inputs(prompt, "LoadImage", image=workshop.upload(picture))
    apply = prompt[node_of(prompt, "PuLIDSDXLApply")]["inputs"]
    photo = ("pulid_model", "eva_clip", "face_analysis", "image")
    encode = {name: apply[name] for name in photo}
    prompt["encode"] = {"class_type": "PuLIDFluxEncodeIdentity", "inputs": encode}
    known = {name: value for name, value in apply.items() if name not in photo[1:]}
    inputs = {
        "identity": ["encode", 0],
        "model": apply["model"],
        "pulid_model": apply["pulid_model"],
    }
    inputs |= {name: known[name] for name in ("method", "weight", "start_at", "end_at")}
    prompt["apply"] = {"class_type": "PuLIDSDXLApplyIdentity", "inputs": inputs}
    for kind in ("KSampler", "VAEDecode", "SaveImage"):
        del prompt[node_of(prompt, kind)]
    prompt["out"] = {"class_type": "Sink", "inputs": {"thing": ["apply", 0]}}
    prompt["save"] = {"class_type": "Sink", "inputs": {"thing": ["apply", 0]}}
    assert {n["class_type"] for n in prompt.values()} >= set(SDXL_IDS)
    return with_defaults(workshop, prompt)


def with_defaults(server, prompt: dict[str, dict]) -> dict[str, dict]:
    """Return the prompt with every setting by its value."""
    info = server.object_info()
    for node in prompt.values():
        if node["class_type"] in NODE_IDS:
            for name, kind, options in described_inputs(info[node["class_type"]]):
                if kind in WIDGET_TYPES and "default" in options:
                    node["inputs"].setdefault(name, options["default"])
    return prompt


def linked(prompt: dict, node: str, name: str, kind: str, value: object = None) -> dict:
    """Return the prompt with one setting of ``node`` from a link, its value or another."""
    prompt = copy.deepcopy(prompt)
    if node != "save":  # it would run in every prompt, and change the file that is loaded
        del prompt["save"]
    source, field = SOURCES[kind]
    inputs = prompt[node]["inputs"]
    value = inputs[name] if value is None else value
    prompt["source"] = {"class_type": source, "inputs": {field: value}}
    inputs[name] = ["source", 0]
    prompt["out"]["inputs"]["thing"] = [node, 0]
    return prompt


def follow_links(server, prompt: dict[str, dict], kind: str) -> None:
    """Queue with each setting of a node of this kind from a link, twice: nothing runs again."""
    described = described_inputs(server.object_info()[kind])
    settings = [(name, type_) for name, type_, _ in described if type_ in WIDGET_TYPES]
    assert settings or kind == "PuLIDMeasureDisruption"  # all it takes are links
    for name, type_ in settings:
        own = linked(prompt, node_of(prompt, kind), name, type_)
        first = server.queue(own)
        assert first.error is None, (name, first.error)
        second = server.queue(own)
        assert second.error is None and second.executed == (), (name, second.executed)


@pytest.mark.parametrize("kind", FLUX_IDS)
def test_every_setting_can_be_a_link(server, all_nodes, kind):
    follow_links(server, all_nodes, kind)


@pytest.mark.parametrize("kind", SDXL_IDS)
def test_every_setting_for_sdxl_can_be_a_link(workshop, sdxl_nodes, kind):
    follow_links(workshop, sdxl_nodes, kind)


BAD = {
    ("PuLIDFluxLoadModel", "model_name"): "was not found",
    ("PuLIDFluxLoadEVACLIP", "model_name"): "was not found",
    ("PuLIDFluxLoadInsightFace", "model_pack"): "was not found",
    ("PuLIDFluxLoadInsightFace", "parsing_model"): "was not found",
    ("PuLIDFluxLoadInsightFace", "landmarks"): "was not found",
    ("PuLIDFluxLoadInsightFace", "provider"): "no/such",
    ("PuLIDFluxLoadIdentity", "name"): "was not found",
    ("PuLIDFluxSaveIdentity", "name"): "cannot be the name of an identity",
    ("PuLIDFluxSaveIdentity", "precision"): "precision is 'no/such'; choose one of float32,",
    ("PuLIDFluxBlendIdentities", "method"): "method is 'no/such'; choose one of spherical,",
    ("PuLIDFluxEncodeIdentity", "face"): "'no/such'; choose one of largest,",
    ("PuLIDFluxEncodeIdentity", "fusion"): "fusion is 'no/such', expected one of joint,",
    ("PuLIDFluxApply", "on_no_face"): "on_no_face is 'no/such'; choose one of error,",
}


@pytest.mark.parametrize(("kind", "name"), BAD, ids=lambda part: str(part))
def test_a_linked_value_that_does_not_exist_is_told_at_run_time(server, all_nodes, kind, name):
    described = described_inputs(server.object_info()[kind])
    (type_,) = [type_ for found, type_, _ in described if found == name]
    prompt = linked(all_nodes, node_of(all_nodes, kind), name, type_, "no/such")
    error = server.queue(prompt).error
    assert BAD[kind, name] in error["exception_message"], json.dumps(error)[:400]
    assert error["node_id"] == node_of(prompt, kind)


def test_a_linked_name_is_followed(server, all_nodes, basic):
    """Another name behind the link is another file."""
    set_inputs(all_nodes, "PuLIDFluxSaveIdentity", name="other")
    all_nodes["out"]["inputs"]["thing"] = ["save", 0]
    assert server.queue(all_nodes).error is None
    for name in ("linked.safetensors", "other.safetensors"):
        result = server.queue(linked(all_nodes, "load", "name", "COMBO", name))
        assert result.error is None and "load" in result.executed
