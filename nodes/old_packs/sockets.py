"""One graph of a file (its root or a subgraph): sockets and links read and written.

A link stands in three places there: in the list of links, at the input, and at the output.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from .graph import Graph, Key, Link, Node
from .records import HEIGHT, STEP, WIDTH, as_dict, as_list, free_place, is_id, pair
from .rows import TYPES
from .schemas import NewNode

FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


class Scope:
    """One graph of a file; ``raw`` is changed in place by ``write``."""

    def __init__(self, name: str, raw: Any):
        self.name, self.raw = name, raw
        self.nodes: dict[Key, dict[str, Any]] = {}
        self.unread: list[str] = []  # the types of nodes whose id is missing, or taken
        for node in as_list(as_dict(raw).get("nodes")):
            number, kind = as_dict(node).get("id"), as_dict(node).get("type")
            if is_id(number) and isinstance(kind, str) and (name, number) not in self.nodes:
                self.nodes[name, number] = node
            elif isinstance(kind, str):
                self.unread.append(kind)
        self.links: dict[Any, dict[str, Any]] = {}
        self.known: set[Any] = set()  # the links that some input of a readable node is for
        self.added: dict[Key, list[float]] = {}  # nodes to come and their places
        found = as_dict(raw).get("links")
        for link in as_list(found) or list(as_dict(found).values()):
            entry = dict(zip(FIELDS, link, strict=False)) if isinstance(link, list) else link
            if isinstance(entry, dict) and all(is_id(entry.get(n)) for n in FIELDS[:5]):
                self.links.setdefault(entry["id"], entry)

    def link(self, number: Any) -> Link | None:
        """Return a link by its id."""
        entry = self.links.get(number) if is_id(number) else None
        if entry is None:
            return None
        self.known.add(number)
        return Link((self.name, entry["origin_id"]), entry["origin_slot"], number)

    def links_into(self, node: dict[str, Any], by_name: bool) -> dict[Hashable, Link]:
        """Return the links into a node, by the input's name or number."""
        found = {}
        for number, socket in enumerate(as_list(node.get("inputs"))):
            name = str(as_dict(socket).get("name")) if by_name else number
            link = self.link(as_dict(socket).get("link"))
            if link:
                found.setdefault(name, link)
        return found

    def links_out(self, edge: int) -> dict[Hashable, Link]:
        """Return the links to the edge of a subgraph by its slots."""
        found: dict[Hashable, Link] = {}
        for number, entry in self.links.items():
            if entry["target_id"] == edge and (link := self.link(number)):
                found[entry["target_slot"]] = link
        return found

    def count(self, side: str) -> int:
        """Return how many inputs or outputs a subgraph has."""
        return len(as_list(self.raw.get(side)))

    def place(self, graph: Graph, beside: Key, number: int) -> Key:
        """Return the key of a node to come, ``number`` steps below another or further on."""
        numbers = [i for _, i in (*graph.nodes, *self.nodes) if isinstance(i, int)]
        key = (self.name, 1 + max(numbers, default=0))
        x, y = pair(graph.nodes[beside].raw.get("pos"), (0, 0))
        taken = [
            (*pair(node.get("pos"), (0, 0)), *pair(node.get("size"), (WIDTH, HEIGHT)))
            for node in self.nodes.values()
        ]
        taken += [(*place, WIDTH, HEIGHT) for place in self.added.values()]
        self.added[key] = free_place(taken, x, y + number * STEP, up=number < 0)
        return key

    def write(self, graph: Graph, new: Callable[[str], NewNode]) -> None:
        """Bring the record up to the graph: nodes, sockets, links and the last numbers used."""
        here = {key: node for key, node in graph.nodes.items() if key[0] == self.name}
        for key, node in here.items():
            if node.new:
                build(key, node, new(node.kind), self.added.get(key))
        links = self.write_links(here)
        self.write_sockets(here, links)
        kept = [n for n in as_list(self.raw.get("nodes")) if not self.is_gone(n, here)]
        self.raw["nodes"] = kept + [graph.nodes[key].raw for key in self.added if key in here]
        self.write_list(links)
        ids = [i for _, i in here if isinstance(i, int)]
        numbers = [n for n in links if isinstance(n, int)]
        for place, names in (
            (self.raw, ("last_node_id", "last_link_id")),
            (as_dict(self.raw.get("state")), ("lastNodeId", "lastLinkId")),
        ):
            for name, used in zip(names, (ids, numbers), strict=True):
                if isinstance(place.get(name), int):
                    place[name] = max([place[name], *used])

    def is_gone(self, raw: Any, here: dict[Key, Node]) -> bool:
        """Return whether a record is of a node that was taken out."""
        key = (self.name, as_dict(raw).get("id"))
        return is_id(key[1]) and self.nodes.get(key) is raw and key not in here

    def write_links(self, here: dict[Key, Node]) -> dict[Any, dict[str, Any]]:
        """Return the links by number, those that could not be read among them."""
        found: dict[Any, dict[str, Any]] = {}
        gone = {key[1] for key in self.nodes if key not in here or here[key].new}
        fresh = 1 + max((n for n in self.links if isinstance(n, int)), default=0)
        for key, node in here.items():
            names = [str(as_dict(s).get("name")) for s in as_list(node.raw.get("inputs"))]
            for name, link in node.links.items():
                if isinstance(name, tuple) or link.source[0] != self.name:
                    continue
                number = link.number
                if number is None or number in found:
                    number, fresh = fresh, fresh + 1
                place = names.index(name) if isinstance(name, str) else name
                entry = dict(self.links.get(number, {}))
                values = (number, link.source[1], link.slot, key[1], place)
                entry |= dict(zip(FIELDS, values, strict=False))
                entry["type"] = link_type(here, key, place, link) or entry.get("type", "*")
                found[number] = entry
        for number, entry in self.links.items():
            ends = {entry["origin_id"], entry["target_id"]}
            if number not in self.known and number not in found and not ends & gone:
                found[number] = entry
        order = {number: place for place, number in enumerate(self.links)}
        return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))

    def write_sockets(self, here: dict[Key, Node], links: dict[Any, dict[str, Any]]) -> None:
        """Write the links' numbers at inputs and outputs, and at the edges of a subgraph."""
        into = {(e["target_id"], e["target_slot"]): number for number, e in links.items()}
        out: dict[Any, list[Any]] = {}
        for number, entry in links.items():
            out.setdefault((entry["origin_id"], entry["origin_slot"]), []).append(number)
        for key, node in here.items():
            for place, socket in sockets(node.raw, "inputs"):
                there = socket.get("link")
                if (key[1], place) in into or is_id(there) and there in self.known:
                    socket["link"] = into.get((key[1], place))
            for place, socket in sockets(node.raw, "outputs"):
                put(socket, "links", out.get((key[1], place), []))
            if node.through:
                rename_types(node.raw)
        if self.name:
            rename_types(self.raw)
            for place, socket in sockets(self.raw, "inputs"):
                put(socket, "linkIds", out.get((-10, place), []))
            for place, socket in sockets(self.raw, "outputs"):
                number = into.get((-20, place))
                put(socket, "linkIds", [] if number is None else [number])

    def write_list(self, links: dict[Any, dict[str, Any]]) -> None:
        """Write the links in the form in which the file had them."""
        before = as_list(self.raw.get("links"))
        if self.name or any(isinstance(link, dict) for link in before):
            self.raw["links"] = list(links.values())
        else:
            self.raw["links"] = [[entry.get(name) for name in FIELDS] for entry in links.values()]


def sockets(raw: dict[str, Any], side: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the readable inputs or outputs of a record with their numbers."""
    return [(i, s) for i, s in enumerate(as_list(raw.get(side))) if isinstance(s, dict)]


def put(socket: dict[str, Any], name: str, numbers: list[Any]) -> None:
    """Write a list of links, in the order that it had."""
    before = as_list(socket.get(name))
    if before or numbers:
        kept = [number for number in before if number in numbers]
        socket[name] = kept + [number for number in numbers if number not in kept]


def rename_types(raw: dict[str, Any]) -> None:
    """Give what hands a model on our names for it."""
    for _, socket in (*sockets(raw, "inputs"), *sockets(raw, "outputs")):
        kind = socket.get("type")
        socket["type"] = TYPES.get(kind, kind) if isinstance(kind, str) else kind


def link_type(here: dict[Key, Node], target: Key, place: Any, link: Link) -> str | None:
    """Return the type that one of our nodes gives a link, None where none is at its ends."""
    if here[target].new:
        return here[target].raw["inputs"][place]["type"]
    source = here.get(link.source)
    outputs = source.raw["outputs"] if source and source.new else []
    known = isinstance(link.slot, int) and 0 <= link.slot < len(outputs)
    return outputs[link.slot]["type"] if known else None


def build(key: Key, node: Node, cls: NewNode, place: list[float] | None) -> None:
    """Write the record of one of our nodes; place, title and colours stay as they were."""
    raw = node.raw
    usual = {"id": key[1], "pos": place or [0, 0], "size": [WIDTH, HEIGHT], "flags": {}}
    for name, value in (usual | {"order": 0, "mode": node.mode}).items():
        raw.setdefault(name, value)
    properties = as_dict(raw.get("properties"))
    for name in ("aux_id", "ver"):
        properties.pop(name, None)
    properties |= {"cnr_id": "pulid-flux-native", "Node name for S&R": node.kind}
    inputs = []
    for name in sorted(cls.inputs, key=lambda name: name in cls.widgets):  # sockets stand first
        socket = {"name": name, "type": cls.inputs[name].get_io_type(), "link": None}
        if name in cls.widgets:
            socket["widget"] = {"name": name}
        elif cls.inputs[name].optional:
            socket["shape"] = 7
        inputs.append(socket)
    outputs = [
        {"name": one.display_name or one.get_io_type(), "type": one.get_io_type(), "links": []}
        for one in cls.schema.outputs
    ]
    values = [node.values[name] for name in cls.widgets]
    raw |= {"type": node.kind, "inputs": inputs, "outputs": outputs, "widgets_values": values}
    raw["properties"] = properties
