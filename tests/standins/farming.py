"""A farm's jobs, driver and results, for tests."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from places import ROOT

from standins.server import saved_pictures
from standins.workshop import read_shipped

LIMIT = 600.0


class Farm:
    """Runs ``scripts/farm.py`` with jobs of its own in ``folder``."""

    def __init__(self, folder: Path, jobs: list):
        self.folder = folder
        self.drivers: list[subprocess.Popen] = []
        self.jobs = folder / "jobs.jsonl"
        self.servers = folder / "servers.txt"
        self.target = folder / "out"
        lines = [job if isinstance(job, str) else json.dumps(job) for job in jobs]
        self.jobs.write_text("".join(f"{line}\n" for line in lines))
        photo = Image.fromarray(skimage.data.astronaut())
        photo.save(folder / "a.png")
        photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "b.png")
        Image.new("RGB", (64, 64)).save(folder / "wall.png")

    def start(self, *urls: str, **options) -> subprocess.Popen:
        """Start a driver with these servers; more may be written into the file."""
        self.servers.write_text("\n".join(urls))
        command = [sys.executable, str(ROOT / "scripts" / "farm.py"), str(self.jobs)]
        command += ["--servers-file", str(self.servers), "--target", str(self.target)]
        command += [str(part) for pair in options.items() for part in (f"--{pair[0]}", pair[1])]
        self.said = (self.folder / "said.txt").open("a")
        self.drivers.append(subprocess.Popen(command, stderr=self.said, stdout=self.said))
        return self.drivers[-1]

    def end(self) -> None:
        """Leave no driver behind."""
        for driver in self.drivers:
            driver.kill()
            driver.wait()

    def lines(self) -> list[dict]:
        """Return the journal's whole lines."""
        path = self.target / "results.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, number: int, driver: subprocess.Popen) -> None:
        """Wait until so many jobs have ended."""
        deadline = time.monotonic() + LIMIT
        while len(self.lines()) < number:
            assert driver.poll() is None and time.monotonic() < deadline, self.told()
            time.sleep(0.05)

    def told(self) -> str:
        return (self.folder / "said.txt").read_text()

    def picture(self, line: dict) -> np.ndarray:
        (name,) = line["pictures"]
        content = (self.target / name).read_bytes()
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.fixture
def start_farm(tmp_path):
    """Return what makes a farm of jobs; its drivers end with the test."""
    made = []

    def make(jobs: list) -> Farm:
        made.append(Farm(tmp_path, jobs))
        return made[-1]

    yield make
    for farm in made:
        farm.end()


def job(number: int, **more) -> dict:
    return {
        "id": f"job {number}",
        "workflow": "flux_pulid_basic",
        "photo": "ab"[number % 2] + ".png",
        "prompt": f"a person, number {number}",
        "weight": 0.8 + number / 100,
        "seed": number,
        "steps": 2,
        "width": 64,
        "height": 64,
    } | more


def alone(server, farm: Farm, number: int) -> np.ndarray:
    """Return the picture that a server makes of a job's own workflow and photo."""
    prompt = read_shipped("flux_pulid_basic")
    titled = {node["_meta"]["title"]: node["inputs"] for node in prompt.values()}
    wanted = job(number)
    titled["Photo of the person"]["image"] = server.upload(farm.folder / wanted["photo"])
    titled["Prompt"]["text"] = wanted["prompt"]
    titled["Apply PuLID-Flux"]["weight"] = wanted["weight"]
    titled["Sampler"] |= {"seed": number, "steps": 2}
    titled["Empty latent"] |= {"width": 64, "height": 64}
    titled["Save picture"]["filename_prefix"] = "alone"
    (picture,) = saved_pictures(server, prompt)
    return picture
