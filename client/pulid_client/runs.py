"""Prompts on one server: queue them once, follow them, cancel them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import PromptLost, PromptRefused, ServerError, ServerGone, node_problems, refusal
from .events import MISSED, Events
from .http import Http
from .results import Result, Run

if TYPE_CHECKING:
    from typing_extensions import Self

OnEvent = Callable[[str, dict], None]

LIMIT = 600.0  # seconds for one prompt, its time in the queue included
QUIET = 10.0  # seconds without a message until the client asks whether the prompt has ended
GOODBYE = 5.0  # seconds to cancel a prompt that nobody waits for any more
ARRIVED, ARRIVED_PAUSE = 4, 0.5  # how often, and how many seconds apart, to look for a lost prompt
SENT = 5  # how often a prompt is sent whose answer does not come


class Runs:
    """The queue of the ComfyUI at ``url``, as an asynchronous context manager."""

    def __init__(
        self,
        url: str,
        *,
        client_id: str | None = None,
        patience: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ):
        """Describe the server.

        client_id: under which its messages come, a new one by default; patience: how many seconds
        the server may be away before ServerGone is raised; headers: for a proxy before it.
        """
        self.client_id = client_id or uuid.uuid4().hex
        self.http = Http(url, patience, headers)
        self.events = Events(self.http, self.client_id)
        self.refused: dict[str, tuple[str, ...]] = {}

    @property
    def url(self) -> str:
        """Return the server's address, without a slash at its end."""
        return self.http.url

    async def __aenter__(self) -> Self:
        await self.http.open()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.events.close()
        await self.http.close()

    async def history(self, prompt_id: str) -> dict | None:
        """Return the server's record of a prompt that has ended, or None."""
        return (await self.http.get(f"/history/{prompt_id}")).get(prompt_id)

    async def waiting(self) -> list[str]:
        """Return the ids of the prompts that run or wait."""
        queue = await self.http.get("/queue")
        return [item[1] for item in (*queue["queue_running"], *queue["queue_pending"])]

    async def queue(self, prompt: Mapping[str, Any], prompt_id: str | None = None) -> str:
        """Queue a prompt and return its id; it is queued once, also where connections drop.

        prompt_id: a UUID of the caller's, a new one by default. Raises PromptRefused, ServerGone.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        body = {"prompt": prompt, "client_id": self.client_id, "prompt_id": prompt_id}
        for attempt in range(SENT):
            try:
                answer = json.loads(await self.http.once("POST", "/prompt", json=body))
            except ServerGone:
                if not self.http.met or attempt == SENT - 1:
                    raise
                if await self.arrived(prompt_id):
                    return prompt_id
                continue
            except ServerError as error:
                if error.status == 400:
                    raise PromptRefused(refusal(error.text)) from error
                raise
            if problems := node_problems(answer.get("node_errors")):
                self.refused[answer["prompt_id"]] = tuple(problems)
            return answer["prompt_id"]
        raise AssertionError("the last attempt returns or raises")

    async def arrived(self, prompt_id: str) -> bool:
        """Return whether a prompt whose answer was lost is there, or comes to be there soon."""
        for _ in range(ARRIVED):
            with contextlib.suppress(PromptLost):
                await self.ended(prompt_id)
                return True
            await asyncio.sleep(ARRIVED_PAUSE)
        return False

    async def run(
        self,
        prompt: Mapping[str, Any],
        on_event: OnEvent | None = None,
        limit: float = LIMIT,
        prompt_id: str | None = None,
    ) -> Result:
        """Queue a prompt, wait for its end and return how it went; a failed node does not raise.

        on_event gets the type and data of each of the server's messages about it.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        await self.events.connect()
        with self.events.watch(prompt_id) as inbox:
            async with self.cancelling(prompt_id):
                queued = await self.queue(prompt, prompt_id)
                return await within(limit, self.follow(queued, inbox, on_event))

    async def wait(
        self, prompt_id: str, on_event: OnEvent | None = None, limit: float = LIMIT
    ) -> Result:
        """Wait for the end of a queued prompt and return how it went."""
        await self.events.connect()
        with self.events.watch(prompt_id) as inbox:
            inbox.put_nowait(MISSED)  # it may have ended already
            async with self.cancelling(prompt_id):
                return await within(limit, self.follow(prompt_id, inbox, on_event))

    async def follow(
        self, prompt_id: str, inbox: asyncio.Queue, on_event: OnEvent | None
    ) -> Result:
        """Read messages until the prompt has ended."""
        run, entry = Run(), None
        while entry is None:
            try:
                told = await asyncio.wait_for(inbox.get(), QUIET)
            except asyncio.TimeoutError:
                told = MISSED
            if isinstance(told, ServerGone):
                raise told
            if told is not MISSED:
                if on_event is not None:
                    on_event(*told)
                if not run.take(*told):
                    continue
            entry = await self.ended(prompt_id)
        return run.result(prompt_id, entry, self.refused.pop(prompt_id, ()))

    async def ended(self, prompt_id: str) -> dict | None:
        """Return a prompt's record if it has ended, None if not; PromptLost if it is unknown."""
        entry = await self.history(prompt_id)
        if entry is None and prompt_id not in await self.waiting():
            entry = await self.history(prompt_id)  # it may have ended between the two questions
            if entry is None:
                raise PromptLost(f"{self.url} no longer knows the prompt {prompt_id}.")
        return entry

    @contextlib.asynccontextmanager
    async def cancelling(self, prompt_id: str) -> AsyncIterator[None]:
        """Cancel the prompt if the block is left by anything but its end or the server's."""
        try:
            yield
        except (PromptRefused, ServerGone, ServerError):
            raise
        except BaseException:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(asyncio.shield(self.cancel(prompt_id)), GOODBYE)
            raise

    async def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, or stop it if it runs; others are left alone."""
        await self.http.post("/queue", {"delete": [prompt_id]})
        await self.http.post("/interrupt", {"prompt_id": prompt_id})


async def within(limit: float, work: Any) -> Any:
    """Return what ``work`` does; TimeoutError after ``limit`` seconds, on every Python."""
    try:
        return await asyncio.wait_for(work, limit)
    except asyncio.TimeoutError as error:
        raise TimeoutError(
            f"The prompt did not end within {limit:.0f} s; it is cancelled."
        ) from error
