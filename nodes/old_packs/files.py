"""Files for older PuLID packs (the page's form), upgraded before the page opens them.

A file has nodes, links and, since subgraphs, definitions with nodes and links of their own. Its
forms differ: links as lists or objects, ``pos`` as a list or object, values as a list, an object
or null. What cannot be read is left as it stands.
"""

from __future__ import annotations

import copy
from typing import Any

from aiohttp import web

from .graph import BYPASSED, GETS, SETS, Graph, Key, Link, Node, pass_on
from .records import as_dict, as_list
from .sockets import Scope
from .table import OLD
from .upgrade import Upgrade, exchanged

ROUTES = ("/pulid_flux/old_nodes", "/pulid_flux/prepare_file")
INPUT, OUTPUT = -10, -20  # the edges of a subgraph, as its links name them


def serve(server: Any) -> None:
    """Add the routes that tell the page which nodes are older ones, and upgrade a file."""

    @server.routes.get(ROUTES[0])
    async def old_nodes(request: web.Request) -> web.Response:
        return web.json_response(sorted(exchanged()))

    @server.routes.post(ROUTES[1])
    async def prepare_file(request: web.Request) -> web.Response:
        try:
            given = await request.json()
        except ValueError as error:
            return web.json_response({"error": f"not a file: {error}"}, status=400)
        file, message = prepare(given)
        return web.json_response({"file": file, "message": message})


def prepare(file: Any) -> tuple[Any, str]:
    """Return a file with older nodes exchanged, and what is to be said, "" if there were none."""
    scopes = read_scopes(file)
    graph = read(scopes)
    upgrade = Upgrade(graph, lambda scope, *where: scopes[scope].place(graph, *where))
    upgrade.run()
    if not upgrade.kinds:
        return file, ""
    for node in graph.nodes.values():
        if node.kind in scopes and node.kind:
            rename_shown(node, scopes[node.kind], upgrade)
    for scope in scopes.values():
        lost = [kind for kind in scope.unread if kind in OLD]
        upgrade.notes += [
            f"A node {kind} has no id of its own and stays as it is." for kind in lost
        ]
        scope.write(graph, upgrade.new)
    return scopes[""].raw, upgrade.message()


def read_scopes(file: Any) -> dict[str, Scope]:
    """Return the root of a file, by the name "", and its subgraphs by their ids, all copied."""
    root = copy.deepcopy(file)
    scopes = {"": Scope("", root)}
    for raw in as_list(as_dict(as_dict(root).get("definitions")).get("subgraphs")):
        name = as_dict(raw).get("id")
        if isinstance(name, str) and name:
            scopes.setdefault(name, Scope(name, raw))
    return scopes


def read(scopes: dict[str, Scope]) -> Graph:
    """Return the graph of a file: the nodes of all scopes, joined over the edges of subgraphs."""
    graph, names = Graph(), {}
    for scope in scopes.values():
        for key, raw in scope.nodes.items():
            row = OLD.get(raw["type"])
            node = Node(raw["type"], raw, links=scope.links_into(raw, by_name=row is not None))
            node.mode = raw.get("mode")
            stored = raw.get("widgets_values")
            if row is not None and isinstance(stored, list):
                node.values = dict(zip(row.widgets, stored, strict=False))
            elif row is not None:
                node.values = dict(as_dict(stored))
            if node.kind in (*SETS, *GETS):
                names[key] = next((v for v in as_list(stored) if isinstance(v, str)), None)
            graph.nodes[key] = node
        if scope.name:
            graph.nodes[scope.name, OUTPUT] = Node("the subgraph's output", {})
            graph.nodes[scope.name, OUTPUT].links = scope.links_out(OUTPUT)
            graph.nodes[scope.name, INPUT] = Node("the subgraph's input", {})
    for key, node in list(graph.nodes.items()):
        if node.kind in scopes and node.kind:
            join(graph, key, node, scopes[node.kind])
    pass_on(graph, names)
    return graph


def join(graph: Graph, key: Key, node: Node, inside: Scope) -> None:
    """Let what goes into a subgraph's node come out at its edge within, and the reverse."""
    enter, leave = graph.nodes[inside.name, INPUT], graph.nodes[inside.name, OUTPUT]
    for slot in range(inside.count("inputs")):
        enter.links["in", key, slot] = Link(key, ("in", slot))
        enter.through.setdefault(slot, []).append(("in", key, slot))
        node.through["in", slot] = [slot]
    for slot in range(inside.count("outputs")):
        leave.through[slot] = [slot]
        if node.mode != BYPASSED:
            node.links["out", slot] = Link((inside.name, OUTPUT), slot)
            node.through[slot] = [("out", slot)]


def rename_shown(node: Node, inside: Scope, upgrade: Upgrade) -> None:
    """Let a subgraph's node show the widgets of its inner nodes under their new names."""
    shown = as_dict(node.raw.get("properties")).get("proxyWidgets")
    for entry in as_list(shown):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], str):
            continue
        for key, kind in upgrade.kinds.items():
            if key[0] == inside.name and str(key[1]) == str(entry[0]) and key not in upgrade.left:
                new = OLD[kind].inputs.get(entry[1], entry[1])
                where, new = upgrade.moved.get((key, entry[1]), (key, new))
                entry[:] = entry[0] if where == key else str(where[1]), new
                break


class Stored:
    """The values that a file keeps for its older nodes, for a prompt that was made from it."""

    def __init__(self, file: Any):
        self.scopes = read_scopes(file) if isinstance(file, dict) else {}
        self.graph = read(self.scopes)

    def values(self, path: str) -> dict[str, Any]:
        """Return them by a prompt's node id: 7, or 12:7 for node 7 in the subgraph of node 12."""
        scope, node = "", None
        for part in path.split(":"):
            keys = self.scopes[scope].nodes if scope in self.scopes else {}
            key = next((k for k in keys if str(k[1]) == part), None)
            node = self.graph.nodes.get(key) if key else None
            scope = node.kind if node else None
        return dict(node.values) if node else {}
