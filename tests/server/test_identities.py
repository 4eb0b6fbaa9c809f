"""Identities and long queues on a real server."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time

import numpy as np
import pytest
import skimage.data
from PIL import Image
from standins.server import TEXT_ENCODER_PACK, node_of, set_inputs, split

pytestmark = pytest.mark.server

ABSENT = """
import sys

ABSENT = {"insightface", "facexlib", "open_clip", "timm", "onnxruntime"}

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ABSENT:
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def picture(server, result) -> np.ndarray:
    """Return the saved picture of a run as pixels."""
    assert result.error is None, result.error
    (image,) = [i for node in result.outputs for i in result.images(node) if i["type"] == "output"]
    return np.asarray(Image.open(io.BytesIO(server.image(image))).convert("RGB"))


def without_identity(prompt: dict) -> dict:
    """Return the prompt with the Apply node bypassed."""
    plain = json.loads(json.dumps(prompt))
    apply = node_of(plain, "PuLIDFluxApply")
    model = plain[apply]["inputs"]["model"]
    set_inputs(plain, "KSampler", model=model)
    del plain[apply]
    return plain


def loaded(prompt: dict, name: str) -> dict:
    """Return the split prompt that loads the identity instead of encoding it."""
    loading = json.loads(json.dumps(prompt))
    for node in ("encode", "save"):
        del loading[node]
    faces = ("PuLIDFluxLoadEVACLIP", "PuLIDFluxLoadInsightFace", "LoadImage")
    for kind in faces:
        del loading[node_of(loading, kind)]
    loading["load"] = {
        "class_type": "PuLIDFluxLoadIdentity",
        "inputs": {"name": f"{name}.safetensors"},
    }
    loading["apply"]["inputs"]["identity"] = ["load", 0]
    return loading


def test_a_saved_identity_needs_no_face_package(server, host, models, basic, tmp_path):
    from serving import Server

    prompt = split(basic, "eileen")
    from_photo = picture(server, server.queue(prompt))
    saved = server.base / "models" / "pulid_identities" / "eileen.safetensors"
    assert saved.is_file()
    again = picture(server, server.queue(loaded(prompt, "eileen")))
    assert np.array_equal(from_photo, again)
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    blocked = {"PYTHONPATH": str(tmp_path)}
    with Server(host, models, [TEXT_ENCODER_PACK], environment=blocked) as bare:
        folder = bare.base / "models" / "pulid_identities"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(saved, folder)
        rendered = picture(bare, bare.queue(loaded(prompt, "eileen")))
        assert np.array_equal(rendered, from_photo)
        portrait = tmp_path / "a.png"
        Image.fromarray(skimage.data.astronaut()).save(portrait)
        name = bare.upload(portrait)
        set_inputs(basic, "LoadImage", image=name)
        error = bare.queue(basic).error
        assert "pip install" in json.dumps(error)


def test_a_file_that_changes_is_read_again(server, basic):
    prompt = split(basic, "changing")
    server.queue(prompt)
    load = loaded(prompt, "changing")
    first = picture(server, server.queue(load))
    assert "load" in server.queue(load).cached
    set_inputs(prompt, "PuLIDFluxEncodeIdentity", grayscale=False)
    server.queue(prompt)  # another identity under the same name
    second = server.queue(load)
    assert "load" in second.executed
    assert not np.array_equal(picture(server, second), first)


@pytest.mark.parametrize("name", ["../x", "/x", "a\0b", "n" * 300])
def test_a_name_that_leaves_the_folder_is_refused(server, basic, name):
    from pulid_client import PromptRefused

    prompt = split(basic, name)
    with pytest.raises(PromptRefused, match="cannot be the name of an identity"):
        server.queue(prompt)
    with pytest.raises(PromptRefused, match="was not found"):
        server.queue(loaded(prompt, name))


def test_runs_alternating_with_plain_ones(server, basic):
    """New noise so that nothing is cached, then the same noise again; test_long_queue has more."""
    seen: dict[tuple[str, int], np.ndarray] = {}
    for turn in range(4):
        seed = turn % 2
        set_inputs(basic, "KSampler", seed=seed, steps=2)
        for kind, prompt in (("identity", basic), ("plain", without_identity(basic))):
            # the text changes nothing but the cache key of the sampler's own inputs
            set_inputs(prompt, "SaveImage", filename_prefix=f"turn{turn}")
            found = picture(server, server.queue(prompt))
            before = seen.setdefault((kind, seed), found)
            assert np.array_equal(found, before), (kind, turn)
    assert not np.array_equal(seen["identity", 0], seen["plain", 0])


def test_two_branches_of_one_graph(server, basic):
    """A sampler with identity and one without, in one prompt, give what each gives alone."""
    set_inputs(basic, "KSampler", seed=31)
    alone = [picture(server, server.queue(p)) for p in (without_identity(basic), basic)]
    both = json.loads(json.dumps(basic))
    plain = without_identity(basic)
    copies = {}
    for kind in ("KSampler", "VAEDecode", "SaveImage"):
        node = node_of(plain, kind)
        copies[node] = f"{node}-plain"
        entry = json.loads(json.dumps(plain[node]))
        for name, value in entry["inputs"].items():
            if isinstance(value, list) and value[0] in copies:
                entry["inputs"][name] = [copies[value[0]], value[1]]
        both[copies[node]] = entry
    set_inputs(basic, "KSampler", seed=32)
    server.queue(basic)  # other work in between
    result = server.queue(both)
    assert result.error is None
    found = []
    for node in (copies[node_of(plain, "SaveImage")], node_of(basic, "SaveImage")):
        (image,) = result.images(node)
        found.append(np.asarray(Image.open(io.BytesIO(server.image(image))).convert("RGB")))
    assert np.array_equal(found[0], alone[0]) and np.array_equal(found[1], alone[1])


def test_interrupt_in_mid_sampling(server, basic):
    set_inputs(basic, "KSampler", seed=77)
    expected = [picture(server, server.queue(p)) for p in (basic, without_identity(basic))]
    long = json.loads(json.dumps(basic))
    set_inputs(long, "KSampler", seed=78, steps=300)
    steps = []

    def on_event(kind, data):
        if kind == "progress" and data.get("max") == 300:
            steps.append(data["value"])
            if len(steps) == 3:
                threading.Thread(target=server.interrupt).start()

    begun = time.monotonic()
    result = server.queue(long, on_event)
    assert result.error is not None and 3 <= len(steps) < 300
    assert time.monotonic() - begun < 120
    for prompt, picture_before in zip((basic, without_identity(basic)), expected, strict=True):
        set_inputs(prompt, "KSampler", seed=77)
        set_inputs(prompt, "SaveImage", filename_prefix="after")
        assert np.array_equal(picture(server, server.queue(prompt)), picture_before)
