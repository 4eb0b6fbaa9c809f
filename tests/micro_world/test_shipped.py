"""The trained files that ship: what the manifest says of them is so."""

from __future__ import annotations

import hashlib
import json
from copy import copy

import pytest
import torch
from pulid_pack.micro_world.files import ADAPTER, MANIFEST, TRAINED, read_world
from pulid_pack.micro_world.held_out import HeldOut
from pulid_pack.micro_world.judging import Judged
from pulid_pack.micro_world.recipes import SHIPPED
from pulid_pack.micro_world.school import LESSONS
from pulid_pack.micro_world.world import World
from pulid_pack.training import adapter_files

PEOPLE = 256  # with 96, chance alone moves a paired difference by 0.01
LARGEST = 12e6  # bytes of all files
REACHED = 0.6  # of the ceiling
WORDS, LIGHT, FP8 = 0.05, 0.1, 0.02


def all_in_fp8(value: torch.Tensor) -> torch.Tensor:
    return value.to(torch.float8_e4m3fn)


def linear_in_fp8(value: torch.Tensor) -> torch.Tensor:
    return all_in_fp8(value) if value.ndim == 2 else value


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


@pytest.fixture(scope="module")
def people() -> HeldOut:
    with torch.inference_mode(False):
        return HeldOut(read_world(), PEOPLE)


def judged(people: HeldOut) -> Judged:
    """Return how good their pictures by the shipped adapter are."""
    with torch.inference_mode(False):
        return people.judged(adapter_files.load(TRAINED / ADAPTER), 1.0)


@pytest.fixture(scope="module")
def usual(people) -> Judged:
    return judged(people)


def test_the_figures_come_out_again(people, usual, manifest):
    """Within four standard errors: another machine adds in another order."""
    ours, theirs = people.figures(usual), manifest["figures"]["at weight 1"]
    assert abs(ours["likeness"] - theirs["likeness"]) < 4 * ours["error"]
    assert abs(float(people.judged(None, 0.0).likeness.mean())) < 0.1


@pytest.mark.parametrize("narrow", [linear_in_fp8, all_in_fp8])
def test_a_base_in_fp8_keeps_likeness(people, usual, narrow):
    """With 1,024 people: -0.008 ± 0.003, and 0.000 ± 0.003 with norms and biases in fp8 too."""
    networks, same = people.world.networks, copy(people)
    base = {key: narrow(value).float() for key, value in networks["base"].items()}
    same.models = World({**networks, "base": base}).models()
    gap = judged(same).likeness - usual.likeness
    assert gap.any() and abs(float(gap.mean())) < FP8
