"""Several processes are one: gloo on this machine, two against one with twice the batch."""

from __future__ import annotations

import time

import pytest
import torch
from pulid_pack.training import distributed
from pulid_pack.training.checkpoints import load, newest
from pulid_pack.training.distributed import Group, buckets
from serving import free_port
from standins.small_runs import FIRST, THIRD, rows, settings, start, tables, train


def doubled(stages: list[dict]) -> list[dict]:
    return [{**stage, "batch": 2 * stage["batch"]} for stage in stages]


# a low rate: Adam's first steps make as much of a rounding error as of a gradient
RATE = {"rate": 1e-4}
STAGES = [{**FIRST, "steps": 2, "accumulate": 2, **RATE}, {**THIRD, "steps": 2, **RATE}]


def test_two_processes_are_one_with_twice_the_batch_and_a_third_is_refused(
    tmp_path, drawn_people, monkeypatch
):
    """Their optimizer's state is divided, and put together in the checkpoint."""
    two, one = tmp_path / "two", tmp_path / "one"
    port = str(free_port())
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    shared = tables(two, STAGES)
    processes = [start(tmp_path, shared, RANK=str(rank), **where) for rank in range(2)]
    train(settings(one, doubled(STAGES)), drawn_people)
    for name, value in {**where, "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    digest = settings(two, STAGES).digest()
    while not (two / "metrics.csv").is_file() and processes[0].poll() is None:
        time.sleep(0.05)  # until they are together
    taken = "The run is complete: its place 1 of 2 is taken, so"
    with (
        pytest.raises(RuntimeError, match=taken),
        distributed.group(torch.device("cpu"), digest),
    ):
        pass
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    mine, theirs = rows(two), rows(one)
    assert len(mine) == len(theirs) == 4
    for a, b in zip(mine, theirs, strict=True):
        for name in set(a) - {"step", "stage"}:
            if b[name]:
                assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-5, abs=1e-6), name
    found = [
        load(newest(folder / "checkpoints"), settings(folder, stages).digest())
        for folder, stages in ((two, STAGES), (one, doubled(STAGES)))
    ]
    assert found[0].position == found[1].position
    states = [checkpoint.optimizer["state"] for checkpoint in found]
    assert states[0].keys() == states[1].keys() and len(states[0]) > 50
    for number, state in states[1].items():
        mean = states[0][number]["exp_avg"]  # linear in the gradients, unlike the weights
        assert (mean - state["exp_avg"]).norm() < 1e-3 * state["exp_avg"].norm(), number
    for name, value in found[1].weights.items():
        apart = (found[0].weights[name] - value) / RATE["rate"]  # in steps: a few turn round
        assert apart.abs().max() < 1 and apart.square().mean().sqrt() < 0.1, name


def test_a_rank_beyond_the_run_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    said = r"has rank 2, but the run is of 2 processes \(ranks 0 to 1\): it was not joined"
    with pytest.raises(RuntimeError, match=said), distributed.group(torch.device("cpu"), "digest"):
        pass


def test_slots_of_the_processes_are_those_of_one():
    """Two parts of a step, three processes of two pictures."""
    found = [Group(rank, 3).slots(2, part)[0] for part in range(2) for rank in range(3)]
    assert sum(found, []) == list(range(12))
    assert Group().slots(6, 1)[0] == list(range(6, 12))


def test_one_process_alone_changes_nothing():
    tensors = [torch.ones(2), torch.zeros(1)]
    Group().average(tensors)
    assert tensors[0].tolist() == [1, 1] and Group().share(torch.tensor(3.0)).item() == 1.0
    assert Group().any(True, torch.device("cpu")) and Group().leads


def test_gradients_are_reduced_in_buckets(monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET", 24)
    tensors = [torch.zeros(n) for n in (4, 3, 1, 9)]
    assert [[len(t) for t in group] for group in buckets(tensors)] == [[4, 3], [1, 9]]
