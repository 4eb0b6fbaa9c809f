"""One model of a graph for files and prompts: nodes, links, and what only hands a thing on.

A key is (scope, node id); a file has a scope for its root ("") and one for each subgraph, a prompt
has the root alone. What hands a thing on (Reroutes, Set and Get nodes, the edges of subgraphs) has
``through``: which of its inputs come out at an output. Where a thing passes unseen (from a Get to
its Set node, over the edge of a subgraph), the reader of the file makes a link for it whose input
name is a tuple.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Key = tuple[str, Any]

REROUTES = ("Reroute", "Reroute (rgthree)", "ReroutePrimitive", "ReroutePrimitive|pysssss")
SETS, GETS = ("SetNode", "easy setNode"), ("GetNode", "easy getNode")
MUTED, BYPASSED = 2, 4  # a node's mode in a file


@dataclass(frozen=True)
class Link:
    """Where an input's value comes from; ``number`` is the link's id in a file."""

    source: Key
    slot: Hashable
    number: Any = None


@dataclass
class Node:
    """A node; ``links`` by input name where the node is an older one, else by whatever is unique.

    ``raw`` is the record of the file or prompt, ``new`` says that we made or exchanged it.
    """

    kind: str
    raw: dict[str, Any]
    values: dict[str, Any] = field(default_factory=dict)
    links: dict[Hashable, Link] = field(default_factory=dict)
    through: dict[Hashable, list[Hashable]] = field(default_factory=dict)
    mode: Any = 0
    new: bool = False

    @property
    def off(self) -> bool:
        """Whether it is muted or bypassed."""
        return self.mode in (MUTED, BYPASSED)


@dataclass(frozen=True)
class Trace:
    """What a link leads to behind all that hands on, and the outputs that it came through."""

    ends: tuple[Link, ...]
    hops: tuple[tuple[Key, Hashable], ...]


@dataclass
class Graph:
    """The nodes by key."""

    nodes: dict[Key, Node] = field(default_factory=dict)

    def trace(self, link: Link | None) -> Trace:
        """Follow a link to what it comes from; a circle leads nowhere."""
        todo, ends, hops = [link] if link else [], [], []
        while todo:
            link = todo.pop()
            node = self.nodes.get(link.source)
            if node is None or link.slot not in node.through:
                ends += [link] if link not in ends else []
            elif (link.source, link.slot) not in hops:
                hops.append((link.source, link.slot))
                names = [] if node.mode == MUTED else node.through[link.slot]
                todo += [node.links[name] for name in names if name in node.links]
        return Trace(tuple(ends), tuple(hops))

    def taken(self, key: Key, slot: Hashable = None) -> Iterator[tuple[Node, Hashable, Link]]:
        """Yield node, input and link of everything that takes an output, or any if it is None."""
        for node in self.nodes.values():
            for name, link in list(node.links.items()):
                if link.source == key and slot in (None, link.slot):
                    yield node, name, link

    def relink(self, key: Key, slot: Hashable, source: Link | None) -> None:
        """Let everything that takes an output take ``source`` instead, or nothing."""
        for node, name, link in self.taken(key, slot):
            if source is None or source.source == key:  # a node that feeds itself gives nothing
                del node.links[name]
            else:
                node.links[name] = Link(source.source, source.slot, link.number)

    def remove(self, key: Key) -> None:
        """Take a node out with the links to it."""
        self.relink(key, None, None)
        del self.nodes[key]

    def prune(self, hops: Iterable[tuple[Key, Hashable]]) -> None:
        """Remove, from the end, relays whose output nothing uses any more."""
        left = dict.fromkeys(hops)
        while idle := [hop for hop in left if not any(self.taken(*hop))]:
            for key, slot in idle:
                del left[key, slot]
                node = self.nodes.get(key)
                for name in node.through[slot] if node else ():
                    node.links.pop(name, None)
                if node and node.kind in (*REROUTES, *SETS, *GETS) and not any(self.taken(key)):
                    del self.nodes[key]


def pass_on(graph: Graph, names: dict[Key, str]) -> None:
    """Mark the nodes that hand on; ``names`` are the names of Set and Get nodes, by key."""
    sets = {}
    for key, name in names.items():
        if graph.nodes[key].kind in SETS:
            sets.setdefault((key[0], name), key)
    for key, node in graph.nodes.items():
        if node.kind in GETS:
            name = names.get(key)
            if source := sets.get((key[0], name)) or sets.get(("", name)):
                node.links[("set",)] = Link(source, 0)
                node.through[0] = [("set",)]
        elif node.kind in (*REROUTES, *SETS) and len(node.links) < 2:
            node.through[0] = list(node.links)
