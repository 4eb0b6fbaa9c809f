"""Workflows of older PuLID-FLUX packs: every value and link kept, and they run to a picture."""

from __future__ import annotations

import copy
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from old_samples import (
    CASES,
    SAMPLES,
    all_nodes,
    of_kind,
    old_prompt,
    read,
    samples,
    smaller,
    stand_in,
)
from PIL import Image
from places import ROOT, WORKFLOWS
from pulid_pack.nodes import folders
from pulid_pack.nodes.old_packs import files as old_files
from pulid_pack.nodes.old_packs import prompts as old_prompts
from pulid_pack.nodes.old_packs.flux_rows import GR_FACES
from pulid_pack.nodes.old_packs.graph import GETS, REROUTES, SETS
from pulid_pack.nodes.old_packs.rows import APPLY, ENCODE, EVA_CLIP, INSIGHT_FACE, MODEL, PARTS
from pulid_pack.nodes.old_packs.schemas import CLASSES, NewNode, same_file
from pulid_pack.nodes.old_packs.table import OLD, TABLE

FACES = {"left-right": "leftmost", "right-left": "rightmost", "small-large": "smallest"}
FACES |= {"top-bottom": "topmost", "bottom-top": "bottommost", "large-small": "largest"}
APPLIES = [row.id for row in TABLE if row.new_id == APPLY]
USUAL = {"fusion_weight_max": 1.0, "fusion_weight_min": 0.0, "train_step": 1000}
PUBLIC = ("01", "02", "03", "04", "05", "06", "07", "16", "18")
LOADED = ("pulid_file", "ipadapter_name")


@pytest.fixture(autouse=True, scope="module")
def known_folders():
    """Make the pack's folders known, as ComfyUI does when it loads the pack."""
    folders.register()


def upgrade(prompt: dict[str, Any]) -> dict[str, Any]:
    """Return an upgraded prompt."""
    return old_prompts.upgrade(prompt)[0]


def named(prompt: dict[str, Any]) -> dict[str, Any]:
    """Return a prompt's nodes by id, links to added loaders by the loader's class and inputs.

    A file and its prompt give these other numbers.
    """

    loaders = set(PARTS.values())

    def source(value: Any) -> Any:
        node = prompt.get(value[0]) if isinstance(value, list) else None
        added = node and node["class_type"] in loaders
        return [node["class_type"], node["inputs"], value[1]] if added else value

    return {
        key: (node["class_type"], {n: source(v) for n, v in node["inputs"].items()})
        for key, node in prompt.items()
        if node["class_type"] not in loaders
    }


def assert_kept(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Compare what was asked of the old nodes with what is asked of the new."""
    assert not {node["class_type"] for node in after.values()} & set(OLD)
    old_ones = {key: node for key, node in before.items() if node["class_type"] in APPLIES}
    assert old_ones
    for key, node in old_ones.items():
        old, new = node["inputs"], after[key]["inputs"]
        assert after[key]["class_type"] == APPLY
        assert new["weight"] == old.get("weight", old.get("ip_weight", 1.0))
        for name, usual in (("start_at", 0.0), ("end_at", 1.0)):
            assert new[name] == old.get(name, usual), name
        for name in ("image", "attn_mask", "prior_image"):
            assert new.get(name) == old.get(name), name
        for name, usual in USUAL.items():
            assert new[name] == old.get(name, usual), name
        assert new["fusion"] == old.get("fusion", "mean")
        assert new["grayscale"] is old.get("use_gray", True)
        assert (new["unconditional"], new["on_no_face"]) == ("same identity", "skip")
        options = before[old["options"][0]]["inputs"] if "options" in old else {}
        face = GR_FACES.get(old.get("face_select"), "largest")
        assert new["face"] == FACES.get(options.get("input_faces_order"), face)
        assert new["face_index"] == options.get("input_faces_index", 0)
        for name, kind in PARTS.items():
            assert after[new[name][0]]["class_type"] == kind
            assert new[name][1] == 0
        assert after[new["model"][0]]["class_type"] in ("UNETLoader", APPLY)
    for node in after.values():
        for value in node["inputs"].values():
            assert not isinstance(value, list) or value[0] in after, "a link to nothing"
    for faces in of_kind(after, INSIGHT_FACE):
        assert (faces["model_pack"], faces["provider"] in ("auto", "CPU")) == ("antelopev2", True)


@pytest.mark.parametrize("path", samples(), ids=lambda path: path.stem)
def test_prompt_keeps_every_value_and_link(path):
    before = old_prompt(read(path))
    given = copy.deepcopy(before)
    after = upgrade(before)
    assert before == given, "the prompt given was changed"
    assert_kept(before, after)
    wanted = [v for n in before.values() for k, v in n["inputs"].items() if k in LOADED]
    found = [inputs["model_name"] for inputs in of_kind(after, MODEL)]
    assert found == (wanted or ["pulid_flux_v0.9.1.safetensors"])


@pytest.mark.parametrize("path", samples(), ids=lambda path: path.stem)
def test_file_and_prompt_are_upgraded_alike(path):
    workflow = stand_in(read(path))
    given = copy.deepcopy(workflow)
    prepared, message = old_files.prepare(workflow)
    assert workflow == given, "the file given was changed"
    assert not {node["type"] for node in all_nodes(prepared)} & set(OLD)
    assert message.startswith("Nodes of older PuLID packs were replaced: ")
    assert_links_hold(prepared)
    for subgraph in prepared.get("definitions", {}).get("subgraphs", []):
        assert_links_hold(subgraph)
    from_prompt = upgrade(old_prompt(workflow))
    assert named(old_prompt(prepared)) == named(from_prompt)


@pytest.mark.parametrize("path", samples(), ids=lambda path: path.stem)
def test_values_come_from_the_file_where_the_page_left_them_out(path):
    workflow = read(path)
    whole = old_prompt(workflow)
    bare = copy.deepcopy(whole)
    for node in bare.values():
        if node["class_type"] in OLD:
            links = {k: v for k, v in node["inputs"].items() if isinstance(v, list)}
            node["inputs"] = links
    stand_in(workflow)
    info = {"extra_pnginfo": {"workflow": workflow}}
    after = old_prompts.on_prompt({"prompt": bare, "extra_data": info})["prompt"]
    assert after == upgrade(whole)


def assert_links_hold(graph: dict[str, Any]) -> None:
    """Compare the three places in which a file keeps a link."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    numbers, inside = set(), "inputNode" in graph
    for link in graph["links"]:
        number, source, slot, target, place, kind = link.values() if inside else link
        numbers.add(number)
        if source == -10:
            assert number in graph["inputs"][slot]["linkIds"]
        else:
            assert number in nodes[source]["outputs"][slot]["links"]
        if target == -20:
            assert number in graph["outputs"][place]["linkIds"]
            continue
        socket = nodes[target]["inputs"][place]
        assert socket["link"] == number
        if nodes[target]["type"] in CLASSES:
            assert socket["type"] == kind
    for node in nodes.values():
        assert {s["link"] for s in node.get("inputs", []) if s["link"] is not None} <= numbers
        for output in node["outputs"]:
            assert set(output["links"] or []) <= numbers
    for side in ("inputs", "outputs") if inside else ():
        assert {n for socket in graph[side] for n in socket["linkIds"]} <= numbers


def test_exchanged_node_has_the_sockets_that_the_page_gives_it():
    fresh = json.loads((WORKFLOWS / "flux_pulid_basic.json").read_text("utf-8"))
    prepared, _ = old_files.prepare(read(SAMPLES / "balazik.json"))
    for kind in (APPLY, MODEL, EVA_CLIP, INSIGHT_FACE):
        (ours,) = [node for node in fresh["nodes"] if node["type"] == kind]
        (exchanged,) = [node for node in prepared["nodes"] if node["type"] == kind]
        for side, links in (("inputs", "link"), ("outputs", "links")):
            bare = [[{**s, links: None} for s in node[side]] for node in (ours, exchanged)]
            assert bare[0] == bare[1]
        assert len(ours["widgets_values"]) == len(exchanged["widgets_values"])
        assert exchanged["properties"]["Node name for S&R"] == kind


def test_place_title_and_colour_stay():
    workflow = read(SAMPLES / "balazik.json")
    apply = next(node for node in workflow["nodes"] if node["type"] == "ApplyPulidFlux")
    own = {"title": "Anna", "color": "#223", "pos": [7, 9], "size": [400, 300], "mode": 4}
    apply.update(own, properties={"cnr_id": "somebody", "aux_id": "x/y", "ver": "1", "mine": 5})
    prepared, _ = old_files.prepare(workflow)
    (new,) = [node for node in prepared["nodes"] if node["type"] == APPLY]
    assert {name: new[name] for name in own} == own
    properties = {"cnr_id": "pulid-flux-native", "Node name for S&R": APPLY, "mine": 5}
    assert new["properties"] == properties


def test_loaders_without_a_choice_take_the_file_that_is_there(tmp_path, monkeypatch):
    import folder_paths

    for name, file in (("eva_clip", "my_eva.pt"), ("facexlib", "my_bisenet.pth")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
        place = ([str(tmp_path / name)], set())
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, place)
    for name in ("pulid", "insightface", "clip_vision", "text_encoders"):
        monkeypatch.setitem(
            folder_paths.folder_names_and_paths, name, ([str(tmp_path / "x")], set())
        )
    after = upgrade(old_prompt(read(SAMPLES / "lldacing_plain.json")))
    (eva,) = of_kind(after, EVA_CLIP)
    (faces,) = of_kind(after, INSIGHT_FACE)
    assert eva["model_name"] == "my_eva.pt"
    assert faces["parsing_model"].endswith("bisenet.pth")
    assert faces["provider"] == "auto"


def test_an_upgrade_never_takes_another_face_pack(tmp_path, monkeypatch):
    import folder_paths

    other = tmp_path / "models" / "buffalo_l"
    other.mkdir(parents=True)
    (other / "det_10g.onnx").touch()
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "insightface", ([str(tmp_path)], set())
    )
    assert folders.options(folders.FACE_PACK) == ["antelopev2", "buffalo_l"]
    for path in (SAMPLES / "balazik.json", SAMPLES / "nunchaku.json"):
        (faces,) = of_kind(upgrade(old_prompt(read(path))), INSIGHT_FACE)
        assert faces["model_pack"] == "antelopev2"
        prepared, _ = old_files.prepare(read(path))
        (node,) = [node for node in prepared["nodes"] if node["type"] == INSIGHT_FACE]
        assert node["widgets_values"][0] == "antelopev2"


def test_nothing_happens_while_the_old_pack_is_installed(monkeypatch):
    import nodes as host

    before = {"prompt": old_prompt(read(SAMPLES / "balazik_mask.json"))}
    for kind in OLD:
        monkeypatch.setitem(host.NODE_CLASS_MAPPINGS, kind, object)
    assert old_prompts.on_prompt(before) is before
    workflow = read(SAMPLES / "nunchaku_mask.json")
    assert old_files.prepare(workflow) == (workflow, "")


@pytest.mark.parametrize("data", [{}, {"prompt": None}, {"prompt": {"1": {"class_type": "X"}}}])
def test_other_prompts_pass_untouched(data):
    assert old_prompts.on_prompt(data) is data


def test_face_detector_gets_the_models_it_did_not_need():
    before = old_prompt(read(SAMPLES / "lldacing.json"))
    after = upgrade(before)
    (encode,) = of_kind(after, ENCODE)
    assert (encode["face"], encode["face_index"]) == ("rightmost", 0)
    assert encode["pulid_model"] == ["20", 0]
    assert encode["eva_clip"] == ["21", 0]
    shown = {tuple(inputs["images"]) for inputs in of_kind(after, "PreviewImage")}
    assert shown == {("52", 1), ("52", 2)}, "the crops and the photo with boxes"
    alone = {k: n for k, n in before.items() if k in ("4", "22", "51", "52", "53")}
    after = upgrade(alone)
    (encode,) = of_kind(after, ENCODE)
    assert after[encode["pulid_model"][0]]["class_type"] == MODEL
    assert after[encode["eva_clip"][0]]["class_type"] == EVA_CLIP


def test_pass_through_without_a_model_leaves_nothing_behind():
    prompt = {
        "1": {"class_type": "FixPulidFluxPatch", "inputs": {}},
        "2": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "seed": 1}},
    }
    assert upgrade(prompt) == {"2": {"class_type": "KSampler", "inputs": {"seed": 1}}}


def test_windows_path_is_found(tmp_path, monkeypatch):
    import folder_paths

    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "pulid.safetensors").touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "pulid", ([str(tmp_path)], set()))
    assert same_file(folders.PULID, "flux\\pulid.safetensors") == "flux/pulid.safetensors"
    assert same_file(folders.PULID, "not\\there.pt") == "not\\there.pt"


def test_table_names_inputs_that_exist():
    for old in TABLE:
        new = NewNode(old.new_id or APPLY)
        names = set(old.inputs.values())
        assert names <= set(new.inputs)
        assert set(old.values) <= set(NewNode(old.new_id or ENCODE).widgets)
        assert set(old.words) <= names
        for name, words in old.words.items():
            assert {new.fit(name, word) for word in words.values()} <= {*words.values(), None}
        outputs = new.schema.outputs if old.new_id else [None]
        assert all(number < len(outputs) for number in old.outputs)
        for part in old.parts:
            assert {*part.inputs.values(), *part.values} <= set(NewNode(part.new_id).widgets)
            assert set(part.inputs) <= {*old.widgets, *part.inputs} - set(old.inputs)
        assert set(old.lost) <= set(old.widgets)


def test_page_knows_no_older_node_of_its_own():
    texts = [path.read_text("utf-8") for path in (ROOT / "js").glob("*.js")]
    found = [name for text in texts for name in re.findall(r"\w+", text) if name in OLD]
    assert found == [], "the page asks the server which nodes are older ones"


@pytest.mark.skipif(not CASES.is_dir(), reason="the public cases are not at hand")
@pytest.mark.parametrize(
    "path",
    [path for path in sorted(CASES.glob("*/*")) if path.parent.name.startswith(PUBLIC)],
    ids=lambda path: f"{path.parent.name[:2]}-{path.stem}",
)
def test_public_cases_hold_nothing_old_afterwards(path):
    case = json.loads(path.read_text("utf-8"))
    if "nodes" in case:
        after, _ = old_files.prepare(case)
        assert_links_hold(after)
        kinds = {node["type"] for node in all_nodes(after)}
    else:
        after = upgrade(case)
        kinds = {node["class_type"] for node in after.values()}
    assert APPLY in kinds
    assert not kinds & set(OLD)
    assert not kinds & {*REROUTES, *SETS, *GETS}, "what handed on an old thing alone goes with it"


@pytest.mark.server
@pytest.mark.parametrize("path", samples(), ids=lambda path: path.stem)
def test_posted_as_it_is_it_runs_to_a_picture(server, portrait, path):
    before = smaller(old_prompt(read(path)), portrait)
    result = server.queue(before)
    assert result.error is None, result.error["exception_message"]
    executed = server.get(f"/history/{result.prompt_id}")[result.prompt_id]["prompt"][2]
    assert_kept(before, executed)
    apply = [k for k, n in executed.items() if n["class_type"] == APPLY]
    ran = [*result.executed, *result.cached]
    assert all(any(node == k or node.startswith(f"{k}.") for node in ran) for k in apply)
    decode = next(k for k, n in executed.items() if n["class_type"] == "VAEDecode")
    shown = next(k for k, n in executed.items() if n["inputs"].get("images") == [decode, 0])
    made = np.asarray(Image.open(io.BytesIO(server.image(result.images(shown)[0]))))
    assert made.shape == (128, 192, 3)
    assert made.std(axis=(0, 1)).max() > 5, "one flat colour"


@pytest.mark.server
def test_server_tells_the_page_the_table_and_prepares_files(server):
    ids, prepare = old_files.ROUTES
    assert server.get(ids) == sorted(OLD)
    replaced = server.get("/node_replacements")
    assert not set(replaced) & set(OLD), "nothing is left for Replace All"
    workflow = read(SAMPLES / "subgraph.json")
    with server.open(prepare, json.dumps(workflow).encode()) as answer:
        file, message = old_files.prepare(workflow)
        found = json.load(answer)
    assert found["message"] == message
    kinds = [[node["type"] for node in all_nodes(one)] for one in (found["file"], file)]
    assert kinds[0] == kinds[1]


@pytest.mark.server
def test_missing_nunchaku_model_loader_is_explained(server, portrait):
    from pulid_client import PromptRefused

    prompt = smaller(old_prompt(read(SAMPLES / "nunchaku.json")), portrait)
    prompt["1"] = {"class_type": "NunchakuFluxDiTLoader", "inputs": {"model_path": "svdq"}}
    with pytest.raises(PromptRefused, match="FLUX checkpoint with Load Diffusion Model"):
        server.queue(prompt)
