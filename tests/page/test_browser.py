"""In the browser: every workflow opens and runs, faces can be chosen, every node is explained.

All with the real page in Chromium, in the classic canvas and in the Vue renderer. Screenshots of
the nodes are left in ``output/screenshots``.
"""

from __future__ import annotations

import json
import urllib.error
import zlib
from pathlib import Path

import numpy as np
import pytest
from browsing import Tab, comparable
from old_samples import PASS_ON, SAMPLES, old_prompt, read, samples
from PIL import Image
from places import ROOT, WORKFLOWS
from pulid_pack.nodes import folders
from pulid_pack.nodes.old_packs import files as old_files
from pulid_pack.nodes.old_packs.schemas import CLASSES
from standins import more
from standins.pages import (
    APPLY,
    EMPTY,
    ENCODE,
    NEWEST,
    RENDERERS,
    SCREENSHOTS,
    checked,
    everywhere,
    fetch,
    found_faces,
    in_turn,
    on,
)
from standins.workshop import PHOTOS

pytestmark = pytest.mark.browser

FILES = sorted(WORKFLOWS.glob("*.json"))
PICTURES = sorted(WORKFLOWS.glob("*.png"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
BYPASSED = 4
READABLE = 4.5  # contrast of text, WCAG 2 level AA
OURS = ("PuLIDFlux", "PuLIDSDXL")
APPLIES = [f"{own}Apply{what}" for own in OURS for what in ("", "Identity")]
# the rest runs in the page with --long; all run by their API form in server/test_workflows
RUN = ("sdxl_pulid_measure", "flux_pulid_two_people")
# one old file of each family; every one runs by its prompt in nodes/old_packs
RUN_OLD = [SAMPLES / f"{name}.json" for name in ("cubiq_fidelity", "balazik_mask")]
# Encode, with a batch of two photos, for itself
ENCODE_ALONE = """() => {
  const load = tests.add("PuLIDFluxLoadModel", [0, 0]);
  const eva = tests.add("PuLIDFluxLoadEVACLIP", [0, 150]);
  const faces = tests.add("PuLIDFluxLoadInsightFace", [0, 300]);
  const one = tests.add("LoadImage", [300, 0], { image: "group.jpg" });
  const two = tests.add("LoadImage", [300, 400], { image: "turned.png" });
  const images = { image1: [one, 0], image2: [two, 0] };
  const batch = tests.add("ImageBatch", [600, 0], {}, images);
  const models = { pulid_model: [load, 0], eva_clip: [eva, 0], face_analysis: [faces, 0] };
  const encode = tests.add("PuLIDFluxEncodeIdentity", [900, 0], {},
    { ...models, image: [batch, 0] });
  tests.add("PreviewImage", [1300, 0], {}, { images: [encode, 2] });
}"""

# both measuring nodes, on a photo of six people and the same one mirrored
MEASURE = """() => {
  const faces = tests.add("PuLIDFluxLoadInsightFace", [0, 0]);
  const one = tests.add("LoadImage", [0, 300], { image: "group.jpg" });
  const two = tests.add("LoadImage", [0, 700], { image: "turned.png" });
  const judge = { face_analysis: [faces, 0], image: [two, 0] };
  const alike = { people: "every face" };
  tests.add("PuLIDMeasureIdentity", [400, 0], alike, { ...judge, reference: [one, 0] });
  tests.add("PuLIDMeasureDisruption", [900, 0], {}, { ...judge, plain_image: [one, 0] });
}"""


def api_form(file: Path) -> dict[str, tuple[str, dict]]:
    """Return the committed API form of a workflow."""
    return comparable(json.loads((WORKFLOWS / "api" / f"{file.stem}.json").read_text("utf-8")))


def assert_complete(tab: Tab) -> None:
    """See that no node and no file is missing, and that the page does not complain."""
    assert tab.page.evaluate("tests.missing()") == []
    assert tab.page.evaluate("tests.absent()") == []
    tab.page.wait_for_timeout(300)
    assert not tab.page.get_by_test_id("error-overlay").is_visible()


def make_quick(tab: Tab, name: str, steps: int) -> None:
    """Make what is open small; its noise is that of the ``name``: no file finds its picture."""
    tab.page.evaluate("(file) => tests.makeSmall(file)", Path(more.CHROMA_PULID).name)
    noise = zlib.crc32(name.encode())
    tab.page.evaluate("([steps, noise]) => tests.makeQuick(steps, noise)", [steps, noise])


def run_to_pictures(tab: Tab) -> dict[str, np.ndarray]:
    """Run what is open and return each node's picture, once the last one shows its own."""
    shown = [e for e in tab.run() if is_end(tab, e) and e["output"].get("images")]
    node, picture = shown[-1]["display_node"], shown[-1]["output"]["images"][0]
    tab.page.evaluate("(id) => tests.lookAt(app.rootGraph.getNodeById(id))", node)
    found = "([id, name]) => tests.shows(app.rootGraph.getNodeById(id), name)"
    tab.wait_for(found, [node, picture["filename"]])
    return {e["display_node"]: fetch(tab, e["output"]["images"][0]) for e in shown}


def is_end(tab: Tab, event: dict) -> bool:
    """Say whether an event is from a node of the file that shows the result."""
    kind = "(id) => app.rootGraph.getNodeById(id)?.type"
    return tab.page.evaluate(kind, event["display_node"]) in ("SaveImage", "PreviewImage")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_workflow_opens_with_nothing_missing_and_is_its_api_form(tab, file):
    tab.open(json.loads(file.read_text("utf-8")))
    assert_complete(tab)
    assert tab.prompt() == api_form(file)
    note = "tests.find('MarkdownNote')"
    texts = tab.page.evaluate(f"tests.contrasts({note})")
    assert len(texts) > 5
    assert [(text, contrast) for text, contrast in texts if contrast < READABLE] == []


@in_turn(FILES, some=RUN)
def test_workflow_runs_to_a_picture_that_each_identity_changes(tab, path):
    tab.open(json.loads(path.read_text("utf-8")))
    tab.page.evaluate("(photos) => tests.givePhotos(photos)", PHOTOS)
    make_quick(tab, path.stem, 3)
    made = run_to_pictures(tab)
    for picture in made.values():
        assert picture.std(axis=(0, 1)).max() > 5, "one flat colour"
    applies = "tests.nodes().filter(({ type }) => /Apply/.test(type) && /^PuLID/.test(type))"
    for number in range(tab.page.evaluate(f"{applies}.length")):
        mode = f"([n, mode]) => {{ ({applies})[n].mode = mode; }}"
        tab.page.evaluate(mode, [number, BYPASSED])
        without = run_to_pictures(tab)
        assert max(np.abs(made[k] - picture).mean() for k, picture in without.items()) > 0.05
        tab.page.evaluate(mode, [number, 0])


@pytest.mark.parametrize("file", PICTURES, ids=lambda path: path.stem)
def test_picture_dropped_on_the_canvas_opens_its_workflow(tab, file):
    tab.drop(file.name, "image/png", file.read_bytes())
    assert_complete(tab)
    embedded = json.loads(Image.open(file).info["prompt"])
    assert tab.prompt() == comparable(embedded)


def bypassed(workflow: dict) -> dict:
    """Return a file with the nodes of packs that are not there bypassed."""
    for node in workflow["nodes"]:
        if node["type"] in PASS_ON:
            node["mode"] = BYPASSED
    return workflow


@in_turn(samples() + samples(sdxl=True))
def test_old_file_is_upgraded_by_the_page(tab, path):
    """It makes the prompt that the server's tests run (nodes/old_packs: posted as it is)."""
    workflow = bypassed(read(path))
    folders.register()
    prepared, _ = old_files.prepare(workflow)
    open_old(tab, workflow)
    said = "the identity is stronger here" if path in samples(sdxl=True) else "were replaced"
    tab.page.get_by_text(said).first.wait_for()
    ours, expected = [
        {key: node for key, node in prompt.items() if node[0] in CLASSES}
        for prompt in (tab.prompt(), comparable(old_prompt(prepared, stand_ins={})))
    ]
    assert len(expected) >= 4
    assert ours == expected


def open_old(tab: Tab, workflow: dict) -> None:
    """Drop an old file on the page and wait until nothing of PuLID is missing in it."""
    tab.drop("old.json", "application/json", json.dumps(workflow).encode())
    tab.wait_for("!tests.missing().some((type) => /pulid/i.test(type))")  # nobody pressed anything


@in_turn(RUN_OLD)
def test_old_file_runs_in_the_page(tab, path):
    workflow = bypassed(read(path))
    open_old(tab, workflow)
    tab.page.evaluate("tests.takeWhatIsThere()")
    apply = "PuLIDSDXLApply" if path in samples(sdxl=True) else APPLY
    tab.page.evaluate(f"tests.lookAt(tests.nodes().find(({{ type }}) => type === '{apply}'))")
    tab.page.locator(".pulid-window").first.wait_for()
    make_quick(tab, path.stem, 1)
    assert all(picture.std() > 1 for picture in run_to_pictures(tab).values())


def test_what_an_old_file_loses_is_said_when_it_opens(tab):
    workflow = read(SAMPLES / "other_ids.json")
    tab.drop("old.json", "application/json", json.dumps(workflow).encode())
    lost = "PulidFluxModelLoaderMultiGPU (node 20): device 'cuda:1': not kept"
    tab.page.get_by_text(lost).first.wait_for()
    tab.wait_for("!tests.missing().length")


def test_old_file_opens_with_its_values_and_links(tab):
    workflow = read(SAMPLES / "subgraph.json")
    folders.register()
    prepared, _ = old_files.prepare(workflow)
    tab.open(workflow)
    tab.wait_for("!tests.missing().length")
    found = tab.prompt()
    assert set(found) == set(old_prompt(prepared))
    kind, inputs = found["12:30"]
    assert kind == APPLY
    assert (inputs["weight"], inputs["face"], inputs["on_no_face"]) == (0.8, "rightmost", "skip")
    links = {name: value for name, value in inputs.items() if isinstance(value, list)}
    models = {"pulid_model": ["20", 0], "eva_clip": ["12:21", 0], "face_analysis": ["12:22", 0]}
    assert links == models | {"model": ["1", 0], "image": ["4", 0]}


@in_turn(BLUEPRINTS)
def test_blueprint_is_offered_and_opens(tab, path):
    offered = tab.server.get("/global_subgraphs")
    assert path.stem in {entry["name"] for entry in offered.values()}
    tab.open(json.loads(path.read_text("utf-8")))
    tab.page.evaluate("tests.lookAt(app.rootGraph.nodes[0])")
    assert tab.page.evaluate("tests.missing()") == []


def choose(tab: Tab, number: int) -> None:
    """Click on a face of the picker."""
    tab.page.locator(".pulid-faces button").nth(number).click()


def face_index(tab: Tab, kind: str) -> int:
    """Return the value of the widget."""
    return tab.page.evaluate("(kind) => tests.widget(kind, 'face_index').value", kind)


def cached(tab: Tab, kind: str) -> bool:
    """Say whether the only node of this type came from the cache in the last run."""
    known = "tests.events.filter(({ kind }) => kind === 'execution_cached').flatMap((e) => e.nodes)"
    return tab.page.evaluate(f"(kind) => {known}.includes(String(tests.find(kind).id))", kind)


@on("classic", "newest vue")
def test_clicking_two_faces_gives_two_people_and_another_browser_shows_them(tab, renderer):
    tab.open(json.loads((WORKFLOWS / "flux_pulid_basic.json").read_text("utf-8")))
    tab.page.evaluate("tests.makeQuick(2, 1)")
    tab.page.evaluate("tests.set('LoadImage', 'image', 'group.jpg')")
    # a weight of its own, or the server has nothing left to do for the second renderer
    tab.page.evaluate(f"tests.set('{APPLY}', 'weight', {2.5 if tab.vue else 3.0})")
    faces = found_faces(tab.run())["pulid_faces"][0]
    assert len(faces["boxes"]) == len(faces["scores"]) == 6
    assert np.ptp(np.array(faces["boxes"])[:, 0]) > 0.5, "the boxes are shares of the width"
    tab.page.evaluate(f"tests.lookAt(tests.find('{APPLY}'))")
    assert checked(tab) == [0]

    crops, pictures = [], []
    for number in (1, 4):
        choose(tab, number)
        assert face_index(tab, APPLY) == number
        assert checked(tab) == [number]
        events = tab.run()
        output = found_faces(events)
        assert output["pulid_faces"][0]["chosen"] == number
        crops.append(fetch(tab, output["images"][0]))
        saved = [e["output"]["images"][0] for e in events if is_end(tab, e)]
        pictures.append(fetch(tab, saved[-1]))
        assert checked(tab) == [number]
    assert np.abs(crops[0] - crops[1]).mean() > 10, "both crops show the same person"
    assert np.abs(pictures[0] - pictures[1]).mean() > 0.5, "the identity made no difference"

    tab.picture(f"tests.find('{APPLY}')", SCREENSHOTS / renderer / f"{APPLY} with faces.png")
    tab.come_back()
    assert face_index(tab, APPLY) == 4
    assert tab.page.locator(".pulid-faces").count() == 0
    again = found_faces(tab.run())
    assert cached(tab, APPLY)
    assert again == output
    tab.page.evaluate(f"tests.lookAt(tests.find('{APPLY}'))")
    assert checked(tab) == [4]
    shows = f"(name) => tests.shows(tests.find('{APPLY}'), name)"
    tab.wait_for(shows, again["images"][0]["filename"])


@on("classic", "newest vue")
def test_a_face_is_chosen_on_the_sdxl_node_too(tab, renderer):
    apply = "PuLIDSDXLApply"
    tab.open(json.loads((WORKFLOWS / "sdxl_pulid_lightning.json").read_text("utf-8")))
    tab.page.evaluate("tests.makeQuick(1, 1)")
    tab.page.evaluate("tests.set('LoadImage', 'image', 'group.jpg')")
    faces = found_faces(tab.run())["pulid_faces"][0]
    assert len(faces["boxes"]) == 6
    tab.page.evaluate(f"tests.lookAt(tests.find('{apply}'))")
    assert checked(tab) == [0]
    choose(tab, 4)
    assert (face_index(tab, apply), checked(tab)) == (4, [4])
    tab.picture(f"tests.find('{apply}')", SCREENSHOTS / renderer / f"{apply} with faces.png")


@on("vue", "newest classic")
def test_notes_stand_on_the_node_once_and_in_another_browser_too(tab, renderer):
    tab.open(EMPTY)
    tab.page.evaluate(ENCODE_ALONE)
    for run in ("first", "cached"):
        if run == "cached":
            tab.come_back()
        tab.run()
        tab.page.evaluate(f"tests.lookAt(tests.find('{ENCODE}'))")
        note = tab.page.get_by_text("How much the faces agree with the others: image 0")
        note.first.wait_for()
        tab.page.wait_for_timeout(500)  # the newest page clears its own copy after the run
        assert note.count() == 1, run
        tab.picture(f"tests.find('{ENCODE}')", SCREENSHOTS / renderer / f"{ENCODE} {run}.png")


@on("classic", "newest vue")
def test_measuring_nodes_show_their_numbers_and_reports(tab, renderer):
    tab.open(EMPTY)
    tab.page.evaluate(MEASURE)
    shown = {event["node"]: event["output"] for event in tab.run()}
    said = {
        "PuLIDMeasureIdentity": "Similarity 0.",
        "PuLIDMeasureDisruption": "Difference 0.",
    }
    for kind, text in said.items():
        tab.page.evaluate(f"tests.lookAt(tests.find('{kind}'))")
        tab.page.get_by_text(text).first.wait_for()
        output = shown[str(tab.page.evaluate(f"tests.find('{kind}').id"))]
        (report,) = output["images"]
        tab.wait_for(f"(name) => tests.shows(tests.find('{kind}'), name)", report["filename"])
        tab.picture(f"tests.find('{kind}')", SCREENSHOTS / renderer / f"{kind} with report.png")
    alike = shown[str(tab.page.evaluate("tests.find('PuLIDMeasureIdentity').id"))]
    assert alike["pulid_measured"][0]["pictures"][0]["faces"] == 6


def test_faces_of_a_batch_by_keyboard_and_not_against_a_link(tab, renderer):
    tab.open(EMPTY)
    tab.page.evaluate(ENCODE_ALONE)
    tab.run()
    tab.page.evaluate(f"tests.lookAt(tests.find('{ENCODE}'))")
    picker = tab.page.locator(".pulid-picker")
    radios = picker.get_by_role("radio")
    assert picker.get_by_role("radiogroup").count() == 1
    assert radios.count() == 6
    assert "photo 1 of 2" in picker.inner_text()
    picker.get_by_role("button", name="Next photo").click()
    assert "photo 2 of 2" in picker.inner_text()

    radios.nth(0).focus()
    for key, expected in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        tab.page.keyboard.press(key)
        assert face_index(tab, ENCODE) == expected
    assert [radio.get_attribute("tabindex") for radio in radios.all()].count("0") == 1
    assert all(radio.get_attribute("aria-label") for radio in radios.all())
    tab.picture(f"tests.find('{ENCODE}')", SCREENSHOTS / renderer / f"{ENCODE} with faces.png")

    tab.page.evaluate(f"tests.set('{ENCODE}', 'face', 'leftmost')")
    choose(tab, 3)  # counted in another order than the numbers on the picture
    assert face_index(tab, ENCODE) == 1
    assert "run again" in picker.inner_text()
    tab.page.evaluate(f"tests.set('{ENCODE}', 'face', 'largest')")
    tab.page.evaluate(
        f"() => void tests.add('PrimitiveInt', [600, 400])"
        f".connect(0, tests.find('{ENCODE}'), tests.find('{ENCODE}').findInputSlot('face_index'))"
    )
    choose(tab, 3)
    assert face_index(tab, ENCODE) == 1
    assert "comes from its input" in picker.inner_text()


def our_nodes(server) -> dict[str, dict]:
    """Return the descriptions of this pack's nodes."""
    info = server.object_info()
    return {key: node for key, node in info.items() if key.startswith("PuLID")}


def described(node: dict) -> dict[str, list]:
    """Return the inputs of a node as the server describes them."""
    return {**node["input"].get("required", {}), **node["input"].get("optional", {})}


FIRST = ["weight", "start_at", "end_at", "face", "face_index"]
OLD_VALUES = [0.9, 0.1, 0.8, 3, -1, "empty", "constant", 1.5, 0.5]
OLD_VALUES += ["rightmost", 2, "mean", "skip", False, 1.5, 0.5, 700]
VALUES = [*OLD_VALUES, "whole picture", "25, 0, 50, 100", ""]  # with what came after 0.1


def size(tab: Tab) -> list[float]:
    """Return width and height of the Apply node."""
    return tab.page.evaluate(f"[...tests.find('{APPLY}').size]")


def settings(tab: Tab) -> list[str]:
    """Return which settings the Apply node shows on the classic canvas."""
    tab.page.wait_for_timeout(200)  # it is laid out with the next frame
    return tab.page.evaluate(f"tests.settings(tests.find('{APPLY}'))")


def click_advanced(tab: Tab) -> None:
    """Open or fold the advanced inputs of the Apply node."""
    tab.page.evaluate(f"tests.lookAt(tests.find('{APPLY}'))")
    tab.page.wait_for_timeout(200)
    if tab.vue:
        tab.page.get_by_test_id("advanced-inputs-button").click()
    else:
        place = tab.page.evaluate(f"tests.placeOf(tests.find('{APPLY}'), 'pulid_advanced')")
        tab.page.mouse.click(*place)


@everywhere
def test_one_click_opens_the_advanced_inputs_and_the_file_remembers_it(tab):
    tab.open(EMPTY)
    tab.page.evaluate(f"() => void tests.add('{APPLY}', [0, 0])")
    folded = size(tab)
    for opened in (True, False):
        click_advanced(tab)
        tab.wait_for(f"tests.find('{APPLY}').showAdvanced === {json.dumps(opened)}")
        if not tab.vue:
            assert settings(tab)[:3] == FIRST[:3]
            assert len(settings(tab)) == (len(VALUES) if opened else len(FIRST))
            assert size(tab)[1] - folded[1] == (24 * 15 if opened else 0)
        tab.open(tab.serialized())
        assert tab.page.evaluate(f"tests.find('{APPLY}').showAdvanced") is opened
    inputs = next(iter(tab.prompt().values()))[1]
    assert len(inputs) == len(VALUES)


@everywhere
def test_file_saved_before_inputs_were_folded_keeps_its_values(tab):
    node = {"id": 1, "type": APPLY, "pos": [0, 0], "size": [360, 630], "flags": {}, "mode": 0}
    node |= {"inputs": [], "outputs": [], "properties": {}, "widgets_values": OLD_VALUES}
    tab.open(EMPTY | {"nodes": [node], "last_node_id": 1})
    kept = next(iter(tab.prompt().values()))[1]
    names = [n for n, (t, *_) in described(our_nodes(tab.server)[APPLY]).items() if n in kept]
    assert [kept[name] for name in names] == VALUES
    if not tab.vue:
        assert settings(tab) == FIRST
        assert size(tab) == [360, 630 - 24 * 11]  # twelve rows less, a button more
        apply = f"tests.find('{APPLY}')"
        link = f"connect(0, {apply}, {apply}.findInputSlot('start_step'))"
        tab.page.evaluate(f"() => void tests.add('PrimitiveInt', [-300, 0]).{link}")
        assert settings(tab) == [*FIRST[:3], "start_step", *FIRST[3:]]  # a link is not hidden


BAR = """() => {
  const fill = document.querySelector(".pulid-fill").style;
  const text = document.querySelector(".pulid-window").getAttribute("aria-label");
  return [parseFloat(fill.left), parseFloat(fill.width), text];
}"""


@pytest.mark.parametrize(
    ("opened", "kind"),
    list(zip((*RENDERERS, *NEWEST), APPLIES, strict=True)),
    indirect=["opened"],
)
def test_window_bar_follows_the_widgets_and_is_not_saved(tab, kind):
    tab.open(EMPTY)
    tab.page.evaluate(f"tests.lookAt(tests.add('{kind}', [0, 0]))")
    tab.page.locator(".pulid-window").wait_for()
    for name, value, expected in (
        ("start_at", 0.2, [20, 80, "20 % to 100 %"]),
        ("end_at", 0.75, [20, 55, "20 % to 75 %"]),
        ("start_step", 4, [0, 75, "step 4 to 75 %"]),
        ("end_step", 3, [0, 0, "never"]),
        ("end_step", 12, [0, 100, "step 4 to step 12"]),
    ):
        tab.page.evaluate(f"tests.set('{kind}', '{name}', {value})")
        left, width, text = tab.page.evaluate(BAR)
        assert [left, width] == pytest.approx(expected[:2])
        assert expected[2] in text
    saved = tab.serialized()
    inputs = described(our_nodes(tab.server)[kind])
    sockets = ("MODEL", "MASK", "IMAGE")
    widgets = [n for n, (t, *_) in inputs.items() if t not in sockets and "PULID" not in str(t)]
    values = saved["nodes"][0]["widgets_values"]
    assert len(values) == len(widgets)
    assert dict(zip(widgets, values, strict=True))["end_step"] == 12
    tab.open(saved)
    tab.page.locator(".pulid-window").wait_for()
    assert tab.page.evaluate(BAR)[2] == "identity: step 4 to step 12"
    assert not {"pulid_window", "pulid_faces"} & set(next(iter(tab.prompt().values()))[1])


def test_every_node_looks_like_something(tab, renderer):
    for kind in our_nodes(tab.server):
        tab.open(EMPTY)
        tab.page.evaluate(f"() => void tests.add('{kind}', [0, 0])")
        path = SCREENSHOTS / renderer / f"{kind}.png"
        tab.picture(f"tests.find('{kind}')", path)
        colours = len(np.unique(np.asarray(Image.open(path).convert("L"))))
        assert colours > 30, f"{path} shows next to nothing"


def test_every_node_and_input_is_explained(workshop):
    lacking = []
    for kind, node in our_nodes(workshop).items():
        for name, (_, *options) in described(node).items():
            lacking += [] if options and options[0].get("tooltip") else [f"{kind}.{name}"]
        lacking += [] if node["description"] else [kind]
    assert lacking == []


def test_every_node_has_a_help_page(workshop):
    lacking = []
    for kind in our_nodes(workshop):
        try:
            with workshop.open(f"/extensions/pulid-flux-native/docs/{kind}.md") as page:
                text = page.read().decode()
        except urllib.error.HTTPError as error:
            text = ""
            assert error.code == 404
        lacking += [] if len(text) > 200 else [kind]
    assert lacking == []
