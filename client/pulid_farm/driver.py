"""The loop that hands out work to Ray actors, one for each server, and writes down what comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import ray

from .fleet import DEPTH, Fleet, Server
from .jobs import BadLine, Reader, Work
from .journal import RESULTS, Journal
from .report import EVERY, Count, progress, say, summary, table
from .target import Target
from .worker import FOLDER, Outcome, Worker

PUBLISHED = 60.0  # seconds between two tables of the servers, and copies of the journal elsewhere
AHEAD = 4  # jobs read ahead for each server
TURN = 0.5  # seconds until servers and files are looked at again, though nothing happened
ASKED = "asked"  # in flight: not work, but whether the server answers


@dataclass
class Driver:
    """One run.

    servers: gives the addresses there are now; patience: seconds without any server; encoders:
    see Fleet.
    """

    reader: Reader
    target: Target
    journal: Journal
    servers: Callable[[], list[str]]
    retries: int = 2
    limit: float = 600.0
    patience: float = 600.0
    encoders: Collection[str] = ()
    count: Count = field(default_factory=Count)

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.retries, self.encoders)
        self.actors: dict[str, ray.actor.ActorHandle] = {}
        self.flying: dict[ray.ObjectRef, tuple[Server, Work | str]] = {}
        self.encoded = {name.partition(".")[0] for name in self.target.names(FOLDER)}
        self.hopeless: dict[str, str] = {}  # identities that could not be made, and why
        self.parked: dict[str, Work] = {}  # jobs that wait for an identity, by key
        self.encoding: set[str] = set()
        self.seen: set[str] = set()

    def run(self) -> bool:
        """Do all jobs; return False if no server was left to do them."""
        began = told = seen = published = time.monotonic()
        own = time.process_time()
        jobs, more = iter(self.reader), True
        while True:
            now = time.monotonic()
            self.hire(self.fleet.set_servers(self.servers()))
            while more and len(self.fleet.waiting) + len(self.parked) < self.window():
                job = next(jobs, None)
                more = job is not None
                if job is not None:
                    self.take(job)
            self.send(now)
            if not (more or self.flying or self.fleet.waiting or self.parked):
                break
            self.collect()
            if any(server.answers for server in self.fleet.servers.values()):
                seen = now
            elif now - seen > self.patience:
                break
            if now - told > EVERY:
                told = now
                say(progress(self.count, self.fleet, now - began))
            if now - published > PUBLISHED:
                published = now
                self.publish()
                say(f"by server:\n{table(self.fleet)}")
        self.publish()
        spent = time.process_time() - own
        say(f"by server:\n{table(self.fleet)}")
        say(summary(self.count, time.monotonic() - began, spent))
        return not (more or self.fleet.waiting or self.parked)

    def publish(self) -> None:
        """See to it that the journal is safe, and in the target."""
        self.journal.sync()
        if not self.target.local:
            self.target.put(RESULTS, self.journal.path.read_bytes())

    def window(self) -> int:
        """Return how many jobs may wait here; the rest stays in its file."""
        return AHEAD * DEPTH * max(1, len(self.fleet.servers))

    def hire(self, urls: list[str]) -> None:
        """Start an actor for each new server."""
        for url in urls:
            actor = ray.remote(Worker).options(num_cpus=0, max_concurrency=4 * DEPTH)
            self.actors[url] = actor.remote(url, self.target.address, self.limit)

    def take(self, job: tuple[Work, dict[str, Work]] | BadLine) -> None:
        """Let a job wait for a server, or for its identities; end it if that is all there is."""
        key = job.key if isinstance(job, BadLine) else job[0].key
        if key in self.seen:
            self.count.repeated += 1
            return
        self.seen.add(key)
        if key in self.journal.keys:
            self.count.before += 1
        elif isinstance(job, BadLine):
            self.fail(job, job.error)
        else:
            work, people = job
            for each in people.values():
                known = (self.encoded, self.encoding, self.hopeless)
                if not any(each.key in keys for keys in known):
                    self.encoding.add(each.key)
                    self.fleet.waiting.appendleft(each)
            self.parked[work.key] = work
            self.release(work)

    def release(self, work: Work) -> None:
        """Let a parked job go on if its identities are there, or end it if one never will be."""
        if missing := [key for key in work.needs if key in self.hopeless]:
            del self.parked[work.key]
            self.fail(work, self.hopeless[missing[0]])
        elif work.needs <= self.encoded:
            del self.parked[work.key]
            self.fleet.waiting.append(work)

    def send(self, now: float) -> None:
        """Hand out what can be done now."""
        for server in self.fleet.to_ask(now):
            asked = any(s is server and what == ASKED for s, what in self.flying.values())
            if not asked:
                self.flying[self.actors[server.url].alive.remote()] = server, ASKED
        for server, work in self.fleet.assign(now):
            self.flying[self.actors[server.url].do.remote(work)] = server, work

    def collect(self) -> None:
        """Wait until something ends, and settle all that has."""
        if not self.flying:
            time.sleep(TURN / 10)
            return
        refs = list(self.flying)
        done, _ = ray.wait(refs, num_returns=1, timeout=TURN)
        if done:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in done:
            server, work = self.flying.pop(ref)
            try:
                outcome = ray.get(ref)
            except ray.exceptions.RayActorError as error:
                outcome = self.replace(server, error)
            if work == ASKED:
                server.answers = outcome is True
                if not server.answers:
                    server.fell_ill(time.monotonic())
            elif self.fleet.settle(server, work, outcome, time.monotonic()):
                self.end(server, work, outcome)

    def replace(self, server: Server, error: Exception) -> Outcome:
        """Start another actor for a server whose actor died."""
        say(f"the actor of {server.url} died and is replaced: {error}")
        self.hire([server.url])
        return Outcome(None, "server", f"Its actor died: {error}")

    def end(self, server: Server, work: Work, outcome: Outcome) -> None:
        """Write down how a job ended, or let the jobs of an identity go on."""
        if work.encodes:
            self.encoding.discard(work.key)
            if outcome.fault is None:
                self.count.identities += 1
                self.encoded.add(work.key)
            else:
                self.hopeless[work.key] = outcome.error
            for job in [job for job in self.parked.values() if work.key in job.needs]:
                self.release(job)
        elif outcome.fault is not None:
            self.fail(work, outcome.error, server.url)
        else:
            self.count.done += 1
            line = {"key": work.key, "line": work.line, "id": work.name, "ok": True}
            line |= outcome.made | {"server": server.url, "seconds": round(outcome.seconds, 3)}
            self.journal.add(line | {"attempts": 1 + work.attempts + work.faults})

    def fail(self, work: Work | BadLine, error: str, server: str | None = None) -> None:
        """Write down why a job will not be done."""
        self.count.failed += 1
        line = {"key": work.key, "line": work.line, "id": work.name, "ok": False, "error": error}
        self.journal.add(line | ({"server": server} if server else {}))


def start_ray(address: str | None, paths: list[Path]) -> None:
    """Start Ray here, or join the cluster at ``address``; its workers find modules in ``paths``."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    where = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    environment = {"env_vars": {"PYTHONPATH": where}}
    options = {"log_to_driver": False, "logging_level": "error", "runtime_env": environment}
    if address is None:
        options |= {"include_dashboard": False, "num_cpus": 1, "object_store_memory": 80_000_000}
    ray.init(address, **options)
