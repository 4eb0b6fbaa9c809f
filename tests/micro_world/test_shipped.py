"""The trained files that ship: what the manifest says of them is so."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from pulid_pack.micro_world.files import ADAPTER, MANIFEST, TRAINED, read_world
from pulid_pack.micro_world.held_out import HeldOut
from pulid_pack.micro_world.recipes import SHIPPED
from pulid_pack.micro_world.school import LESSONS
from pulid_pack.training import adapter_files

PEOPLE = 48
LARGEST = 12e6  # bytes of all files
REACHED = 0.6  # of the ceiling
WORDS, LIGHT = 0.05, 0.1


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads((TRAINED / MANIFEST).read_text("utf-8"))


def test_the_files_are_those_of_the_manifest_and_small(manifest):
    files = {path.name: path for path in TRAINED.glob("*.safetensors")}
    sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert sums == manifest["sha256"]
    assert sum(path.stat().st_size for path in files.values()) < LARGEST


def test_the_recipe_is_still_that_of_the_files(manifest):
    assert manifest["steps"] == {lesson.name: lesson.steps for lesson in LESSONS}
    assert manifest["adapter"] == SHIPPED


def test_the_figures_are_no_worse_than_what_was_reached(manifest):
    figures = manifest["figures"]
    at_one, plain = figures["at weight 1"], figures["without identity"]
    assert at_one["likeness"] > REACHED * figures["two drawings of one person"]
    assert at_one["words"] > plain["words"] - WORDS
    assert abs(at_one["light"]) < LIGHT


def test_the_figures_come_out_again(manifest):
    """On fewer people: within four of their standard errors."""
    with torch.inference_mode(False):
        found = HeldOut(read_world(), PEOPLE).summary(adapter_files.load(TRAINED / ADAPTER))
    ours, theirs = (one["at weight 1"] for one in (found, manifest["figures"]))
    assert abs(ours["likeness"] - theirs["likeness"]) < 4 * ours["error"]
    assert abs(found["without identity"]["likeness"]) < 0.1
