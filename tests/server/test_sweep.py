"""A sweep on real servers: each thing once; killed and resumed, the table is the same."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from places import ROOT
from standins.server import encodings, node_of, set_inputs

pytestmark = pytest.mark.server

VARY = ("--vary", "weight=0.6,0.8,1.5", "--vary", "start_at=0,0.1,0.5", "--seeds", "1,2")
LIMIT = 180.0  # seconds for anything


@pytest.fixture
def command(basic, portrait, tmp_path) -> list[str]:
    """Return a sweep's command, without server and folder.

    The stand-ins paint no faces: the photo lies under each picture, which the identity disturbs.
    """
    blend = {"image1": ["photo", 0], "image2": [node_of(basic, "VAEDecode"), 0]}
    blend |= {"blend_factor": 0.35, "blend_mode": "normal"}
    basic["blend"] = {"class_type": "ImageBlend", "inputs": blend}
    basic["photo"] = {"class_type": "LoadImage", "inputs": {"image": "astronaut.png"}}
    set_inputs(basic, "SaveImage", images=["blend", 0])
    set_inputs(basic, "KSampler", steps=2)
    set_inputs(basic, "EmptySD3LatentImage", width=64, height=64)
    file, photo = tmp_path / "workflow.json", tmp_path / "astronaut.png"
    file.write_text(json.dumps(basic))
    Image.fromarray(skimage.data.astronaut()).save(photo)
    script = ROOT / "scripts" / "sweep.py"
    return [sys.executable, str(script), str(file), "--photo", str(photo), *VARY]


def start(command: list[str], folder: Path, *more: str) -> subprocess.Popen:
    """Start a sweep into a folder."""
    return subprocess.Popen(
        [*command, "--output", str(folder), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for its end; return code and output."""
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out + err


def files(folder: Path, kind: str) -> dict[str, int]:
    """Return the finished files of a kind and when each was written."""
    found = (folder / kind).glob("[!.]*")
    return {path.name: path.stat().st_mtime_ns for path in found}


def wait_until(condition) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_and_resumed_a_sweep_is_as_if_undisturbed(server, basic, command, tmp_path):
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    here = ("--server", server.url)
    census = {"census": {"class_type": "ModelCensus", "inputs": {}}}
    before = encodings(server, census)
    code, said = finish(start(command, calm, *here))
    assert code == 0, said
    assert "1 encoded, 20 rendered, 18 measured" in said
    after = encodings(server, census)
    assert {kind: after[kind] - before.get(kind, 0) for kind in ("parser", "id_encoder")} == {
        "parser": 1,
        "id_encoder": 1 + (before.get("id_encoder", 0) == 0),  # and zeros, once for a loaded model
    }
    assert len(files(calm, "pictures")) == 20 and len(files(calm, "measured")) == 18
    code, said = finish(start(command, calm, *here))
    assert code == 0 and "new: 0 encoded, 0 rendered, 0 measured" in said

    # a server of its own dies
    sweep = start(command, rough)
    wait_until(lambda: len(files(rough, "pictures")) >= 5)
    note = json.loads((rough / "server.json").read_text())
    os.kill(note["pid"], signal.SIGKILL)
    code, said = finish(sweep)
    assert code == 1 and "The same command goes on from here." in said, said
    first = files(rough, "pictures") | files(rough, "identities")
    assert 6 <= len(first) < 21
    # on another server, the sweep itself is killed among the pictures, and among the measurements
    for kind in ("pictures", "measured"):
        had = files(rough, kind)
        sweep = start(command, rough, *here)
        wait_until(lambda kind=kind, had=had: len(files(rough, kind)) >= len(had) + 4)
        sweep.kill()
        finish(sweep)
    kept = first | files(rough, "pictures") | files(rough, "measured")
    code, said = finish(start(command, rough, *here))
    assert code == 0, said
    assert "new: 0 encoded" in said
    now = {k: v for n in ("identities", "pictures", "measured") for k, v in files(rough, n).items()}
    assert kept.items() <= now.items(), "something was made twice"
    assert files(rough, "pictures").keys() == files(calm, "pictures").keys()
    assert (rough / "results.csv").read_text() == (calm / "results.csv").read_text()
    for name in files(calm, "pictures"):
        assert same_picture(rough / "pictures" / name, calm / "pictures" / name), name

    rows = list(csv.DictReader((calm / "results.csv").open()))
    assert len(rows) == 18
    assert all(float(row["similarity"]) > 0.4 and float(row["difference"]) > 0 for row in rows)
    results = json.loads((calm / "results.json").read_text())
    assert set(results["recommended"]) == {"weight", "start_at"}
    assert sum(one["front"] for one in results["settings"]) >= 1
    page = (calm / "report.html").read_text("utf-8")
    assert "http" not in page and page.count("<img") == 1 + 20


def same_picture(one: Path, other: Path) -> bool:
    return list(Image.open(one).getdata()) == list(Image.open(other).getdata())


def test_what_is_wrong_is_said_before_anything_is_rendered(server, command, tmp_path):
    for more, words in (
        (("--set", "wieght=1"), "0 nodes have an input for 'wieght'"),
        (("--set", "weight=abc"), "weight"),
        (("--server", "http://127.0.0.1:9"), "No ComfyUI answers at http://127.0.0.1:9"),
    ):
        where = () if "--server" in more else ("--server", server.url)
        code, said = finish(start(command, tmp_path / "wrong", *where, *more))
        assert code == 1 and words in said, said
