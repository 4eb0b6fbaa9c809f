"""The exchange itself: older nodes of a graph become this pack's, one way for files and prompts.

What cannot be kept is noted; nothing here raises for what a file or prompt may hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import nodes as host

from .graph import Graph, Key, Link, Node
from .loaders import STILL_USED, complete, load, replace_strange, split
from .rows import APPLY, ENCODE, USERS, Old
from .schemas import NewNode, renamed
from .table import OLD

NO_NUNCHAKU = (
    "PuLID-Flux Native cannot put an identity into nunchaku's own engine; load a FLUX checkpoint "
    "with Load Diffusion Model instead"
)
UNKNOWN = (
    "its input {name} comes from {kind} (node {id}), behind which nothing can be followed; it "
    "stays as it is: link it directly and open the file again"
)


def exchanged() -> dict[str, Old]:
    """Return the rows by id whose nodes cannot run: their pack, or one that it needs, is absent."""
    there = host.NODE_CLASS_MAPPINGS
    return {
        old_id: row
        for old_id, row in OLD.items()
        if old_id not in there or row.needs and row.needs not in there
    }


def find_old(graph: Graph) -> dict[Key, Old]:
    """Return the older nodes that cannot run as they are."""
    rows = exchanged()
    found = {key: rows[node.kind] for key, node in graph.nodes.items() if node.kind in rows}
    users = [graph.nodes[key] for key, row in found.items() if not row.beside]
    fed = {
        end.source
        for node in users
        for link in node.links.values()
        for end in graph.trace(link).ends
    }
    return {key: row for key, row in found.items() if not row.beside or key in fed}


class Upgrade:
    """One graph on the way from older nodes to new ones; ``graph`` is changed in place.

    ``add(scope, beside, number)`` returns the key of a node to come, near the node ``beside``.
    """

    def __init__(self, graph: Graph, add: Callable[[str, Key, int], Key]):
        self.graph = graph
        self.add = add
        self.old = find_old(graph)
        self.kinds = {key: self.kind(key) for key in self.old}
        self.notes: list[str] = []
        self.said = {""}  # the rows' notes, each of which is given once
        self.moved: dict[tuple[Key, str], tuple[Key, str]] = {}  # widgets that stand elsewhere now
        self.left: dict[Key, str] = {}  # nodes that stay, and why
        self.new = cache(NewNode)  # each class is read once, with the files that are there

    def run(self) -> None:
        """Exchange the nodes: first those that use the others, so that these are free to go."""
        users = [key for key, row in self.old.items() if row.new_id in USERS]
        options, loaders = {}, {}
        for key in users:
            found = self.sources(key)
            if key not in self.left:
                options[key], loaders[key] = found
        own = {key: self.told(key) | replace_strange(self, key) for key in options}
        for key in options:
            self.exchange(key, options[key])
        for key, row in self.old.items():
            if row.options:
                self.leave_out(key)
            elif isinstance(row.pipeline, int):
                split(self, key, [user for user, loader in loaders.items() if loader == key])
            elif row.passes:
                self.graph.relink(key, 0, self.graph.nodes[key].links.get(row.passes))
                self.graph.remove(key)
            elif key not in users:
                self.exchange(key)
        load(self, own)
        for key in options:
            if self.old[key].new_id == ENCODE:
                complete(self, key)
        self.explain_nunchaku()

    def kind(self, key: Key) -> str:
        return self.graph.nodes[key].kind

    def note(self, key: Key, text: str, row: Old | None = None) -> None:
        """Keep what is to be said about a node, once."""
        place = f" in subgraph {key[0]}" if key[0] else ""
        line = f"{row.id if row else self.kind(key)} (node {key[1]}{place}): {text}."
        if line not in self.notes:
            self.notes.append(line)

    def stay(self, key: Key, text: str) -> None:
        """Leave an older node as it is and say why."""
        self.note(key, text)
        self.left[key] = text

    def sources(self, key: Key) -> tuple[Key | None, Key | None]:
        """Return the options node and the loader behind a node, and cut what led there.

        Where something else is behind, the node stays as it is.
        """
        node, row = self.graph.nodes[key], self.old[key]
        wanted = [("options", lambda old: old.options)]
        if row.pipeline:
            wanted.append((row.pipeline, lambda old: bool(old.pipeline)))
        traces = [self.graph.trace(node.links.get(name)) for name, _ in wanted]
        found: list[Key | None] = []
        for (name, fits), trace in zip(wanted, traces, strict=True):
            ends = [end.source for end in trace.ends]
            strange = [e for e in ends if e not in self.old or not fits(self.old[e])]
            if strange or not self.alike(ends):
                self.stay(key, self.unknown(name, (strange or ends)[0]))
            found.append(ends[0] if ends else None)
        if key not in self.left:
            for (name, _), trace in zip(wanted, traces, strict=True):
                node.links.pop(name, None)
                self.graph.prune(trace.hops)
        return found[0], found[1] if row.pipeline else None

    def alike(self, keys: list[Key]) -> bool:
        """Return whether nodes say the same, as where a subgraph is used twice."""
        said = [(n.kind, n.values, n.links, n.off) for n in map(self.graph.nodes.get, keys)]
        return all(one == said[0] for one in said)

    def unknown(self, name: str, end: Key) -> str:
        """Say what an input that cannot be followed comes from."""
        there = self.kind(end) if end in self.graph.nodes else "nothing"
        return UNKNOWN.format(name=name, kind=there, id=end[1])

    def exchange(self, key: Key, options: Key | None = None) -> None:
        """Put the new node in the place of the older one."""
        row = self.old[key]
        values, links = self.renamed(key, row)
        if options and not self.graph.nodes[options].off:
            more, linked = self.renamed(options, self.old[options])
            for name in linked if options[0] != key[0] else ():
                self.note(options, f"{name} comes from a link outside the subgraph; set it by hand")
            values, links = values | more, links | (linked if options[0] == key[0] else {})
        self.set(key, row.new_id, row.values | values, links)
        for number, new in enumerate(row.outputs):
            for node, name, link in self.graph.taken(key, number):
                node.links[name] = Link(key, new, link.number)
        if row.note not in self.said:
            self.said.add(row.note)
            self.note(key, row.note, row)

    def renamed(self, key: Key, row: Old) -> tuple[dict[str, Any], dict[Any, Link]]:
        """Return an older node's values and links under their new names; note what is lost."""
        node = self.graph.nodes[key]
        values, links, lost = renamed(row, node.values, node.links, self.new(row.new_id or APPLY))
        for text in lost:
            self.note(key, text, row)
        return values, links

    def told(self, key: Key) -> dict[str, tuple[dict[str, Any], dict[Any, Link]]]:
        """Return what a node that loads models itself says about them: values and links by id."""
        node, row = self.graph.nodes[key], self.old[key]
        found: dict[str, tuple[dict[str, Any], dict[Any, Link]]] = {}
        for part in row.parts:
            values, links, lost = renamed(part, node.values, node.links, self.new(part.new_id))
            before = found.setdefault(part.new_id, ({}, {}))
            before[0].update({**part.values, **values})
            before[1].update(links)
            for text in lost:
                self.note(key, text, row)
        return found

    def set(self, key: Key, new_id: str, values: Mapping[str, Any], links: Mapping) -> None:
        """Make a node one of ours; what is not given gets the widget's usual value."""
        node, cls = self.graph.nodes[key], self.new(new_id)
        node.values = {name: cls.usual(name) for name in cls.widgets} | dict(values)
        node.links = {name: link for name, link in links.items() if name in cls.inputs}
        node.kind, node.new = new_id, True

    def place(
        self, new_id: str, beside: Key, scope: str, number: int, values: Mapping, links: Mapping
    ) -> Key:
        """Add a node of ours near another."""
        key = self.add(scope, beside, number)
        mode = self.graph.nodes[beside].mode
        self.graph.nodes[key] = Node(new_id, {}, mode=mode)
        self.set(key, new_id, values, links)
        return key

    def leave_out(self, key: Key) -> None:
        """Remove a node whose settings stand on the nodes they were for, unless some could not."""
        node = self.graph.nodes[key]
        if any(self.graph.taken(key)):
            self.stay(key, STILL_USED)
            return
        if node.off:
            self.note(key, "it was off, and its settings are left out")
        self.graph.remove(key)

    def explain_nunchaku(self) -> None:
        """Say what to do about nunchaku's own engine, which loads the model here."""
        if not any(kind.startswith("Nunchaku") for kind in self.kinds.values()):
            return
        for key, node in self.graph.nodes.items():
            missing = node.kind not in host.NODE_CLASS_MAPPINGS or "DiTLoader" in node.kind
            if node.kind.startswith("Nunchaku") and missing and key not in self.left:
                self.stay(key, NO_NUNCHAKU)

    def message(self) -> str:
        """Return all that is to be said, in one text; "" if nothing was done."""
        if not self.kinds:
            return ""
        done = sorted({kind for key, kind in self.kinds.items() if key not in self.left})
        head = f"Nodes of older PuLID packs were replaced: {', '.join(done) or 'none'}."
        return "\n".join((head, *self.notes))
