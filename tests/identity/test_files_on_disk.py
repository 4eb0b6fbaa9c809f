"""Identity files on the disk: in place in one step, faults of the disk named, no leftovers."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch
from pulid_pack.identity import files
from pulid_pack.identity.files import (
    load_identity,
    save_identity,
)
from standins.lab import person

resource = pytest.importorskip("resource", reason="limits of a process are POSIX")


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_loaded_identity_is_not_tied_to_its_file(tmp_path):
    path = tmp_path / "anna.safetensors"
    save_identity(person(1), path, preview=torch.full((4, 4, 3), 0.5))
    identity, preview = load_identity(path)
    with path.open("r+b") as file:  # in place, as a copy over it does
        size = path.stat().st_size
        file.write(b"\xff" * size)
    assert torch.equal(identity.id_tokens, person(1).id_tokens)
    assert torch.equal(identity.uncond_id_tokens, person(1).uncond_id_tokens)
    assert torch.equal(preview, torch.full((4, 4, 3), 128 / 255))


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_of_several_who_save_one_name_exactly_one_succeeds(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*paths):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(files.os, "link", refuse)
    ends: list[str] = []
    start = threading.Barrier(4)

    def save(number: int, path: Path) -> None:
        start.wait()
        try:
            save_identity(person(number), path, overwrite=False)
            ends.append(f"saved {number}")
        except ValueError as error:
            assert f"There is an identity '{path.stem}' already" in str(error)
            ends.append("refused")

    for turn in range(25):
        path = tmp_path / f"name{turn}.safetensors"
        ends.clear()
        threads = [threading.Thread(target=save, args=(n, path)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ends.count("refused") == 3 and len(ends) == 4, ends
        (winner,) = [int(end.split()[1]) for end in ends if end != "refused"]
        assert torch.equal(load_identity(path)[0].id_tokens, person(winner).id_tokens)
    assert left_in(tmp_path) == {f"name{turn}.safetensors" for turn in range(25)}


def test_overwriting_replaces_the_file_for_all(tmp_path):
    path = tmp_path / "anna.safetensors"
    save_identity(person(1), path)
    save_identity(person(2), path, overwrite=True)
    assert torch.equal(load_identity(path)[0].id_tokens, person(2).id_tokens)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_full_disk_is_told_with_name_folder_and_reason(tmp_path, overwrite):
    path = tmp_path / "anna.safetensors"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # bytes a file may have
    try:
        with pytest.raises(RuntimeError) as error:
            save_identity(person(1), path, overwrite=overwrite)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    text = f"The identity 'anna' could not be saved in {tmp_path}: File too large."
    assert str(error.value).startswith(text)
    assert left_in(tmp_path) == set()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    folder = tmp_path / "identities"
    folder.write_text("a file where the folder should be")
    with pytest.raises(RuntimeError) as error:
        save_identity(person(1), folder / "anna.safetensors", overwrite=False)
    assert f"The identity 'anna' could not be saved in {folder}: File exists" in str(error.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_told(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(RuntimeError, match="saved in .*: Permission denied"):
            save_identity(person(1), tmp_path / "anna.safetensors")
    finally:
        tmp_path.chmod(0o755)


def test_leftovers_of_an_hour_ago_go_at_the_next_save(tmp_path):
    for name, age in ((".saving-old.tmp", 3700), (".saving-new.tmp", 60), ("mine.tmp", 9000)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    save_identity(person(1), tmp_path / "anna.safetensors", overwrite=False)
    assert left_in(tmp_path) == {".saving-new.tmp", "mine.tmp", "anna.safetensors"}
