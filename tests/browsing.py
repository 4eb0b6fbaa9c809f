"""ComfyUI's page in a real Chromium, driven as a person would."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blocking import Blocking
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

SCRIPT = Path(__file__).with_suffix(".js")
SIZE = {"width": 1600, "height": 1400}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOOK_EVERY = 50  # ms, where a test waits: looking at every frame makes the page draw every frame
SETTINGS = {
    "LiteGraph.Canvas.MaximumFps": 15,
    "Comfy.TutorialCompleted": True,  # no templates dialog at the first visit
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}
# The page's own complaints: files that a new user does not have yet, and its registry, which it
# asks about packs that are not installed.
NOT_OURS = ("/userdata", "/user.css", "https://api.comfy.org/")
DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const how = { bubbles: true, cancelable: true, clientX: 700, clientY: 700 };
  const target = document.elementFromPoint(700, 700);
  target.dispatchEvent(new DragEvent("dragover", { ...how, dataTransfer: transfer }));
  target.dispatchEvent(new DragEvent("drop", { ...how, dataTransfer: transfer }));
}"""


class Tab:
    """One page: ``page`` is Playwright's, ``errors`` is what went wrong in it so far."""

    def __init__(self, page: Page, server: Blocking, vue: bool):
        self.page = page
        self.server = server
        self.vue = vue
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error.stack)))
        page.on("console", self.note)

    def note(self, message: ConsoleMessage) -> None:
        """Keep an error of the console."""
        text = f"{message.text} ({message.location.get('url', '')})"
        if message.type == "error" and not any(part in text for part in NOT_OURS):
            self.errors.append(text)

    def stay_here(self, route: Route) -> None:
        """Let the page reach its server only."""
        if route.request.url.startswith((self.server.url, "data:", "blob:")):
            route.continue_()
        else:
            route.abort()

    def load(self) -> None:
        """Open the page and wait until it is ready to work with."""
        self.page.goto(self.server.url)
        self.page.wait_for_function("window.app?.extensionManager && app.canvas && app.rootGraph")
        self.settle()
        self.page.evaluate("tests.listen()")
        self.errors.clear()

    def settle(self) -> None:
        """Wait until the page's mask is gone: who works while it fades leaves it there for good."""
        self.page.wait_for_function("!document.querySelector('.p-blockui-mask')")

    def come_back(self) -> None:
        """Open the page again, as in another browser, with what is open now."""
        graph = self.serialized()
        self.page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
        self.load()
        self.open(graph)

    def serialized(self) -> dict:
        """Return the file that the page would save."""
        return self.page.evaluate("JSON.parse(JSON.stringify(app.rootGraph.serialize()))")

    def open(self, workflow: dict) -> None:
        """Open a workflow by the page's own function."""
        self.settle()
        self.page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)

    def drop(self, name: str, kind: str, data: bytes) -> None:
        """Drop a file on the canvas and wait for its nodes."""
        self.open({"nodes": [], "links": [], "version": 0.4})
        self.page.evaluate(DROP, [name, kind, base64.b64encode(data).decode()])
        self.page.wait_for_function("app.rootGraph.nodes.length > 0")
        self.settle()

    def prompt(self) -> dict[str, tuple[str, dict]]:
        """Return what the page would queue: node id -> class, inputs."""
        return comparable(self.page.evaluate("async () => (await app.graphToPrompt()).output"))

    def run(self, seconds: float = 120) -> list[dict]:
        """Click Run, wait for the end and return what the nodes sent; AssertionError on errors."""
        self.page.evaluate("tests.events.length = 0")
        self.page.get_by_test_id("queue-button").click()
        done = """tests.events.some(({ kind }) => /^execution_(success|error|inter)/.test(kind))
          || Object.keys(app.extensionManager.lastNodeErrors ?? {}).length"""
        self.page.wait_for_function(done, timeout=1000 * seconds, polling=LOOK_EVERY)
        refused = self.page.evaluate("app.extensionManager.lastNodeErrors")
        assert not refused, json.dumps(refused)
        events = self.page.evaluate("tests.events")
        failed = [event for event in events if event["kind"] == "execution_error"]
        assert not failed, f"{failed[0]['node_type']}: {failed[0]['exception_message']}"
        return [event for event in events if event["kind"] == "executed"]

    def wait_for(self, expression: str, argument: object = None) -> None:
        """Wait until a JavaScript expression or function holds."""
        self.page.wait_for_function(expression, arg=argument, timeout=20_000, polling=LOOK_EVERY)

    def picture(self, node: str, path: Path) -> None:
        """Save how a node looks; ``node`` is a JavaScript expression for it."""
        self.page.evaluate(f"tests.lookAt({node})")
        self.page.mouse.move(5, 700)
        self.page.wait_for_timeout(500)  # the classic canvas and images are drawn by frames
        path.parent.mkdir(parents=True, exist_ok=True)
        place = self.page.evaluate(f"tests.place({node})")
        self.page.screenshot(path=path, clip=place)


def comparable(prompt: dict[str, dict]) -> dict[str, tuple[str, dict]]:
    """Return an API prompt without the titles."""
    return {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()}


@contextmanager
def start(program: Path) -> Iterator[Browser]:
    """Start Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_tab(browser: Browser, server: Blocking, vue: bool) -> Iterator[Tab]:
    """Open the page of ``server``, with the classic canvas or the Vue renderer."""
    settings = SETTINGS | {"Comfy.VueNodes.Enabled": vue}
    server.open("/settings", json.dumps(settings).encode()).close()
    with browser.new_context(viewport=SIZE, reduced_motion="reduce") as context:
        page = context.new_page()
        page.add_init_script(path=SCRIPT)
        tab = Tab(page, server, vue)
        tab.load()
        yield tab
