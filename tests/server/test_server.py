"""The pack on a real ComfyUI server: nodes, shipped graphs, caching, errors, the demo."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.torch
import skimage.data
from PIL import Image
from places import ROOT, WORKFLOWS
from standins.server import api_form, node_of, set_inputs

pytestmark = pytest.mark.server

NODES = {
    "PuLIDFluxLoadModel": "Load PuLID Model",
    "PuLIDFluxLoadEVACLIP": "Load EVA-CLIP",
    "PuLIDFluxLoadInsightFace": "Load InsightFace",
    "PuLIDFluxEncodeIdentity": "Encode PuLID Identity",
    "PuLIDFluxApplyIdentity": "Apply PuLID-Flux Identity",
    "PuLIDFluxApply": "Apply PuLID-Flux",
    "PuLIDSDXLLoadModel": "Load PuLID-SDXL Model",
    "PuLIDSDXLApplyIdentity": "Apply PuLID-SDXL Identity",
    "PuLIDSDXLApply": "Apply PuLID-SDXL",
    "PuLIDMeasureIdentity": "Measure Identity",
    "PuLIDMeasureDisruption": "Measure Disruption",
}
FACE_NODES = ("PuLIDFluxLoadModel", "PuLIDFluxLoadEVACLIP", "PuLIDFluxLoadInsightFace")


def picture(server, result, node: str) -> np.ndarray:
    """Return the first picture that ``node`` showed."""
    assert result.error is None, result.error["exception_message"]
    return np.asarray(Image.open(io.BytesIO(server.image(result.images(node)[0]))))


def latent(server, prompt: dict, model: list):
    """Run the graph's sampler on the output ``model`` and return the latent it ends in."""
    prompt = copy.deepcopy(prompt)
    sampler = node_of(prompt, "KSampler")
    prompt[sampler]["inputs"]["model"] = model
    for kind in ("SaveImage", "VAEDecode"):
        del prompt[node_of(prompt, kind)]
    inputs = {"samples": [sampler, 0], "filename_prefix": "latent"}
    prompt["latent"] = {"class_type": "SaveLatent", "inputs": inputs}
    result = server.queue(prompt)
    assert result.error is None, result.error["exception_message"]
    file = server.image(result.outputs["latent"]["latents"][0])
    return safetensors.torch.load(file)["latent_tensor"]


def test_object_info_lists_the_nodes(server):
    info = server.object_info()
    for node, name in NODES.items():
        assert info[node]["display_name"] == name
        assert info[node]["category"] == ("PuLID-SDXL" if "SDXL" in node else "PuLID-Flux")


@pytest.mark.parametrize("file", sorted(WORKFLOWS.glob("*.json")), ids=lambda path: path.stem)
def test_workflow_and_its_api_form_are_the_same_graph(server, file):
    workflow = json.loads(file.read_text("utf-8"))
    expected = json.loads((WORKFLOWS / "api" / file.name).read_text("utf-8"))
    found = api_form(workflow, server.object_info())
    for node in (*found.values(), *expected.values()):
        if not node["class_type"].startswith("PuLID"):
            del node["_meta"]  # the title: each host has its own names for its own nodes
    assert found == expected
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, output, target, slot, kind in workflow["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == number


@pytest.mark.parametrize("file", sorted(WORKFLOWS.glob("*.json")), ids=lambda path: path.stem)
def test_workflow_names_files_packs_and_picture(file):
    for node in json.loads(file.read_text("utf-8"))["nodes"]:
        ours = node["type"].startswith("PuLID")
        if node["type"] not in ("Note", "MarkdownNote"):
            pack = "pulid-flux-native" if ours else "comfy-core"
            assert node["properties"]["cnr_id"] == pack
            assert node["properties"]["ver"]
        for model in node["properties"].get("models", []):
            assert model["name"] in node["widgets_values"]
            assert model["url"].endswith("/" + model["name"])
            assert model["directory"]
    assert 0 < file.with_suffix(".jpg").stat().st_size < 60_000


def test_workflow_makes_a_picture_and_again_is_cached(server, basic):
    set_inputs(basic, "KSampler", seed=101)
    save = node_of(basic, "SaveImage")
    made = picture(server, server.queue(basic), save)
    assert made.shape == (128, 192, 3)
    assert made.std(axis=(0, 1)).max() > 5, "one flat colour"
    again = server.queue(basic)
    assert again.error is None
    assert again.executed == ()
    assert set(again.cached) == set(basic)


def test_prompt_and_identity_change_the_picture(server, basic):
    apply = node_of(basic, "PuLIDFluxApply")
    flux = basic[apply]["inputs"]["model"]
    set_inputs(basic, "KSampler", seed=102)
    plain = latent(server, basic, flux)
    assert plain.isfinite().all()
    assert (latent(server, basic, [apply, 0]) - plain).abs().mean() > 0.05
    positive = basic[node_of(basic, "FluxGuidance")]["inputs"]["conditioning"][0]
    basic[positive]["inputs"]["text"] = "a map of an island"
    assert (latent(server, basic, flux) - plain).abs().mean() > 0.05


def test_weight_zero_is_the_plain_model_to_the_bit(server, basic):
    apply = node_of(basic, "PuLIDFluxApply")
    set_inputs(basic, "KSampler", seed=104)
    plain = latent(server, basic, basic[apply]["inputs"]["model"])
    set_inputs(basic, "PuLIDFluxApply", weight=0.0)
    assert (latent(server, basic, [apply, 0]) == plain).all()
    set_inputs(basic, "PuLIDFluxApply", weight=1.0)
    assert (latent(server, basic, [apply, 0]) != plain).any()


def test_photo_without_a_face_is_an_error_with_its_index(server, basic, tmp_path):
    Image.new("RGB", (320, 240), (90, 120, 90)).save(tmp_path / "meadow.png")
    set_inputs(basic, "LoadImage", image=server.upload(tmp_path / "meadow.png"))
    result = server.queue(basic)
    assert result.error["node_id"] == node_of(basic, "PuLIDFluxApply")
    assert "image 0" in result.error["exception_message"].lower()
    assert result.images(node_of(basic, "SaveImage")) == []


def test_interrupted_run_leaves_the_server_usable(server, basic):
    set_inputs(basic, "KSampler", seed=105, steps=200)

    def stop(kind: str, data: dict) -> None:
        if kind == "progress" and data["node"] == sampler:
            server.interrupt()

    sampler = node_of(basic, "KSampler")
    assert server.queue(basic, stop).error["node_type"] == "KSampler"
    set_inputs(basic, "KSampler", steps=2)
    assert server.queue(basic).error is None


def test_refused_prompt_says_what_the_server_said(server, basic):
    from pulid_client import PromptRefused

    set_inputs(basic, "UNETLoader", unet_name="nowhere.safetensors")
    with pytest.raises(PromptRefused, match="nowhere.safetensors"):
        server.queue(basic)


def test_pack_that_does_not_import_is_an_error(host, tmp_path):
    from serving import Server

    broken = tmp_path / "broken_pack"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    server = Server(host, packs=[broken])
    with pytest.raises(RuntimeError, match="could not import broken_pack(.|\n)*on purpose"):
        server.__enter__()
    assert server.process.poll() is not None
    assert not server.base.exists()


def start_demo(*arguments: str) -> subprocess.Popen:
    """Start ``scripts/demo.py`` with little to sample."""
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--steps", "2"]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)


def address(demo: subprocess.Popen) -> str:
    """Read the demo's messages up to the one with the server's address, and return that."""
    for line in demo.stdout:
        if "answers at" in line:
            return line.split()[-1]
    raise AssertionError("the demo ended before its server answered")


def test_demo_of_a_photo_writes_four_panels_and_ends_its_server(models, tmp_path):
    photo, file = tmp_path / "me.png", tmp_path / "new" / "demo.png"
    Image.fromarray(skimage.data.astronaut()).save(photo)
    demo = start_demo("--size", "128x160", "--photo", str(photo), "--output", str(file))
    url = address(demo)
    messages, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, messages
    assert "2 of 2 steps" in messages
    assert "stand-in weights: this shows that identity acts" in messages
    band = np.asarray(Image.open(file).convert("RGB")).astype(int)[60:500]
    drawn = (np.abs(band - band[0, 0]).max(axis=(0, 2)) > 8).astype(int)
    edges = np.flatnonzero(np.diff(drawn))  # of the panels, left and right
    assert len(edges) == 8
    assert (np.diff(edges)[::2] > 300).all()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


def test_demo_of_drawn_people_shows_a_person(tmp_path):
    file = tmp_path / "demo.png"
    demo = start_demo("--output", str(file))
    messages, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, messages
    said = dict(re.findall(r"\[demo\] (.+): likeness (-?[\d.]+)", messages))
    assert float(said["weight 1"]) - float(said["without identity"]) > 0.2
    assert len(said) == 9 and "both, side by side" in said
    with Image.open(file) as page:
        assert page.width > 1000 and page.height > 800


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without telling it")
def test_terminated_demo_ends_its_server(models, tmp_path):
    demo = start_demo("--output", str(tmp_path / "demo.png"))
    address(demo)
    servers = psutil.Process(demo.pid).children()
    assert len(servers) == 1
    folder = Path(servers[0].cwd())
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=60)
    assert demo.returncode == 128 + signal.SIGTERM
    assert psutil.wait_procs(servers, timeout=10)[1] == []
    assert not folder.exists()
    assert not (tmp_path / "demo.png").exists()
