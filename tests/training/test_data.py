"""The training set: what is kept, what is left out and said once; nothing is done twice."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pulid_pack.encoders.eva_clip import load_eva_clip
from pulid_pack.encoders.faces import face_features
from pulid_pack.training.cache import Cache
from pulid_pack.training.config import Data
from pulid_pack.training.dataset import batch, from_cache, split
from pulid_pack.training.draws import Order
from pulid_pack.training.prepare import prepare, settings_of
from pulid_pack.training.records import list_records
from pulid_pack.training.studio import seer
from standins.eva import EVA_FILE
from standins.people import astronaut

DATA = Data(source="photos", size=64, min_side=100, min_face=8, held_out=0.3)
GOOD = ("anna", "bert", "sub/anna")


class CountingMakers:
    """Makes small samples and counts what it was asked for."""

    def __init__(self, faces):
        self.faces = faces
        self.pictures: list[tuple] = []
        self.captions: list[str] = []

    def encode_picture(self, picture):
        self.pictures.append(tuple(picture.shape))
        return torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), 8)

    def encode_text(self, caption):
        self.captions.append(caption)
        return {"text": torch.full((3, 8), float(len(caption))), "pooled": torch.ones(4)}


@pytest.fixture(scope="module")
def makers(analysis):
    return lambda: CountingMakers(analysis)


def write(folder: Path, name: str, pixels: np.ndarray, caption: str | None = "a person") -> Path:
    """Write a picture and its caption."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return a folder with three pictures to train on and one of everything that is wrong."""
    folder, one = tmp_path_factory.mktemp("photos"), astronaut()
    write(folder, "anna.jpg", one, "a woman in orange")
    write(folder, "bert.png", one[:, ::-1][:460])
    write(folder, "sub/anna.png", one[10:400, 40:460], "a woman in orange")
    write(folder, "anna.webp", one)  # beside anna.jpg, with the same caption file
    write(folder, "copy.png", np.array(Image.open(folder / "bert.png")))
    write(folder, "crowd.png", np.concatenate([one[:300, 100:400]] * 2, 1))
    write(folder, "dull.png", one, caption=None)
    write(folder, "dot.png", one[:1, :1])
    write(folder, "nobody.png", np.full((200, 200, 3), 128, np.uint8))
    cut = write(folder, "torn.jpg", one)
    cut.write_bytes(cut.read_bytes()[:9000])
    write(folder, "text.jpg", one).write_text("this is no picture")
    (folder / "anna.txt").write_text("a woman in orange")
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Return a folder with two pictures to train on and one that has no caption."""
    folder = tmp_path_factory.mktemp("few")
    write(folder, "anna.png", astronaut(), "a woman in orange")
    write(folder, "bert.png", astronaut()[:, ::-1])
    write(folder, "dull.png", astronaut()[:300], caption=None)
    return folder


REASONS = {
    "anna (anna.webp)": "the name stands for another picture already (anna.jpg)",
    "copy": "the same picture as bert",
    "crowd": "it has 2 faces, and one person is wanted",
    "dull": "no caption: expected a .txt beside it, or a caption in the list",
    "dot": "it is 1 x 1 pixels, at least 100 are wanted",
    "nobody": "no face was found in it",
    "torn": "it cannot be opened as a picture (image file is truncated",
    "text": "it cannot be opened as a picture (cannot identify image file)",
}


def prepared(folder: Path, cache: Path, makers, data: Data = DATA):
    """Prepare ``folder`` into ``cache``; return the report and the cache."""
    made = Cache(cache)
    made.open(settings_of(data, []))
    return prepare(list_records(folder), made, makers, data), made


@pytest.fixture(scope="module")
def first(photos, tmp_path_factory, makers):
    """Return what a first pass over the photos gave: report, cache, makers, log lines."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler, log = Lines(), logging.getLogger("pulid_pack.training.prepare")
    log.addHandler(handler)
    own = makers()
    with torch.inference_mode():
        report, cache = prepared(photos, tmp_path_factory.mktemp("cache"), own)
    log.removeHandler(handler)
    return report, cache, own, lines


def test_bad_pictures_are_left_out_and_each_is_said_once(first):
    report, cache, own, lines = first
    assert (report.kept, report.thrown_out, report.texts) == (3, 8, 2)
    assert [one.name for one in cache.kept()] == list(GOOD)
    said = {line.split(" is left out: ")[0]: line.split(" is left out: ")[1] for line in lines}
    assert len(said) == len(lines) == len(REASONS)
    for name, reason in REASONS.items():
        assert said[name].startswith(reason), name
    assert own.pictures == [(1, 64, 64, 3)] * 3
    assert sorted(own.captions) == ["a person", "a woman in orange"]


def test_a_sheet_and_a_list_show_what_was_left_out(first):
    _, cache, _, _ = first
    lines = (cache.folder / "thrown_out.txt").read_text("utf-8").splitlines()
    assert {line.split(": ")[0] for line in lines} == set(REASONS)
    with Image.open(cache.folder / "thrown_out_1.jpg") as sheet:
        assert sheet.size == (8 + 8 * 136, 8 + 172)
    assert not (cache.folder / "thrown_out_2.jpg").exists()


def test_a_second_pass_does_no_work(first, photos, makers, caplog):
    _, cache, _, _ = first
    before = {p: p.stat().st_mtime_ns for p in cache.folder.rglob("*") if p.is_file()}
    own = makers()
    report, again = prepared(photos, cache.folder, own)
    assert (report.kept, report.thrown_out, report.looked_at, report.texts) == (3, 8, 0, 0)
    assert own.pictures == [] and own.captions == [] and caplog.text == ""
    assert {p: p.stat().st_mtime_ns for p in again.folder.rglob("*") if p.is_file()} == before


def test_a_sample_is_what_encode_pulid_identity_sees(first, analysis, face_files):
    """The crop in the cache gives EVA-CLIP what the node gives it, and the vector is the node's."""
    _, cache, _, _ = first
    eva = load_eva_clip(face_files / EVA_FILE)
    photo = torch.from_numpy(astronaut()[:, ::-1][:460].copy())[None].float() / 255
    wanted = face_features(analysis, eva, photo)
    (own,) = [one for one in cache.kept() if one.name == "bert"]
    kept = from_cache(cache, 0.0, 1)
    sample = next(s for s in map(kept.sample, kept.train) if s.name == own.name)
    assert torch.equal(sample.vector, wanted.arcface[0])
    pooled, hidden = seer(eva.patcher, eva.image_size)(sample.crop[None])
    assert torch.allclose(pooled[0], wanted.id_cond[0, 512:], atol=1e-6)
    for mine, theirs in zip(hidden, wanted.hidden, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert sample.latent.shape == (3, 8, 8) and sample.text.shape == (3, 8)
    # the face lies where it is: the eyes in the box, in the training picture's pixels
    left, top, right, bottom = sample.box.tolist()
    assert all(left < x < right and top < y < bottom for x, y in sample.keypoints[:2].tolist())
    assert 0 < left < right < 64 and 10 < right - left < 30


def test_a_new_caption_is_encoded_and_nothing_else(few, tmp_path, makers):
    folder = shutil.copytree(few, tmp_path / "photos")
    prepared(folder, tmp_path / "cache", makers())
    (folder / "bert.txt").write_text("a woman looking right")
    (folder / "dull.txt").write_text("a person")
    own = makers()
    report, cache = prepared(folder, tmp_path / "cache", own)
    assert report.kept == 3 and own.captions == ["a woman looking right"]
    assert len(own.pictures) == 1  # the one that had no caption before
    assert {o.name: o.caption for o in cache.kept()}["bert"] == "a woman looking right"


def test_a_run_that_was_cut_off_goes_on_where_it_was(few, tmp_path, makers):
    """Half a line in the journal, and a picture that was made but not noted yet."""
    _, cache = prepared(few, tmp_path, makers())
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    kept = [n for n, line in enumerate(lines) if not json.loads(line)["reason"]]
    journal.write_bytes(b"".join(lines[: kept[-1]]) + lines[kept[-1]][:20])
    own = makers()
    report, cache = prepared(few, tmp_path, own)
    assert report.kept == 2 and own.pictures == [] and own.captions == []
    assert [json.loads(line) for line in journal.read_bytes().splitlines()]


def test_a_full_disk_stops_with_its_name_and_loses_nothing(few, tmp_path, makers):
    journal = tmp_path / "journal.jsonl"
    journal.symlink_to("/dev/full")  # a file on a disk without room
    with pytest.raises(RuntimeError) as error:
        prepared(few, tmp_path, makers())
    assert str(error.value) == (
        f"The cache {tmp_path} cannot be written: the disk is full. Make room there and start "
        "again; what was prepared so far is kept."
    )
    journal.unlink()
    own = makers()
    report, cache = prepared(few, tmp_path, own)
    assert report.kept == 2 and len(own.pictures) == 1  # the first was made already
    assert not list(tmp_path.rglob(".saving-*"))


def test_a_cache_that_cannot_be_written_is_refused_before_any_work(photos, tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(30, os.strerror(30))  # a read-only file system

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(RuntimeError, match="cannot be written: Read-only file system. Make the"):
        Cache(tmp_path / "cache").open({})


def test_a_cache_of_other_settings_is_refused(tmp_path):
    Cache(tmp_path).open(settings_of(DATA, []))
    other = Data(source="photos", size=128, min_side=100, min_face=8)
    with pytest.raises(ValueError, match=r"was made with size = 64, the settings say 128\. Name"):
        Cache(tmp_path).open(settings_of(other, []))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_json_lines(tmp_path):
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(png(astronaut()[:8, :8]))
    lines = [
        '{"image": "one.png", "caption": " a woman ", "person": "Eileen"}',
        '{"file_name": "two.png", "text": "again", "person": "Eileen"}',
        '{"image": "one.png", "caption": "twice"}',
        '{"image": "three.png"}',
        "not json",
        '{"caption": "of nothing"}',
        "",
    ]
    source = tmp_path / "set.jsonl"
    source.write_text("\n".join(lines), encoding="utf-8")
    records, refused = list_records(source)
    assert [(r.name, r.caption, r.person) for r in records] == [
        ("one.png", "a woman", "Eileen"),
        ("two.png", "again", "Eileen"),
    ]
    assert {r.name: r.reason.split(" (")[0] for r in refused} == {
        "one.png (one.png)": "the name stands for another picture already",
        "three.png": "the file does not exist",
        "line 5": "not JSON",
        "line 6": "no picture is named under image or file_name",
    }


def test_shards(tmp_path):
    """WebDataset's rule: files that begin alike are one sample; a torn shard ends early."""
    pixels = [astronaut()[:9, : 9 + n] for n in range(3)]

    def add(archive, name, content):
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "0001.png", png(pixels[0])), add(archive, "0001.txt", b"a woman\n")
        add(archive, "0002.json", b'{"caption": "a man", "person": "B"}')
        add(archive, "0002.png", png(pixels[1]))
        add(archive, "0003.txt", b"nothing to see")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        add(archive, "0001.png", png(pixels[0]))
        add(archive, "0004.png", png(pixels[2]))
    whole = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "c.tar").write_bytes(whole[:700])
    records, refused = list_records(tmp_path)
    assert [(r.name, r.caption, r.person) for r in records] == [
        ("0001", "a woman", ""),
        ("0002", "a man", "B"),
        ("0004", "", ""),
    ]
    for record, wanted in zip(records, pixels, strict=True):
        assert np.array_equal(np.array(Image.open(io.BytesIO(record.read()))), wanted)
    assert {r.name for r in refused} == {"a.tar:0003", "0001 (b.tar)", "c.tar"}


def test_a_set_without_pictures_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There are no training pictures at .*gone"):
        list_records(tmp_path / "gone")
    with pytest.raises(ValueError, match="holds no picture to train on"):
        list_records(tmp_path)


def test_the_split_goes_by_person_and_the_order_takes_everyone_once():
    people = [f"person {n // 3}" for n in range(60)]
    made = split(people, 0.3, 5, lambda i: i)
    sides = [{people[i] for i in side} for side in (made.train, made.held_out)]
    assert not sides[0] & sides[1] and len(sides[1]) >= 2
    assert len(made.train) + len(made.held_out) == 60
    more = split([*people, "somebody new"], 0.3, 5, lambda i: i)
    assert [i for i in more.held_out if i < 60] == list(made.held_out)
    order = Order(7, 3)
    rounds = [[order[7 * n + i] for i in range(7)] for n in range(2)]
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(7)) and rounds[0] != rounds[1]
    drawn = batch(made, Order(len(made.train), 3), 10, [2, 3], 4)
    at = [made.train[Order(len(made.train), 3)[10 + s]] for s in (0, 1, 2, 3)]
    assert list(drawn.samples) == [at[2], at[3]] and list(drawn.others) == [at[3], at[0]]
