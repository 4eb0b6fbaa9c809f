"""Workflows of the older packs for SDXL: what becomes of each node, by value."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from old_samples import SAMPLES, all_nodes, of_kind, old_prompt, read, samples
from pulid_pack.nodes import folders
from pulid_pack.nodes.old_packs import files, prompts
from pulid_pack.nodes.old_packs.rows import EVA_CLIP, INSIGHT_FACE, SDXL_APPLY, SDXL_MODEL
from pulid_pack.nodes.old_packs.schemas import CLASSES, NewNode
from pulid_pack.nodes.old_packs.table import OLD
from safetensors.torch import save_file
from standins.photos import SDXL_SIZE
from standins.pulid import encoder_shapes
from standins.sdxl_files import BASE
from standins.sdxl_files import V1_1 as FILE_OF_V1_1
from standins.workshop import shown

V1 = "ip-adapter_pulid_sdxl_fp16.safetensors"
V1_1 = "ip-adapter_pulidv1.1_sdxl_fp16.safetensors"
STRONGER = (
    "the identity is stronger here: since September 2024 that pack left out the ten layers in the "
    "middle of the model; lower weight where it is too much."
)
NO_NOISE = "not kept, it was random and never the same twice."
# What every upgraded Apply says, whatever the old node said.
ALWAYS = {
    "fusion": "mean",
    "on_no_face": "skip",
    "unconditional": "zero identity",
    "face": "largest",
    "face_index": 0,
    "grayscale": True,
    "start_step": -1,
    "end_step": -1,
    "weight_curve": "constant",
    "region": "whole picture",
    "region_box": "25, 0, 50, 100",
    "fusion_weight_max": 1.0,
    "fusion_weight_min": 0.0,
    "train_step": 1000,
    "face_points": "",
}


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    """Make the pack's folders known, and let no model be there: names are then the usual ones."""
    folders.register()
    monkeypatch.setattr(folders, "files", lambda kind: {})
    monkeypatch.setattr(folders, "packs", dict)


def face_loader(provider: str) -> dict[str, Any]:
    names = ("model_pack", "provider", "parsing_model", "landmarks")
    values = ("antelopev2", provider, "parsing_bisenet.pth", "model pack")
    return dict(zip(names, values, strict=True))


EVA = {"model_name": "EVA02_CLIP_L_336_psz14_s6B.pt"}


def applied(method: str, weight: float, start: float, end: float, **more: Any) -> dict[str, Any]:
    """Return the inputs of an upgraded Apply."""
    strength = {"method": method, "weight": weight, "start_at": start, "end_at": end}
    return ALWAYS | {"num_zero": 20, "projection": "ortho_v2"} | strength | more


def links(model: str, pulid: str, eva: str, faces: str, image: str) -> dict[str, list]:
    names = ("model", "pulid_model", "eva_clip", "face_analysis", "image")
    return {n: [v, 0] for n, v in zip(names, (model, pulid, eva, faces, image), strict=True)}


# For each of our files: the nodes that take the place of older ones, and what is said.
FIDELITY = {
    "16": (SDXL_MODEL, {"model_name": V1}),
    "17": (INSIGHT_FACE, face_loader("auto")),
    "19": (EVA_CLIP, EVA),
    "33": (SDXL_APPLY, applied("fidelity", 0.8, 0.0, 1.0, **links("4", "16", "19", "17", "12"))),
}
THREE = ("16", "19", "17")
ADVANCED = {
    "16": (SDXL_MODEL, {"model_name": V1_1}),
    "17": (INSIGHT_FACE, face_loader("CPU")),
    "19": (EVA_CLIP, EVA),
    "33": (
        SDXL_APPLY,
        applied("custom", 0.7, 0.1, 0.9, num_zero=12, projection="ortho", attn_mask=["20", 0])
        | links("4", *THREE, "12"),
    ),
    "34": (
        SDXL_APPLY,
        applied("custom", 1.0, 0.0, 1.0, num_zero=0, projection="none") | links("33", *THREE, "14"),
    ),
}
EASY = {
    "35": (SDXL_MODEL, {"model_name": V1}),
    "36": (EVA_CLIP, EVA),
    "37": (INSIGHT_FACE, face_loader("auto")),
    "38": (INSIGHT_FACE, face_loader("CPU")),
    "33": (SDXL_APPLY, applied("style", 0.75, 0.0, 0.8, **links("4", "35", "36", "37", "12"))),
    "34": (
        SDXL_APPLY,
        applied("custom", 0.6, 0.2, 1.0, num_zero=10, attn_mask=["20", 0])
        | links("33", "35", "36", "38", "12"),
    ),
}
SAID = {
    "cubiq_fidelity": [f"ApplyPulid (node 33): {STRONGER}"],
    "cubiq_advanced": [
        f"ApplyPulidAdvanced (node 33): {STRONGER}",
        f"ApplyPulidAdvanced (node 34): noise 0.3: {NO_NOISE}",
    ],
    "easy_use": [f"easy pulIDApply (node 33): {STRONGER}"],
}
EXPECTED = {"cubiq_fidelity": FIDELITY, "cubiq_advanced": ADVANCED, "easy_use": EASY}
each_file = pytest.mark.parametrize("name", EXPECTED)


def prompt_of(workflow: dict[str, Any]) -> dict[str, Any]:
    """Return the prompt that the page makes of a file, older packs there or not."""
    return old_prompt(workflow, stand_ins={})


def sample(name: str) -> dict[str, Any]:
    return read(SAMPLES / f"{name}.json")


def upgraded(prompt: dict[str, Any]) -> dict[str, Any]:
    return prompts.upgrade(prompt)[0]


def told(prompt: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    return {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()}


@each_file
def test_prompt_is_upgraded_to_exactly_this(name):
    before = prompt_of(sample(name))
    given = copy.deepcopy(before)
    after, message = prompts.upgrade(before)
    assert before == given, "the prompt given was changed"
    others = {key: value for key, value in told(before).items() if value[0] not in OLD}
    assert told(after) == others | EXPECTED[name]
    assert message.splitlines()[1:] == SAID[name]


@each_file
def test_file_is_upgraded_to_exactly_this(name):
    workflow = sample(name)
    others = {k: v for k, v in told(prompt_of(workflow)).items() if v[0] not in OLD}
    prepared, message = files.prepare(workflow)
    assert told(prompt_of(prepared)) == others | EXPECTED[name]
    assert message.splitlines()[1:] == SAID[name]
    assert workflow == sample(name), "the file given was changed"
    reroutes = [node for node in prepared["nodes"] if node["type"] == "Reroute"]
    assert {s["type"] for node in reroutes for s in node["outputs"]} <= {"PULID_SDXL_MODEL"}
    for node in prepared["nodes"]:
        if f"{node['id']}" in EXPECTED[name]:
            assert len(node["widgets_values"]) == len(NewNode(node["type"]).widgets)


def test_added_loaders_lie_upon_no_other_node():
    prepared, _ = files.prepare(sample("easy_use"))
    boxes = [(*node["pos"], *node["size"]) for node in prepared["nodes"]]
    for number, (x, y, width, height) in enumerate(boxes):
        for x2, y2, width2, height2 in boxes[:number]:
            beside = x + width <= x2 or x2 + width2 <= x
            assert beside or y + height <= y2 - 30 or y2 + height2 <= y - 30, "with their titles"


@pytest.mark.parametrize("path", samples(sdxl=True), ids=lambda path: path.stem)
def test_file_and_prompt_are_upgraded_alike(path):
    workflow = read(path)
    prepared, message = files.prepare(workflow)
    assert message.startswith("Nodes of older PuLID packs were replaced: ")
    assert not {node["type"] for node in all_nodes(prepared)} & set(OLD)
    assert told(prompt_of(prepared)) == told(upgraded(prompt_of(workflow)))
    assert len(of_kind(prompt_of(prepared), SDXL_APPLY)) > 0


@pytest.mark.parametrize("name", ["fidelity", "style", "neutral"])
@pytest.mark.parametrize("kind", ["ApplyPulid", "easy pulIDApply"])
def test_simple_node_keeps_its_method(kind, name):
    after = upgraded({"1": {"class_type": kind, "inputs": {"method": name, "weight": -0.5}}})
    assert of_kind(after, SDXL_APPLY)[0] | links(*"11111") == applied(
        name, -0.5, 0.0, 1.0, **links(*"11111")
    )


@pytest.mark.parametrize("projection", ["ortho_v2", "ortho", "none"])
@pytest.mark.parametrize("kind", ["ApplyPulidAdvanced", "easy pulIDApplyADV"])
def test_advanced_node_becomes_custom(kind, projection):
    inputs = {"projection": projection, "fidelity": 32, "weight": 5, "noise": 0.0}
    after, message = prompts.upgrade({"1": {"class_type": kind, "inputs": inputs}})
    (found,) = of_kind(after, SDXL_APPLY)
    expected = applied("custom", 5.0, 0.0, 1.0, num_zero=32, projection=projection)
    assert {n: v for n, v in found.items() if not isinstance(v, list)} == expected
    assert "noise" not in message


@pytest.mark.parametrize(
    ("kind", "method", "zeros"),
    [("ApplyPulid", "fidelity", 20), ("ApplyPulidAdvanced", "custom", 8)],
)
def test_absent_values_are_those_of_the_old_node(kind, method, zeros):
    after = upgraded({"1": {"class_type": kind, "inputs": {}}})
    assert after["1"]["inputs"] == applied(method, 1.0, 0.0, 1.0, num_zero=zeros)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"noise": -0.2}, "noise -0.2: " + NO_NOISE),
        ({"noise": ["2", 0]}, "noise comes from a link: " + NO_NOISE),
        ({"projection": "sum"}, "projection 'sum': not kept, projection is 'ortho_v2'."),
        ({"projection": ["2", 0]}, None),
    ],
)
def test_what_is_lost_is_said(inputs, said):
    prompt = {"1": {"class_type": "ApplyPulidAdvanced", "inputs": inputs}}
    prompt["2"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 0.0}}
    _, message = prompts.upgrade(prompt)
    lines = [] if said is None else [f"ApplyPulidAdvanced (node 1): {said}"]
    assert [line for line in message.splitlines()[1:] if STRONGER not in line] == lines


def test_ids_that_differ_in_case_are_of_other_packs():
    names = ("PuLIDModelLoader", "PuLIDInsightFaceLoader", "PuLIDEVACLIPLoader", "ApplyPuLIDFlux2")
    prompt = {str(i): {"class_type": name, "inputs": {}} for i, name in enumerate(names)}
    assert prompts.upgrade(prompt) == (prompt, "")
    nodes = [{"id": i, "type": name, "widgets_values": []} for i, name in enumerate(names)]
    workflow = {"nodes": nodes, "links": []}
    assert files.prepare(workflow) == (workflow, "")


@pytest.mark.parametrize("absent", ["easy pulIDApply", "ApplyPulid"])
def test_easy_use_is_left_alone_where_it_can_run(monkeypatch, absent):
    """It is a wide-spread pack, and its node stops with an error where cubiq's pack is not."""
    import nodes as host

    for kind in ("easy pulIDApply", "easy pulIDApplyADV", "ApplyPulid", "ApplyPulidAdvanced"):
        monkeypatch.setitem(host.NODE_CLASS_MAPPINGS, kind, object)
    prompt = {"1": {"class_type": "easy pulIDApply", "inputs": {"pulid_file": V1}}}
    assert prompts.upgrade(prompt) == (prompt, "")
    monkeypatch.delitem(host.NODE_CLASS_MAPPINGS, absent)
    assert of_kind(upgraded(prompt), SDXL_MODEL) == [{"model_name": V1}]


def test_linked_file_of_easy_use_goes_to_its_loader():
    prompt = {"1": {"class_type": "easy pulIDApply", "inputs": {"pulid_file": ["2", 0]}}}
    prompt["2"] = {"class_type": "PrimitiveString", "inputs": {"value": V1}}
    assert of_kind(upgraded(prompt), SDXL_MODEL) == [{"model_name": ["2", 0]}]


def test_bypassed_easy_use_node_stays_so_with_its_loaders():
    workflow = sample("easy_use")
    workflow["nodes"][3]["mode"] = 4
    prepared, _ = files.prepare(workflow)
    modes = [(node["type"], node["mode"]) for node in prepared["nodes"][3:]]
    assert modes[0] == (SDXL_APPLY, 4)
    assert modes[1] == (SDXL_APPLY, 0)
    loaders = [mode for kind, mode in modes if kind in (SDXL_MODEL, EVA_CLIP, INSIGHT_FACE)]
    assert sorted(loaders) == [0, 0, 0, 4, 4, 4], "what is on needs loaders that are on"


def subgraph(**kinds: str) -> dict[str, Any]:
    """Return the file with an Apply in a subgraph, its older nodes exchanged for others."""
    text = (SAMPLES / "subgraph.json").read_text("utf-8")
    for old, new in kinds.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    return json.loads(text)


def test_inside_a_subgraph_the_same():
    names = {"PulidFluxModelLoader": "PulidModelLoader", "pulid_flux": "pulid"}
    names |= {"PulidFluxEvaClipLoader": "PulidEvaClipLoader", "ApplyPulidFlux": "ApplyPulid"}
    names |= {"PulidFluxInsightFaceLoader": "PulidInsightFaceLoader", "PULIDFLUX": "PULID"}
    workflow = subgraph(**names)
    (inside,) = workflow["definitions"]["subgraphs"]
    apply = next(node for node in inside["nodes"] if node["type"] == "ApplyPulid")
    apply["widgets_values"] = ["neutral", 0.65, 0.25, 0.75]
    apply["inputs"] = [socket for socket in apply["inputs"] if socket["name"] != "options"]
    prepared, _ = files.prepare(workflow)
    (inside,) = prepared["definitions"]["subgraphs"]
    assert {node["type"] for node in inside["nodes"]} == {SDXL_APPLY, EVA_CLIP, INSIGHT_FACE}
    (socket,) = [socket for socket in inside["inputs"] if socket["name"] == "pulid"]
    assert socket["type"] == "PULID_SDXL_MODEL"
    found = prompt_of(prepared)["12:30"]["inputs"]
    expected = applied("neutral", 0.65, 0.25, 0.75)
    assert {n: v for n, v in found.items() if not isinstance(v, list)} == expected
    assert found["pulid_model"] == ["20", 0]


def test_easy_use_in_a_subgraph_loads_there_and_shows_its_file():
    workflow = subgraph(ApplyPulidFlux="easy pulIDApply")
    (inside,) = workflow["definitions"]["subgraphs"]
    apply = next(node for node in inside["nodes"] if node["type"] == "easy pulIDApply")
    apply["widgets_values"] = [V1, "CUDA", "fidelity", 0.8, 0, 1]
    outer = next(node for node in workflow["nodes"] if node["id"] == 12)
    shown = [["30", "pulid_file"], ["30", "insightface"], ["30", "method"]]
    outer["properties"]["proxyWidgets"] = shown
    prepared, _ = files.prepare(workflow)
    (inside,) = prepared["definitions"]["subgraphs"]
    made = {node["type"]: node["id"] for node in inside["nodes"]}
    outer = next(node for node in prepared["nodes"] if node["id"] == 12)
    assert outer["properties"]["proxyWidgets"] == [
        [str(made[SDXL_MODEL]), "model_name"],
        [str(max(n["id"] for n in inside["nodes"])), "provider"],
        ["30", "method"],
    ]
    found = prompt_of(prepared)["12:30"]["inputs"]
    assert found["pulid_model"] == [f"12:{made[SDXL_MODEL]}", 0]


@pytest.mark.parametrize("kind", ["PulidModelLoaderMultiGPU", "PulidModelLoader"])
def test_loader_keeps_its_file_whatever_it_is_for(kind):
    flux = "pulid_flux_v0.9.1.safetensors"
    prompt = {"1": {"class_type": kind, "inputs": {"pulid_file": flux}}}
    prompt["2"] = {"class_type": "ApplyPulid", "inputs": {"pulid": ["1", 0]}}
    assert of_kind(upgraded(prompt), SDXL_MODEL) == [{"model_name": flux}]


class Analysis:
    """What another pack's loader says of itself to ComfyUI."""

    RETURN_TYPES = ("FACEANALYSIS",)


@pytest.mark.parametrize(
    ("kind", "values", "provider"),
    [
        ("InstantIDFaceAnalysis", {"provider": "CPU"}, "auto"),
        ("PulidInsightFaceLoader", {"provider": "CPU"}, "CPU"),
    ],
)
@pytest.mark.parametrize("user", ["ApplyPulid", "ApplyPulidFlux"])
def test_loader_of_an_installed_pack_gets_one_of_ours_beside_it(
    monkeypatch, user, kind, values, provider
):
    import nodes as host

    monkeypatch.setitem(host.NODE_CLASS_MAPPINGS, kind, Analysis)
    prompt = {
        "1": {"class_type": kind, "inputs": values},
        "2": {"class_type": "Reroute", "inputs": {"": ["1", 0]}},
        "3": {"class_type": user, "inputs": {"face_analysis": ["2", 0]}},
        "4": {"class_type": "ApplyInstantID", "inputs": {"insightface": ["1", 0]}},
    }
    after, message = prompts.upgrade(prompt)
    (made,) = [key for key, node in after.items() if node["class_type"] == INSIGHT_FACE]
    assert after[made]["inputs"] == face_loader(provider)
    assert after["3"]["inputs"]["face_analysis"] == [made, 0]
    assert (after["1"], after["4"]) == (prompt["1"], prompt["4"]), "another pack's own"
    assert "2" not in after
    said = f"{user} (node 3): face_analysis came from {kind} (node 1), whose models are for its own"
    assert said in message


class Anything(str):
    """How packs write a socket of any type: it equals every text."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


@pytest.mark.parametrize("kind", [Anything("*"), ["left", "right"], "MODEL"])
def test_switch_between_the_nodes_keeps_its_link(monkeypatch, kind):
    import nodes as host

    switch = type("Switch", (), {"RETURN_TYPES": (kind,)})
    monkeypatch.setitem(host.NODE_CLASS_MAPPINGS, "A Switch", switch)
    prompt = {"1": {"class_type": "PulidInsightFaceLoader", "inputs": {}}}
    prompt["2"] = {"class_type": "A Switch", "inputs": {"one": ["1", 0]}}
    prompt["3"] = {"class_type": "ApplyPulid", "inputs": {"face_analysis": ["2", 0]}}
    after = upgraded(prompt)
    assert after["3"]["inputs"]["face_analysis"] == ["2", 0]
    assert [node["class_type"] for node in after.values()] == [INSIGHT_FACE, "A Switch", SDXL_APPLY]


def prompt_for(file: str) -> dict[str, Any]:
    return {"1": {"class_type": "PulidModelLoader", "inputs": {"pulid_file": file}}}


def test_loader_takes_the_file_that_is_there_or_says_what_to_get(tmp_path, monkeypatch):
    there = {f"sdxl/{V1}": tmp_path / V1, "pulid_v1.1.safetensors": tmp_path / "other"}
    monkeypatch.setattr(folders, "files", lambda kind: there)
    (found,) = of_kind(upgraded(prompt_for(f"sdxl\\{V1}")), SDXL_MODEL)
    assert found == {"model_name": f"sdxl/{V1}"}, "saved on Windows"
    assert CLASSES[SDXL_MODEL].validate_inputs(**found) is True
    (found,) = of_kind(upgraded(prompt_for(V1)), SDXL_MODEL)
    assert found == {"model_name": V1}, "not exchanged for another in silence"
    said = CLASSES[SDXL_MODEL].validate_inputs(**found)
    assert said.startswith(f"PuLID-SDXL model '{V1}' was not found. There: pulid_v1.1.safetensors")
    assert "Wanted: pulid_v1.1.safetensors" in said
    assert "pulid_v1.bin" in said


def test_file_for_flux_in_the_old_loader_is_named(tmp_path, monkeypatch):
    flux = tmp_path / "pulid_flux_v0.9.1.safetensors"
    shapes = encoder_shapes(width=16, token_width=32, vit_width=8, id_cond_width=24)
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, flux)
    monkeypatch.setattr(folders, "files", lambda kind: {flux.name: flux})
    (found,) = of_kind(upgraded(prompt_for(flux.name)), SDXL_MODEL)
    with pytest.raises(ValueError, match=r"PuLID-FLUX \(use Load PuLID Model\)"):
        CLASSES[SDXL_MODEL].execute(**found)


def runnable(workflow: dict[str, Any], **everywhere: Any) -> dict[str, Any]:
    """Return a file's prompt with models and a photo that are there, small and quick."""
    prompt = prompt_of(workflow)
    width, height = SDXL_SIZE
    values = {"width": width, "height": height, "steps": 2, "ckpt_name": Path(BASE).name}
    values |= everywhere
    for node in prompt.values():
        inputs = node["inputs"]
        inputs |= {name: value for name, value in values.items() if name in inputs}
        if node["class_type"] == "LoadImage":
            inputs["image"] = "portrait.png"
        if node["class_type"] == "UNETLoader":
            inputs.setdefault("weight_dtype", "default")  # older files lack it; the page adds it
        if "1.1" in inputs.get("pulid_file", ""):
            inputs["pulid_file"] = Path(FILE_OF_V1_1).name
    return prompt


@pytest.mark.server
@pytest.mark.parametrize("path", samples(sdxl=True), ids=lambda path: path.stem)
def test_posted_as_it_is_it_runs_to_a_picture_with_the_identity(workshop, path):
    made = []
    for weight in ({}, {"weight": 0.0}):
        prompt = runnable(read(path), **weight)
        result = workshop.queue(prompt)
        made += shown(workshop, result, prompt)
    executed = workshop.get(f"/history/{result.prompt_id}")[result.prompt_id]["prompt"][2]
    assert of_kind(executed, SDXL_APPLY)
    assert not {node["class_type"] for node in executed.values()} & set(OLD)
    assert made[0].std(axis=(0, 1)).max() > 5, "one flat colour"
    assert np.abs(made[0].astype(int) - made[1]).mean() > 0.05, "the identity does nothing"


@pytest.mark.server
def test_posted_prompt_is_upgraded_and_names_the_missing_file(workshop):
    from pulid_client import PromptRefused

    prompt = runnable(sample("cubiq_fidelity"), pulid_file="mine/gone.safetensors")
    with pytest.raises(PromptRefused, match="PuLID-SDXL model 'mine/gone.safetensors' was not"):
        workshop.queue(prompt)
