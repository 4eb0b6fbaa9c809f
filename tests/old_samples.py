"""Files for older packs: ours, other people's where they are at hand, and the prompts of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from places import ROOT, TESTS
from pulid_pack.nodes.old_packs.schemas import CLASSES, NewNode
from pulid_pack.nodes.old_packs.table import OLD

SAMPLES = TESTS / "legacy"
# A folder "shared" beside the project, or further up, may hold other people's files.
BESIDE = [folder / "shared" for folder in ROOT.parents]
SHARED = next((folder for folder in BESIDE if folder.is_dir()), BESIDE[0])
REAL, CASES = SHARED / "legacy-workflows", SHARED / "cases"
NOTES = ("Note", "MarkdownNote")
# What stands in a real file for nodes and models of other packs: class -> (class, widgets).
FOREIGN = {
    "UnetLoaderGGUF": ("UNETLoader", ["flux1-dev.safetensors", "default"]),
    "DualCLIPLoaderGGUF": ("DualCLIPLoader", None),
    "LoadImagesFromDir //Inspire": ("LoadImage", ["portrait.png", "image"]),
    "MaskPreview+": ("MaskPreview", []),
}
PASS_ON = (
    "FluxForwardOverrider",
    "ApplyTeaCachePatch",
    "IPAdapterUnifiedLoader",
    "IPAdapterAdvanced",
)
HANDS_ON = (*PASS_ON, "Reroute", "SetNode")
STAND_INS = {
    "unet_name": "flux1-dev.safetensors",
    "clip_name1": "t5xxl_fp8_e4m3fn.safetensors",
    "clip_name2": "clip_l.safetensors",
    "vae_name": "ae.safetensors",
    "pulid_file": "pulid_flux_v0.9.1.safetensors",
}
EXTRA_WIDGETS = {
    "FluxGuidance": ["guidance"],
    "EmptySD3LatentImage": ["width", "height", "batch_size"],
    "RandomNoise": ["noise_seed", ""],
    "KSamplerSelect": ["sampler_name"],
    "BasicScheduler": ["scheduler", "steps", "denoise"],
    "SolidMask": ["value", "width", "height"],
    "MaskComposite": ["x", "y", "operation"],
    **{name: [] for name in ("InvertMask", "BasicGuider", "SamplerCustomAdvanced", "MaskPreview")},
}


def samples(sdxl: bool = False) -> list[Path]:
    """Return old files for FLUX or SDXL: ours, and other people's where they are at hand."""
    found = sorted(SAMPLES.glob("*.json")) + (sorted(REAL.glob("*.*")) if REAL.is_dir() else [])
    return [path for path in found if path.name.startswith(("cubiq", "easy")) is sdxl]


def read(path: Path) -> dict[str, Any]:
    """Return the workflow in a .json or a .png file, nodes of other packs exchanged."""
    text = Image.open(path).info["workflow"] if path.suffix == ".png" else path.read_text("utf-8")
    workflow = json.loads(text)
    for node in workflow["nodes"]:
        if node["type"] in FOREIGN:
            node["type"], widgets = FOREIGN[node["type"]]
            node["widgets_values"] = node["widgets_values"] if widgets is None else widgets
    return workflow


def all_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every node of a file, those inside subgraphs too."""
    found = list(workflow["nodes"])
    for subgraph in workflow.get("definitions", {}).get("subgraphs", []):
        found += subgraph["nodes"]
    return found


def link_of(graph: dict[str, Any], node: dict[str, Any], place: int) -> tuple[Any, int] | None:
    """Return where input ``place`` of a node comes from, as its graph says."""
    sockets = node.get("inputs") or []
    number = sockets[place].get("link") if place < len(sockets) else None
    for link in graph["links"]:
        of = link if isinstance(link, list) else list(link.values())
        if number is not None and of[0] == number:
            return of[1], of[2]
    return None


class Flat:
    """A file as the page sends it to the queue: subgraphs laid flat, all that hands on passed."""

    def __init__(self, workflow: dict[str, Any], stand_ins: Mapping[str, str]):
        self.stand_ins = stand_ins
        graphs = workflow.get("definitions", {}).get("subgraphs", [])
        self.subgraphs = {graph["id"]: graph for graph in graphs}
        self.prompt: dict[str, dict[str, Any]] = {}
        self.lay(workflow, "", None)

    def lay(self, graph: dict[str, Any], prefix: str, outer: Any) -> None:
        """Add the nodes of a graph; ``outer`` is where the node is whose inside it is."""
        for node in graph["nodes"]:
            key = f"{prefix}{node['id']}"
            if node["type"] in self.subgraphs:
                self.lay(self.subgraphs[node["type"]], f"{key}:", (graph, prefix, outer, node))
            elif node["type"] not in (*HANDS_ON, *NOTES, "GetNode") and node["mode"] not in (2, 4):
                inputs = widgets(node, self.stand_ins)
                for place, socket in enumerate(node.get("inputs") or []):
                    source = self.follow(graph, prefix, outer, link_of(graph, node, place))
                    inputs |= {socket["name"]: source} if source else {}
                self.prompt[key] = {"class_type": node["type"], "inputs": inputs}

    def follow(self, graph: Any, prefix: str, outer: Any, source: Any) -> list[Any] | None:
        """Return [id, output] of what a link comes from, behind all that hands it on."""
        if source is None:
            return None
        origin, slot = source
        if origin == -10:
            graph, prefix, beyond, node = outer
            return self.follow(graph, prefix, beyond, link_of(graph, node, slot))
        node = next(n for n in graph["nodes"] if n["id"] == origin)
        if node["type"] in self.subgraphs:
            inside = self.subgraphs[node["type"]]
            end = next(x for x in inside["links"] if x["target_id"] == -20)
            within = (graph, prefix, outer, node)
            source = end["origin_id"], end["origin_slot"]
            return self.follow(inside, f"{prefix}{origin}:", within, source)
        if node["type"] == "GetNode":
            name = node["widgets_values"]
            node = next(
                n for n in graph["nodes"] if n["type"] == "SetNode" and n["widgets_values"] == name
            )
        if node["type"] in HANDS_ON or node["type"] == "SetNode":
            return self.follow(graph, prefix, outer, link_of(graph, node, 0))
        return None if node["mode"] in (2, 4) else [f"{prefix}{origin}", slot]


def old_prompt(
    workflow: dict[str, Any], stand_ins: Mapping[str, str] = STAND_INS
) -> dict[str, Any]:
    """Return the API prompt that the page makes of a file while all its packs are there."""
    return Flat(workflow, stand_ins).prompt


def widgets(node: dict[str, Any], stand_ins: Mapping[str, str]) -> dict[str, Any]:
    """Return a node's stored values by name, models by the names of those that are there."""
    kind, values = node["type"], node.get("widgets_values") or []
    if kind in OLD:
        names = list(OLD[kind].widgets)
    elif kind in CLASSES:
        names = NewNode(kind).widgets
    else:
        names = core_widgets(kind)
    inputs = dict(values if isinstance(values, dict) else zip(names, values, strict=False))
    inputs.pop("", None)  # the page's own widgets
    return inputs | {k: v for k, v in stand_ins.items() if k in inputs}


def stand_in(workflow: dict[str, Any]) -> dict[str, Any]:
    """Let the older nodes of a file name the stand-in models, as their prompt does."""
    for node in all_nodes(workflow):
        stored = node.get("widgets_values")
        if node["type"] in OLD and isinstance(stored, list):
            pairs = zip(OLD[node["type"]].widgets, stored, strict=False)
            node["widgets_values"] = [STAND_INS.get(name, value) for name, value in pairs]
    return workflow


def core_widgets(kind: str) -> list[str]:
    """Return the names of a core node's stored values, "" for the page's own."""
    import nodes as host

    cls = host.NODE_CLASS_MAPPINGS.get(kind)
    return EXTRA_WIDGETS[kind] if cls is None else list_widgets(cls)


def list_widgets(cls: type) -> list[str]:
    """Return the widgets of an old-style node class in order."""
    names = []
    for section in ("required", "optional"):
        for name, (kind, *more) in cls.INPUT_TYPES().get(section, {}).items():
            if isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                own = more and (
                    more[0].get("control_after_generate") or more[0].get("image_upload")
                )
                names += [name, ""] if own or name == "seed" else [name]
    return names


def of_kind(prompt: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the inputs of every node of class ``kind``."""
    return [node["inputs"] for node in prompt.values() if node["class_type"] == kind]


def smaller(prompt: dict[str, Any], portrait: str) -> dict[str, Any]:
    """Return the prompt with our photo, few steps and a small picture."""
    small = {"steps": 2, "batch_size": 1}
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "LoadImage":
            inputs["image"] = portrait
        if node["class_type"] == "EmptySD3LatentImage":
            inputs |= {"width": 192, "height": 128}
        inputs |= {k: v for k, v in small.items() if k in inputs}
    return prompt
