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
    assert set(loads) == {HELD_PLACE}
    assert (host.path / "input" / HELD_PLACE).is_file()
    workflow = json.loads((WORKFLOWS / file.name).read_text("utf-8"))
    (note,) = [n["widgets_values"][0] for n in workflow["nodes"] if n["type"] == "MarkdownNote"]
    assert f"**{HELD_PLACE}**" in note and "choose your own before you run" in note
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
    two = read_shipped("flux_pulid_two_people")
    regions = [n["inputs"]["region"] for n in two.values() if n["class_type"] == "PuLIDFluxApply"]
    assert sorted(regions) == ["left half", "right half"]
