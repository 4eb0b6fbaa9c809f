"""Talk to a running ComfyUI: upload, queue and follow a prompt, fetch its pictures."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

OnEvent = Callable[[str, dict], None]


class PromptRefused(ValueError):
    """The server did not queue a prompt; the text is the server's."""


@dataclass(frozen=True)
class Result:
    """How one queued prompt went.

    outputs: node id -> what the node showed, as in ``/history``; executed: ids of the nodes that
    ran, in order, nodes of expanded graphs included; cached: ids of the prompt's nodes that did
    not have to; error: the server's report (``node_id``, ``node_type``, ``exception_message``, …)
    if the run failed or was interrupted.
    """

    prompt_id: str
    outputs: dict[str, dict]
    executed: tuple[str, ...]
    cached: tuple[str, ...]
    error: dict | None

    def images(self, node: str) -> list[dict]:
        """Return the pictures that ``node`` saved or previewed, for ``Server.image``."""
        return self.outputs.get(node, {}).get("images", [])


class Client:
    """A small client for the ComfyUI at ``url``."""

    def __init__(self, url: str):
        self.url = url
        self.client_id = uuid.uuid4().hex

    def get(self, path: str) -> dict:
        """Return the JSON at ``path``."""
        with self.open(path) as answer:
            return json.load(answer)

    def open(self, path: str, body: bytes | None = None, kind: str = "application/json"):
        """Send a request past any proxy and return the response; OSError if there is none."""
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=60)

    def object_info(self) -> dict[str, dict]:
        """Return the description of every node class."""
        return self.get("/object_info")

    def upload(self, photo: Path, name: str | None = None) -> str:
        """Put ``photo`` into the server's input folder; return the name for ``LoadImage``."""
        name = name or photo.name
        mark = uuid.uuid4().hex
        head = f'Content-Disposition: form-data; name="image"; filename="{name}"'
        head = f"--{mark}\r\n{head}\r\nContent-Type: application/octet-stream\r\n\r\n"
        body = head.encode() + photo.read_bytes() + f"\r\n--{mark}--\r\n".encode()
        with self.open("/upload/image", body, f"multipart/form-data; boundary={mark}") as answer:
            return json.load(answer)["name"]

    def image(self, picture: Mapping[str, str]) -> bytes:
        """Return the file of a picture that a ``Result`` lists."""
        with self.open(f"/view?{urllib.parse.urlencode(picture)}") as answer:
            return answer.read()

    def interrupt(self) -> None:
        """Stop the prompt that is running."""
        self.open("/interrupt", b"{}").close()

    def queue(
        self, prompt: Mapping[str, dict], on_event: OnEvent | None = None, limit: float = 600.0
    ) -> Result:
        """Run ``prompt`` (API form) and return how it went.

        on_event gets the type and data of each of the server's messages about it. Raises
        PromptRefused if it fails validation, OSError if the server dies, TimeoutError after
        ``limit`` seconds.
        """
        return asyncio.run(asyncio.wait_for(self.follow(prompt, on_event), limit))

    async def follow(self, prompt: Mapping[str, dict], on_event: OnEvent | None) -> Result:
        """Queue ``prompt`` and read the websocket until the server is done with it."""
        import aiohttp  # ComfyUI's own web library

        run = Run()
        address = f"{self.url}/ws?clientId={self.client_id}"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            prompt_id = await asyncio.to_thread(self.submit, prompt)
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:  # a preview picture
                    continue
                event = json.loads(message.data)
                data = event.get("data") or {}
                if data.get("prompt_id") != prompt_id:
                    continue
                if on_event is not None:
                    on_event(event["type"], data)
                if run.take(event["type"], data):
                    break
            else:
                raise ConnectionError("the websocket closed while a prompt ran")
        history = (await asyncio.to_thread(self.get, f"/history/{prompt_id}")).get(prompt_id, {})
        return run.result(prompt_id, history.get("outputs", {}))

    def submit(self, prompt: Mapping[str, dict]) -> str:
        """Queue ``prompt`` for this client and return its id."""
        body = json.dumps({"prompt": prompt, "client_id": self.client_id}).encode()
        try:
            with self.open("/prompt", body) as answer:
                return json.load(answer)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise PromptRefused(refusal(error.read().decode("utf-8", "replace"))) from error


class Run:
    """What the websocket has told about one prompt so far."""

    def __init__(self) -> None:
        self.executed: dict[str, None] = {}  # a dict keeps the order and each id once
        self.cached: tuple[str, ...] = ()
        self.error: dict | None = None

    def take(self, kind: str, data: dict) -> bool:
        """Note one message; return whether it was the last one."""
        if kind == "execution_cached":
            self.cached = tuple(data["nodes"])
        elif kind in ("execution_error", "execution_interrupted"):
            self.error = {"exception_message": "interrupted"} | data
        elif kind == "executing" and data["node"] is not None:
            self.executed[data["node"]] = None
        return kind == "executing" and data["node"] is None

    def result(self, prompt_id: str, outputs: dict[str, dict]) -> Result:
        """Return what was noted, with the history's outputs."""
        return Result(prompt_id, outputs, tuple(self.executed), self.cached, self.error)


def refusal(answer: str) -> str:
    """Return the server's words about a prompt that it refused, one line for each problem."""
    try:
        report = json.loads(answer)
        lines = [report["error"]["message"]]
        for node, found in report["node_errors"].items():
            for error in found["errors"]:
                where = f"{found['class_type']} (node {node})"
                lines.append(f"{where}: {error['message']}: {error['details']}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer  # another form of report: as it is
    return "\n".join(lines)
