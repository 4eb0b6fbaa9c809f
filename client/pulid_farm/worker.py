"""The actor of one server: it brings files there, queues, waits, and keeps what was made."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pulid_client import Client, NodeFailed, PromptRefused, ServerError, ServerGone
from pulid_client.client import NO_FILE
from pulid_client.identities import SAVED
from pulid_client.uploads import IDENTITIES, saved_identity

from .jobs import Work
from .target import Target, read

PATIENCE = 5.0  # seconds that a server may be away within a job; then another one gets it
FOLDER = "identities"  # of the target


@dataclass(frozen=True)
class Outcome:
    """What came of some work on one server.

    made: what a job's line says about its pictures; fault: None, "job" if the work failed there,
    or "server" if the server did; seconds: from begin to end here; busy: on the server's clock,
    without waiting in its queue.
    """

    made: dict | None = None
    fault: str | None = None
    error: str = ""
    seconds: float = 0.0
    busy: float = 0.0


class Worker:
    """Works for the server at ``url``; all that lasts is in the target."""

    def __init__(self, url: str, target: str, limit: float):
        """Describe the server; limit: seconds for one prompt."""
        self.url = url
        self.target = Target(target)
        self.limit = limit
        self.client: Client | None = None
        self.there: dict[str, asyncio.Task] = {}  # files that the server has, or is being sent

    async def alive(self) -> bool:
        """Return whether the server answers now."""
        self.there.clear()  # it was away: it may be another machine by now
        try:
            client = await self.connected()
            await asyncio.wait_for(client.http.once("GET", "/system_stats"), PATIENCE)
        except (ServerGone, ServerError, asyncio.TimeoutError):
            return False
        return True

    async def connected(self) -> Client:
        """Return the client, opened in the actor's own loop."""
        if self.client is None:
            client = Client(self.url, patience=PATIENCE)
            await client.__aenter__()
            self.client = client
        return self.client

    async def do(self, work: Work) -> Outcome:
        """Do the work; what goes wrong there is told. A target that cannot be written raises."""
        began = time.monotonic()
        busy = 0.0
        try:
            client = await self.connected()
            for key in work.needs:
                await self.place(f"{key}.safetensors", IDENTITIES, f"{FOLDER}/{key}.safetensors")
            for file in work.files:
                await self.place(file.name, file.subfolder, file.path, outside=True)
            result = await client.run(work.prompt, limit=self.limit)
            if result.span is not None:
                busy = result.span[1] - result.span[0]
            if result.error is not None:
                raise NodeFailed(result.error)
            made = await (self.keep_identity if work.encodes else self.keep)(client, work, result)
        except (ServerGone, ServerError) as error:
            return Outcome(None, "server", str(error), time.monotonic() - began, busy)
        except (NodeFailed, PromptRefused, TimeoutError) as error:
            return Outcome(None, "job", str(error), time.monotonic() - began, busy)
        return Outcome(made, None, "", time.monotonic() - began, busy)

    async def place(self, name: str, subfolder: str, path: str, outside: bool = False) -> None:
        """Upload a file unless the server has it; two jobs that need it send it once."""
        task = self.there.get(name)
        if task is None:
            task = self.there[name] = asyncio.create_task(self.send(name, subfolder, path, outside))
        try:
            await asyncio.shield(task)
        except Exception:
            self.there.pop(name, None)
            raise

    async def send(self, name: str, subfolder: str, path: str, outside: bool) -> None:
        """Upload one file, of the target's or from outside."""
        try:
            source = (lambda: read(path, Path())) if outside else (lambda: self.target.get(path))
            content = await asyncio.to_thread(source)
        except OSError as error:
            raise PromptRefused(f"{path} cannot be read: {error}") from error
        await self.client.upload(content, name, subfolder)

    async def keep(self, client: Client, work: Work, result) -> dict:
        """Fetch a job's pictures into the target; return what its line says about them."""
        images = result.images(work.output)
        if not images:
            raise PromptRefused("\n".join(["No picture was saved.", *result.refused]))
        names, sums = [], []
        for number, image in enumerate(images):
            content = await client.view(image)
            suffix = PurePosixPath(image["filename"]).suffix
            name = f"{work.key}{f'_{number}' if number else ''}{suffix}"
            await asyncio.to_thread(self.target.put, name, content)
            names.append(name)
            sums.append(hashlib.sha256(content).hexdigest())
        return {"pictures": names, "sha256": sums, "notes": result.notes}

    async def keep_identity(self, client: Client, work: Work, result) -> dict:
        """Fetch an identity's file into the target."""
        file = saved_identity(result.outputs.get(SAVED, {}))
        if file is None:
            raise PromptRefused(f"No identity came back.{NO_FILE.format(self.url)}")
        content = await client.view(file)
        await asyncio.to_thread(self.target.put, f"{FOLDER}/{work.key}.safetensors", content)
        return {}
