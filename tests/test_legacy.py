"""Workflows of older PuLID-FLUX packs: every value and link kept, and they run to a picture."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pulid_pack.nodes import folders
from pulid_pack.nodes.old_packs import files as old_files
from pulid_pack.nodes.old_packs import prompts as old_prompts
from pulid_pack.nodes.old_packs.table import FACES, OLD, TABLE

SAMPLES = Path(__file__).parent / "legacy"
REAL = Path(__file__).resolve().parents[2] / "shared" / "legacy-workflows"
NOTES = ("Note", "MarkdownNote")
# What stands in a real file for nodes and models of other packs: class -> (class, widgets).
FOREIGN = {
    "UnetLoaderGGUF": ("UNETLoader", ["flux1-dev.safetensors", "default"]),
    "DualCLIPLoaderGGUF": ("DualCLIPLoader", None),
    "LoadImagesFromDir //Inspire": ("LoadImage", ["portrait.png", "image"]),
    "MaskPreview+": ("MaskPreview", []),
}
PASS_ON = ("FluxForwardOverrider", "ApplyTeaCachePatch")
STAND_INS = {
    "unet_name": "flux1-dev.safetensors",
    "clip_name1": "t5xxl_fp8_e4m3fn.safetensors",
    "clip_name2": "clip_l.safetensors",
    "vae_name": "ae.safetensors",
    "pulid_file": "pulid_flux_v0.9.1.safetensors",
}


@pytest.fixture(autouse=True, scope="module")
def known_folders():
    """Make the pack's folders known, as ComfyUI does when it loads the pack."""
    folders.register()


def samples() -> list[Path]:
    """Return our own old files, and other people's where they are at hand."""
    found = sorted(SAMPLES.glob("*.json"))
    return found + (sorted(REAL.glob("*.*")) if REAL.is_dir() else [])


def read(path: Path) -> dict[str, Any]:
    """Return the workflow in a .json or a .png file, nodes of other packs exchanged."""
    text = Image.open(path).info["workflow"] if path.suffix == ".png" else path.read_text("utf-8")
    workflow = json.loads(text)
    for node in workflow["nodes"]:
        if node["type"] in FOREIGN:
            node["type"], widgets = FOREIGN[node["type"]]
            node["widgets_values"] = node["widgets_values"] if widgets is None else widgets
    return workflow


def old_prompt(workflow: dict[str, Any], info: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the API prompt that the page made of an old file while the old packs were there."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt, gone = {}, {}
    for node in workflow["nodes"]:
        sockets = {s["name"]: links[s["link"]] for s in node["inputs"] if s.get("link")}
        if node["type"] in PASS_ON:
            gone[str(node["id"])] = next(iter(sockets.values()))
            continue
        if node["type"] in NOTES:
            continue
        values = node.get("widgets_values") or []
        names = OLD[node["type"]].widget_names() if node["type"] in OLD else core_widgets(node)
        inputs = dict(zip(names, values, strict=False)) | sockets
        inputs.pop("", None)  # the page's own widgets
        inputs |= {k: v for k, v in STAND_INS.items() if k in inputs}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    for node in prompt.values():
        for name, value in node["inputs"].items():
            while isinstance(value, list) and value[0] in gone:
                value = gone[value[0]]
            node["inputs"][name] = value
    return prompt


def core_widgets(node: dict[str, Any]) -> list[str]:
    """Return the names of a core node's stored values, "" for the page's own."""
    import nodes as host

    cls = host.NODE_CLASS_MAPPINGS.get(node["type"])
    return EXTRA_WIDGETS[node["type"]] if cls is None else list_widgets(cls)


EXTRA_WIDGETS = {
    "FluxGuidance": ["guidance"],
    "EmptySD3LatentImage": ["width", "height", "batch_size"],
    "RandomNoise": ["noise_seed", ""],
    "KSamplerSelect": ["sampler_name"],
    "BasicScheduler": ["scheduler", "steps", "denoise"],
    "SolidMask": ["value", "width", "height"],
    "MaskComposite": ["x", "y", "operation"],
    **{name: [] for name in ("InvertMask", "BasicGuider", "SamplerCustomAdvanced", "MaskPreview")},
}


def list_widgets(cls: type) -> list[str]:
    """Return the widgets of an old-style node class in order."""
    names = []
    for section in ("required", "optional"):
        for name, (kind, *more) in cls.INPUT_TYPES().get(section, {}).items():
            if isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                own = more and (
                    more[0].get("control_after_generate") or more[0].get("image_upload")
                )
                names += [name, ""] if own or name == "seed" else [name]
    return names


def smaller(prompt: dict[str, Any], portrait: str) -> dict[str, Any]:
    """Return the prompt with our photo, few steps and a small picture."""
    small = {"steps": 2, "batch_size": 1}
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "LoadImage":
            inputs["image"] = portrait
        if node["class_type"] == "EmptySD3LatentImage":
            inputs |= {"width": 192, "height": 128}
        inputs |= {k: v for k, v in small.items() if k in inputs}
    return prompt


def of_kind(prompt: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the inputs of every node of class ``kind``."""
    return [node["inputs"] for node in prompt.values() if node["class_type"] == kind]


def applied(prompt: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the inputs of the old nodes that applied an identity, whatever they were called."""
    return of_kind(prompt, "ApplyPulidFlux") + of_kind(prompt, "NunchakuFluxPuLIDApplyV2")


def assert_kept(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Compare what was asked of the old nodes with what is asked of the new."""
    assert not {node["class_type"] for node in after.values()} & set(OLD)
    pairs = list(zip(applied(before), of_kind(after, "PuLIDFluxApply"), strict=True))
    assert pairs
    for old, new in pairs:
        for name in ("weight", "start_at", "end_at", "image", "attn_mask", "prior_image"):
            assert new.get(name) == old.get(name), name
        for name in ("fusion_weight_max", "fusion_weight_min", "train_step"):
            assert new.get(name) == old.get(name), name
        assert new["fusion"] == old.get("fusion", "mean")
        assert new.get("grayscale") == old.get("use_gray")
        assert new["unconditional"] == "same identity"
        options = before[old["options"][0]]["inputs"] if "options" in old else {}
        assert new.get("face") == FACES.get(options.get("input_faces_order"))
        assert new.get("face_index") == options.get("input_faces_index")
        for name, kind in zip(old_prompts.PARTS.values(), old_prompts.NEW_PARTS, strict=True):
            assert after[new[name][0]]["class_type"] == kind
            assert new[name][1] == 0
        assert after[new["model"][0]]["class_type"] in ("UNETLoader", "PuLIDFluxApply")
    for node in after.values():
        for value in node["inputs"].values():
            assert not isinstance(value, list) or value[0] in after, "a link to nothing"


@pytest.mark.parametrize("path", samples(), ids=lambda path: path.stem)
def test_rewriting_keeps_every_value_and_link(path):
    before = old_prompt(read(path))
    given = copy.deepcopy(before)
    after = old_prompts.upgrade(before)
    assert before == given, "the prompt given was changed"
    assert_kept(before, after)
    files = of_kind(before, "PulidFluxModelLoader") + of_kind(before, "NunchakuPuLIDLoaderV2")
    new_files = of_kind(after, "PuLIDFluxLoadModel")
    assert [f["model_name"] for f in new_files] == [f["pulid_file"] for f in files]


@pytest.mark.parametrize("path", samples(), ids=lambda path: path.stem)
def test_values_come_from_the_file_where_the_page_left_them_out(path):
    workflow = read(path)
    whole = old_prompt(workflow)
    bare = copy.deepcopy(whole)
    for node in bare.values():
        if node["class_type"] in OLD:
            links = {k: v for k, v in node["inputs"].items() if isinstance(v, list)}
            node["inputs"] = links
    for node in workflow["nodes"]:
        if node["type"] in ("PulidFluxModelLoader", "NunchakuPuLIDLoaderV2"):
            node["widgets_values"][0] = STAND_INS["pulid_file"]
    info = {"extra_pnginfo": {"workflow": workflow}}
    after = old_prompts.on_prompt({"prompt": bare, "extra_data": info})["prompt"]
    assert after == old_prompts.upgrade(whole)


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
    after = old_prompts.upgrade(old_prompt(read(SAMPLES / "lldacing_plain.json")))
    (eva,) = of_kind(after, "PuLIDFluxLoadEVACLIP")
    (faces,) = of_kind(after, "PuLIDFluxLoadInsightFace")
    assert eva["model_name"] == "my_eva.pt"
    assert faces["parsing_model"].endswith("bisenet.pth")
    assert faces["model_pack"] == folders.FACE_PACK.wanted  # none there: its error will explain
    assert faces["provider"] == "auto"  # ROCM if there, else the CPU, as it was


def test_nothing_happens_while_the_old_pack_is_installed(monkeypatch):
    import nodes as host

    before = {"prompt": old_prompt(read(SAMPLES / "balazik_mask.json"))}
    for kind in OLD:
        monkeypatch.setitem(host.NODE_CLASS_MAPPINGS, kind, object)
    assert old_prompts.on_prompt(before) is before
    workflow = read(SAMPLES / "nunchaku_mask.json")
    assert old_files.prepare(workflow)["nodes"] == workflow["nodes"]


@pytest.mark.parametrize("data", [{}, {"prompt": None}, {"prompt": {"1": {"class_type": "X"}}}])
def test_other_prompts_pass_untouched(data):
    assert old_prompts.on_prompt(data) is data


def test_face_detector_gets_the_models_it_did_not_need():
    before = old_prompt(read(SAMPLES / "lldacing.json"))
    after = old_prompts.upgrade(before)
    (encode,) = of_kind(after, "PuLIDFluxEncodeIdentity")
    assert (encode["face"], encode["face_index"]) == ("rightmost", 0)
    assert encode["pulid_model"] == ["20", 0]
    assert encode["eva_clip"] == ["21", 0]
    shown = {tuple(inputs["images"]) for inputs in of_kind(after, "PreviewImage")}
    assert shown == {("52", 1), ("52", 2)}, "the crops and the photo with boxes"
    alone = {k: n for k, n in before.items() if k in ("4", "22", "51", "52", "53")}
    after = old_prompts.upgrade(alone)
    (encode,) = of_kind(after, "PuLIDFluxEncodeIdentity")
    assert after[encode["pulid_model"][0]]["class_type"] == "PuLIDFluxLoadModel"
    assert after[encode["eva_clip"][0]]["class_type"] == "PuLIDFluxLoadEVACLIP"


def test_pass_through_without_a_model_leaves_nothing_behind():
    prompt = {
        "1": {"class_type": "FixPulidFluxPatch", "inputs": {}},
        "2": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "seed": 1}},
    }
    assert old_prompts.upgrade(prompt) == {"2": {"class_type": "KSampler", "inputs": {"seed": 1}}}


def test_windows_path_is_found(tmp_path, monkeypatch):
    import folder_paths

    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "pulid.safetensors").touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "pulid", ([str(tmp_path)], set()))
    assert (
        old_prompts.same_file(folders.PULID, "flux\\pulid.safetensors") == "flux/pulid.safetensors"
    )
    assert old_prompts.same_file(folders.PULID, "not\\there.pt") == "not\\there.pt"


def replaced(workflow: dict[str, Any]) -> dict[str, Any]:
    """Return the new nodes' widgets and links as ComfyUI's page would fill them, by node id."""
    found = {}
    links = {link[0]: [link[1], link[2]] for link in workflow["links"]}
    for node in workflow["nodes"]:
        if node["type"] not in OLD:
            continue
        rule = old_prompts.node_replace(OLD[node["type"]]).as_dict()
        stored = dict(
            zip(rule["old_widget_ids"] or [], node.get("widgets_values") or [], strict=False)
        )
        sockets = {s["name"]: links[s["link"]] for s in node["inputs"] if s.get("link")}
        inputs = {}
        for one in rule["input_mapping"] or []:
            if "set_value" in one:
                inputs[one["new_id"]] = one["set_value"]
            elif one["old_id"] in stored | sockets:
                inputs[one["new_id"]] = (stored | sockets)[one["old_id"]]
        found[node["id"]] = (rule["new_node_id"], inputs)
    return found


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_files_and_prompts_are_upgraded_alike(path):
    workflow = read(path)
    prepared = old_files.prepare(workflow)
    assert_links_hold(prepared)
    from_prompt = old_prompts.upgrade(old_prompt(workflow))
    kinds = {str(n["id"]): n["type"] for n in prepared["nodes"]}
    from_file = replaced(prepared)
    (apply,) = [inputs for kind, inputs in from_file.values() if kind == "PuLIDFluxApply"]
    (expected,) = of_kind(from_prompt, "PuLIDFluxApply")
    for name, value in apply.items():
        if name in old_prompts.PARTS.values():
            old, new = kinds[str(value[0])], from_prompt[expected[name][0]]["class_type"]
            assert OLD[old].new_id == new
        elif isinstance(value, list):
            assert [str(value[0]), value[1]] == expected[name]
        elif name in expected:
            assert value == expected[name], name
        else:  # filled in so that later places could be reached: the new node's own default
            own = {
                i.id: i.default
                for i in old_prompts.CLASSES["PuLIDFluxApply"].define_schema().inputs
                if hasattr(i, "default")
            }
            assert value == own[name], name
    assert set(expected) <= set(apply)
    left = {kind for kind in kinds.values() if kind in OLD}
    assert all(OLD[kind].new_id and not OLD[kind].passes for kind in left), left


def assert_links_hold(workflow: dict[str, Any]) -> None:
    """Compare the three places in which a file keeps a link."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    numbers = set()
    for number, source, slot, target, place, _ in workflow["links"]:
        numbers.add(number)
        assert number in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][place]["link"] == number
    for node in nodes.values():
        assert {s["link"] for s in node["inputs"] if s["link"]} <= numbers
        for output in node["outputs"]:
            assert set(output["links"] or []) <= numbers


def test_table_names_inputs_that_exist():
    for old in TABLE:
        if not old.new_id:
            continue
        rule = old_prompts.node_replace(old)
        schema = old_prompts.CLASSES[old.new_id].define_schema()
        known = {i.id for i in schema.inputs}
        assert {one["new_id"] for one in rule.input_mapping or []} <= known
        assert all(one["new_idx"] < len(schema.outputs) for one in rule.output_mapping)


@pytest.mark.server
@pytest.mark.parametrize("path", samples(), ids=lambda path: path.stem)
def test_posted_as_it_is_it_runs_to_a_picture(server, portrait, path):
    before = smaller(old_prompt(read(path)), portrait)
    result = server.queue(before)
    assert result.error is None, result.error["exception_message"]
    executed = server.get(f"/history/{result.prompt_id}")[result.prompt_id]["prompt"][2]
    assert_kept(before, executed)
    apply = [k for k, n in executed.items() if n["class_type"] == "PuLIDFluxApply"]
    ran = [*result.executed, *result.cached]
    assert all(any(node == k or node.startswith(f"{k}.") for node in ran) for k in apply)
    decode = next(k for k, n in executed.items() if n["class_type"] == "VAEDecode")
    shown = next(k for k, n in executed.items() if n["inputs"].get("images") == [decode, 0])
    made = np.asarray(Image.open(io.BytesIO(server.image(result.images(shown)[0]))))
    assert made.shape == (128, 192, 3)
    assert made.std(axis=(0, 1)).max() > 5, "one flat colour"


@pytest.mark.server
def test_server_offers_the_table_to_the_page(server):
    rules = server.get("/node_replacements")
    for old in TABLE:
        if old.new_id and not old.passes:
            assert rules[old.id] == [old_prompts.node_replace(old).as_dict()]
    workflow = read(SAMPLES / "nunchaku_mask.json")
    body = json.dumps(workflow).encode()
    with server.open(old_files.ROUTE, body) as answer:
        assert json.load(answer) == old_files.prepare(workflow)


@pytest.mark.server
def test_missing_nunchaku_model_loader_is_explained(server, portrait):
    from client import PromptRefused

    prompt = smaller(old_prompt(read(SAMPLES / "nunchaku.json")), portrait)
    prompt["1"] = {"class_type": "NunchakuFluxDiTLoader", "inputs": {"model_path": "svdq"}}
    with pytest.raises(PromptRefused, match="FLUX checkpoint with Load Diffusion Model"):
        server.queue(prompt)
