"""What real files have between older nodes, and what cannot be kept: followed, or said by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from old_samples import SAMPLES, all_nodes, of_kind, old_prompt, read
from pulid_pack.nodes import folders
from pulid_pack.nodes.old_packs import files, prompts
from pulid_pack.nodes.old_packs.rows import APPLY, EVA_CLIP, INSIGHT_FACE, MODEL
from pulid_pack.nodes.old_packs.schemas import NewNode
from pulid_pack.nodes.old_packs.table import OLD

MUTED, BYPASSED = 2, 4
HEAD = "Nodes of older PuLID packs were replaced: "


@pytest.fixture(autouse=True, scope="module")
def known_folders():
    """Make the pack's folders known, as ComfyUI does when it loads the pack."""
    folders.register()


def file_of(prompt: dict[str, tuple[str, dict]], **modes: int) -> dict[str, Any]:
    """Return a small file: node id -> (type, inputs); lists are links, the rest values.

    A Reroute's only input is called "" there, a Set or Get node's value "name".
    """
    nodes, links = [], []
    for key, (kind, inputs) in prompt.items():
        sockets = []
        for place, (name, source) in enumerate(
            (n, v) for n, v in inputs.items() if isinstance(v, list)
        ):
            number = len(links) + 1
            links.append([number, int(source[0]), source[1], int(key), place, "*"])
            sockets.append({"name": name, "type": "*", "link": number})
        node = {"id": int(key), "type": kind, "pos": [0, 0], "mode": modes.get(f"n{key}", 0)}
        values = [v for v in inputs.values() if not isinstance(v, list)]
        nodes.append(node | {"inputs": sockets, "outputs": [], "widgets_values": values})
    for node in nodes:
        for slot in range(3):
            out = [x[0] for x in links if x[1:3] == [node["id"], slot]]
            node["outputs"].append({"name": str(slot), "type": "*", "links": out})
    return {"nodes": nodes, "links": links, "version": 0.4}


def apply_inputs(**more: Any) -> dict[str, Any]:
    links = {"model": ["1", 0], "pulid_flux": ["2", 0], "eva_clip": ["3", 0]}
    return links | {"face_analysis": ["4", 0], "image": ["5", 0]} | more


BASE = {
    "1": ("UNETLoader", {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"}),
    "2": ("PulidFluxModelLoader", {"pulid_file": "p.safetensors"}),
    "3": ("PulidFluxEvaClipLoader", {}),
    "4": ("PulidFluxInsightFaceLoader", {"provider": "CUDA"}),
    "5": ("LoadImage", {"image": "me.png"}),
}
CHOICE = {"input_faces_order": "left-right", "input_faces_index": 2}
OPTIONS = {"6": ("PulidFluxOptions", CHOICE)}
VALUES = {"weight": 0.8, "start_at": 0.1, "end_at": 0.9}


def with_apply(*more: dict[str, tuple[str, dict]], **links: Any) -> dict[str, tuple[str, dict]]:
    """Return the loaders, an Apply (node 9) with values and ``links``, and more nodes."""
    graph = BASE | {"9": ("ApplyPulidFlux", apply_inputs(**links) | VALUES)}
    for nodes in more:
        graph |= nodes
    return graph


def api(graph: dict[str, tuple[str, dict]]) -> dict[str, Any]:
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in graph.items()}


def applied(file: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the values of a file's Apply nodes by name."""
    names = NewNode(APPLY).widgets
    found = [node["widgets_values"] for node in all_nodes(file) if node["type"] == APPLY]
    return [dict(zip(names, values, strict=True)) for values in found]


def kinds(file: dict[str, Any]) -> set[str]:
    return {node["type"] for node in all_nodes(file)}


def source(file: dict[str, Any], node_type: str, name: str) -> tuple[str, int]:
    """Return type and output of what an input of the only node of a type comes from."""
    (node,) = [node for node in file["nodes"] if node["type"] == node_type]
    (number,) = [socket["link"] for socket in node["inputs"] if socket["name"] == name]
    (link,) = [link for link in file["links"] if link[0] == number]
    (origin,) = [node for node in file["nodes"] if node["id"] == link[1]]
    return origin["type"], link[2]


@pytest.mark.parametrize(
    "between",
    [
        {"8": ("Reroute", {"": ["6", 0]})},
        {"7": ("Reroute", {"": ["6", 0]}), "8": ("Reroute (rgthree)", {"": ["7", 0]})},
        {"7": ("SetNode", {"": ["6", 0], "name": "f"}), "8": ("GetNode", {"name": "f"})},
    ],
    ids=["reroute", "two", "set and get"],
)
def test_options_are_followed_through_what_hands_them_on(between):
    graph = with_apply(OPTIONS, between, options=["8", 0])
    after, message = files.prepare(file_of(graph))
    assert "\n" not in message, "all was kept"
    (found,) = applied(after)
    assert (found["face"], found["face_index"]) == ("leftmost", 2)
    assert (found["weight"], found["start_at"], found["end_at"]) == (0.8, 0.1, 0.9)
    assert kinds(after) == {"UNETLoader", "LoadImage", APPLY, MODEL, EVA_CLIP, INSIGHT_FACE}


def test_split_loader_reaches_through_reroutes_past_them():
    graph = {
        "1": BASE["1"],
        "2": (
            "NunchakuPuLIDLoaderV2",
            {
                "model": ["7", 0],
                "pulid_file": "p.safetensors",
                "eva_clip_file": "eva.pt",
                "insight_face_provider": "cpu",
            },
        ),
        "5": BASE["5"],
        "6": ("Reroute", {"": ["2", 0]}),
        "7": ("Reroute", {"": ["1", 0]}),
        "8": ("Reroute", {"": ["2", 1]}),
        "9": (
            "NunchakuFluxPuLIDApplyV2",
            {
                "model": ["6", 0],
                "pulid_pipline": ["8", 0],
                "image": ["5", 0],
                "weight": 0.9,
                "start_at": 0.0,
                "end_at": 1.0,
            },
        ),
    }
    after, message = files.prepare(file_of(graph))
    assert "\n" not in message
    for name, kind in (
        ("pulid_model", MODEL),
        ("eva_clip", EVA_CLIP),
        ("face_analysis", INSIGHT_FACE),
    ):
        assert source(after, APPLY, name) == (kind, 0)
    assert source(after, APPLY, "model") == ("Reroute", 0)
    assert [node["id"] for node in after["nodes"] if node["type"] == "Reroute"] == [6, 7]
    (eva,) = [node for node in after["nodes"] if node["type"] == EVA_CLIP]
    (faces,) = [node for node in after["nodes"] if node["type"] == INSIGHT_FACE]
    assert eva["widgets_values"] == ["eva.pt"]
    assert faces["widgets_values"][:2] == ["antelopev2", "CPU"]
    prompt, _ = prompts.upgrade(api(graph))
    (inputs,) = of_kind(prompt, APPLY)
    assert prompt[inputs["eva_clip"][0]] == {
        "class_type": EVA_CLIP,
        "inputs": {"model_name": "eva.pt"},
        "_meta": {"title": "Load EVA-CLIP"},
    }


@pytest.mark.parametrize("where", ["file", "prompt"])
def test_circle_of_reroutes_leads_nowhere(where):
    circle = {"7": ("Reroute", {"": ["8", 0]}), "8": ("Reroute", {"": ["7", 0]})}
    graph = with_apply(circle, options=["8", 0])
    if where == "file":
        after, _ = files.prepare(file_of(graph))
        (found,) = applied(after)
    else:
        after, _ = prompts.upgrade(api(graph))
        (found,) = of_kind(after, APPLY)
    assert (found["face"], found["face_index"]) == ("largest", 0)


def test_circle_of_pass_through_nodes_is_cut():
    graph = {
        "1": ("FixPulidFluxPatch", {"model": ["2", 0]}),
        "2": ("FixPulidFluxPatch", {"model": ["1", 0]}),
    }
    graph |= {"3": ("KSampler", {"model": ["2", 0], "seed": 1})}
    after, _ = prompts.upgrade(api(graph))
    assert after == {"3": {"class_type": "KSampler", "inputs": {"seed": 1}}}


def test_what_cannot_be_followed_stays_and_says_so():
    switch = {"7": ("Any Switch (rgthree)", {"any_01": ["6", 0]})}
    graph = with_apply(OPTIONS, switch, options=["7", 0])
    after, message = files.prepare(file_of(graph))
    assert {"ApplyPulidFlux", "PulidFluxOptions"} <= kinds(after)
    assert (
        "ApplyPulidFlux (node 9): its input options comes from Any Switch (rgthree) (node 7)"
        in message
    )
    assert "PulidFluxOptions (node 6): " in message
    assert source(after, "ApplyPulidFlux", "options") == ("Any Switch (rgthree)", 0)
    prompt, message = prompts.upgrade(api(graph))
    assert prompt["9"]["class_type"] == "ApplyPulidFlux"
    assert prompt["9"]["inputs"]["options"] == ["7", 0]
    assert "behind which nothing can be followed" in prompt["9"]["_meta"]["title"]
    assert "ApplyPulidFlux (node 9): " in message
    assert all(len(node["inputs"]) for node in prompt.values() if node["class_type"] == MODEL)


@pytest.mark.parametrize("mode", [MUTED, BYPASSED])
def test_options_that_are_off_are_not_applied(mode):
    graph = with_apply(OPTIONS, options=["6", 0])
    after, message = files.prepare(file_of(graph, n6=mode))
    (found,) = applied(after)
    assert (found["face"], found["face_index"]) == ("largest", 0)
    assert message.splitlines()[1:] == [
        "PulidFluxOptions (node 6): it was off, and its settings are left out."
    ]
    on, message = files.prepare(file_of(graph))
    assert applied(on)[0]["face"] == "leftmost"
    assert len(message.splitlines()) == 1


def test_apply_that_is_off_stays_off_and_keeps_its_choice():
    graph = with_apply(OPTIONS, options=["6", 0])
    after, _ = files.prepare(file_of(graph, n9=BYPASSED))
    (node,) = [node for node in after["nodes"] if node["type"] == APPLY]
    assert node["mode"] == BYPASSED
    assert applied(after)[0]["face"] == "leftmost"


def test_weight_from_a_link_stays_a_link():
    primitive = {"8": ("PrimitiveFloat", {"value": 0.55})}
    linked = apply_inputs(weight=["8", 0])
    file = file_of(BASE | primitive | {"9": ("ApplyPulidFlux", linked)})
    file["nodes"][-1]["widgets_values"] = [0.8, 0.1, 0.9]
    after, message = files.prepare(file)
    assert "\n" not in message
    assert source(after, APPLY, "weight") == ("PrimitiveFloat", 0)
    assert applied(after)[0]["weight"] == 0.8, "the widget below the link"
    prompt, _ = prompts.upgrade(api(BASE | primitive | {"9": ("ApplyPulidFlux", linked)}))
    assert of_kind(prompt, APPLY)[0]["weight"] == ["8", 0]


def test_linked_index_of_the_options_moves_with_them_and_a_linked_word_is_named():
    more = {"8": ("PrimitiveInt", {"value": 3}), "7": ("StringConstant", {"string": "left-right"})}
    chosen = {
        "6": ("PulidFluxOptions", {"input_faces_order": ["7", 0], "input_faces_index": ["8", 0]})
    }
    two = {key: ("ApplyPulidFlux", apply_inputs(options=["6", 0]) | VALUES) for key in ("9", "10")}
    prompt, message = prompts.upgrade(api(BASE | more | chosen | two))
    assert [inputs["face_index"] for inputs in of_kind(prompt, APPLY)] == [["8", 0], ["8", 0]]
    assert [inputs["face"] for inputs in of_kind(prompt, APPLY)] == ["largest", "largest"]
    assert message.splitlines()[1:] == [
        "PulidFluxOptions (node 6): input_faces_order comes from a link; set face by hand."
    ]
    after, _ = files.prepare(file_of(BASE | more | chosen | two))
    (primitive,) = [node for node in after["nodes"] if node["type"] == "PrimitiveInt"]
    assert len(set(primitive["outputs"][0]["links"])) == 2
    targets = [x[3] for x in after["links"] if x[1] == 8]
    assert sorted(targets) == [9, 10]


def test_inside_a_subgraph_the_same():
    workflow = read(SAMPLES / "subgraph.json")
    after, message = files.prepare(workflow)
    assert "\n" not in message
    (inside,) = after["definitions"]["subgraphs"]
    assert {node["type"] for node in inside["nodes"]} == {APPLY, EVA_CLIP, INSIGHT_FACE}
    (found,) = applied(after)
    values = (
        found["face"],
        found["face_index"],
        found["weight"],
        found["start_at"],
        found["end_at"],
    )
    assert values == ("rightmost", 0, 0.8, 0.1, 0.9), "the options lie outside"
    kept = {socket["name"]: (socket["type"], socket["linkIds"]) for socket in inside["inputs"]}
    assert kept["pulid_flux"] == ("PULID_FLUX_MODEL", [2])
    assert kept["options"][1] == []


def test_nunchaku_over_the_edge_of_a_subgraph_gets_its_loaders_inside():
    workflow = read(SAMPLES / "subgraph.json")
    (inside,) = workflow["definitions"]["subgraphs"]
    apply = next(node for node in inside["nodes"] if node["type"] == "ApplyPulidFlux")
    apply["type"] = "NunchakuFluxPuLIDApplyV2"
    apply["inputs"][1]["name"] = "pulid_pipline"
    loader = next(node for node in workflow["nodes"] if node["type"] == "PulidFluxModelLoader")
    loader.update(type="NunchakuPuLIDLoaderV2", widgets_values=["p.safetensors", "eva.pt", "gpu"])
    loader["outputs"].insert(0, {"name": "MODEL", "type": "MODEL", "links": []})
    for link in workflow["links"]:
        if link[1] == loader["id"]:
            link[2] = 1
    after, _ = files.prepare(workflow)
    (inside,) = after["definitions"]["subgraphs"]
    made = {node["type"]: node["widgets_values"] for node in inside["nodes"]}
    assert made[MODEL] == ["p.safetensors"]
    assert made[EVA_CLIP] == ["eva.pt"]
    assert made[INSIGHT_FACE][:2] == ["antelopev2", "auto"]
    assert MODEL not in {node["type"] for node in after["nodes"]}
    ids = [node["id"] for node in all_nodes(after)]
    assert len(ids) == len(set(ids))


def test_a_subgraph_used_twice_with_other_options_is_not_guessed():
    workflow = read(SAMPLES / "subgraph.json")
    again = json.loads(json.dumps(next(n for n in workflow["nodes"] if n["id"] == 12))) | {"id": 13}
    other = next(n for n in workflow["nodes"] if n["type"] == "PulidFluxOptions")
    other = json.loads(json.dumps(other)) | {"id": 24, "widgets_values": ["left-right", 1, 1]}
    other["outputs"][0]["links"] = [90]
    for socket in again["inputs"]:
        socket["link"] = 90 if socket["name"] == "options" else None
    workflow["nodes"] += [again, other]
    workflow["links"].append([90, 24, 0, 13, 3, "OPTIONS"])
    after, message = files.prepare(workflow)
    assert "ApplyPulidFlux" in kinds(after)
    assert "ApplyPulidFlux (node 30 in subgraph " in message
    other["widgets_values"] = ["right-left", 0, 1]
    after, message = files.prepare(workflow)
    assert "\n" not in message, "both say the same"
    assert not kinds(after) & set(OLD)


def test_prompt_ids_of_a_subgraph_find_their_values_in_the_file():
    workflow = read(SAMPLES / "subgraph.json")
    whole = old_prompt(workflow)
    assert {"12:30", "12:22", "12:21"} <= set(whole)
    bare = json.loads(json.dumps(whole))
    for key in ("12:30", "12:22"):
        inputs = bare[key]["inputs"]
        bare[key]["inputs"] = {n: v for n, v in inputs.items() if isinstance(v, list)}
    upgraded, _ = prompts.upgrade(bare, workflow)
    assert upgraded == prompts.upgrade(whole)[0]
    assert upgraded["12:30"]["inputs"]["weight"] == 0.8
    assert upgraded["12:22"]["inputs"]["provider"] == "CPU"


def test_shown_widgets_of_a_subgraph_are_renamed():
    workflow = read(SAMPLES / "subgraph.json")
    node = next(n for n in workflow["nodes"] if n["id"] == 12)
    node["properties"]["proxyWidgets"] = [["30", "use_gray"], ["30", "weight"], ["-1", "x"]]
    after, _ = files.prepare(workflow)
    node = next(n for n in after["nodes"] if n["id"] == 12)
    assert node["properties"]["proxyWidgets"] == [
        ["30", "grayscale"],
        ["30", "weight"],
        ["-1", "x"],
    ]


@pytest.mark.parametrize("stored", [None, [], {}])
def test_absent_values_are_the_usual_ones(stored):
    file = file_of(BASE | {"9": ("ApplyPulidFlux", apply_inputs())})
    file["nodes"][-1]["widgets_values"] = stored
    for node in file["nodes"]:
        node["pos"] = {"0": 3, "1": 4}
        if not node["inputs"]:
            del node["inputs"]
    after, message = files.prepare(file)
    assert "\n" not in message
    usual = dict.fromkeys(
        ("fusion_weight_max", "weight", "end_at", "double_weight", "single_weight"), 1.0
    )
    usual |= {"start_at": 0.0, "fusion_weight_min": 0.0, "start_step": -1, "end_step": -1}
    usual |= {"face": "largest", "face_index": 0, "fusion": "mean", "on_no_face": "skip"}
    usual |= {"unconditional": "same identity", "weight_curve": "constant", "train_step": 1000}
    usual |= {"region": "whole picture", "region_box": "25, 0, 50, 100", "face_points": ""}
    assert applied(after) == [usual | {"grayscale": True}]


def test_values_as_an_object_and_links_as_objects():
    file = file_of(BASE | {"9": ("ApplyPulidFlux", apply_inputs())})
    file["nodes"][-1]["widgets_values"] = {"weight": 0.4, "use_gray": False}
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    file["links"] = [dict(zip(names, link, strict=True)) for link in file["links"]]
    file["links"][0]["parentId"] = 5
    after, _ = files.prepare(file)
    (found,) = applied(after)
    assert (found["weight"], found["grayscale"]) == (0.4, False)
    assert after["links"][0] == {**file["links"][0], "type": "MODEL"}


@pytest.mark.parametrize(
    ("kind", "name", "value", "said", "new"),
    [
        ("ApplyPulidFlux", "weight", "much", "weight 'much': not kept, weight is 1.0", 1.0),
        ("ApplyPulidFlux", "weight", 9, "weight 9: not kept, weight is 5.0", 5.0),
        ("ApplyPulidFlux", "fusion", "sum", "fusion 'sum': not kept, fusion is 'mean'", "mean"),
        ("GRApplyPulidFlux", "blur", 0.5, "blur 0.5: not kept, nothing is blurred here", None),
        (
            "PulidFluxModelLoaderMultiGPU",
            "device",
            "cuda:1",
            "device 'cuda:1': not kept, ComfyUI",
            None,
        ),
        (
            "PulidFluxFaceNetLoader",
            "provider",
            "CUDA",
            "there is no FaceNet here; Load InsightFace",
            None,
        ),
        ("NunchakuFluxPuLIDApplyV2", "start_at", 0.2, "start_at 0.2: kept, but nunchaku", 0.2),
    ],
)
def test_what_is_lost_is_said_with_node_and_value(kind, name, value, said, new):
    after, message = prompts.upgrade({"7": {"class_type": kind, "inputs": {name: value}}})
    lines = [line for line in message.splitlines()[1:] if said in line]
    assert len(lines) == 1, message
    assert lines[0].startswith(f"{kind} (node 7): ")
    if new is not None:
        assert after["7"]["inputs"][name] == new


def test_lost_choice_of_the_options_is_said():
    chosen = {"6": ("PulidFluxOptions", CHOICE | {"input_faces_align_mode": 0})}
    _, message = prompts.upgrade(api(with_apply(chosen, options=["6", 0])))
    lost = "PulidFluxOptions (node 6): input_faces_align_mode 0: not kept, one face drives both"
    assert message.splitlines()[1].startswith(lost)


def test_nodes_of_other_packs_are_exchanged_beside_ours_alone():
    graph = BASE | {"4": ("PulidInsightFaceLoaderMultiGPU", {"provider": "CUDA", "device": "cpu"})}
    beside = graph | {"9": ("ApplyPulidFlux", apply_inputs() | VALUES)}
    after, _ = prompts.upgrade(api(beside))
    assert after["4"]["class_type"] == INSIGHT_FACE
    alone = {"4": graph["4"], "6": ("ApplyInstantID", {"insightface": ["4", 0]})}
    assert prompts.upgrade(api(alone)) == (api(alone), ""), "no business of ours"


def test_first_nodes_of_nunchaku():
    graph = {
        "1": BASE["1"],
        "2": ("NunchakuPulidLoader", {"model": ["1", 0]}),
        "5": BASE["5"],
        "9": (
            "NunchakuPulidApply",
            {"pulid": ["2", 1], "image": ["5", 0], "model": ["2", 0], "ip_weight": 0.9},
        ),
    }
    for after in (prompts.upgrade(api(graph))[0], old_prompt(files.prepare(file_of(graph))[0])):
        (inputs,) = of_kind(after, APPLY)
        assert (inputs["weight"], inputs["model"], inputs["image"]) == (0.9, ["1", 0], ["5", 0])
        classes = [
            after[inputs[n][0]]["class_type"] for n in ("pulid_model", "eva_clip", "face_analysis")
        ]
        assert classes == [MODEL, EVA_CLIP, INSIGHT_FACE]


def test_one_message_in_the_log(caplog):
    graph = api(BASE | {"9": ("ApplyPulidFlux", apply_inputs(weight=9))})
    with caplog.at_level("INFO", logger=prompts.log.name):
        prompts.on_prompt({"prompt": graph})
    (record,) = caplog.records
    assert record.getMessage().startswith(HEAD)
    assert "ApplyPulidFlux (node 9): weight 9" in record.getMessage()
    assert record.levelname == "WARNING"
