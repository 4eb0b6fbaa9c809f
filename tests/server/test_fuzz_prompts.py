"""Random API prompts over all nodes: a picture, a refusal before the run, or a named error."""

from __future__ import annotations

import json
import logging
import random
import string
from collections import Counter
from typing import Any

import pytest
from pulid_pack.identity.files import save_identity
from standins.lab import person
from standins.server import described_inputs, node_of, set_inputs

pytestmark = pytest.mark.server

log = logging.getLogger(__name__)

NAMED = ("ValueError", "FileNotFoundError", "RuntimeError")
WILDNESS = (0.0, 0.0, 0.03, 0.1)  # how often an input gets what it should not
HUGE = 10**12
NAMES = ["fuzz", "fuzz2", "Ünï", "../x", "a/b", "", " ", "con", ".x", "x" * 300, "a\0b", "\ud800"]
WRONG = [None, "text", "", -1, HUGE, -HUGE, 1.5, True, [], {}, ["1"], ["nobody", 0], ["1", 99]]
WRONG += [float("nan"), float("inf"), "../../etc/passwd", ["1", "0"], {"a": [1]}]


class Maker:
    """Makes one random prompt; the same seed gives the same one."""

    def __init__(self, seed: str, plain: dict[str, dict], info: dict[str, dict]):
        self.draw = random.Random(seed)
        self.prompt = json.loads(json.dumps(plain))
        self.info = info
        self.wild = self.draw.choice(WILDNESS)
        self.loaders = {k: n for k, n in plain.items() if n["class_type"].startswith("PuLID")}
        self.made: dict[str, list[list]] = {}  # socket type -> outputs that have it
        self.number = 100

    def make(self) -> dict[str, dict]:
        """Return a prompt that samples through a chain of one to three Apply nodes."""
        model: Any = ["1", 0]
        for _ in range(self.draw.choice((1, 1, 1, 2, 3))):
            kind = self.draw.choice(("PuLIDFluxApply", "PuLIDFluxApplyIdentity"))
            model = [self.node(kind, model=model), 0]
        if self.draw.random() < 0.2:  # an output node beside the sampler
            self.node("PuLIDFluxSaveIdentity")
        set_inputs(
            self.prompt,
            "KSampler",
            model=model,
            seed=self.draw.randrange(3),
            steps=self.draw.randint(1, 3),
            cfg=self.draw.choice((1.0, 1.0, 2.5)),
        )
        size = {"width": self.draw.choice((64, 80)), "height": self.draw.choice((48, 64))}
        size["batch_size"] = self.draw.choice((1, 1, 2))
        set_inputs(self.prompt, "EmptySD3LatentImage", **size)
        return self.prompt

    def node(self, kind: str, **given: Any) -> str:
        """Add a node with random inputs and return its id."""
        inputs = {}
        described = self.info[kind]
        required = described["input"].get("required", {})
        for name, socket, options in described_inputs(described):
            if self.draw.random() < self.wild:
                if self.draw.random() < 0.3:
                    continue  # missing
                inputs[name] = self.draw.choice(WRONG)
            elif name in given:
                inputs[name] = given[name]
            elif name in required or self.draw.random() < 0.4:
                inputs[name] = self.value(name, socket, options)
        self.number += 1
        self.prompt[str(self.number)] = {"class_type": kind, "inputs": inputs}
        for index, socket in enumerate(described["output"]):
            self.made.setdefault(socket, []).append([str(self.number), index])
        return str(self.number)

    def value(self, name: str, socket: str, options: dict) -> Any:
        """Return a fitting value or link for an input."""
        draw = self.draw
        if name == "name" and socket == "COMBO":
            return draw.choice((*["fuzz.safetensors"] * 6, "../fuzz.safetensors", "absent"))
        if name == "name":
            return draw.choice(NAMES[: 3 if draw.random() < 0.8 else None])
        if name == "overwrite":
            return draw.random() < 0.8
        if name == "train_step":
            return draw.randrange(4)
        if name == "provider":
            return draw.choice(("auto", "CPU", "CPU", "CPU", "CPU", "CPU", "CPU", "CUDA"))
        if name == "landmarks":  # RetinaFace takes seconds a photo
            return "model pack" if draw.random() < 0.9 else "detection_Resnet50_Final.pth"
        if name == "face_index":
            return draw.choice((*[0] * 12, 1, 999))
        if socket == "COMBO":
            return draw.choice(options.get("options") or self.choices(name))
        if socket == "BOOLEAN":
            return draw.random() < 0.5
        if socket in ("INT", "FLOAT"):
            low, high = options["min"], min(options["max"], 40)
            between = draw.randint if socket == "INT" else draw.uniform
            return draw.choice((options["default"], low, high, between(low, high)))
        if socket == "STRING":
            return "".join(draw.choices(string.printable, k=draw.randrange(40)))
        return self.link(socket)

    def choices(self, name: str) -> list[str]:
        """Return the choices of the older form of a list input."""
        for described in self.info.values():
            for section in described["input"].values():
                if name in section and isinstance(section[name][0], list):
                    return section[name][0]
        raise KeyError(name)

    def link(self, socket: str) -> list:
        """Return a link to an output of this type, of a node already there or a new one."""
        socket = socket.split(",")[0]  # of several types the first, which is FLUX's
        there = self.made.get(socket, [])
        if there and self.draw.random() < 0.6:
            return self.draw.choice(there)
        if socket in ("IMAGE", "MASK"):
            return self.draw.choice(PICTURES[socket])
        if socket == "MODEL":
            return ["1", 0]
        loaders = {
            "PULID_FLUX_MODEL": "PuLIDFluxLoadModel",
            "PULID_EVA_CLIP": "PuLIDFluxLoadEVACLIP",
            "PULID_FACE_ANALYSIS": "PuLIDFluxLoadInsightFace",
        }
        if socket in loaders:  # mostly the one that the host holds: to load takes seconds
            held = node_of(self.loaders, loaders[socket])
            return [held if self.draw.random() < 0.8 else self.node(loaders[socket]), 0]
        kinds = ["Encode", "Encode", "Encode", "Load", "Save", "Blend"]
        kind = self.draw.choice(kinds if self.number < 112 else ["Encode"])
        kind = f"PuLIDFlux{kind}" + ("Identities" if kind == "Blend" else "Identity")
        return [self.node(kind), 0]


# photos and masks of many shapes, by the host's own nodes
SOURCES = {
    "no face": ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 99}),
    "dot": ("EmptyImage", {"width": 1, "height": 1, "batch_size": 1, "color": 0}),
    "strip": ("EmptyImage", {"width": 1, "height": 300, "batch_size": 2, "color": 0}),
    "two": ("ImageBatch", {"image1": ["4", 0], "image2": ["4", 0]}),
    "mixed": ("ImageBatch", {"image1": ["4", 0], "image2": ["no face", 0]}),
    "half": ("SolidMask", {"value": 0.5, "width": 64, "height": 64}),
    "black": ("SolidMask", {"value": 0.0, "width": 8, "height": 8}),
    "white": ("SolidMask", {"value": 1.0, "width": 16, "height": 900}),
    "tiny": ("SolidMask", {"value": 0.3, "width": 1, "height": 1}),
    "bright": ("ImageToMask", {"image": ["two", 0], "channel": "red"}),
}
PICTURES = {
    "IMAGE": [[k, 0] for k in (*["4"] * 16, *["two"] * 4, "no face", "dot", "strip", "mixed")],
    "MASK": [[k, 0] for k in ("half", "black", "white", "tiny", "bright")],
}


@pytest.fixture
def plain(basic) -> dict[str, dict]:
    """Return the basic workflow with no node of the pack but loaders, photos and masks at hand."""
    found = {k: v for k, v in basic.items() if v["class_type"] != "PuLIDFluxApply"}
    set_inputs(found, "KSampler", model=["1", 0])
    return found | {k: {"class_type": c, "inputs": i} for k, (c, i) in SOURCES.items()}


def outcome(server, prompt: dict[str, dict]) -> str:
    """Run a prompt and return how it ended; anything but the three good ways fails."""
    from pulid_client import PromptRefused

    try:
        result = server.queue(prompt, limit=120)
    except PromptRefused as error:
        text = str(error)
        assert text and "500" not in text[:40] and "Traceback" not in text, text
        return "refused"
    if result.error is None:
        sink = node_of(prompt, "SaveImage")
        if sink not in result.executed:  # the host refused the picture and ran what else it could
            assert sink not in result.outputs and result.executed + result.cached
            return "refused"
        (saved,) = result.images(sink)[:1]
        assert saved["type"] == "output"
        return "picture"
    report = result.error
    where = report["traceback"][-1]
    assert report["exception_type"] in NAMED, (
        f"{report['exception_type']}: {report['exception_message']}\n{where}"
    )
    assert "pulid-flux-native" in where, f"{report['exception_message']}\n{where}"
    assert len(report["exception_message"]) > 20
    return "named error"


def fuzz(server, plain: dict[str, dict], seeds: range) -> Counter:
    """Run a random prompt for each seed and return how often each end came."""
    info = server.object_info()
    save_identity(person(1), server.base / "models" / "pulid_identities" / "fuzz.safetensors")
    ends = Counter()
    for seed in seeds:
        prompt = Maker(f"prompt {seed}", plain, info).make()
        try:
            ends[outcome(server, prompt)] += 1
        except Exception as error:
            own = {k: v for k, v in prompt.items() if v["class_type"].startswith("PuLID")}
            raise AssertionError(f"prompt {seed}: {json.dumps(own)}\n{error}") from error
    assert server.process.poll() is None
    log.info("%d prompts: %s", len(seeds), dict(ends))
    return ends


def test_random_prompts(server, plain):
    ends = fuzz(server, plain, range(40))
    assert min(ends[end] for end in ("picture", "refused", "named error")) >= 3, ends


@pytest.mark.slow
def test_many_random_prompts(server, plain):
    ends = fuzz(server, plain, range(1000, 1300))
    assert min(ends[end] for end in ("picture", "refused", "named error")) >= 20, ends
