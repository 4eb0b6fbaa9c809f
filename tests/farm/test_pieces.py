"""The farm's parts without servers: jobs, identities, the journal, who does what."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from places import ROOT, WORKFLOWS
from pulid_client.identities import APPLY_IDENTITY, ENCODE, KINDS, LOAD, SAVED, take_out
from pulid_client.workflows import node_titled
from pulid_farm.fleet import DEPTH, FAULTS, Fleet
from pulid_farm.jobs import BadLine, Reader, Work
from pulid_farm.journal import Journal
from pulid_farm.target import Target
from pulid_farm.worker import Outcome
from pulid_pack.nodes import apply, encode, sdxl

NODES = (encode.PuLIDFluxEncodeIdentity, apply.PuLIDFluxApplyIdentity, sdxl.PuLIDSDXLApplyIdentity)
SCHEMAS = {node.__name__: node.define_schema() for node in NODES}
KNOWN = {kind: {i.id for i in SCHEMAS[kind].inputs} for kind in KINDS}
SHIPPED = {
    file.stem: json.loads(file.read_text("utf-8")) for file in (WORKFLOWS / "api").glob("*.json")
}
DONE, SERVER, JOB = Outcome({}), Outcome(fault="server"), Outcome(fault="job", error="no face")


@pytest.fixture
def jobs(tmp_path):
    """Return what reads jobs from lines, with a photo of one person and one of another beside."""
    photo = Image.fromarray(skimage.data.astronaut())
    photo.save(tmp_path / "a.png")
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")

    def read(*specs) -> list:
        lines = [spec if isinstance(spec, str) else json.dumps(spec) for spec in specs]
        (tmp_path / "jobs.jsonl").write_text("\n".join(lines) + "\n")
        return list(Reader(tmp_path / "jobs.jsonl", SHIPPED, KNOWN))

    return read


def spec(**more) -> dict:
    return {"workflow": "flux_pulid_basic", "photo": "a.png", "seed": 1} | more


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_workflow_loads_what_it_encoded(name):
    prompt = SHIPPED[name]
    kinds = [node["class_type"] for node in prompt.values()]
    loading, encodings = take_out(prompt, KNOWN)
    people = sum(kind in APPLY_IDENTITY for kind in kinds) + (name == "sdxl_pulid_avatar")
    left = [node["class_type"] for node in loading.values()]
    assert left.count(LOAD) == people + kinds.count(LOAD)
    if people and "PuLIDMeasureIdentity" not in kinds:  # which needs a judge
        assert not {"PuLIDFluxLoadEVACLIP", "PuLIDFluxLoadInsightFace", *APPLY_IDENTITY} & {*left}
    for entry in loading.values():
        links = [value for value in entry["inputs"].values() if isinstance(value, list)]
        assert all(node in loading for node, _ in links)
        assert set(entry["inputs"]) <= KNOWN.get(entry["class_type"], {*entry["inputs"]})
    for encoding in encodings.values():
        classes = sorted(node["class_type"] for node in encoding.values())
        loader = "PuLIDSDXLLoadModel" if name.startswith("sdxl") else "PuLIDFluxLoadModel"
        assert {ENCODE, loader, "LoadImage", "PuLIDFluxSaveIdentity"} <= {*classes}
        assert len(classes) == 6
        assert encoding[SAVED]["inputs"]["identity"] == [ENCODE, 0]
    if "SaveImage" in kinds:
        assert node_titled(loading, "Save picture")


def test_a_person_has_one_key_whatever_the_picture_and_the_workflow(jobs):
    two = {"workflow": "flux_pulid_two_people", "settings": {}}
    for side, photo in (("left", "a.png"), ("right", "b.png")):
        two["settings"][f"Photo of the person on the {side}.image"] = {"file": photo}
    found = jobs(
        spec(), spec(seed=2, weight=0.5, prompt="x"), two, spec(photo="b.png"),
        spec(settings={"Apply PuLID-Flux.grayscale": False}), spec(workflow="sdxl_pulid_basic"),
    )  # fmt: skip
    one, again, both, other, colour, sdxl = (job.needs for job, _ in found)
    assert one == again and len(one) == 1
    assert both == one | other and len(both) == 2
    assert len(one | other | colour | sdxl) == 4
    assert len({job.key for job, _ in found}) == 6
    for job, people in found:
        assert set(people) == job.needs
        (photos,) = {len(person.files) for person in people.values()}
        assert photos == 1 and job.files == ()
        names = [n["inputs"]["name"] for n in job.prompt.values() if n["class_type"] == LOAD]
        assert {name.removesuffix(".safetensors") for name in names} == job.needs


def test_where_no_face_is_no_error_the_photo_itself_is_sent(jobs):
    ((job, people),) = jobs(spec(settings={"Apply PuLID-Flux.on_no_face": "plain model"}))
    assert people == {} and job.needs == frozenset()
    (file,) = job.files
    assert Path(file.path).name == "a.png" and len(file.name) == 24 + len(".png")
    assert job.prompt[node_titled(job.prompt, "Photo of the person")]["inputs"] == {
        "image": file.name
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Line 1: Expecting"),
        ("[]", "it is not a JSON object"),
        (spec(workflow="flux_basic"), "no workflow 'flux_basic'. Did you mean 'flux_pulid_basic'"),
        (spec(photo="c.png"), "c.png"),
        (spec(strength=1), "it has the unknown strength; known are"),
        (spec(settings={"Sampler.step": 1}), "Did you mean 'steps'"),
        (spec(workflow="flux_pulid_save_identity", photo=None), "no place for 'seed'"),
    ],
    ids=str,
)
def test_a_line_that_cannot_become_work_says_why(jobs, line, said):
    (bad,) = jobs(line)
    assert isinstance(bad, BadLine) and said in bad.error


def test_the_jobs_in_the_docs_are_jobs(jobs, tmp_path):
    page = (ROOT / "docs" / "farm.md").read_text("utf-8")
    lines = re.search(r"```json\n(.*?)```", page, re.S)[1].splitlines()
    for name in ("anna.jpg", "ben.jpg", "anna.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    one, both, saved = (job for job, _ in jobs(*lines))
    assert (len(one.needs), len(both.needs), len(saved.needs)) == (1, 2, 0)
    (file,) = saved.files
    assert (Path(file.path).name, file.subfolder) == ("anna.safetensors", "pulid_identities")


def test_a_journal_outlives_its_driver(tmp_path):
    path = tmp_path / "results.jsonl"
    journal = Journal(path)
    for key in "abc":
        journal.add({"key": key, "ok": key != "b"})
    with pytest.raises(RuntimeError, match="Another driver is writing"):
        Journal(path)
    with pytest.raises(RuntimeError, match="has ended twice"):
        journal.add({"key": "a", "ok": True})
    journal.lock.close()  # a driver that is killed closes nothing else
    with path.open("ab") as file:
        file.write(b'{"key": "d", "ok": tr')
    journal = Journal(path, keep=lambda line: line["ok"])
    assert journal.keys == {"a", "c"} and journal.failed == 0
    journal.add({"key": "d", "ok": True})
    journal.close()
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "c", "d"]
    assert not [p for p in tmp_path.iterdir() if "writing" in p.name]


@pytest.mark.parametrize("address", ["{}/out", "memory://bucket/{}"])
def test_a_target_takes_files_wherever_it_is(address, tmp_path):
    target = Target(address.format(tmp_path.as_posix()))
    assert target.names("people") == set()
    target.put("people/a.safetensors", b"one")
    target.put("people/a.safetensors", b"two")
    target.put("b.png", b"three")
    assert target.get("people/a.safetensors") == b"two"
    assert target.names("people") == {"a.safetensors"}
    assert target.names() >= {"b.png"}
    with pytest.raises(FileNotFoundError):
        target.get("c.png")


def fleet(*urls: str, jobs: int = 0, retries: int = 2) -> Fleet:
    made = Fleet(retries)
    made.set_servers(list(urls))
    made.waiting.extend(Work(str(n), {}, line=n + 1) for n in range(jobs))
    return made


def test_each_server_has_one_prompt_more_than_it_works_on():
    some = fleet("a", "b", jobs=9)
    given = [server.url for server, _ in some.assign(0.0)]
    assert sorted(given) == ["a"] * DEPTH + ["b"] * DEPTH
    assert len(some.waiting) == 9 - 2 * DEPTH


def test_work_that_failed_goes_to_another_server_and_then_ends():
    some = fleet("a", "b", jobs=1, retries=2)
    seen = []
    for _ in range(3):
        ((server, work),) = some.assign(0.0)
        seen.append(server.url)
        final = some.settle(server, work, JOB, 0.0)
    assert final and seen[0] != seen[1]
    assert sum(server.failed for server in some.servers.values()) == 1


def test_a_server_that_fails_rests_longer_each_time_and_proves_itself():
    some, now = fleet("a", jobs=3), 0.0
    for rest in (0.5, 1.0, 2.0):
        server, work = next(some.assign(now))
        assert some.settle(server, work, SERVER, now) is False
        assert some.to_ask(now + rest - 0.01) == []
        now += rest
        assert some.to_ask(now) == [server]
        assert list(some.assign(now)) == [], "it has not answered yet"
        server.answers = True
    ((server, work),) = some.assign(now)
    assert some.settle(server, work, DONE, now)
    assert len(list(some.assign(now))) == DEPTH


def test_work_is_not_sent_back_to_a_server_that_lost_it_while_another_is_well():
    some = fleet("a", "b", jobs=1)
    ((first, work),) = some.assign(0.0)
    some.settle(first, work, SERVER, 0.0)
    first.answers = True
    ((second, again),) = some.assign(60.0)
    assert again is work and second is not first


def test_work_that_brings_servers_down_ends_too():
    some, now = fleet("a", jobs=1), 0.0
    for turn in range(FAULTS):
        ((server, work),) = some.assign(now)
        assert some.settle(server, work, SERVER, now) == (turn == FAULTS - 1)
        server.answers, now = True, now + 100


def test_encoders_encode_and_the_others_do_all_the_rest():
    some = Fleet(2, encoders=["e"])
    some.set_servers(["a", "e"])
    some.waiting.extend([Work("person", {}), Work("job", {}, line=1), Work("other", {}, line=2)])
    given = list(some.assign(0.0))
    assert {work.key: server.url for server, work in given} == {
        "person": "e",
        "job": "a",
        "other": "a",
    }
    ((encoder, person),) = [pair for pair in given if pair[1].encodes]
    assert not some.settle(encoder, person, JOB, 0.0)
    assert [server.url for server, _ in some.assign(0.0)] == ["e"], "there is no other"


def test_servers_join_and_leave():
    some = fleet("a", jobs=9)
    list(some.assign(0.0))
    assert some.set_servers(["b", "c", "b"]) == ["b", "c"]
    assert {server.url for server, _ in some.assign(1.0)} == {"b", "c"}
    assert some.set_servers(["a", "b"]) == []
    assert not some.servers["a"].leaving and some.servers["c"].leaving
