"""The real page in Chromium, in the classic canvas and in the Vue renderer, on a real server.

pytest may read this before ComfyUI is there (see ../conftest.py): what needs it is imported later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import browsing
import hosting
import pytest
import skimage.data
from browsing import Tab, open_tab
from PIL import Image
from playwright.sync_api import Browser
from serving import Server
from standins.pages import RENDERERS
from standins.photos import pictures


def all_nodes(workflow: dict) -> Iterator[dict]:
    """Yield every node of a workflow file, those inside subgraphs too."""
    yield from workflow["nodes"]
    for subgraph in workflow.get("definitions", {}).get("subgraphs", []):
        yield from subgraph["nodes"]


def photo_names() -> set[str]:
    """Return the names of the pictures that old files load."""
    from old_samples import read, samples

    nodes = [node for file in samples() + samples(sdxl=True) for node in all_nodes(read(file))]
    kinds = ("LoadImage", "LoadImageMask")
    return {node["widgets_values"][0] for node in nodes if node["type"] in kinds}


@contextmanager
def serve(host, folder: Path, arguments: Sequence[str] = ()) -> Iterator[Server]:
    """Run a server with every model that a workflow names, and photos of a group."""
    import insightface
    from standins import more
    from standins.server import STANDIN_PACKS

    group = Image.open(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg")
    named = dict.fromkeys(photo_names(), Image.fromarray(skimage.data.astronaut())) | pictures()
    named["group.jpg"] = group
    named["turned.png"] = group.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    with Server(host, more.prepare_more_models(), STANDIN_PACKS, arguments) as server:
        for name, picture in named.items():
            picture.save(folder / name)
            server.upload(folder / name)
        yield server


@pytest.fixture(scope="package")
def workshop(host, tmp_path_factory) -> Iterator[Server]:
    """Return a server with the page that its ComfyUI asks for."""
    with serve(host, tmp_path_factory.mktemp("photos")) as server:
        yield server


@pytest.fixture(scope="package")
def newest(host, tmp_path_factory) -> Iterator[Server]:
    """Return a server with the newest page, and with the cache of older hosts."""
    flags = ("--front-end-root", str(hosting.newest_page(host.python)), "--cache-classic")
    with serve(host, tmp_path_factory.mktemp("photos"), flags) as server:
        yield server


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Return a running Chromium."""
    with browsing.start(hosting.chromium()) as running:
        yield running


@pytest.fixture(scope="package", params=RENDERERS)
def opened(request, browser) -> Iterator[Tab]:
    """Return the page in each of the two renderers."""
    server = request.getfixturevalue("newest" if "newest" in request.param else "workshop")
    with open_tab(browser, server, vue="vue" in request.param) as tab:
        yield tab


@pytest.fixture
def tab(opened) -> Iterator[Tab]:
    """Return the page, and see that the test caused no error in it."""
    opened.errors.clear()
    yield opened
    assert opened.errors == []


@pytest.fixture
def renderer(request) -> str:
    """Return the name of the page and its renderer, for screenshots."""
    return request.node.callspec.params["opened"]
