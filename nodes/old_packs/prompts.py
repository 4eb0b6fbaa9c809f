"""Workflows made for older PuLID-FLUX packs, upgraded to this pack's nodes.

One table (``table``) serves both ways in: ComfyUI's node replacement for files opened in the
page, and a step before validation for prompts posted to the API. A node is left alone while its own
pack is there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from comfy_api import latest
from comfy_api.latest import io
from server import PromptServer

import nodes as host

from .. import apply, encode, folders, load
from .files import serve
from .table import OLD, PARTS, TABLE, Old

log = logging.getLogger(__name__)

Prompt = dict[str, dict[str, Any]]
Values = Mapping[str, Any]
Link = list[Any]

CLASSES = {cls.__name__: cls for cls in (*load.NODES, *encode.NODES, *apply.NODES)}


NEW_PARTS = ("PuLIDFluxLoadModel", "PuLIDFluxLoadEVACLIP", "PuLIDFluxLoadInsightFace")
FILES = {"PuLIDFluxLoadModel": folders.PULID, "PuLIDFluxLoadEVACLIP": folders.EVA_CLIP}
NO_NUNCHAKU = (
    "PuLID-Flux Native cannot put an identity into nunchaku's own engine; load a FLUX checkpoint "
    "with Load Diffusion Model instead"
)


async def register() -> None:
    """Tell ComfyUI about the older nodes; without node replacement there is the API step only."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    server.add_on_prompt_handler(on_prompt)
    serve(server)
    replacement = getattr(latest.ComfyAPI(), "node_replacement", None)
    if replacement is None:
        log.info("This ComfyUI cannot replace nodes of older PuLID packs in opened files.")
        return
    for old in TABLE:
        if old.new_id and not old.passes:  # one node for one: all that the page can do
            await replacement.register(node_replace(old))


def node_replace(old: Old) -> io.NodeReplace:
    """Return the table's row as ComfyUI's page takes it: set values first, the file's own win."""
    known = {i.id for i in CLASSES[old.new_id].define_schema().inputs}
    mapping = [{"new_id": new, "set_value": value} for new, value in old.values.items()]
    mapping += [{"new_id": n, "old_id": o} for o, n in old.inputs.items() if n in known]
    return io.NodeReplace(
        new_node_id=old.new_id,
        old_node_id=old.id,
        old_widget_ids=old.widget_names() or None,
        input_mapping=mapping or None,
        output_mapping=[{"old_idx": i, "new_idx": new} for i, new in enumerate(old.outputs)],
    )


def on_prompt(json_data: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a prompt on its way into the queue; ComfyUI calls this for each."""
    prompt = json_data.get("prompt")
    if not isinstance(prompt, dict):
        return json_data
    old = find_old(prompt)
    if not old:
        return json_data
    info = (json_data.get("extra_data") or {}).get("extra_pnginfo") or {}
    upgraded = Upgrade(prompt, old, info.get("workflow") or {}).run()
    kinds = ", ".join(sorted({o.id for o in old.values()}))
    log.info("Nodes of an older PuLID pack were replaced: %s.", kinds)
    return json_data | {"prompt": upgraded}


def find_old(prompt: Prompt) -> dict[str, Old]:
    """Return the older nodes in ``prompt`` whose own pack is not installed, by node id."""
    kinds = {key: node.get("class_type") for key, node in prompt.items() if isinstance(node, dict)}
    missing = {key: kind for key, kind in kinds.items() if kind not in host.NODE_CLASS_MAPPINGS}
    return {key: OLD[kind] for key, kind in missing.items() if kind in OLD}


def upgrade(prompt: Prompt, workflow: Values | None = None) -> Prompt:
    """Return ``prompt`` with older nodes replaced; ``workflow`` is the file it was made from."""
    return Upgrade(prompt, find_old(prompt), workflow or {}).run()


class Upgrade:
    """One prompt on the way from older nodes to new ones; the prompt given stays as it is."""

    def __init__(self, prompt: Prompt, old: Mapping[str, Old], workflow: Values):
        self.before = prompt
        self.old = old
        self.prompt = {
            key: {**node, "inputs": self.followed(node.get("inputs") or {})}
            for key, node in prompt.items()
        }
        # A page that does not know a node sends its links only; the values are in the file.
        self.stored = {str(n["id"]): n.get("widgets_values") for n in workflow.get("nodes") or []}
        self.parts: dict[str, dict[str, str]] = {}  # nunchaku's loader -> our loaders

    def run(self) -> Prompt:
        """Return the upgraded prompt."""
        given = {key: self.values_of(key) for key in self.old}
        for key, old in self.old.items():
            if old.id == "NunchakuPuLIDLoaderV2":
                self.split_loader(key, given[key])
            elif not old.new_id:
                del self.prompt[key]
        for key, old in self.old.items():
            if old.new_id and key not in self.parts:
                self.replace(key, old, given)
        for key, old in self.old.items():
            if old.new_id == "PuLIDFluxEncodeIdentity":
                self.complete(self.prompt[key]["inputs"])
        self.explain_nunchaku()
        return self.prompt

    def values_of(self, key: str) -> dict[str, Any]:
        """Return an older node's inputs, from the file where the prompt lacks a widget's."""
        names = self.old[key].widget_names()
        stored = self.stored.get(key)
        found = dict(zip(names, stored, strict=False)) if isinstance(stored, list) else {}
        return found | self.prompt[key]["inputs"]

    def split_loader(self, key: str, given: Values) -> None:
        """Put our three loaders in the place of nunchaku's one."""
        new = self.old[key].renamed(given)
        self.set(key, "PuLIDFluxLoadModel", {"model_name": new.get("model_name")})
        eva = self.add("PuLIDFluxLoadEVACLIP", {"model_name": new.get("eva")})
        faces = self.add("PuLIDFluxLoadInsightFace", {"provider": new.get("provider")})
        self.parts[key] = dict(zip(NEW_PARTS, (key, eva, faces), strict=True))

    def replace(self, key: str, old: Old, given: Mapping[str, Values]) -> None:
        """Put the new node in the place of the older one ``key``."""
        mine = given[key]
        inputs = dict(old.values) | old.renamed(mine)
        options = mine.get("options")
        if is_link(options) and (chosen := self.old.get(str(options[0]))):
            inputs |= chosen.renamed(given[str(options[0])])
        pipeline = mine.get("pulid_pipline")  # so spelled there
        if is_link(pipeline) and (parts := self.parts.get(str(pipeline[0]))):
            inputs |= {
                n: [parts[kind], 0] for n, kind in zip(PARTS.values(), NEW_PARTS, strict=True)
            }
        self.set(key, old.new_id, inputs)

    def set(self, key: str, new_id: str, inputs: Values) -> None:
        """Make node ``key`` a ``new_id``; what is not given gets the widget's usual value."""
        given = {name: value for name, value in inputs.items() if value is not None}
        if new_id in FILES and isinstance(given.get("model_name"), str):
            given["model_name"] = same_file(FILES[new_id], given["model_name"])
        kept = self.prompt.get(key, {})
        self.prompt[key] = {**kept, "class_type": new_id, "inputs": defaults(new_id) | given}

    def add(self, new_id: str, inputs: Values) -> str:
        """Add a node and return its id, a number that no other node has."""
        key = str(1 + max((int(k) for k in self.prompt if k.isdecimal()), default=0))
        self.set(key, new_id, inputs)
        self.prompt[key]["_meta"] = {"title": CLASSES[new_id].define_schema().display_name}
        return key

    def complete(self, inputs: dict[str, Any]) -> None:
        """Give a former face detector the models it did not need, the prompt's own if there."""
        for name, kind in zip(("pulid_model", "eva_clip"), NEW_PARTS, strict=False):
            if name in inputs:
                continue
            there = [k for k, node in self.prompt.items() if node.get("class_type") == kind]
            inputs[name] = [there[0] if there else self.add(kind, {}), 0]

    def followed(self, inputs: Values) -> dict[str, Any]:
        """Return a node's inputs with every link past the nodes that are gone or changed."""
        links = {name: self.follow(value) for name, value in inputs.items()}
        return {name: value for name, value in links.items() if value is not None}

    def follow(self, value: Any) -> Any:
        """Return the link that reaches the same thing, None where there is nothing to reach."""
        seen: set[str] = set()
        while is_link(value) and (key := str(value[0])) in self.old and key not in seen:
            seen.add(key)
            old, slot = self.old[key], value[1]
            if not old.passes or slot > 0:
                return [key, old.outputs[slot] if slot < len(old.outputs) else 0]
            value = (self.before[key].get("inputs") or {}).get(old.passes)
        return value

    def explain_nunchaku(self) -> None:
        """Let ComfyUI's message about nunchaku's model loader say what to do, if it is missing."""
        if not any(old.id.startswith("Nunchaku") for old in self.old.values()):
            return
        for node in self.prompt.values():
            kind = str(node.get("class_type"))
            if kind.startswith("Nunchaku") and kind not in host.NODE_CLASS_MAPPINGS:
                log.warning("%s: %s.", kind, NO_NUNCHAKU)
                node["_meta"] = {**(node.get("_meta") or {}), "title": f"{kind} ({NO_NUNCHAKU})"}


def defaults(new_id: str) -> dict[str, Any]:
    """Return what a new node's required widgets hold at first; for files, one that is there."""
    found = {}
    for one in CLASSES[new_id].define_schema().inputs:
        value = getattr(one, "default", None)
        if value is None and getattr(one, "options", None):
            value = one.options[0]
        if value is not None and not one.optional:
            found[one.id] = value
    return found


def same_file(kind: folders.Kind, name: str) -> str:
    """Return ``name`` as it is listed here; a file saved on Windows has backslashes."""
    listed = name.replace("\\", "/")
    return listed if listed in folders.options(kind) else name


def is_link(value: Any) -> bool:
    """Return whether an input's value is a link [node id, output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)
