"""What a sweep plans: prompts taken apart, equal work once, refusals that name what is wrong."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
from places import ROOT, WORKFLOWS
from sweeping.graphs import find_output, set_setting
from sweeping.options import parse_arguments, wish_of
from sweeping.plan import Wish, file_name, plan
from sweeping.work import left

FILES = sorted((WORKFLOWS / "api").glob("*.json"))
SEVERAL = ("flux_pulid_two_people", "sdxl_pulid_two_people")
ENCODER = {"face": "COMBO", "face_index": "INT", "fusion": "COMBO", "on_no_face": "COMBO"}
ENCODER |= {"grayscale": "BOOLEAN"}
LINKS = ("pulid_model", "eva_clip", "face_analysis", "image")
APPLY = ("model", "pulid_model", "identity", "weight", "start_at", "end_at")
MORE = ("method", "attn_mask", "num_zero", "projection", "start_step", "end_step", "region")
# the part of /object_info that is read
INFO = {
    "PuLIDFluxEncodeIdentity": {
        "input": {
            "required": {name: ["*"] for name in LINKS}
            | {name: [kind, {"default": f"default {name}"}] for name, kind in ENCODER.items()},
            "optional": {"face_points": ["STRING", {"default": ""}]},
        }
    },
    **{
        f"PuLID{family}ApplyIdentity": {
            "input": {
                "required": {name: ["*"] for name in APPLY},
                "optional": {name: ["*"] for name in MORE},
            }
        }
        for family in ("Flux", "SDXL")
    },
}


@pytest.fixture
def photos(tmp_path):
    """Return two files that stand for photos."""
    made = [tmp_path / "anna.jpg", tmp_path / "ben.jpg"]
    for path in made:
        path.write_bytes(path.name.encode())
    return made


def shipped(name: str) -> dict:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text("utf-8"))


def wish(name: str, photos, **more) -> Wish:
    return Wish(shipped(name), more.pop("vary", {}), more.pop("seeds", (1,)), photos, **more)


def test_three_by_three_by_two_is_eighteen_pictures_two_without_and_one_encoding(photos):
    vary = {"weight": (0.6, 0.8, 1), "start_at": (0, 0.1, 0.2)}
    cells = plan(wish("flux_pulid_basic", photos[:1], vary=vary, seeds=(1, 2)), INFO)
    work = left(cells, None)
    assert (len(work.identities), len(work.pictures), len(work.cells)) == (1, 20, 18)
    assert len(work) == 39
    assert [dict(c.settings) for c in cells[:3:2]] == [
        {"weight": 0.6, "start_at": 0},
        {"weight": 0.6, "start_at": 0.1},
    ]
    assert [cell.seed for cell in cells[:4]] == [1, 2, 1, 2]
    names = {file_name(job) for job, _ in work.pictures}
    assert len(names) == 20 and all(set(name) <= set(ALLOWED) for name in names)
    two = plan(wish("flux_pulid_basic", photos, vary=vary, seeds=(1, 2)), INFO)
    work = left(two, None)
    assert (len(work.identities), len(work.pictures)) == (2, 38), "without identity: for both"
    # a photo that is more than the person's, such as one to change, is another picture without too
    prompt = shipped("flux_pulid_basic")
    (photo,) = (key for key, n in prompt.items() if n["class_type"] == "LoadImage")
    (sampler,) = (n["inputs"] for n in prompt.values() if n["class_type"] == "KSampler")
    sampler["latent_image"] = [photo, 0]
    work = left(plan(Wish(prompt, {}, (1,), photos), INFO), None)
    assert (len(work.identities), len(work.pictures)) == (2, 4)


ALLOWED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=+-"


def test_what_is_different_has_another_key_and_what_is_equal_the_same(photos):
    def keys(**more) -> tuple[str, str, str, str]:
        (cell,) = plan(wish("flux_pulid_basic", photos[:1], **more), INFO)
        return cell.identity.key, cell.plain.key, cell.picture.key, cell.key

    first = keys()
    assert keys() == first
    changes = {
        "weight": ({"settings": {"weight": 0.5}}, (True, True, False, False)),
        "prompt": ({"settings": {"Prompt.text": "x"}}, (True, False, False, False)),
        "grayscale": ({"settings": {"grayscale": False}}, (False, True, False, False)),
        "seed": ({"seeds": (2,)}, (True, False, False, False)),
        "judge": ({"judge": "buffalo_l"}, (True, True, True, False)),
    }
    for name, (more, same) in changes.items():
        assert tuple(a == b for a, b in zip(first, keys(**more), strict=True)) == same, name
    photos[0].write_bytes(b"another photo")
    assert [a == b for a, b in zip(first, keys(), strict=True)] == [False, True, False, False]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_shipped_workflow_is_taken_apart(photos, file):
    prompt = shipped(file.stem)
    loads = any(n["class_type"] == "PuLIDFluxLoadIdentity" for n in prompt.values())
    asked = wish(file.stem, [] if loads else photos[:1], vary={"weight": (0.5, 1)})
    if file.stem in SEVERAL or file.stem == "flux_pulid_save_identity":
        with pytest.raises(ValueError, match="A sweep needs exactly one node that applies"):
            plan(asked, INFO)
        return
    one, other = plan(asked, INFO)
    kinds = [{n["class_type"] for n in job.prompt.values()} for job in (one.picture, one.plain)]
    faces = {"PuLIDFluxLoadInsightFace", "PuLIDFluxLoadEVACLIP", "PuLIDFluxApply"}
    assert not faces & (kinds[0] | kinds[1]), "no face package is needed to render"
    assert "PuLIDFluxLoadIdentity" in kinds[0]
    assert not any(kind.startswith("PuLID") for kind in kinds[1])
    assert (one.identity is None) == loads
    assert one.plain == other.plain and one.picture != other.picture
    for job in (one.picture, one.plain):
        sources = {v[0] for n in job.prompt.values() for v in n["inputs"].values() if is_link(v)}
        assert sources < set(job.prompt) and job.prompt[job.output]["class_type"] == "PreviewImage"


def is_link(value) -> bool:
    return isinstance(value, list)


def test_the_encoder_gets_the_settings_of_apply_and_its_own_defaults(photos):
    prompt = shipped("flux_pulid_basic")
    (apply,) = (n["inputs"] for n in prompt.values() if n["class_type"] == "PuLIDFluxApply")
    del apply["fusion"]
    apply["face"] = "leftmost"
    (cell,) = plan(Wish(prompt, {}, (1,), photos[:1]), INFO)
    encode = cell.identity.prompt["encode"]["inputs"]
    assert (encode["face"], encode["fusion"]) == ("leftmost", "default fusion")
    assert "weight" not in encode


def test_a_setting_goes_to_apply_through_links_or_to_the_node_of_that_title():
    prompt = shipped("sdxl_pulid_avatar")
    set_setting(prompt, "weight", 0.3)
    set_setting(prompt, "method", "style")
    set_setting(prompt, "steps", 9)
    set_setting(prompt, "Width.value", 640)
    titled = {node["_meta"]["title"]: node["inputs"] for node in prompt.values()}
    assert titled["ID guidance"]["value"] == 0.3
    assert titled["Mode"]["method"] == "style"
    assert (titled["Steps"]["value"], titled["Width"]["value"]) == (9, 640)
    with pytest.raises(ValueError, match="No node has the title 'Widht'"):
        set_setting(prompt, "Widht.value", 1)
    with pytest.raises(ValueError, match="0 nodes have an input for 'wieght'.*weight, start_at"):
        set_setting(prompt, "wieght", 1)
    with pytest.raises(ValueError, match="2 nodes have an input for 'text', expected one"):
        set_setting(shipped("flux_pulid_basic"), "text", "x")


def test_what_cannot_be_swept_is_said(photos):
    with pytest.raises(ValueError, match="give one or more with --photo"):
        plan(wish("flux_pulid_basic", []), INFO)
    with pytest.raises(ValueError, match="loads a saved identity, so that --photo"):
        plan(wish("flux_pulid_from_identity", photos), INFO)
    prompt = shipped("flux_pulid_basic")
    (save,) = (key for key, n in prompt.items() if n["class_type"] == "SaveImage")
    prompt["2nd"] = copy.deepcopy(prompt[save])
    for node in (save, "2nd"):
        prompt[node]["_meta"]["title"] = "Save Image"
    with pytest.raises(ValueError, match="not clear whose picture to measure: Save Image"):
        find_output(prompt)
    prompt["2nd"]["_meta"]["title"] = "Save picture"
    assert find_output(prompt) == "2nd"


def test_the_command_line(photos, capsys):
    options = parse_arguments(
        "",
        ["sdxl_pulid_basic", "--vary", "weight=0.6,0.8", "--vary", "method=style,fidelity"]
        + ["--seeds", "4,5", "--set", "end_at=0.9", "--steps", "7", "--size", "640x512"]
        + ["--photo", *map(str, photos), "--server", "http://a", "--prompt", "a map"],
    )
    found = wish_of(options)
    assert dict(found.vary) == {"weight": [0.6, 0.8], "method": ["style", "fidelity"]}
    assert (tuple(found.seeds), dict(found.settings)) == ((4, 5), {"end_at": 0.9})
    inputs = {n["class_type"]: n["inputs"] for n in found.workflow.values()}
    assert inputs["KSampler"]["steps"] == 7
    assert (inputs["EmptyLatentImage"]["width"], inputs["EmptyLatentImage"]["height"]) == (640, 512)
    texts = [n["inputs"]["text"] for n in found.workflow.values() if "text" in n["inputs"]]
    assert texts[0] == "a map" != texts[1]
    with pytest.raises(FileNotFoundError, match=r"There is no workflow .*nosuch.json. The pack"):
        wish_of(parse_arguments("", ["nosuch", "--server", "x"]))
    with pytest.raises(ValueError, match="Two photos have the same file name"):
        wish_of(parse_arguments("", ["--server", "x", "--photo", *[str(photos[0])] * 2]))
    with pytest.raises(SystemExit):
        parse_arguments("", ["--vary", "weight"])
    assert "'weight' is not like weight=0.6,0.8,1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_arguments("", ["--drawn", "--server", "x"])
    assert "--drawn brings models and server of its own" in capsys.readouterr().err
    assert not parse_arguments("", ["--drawn"]).stand_ins


@pytest.mark.parametrize("name", ["sweep", "demo", "train"])
def test_a_python_without_packages_reads_the_options(name):
    """Before a script goes on in the host's interpreter, it has the standard library alone."""
    command = [sys.executable, "-S", str(ROOT / "scripts" / f"{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_the_demo_of_drawn_people_refuses_what_it_would_not_heed():
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--weight", "0.8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "drawn people have a size and three weights" in done.stderr
