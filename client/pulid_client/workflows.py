"""Prompts in API form: finding nodes by title, and setting their inputs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

Prompt = dict[str, dict[str, Any]]

SAVE = "Save picture"
# What ``render`` has a name for: the places it can have, title and input, in the pack's workflows.
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "photo": (("Photo of the person", "image"),),
    "identity": (("Load PuLID Identity", "name"),),
    "prompt": (("Prompt", "text"), ("Prompt", "value")),
    "negative": (
        ("Negative prompt", "text"),
        ("Negative prompt (counts when cfg is above 1)", "text"),
        ("Negative prompt (not used at cfg 1)", "text"),
        ("Negative prompt", "value"),
    ),
    "weight": (
        ("Apply PuLID-Flux", "weight"),
        ("Apply PuLID-Flux Identity", "weight"),
        ("Apply PuLID-SDXL", "weight"),
        ("Apply PuLID-SDXL Identity", "weight"),
        ("ID guidance", "value"),
    ),
    "seed": (("Seed", "value"), ("Sampler", "seed")),
    "steps": (("Steps", "value"), ("Sampler", "steps")),
    "width": (("Width", "value"), ("Empty latent", "width")),
    "height": (("Height", "value"), ("Empty latent", "height")),
}


def copied(prompt: Mapping[str, Any]) -> Prompt:
    """Return a prompt whose inputs can be set while the given one stays; values are shared."""
    return {node: {**entry, "inputs": dict(entry["inputs"])} for node, entry in prompt.items()}


def titles(prompt: Prompt) -> dict[str, list[str]]:
    """Return title -> ids of the nodes that have it; a node without one has its class's name."""
    found: dict[str, list[str]] = {}
    for node, entry in prompt.items():
        title = (entry.get("_meta") or {}).get("title") or entry["class_type"]
        found.setdefault(title, []).append(node)
    return found


def node_titled(prompt: Prompt, title: str) -> str:
    """Return the id of the only node of that title; ValueError naming the titles there are."""
    known = titles(prompt)
    nodes = known.get(title, [])
    if len(nodes) == 1:
        return nodes[0]
    if nodes:
        raise ValueError(
            f"{len(nodes)} nodes have the title {title!r} ({', '.join(nodes)}): give each a title "
            "of its own in ComfyUI, and export the workflow again."
        )
    raise ValueError(f"No node has the title {title!r}.{similar(title, known)}")


def similar(name: str, known: Mapping[str, Any]) -> str:
    """Return what may have been meant, and all there is."""
    close = difflib.get_close_matches(name, known, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    return f"{meant} There: {', '.join(map(repr, known))}."


def set_inputs(prompt: Prompt, settings: Mapping[str, Any]) -> None:
    """Set inputs by ``"title.input"``, such as ``{"Sampler.steps": 28}``.

    Raises ValueError if there is no such title, more than one, or no such input in its node.
    """
    for where, value in settings.items():
        title, dot, name = where.rpartition(".")
        if not dot:
            raise ValueError(f"{where!r} is not of the form 'title.input', as in 'Sampler.steps'.")
        node = node_titled(prompt, title)
        inputs = prompt[node]["inputs"]
        if name not in inputs:
            raise ValueError(f"{title!r} has no input {name!r}.{similar(name, inputs)}")
        if isinstance(inputs[name], list):
            source = prompt[inputs[name][0]]
            there = (source.get("_meta") or {}).get("title") or source["class_type"]
            raise ValueError(f"{where!r} comes from the node {there!r}: set that one's value.")
        inputs[name] = value


def places(prompt: Prompt, common: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings for what ``render`` has names for; None stands for what is to stay.

    Raises ValueError if the workflow has no place for one.
    """
    known = titles(prompt)
    settings = {}
    if unknown := [name for name in common if name not in PLACES]:
        raise ValueError(f"There is no name {unknown[0]!r}.{similar(unknown[0], PLACES)}")
    for name, value in common.items():
        if value is None:
            continue
        for title, field in PLACES[name]:
            if len(known.get(title, ())) == 1 and field in prompt[known[title][0]]["inputs"]:
                settings[f"{title}.{field}"] = value
                break
        else:
            looked = ", ".join(repr(f"{title}.{field}") for title, field in PLACES[name])
            raise ValueError(
                f"The workflow has no place for {name!r} (looked for {looked}). Give it in "
                f"settings, as 'title.input'. Titles there: {', '.join(map(repr, known))}."
            )
    return settings
