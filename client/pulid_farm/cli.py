"""The farm's command line: ``python -m pulid_farm``, and ``scripts/farm.py`` in a checkout."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pulid_client
from pulid_client import Client, Prompt, ServerError, ServerGone
from pulid_client.identities import Inputs

from .jobs import Reader
from .journal import RESULTS, Journal
from .report import say
from .target import Target

# what starts N servers of one's own with this models folder, and gives their addresses
Local = Callable[[int, Path | None], AbstractContextManager[list[str]]]


def main(arguments: Sequence[str], local: Local | None = None) -> int:
    """Run the farm; return 0: all have pictures, 1: some have errors, 2: some are left."""
    options = parse(arguments, local)
    try:
        with contextlib.ExitStack() as stack:
            own: list[str] = []
            if options.local:
                own = stack.enter_context(local(options.local, options.models))
            given = own + options.servers + options.encoders
            return farm(options, lambda: given + listed(options.servers_file))
    except (ServerGone, RuntimeError, OSError, ValueError) as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 2


def parse(arguments: Sequence[str], local: Local | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="farm", description=__doc__.splitlines()[0])
    parser.add_argument("jobs", type=Path, help="a file with a job in JSON on each line")
    parser.add_argument("--servers", nargs="+", default=[], metavar="URL", help="of ComfyUI")
    parser.add_argument(
        "--servers-file", type=Path, help="with an address on each line; read again all the time"
    )
    parser.add_argument(
        "--encoders", nargs="+", default=[], metavar="URL", help="that encode, and do nothing else"
    )
    parser.add_argument("--target", help="folder or fsspec address (default: JOBS.out)")
    parser.add_argument("--retries", type=int, default=2, help="of a job that fails (default: 2)")
    parser.add_argument("--again", action="store_true", help="do jobs that ended in an error anew")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one job")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds without any server")
    parser.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster (default: Ray here)")
    parser.set_defaults(local=0, models=None)
    if local is not None:
        parser.add_argument("--local", type=int, metavar="N", help="start N servers here")
        parser.add_argument("--models", type=Path, help="the models folder of --local's servers")
    options = parser.parse_args(arguments)
    if not (options.servers or options.servers_file or options.local):
        parser.error("there is no server: give --servers or --servers-file")
    if not options.jobs.is_file():
        parser.error(f"there is no {options.jobs}")
    options.target = options.target or f"{options.jobs}.out"
    return options


def listed(path: Path | None) -> list[str]:
    """Return the addresses in a file: a line each, none for a file that is not there yet."""
    if path is None or not path.is_file():
        return []
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def farm(options: argparse.Namespace, servers: Callable[[], list[str]]) -> int:
    """Do the jobs with the servers that ``servers`` gives whenever it is asked."""
    from .driver import Driver, start_ray  # Ray takes a second to import

    target = Target(options.target)
    journal = Journal(journal_path(options.jobs, target), to_keep(target, options.again))
    try:
        names = workflow_names(options.jobs)
        shipped, known = asyncio.run(ask(servers, names, options.patience))
        start_ray(options.ray, [Path(pulid_client.__file__).parents[1]])
        reader = Reader(options.jobs, shipped, known)
        limits = options.retries, options.limit, options.patience
        driver = Driver(reader, target, journal, servers, *limits, options.encoders)
        say(f"results in {journal.path}, pictures in {target.address}")
        if not driver.run():
            say("some jobs are left, and no server; the same command goes on from here")
            return 2
        return 1 if journal.failed else 0
    finally:
        journal.close()


def journal_path(jobs: Path, target: Target) -> Path:
    """Return where the journal is: in the target if that is a folder, else beside the jobs.

    One that another machine has published in the target is fetched first.
    """
    if target.local:
        return Path(target.path(RESULTS))
    path = jobs.with_name(f"{jobs.name}.{RESULTS}")
    if not path.exists() and RESULTS in target.names():
        path.write_bytes(target.get(RESULTS))
    return path


def to_keep(target: Target, again: bool) -> Callable[[dict], bool]:
    """Return what tells whether a line of an earlier run still holds."""
    there = target.names()

    def keep(line: dict) -> bool:
        return all(p in there for p in line["pictures"]) if line.get("ok") else not again

    return keep


def workflow_names(jobs: Path) -> set[str]:
    """Return the names of the pack's workflows that the jobs ask for."""
    names = set()
    with jobs.open(encoding="utf-8") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, AttributeError, TypeError):
                names.add(str(json.loads(line).get("workflow")))
    return {name for name in names if not name.endswith(".json")}


async def ask(
    servers: Callable[[], list[str]], names: set[str], patience: float
) -> tuple[dict[str, Prompt], Inputs]:
    """Return workflows and the inputs of the pack's nodes, of the first server that answers."""
    deadline = time.monotonic() + patience
    while True:
        reasons = []
        for url in servers():
            try:
                async with Client(url, patience=0.0) as client:
                    shipped = {}
                    for name in names:
                        with contextlib.suppress(ValueError):  # the job's line will say so
                            shipped[name] = await client.workflow(name)
                    return shipped, await client.identity_inputs()
            except (ServerGone, ServerError, KeyError) as error:
                reasons.append(f"{url}: {error}")
        if time.monotonic() > deadline:
            raise RuntimeError("No server with PuLID-Flux Native answers.\n" + "\n".join(reasons))
        await asyncio.sleep(1.0)
