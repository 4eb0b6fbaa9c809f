"""The demo without models: drawn people, whose small trained networks come with the repository.

One prompt with the pack's own nodes: a person's photo, the picture without identity and at three
weights, the person in other pictures, two people side by side, each with its likeness; and a real
portrait through the face models' path.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from typing import Any

from drawn_world import BASIC, JUDGE, PICTURE, PORTRAIT, STEPS

WEIGHTS, SEED = (0.4, 0.7, 1.0), 5
SCENES = {
    "cap, smiling": "a person, yellow, striped, cap, no glasses, teal shirt, middle, smiling",
    "sunglasses": "a person, red, plain, bareheaded, sunglasses, black shirt, left, serious",
    "top hat": "a person, green, dotted, top hat, no glasses, orange shirt, right, smiling",
    "beanie, surprised": "a person, violet, beanie, no glasses, pink shirt, middle, surprised",
}
PAIR = (
    "a person, grey, plain, bareheaded, no glasses, teal shirt, middle, smiling, and a person, "
    "yellow, plain, bareheaded, no glasses, black shirt, middle, serious"
)
HEIGHT = 232  # of a picture on the page
NOTES = (
    "Drawn people in the pack's own nodes: FLUX, EVA-CLIP, face models and PuLID, a few MB each,",
    "trained by python -m micro_world.train. Likeness: cosine by a recogniser that only measures.",
)
Link = list[Any]  # a node and the number of its output
Picture = tuple[str, str]  # the node that shows it, and its caption


class Story(dict):
    """The demo's prompt in API form, and the rows of its page, as they grow."""

    def __init__(self, basic: Mapping[str, dict], seed: int, steps: int):
        """basic: the shipped basic workflow, whose loaders these are."""
        super().__init__()
        self.loaders = {entry["class_type"]: entry["inputs"] for entry in basic.values()}
        self.seed, self.steps = seed, steps
        self.rows: list[list[Picture]] = []
        self.model, self.vae, self.clip = (
            self.load(kind) for kind in ("UNETLoader", "VAELoader", "DualCLIPLoader")
        )
        self.pulid, self.eva = self.load("PuLIDFluxLoadModel"), self.load("PuLIDFluxLoadEVACLIP")
        self.faces = self.load("PuLIDFluxLoadInsightFace")
        self.judge = self.load("PuLIDFluxLoadInsightFace", "Judge", model_pack=JUDGE)

    def add(self, title: str, kind: str, **inputs: Any) -> Link:
        """Add a node and return the link to its first output."""
        self[title] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
        return [title, 0]

    def load(self, kind: str, title: str = "", **other: str) -> Link:
        """Add one of the basic workflow's loaders, with other files if named."""
        return self.add(title or kind, kind, **{**self.loaders[kind], **other})

    def load_stand_in(self, kind: str) -> Link:
        """Add a loader of the file that the real portrait goes through."""
        name = f"{PORTRAIT}_{self.loaders[kind]['model_name']}"
        return self.load(kind, f"{PORTRAIT}: {kind}", model_name=name)

    def show(self, title: str, picture: Link, caption: str) -> None:
        """Put a picture at the end of the page's last row."""
        self.add(title, "PreviewImage", images=picture)
        self.rows[-1].append((title, caption))

    def encode(self, title: str, photo: Link, pulid: Link, eva: Link, faces: Link) -> Link:
        """Add *Encode PuLID Identity*."""
        models = {"pulid_model": pulid, "eva_clip": eva, "face_analysis": faces}
        options = {"face": "largest", "face_index": 0, "fusion": "joint", "on_no_face": "error"}
        options |= {"grayscale": True, "image": photo}
        return self.add(title, "PuLIDFluxEncodeIdentity", **models, **options)

    def apply(
        self, title: str, model: Link, identity: Link, weight: float = 1.0, **more: str
    ) -> Link:
        """Add *Apply PuLID-Flux Identity*."""
        given = {"model": model, "pulid_model": self.pulid, "identity": identity}
        given |= {"weight": weight, "start_at": 0.0, "end_at": 1.0}
        return self.add(title, "PuLIDFluxApplyIdentity", **given, **more)

    def paint(self, title: str, model: Link, text: str, wide: int = 1) -> Link:
        """Add what draws a prompt's picture; ``wide`` of them side by side."""
        positive, negative = (
            self.add(f"{title}: {name}", "CLIPTextEncode", clip=self.clip, text=words)
            for name, words in (("prompt", text), ("negative prompt", ""))
        )
        empty = {"width": PICTURE * wide, "height": PICTURE, "batch_size": 1}
        latent = self.add(f"{title}: latent", "EmptySD3LatentImage", **empty)
        how = {"seed": self.seed, "steps": self.steps, "cfg": 1.0, "denoise": 1.0}
        how |= {"sampler_name": "euler", "scheduler": "simple", "latent_image": latent}
        how |= {"model": model, "positive": positive, "negative": negative}
        samples = self.add(f"{title}: sampler", "KSampler", **how)
        return self.add(f"{title}: decode", "VAEDecode", samples=samples, vae=self.vae)

    def measure(self, title: str, picture: Link, *photos: Link) -> None:
        """Add what measures a picture of as many people side by side as there are photos."""
        size = {"width": PICTURE, "height": PICTURE, "y": 0, "image": picture}
        for number, photo in enumerate(photos):
            part = self.add(f"{title}: part {number}", "ImageCrop", x=number * PICTURE, **size)
            judged = {"face_analysis": self.judge, "image": part, "reference": photo}
            judged["people"] = "one person"
            self.add(measuring(title, number), "PuLIDMeasureIdentity", **judged)

    def show_person(self, title: str, model: Link, text: str, photo: Link, caption: str) -> None:
        """Draw a person, measure and show."""
        picture = self.paint(title, model, text)
        self.measure(title, picture, photo)
        self.show(title, picture, caption)


def measuring(title: str, number: int) -> str:
    """Return the title of the node that measures one person in a picture."""
    return f"{title}: judge {number}"


def story_of(
    photos: Sequence[str], basic: Mapping[str, dict], options: argparse.Namespace
) -> Story:
    """Return the demo's prompt and its page.

    photos: names of the uploaded ones, of person, other and portrait; basic: the shipped basic
    workflow; options: the command line's wishes.
    """
    seed = SEED if options.seed is None else options.seed
    story = Story(basic, seed, options.steps or STEPS)
    person, other, portrait = (
        story.add(f"photo {n}", "LoadImage", image=name) for n, name in enumerate(photos)
    )
    models = (story.pulid, story.eva, story.faces)
    own, others = (story.encode(f"identity of {p[0]}", p, *models) for p in (person, other))
    story.rows.append([])
    story.show("person", person, "one photo of a person")
    text = options.prompt or BASIC
    story.show_person("plain", story.model, text, person, "without identity")
    for weight in WEIGHTS:
        model = story.apply(f"apply {weight:g}", story.model, own, weight)
        story.show_person(f"weight {weight:g}", model, text, person, f"weight {weight:g}")
    story.rows.append([])
    model = story.apply("apply", story.model, own)
    for title, text in SCENES.items():
        story.show_person(title, model, text, person, title)
    story.rows.append([])
    story.show("other", other, "another person")
    left = story.apply("left", story.model, own, region="left half")
    both = story.apply("right", left, others, region="right half")
    two = story.paint("two", both, PAIR, 2)
    story.measure("two", two, person, other)
    story.show("two", two, "both, side by side")
    stand_ins = [story.load_stand_in(f"PuLIDFluxLoad{name}") for name in ("Model", "EVACLIP")]
    faces = story.load("PuLIDFluxLoadInsightFace", f"{PORTRAIT}: faces", model_pack=PORTRAIT)
    seen, _ = story.encode(PORTRAIT, portrait, *stand_ins, faces)
    story.show("found", [seen, 2], "a real portrait: the face found")
    story.show("crop", [seen, 1], "what EVA-CLIP sees of it")
    return story


def captioned(result: Any, rows: Sequence[Sequence[Picture]]) -> list[list[Picture]]:
    """Return the rows with each caption's second line: what Measure Identity found."""
    return [[(node, caption + likeness(result, node)) for node, caption in row] for row in rows]


def likeness(result: Any, title: str) -> str:
    """Return the line about a picture's people, nothing where none was measured."""
    found = []
    while measured := result.outputs.get(measuring(title, len(found)), {}).get("pulid_measured"):
        found.append(measured[0]["similarity"])
    said = ["no face found" if one is None else f"{one:.2f}" for one in found]
    return "\nlikeness " + " and ".join(said) if said else ""


def page(server: Any, result: Any, rows: Sequence[Sequence[Picture]], seed: int) -> Any:
    """Return the page: every picture over its caption, the real portrait last."""
    from PIL import Image
    from sheet import compose

    def opened(node: str) -> Image.Image:
        return Image.open(io.BytesIO(server.image(result.images(node)[0]))).convert("RGB")

    panels = [[(opened(node), caption) for node, caption in row] for row in rows]
    return compose(panels, [*NOTES, f"Seed {seed}"], height=HEIGHT)
