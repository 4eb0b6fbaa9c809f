"""What a sweep has to do: identities, pictures and measurements, each named by what it is made of.

Equal work has equal keys, so that the picture without identity is rendered once for all weights,
and what is in the result folder already is not done again.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .graphs import (
    APPLIES,
    ENCODE,
    LOAD,
    Prompt,
    encoding,
    find_apply,
    find_photo,
    rendering,
    rendering_plain,
    set_seed,
    set_setting,
)

JUDGE = "PuLIDFluxLoadInsightFace"
EYE = "PuLIDFluxLoadEVACLIP"
# where a workflow with a saved identity has no face models of its own
JUDGE_INPUTS = {
    "model_pack": "antelopev2",
    "provider": "auto",
    "parsing_model": "parsing_bisenet.pth",
    "landmarks": "model pack",
}


@dataclass(frozen=True)
class Wish:
    """What the command line asks for."""

    workflow: Prompt
    vary: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    photos: Sequence[Path] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    judge: str | None = None  # a face pack


@dataclass(frozen=True)
class Job:
    """One prompt: its key, and the id of the node whose picture or file counts.

    In its prompt ``mark`` stands for the photo, which has another name on each server.
    """

    key: str
    prompt: Prompt = field(compare=False, repr=False)
    output: str = field(compare=False)
    name: str = field(compare=False, default="")  # of the file, for people
    photo: Path | None = field(compare=False, default=None)
    mark: str = field(compare=False, default="")


@dataclass(frozen=True)
class Cell:
    """One picture with identity, the one without it, and how they are to be measured."""

    photo: Path | None
    settings: Mapping[str, Any]
    seed: int
    identity: Job | None
    plain: Job
    picture: Job
    key: str  # of the measurement


def digest(*parts: Any) -> str:
    """Return a short hash of JSON values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plan(wish: Wish, info: Mapping[str, Any]) -> list[Cell]:
    """Return the cells of a sweep, photo by photo, setting by setting, seed by seed.

    info: ``/object_info``. Raises ValueError if the workflow does not fit.
    """
    names = list(wish.vary)
    combinations = list(itertools.product(*wish.vary.values()))
    contents = {photo: content(photo) for photo in wish.photos}
    return [
        cell(
            wish, info, photo, contents.get(photo, ""), dict(zip(names, values, strict=True)), seed
        )
        for photo in wish.photos or [None]
        for values in combinations
        for seed in wish.seeds
    ]


def cell(
    wish: Wish,
    info: Mapping[str, Any],
    photo: Path | None,
    what: str,
    settings: dict[str, Any],
    seed: int,
) -> Cell:
    """Plan one picture; ``what`` is the photo's content in keys."""
    prompt = copy.deepcopy(wish.workflow)
    for where, value in {**wish.settings, **settings}.items():
        set_setting(prompt, where, value)
    set_seed(prompt, seed)
    apply = find_apply(prompt)
    loads = encoding(prompt, apply, info[ENCODE]["input"]) is None
    if not loads and photo is None:
        raise ValueError("The workflow encodes a photo: give one or more with --photo.")
    if loads and photo is not None:
        raise ValueError(
            "The workflow loads a saved identity, so that --photo would change nothing. Leave it "
            "out, or choose a workflow with Encode or Apply."
        )
    identity = None
    if not loads:
        encoder = prompt[apply]["inputs"].get("identity", [apply])[0]
        prompt[find_photo(prompt, encoder)]["inputs"]["image"] = what
        encode = encoding(prompt, apply, info[ENCODE]["input"])
        identity = Job(digest(encode), encode, "save", photo.stem, photo, what)
    kind = APPLIES[prompt[apply]["class_type"]]
    graph, output = rendering(prompt, apply, info[kind]["input"])
    if identity is not None:
        graph["identity"]["inputs"]["name"] = identity.key
    person = photo.stem if photo else "identity"
    setting = "".join(f" {k.rpartition('.')[2]} {v}," for k, v in settings.items())
    picture = Job(digest(graph), graph, output, f"{person}{setting} seed {seed}", photo, what)
    graph, output = rendering_plain(prompt, apply)
    plain = Job(digest(graph), graph, output, f"without seed {seed}", photo, what)
    key = digest(picture.key, plain.key, what, judges(wish))
    return Cell(photo, settings, seed, identity, plain, picture, key)


def content(photo: Path) -> str:
    """Return what stands for a photo in keys: a hash of the file."""
    return hashlib.sha256(photo.read_bytes()).hexdigest()[:24]


def judges(wish: Wish) -> dict[str, dict[str, Any]]:
    """Return the nodes that load what measures: the workflow's own, with the pack asked for."""
    kinds = {entry["class_type"]: entry["inputs"] for entry in wish.workflow.values()}
    faces = {**kinds.get(JUDGE, JUDGE_INPUTS)}
    if wish.judge:
        faces["model_pack"] = wish.judge
    found = {"judge": {"class_type": JUDGE, "inputs": faces}}
    if EYE in kinds:
        found["eye"] = {"class_type": EYE, "inputs": dict(kinds[EYE])}
    return found


def measuring(
    wish: Wish, one: Cell, picture: str, plain: str, photo: str | None, identity: str | None
) -> Prompt:
    """Return the prompt that measures a cell, by the names of uploaded files.

    The numbers are those of the nodes ``alike`` and ``disturbed``.
    """
    prompt = judges(wish)
    for node, name in (("picture", picture), ("plain", plain), ("photo", photo)):
        if name is not None:
            prompt[node] = {"class_type": "LoadImage", "inputs": {"image": name}}
    pair = {"image": ["picture", 0], "face_analysis": ["judge", 0]}
    alike = {**pair, "people": "one person"}
    if photo is not None:
        alike["reference"] = ["photo", 0]
    if identity is None:  # the workflow's own
        (load,) = (e for e in one.picture.prompt.values() if e["class_type"] == LOAD)
        prompt["identity"] = copy.deepcopy(load)
    else:
        inputs = {"name": identity}
        prompt["identity"] = {"class_type": LOAD, "inputs": inputs}
    alike["identity"] = ["identity", 0]
    disturbed = {**pair, "plain_image": ["plain", 0]}
    if "eye" in prompt:
        disturbed["eva_clip"] = ["eye", 0]
    prompt["alike"] = {"class_type": "PuLIDMeasureIdentity", "inputs": alike}
    prompt["disturbed"] = {"class_type": "PuLIDMeasureDisruption", "inputs": disturbed}
    return prompt


def file_name(job: Job) -> str:
    """Return the name of a job's file without suffix, readable and unique."""
    readable = re.sub(r"[^\w.=+-]+", "-", job.name)[:80].strip("-.")
    return f"{readable}-{job.key}"
