"""Row 3: the whole graph on a real ComfyUI with stand-in models; what runs when what changes."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import demo
import hosting
from serving import Server

from .rows import Check, Column, Row, Settings
from .timing import Spread

COLUMNS = [
    Column("what", "run"),
    Column("seconds", "wall time, s", "{:.2f}"),
    Column("encodes", "encodings of the face", "{:.0f}"),
    Column("nodes", "nodes that ran"),
]


def run(settings: Settings) -> Row:
    """Queue the basic workflow over and over, changing one thing at a time."""
    host = hosting.prepare()
    models = demo.stand_in_models()
    with (
        tempfile.TemporaryDirectory() as scratch,
        Server(host, models, [demo.TEXT_ENCODER_PACK]) as server,
    ):
        bench = GraphBench(server, Path(scratch))
        bench.queue("first run")
        for turn in range(settings.pick(1, 5)):
            bench.queue("the same again")
            demo.set_inputs(bench.prompt, "KSampler", seed=100 + turn)
            bench.queue("new seed")
            demo.set_inputs(bench.prompt, "PuLIDFluxApply", weight=0.5 + turn / 10)
            bench.queue("new weight")
            bench.new_photo(turn)
            bench.queue("new photo")
    records = bench.records()
    again = sum(r["encodes"] for r in records if r["what"] in ("new seed", "new weight"))
    checks = [
        Check("face, EVA-CLIP or ID-encoder runs after a new seed or weight", again, "at most", 0)
    ]
    note = (
        "workflows/api/flux_pulid_basic.json on a server of its own, with small stand-in models, "
        "so the times show the overhead around the models. An encoding is one run of the face "
        "models, EVA-CLIP and the ID encoder: only they report progress on Apply PuLID-Flux."
    )
    return Row("The whole graph on the server", note, COLUMNS, records, checks)


class GraphBench:
    """A workflow on a server, and how its runs went."""

    def __init__(self, server: Server, scratch: Path):
        self.server = server
        self.scratch = scratch
        self.photo = demo.astronaut(scratch)
        self.prompt = json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
        width, height = demo.STAND_IN_SIZE
        demo.set_inputs(self.prompt, "EmptySD3LatentImage", width=width, height=height)
        demo.set_inputs(self.prompt, "KSampler", steps=demo.STAND_IN_STEPS, seed=1)
        demo.set_inputs(self.prompt, "LoadImage", image=server.upload(self.photo))
        self.runs: dict[str, list[dict]] = {}

    def queue(self, what: str) -> None:
        """Run the workflow; raise RuntimeError with the server's report if it fails."""
        encodes: list[str] = []
        apply = demo.the(self.prompt, "PuLIDFluxApply")

        def watch(kind: str, data: dict) -> None:
            if kind == "progress" and data["node"] == apply and data["value"] == data["max"]:
                encodes.append(apply)

        prompt = copy.deepcopy(self.prompt)
        start = time.perf_counter()
        result = self.server.queue(prompt, watch)
        taken = time.perf_counter() - start
        if result.error is not None:
            raise RuntimeError(f"{what}: {result.error['exception_message']}")
        self.runs.setdefault(what, []).append(
            {
                "seconds": taken,
                "encodes": len(encodes),
                "nodes": ", ".join(self.names(result.executed)) or "none",
            }
        )

    def names(self, executed: tuple[str, ...]) -> list[str]:
        """Return the titles of what ran."""
        if set(self.prompt) <= set(executed):
            return ["all"]
        return [self.prompt[node]["_meta"]["title"] for node in executed]

    def new_photo(self, turn: int) -> None:
        """Give the workflow a picture of the person it has not seen."""
        from PIL import Image

        path = self.scratch / f"photo{turn}.png"
        with Image.open(self.photo) as photo:
            margin = 4 * (turn + 1)
            photo.crop((margin, 0, photo.width, photo.height)).save(path)
        demo.set_inputs(self.prompt, "LoadImage", image=self.server.upload(path))

    def records(self) -> list[dict]:
        """Return one record a kind of run; what ran in its last one."""
        return [
            {
                "what": what,
                "seconds": asdict(Spread.of([r["seconds"] for r in runs])),
                "encodes": max(r["encodes"] for r in runs),
                "nodes": runs[-1]["nodes"],
            }
            for what, runs in self.runs.items()
        ]
