"""Files of older packs, made ready for ComfyUI's node replacement.

Node replacement puts one node in the place of one. What goes beyond that is done here, on the file
before the page opens it: nunchaku's loader becomes three, options move onto the node they were
for, a node that only passed the model on is left out, and words that mean something else now are
translated.
"""

from __future__ import annotations

import copy
from typing import Any

from aiohttp import web

import nodes as host

from .table import OLD

Node = dict[str, Any]
ROUTE = "/pulid_flux/prepare_file"

# What "Enhanced" files store after weight, start_at and end_at; shorter files lack it.
ENHANCED = ["mean", 1.0, 0.0, 1000, True]
LOADERS = (
    ("pulid_flux", "PulidFluxModelLoader", "PULIDFLUX"),
    ("eva_clip", "PulidFluxEvaClipLoader", "EVA_CLIP"),
    ("face_analysis", "PulidFluxInsightFaceLoader", "FACEANALYSIS"),
)
HEIGHT, GAP = 60, 70  # of new loaders, in pixels; the gap has room for their title bars


def serve(server: Any) -> None:
    """Add the route through which the page has a file prepared."""

    @server.routes.post(ROUTE)
    async def prepare_file(request: web.Request) -> web.Response:
        return web.json_response(prepare(await request.json()))


def prepare(graph: dict[str, Any]) -> dict[str, Any]:
    """Return a file (UI form) whose older nodes can be replaced one by one."""
    return File(graph).run()


class File:
    """One file; the one given stays as it is."""

    def __init__(self, graph: dict[str, Any]):
        self.graph = copy.deepcopy(graph)
        self.nodes: dict[Any, Node] = {node["id"]: node for node in self.graph.get("nodes") or []}
        self.links: dict[int, list[Any]] = {
            link[0]: link for link in self.graph.get("links") or [] if isinstance(link, list)
        }

    def run(self) -> dict[str, Any]:
        """Return the prepared file."""
        if len(self.links) < len(self.graph.get("links") or []):
            return self.graph  # not the form of file that the older packs' workflows are in
        for node in self.old("NunchakuFluxPuLIDApplyV2"):
            node["type"] = "ApplyPulidFlux"
        for node in self.old("NunchakuPuLIDLoaderV2"):
            self.split_loader(node)
        for node in self.old("PulidFluxInsightFaceLoader"):
            words = OLD[node["type"]].words["provider"]
            node["widgets_values"] = [words.get(v, v) for v in node.get("widgets_values") or []]
        for node in self.old("FixPulidFluxPatch"):
            self.leave_out(node)
        for node in self.old("PulidFluxFaceDetector"):
            self.give_models(node)
        for node in self.old("PulidFluxOptions"):
            self.move_options(node)
        self.graph["nodes"] = list(self.nodes.values())
        self.graph["links"] = list(self.links.values())
        self.graph["last_node_id"] = max([int(i) for i in self.nodes], default=0)
        self.graph["last_link_id"] = max(self.links, default=0)
        return self.graph

    def old(self, kind: str) -> list[Node]:
        """Return the nodes of an older class, none while its pack is installed."""
        if kind in host.NODE_CLASS_MAPPINGS or kind not in OLD:
            return []
        return [node for node in self.nodes.values() if node["type"] == kind]

    def leave_out(self, node: Node) -> None:
        """Remove a node that passed its input on: what it fed is fed by what fed it."""
        source = self.source(node, OLD[node["type"]].passes)
        for link in self.taken(node, 0):
            if source is None:
                self.cut(link)
            else:
                link[1], link[2] = source[1], source[2]
                self.output(source)["links"].append(link[0])
        self.remove(node)

    def split_loader(self, node: Node) -> None:
        """Put three loaders in the place of nunchaku's one."""
        row = OLD[node["type"]]
        values = dict(zip(row.widget_names(), node.get("widgets_values") or [], strict=False))
        new = row.renamed(values)
        stored = (new.get("model_name"), new.get("eva"), new.get("provider"))
        x, y = node["pos"]
        for number, (name, kind, socket) in enumerate(LOADERS):
            widgets = [] if stored[number] is None else [stored[number]]
            key = self.add(kind, socket, [x, y + number * (HEIGHT + GAP)], widgets)
            for link in self.taken(node, 1):
                self.link(key, self.nodes[link[3]], name, socket)
        self.leave_out(node)

    def give_models(self, node: Node) -> None:
        """Link a face detector to the models that it did not need, and its like outputs as one."""
        x, y = node["pos"]
        for number, (name, kind, socket) in enumerate(LOADERS[:2]):
            there = [key for key, other in self.nodes.items() if other["type"] == kind]
            place = [x - 300, y + number * (HEIGHT + GAP)]
            key = there[0] if there else self.add(kind, socket, place, [])
            self.link(key, node, name, socket)
        for link in self.taken(node, 1):
            self.output(link)["links"].remove(link[0])
            link[2] = 0
            self.output(link)["links"].append(link[0])

    def add(self, kind: str, socket: str, place: list[float], widgets: list[Any]) -> int:
        """Add a loader and return its id."""
        key = 1 + max(int(i) for i in self.nodes)
        self.nodes[key] = {
            **{"id": key, "type": kind, "pos": place, "size": [270, HEIGHT], "flags": {}},
            **{"order": 0, "mode": 0, "inputs": [], "properties": {}, "widgets_values": widgets},
            **{"outputs": [{"name": socket, "type": socket, "links": []}]},
        }
        return key

    def move_options(self, node: Node) -> None:
        """Write the chosen face behind the values of each node the options were for."""
        row = OLD[node["type"]]
        chosen = row.renamed(dict(zip(row.widget_names(), node["widgets_values"], strict=False)))
        face = [chosen.get("face", "largest"), chosen.get("face_index", 0)]
        for link in self.taken(node, 0):
            target = self.nodes[link[3]]
            kind = OLD.get(target["type"])
            if kind is not None and kind.id == "ApplyPulidFlux":
                values = list(target.get("widgets_values") or [1.0, 0.0, 1.0])
                values += ENHANCED[max(0, len(values) - 3) :]
                target["widgets_values"] = [*values[:8], *face]
            elif kind is not None:
                target["widgets_values"] = list(face)
        self.remove(node)

    def source(self, node: Node, name: str) -> list[Any] | None:
        """Return the link into input ``name``."""
        sockets = [s for s in node.get("inputs") or [] if s["name"] == name]
        return self.links.get(sockets[0].get("link")) if sockets else None

    def taken(self, node: Node, slot: int) -> list[list[Any]]:
        """Return the links out of output ``slot``."""
        return [link for link in self.links.values() if link[1:3] == [node["id"], slot]]

    def output(self, link: list[Any]) -> dict[str, Any]:
        """Return the output that ``link`` comes from, its list of links at hand."""
        output = self.nodes[link[1]]["outputs"][link[2]]
        output["links"] = output.get("links") or []
        return output

    def link(self, source: int, target: Node, name: str, kind: str) -> None:
        """Link output 0 of ``source`` to a new input ``name`` of ``target``."""
        number = 1 + max(self.links, default=0)
        sockets = target.setdefault("inputs", [])
        sockets.append({"name": name, "type": kind, "link": number})
        self.links[number] = [number, source, 0, target["id"], len(sockets) - 1, kind]
        self.output(self.links[number])["links"].append(number)

    def cut(self, link: list[Any]) -> None:
        """Remove a link at both ends."""
        del self.links[link[0]]
        source, target = self.nodes.get(link[1]), self.nodes.get(link[3])
        if source is not None:
            left = [n for n in self.output(link)["links"] if n != link[0]]
            self.output(link)["links"] = left
        if target is not None:
            target["inputs"][link[4]]["link"] = None

    def remove(self, node: Node) -> None:
        """Remove a node with its links."""
        for link in [link for link in self.links.values() if node["id"] in (link[1], link[3])]:
            self.cut(link)
        del self.nodes[node["id"]]
