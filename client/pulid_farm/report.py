"""What the person at the terminal is told: progress, throughput, failures, for each server."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from .fleet import Fleet, Server

EVERY = 5.0  # seconds between two lines of progress


@dataclass
class Count:
    """Jobs of this run by what became of them; before: those that had ended in an earlier run."""

    done: int = 0
    failed: int = 0
    before: int = 0
    repeated: int = 0
    identities: int = 0


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(f"[farm] {text}", file=sys.stderr, flush=True)


def progress(count: Count, fleet: Fleet, seconds: float) -> str:
    """Return one line on how it goes."""
    servers = fleet.servers.values()
    up = sum(server.answers and not server.leaving for server in servers)
    rate = count.done / seconds if seconds else 0.0
    text = f"{count.done} done, {count.failed} failed, {rate:.2f} a second, {up} servers up"
    down = [server.url for server in servers if not server.answers and not server.leaving]
    return text + (f", not {', '.join(down)}" if down else "")


def table(fleet: Fleet) -> str:
    """Return a table with a row for each server."""
    head = f"{'server':<32} {'done':>6} {'failed':>6} {'faults':>6} {'a minute':>9} {'busy':>5}"
    return "\n".join([head, *(row(server) for server in fleet.servers.values())])


def row(server: Server) -> str:
    """Return a server's row; busy: the share of running prompts, from its first to its last."""
    span = max(server.last - (server.first or 0.0), 1e-9)
    rate, busy = 60 * server.done / span, 100 * server.busy / span
    return (
        f"{server.url:<32} {server.done:>6} {server.failed:>6} {server.all_faults:>6} "
        f"{rate:>9.1f} {busy:>4.0f}%"
    )


def summary(count: Count, seconds: float, own: float) -> str:
    """Return the last line; own: CPU seconds of the driver."""
    ended = count.done + count.failed
    text = f"{count.done} done, {count.failed} failed"
    text += f", {count.before} ended before" if count.before else ""
    text += f", {count.repeated} lines said the same again" if count.repeated else ""
    text += f"; {count.identities} identities encoded" if count.identities else ""
    cost = f"; the driver took {1000 * own / ended:.1f} ms for each" if ended else ""
    return f"{text}; {seconds:.1f} s{cost}"
