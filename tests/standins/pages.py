"""What the tests in the browser share: on which pages they run, and how they look at a node."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from browsing import Tab
from PIL import Image
from places import ROOT

SCREENSHOTS = ROOT / "output" / "screenshots"
RENDERERS = ("classic", "vue")
NEWEST = ("newest classic", "newest vue")
EMPTY = {"nodes": [], "links": [], "version": 0.4}
APPLY, ENCODE = "PuLIDFluxApply", "PuLIDFluxEncodeIdentity"


def in_turn(paths: list[Path], some: Sequence[str] = ()) -> pytest.MarkDecorator:
    """Return the parameters for a test that opens each file in one renderer, the two in turn.

    ``some``: only these names' files, and with --long each file in both renderers.
    """
    named = {path.stem: path for path in paths}
    chosen = [named[name] for name in some] or paths
    pairs = []
    for place, renderer in enumerate(RENDERERS):
        for path in paths if some else chosen[place::2]:
            marks = [] if path in chosen[place::2] else [pytest.mark.slow]
            pairs.append(pytest.param(renderer, path, id=f"{renderer}-{path.stem}", marks=marks))
    return pytest.mark.parametrize(("opened", "path"), pairs, indirect=["opened"], scope="package")


def on(*pages: str) -> pytest.MarkDecorator:
    """Return the mark of a test that runs on these pages."""
    return pytest.mark.parametrize("opened", pages, indirect=True, scope="package")


everywhere = on(*RENDERERS, *NEWEST)


def fetch(tab: Tab, picture: dict) -> np.ndarray:
    """Return a picture that the server holds."""
    return np.asarray(Image.open(io.BytesIO(tab.server.image(picture))).convert("RGB"), float)


def checked(tab: Tab) -> list[int]:
    """Return which faces of the picker are marked."""
    marks = "all => all.map((one) => one.getAttribute('aria-checked') === 'true')"
    found = tab.page.locator(".pulid-faces button").evaluate_all(marks)
    return [number for number, mark in enumerate(found) if mark]


def found_faces(events: list[dict]) -> dict:
    """Return what the run told about the faces."""
    (output,) = (e["output"] for e in events if "pulid_faces" in (e["output"] or {}))
    return output
