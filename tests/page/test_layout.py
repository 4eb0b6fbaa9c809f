"""Shipped workflows as files: tidy, their pictures are there, their settings as the notes say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image
from places import ROOT, WORKFLOWS
from standins.server import node_of
from standins.workshop import read_shipped

FILES = sorted((WORKFLOWS / "api").glob("*.json"))
TITLE_BAR = 30
WITHOUT_PHOTO = "sdxl_pulid_from_identity"
HELD_PLACE = "example.png"  # a drawing that every ComfyUI comes with


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_layout_is_tidy(file):
    workflow = json.loads((WORKFLOWS / file.name).read_text("utf-8"))
    boxes = {node["id"]: box(node) for node in workflow["nodes"]}
    for a in boxes:
        assert not [b for b in boxes if a < b and meet(boxes[a], boxes[b])], "overlapping nodes"
    groups = [tuple(group["bounding"]) for group in workflow["groups"]]
    for i, a in enumerate(groups):
        assert not any(meet(a, b) for b in groups[:i]), "overlapping groups"
    notes = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert notes
    for node in workflow["nodes"]:
        if node not in notes:
            assert any(within(boxes[node["id"]], group) for group in groups), node["type"]
    column = {node["id"]: node["pos"][0] for node in workflow["nodes"]}
    backward = [link for link in workflow["links"] if column[link[1]] > column[link[3]] + 850]
    assert not backward, "links from right to left"


def box(node: dict[str, Any]) -> tuple[float, ...]:
    """Return left, top, width, height of a node with its title bar."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_BAR, width, height + TITLE_BAR


def meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Return whether two boxes overlap."""
    return all(a[i] < b[i] + b[i + 2] and b[i] < a[i] + a[i + 2] for i in (0, 1))


def within(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Return whether box ``a`` lies in box ``b``."""
    return all(b[i] <= a[i] and a[i] + a[i + 2] <= b[i] + b[i + 2] for i in (0, 1))


def test_picture_carries_its_workflow():
    path = WORKFLOWS / "flux_pulid_basic.png"
    assert path.stat().st_size < 300_000
    info = Image.open(path).info
    stored = json.loads((WORKFLOWS / "flux_pulid_basic.json").read_text("utf-8"))
    assert json.loads(info["workflow"]) == stored
    assert json.loads(info["prompt"]) == read_shipped("flux_pulid_basic")


@pytest.mark.parametrize("file", sorted((ROOT / "subgraphs").glob("*.json")), ids=lambda f: f.stem)
def test_blueprint_holds_together(file):
    blueprint = json.loads(file.read_text("utf-8"))
    (instance,) = blueprint["nodes"]
    (graph,) = blueprint["definitions"]["subgraphs"]
    assert instance["type"] == graph["id"]
    assert graph["name"] == file.stem
    assert [s["name"] for s in instance["inputs"]] == [s["name"] for s in graph["inputs"]]
    assert [s["name"] for s in instance["outputs"]] == [s["name"] for s in graph["outputs"]]
    nodes = {node["id"]: node for node in graph["nodes"]}
    for link in graph["links"]:
        if link["origin_id"] == -10:
            assert link["id"] in graph["inputs"][link["origin_slot"]]["linkIds"]
        else:
            assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        if link["target_id"] == -20:
            assert link["id"] in graph["outputs"][link["target_slot"]]["linkIds"]
        else:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
    for node, widget in instance["properties"]["proxyWidgets"]:
        names = [s["widget"]["name"] for s in nodes[int(node)]["inputs"] if "widget" in s]
        assert widget in names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_pictures_are_there_on_a_fresh_install_and_the_note_says_to_choose(host, file):
    prompt = read_shipped(file.stem)
    loads = [n["inputs"]["image"] for n in prompt.values() if n["class_type"] == "LoadImage"]
    assert set(loads) <= {HELD_PLACE}
    assert (host.path / "input" / HELD_PLACE).is_file()
    workflow = json.loads((WORKFLOWS / file.name).read_text("utf-8"))
    (note,) = [n["widgets_values"][0] for n in workflow["nodes"] if n["type"] == "MarkdownNote"]
    said = f"**{HELD_PLACE}**" in note and "choose your own before you run" in note
    assert said or file.stem == WITHOUT_PHOTO and not loads
    assert "`" not in note, "the Vue renderer's colour for code is dark blue"


def test_settings_are_what_the_notes_say():
    stylised = read_shipped("flux_pulid_stylised_true_cfg")
    apply = stylised[node_of(stylised, "PuLIDFluxApply")]["inputs"]
    assert (apply["start_at"], apply["unconditional"]) == (0.0, "zero identity")
    assert stylised[node_of(stylised, "KSampler")]["inputs"]["cfg"] > 1
    assert stylised[node_of(stylised, "FluxGuidance")]["inputs"]["guidance"] == 1.0
    low = read_shipped("flux_pulid_low_memory")
    assert low[node_of(low, "UNETLoader")]["inputs"]["weight_dtype"] == "fp8_e4m3fn"
    assert low[node_of(low, "PuLIDFluxLoadInsightFace")]["inputs"]["provider"] == "CPU"
    for two in (read_shipped("flux_pulid_two_people"), read_shipped("sdxl_pulid_two_people")):
        applies = [n["inputs"] for n in two.values() if n["class_type"].endswith("Apply")]
        assert sorted(apply["region"] for apply in applies) == ["left half", "right half"]


# the authors' demos of v1 and v1.1: sampler, identity, size
AUTHORS = {
    "sdxl_pulid_lightning": (
        {"steps": 4, "cfg": 1.2, "sampler_name": "dpmpp_2m", "scheduler": "simple"},
        {"method": "fidelity", "weight": 0.8, "start_at": 0.0, "end_at": 1.0},
        (768, 1024),
        "pulid_v1.bin",
    ),
    "sdxl_pulid_style": (
        {"steps": 4, "cfg": 1.2, "sampler_name": "dpmpp_2m", "scheduler": "simple"},
        {"method": "style", "weight": 0.8, "start_at": 0.0, "end_at": 1.0},
        (768, 1024),
        "pulid_v1.bin",
    ),
    "sdxl_pulid_basic": (
        {"steps": 25, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
        {"method": "custom", "num_zero": 20, "projection": "ortho_v2", "weight": 0.8},
        (896, 1152),
        "pulid_v1.1.safetensors",
    ),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_settings_are_those_of_the_authors_demos(name):
    prompt, (sampling, identity, size, file) = read_shipped(name), AUTHORS[name]

    def inputs(kind: str) -> dict[str, Any]:
        return prompt[node_of(prompt, kind)]["inputs"]

    assert sampling.items() <= inputs("KSampler").items()
    assert identity.items() <= inputs("PuLIDSDXLApply").items()
    assert (inputs("EmptyLatentImage")["width"], inputs("EmptyLatentImage")["height"]) == size
    assert inputs("PuLIDSDXLLoadModel")["model_name"] == file


AVATAR = {  # the parameters of the public infer_pulid task: title -> input, value
    "Steps": ("value", 4),
    "Guidance": ("value", 1.2),
    "ID guidance": ("value", 0.8),
    "Seed": ("value", 42),
    "Width": ("value", 1024),
    "Height": ("value", 1024),
    "Number of images": ("value", 1),
    "Mode": ("method", "fidelity"),
    "ID mix": ("fusion", "first-five"),
}


def test_avatar_takes_each_parameter_in_a_node_of_that_title():
    prompt = read_shipped("sdxl_pulid_avatar")
    titled = {node["_meta"]["title"]: node["inputs"] for node in prompt.values()}
    for title, (name, value) in AVATAR.items():
        assert titled[title][name] == value
    assert titled["Prompt"]["value"] and titled["Negative prompt"]["value"]
    titles = {key: node["_meta"]["title"] for key, node in prompt.items()}
    sampler = prompt[node_of(prompt, "KSampler")]["inputs"]
    linked = {name: titles[sampler[name][0]] for name in ("seed", "steps", "cfg")}
    assert linked == {"seed": "Seed", "steps": "Steps", "cfg": "Guidance"}
    assert titles[titled["Mode"]["weight"][0]] == "ID guidance"
    latent = prompt[node_of(prompt, "EmptyLatentImage")]["inputs"]
    linked = {name: titles[value[0]] for name, value in latent.items()}
    assert linked == {"width": "Width", "height": "Height", "batch_size": "Number of images"}


def test_comfyui_finds_templates_in_one_folder():
    """With two of these names in a pack, it serves the files of one and lists those of both."""
    names = ("example_workflows", "example", "examples", "workflow", "workflows")
    assert [name for name in names if (ROOT / name).is_dir()] == ["workflows"]
