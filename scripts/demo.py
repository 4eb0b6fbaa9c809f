"""Make a picture of a person with a real ComfyUI, from nothing, in one command.

    python scripts/demo.py                          drawn people: shows what the pack does
    python scripts/demo.py --models /path/to/models  real models: shows how well
    python scripts/demo.py --family sdxl             the same with SDXL in place of FLUX

Sets ComfyUI up if needed and starts it on a free port. Without models it draws people with small
networks that come with the repository (``drawn_demo.py``). With models, or with --photo or --family
sdxl and stand-in models, it runs ``workflows/api/flux_pulid_basic.json`` or
``sdxl_pulid_basic.json`` with and without the identity and puts photo, face and both pictures side
by side.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hosting
from hosting import ROOT

if TYPE_CHECKING:
    from pulid_client import Result
    from serving import Server

WORKFLOWS = ROOT / "workflows" / "api"
STAND_INS = ROOT / "tests" / "standins"
STAND_IN_STEPS, STAND_IN_SIZE = 8, (320, 416)

Prompt = dict[str, dict]


@dataclass(frozen=True)
class Family:
    """What differs between the families of models."""

    name: str
    workflow: str
    apply: str  # the node that puts the identity in
    pack: str  # the stand-in for what cannot be made small


FAMILIES = {
    "flux": Family("FLUX", "flux_pulid_basic.json", "PuLIDFluxApply", "text_encoder_pack"),
    "sdxl": Family("SDXL", "sdxl_pulid_basic.json", "PuLIDSDXLApply", "small_sdxl_pack"),
}


def main() -> int:
    """Run the demo; return the exit code."""
    options = parse_arguments()
    host = hosting.prepare()
    hosting.run_inside(host, Path(__file__).resolve(), sys.argv[1:])
    from pulid_client import PromptRefused  # needs the host's interpreter

    started = time.monotonic()
    try:
        (draw_people if options.drawn else draw_somebody)(host, options)
    except (PromptRefused, RuntimeError, FileNotFoundError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return fail("stopped")
    say(f"{options.output} written after {time.monotonic() - started:.0f} s")
    return 0


def draw_somebody(host: hosting.Host, options: argparse.Namespace) -> None:
    """Draw the person of a photo with and without identity; write photo, face and both pictures."""
    stand_ins = options.models is None
    family = FAMILIES[options.family]
    models = stand_in_models(options.family) if stand_ins else options.models
    packs = [STAND_INS / family.pack] if stand_ins else []
    with comfyui(host, models, packs) as (server, scratch):
        photo = server.upload(options.photo or astronaut(scratch))
        info = server.object_info()
        prompt = extended(read_workflow(family), family.apply, info)
        adjust(prompt, options, photo, info)
        result = run(server, prompt, options.limit)
        pictures = [server.image(result.images(node)[0]) for node in PANELS]
    write_sheet(options.output, pictures, prompt, family, stand_ins)
    if stand_ins:
        say(f"stand-in weights: this shows that identity acts, not what {family.name} paints")


def draw_people(host: hosting.Host, options: argparse.Namespace) -> None:
    """Draw people of the drawn world, write their page and say how alike they are."""
    import drawn_demo
    import drawn_world

    say("preparing the drawn world's models (trained, tiny)")
    models = drawn_world.models()
    with comfyui(host, models, [drawn_world.PACK]) as (server, scratch):
        names = [server.upload(one) for one in (*drawn_world.photos(scratch), astronaut(scratch))]
        story = drawn_demo.story_of(names, read_workflow(FAMILIES["flux"]), options)
        result = run(server, story, options.limit)
        rows = drawn_demo.captioned(result, story.rows)
        page = drawn_demo.page(server, result, rows, story.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    page.save(options.output)
    for _, caption in (picture for row in rows for picture in row):
        if "\n" in caption:
            say(caption.replace("\n", ": "))


@contextlib.contextmanager
def comfyui(
    host: hosting.Host, models: Path, packs: Sequence[Path]
) -> Iterator[tuple[Server, Path]]:
    """Yield a running ComfyUI and a folder for photos; both are gone afterwards."""
    from serving import Server

    say("starting ComfyUI")
    with tempfile.TemporaryDirectory() as scratch, Server(host, models, packs) as server:
        say(f"ComfyUI answers at {server.url}")
        yield server, Path(scratch)


def run(server: Server, prompt: Prompt, limit: float) -> Result:
    """Run a prompt and return its result; RuntimeError with the node's words if one failed."""
    result = server.queue(prompt, Progress(prompt), limit=limit)
    if result.error is not None:
        node, message = result.error.get("node_type"), result.error["exception_message"]
        raise RuntimeError(f"{node}: {message}")
    return result


def read_workflow(family: Family) -> Prompt:
    """Return the family's basic workflow."""
    return json.loads((WORKFLOWS / family.workflow).read_text(encoding="utf-8"))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", type=Path, help="a real ComfyUI models folder (default: drawn people)"
    )
    parser.add_argument("--family", choices=list(FAMILIES), default="flux", help="of models")
    parser.add_argument(
        "--photo", type=Path, help="photo of a person (default: a NASA portrait from scikit-image)"
    )
    parser.add_argument("--prompt", help="what to paint (default: the workflow's)")
    parser.add_argument("--steps", type=int, help="sampling steps")
    parser.add_argument("--size", type=size, metavar="WIDTHxHEIGHT", help="of the picture")
    parser.add_argument("--seed", type=int, help="of the noise")
    parser.add_argument("--weight", type=float, help="strength of the identity")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for the whole run")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "demo.png")
    options = parser.parse_args()
    for path in (options.photo, options.models):
        if path is not None and not path.exists():
            parser.error(f"there is no {path}")
    options.drawn = not (options.models or options.photo) and options.family == "flux"
    if options.drawn and (options.size or options.weight is not None):
        parser.error("drawn people have a size and three weights: --size and --weight need --photo")
    if options.models is None and not options.drawn:
        options.steps = options.steps or STAND_IN_STEPS
        options.size = options.size or STAND_IN_SIZE
    return options


def size(text: str) -> tuple[int, int]:
    """Return (width, height) from text like 896x1152."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 896x1152")
    return int(match[1]), int(match[2])


def stand_in_models(family: str) -> Path:
    """Return the folder of a family's stand-in models, written at the first run."""
    sys.path.insert(0, str(ROOT / "tests"))
    from standins.models import prepare_models
    from standins.sdxl_files import prepare_sdxl_models

    say("preparing stand-in models (random weights, real file layouts)")
    return prepare_sdxl_models() if family == "sdxl" else prepare_models()


def astronaut(folder: Path) -> Path:
    """Write NASA's portrait of Eileen Collins into ``folder`` and return the file."""
    import skimage.data
    from PIL import Image

    path = folder / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(path)
    return path


# The nodes added to the workflow, by the panel their picture goes to.
PANELS = ("demo photos", "demo faces", "demo plain image", "demo image")
CAPTIONS = (
    "the photo and the face chosen",
    "what EVA-CLIP saw",
    "without identity",
    "with identity",
)


def extended(prompt: Prompt, kind: str, info: dict[str, dict]) -> Prompt:
    """Return the workflow with the face shown and a second branch without identity.

    kind: the node that puts the identity in.
    """
    prompt = copy.deepcopy(prompt)
    apply = the(prompt, kind)
    sampler, decode, save = (the(prompt, k) for k in ("KSampler", "VAEDecode", "SaveImage"))
    known = info["PuLIDFluxEncodeIdentity"]["input"]
    known = {**known["required"], **known.get("optional", {})}
    inputs = {k: v for k, v in prompt[apply]["inputs"].items() if k in known}
    add(prompt, "demo encode", "PuLIDFluxEncodeIdentity", inputs, "Encode PuLID Identity")
    add(prompt, "demo faces", "PreviewImage", {"images": ["demo encode", 1]})
    add(prompt, "demo photos", "PreviewImage", {"images": ["demo encode", 2]})
    model = prompt[apply]["inputs"]["model"]
    inputs = prompt[sampler]["inputs"] | {"model": model}
    add(prompt, "demo plain", "KSampler", inputs, "KSampler without identity")
    inputs = prompt[decode]["inputs"] | {"samples": ["demo plain", 0]}
    add(prompt, "demo plain decode", "VAEDecode", inputs, "VAE Decode without identity")
    add(prompt, "demo plain image", "PreviewImage", {"images": ["demo plain decode", 0]})
    add(prompt, "demo image", "PreviewImage", {"images": prompt.pop(save)["inputs"]["images"]})
    return prompt


def the(prompt: Prompt, kind: str) -> str:
    """Return the id of the only node of class ``kind``."""
    (found,) = (node for node, entry in prompt.items() if entry["class_type"] == kind)
    return found


def add(prompt: Prompt, node: str, kind: str, inputs: dict, title: str | None = None) -> None:
    """Add a node."""
    entry = {"class_type": kind, "inputs": inputs, "_meta": {"title": title or kind}}
    prompt[node] = entry


def adjust(prompt: Prompt, options: argparse.Namespace, photo: str, info: dict[str, dict]) -> None:
    """Put the command line's wishes into ``prompt``."""
    set_inputs(prompt, "LoadImage", image=photo)
    set_inputs(prompt, "KSampler", steps=options.steps, seed=options.seed)
    set_inputs(prompt, FAMILIES[options.family].apply, weight=options.weight)
    if options.size:
        width, height = options.size
        for kind in ("EmptySD3LatentImage", "EmptyLatentImage"):
            set_inputs(prompt, kind, width=width, height=height)
    if options.prompt:
        inputs = prompt[prompt["demo plain"]["inputs"]["positive"][0]]["inputs"]
        while "text" not in inputs:  # FLUX's guidance comes between
            inputs = prompt[inputs["conditioning"][0]]["inputs"]
        inputs["text"] = options.prompt
    for entry in prompt.values():
        take_similar_files(entry, info[entry["class_type"]]["input"].get("required", {}))


def set_inputs(prompt: Prompt, kind: str, **values: object) -> None:
    """Set inputs on every node of class ``kind``; None leaves one as it is."""
    for entry in prompt.values():
        if entry["class_type"] == kind:
            entry["inputs"] |= {k: v for k, v in values.items() if v is not None}


def take_similar_files(entry: dict, known: dict[str, list]) -> None:
    """Where a loader's file is not there but another build of it is (fp8, fp16), take that."""
    for name, spec in known.items():
        wanted = entry["inputs"].get(name)
        files = spec[0] if isinstance(spec[0], list) else spec[1:] and spec[1].get("options")
        if not isinstance(wanted, str) or not files or wanted in files:
            continue
        stem = re.split(r"[_.-](fp|bf|v\d|psz|scaled|safetensors)", wanted)[0].lower()
        similar = [file for file in files if stem in str(file).lower()]
        if similar:
            say(f"{wanted} is not there, taking {similar[0]}")
            entry["inputs"][name] = similar[0]


class Progress:
    """Shows on the terminal which node runs, and the sampler's steps."""

    def __init__(self, prompt: Prompt):
        self.prompt = prompt
        self.live = sys.stdout.isatty()
        self.shown = ""

    def __call__(self, kind: str, data: dict) -> None:
        if kind == "executing" and data["node"] is not None:
            entry = self.prompt[data["display_node"]]
            if entry["_meta"]["title"] != self.shown and entry["class_type"] != "PreviewImage":
                self.shown = entry["_meta"]["title"]
                say(self.shown)
        elif kind == "progress" and data["max"] > 1:
            done, total = data["value"], data["max"]
            if self.live:
                bar = "#" * (30 * done // total)
                print(f"\r       [{bar:<30}] {done}/{total}", end="" if done < total else "\n")
            elif done == total:
                say(f"{total} of {total} steps")


def write_sheet(
    output: Path, pictures: list[bytes], prompt: Prompt, family: Family, stand_ins: bool
) -> None:
    """Write the pictures side by side with captions and the settings."""
    from PIL import Image
    from sheet import compose

    apply = prompt[the(prompt, family.apply)]["inputs"]
    sampler = prompt["demo plain"]["inputs"]
    settings = (
        f"weight {apply['weight']:g}, identity from {apply['start_at']:.0%} to "
        f"{apply['end_at']:.0%} of {sampler['steps']} steps, seed {sampler['seed']}"
    )
    warning = (
        "Stand-in models with random weights: this shows that the identity acts, "
        f"not what {family.name} paints."
    )
    opened = [Image.open(io.BytesIO(p)).convert("RGB") for p in pictures]
    row = list(zip(opened, CAPTIONS, strict=True))
    sheet = compose([row], [settings], warning if stand_ins else "")
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(output)


def fail(message: str) -> int:
    """Say what went wrong; return the exit code."""
    print(f"[demo] {message}", file=sys.stderr, flush=True)
    return 1


def say(text: str) -> None:
    """Tell the person at the terminal what is going on."""
    print(f"[demo] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
