"""Which setting for this photo and this prompt? Render them all, measure, and see it in a picture.

    python scripts/sweep.py flux_pulid_basic --photo me.jpg --seeds 1,2,3 \\
        --vary weight=0.6,0.8,1 --vary start_at=0,0.1,0.2 --server http://127.0.0.1:8188

Takes any workflow in API form that applies one identity, and any ComfyUI that has the pack; without
--server it starts one, with small stand-in models unless --models names real ones or --drawn asks
for drawn people, whose trained small models come with the repository. The result
folder gets the pictures, results.csv and .json, a grid, a plot of likeness against disruption with
the recommended setting, and report.html, one file to open or send. Ctrl-C, a dead server or a lost
machine lose nothing: the same command goes on where it stopped. What it needs besides ComfyUI:

    python -m pip install -r requirements-tools.txt
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hosting
from hosting import ROOT
from sweeping.options import parse_arguments, wish_of

STAND_INS = ROOT / "tests" / "standins"
NEEDED = "python -m pip install -r requirements-tools.txt"


def main() -> int:
    """Run the sweep; return the exit code."""
    options = parse_arguments(__doc__.splitlines()[0], sys.argv[1:])
    if options.server is None:
        host = hosting.prepare()
        hosting.run_inside(host, Path(__file__).resolve(), sys.argv[1:])
    try:  # inside the host's interpreter from here on
        import matplotlib  # noqa: F401  said now, not after hours of rendering
        from pulid_client import NodeFailed, PromptRefused, ServerError, ServerGone
        from sweeping.page import report
    except ImportError as error:
        return fail(f"{error}. What the sweep needs:\n    {NEEDED}")
    from sweeping.folder import Folder

    folder = Folder(options.output)
    done: Counter = Counter()
    again = "The same command goes on from here."
    try:
        with server_of(options, folder) as url:
            cells, names = asyncio.run(work(url, options, folder, done))
        best = report(cells, names, folder, Path(options.workflow).stem, options.against)
    except (ServerGone, TimeoutError) as error:
        return fail(f"{error}\n[sweep] {kept(done)}{again}")
    except (ValueError, OSError, NodeFailed, PromptRefused, ServerError, RuntimeError) as error:
        return fail(f"{error}\n[sweep] {kept(done)}" if done else str(error))
    except KeyboardInterrupt:
        return fail(f"stopped. {kept(done)}{again}", 130)
    say(f"recommended: {best.name}" if best else "no face was found in any picture")
    say(f"{options.output / 'report.html'} written; new: {summary(done)}")
    return 0


@contextlib.contextmanager
def server_of(options: argparse.Namespace, folder: Any) -> Iterator[str]:
    """Yield the address of the server asked for; one of its own is ended afterwards."""
    if options.server is not None:
        yield options.server
        return
    from serving import Server
    from sweeping.servers import own_server

    models, packs = options.models, []
    if options.drawn:
        import drawn_world

        models, packs = drawn_world.models(), [drawn_world.PACK]
        drawn_world.settle(options)
    elif options.stand_ins:
        say("preparing stand-in models (random weights): the numbers mean nothing")
        sys.path.insert(0, str(ROOT / "tests"))
        from standins.sdxl_files import prepare_sdxl_models  # with FLUX's

        models = prepare_sdxl_models()
        packs = [STAND_INS / "text_encoder_pack", STAND_INS / "small_sdxl_pack"]
    host = hosting.prepare()
    say("starting ComfyUI")
    with own_server(folder.path, lambda: Server(host, models, packs)) as url:
        say(f"ComfyUI answers at {url}")
        yield url


async def work(
    url: str, options: argparse.Namespace, folder: Any, done: Counter
) -> tuple[list[Any], list[str]]:
    """Do what is left of the sweep; return its cells and the names of what varies."""
    from pulid_client import Client
    from sweeping.plan import plan
    from sweeping.work import Worker, left
    from tqdm import tqdm

    wish = wish_of(options)
    async with Client(url, patience=options.patience) as comfy:
        cells = plan(wish, await comfy.object_info())
        total, todo = len(left(cells, None)), left(cells, folder)
        say(f"{len(cells)} pictures to measure, {len(todo)} of {total} steps left")
        with tqdm(total=total, initial=total - len(todo), unit="step", smoothing=0.1) as bar:

            def tell(kind: str) -> None:
                done[kind] += 1
                bar.set_description(kind, refresh=False)
                bar.update()

            await Worker(comfy, wish, folder, options.limit).do(todo, tell)
    return cells, list(wish.vary)


def kept(done: Counter) -> str:
    """Say what was done before the end."""
    return f"Done until then: {summary(done)}. " if done else ""


def summary(done: Counter) -> str:
    """Return how much was newly done."""
    return f"{done['encode']} encoded, {done['render']} rendered, {done['measure']} measured"


def fail(message: str, code: int = 1) -> int:
    """Say what went wrong; return the exit code."""
    print(f"[sweep] {message}", file=sys.stderr, flush=True)
    return code


def say(text: str) -> None:
    """Tell the person at the terminal what is going on."""
    print(f"[sweep] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
