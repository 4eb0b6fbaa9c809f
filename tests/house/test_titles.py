"""Programs find nodes by title: every node that people change has one of its own, which stays."""

from __future__ import annotations

import json

import pytest
import titles
from places import WORKFLOWS

FILES = sorted((WORKFLOWS / "api").glob("*.json"))
SAME_EVERYWHERE = {
    "KSampler": "Sampler",
    "EmptySD3LatentImage": "Empty latent",
    "EmptyLatentImage": "Empty latent",
    "SaveImage": "Save picture",
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_titles_are_unique_and_the_same_in_both_forms(file):
    prompt = json.loads(file.read_text("utf-8"))
    shown = json.loads((WORKFLOWS / file.name).read_text("utf-8"))["nodes"]
    explicit = {str(node["id"]): node.get("title") for node in shown}
    found = [node["_meta"]["title"] for node in prompt.values()]
    assert len(set(found)) == len(found)
    for key, node in prompt.items():
        title = node["_meta"]["title"]
        changed = any(not isinstance(value, list) for value in node["inputs"].values())
        # without a title of its own, the page would export its name in the user's language
        assert explicit[key] == title if changed else explicit[key] in (None, title), title
        assert title == SAME_EVERYWHERE.get(node["class_type"], title)


def test_the_table_in_the_docs_is_of_these_files():
    page = titles.PAGE.read_text("utf-8")
    assert titles.replaced(page) == page, "run python scripts/titles.py --write"
    assert page.count("| Sampler | `seed`, `steps`, `cfg`") == 1
