"""The three loaders of this pack, where an older node loaded several models, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import nodes as host

from .graph import Key, Link
from .rows import INSIGHT_FACE, MODEL, PARTS, TYPES, USERS
from .table import OLD

if TYPE_CHECKING:
    from .upgrade import Upgrade

STILL_USED = "not every node that uses it could be replaced, so it stays as it is"
STRANGE = (
    "{name} came from {kind} (node {id}), whose models are for its own pack; a loader of this pack "
    "was added"
)
Told = dict[str, tuple[dict[str, Any], dict[Any, Link]]]  # values and links by a loader's id


def split(upgrade: Upgrade, key: Key, users: list[Key]) -> None:
    """Put three loaders in the place of nunchaku's one, in each graph that uses it."""
    row, node, graph = upgrade.old[key], upgrade.graph.nodes[key], upgrade.graph
    stays = any(graph.taken(key, row.pipeline))
    told = {MODEL: upgrade.renamed(key, row)} | upgrade.told(key)
    if not stays:
        graph.relink(key, 0, node.links.get(row.passes))
    scopes = list(dict.fromkeys(user[0] for user in users)) or ([] if stays else [key[0]])
    for scope in scopes:
        made = {}
        for number, (new_id, (given, _)) in enumerate(told.items()):
            if new_id == MODEL and scope == key[0] and not stays:
                upgrade.set(key, new_id, given, {})
                made[new_id] = key
            else:
                made[new_id] = upgrade.place(new_id, key, scope, number, given, {})
        for user in users:
            if user[0] == scope and user not in upgrade.left:
                for name, new_id in PARTS.items():
                    graph.nodes[user].links[name] = Link(made[new_id], 0)
    if stays:
        upgrade.stay(key, STILL_USED)
    elif not node.new:
        graph.remove(key)


def replace_strange(upgrade: Upgrade, key: Key) -> Told:
    """Cut the links from loaders of installed packs, whose models our nodes cannot use.

    Returns what the loaders that take their place are told.
    """
    node, row, graph, told = upgrade.graph.nodes[key], upgrade.old[key], upgrade.graph, {}
    for old, new in row.inputs.items():
        trace = graph.trace(node.links.get(old) if new in PARTS else None)
        strange = [end for end in trace.ends if end.source in graph.nodes and gives(upgrade, end)]
        if not strange:
            continue
        source, new_id = strange[0].source, USERS[row.new_id][new]
        kind, told[new_id] = upgrade.kind(source), ({}, {})
        if kind in OLD and OLD[kind].new_id == new_id:
            values, _ = upgrade.renamed(source, OLD[kind])
            told[new_id] = ({**OLD[kind].values, **values}, {})
        del node.links[old]
        graph.prune(trace.hops)
        upgrade.note(key, STRANGE.format(name=old, kind=kind, id=source[1]))
    return told


def gives(upgrade: Upgrade, link: Link) -> bool:
    """Return whether a link comes from a node that stays, and brings a model of an old type."""
    cls = host.NODE_CLASS_MAPPINGS.get(upgrade.kind(link.source))
    types = list(getattr(cls, "RETURN_TYPES", None) or ())
    if not isinstance(link.slot, int) or not 0 <= link.slot < len(types):
        return False
    kind = types[link.slot]  # a list for a choice; some packs' own text equals every other
    return link.source not in upgrade.old and isinstance(kind, str) and str(kind) in TYPES


def load(upgrade: Upgrade, told: Mapping[Key, Told]) -> None:
    """Give nodes that loaded their models themselves loaders; those that say the same share one."""
    made: dict[Any, Key] = {}
    for key, parts in told.items():
        node = upgrade.graph.nodes[key]
        for number, (new_id, (values, links)) in enumerate(parts.items()):
            same = (key[0], new_id, node.off, tuple(values.items()), tuple(links.items()))
            if same not in made:
                place = (new_id, key, key[0], number - len(parts))
                made[same] = upgrade.place(*place, values, links)
            (name,) = (n for n, kind in USERS[node.kind].items() if kind == new_id)
            node.links[name] = Link(made[same], 0)
            for part in upgrade.old[key].parts:
                for old, new in part.inputs.items() if part.new_id == new_id else ():
                    upgrade.moved[key, old] = (made[same], new)


def complete(upgrade: Upgrade, key: Key) -> None:
    """Give a former face detector the models it did not need, the graph's own if there."""
    node = upgrade.graph.nodes[key]
    for number, (name, kind) in enumerate(PARTS.items()):
        if kind == INSIGHT_FACE or not node.new or name in node.links:
            continue
        there = [
            k
            for k, other in upgrade.graph.nodes.items()
            if k[0] == key[0] and other.kind == kind and not other.off
        ]
        made = there[0] if there else upgrade.place(kind, key, key[0], number - 2, {}, {})
        node.links[name] = Link(made, 0)
