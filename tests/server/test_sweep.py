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

import numpy as np
import pytest
import skimage.data
from PIL import Image
from places import ROOT
from standins.server import encodings, node_of, set_inputs

pytestmark = pytest.mark.server

LIMIT = 600.0  # seconds for anything
# what varies, pictures with identity, pictures without
SHORT = (("--vary", "weight=0.6,1.5", "--seeds", "1,2"), 4, 2)
LONG = (("--vary", "weight=0.6,0.8,1.5", "--vary", "start_at=0,0.1,0.5", "--seeds", "1,2"), 18, 2)
FORMS = [pytest.param(*SHORT, id="short"), pytest.param(*LONG, id="long", marks=pytest.mark.slow)]


@pytest.fixture
def command(basic, tmp_path, server) -> list[str]:
    """Return a sweep's command, without what varies, server and folder.

    The stand-ins paint no faces: the photo lies under each picture, which the identity disturbs.
    """
    photo = tmp_path / "small.png"
    Image.fromarray(skimage.data.astronaut()[:256, 96:352]).save(photo)
    blend = {"image1": [node_of(basic, "LoadImage"), 0], "image2": [node_of(basic, "VAEDecode"), 0]}
    blend |= {"blend_factor": 0.3, "blend_mode": "normal"}
    basic["blend"] = {"class_type": "ImageBlend", "inputs": blend}
    set_inputs(basic, "SaveImage", images=["blend", 0])
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(basic))
    script = ROOT / "scripts" / "sweep.py"
    small = ("--steps", "2", "--size", "32x32")
    return [sys.executable, str(script), str(file), "--photo", str(photo), *small]


@pytest.fixture
def start():
    """Return a function that starts a program; what is left of them at the end is killed."""
    started = []

    def start(command: list[str], folder: Path, *more: str) -> subprocess.Popen:
        whole = [*command, "--output", str(folder), *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(whole, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for its end; return code and output."""
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out + err


def files(folder: Path, *kinds: str) -> dict[str, int]:
    """Return the finished files of some kinds and when each was written."""
    found = (path for kind in kinds for path in (folder / kind).glob("[!.]*"))
    return {path.name: path.stat().st_mtime_ns for path in found}


def wait_until(condition, process: subprocess.Popen) -> None:
    """Wait for something to happen while a program runs."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("vary", "cells", "plain"), FORMS)
def test_killed_and_resumed_a_sweep_is_as_if_undisturbed(
    server, command, start, tmp_path, vary, cells, plain
):
    command, total = [*command, *vary], cells + plain
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    here = ("--server", server.url)
    census = {"census": {"class_type": "ModelCensus", "inputs": {}}}
    before = encodings(server, census)
    code, said = finish(start(command, calm, *here))
    assert code == 0, said
    assert f"1 encoded, {total} rendered, {cells} measured" in said
    assert encodings(server, census)["parser"] - before.get("parser", 0) == 1
    assert len(files(calm, "pictures")) == total and len(files(calm, "measured")) == cells
    code, said = finish(start(command, calm, *here))
    assert code == 0 and "new: 0 encoded, 0 rendered, 0 measured" in said

    # on a server of its own, the sweep is killed, then goes on with that server, and that is killed
    sweep = start(command, rough)
    wait_until(lambda: len(files(rough, "pictures")) >= total // 4, sweep)
    sweep.kill()
    finish(sweep)
    note = json.loads((rough / "server.json").read_text())
    had = files(rough, "pictures", "identities")
    sweep = start(command, rough)
    wait_until(lambda: len(files(rough, "pictures")) >= total // 2, sweep)
    os.kill(note["pid"], signal.SIGKILL)
    killed = time.monotonic()
    code, said = finish(sweep)
    assert time.monotonic() - killed < 30, "a server of its own does not come back"
    assert code == 1 and "The same command goes on from here." in said, said
    assert not Path(note["base"]).exists() and not (rough / "server.json").exists()
    had |= files(rough, "pictures", "identities")
    assert total // 2 + 1 <= len(had) <= total
    # on another server it is killed while it measures
    sweep = start(command, rough, *here)
    wait_until(lambda: files(rough, "measured"), sweep)
    sweep.kill()
    finish(sweep)
    had |= files(rough, "pictures", "measured")
    code, said = finish(start(command, rough, *here))
    assert code == 0, said
    assert "new: 0 encoded, 0 rendered" in said
    now = files(rough, "identities", "pictures", "measured")
    assert had.items() <= now.items(), "something was made twice"
    assert len(now) == 1 + total + cells
    assert files(rough, "pictures").keys() == files(calm, "pictures").keys()
    for name in files(calm, "pictures"):
        assert same_picture(rough / "pictures" / name, calm / "pictures" / name), name
    for name in ("results.csv", "results.json"):
        assert (rough / name).read_text() == (calm / name).read_text()

    rows = list(csv.DictReader((calm / "results.csv").open()))
    assert len(rows) == cells
    assert all(float(row["similarity"]) > 0.4 and float(row["difference"]) > 0 for row in rows)
    results = json.loads((calm / "results.json").read_text())
    assert set(results["recommended"]) == {name.partition("=")[0] for name in vary[1:-2:2]}
    page = (calm / "report.html").read_text("utf-8")
    assert "http" not in page and page.count("<img") == 1 + total


def same_picture(one: Path, other: Path) -> bool:
    return np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


def test_what_is_wrong_is_said(server, command, start, tmp_path):
    for more, words in (
        (("--set", "wieght=1"), "0 nodes have an input for 'wieght'"),
        (
            ("--set", "weight=-99"),
            "Value -99.0 smaller than min of -1.0: weight\n[sweep] Done until then",
        ),
        (("--server", "http://127.0.0.1:9"), "No ComfyUI answers at http://127.0.0.1:9"),
    ):
        where = () if "--server" in more else ("--server", server.url)
        code, said = finish(start(command, tmp_path / "wrong", *where, *more))
        assert code == 1 and words in said, said
