"""In the browser: the steps of a window before the run, and a face given by five clicks."""

from __future__ import annotations

import itertools
import json

import pytest
from PIL import Image
from places import WORKFLOWS
from standins.pages import (
    APPLY,
    EMPTY,
    SCREENSHOTS,
    checked,
    everywhere,
    fetch,
    found_faces,
    on,
)

pytestmark = pytest.mark.browser

SAYS = "(text) => document.querySelector('.pulid-window')?.getAttribute('aria-label') === text"
# Apply before a sampler of single parts, whose sigmas are turned round
FLIPPED = f"""() => {{
  const apply = tests.add("{APPLY}", [0, 0], {{ end_at: 0.5 }});
  const guider = tests.add("BasicGuider", [500, 0], {{}}, {{ model: [apply, 0] }});
  const steps = {{ steps: 4, scheduler: "simple" }};
  const schedule = tests.add("BasicScheduler", [500, 200], steps);
  const flip = tests.add("FlipSigmas", [800, 200], {{}}, {{ sigmas: [schedule, 0] }});
  const links = {{ guider: [guider, 0], sigmas: [flip, 0] }};
  tests.add("SamplerCustomAdvanced", [1100, 0], {{}}, links);
  tests.lookAt(apply);
}}"""
HEIGHTS = """() => [...document.querySelectorAll(".pulid-step div")]
  .map((fill) => parseFloat(fill.style.height))"""
PLACES = itertools.cycle([(1500, 1250), (1300, 1200)])  # twice at one place searches for nodes
CLICKS = [(35, 40), (65, 40), (50, 55), (40, 70), (60, 70)]


def touch(tab) -> None:
    """Click beside the nodes, after which the page looks at what has changed."""
    tab.page.mouse.click(*next(PLACES))


@everywhere
def test_the_bar_shows_the_steps_that_the_sampler_will_make(tab, renderer):
    tab.open(json.loads((WORKFLOWS / "flux_pulid_basic.json").read_text("utf-8")))
    tab.page.evaluate(f"tests.lookAt(tests.find('{APPLY}'))")
    tab.wait_for(SAYS, "identity in 16 of 20 steps: 4 to 19")
    assert tab.page.evaluate(HEIGHTS) == [0.0] * 4 + [100.0] * 16
    tab.page.evaluate("tests.set('KSampler', 'steps', 4)")
    touch(tab)
    tab.wait_for(SAYS, "identity in 3 of 4 steps: 1 to 3")
    tab.page.evaluate(f"tests.set('{APPLY}', 'weight_curve', 'linear out')")
    tab.wait_for(SAYS, "identity in 2 of 4 steps: 1 to 2")
    first, *steps = tab.page.evaluate(HEIGHTS)
    assert first == 0 and steps[0] == 100 and 0 < steps[1] < 100 and steps[2] == 0
    tab.picture(f"tests.find('{APPLY}')", SCREENSHOTS / renderer / f"{APPLY} with steps.png")
    tab.page.evaluate(f"tests.set('{APPLY}', 'weight', 0)")
    tab.wait_for(SAYS, "identity never acts")
    tab.page.evaluate(f"tests.set('{APPLY}', 'weight', 1)")
    tab.page.evaluate(
        "() => void tests.add('PrimitiveInt', [600, 400])"
        ".connect(0, tests.find('KSampler'), tests.find('KSampler').findInputSlot('steps'))"
    )
    touch(tab)
    tab.wait_for(SAYS, "identity: 20 % to 100 %")  # how many steps is known at sampling


@on("classic", "newest vue")
def test_the_bar_follows_sigmas_that_rise(tab):
    tab.open(EMPTY)
    tab.page.evaluate(FLIPPED)
    touch(tab)
    tab.wait_for(SAYS, "identity in 2 of 4 steps: 0 to 1, sigmas rise")
    tab.page.evaluate("() => { tests.find('FlipSigmas').mode = 4; }")
    touch(tab)
    tab.wait_for(SAYS, "identity in 2 of 4 steps: 0 to 1")
    saved = tab.serialized()
    tab.open(EMPTY)
    tab.open(saved)
    tab.wait_for(SAYS, "identity in 2 of 4 steps: 0 to 1")


def points(tab) -> str:
    return tab.page.evaluate(f"tests.widget('{APPLY}', 'face_points').value")


@on("vue", "newest classic")
def test_five_clicks_give_the_face_that_no_detector_finds(tab, renderer, tmp_path):
    path = tmp_path / f"wall {renderer}.png"
    Image.effect_noise((300, 200), 20).convert("RGB").save(path)
    tab.open(json.loads((WORKFLOWS / "flux_pulid_basic.json").read_text("utf-8")))
    tab.page.evaluate("tests.makeQuick(1, 1)")
    tab.page.evaluate("(name) => tests.set('LoadImage', 'image', name)", tab.server.upload(path))
    with pytest.raises(AssertionError, match="No face was found in image 0"):
        tab.run()
    tab.page.keyboard.press("Escape")  # the page's own message about it
    tab.page.evaluate(f"tests.lookAt(tests.find('{APPLY}'))")
    picker = tab.page.locator(".pulid-picker")
    picker.wait_for()
    assert "click the eye on the left (1 of 5)" in picker.inner_text()
    layer = tab.page.locator(".pulid-points")
    tab.wait_for("document.querySelector('.pulid-stage img').naturalWidth > 0")
    tab.page.wait_for_timeout(500)
    place = layer.bounding_box()
    for number, (x, y) in enumerate(CLICKS):
        assert tab.page.locator(".pulid-point").count() == number
        assert points(tab) == ""
        at = {"x": place["width"] * x / 100, "y": place["height"] * y / 100}
        layer.click(position=at)
        if number == 2:
            shot = SCREENSHOTS / renderer / f"{APPLY} with points.png"
            tab.picture(f"tests.find('{APPLY}')", shot)
    given = [float(part) for part in points(tab).replace(";", ",").split(",")]
    assert given == pytest.approx([v for point in CLICKS for v in point], abs=1)
    assert "face_points is set by hand" in picker.inner_text()

    output = found_faces(tab.run())
    (photo,) = output["pulid_faces"]
    assert (len(photo["boxes"]), photo["by_hand"], photo["chosen"]) == (1, True, 0)
    assert fetch(tab, output["images"][0]).shape == (512, 512, 3)
    assert checked(tab) == [0]
    assert tab.page.locator(".pulid-point").count() == 5
    tab.picture(f"tests.find('{APPLY}')", SCREENSHOTS / renderer / f"{APPLY} by hand.png")
    picker.get_by_role("button", name="Clear the points").click()
    assert points(tab) == ""
    assert "click the eye on the left (1 of 5)" in picker.inner_text()
    picker.get_by_role("button", name="Give five points by hand").click()
    assert "face_index 0" in picker.inner_text()
