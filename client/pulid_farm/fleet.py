"""Who does what: servers that come, go, fall ill and recover, and the work that waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from .jobs import Work
from .worker import Outcome

DEPTH = 2  # prompts that a server has: one runs, one waits, so that it never idles
FIRST_REST, LONGEST_REST = 0.5, 60.0  # seconds that a server is left alone after it failed
FAULTS = 20  # how often work may be lost with its servers
LOOK_AHEAD = 50  # how much of the waiting work is looked at for one server


@dataclass
class Server:
    """What is known of one server; times are on the driver's clock, in seconds.

    faults: in a row; ill: it failed last, so it is asked before it gets work, and gets one thing
    at a time until that succeeds.
    """

    url: str
    doing: int = 0
    done: int = 0
    failed: int = 0
    faults: int = 0
    all_faults: int = 0
    rests_until: float = 0.0
    leaving: bool = False
    answers: bool = True
    busy: float = 0.0
    first: float | None = None  # when its first work was begun
    last: float = 0.0  # when its last work was settled

    def room(self, now: float) -> int:
        """Return how much more work it may get now."""
        if self.leaving or not self.answers or now < self.rests_until:
            return 0
        return (1 if self.faults else DEPTH) - self.doing

    def fell_ill(self, now: float) -> None:
        """Leave it alone, each time for twice as long."""
        self.faults += 1
        self.all_faults += 1
        self.answers = False
        rest = min(FIRST_REST * 2 ** (self.faults - 1), LONGEST_REST)
        self.rests_until = max(self.rests_until, now + rest)


class Fleet:
    """The servers, and the work that waits for them.

    retries: after a job's own failures; encoders: addresses that encode identities and do nothing
    else, while the others do all the rest; none: everybody does everything.
    """

    def __init__(self, retries: int, encoders: Collection[str] = ()):
        self.retries = retries
        self.encoders = frozenset(encoders)
        self.servers: dict[str, Server] = {}
        self.waiting: deque[Work] = deque()

    def set_servers(self, urls: list[str]) -> list[str]:
        """Let servers join and leave; return the addresses of those that are new."""
        for url, server in self.servers.items():
            server.leaving = url not in urls
        new = [url for url in dict.fromkeys(urls) if url not in self.servers]
        self.servers |= {url: Server(url) for url in new}
        return new

    def to_ask(self, now: float) -> list[Server]:
        """Return the servers that failed and have rested: do they answer?"""
        return [
            server
            for server in self.servers.values()
            if not server.answers and not server.leaving and now >= server.rests_until
        ]

    def assign(self, now: float) -> Iterator[tuple[Server, Work]]:
        """Yield who is to do what; the caller sends it there at once."""
        while self.waiting:
            free = [server for server in self.servers.values() if server.room(now) > 0]
            pair = next(filter(None, (self.match(server, now) for server in by_load(free))), None)
            if pair is None:
                return
            pair[0].doing += 1
            yield pair

    def match(self, server: Server, now: float) -> tuple[Server, Work] | None:
        """Take the first work that is for this server: it did not fail there, or everywhere."""
        well = {s.url for s in self.servers.values() if s.answers and not s.leaving}
        for place, work in enumerate(self.waiting):
            if place == LOOK_AHEAD:
                return None
            able = self.able(work, well)
            if server.url in able and (server.url not in work.tried or not able - work.tried):
                del self.waiting[place]
                return server, work
        return None

    def able(self, work: Work, urls: set[str]) -> set[str]:
        """Return those of ``urls`` that do this kind of work."""
        if not self.encoders:
            return urls
        return urls & self.encoders if work.encodes else urls - self.encoders

    def settle(self, server: Server, work: Work, outcome: Outcome, now: float) -> bool:
        """Note what came of work; return whether that is final, else it waits again."""
        server.doing -= 1
        server.busy += outcome.busy
        server.first = now - outcome.seconds if server.first is None else server.first
        server.last = now
        if outcome.fault == "server":
            server.fell_ill(now)
            work.faults += 1
            final = work.faults >= FAULTS
        else:
            server.faults = 0
            work.attempts += outcome.fault is not None
            final = outcome.fault is None or work.attempts > self.retries
        if outcome.fault is not None:
            work.tried.add(server.url)
        if not final:
            self.waiting.appendleft(work)
        elif not work.encodes:
            server.done += outcome.fault is None
            server.failed += outcome.fault is not None
        return final


def by_load(servers: list[Server]) -> list[Server]:
    """Return the servers with the least to do first."""
    return sorted(servers, key=lambda server: server.doing)
