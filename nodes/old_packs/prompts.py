"""Prompts for older PuLID packs, upgraded on their way into the queue.

Files are upgraded when the page opens them (``files``); this is for what is posted to the API, and
for a page that could not reach the server when it opened the file.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

from server import PromptServer

from . import files
from .graph import GETS, SETS, Graph, Key, Link, Node, pass_on
from .records import as_dict
from .table import OLD
from .upgrade import Upgrade

log = logging.getLogger(__name__)

Prompt = dict[str, Any]
KINDS = list(OLD)  # no set: a broken prompt's class may be anything


async def register() -> None:
    """Have every prompt and, through a route, every opened file upgraded.

    ComfyUI's own node replacement is not used: it exchanges one node for one, after "Replace All"
    was pressed, and there is nothing left for it to do.
    """
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.add_on_prompt_handler(on_prompt)
        files.serve(server)


def on_prompt(json_data: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a prompt; ComfyUI calls this for each. What cannot be kept is said in the log."""
    prompt = json_data.get("prompt")
    if not isinstance(prompt, dict):
        return json_data
    upgraded, message = upgrade(prompt, workflow_of(json_data))
    if not message:
        return json_data
    log.warning("%s", message) if "\n" in message else log.info("%s", message)
    return json_data | {"prompt": upgraded}


def workflow_of(json_data: dict[str, Any]) -> Any:
    """Return the file that a prompt was made from, as the page sends it along."""
    for name in ("extra_data", "extra_pnginfo", "workflow"):
        json_data = json_data.get(name) if isinstance(json_data, dict) else None
    return json_data


def upgrade(prompt: Prompt, workflow: Any = None) -> tuple[Prompt, str]:
    """Return the prompt with older nodes exchanged, and what is to be said, "" if there were none.

    ``workflow`` is the file it was made from: a page that does not know a node sends its links
    only, and the values are in the file. The prompt given stays as it is.
    """
    if not any(as_dict(node).get("class_type") in KINDS for node in prompt.values()):
        return prompt, ""
    graph, unreadable = read(prompt, workflow)
    upgrade = Upgrade(graph, lambda scope, beside, number: next_key(graph))
    upgrade.run()
    if not upgrade.kinds:
        return prompt, ""
    upgrade.notes += unreadable
    return write(graph, upgrade), upgrade.message()


def read(prompt: Prompt, workflow: Any) -> tuple[Graph, list[str]]:
    """Return the graph of a prompt, and what is said about entries that are not nodes."""
    graph, unreadable, names, stored = Graph(), [], {}, files.Stored(workflow)
    for key, raw in prompt.items():
        if not isinstance(raw, dict) or not isinstance(raw.get("class_type"), str):
            unreadable.append(f"Entry {key} of the prompt is not a node and was left out.")
            continue
        inputs = as_dict(raw.get("inputs"))
        node = graph.nodes["", key] = Node(raw["class_type"], copy.deepcopy(raw))
        node.links = {n: Link(("", str(v[0])), v[1]) for n, v in inputs.items() if is_link(v)}
        given = {n: copy.deepcopy(v) for n, v in inputs.items() if n not in node.links}
        node.values = stored.values(key) | given
        if node.kind in (*SETS, *GETS):
            text = next((v for v in node.values.values() if isinstance(v, str)), None)
            names["", key] = text
    pass_on(graph, names)
    return graph, unreadable


def is_link(value: Any) -> bool:
    """Return whether an input's value is a link [node id, output]."""
    if not isinstance(value, list) or len(value) != 2 or isinstance(value[1], bool):
        return False
    return isinstance(value[0], (str, int)) and isinstance(value[1], int)


def next_key(graph: Graph) -> Key:
    """Return a number that no node has."""
    numbers = [int(key) for _, key in graph.nodes if key.isascii() and key.isdigit()]
    return "", str(1 + max(numbers, default=0))


def write(graph: Graph, upgrade: Upgrade) -> Prompt:
    """Return the graph as a prompt. ComfyUI refuses what was left by its title, which says why."""
    prompt = {}
    for key, node in graph.nodes.items():
        raw = prompt[key[1]] = node.raw
        links = {n: [x.source[1], x.slot] for n, x in node.links.items() if isinstance(n, str)}
        if node.new:
            raw["class_type"], raw["inputs"] = node.kind, node.values | links
        else:
            inputs = as_dict(raw.get("inputs"))
            kept = [n for n, value in inputs.items() if n in links or not is_link(value)]
            raw["inputs"] = {n: links.get(n, inputs[n]) for n in kept}
        meta = as_dict(raw.get("_meta"))
        if key in upgrade.left:
            raw["_meta"] = meta | {"title": f"{node.kind} ({upgrade.left[key]})"}
        elif node.new and not meta:
            raw["_meta"] = {"title": upgrade.new(node.kind).schema.display_name}
    return prompt
