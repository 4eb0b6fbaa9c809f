"""Identities taken out of prompts: encoded once, loaded from a file everywhere else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .workflows import Prompt, copied

ENCODE, SAVE, LOAD = "PuLIDFluxEncodeIdentity", "PuLIDFluxSaveIdentity", "PuLIDFluxLoadIdentity"
APPLY_IDENTITY = {
    "PuLIDFluxApply": "PuLIDFluxApplyIdentity",
    "PuLIDSDXLApply": "PuLIDSDXLApplyIdentity",
}
KINDS = (ENCODE, *APPLY_IDENTITY.values())  # whose inputs ``take_out`` has to know
SAVED = "save identity"  # the id of the node that saves, in an encoding prompt

Inputs = Mapping[str, set[str]]  # node class -> the names of its inputs, as the server has them


def content_key(prompt: Prompt, node: str, slot: int = 0) -> str:
    """Return a hash of what an output is made from, whatever the nodes' ids."""
    entry = prompt[node]
    inputs = {
        name: ["from", content_key(prompt, *value)] if is_link(prompt, value) else value
        for name, value in entry["inputs"].items()
    }
    content = json.dumps([entry["class_type"], slot, inputs], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def is_link(prompt: Prompt, value: Any) -> bool:
    """Return whether an input's value is another node's output."""
    return isinstance(value, list) and len(value) == 2 and str(value[0]) in prompt


def take_out(prompt: Prompt, known: Inputs) -> tuple[Prompt, dict[str, Prompt]]:
    """Return the prompt with loaded identities, and the prompts that encode these, by their key.

    Where a photo without a face is not an error, its picture is the plain model's, which a file
    cannot say; and what is painted first is no photo: such nodes stay as they are.
    """
    prompt = copied(prompt)
    encodings: dict[str, Prompt] = {}
    replaced: set[str] = set()
    for node in list(prompt):
        entry = prompt[node]
        kind, inputs = entry["class_type"], entry["inputs"]
        if inputs.get("on_no_face") != "error" or painted(prompt, node):
            continue
        if kind in APPLY_IDENTITY:
            encode = {k: v for k, v in inputs.items() if k in known[ENCODE]}
            key = loaded(prompt, node, encode, encodings)
            rest = {k: v for k, v in inputs.items() if k in known[APPLY_IDENTITY[kind]]}
            entry["class_type"] = APPLY_IDENTITY[kind]
            entry["inputs"] = rest | {"identity": [key, 0]}
        elif kind == ENCODE and outputs_used(prompt, node) == {0}:
            key = loaded(prompt, node, inputs, encodings)
            replaced.add(node)
            for other in prompt.values():
                for name, value in other["inputs"].items():
                    if is_link(prompt, value) and value[0] == node:
                        other["inputs"][name] = [key, 0]
    replaced |= {each for encoding in encodings.values() for each in encoding}
    return ancestors(prompt, [each for each in prompt if each not in replaced]), encodings


def painted(prompt: Prompt, node: str) -> bool:
    """Return whether a node's photo comes out of another node that puts an identity in."""
    image = prompt[node]["inputs"].get("image")
    sources = ancestors(prompt, [image[0]]) if is_link(prompt, image) else {}
    kinds = {*APPLY_IDENTITY, *APPLY_IDENTITY.values()}
    return any(entry["class_type"] in kinds for entry in sources.values())


def loaded(prompt: Prompt, node: str, encode: dict, encodings: dict[str, Prompt]) -> str:
    """Add a node that loads what ``encode`` makes; return its id. Note how to make it."""
    whole = prompt | {ENCODE: {"class_type": ENCODE, "inputs": encode}}
    key = content_key(whole, ENCODE)
    save = {"identity": [ENCODE, 0], "name": f"farm_{key}", "overwrite": True}
    whole[SAVED] = {"class_type": SAVE, "inputs": save | {"precision": "float32"}}
    encodings[key] = ancestors(whole, [SAVED])
    title = "Load PuLID Identity" + (f" {node}" if len(encodings) > 1 else "")
    inputs, meta = {"name": f"{key}.safetensors"}, {"title": title}
    prompt[f"{node} identity"] = {"class_type": LOAD, "inputs": inputs, "_meta": meta}
    return f"{node} identity"


def outputs_used(prompt: Prompt, node: str) -> set[int]:
    """Return the numbers of a node's outputs that others take."""
    values = [value for entry in prompt.values() for value in entry["inputs"].values()]
    return {value[1] for value in values if is_link(prompt, value) and value[0] == node}


def ancestors(prompt: Prompt, ends: list[str]) -> Prompt:
    """Return the nodes that ``ends`` need, in the prompt's order."""
    found, waiting = set(), list(ends)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            values = prompt[node]["inputs"].values()
            waiting += [value[0] for value in values if is_link(prompt, value)]
    return {node: entry for node, entry in prompt.items() if node in found}
