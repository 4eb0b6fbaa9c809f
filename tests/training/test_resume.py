"""A run that is ended at any moment goes on as if nothing had happened, to the last bit."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import torch
from pulid_pack.training import checkpoints
from pulid_pack.training.checkpoints import Checkpoint, all_of
from pulid_pack.training.metrics import Table
from safetensors import safe_open
from standins.small_runs import FIRST, THIRD, rows, settings, start, tables, train

STAGES = [{**FIRST, "steps": 6}, {**THIRD, "steps": 6}]


def test_kill_9_and_resume_give_the_undisturbed_runs_metrics(tmp_path, drawn_people):
    """The one is undisturbed in this process; the other is killed at a random step."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = {"checkpoint_every": 2}
    process = start(tmp_path, tables(killed, STAGES, **run))
    train(settings(whole, STAGES, **run), drawn_people)
    wanted = random.randint(3, 9)
    limit = time.monotonic() + 120
    while time.monotonic() < limit and process.poll() is None:
        if (killed / "metrics.csv").is_file() and len(rows(killed)) >= wanted:
            break
        time.sleep(0.01)
    process.kill()
    said = process.communicate()[0]
    assert 3 <= len(rows(killed)) < 12, said
    train(settings(killed, STAGES, **run), drawn_people, resume=True)
    assert (killed / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    last = [all_of(folder / "checkpoints")[-1] for folder in (killed, whole)]
    mine, theirs = map(content, last)
    assert mine[0] == theirs[0] and mine[1].keys() == theirs[1].keys()
    assert all(torch.equal(value, theirs[1][name]) for name, value in mine[1].items())
    assert rows(killed, "validation.csv") == rows(whole, "validation.csv")


def content(path: Path) -> tuple[dict, dict]:
    """Return a checkpoint's metadata, which stand in any order in the file, and its tensors."""
    with safe_open(str(path), framework="pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def made(step: int = 3) -> Checkpoint:
    """Return a checkpoint of a few numbers."""
    with torch.inference_mode(False):
        weight = torch.nn.Parameter(torch.arange(3.0))
        optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.5, 0.75))
        weight.grad = torch.ones(3)
        optimizer.step()
    state = optimizer.state_dict()
    return Checkpoint(step, 10, "digest", {"w": weight}, {"w": torch.ones(3)}, state)


def test_a_checkpoint_reads_back_as_it_was(tmp_path):
    one = made()
    found = checkpoints.load(checkpoints.save(one, tmp_path, 2), "digest")
    assert (found.step, found.position) == (3, 10)
    assert torch.equal(found.weights["w"], one.weights["w"])
    assert torch.equal(found.averaged["w"], torch.ones(3))
    groups = found.optimizer["param_groups"]
    assert groups == one.optimizer["param_groups"] and groups[0]["betas"] == (0.5, 0.75)
    for name, value in one.optimizer["state"][0].items():
        assert torch.equal(found.optimizer["state"][0][name], value)


def test_only_the_newest_are_kept_and_leftovers_go(tmp_path):
    for step in (2, 4, 10):
        checkpoints.save(made(step), tmp_path, 2)
    (tmp_path / ".saving-step_00000012.safetensors").write_bytes(b"half")
    checkpoints.remove_unfinished(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step_00000004.safetensors",
        "step_00000010.safetensors",
    ]
    assert checkpoints.newest(tmp_path).name == "step_00000010.safetensors"


def test_a_full_disk_keeps_the_older_checkpoint(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    before = checkpoints.save(made(2), tmp_path, 1).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(RuntimeError, match="checkpoint .*step_00000004.* could not be written"):
            checkpoints.save(made(4), tmp_path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000002.safetensors"]
    assert checkpoints.newest(tmp_path).read_bytes() == before


def test_what_is_no_checkpoint_is_named(tmp_path):
    path = tmp_path / "step_00000001.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        checkpoints.load(path, "digest")
    good = checkpoints.save(made(), tmp_path, 2)
    with pytest.raises(ValueError, match="was made with other settings"):
        checkpoints.load(good, "another digest")


def test_a_table_begins_after_the_step_it_goes_on_from(tmp_path):
    table = Table(tmp_path / "t.csv", ("step", "loss"))
    table.begin(0)
    for step in (1, 2, 3):
        table.add({"step": step, "loss": 0.1 * step})
    with table.path.open("a") as file:
        file.write("4,0.")  # the process ended here
    table.begin(2)
    assert table.path.read_text() == "step,loss\n1,0.1\n2,0.2\n"
    assert float(table.rows()[1]["loss"]) == 0.1 * 2


def test_damaged_weights_have_a_name():
    good = {"a": torch.ones(2), "b": torch.ones(3)}
    assert checkpoints.finite(good) is None
    assert checkpoints.finite({**good, "b": torch.tensor([1.0, float("nan")])}) == "b"


def test_rows_are_of_this_folder(tmp_path: Path):
    assert Table(tmp_path / "none.csv", ("step",)).rows() == []
