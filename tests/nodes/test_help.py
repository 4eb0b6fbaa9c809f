"""Every node explains itself: help page, tooltips, English and Chinese texts."""

from __future__ import annotations

import json
import re
import urllib.parse
from pathlib import Path

import pytest
from places import ROOT
from pulid_pack.nodes import NODES, folders

DOCS = ROOT / "js" / "docs"
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
# ComfyUI's page looks there first, then for the English one
CHINESE_PAGES = sorted(DOCS.glob("*/zh.md"))
MEASURING = {"PuLIDMeasureIdentity", "PuLIDMeasureDisruption"}
CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(scope="module", autouse=True)
def known_folders():
    """Make the pack's folders known, as ComfyUI does when it loads the pack."""
    folders.register()


def texts(language: str) -> dict[str, dict]:
    """Return the nodes' texts in a language."""
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_page_mentions_every_input(node):
    schema = node.define_schema()
    page = (DOCS / f"{schema.node_id}.md").read_text("utf-8")
    assert page.startswith(f"# {schema.display_name}\n")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    inputs = {i.id for i in schema.inputs}
    assert inputs <= told <= inputs | {o.display_name for o in schema.outputs}
    for heading in ("## Good to know", "## When it stops"):
        assert heading in page
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page):
        assert 0 < (DOCS / picture).stat().st_size < 60_000


def test_no_page_without_a_node():
    ids = {node.define_schema().node_id for node in NODES}
    assert {p.stem for p in DOCS.glob("*.md")} == ids
    assert MEASURING <= {p.parent.name for p in CHINESE_PAGES} <= ids


@pytest.mark.parametrize("path", CHINESE_PAGES, ids=lambda path: path.parent.name)
def test_chinese_page_tells_the_same(path):
    page, english = path.read_text("utf-8"), (DOCS / f"{path.parent.name}.md").read_text("utf-8")
    assert page.startswith(f"# {texts('zh')[path.parent.name]['display_name']}\n")
    for mark in ("| `", "- ", "## "):  # rows, points, headings
        first, second = (
            [re.findall(r"^\| `\w+`", line) for line in text.splitlines() if line.startswith(mark)]
            for text in (page, english)
        )
        assert first == second
    lines = [line for line in page.splitlines() if line and not line.startswith("|--")]
    assert [line for line in lines if not CHINESE.search(line)] == []


def test_licences_are_named():
    page = (DOCS / "PuLIDFluxLoadInsightFace.md").read_text("utf-8")
    for words in ("MIT", "non-commercial", "FLUX.1 [dev] has a licence of its own"):
        assert words in page


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_input_has_a_tooltip(node):
    schema = node.define_schema()
    assert schema.description
    for one in schema.inputs:
        assert one.tooltip and len(one.tooltip) >= 10, one.id
        assert one.tooltip.endswith("."), one.id


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_english_texts_are_the_nodes_own(node):
    schema = node.define_schema()
    text = texts("en")[schema.node_id]
    assert (text["display_name"], text["description"]) == (schema.display_name, schema.description)
    assert {k: v["tooltip"] for k, v in text["inputs"].items()} == {
        i.id: i.tooltip for i in schema.inputs
    }
    assert len(text["outputs"]) == len(schema.outputs)


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_chinese_texts_are_complete(node):
    schema = node.define_schema()
    text = texts("zh")[schema.node_id]
    assert CHINESE.search(text["display_name"]) and CHINESE.search(text["description"])
    assert set(text["inputs"]) == {i.id for i in schema.inputs}
    for name, one in text["inputs"].items():
        assert one["name"], name
        assert CHINESE.search(one["tooltip"]), name
    assert len(text["outputs"]) == len(schema.outputs)


def test_languages_tell_of_the_same_nodes():
    ids = {node.define_schema().node_id for node in NODES}
    assert set(texts("en")) == set(texts("zh")) == ids


@pytest.mark.server
def test_server_hands_out_pages_texts_and_blueprints(server):
    offered = server.get("/i18n")
    for language in ("en", "zh"):
        assert texts(language).items() <= offered[language]["nodeDefs"].items()
    for page in filter(Path.is_file, DOCS.rglob("*")):
        name = page.relative_to(DOCS).as_posix()
        with server.open(f"/extensions/pulid-flux-native/docs/{name}") as answer:
            assert answer.read() == page.read_bytes()
    listed = server.get("/global_subgraphs")
    ours = {e["name"]: key for key, e in listed.items() if "pulid-flux" in e["info"]["node_pack"]}
    assert set(ours) == {path.stem for path in BLUEPRINTS}
    for path in BLUEPRINTS:
        whole = server.get(f"/global_subgraphs/{urllib.parse.quote(ours[path.stem])}")
        assert json.loads(whole["data"]) == json.loads(path.read_text("utf-8"))
