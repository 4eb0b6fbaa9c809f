"""The command line of a sweep, and what it asks for."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .graphs import Prompt, set_input, title
from .plan import Wish
from .results import AGAINST

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows" / "api"
STAND_IN_STEPS, STAND_IN_SIZE = 4, (320, 416)
LATENTS = ("EmptySD3LatentImage", "EmptyLatentImage")


def parse_arguments(description: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add(
        "workflow",
        nargs="?",
        default="flux_pulid_basic",
        help="a workflow in API form: a file, or the name of one of workflows/api",
    )
    add(
        "--vary",
        action="append",
        default=[],
        type=variation,
        metavar="INPUT=A,B,C",
        help="an input of the Apply node, or 'title.input' of another; can be repeated",
    )
    add("--seeds", type=seeds, default=(1, 2, 3), help="such as 1,2,3 (the default)")
    add("--photo", nargs="+", type=Path, default=[], help="photos, each a person of its own")
    add(
        "--set",
        action="append",
        default=[],
        type=setting,
        metavar="INPUT=VALUE",
        help="an input that stays the same",
    )
    add("--steps", type=int, help="sampling steps")
    add("--size", type=size, metavar="WIDTHxHEIGHT", help="of the pictures")
    add("--prompt", help="what to paint (default: the workflow's)")
    add("--judge", help="the face pack that measures, such as buffalo_l (default: the workflow's)")
    add(
        "--against",
        choices=AGAINST,
        default=AGAINST[0],
        help="the measure of disruption to plot and to recommend by",
    )
    add("--server", help="the address of a ComfyUI that has the pack (default: starts one)")
    add("--models", type=Path, help="for a server of its own: a real ComfyUI models folder")
    add("--drawn", action="store_true", help="drawn people and their trained small models")
    add("--output", type=Path, default=ROOT / "output" / "sweep", help="the result folder")
    add("--limit", type=float, default=3600.0, help="seconds for one picture")
    away = "seconds that the server may be away (default: 60, or 5 where the sweep started it)"
    add("--patience", type=float, help=away)
    options = parser.parse_args(arguments)
    for path in (*options.photo, options.models):
        if path is not None and not path.exists():
            parser.error(f"there is no {path}")
    if options.drawn and (options.server is not None or options.models is not None):
        parser.error("--drawn brings models and server of its own: leave --server and --models out")
    if options.patience is None:  # one of its own that ended does not come back
        options.patience = 5.0 if options.server is None else 60.0
    options.stand_ins = not options.drawn and options.server is None and options.models is None
    if options.stand_ins:
        options.steps = options.steps or STAND_IN_STEPS
        options.size = options.size or STAND_IN_SIZE
    return options


def variation(text: str) -> tuple[str, list[Any]]:
    """Return an input's name and the values it takes, from text like weight=0.6,0.8."""
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise argparse.ArgumentTypeError(f"{text!r} is not like weight=0.6,0.8,1")
    return name.strip(), [value_of(value) for value in values.split(",")]


def setting(text: str) -> tuple[str, Any]:
    """Return an input's name and its value, from text like end_at=0.8."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not like end_at=0.8")
    return name.strip(), value_of(value)


def value_of(text: str) -> Any:
    """Return a number, true or false where the text is one."""
    with contextlib.suppress(ValueError):
        return json.loads(text.strip())
    return text.strip()


def seeds(text: str) -> tuple[int, ...]:
    """Return seeds from text like 1,2,3."""
    return tuple(int(part) for part in text.split(","))


def size(text: str) -> tuple[int, int]:
    """Return (width, height) from text like 896x1152."""
    width, _, height = text.partition("x")
    return int(width), int(height)


def wish_of(options: argparse.Namespace) -> Wish:
    """Return what is to be rendered; FileNotFoundError or ValueError naming the workflow."""
    prompt = read_workflow(options.workflow)
    if options.prompt is not None:
        text = [key for key, entry in prompt.items() if title(entry) == "Prompt"]
        if len(text) != 1:
            raise ValueError(
                f"{len(text)} nodes have the title 'Prompt', expected one, for --prompt."
            )
        name = "text" if "text" in prompt[text[0]]["inputs"] else "value"
        set_input(prompt, text[0], name, options.prompt)
    for key, entry in list(prompt.items()):
        if options.steps is not None and "steps" in entry["inputs"]:
            set_input(prompt, key, "steps", options.steps)
        if options.size is not None and entry["class_type"] in LATENTS:
            for name, value in zip(("width", "height"), options.size, strict=True):
                set_input(prompt, key, name, value)
    names = [path.name for path in options.photo]
    if len(set(names)) < len(names):
        raise ValueError("Two photos have the same file name: rename one, to tell them apart.")
    vary = dict(options.vary)
    return Wish(prompt, vary, options.seeds, options.photo, dict(options.set), options.judge)


def read_workflow(name: str) -> Prompt:
    """Return a workflow in API form: a file, or one of the pack's by its name."""
    path = Path(name) if name.endswith(".json") else WORKFLOWS / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in WORKFLOWS.glob("*.json")))
        raise FileNotFoundError(f"There is no workflow {path}. The pack has: {there}.")
    prompt = json.loads(path.read_text("utf-8"))
    if not all(isinstance(e, dict) and "class_type" in e for e in prompt.values()):
        raise ValueError(
            f"{path} is not in API form. Export it with Workflow > Export (API) in ComfyUI."
        )
    return prompt
