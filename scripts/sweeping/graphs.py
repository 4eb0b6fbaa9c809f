"""Prompts in API form, taken apart: what encodes a photo, what renders with it and without it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Prompt = dict[str, dict[str, Any]]

# the nodes that put an identity into a model, and their forms that take a ready identity
APPLIES = {
    "PuLIDFluxApply": "PuLIDFluxApplyIdentity",
    "PuLIDSDXLApply": "PuLIDSDXLApplyIdentity",
    "PuLIDFluxApplyIdentity": "PuLIDFluxApplyIdentity",
    "PuLIDSDXLApplyIdentity": "PuLIDSDXLApplyIdentity",
}
ENCODE, SAVE, LOAD = "PuLIDFluxEncodeIdentity", "PuLIDFluxSaveIdentity", "PuLIDFluxLoadIdentity"
SHOWS = ("SaveImage", "PreviewImage")
SAVE_PICTURE = "Save picture"  # the title of the node whose picture it is, in the pack's workflows
SEEDS = ("seed", "noise_seed")


def title(entry: Mapping[str, Any]) -> str:
    """Return what a node is called."""
    return (entry.get("_meta") or {}).get("title") or entry["class_type"]


def sources(entry: Mapping[str, Any]) -> list[str]:
    """Return the ids of the nodes that a node's inputs come from."""
    return [value[0] for value in entry["inputs"].values() if isinstance(value, list)]


def ancestors(prompt: Prompt, node: str) -> Prompt:
    """Return ``node`` and all that it needs."""
    found: Prompt = {}
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found[one] = prompt[one]
            waiting += sources(prompt[one])
    return {key: copy.deepcopy(entry) for key, entry in prompt.items() if key in found}


def find_apply(prompt: Prompt) -> str:
    """Return the id of the node that puts the identity in; ValueError if it is not exactly one."""
    found = [key for key, entry in prompt.items() if entry["class_type"] in APPLIES]
    if len(found) != 1:
        there = ", ".join(f"{title(prompt[key])} (node {key})" for key in found) or "none"
        raise ValueError(
            f"A sweep needs exactly one node that applies an identity; this workflow has {there}. "
            "Export one with a single person (Workflow > Export (API))."
        )
    return found[0]


def find_output(prompt: Prompt) -> str:
    """Return the id of the node whose picture is measured; ValueError if it is not clear which."""
    shown = [key for key, entry in prompt.items() if entry["class_type"] in SHOWS]
    saved = [key for key in shown if prompt[key]["class_type"] == "SaveImage"]
    named = [key for key in shown if title(prompt[key]) == SAVE_PICTURE]
    for found in (named, saved, shown):
        if len(found) == 1:
            return found[0]
    there = ", ".join(f"{title(prompt[key])} (node {key})" for key in shown) or "none"
    raise ValueError(
        f"It is not clear whose picture to measure: {there}. Give one Save Image node the title "
        f"'{SAVE_PICTURE}'."
    )


def find_photo(prompt: Prompt, node: str) -> str:
    """Return the id of the only Load Image that ``node`` gets its photo from."""
    link = prompt[node]["inputs"].get("image")
    above = ancestors(prompt, link[0]) if isinstance(link, list) else {}
    found = [key for key, entry in above.items() if entry["class_type"] == "LoadImage"]
    if len(found) != 1:
        raise ValueError(
            f"The photo of {title(prompt[node])} comes from {len(found)} Load Image nodes, "
            "expected one, in which each --photo takes its turn."
        )
    return found[0]


def set_input(prompt: Prompt, node: str, name: str, value: Any) -> None:
    """Set an input, or the value of the node that it comes from."""
    inputs = prompt[node]["inputs"]
    if not isinstance(inputs.get(name), list):
        inputs[name] = value
        return
    source = inputs[name][0]
    if "value" not in prompt[source]["inputs"]:
        raise ValueError(
            f"{name} of {title(prompt[node])} comes from {title(prompt[source])}, which has no "
            "value to set. Remove that link, or vary an input of that node."
        )
    set_input(prompt, source, "value", value)


def set_setting(prompt: Prompt, where: str, value: Any) -> None:
    """Set ``title.input``, or an input by its name alone: of the Apply node, or the only one.

    Raises ValueError naming what there is.
    """
    of, dot, name = where.rpartition(".")
    if dot:
        nodes = [key for key, entry in prompt.items() if title(entry) == of]
        if not nodes:
            there = ", ".join(sorted({title(entry) for entry in prompt.values()}))
            raise ValueError(f"No node has the title '{of}'. There: {there}.")
    else:
        apply = find_apply(prompt)
        nodes = [apply]
        if name not in prompt[apply]["inputs"]:
            nodes = [key for key, entry in prompt.items() if name in entry["inputs"]]
    nodes = [key for key in nodes if name in prompt[key]["inputs"]]
    if len(nodes) != 1:
        inputs = ", ".join(prompt[find_apply(prompt)]["inputs"])
        raise ValueError(
            f"{len(nodes)} nodes have an input for '{where}', expected one. The Apply node has: "
            f"{inputs}. For another node write 'its title.{name}'."
        )
    set_input(prompt, nodes[0], name, value)


def set_seed(prompt: Prompt, seed: int) -> None:
    """Set the seed of every sampler; ValueError if there is none."""
    places = [(k, n) for k, entry in prompt.items() for n in SEEDS if n in entry["inputs"]]
    for node, name in places:
        set_input(prompt, node, name, seed)
    if not places:
        raise ValueError(
            f"No node has an input named {' or '.join(SEEDS)}, so --seeds sets nothing. Sample "
            "with KSampler, or with Random Noise."
        )


def encoding(prompt: Prompt, apply: str, known: Mapping[str, Any]) -> Prompt | None:
    """Return the prompt that encodes the photo and saves its identity; None if one is loaded.

    known: the inputs of Encode PuLID Identity, as ``/object_info`` describes them.
    """
    inputs = prompt[apply]["inputs"]
    if "identity" not in inputs:  # the node encodes the photo itself
        required = known["required"]
        defaults = {k: v[1]["default"] for k, v in required.items() if v[1:] and "default" in v[1]}
        names = {**required, **known.get("optional", {})}
        own = defaults | {k: v for k, v in inputs.items() if k in names}
        graph = {**prompt, "encode": {"class_type": ENCODE, "inputs": own}}
        encode = "encode"
    else:
        graph, encode = prompt, inputs["identity"][0]
        if graph[encode]["class_type"] == LOAD:
            return None
        if graph[encode]["class_type"] != ENCODE:
            raise ValueError(
                f"The identity comes from {title(graph[encode])}, expected Encode or Load PuLID "
                "Identity. Link one of them."
            )
    saving = {"identity": [encode, 0], "name": "sweep", "overwrite": True, "precision": "float32"}
    graph = {**graph, "save": {"class_type": SAVE, "inputs": saving}}
    return ancestors(graph, "save")


def rendering(prompt: Prompt, apply: str, known: Mapping[str, Any]) -> tuple[Prompt, str]:
    """Return the prompt that renders with a saved identity, and the id of its output.

    The file is named by the node ``identity``. known: the inputs of the node that applies an
    identity, as ``/object_info`` describes them.
    """
    entry = prompt[apply]
    inputs = entry["inputs"]
    if "identity" not in inputs or prompt[inputs["identity"][0]]["class_type"] != LOAD:
        names = {**known["required"], **known.get("optional", {})}
        inputs = {k: v for k, v in inputs.items() if k in names} | {"identity": ["identity", 0]}
        load = {"identity": {"class_type": LOAD, "inputs": {"name": ""}}}
        applied = {**entry, "class_type": APPLIES[entry["class_type"]], "inputs": inputs}
        prompt = {**prompt, apply: applied, **load}
    return shown(prompt)


def rendering_plain(prompt: Prompt, apply: str) -> tuple[Prompt, str]:
    """Return the prompt that renders without the identity, and the id of its output."""
    model = prompt[apply]["inputs"]["model"]
    bypassed = {
        key: {
            **entry,
            "inputs": {
                k: model if isinstance(v, list) and v[0] == apply else v
                for k, v in entry["inputs"].items()
            },
        }
        for key, entry in prompt.items()
        if key != apply
    }
    return shown(bypassed)


def shown(prompt: Prompt) -> tuple[Prompt, str]:
    """Return what the output needs, showing its picture instead of saving it; and its id."""
    output = find_output(prompt)
    graph = ancestors(prompt, output)
    images = graph[output]["inputs"]["images"]
    graph[output] = {**graph[output], "class_type": "PreviewImage", "inputs": {"images": images}}
    return graph, output
