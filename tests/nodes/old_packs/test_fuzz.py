"""Old files and prompts, damaged at random: the upgrade never raises and never invents a link."""

from __future__ import annotations

import copy
import json
import random
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
from old_samples import CASES, SAMPLES
from pulid_pack.nodes import folders
from pulid_pack.nodes.old_packs import files, prompts
from pulid_pack.nodes.old_packs.graph import REROUTES
from pulid_pack.nodes.old_packs.schemas import CLASSES
from pulid_pack.nodes.old_packs.table import OLD

VARIANTS = 2000
STRANGE = (
    None,
    True,
    -1,
    0,
    3.5,
    10**30,
    "",
    "x",
    [],
    {},
    [1, 2],
    ["7", 0],
    {"0": 1},
    float("nan"),
)


@pytest.fixture
def no_files(monkeypatch):
    """Let no model file be there, so that nothing is looked for on the disk."""
    monkeypatch.setattr(folders, "files", lambda kind: {})
    monkeypatch.setattr(folders, "packs", dict)


def sources() -> list[str]:
    """Return files and prompts for older packs: our samples, and the public cases if at hand."""
    paths = sorted(SAMPLES.glob("*.json")) + sorted(CASES.glob("*/*.json"))
    texts = [path.read_text("utf-8") for path in paths]
    return [text for text in texts if any(f'"{kind}"' in text for kind in OLD)]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a tree as container and key."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    found = [(value, key) for key, _ in pairs]
    for _, inner in pairs:
        if isinstance(inner, (dict, list)):
            found += places(inner)
    return found


def damage(value: Any, chance: random.Random) -> Any:
    """Return it with one to six places dropped, exchanged, or made of another type."""
    spots = places(value)
    for container, key in chance.sample(spots, min(len(spots), chance.randint(1, 6))):
        how = chance.randrange(5)
        if how == 0 and isinstance(container, dict):
            del container[key]
        elif how == 1:
            other, place = chance.choice(spots)
            container[key] = copy.deepcopy(other.get(place) if isinstance(other, dict) else other)
        elif how == 2:
            container[key] = chance.choice(REROUTES + tuple(OLD))
        else:
            container[key] = copy.deepcopy(chance.choice(STRANGE))
    return value


def circle(value: Any, chance: random.Random) -> Any:
    """Return it with some nodes made Reroutes, whose links go anywhere, also to themselves."""
    nodes = value.get("nodes") or [{"id": key, **node} for key, node in value.items()]
    ids = [node["id"] for node in nodes]
    for node in chance.sample(nodes, min(3, len(nodes))):
        if "nodes" in value:
            node["type"] = "Reroute"
        else:
            value[node["id"]] = {"class_type": "Reroute", "inputs": {"": [chance.choice(ids), 0]}}
    for link in value.get("links") or []:
        if chance.random() < 0.5:
            link[1], link[2] = chance.choice(ids), 0
    return value


def variants(count: int, seed: int) -> Iterator[Any]:
    """Yield damaged files and prompts, the same ones at each call."""
    chance, found = random.Random(seed), sources()
    for _ in range(count):
        way = chance.choice((damage, damage, damage, circle))
        yield way(json.loads(chance.choice(found)), chance)


def upgrade(value: Any) -> tuple[Any, str]:
    """Upgrade what may be a file or a prompt in the way that fits."""
    if isinstance(value, dict) and "nodes" in value:
        return files.prepare(value)
    return prompts.upgrade(value, value)


def assert_sound(upgraded: Any, message: str) -> None:
    """See that what was upgraded can be sent on, and that nothing old stays without a word."""
    json.dumps(upgraded)
    if not message:
        return
    if "nodes" not in upgraded or not isinstance(upgraded["nodes"], list):
        left = [node["class_type"] for node in upgraded.values()]
        assert all(isinstance(node["inputs"], dict) for node in upgraded.values())
    else:
        left = [node.get("type") for node in upgraded["nodes"] if isinstance(node, dict)]
        assert_linked(upgraded)
    for kind in left:
        assert kind not in list(OLD) or kind.startswith("Pulid") or kind in message, kind


def assert_linked(file: dict[str, Any]) -> None:
    """See that every link into a node of ours is in the list of links, as that input's."""
    links = {(x[0], x[3], x[4]) for x in file["links"] if isinstance(x, list)}
    links |= {
        (x["id"], x["target_id"], x["target_slot"]) for x in file["links"] if isinstance(x, dict)
    }
    for node in file["nodes"]:
        if isinstance(node, dict) and node.get("type") in list(CLASSES):
            for place, socket in enumerate(node["inputs"]):
                number = socket["link"]
                assert number is None or (number, node["id"], place) in links


def test_two_thousand_damaged_files_and_prompts(no_files):
    known = 0
    for number, value in enumerate(variants(VARIANTS, seed=13)):
        before = repr(value)
        try:
            upgraded, message = upgrade(value)
            assert_sound(upgraded, message)
        except Exception as error:
            pytest.fail(f"variant {number}: {error!r}\n{json.dumps(value)[:3000]}")
        assert repr(value) == before, f"variant {number} was changed itself"
        known += bool(message)
    assert known > 0.9 * VARIANTS, "too few of them still have an older node"


@pytest.mark.server
def test_damaged_files_and_prompts_on_the_server_are_answered(server):
    """Any status but 500; the photo that they name is not there, so that nothing is computed."""
    for number, value in enumerate(variants(24, seed=7)):
        sent = json.dumps(value)
        if isinstance(value, dict) and "nodes" in value:
            with server.open(files.ROUTES[1], sent.encode()) as answer:
                assert json.load(answer)["file"] is not None, f"variant {number}"
            continue
        try:
            server.open("/prompt", json.dumps({"prompt": value}).encode()).close()
        except urllib.error.HTTPError as error:
            assert error.code == 400, f"variant {number}: {error.read().decode()}\n{sent}"
    assert server.get("/queue")["queue_running"] == []
