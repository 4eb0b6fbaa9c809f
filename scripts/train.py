"""Train a PuLID adapter. docs/training.md says how, with what, and what it takes.

    python scripts/train.py FILE.toml --plan       what it needs of a card; loads nothing
    python scripts/train.py FILE.toml --prepare    look at every picture once
    python scripts/train.py FILE.toml              train
    python scripts/train.py FILE.toml --resume     go on from the last checkpoint

Several cards: python -m torch.distributed.run --nproc-per-node 8 scripts/train.py FILE.toml
Ctrl-C saves and ends; a second one ends at once.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import hosting
from hosting import ROOT

PACK = "pulid_pack"
STOPPED = 130  # the exit code after Ctrl-C


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    options = parse(arguments)
    host = hosting.prepare()
    hosting.run_inside(host, Path(__file__).resolve(), arguments)
    load_host(host)
    logging.basicConfig(level=logging.WARNING, format="[train] %(message)s", force=True)
    logging.getLogger(PACK).setLevel(logging.INFO)  # the host has much to say
    return run(options)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=settings_file, help="the run's settings: examples/micro.toml")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="print memory and time, and end")
    what.add_argument("--prepare", action="store_true", help="make the cache of the pictures")
    what.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--folder", help="in place of the settings' [run] folder")
    return parser.parse_args(arguments)


def settings_file(name: str) -> Path:
    """Return the file of that name, also if it is one of training/examples from anywhere.

    A folder ``examples`` beside the pack's workflows would be taken by ComfyUI for more of them.
    """
    shipped = ROOT / "training" / name
    return shipped if not Path(name).exists() and shipped.is_file() else Path(name)


def load_host(host: hosting.Host) -> None:
    """Put ComfyUI first on the path and the pack's folders below a package."""
    sys.path.insert(0, str(host.path))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    args.use_pytorch_cross_attention = True
    import utils.install_util  # noqa: F401  before the host puts comfy/ itself on the path

    sys.modules[PACK] = ModuleType(PACK)  # without its nodes, which a server is needed for
    sys.modules[PACK].__path__ = [str(ROOT)]


def run(options: argparse.Namespace) -> int:
    """Do it with the pack loaded; errors that say what to do are shown without their trace."""
    from pulid_pack.host_versions import too_old
    from pulid_pack.training.config import read_config
    from pulid_pack.training.loop import Interrupted

    if why := too_old():
        say(why, sys.stderr)
        return 1
    try:
        changed = {"folder": str(Path(options.folder).resolve())} if options.folder else {}
        config = read_config(options.file, **changed)
        if options.plan:
            return plan(config)
        if options.prepare:
            return prepare(config)
        return train(config, options.resume)
    except Interrupted as end:
        say(f"{end}; all is saved. Go on with --resume.")
        return STOPPED
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        logging.getLogger(__name__).debug("where it was raised", exc_info=True)
        say(str(error), sys.stderr)
        return 1


def plan(config) -> int:
    """Print what the run needs."""
    from pulid_pack.training.plan import report

    print(report(config))
    return 0


def open_cache(config, makers):
    """Return the cache of the settings' pictures, open."""
    from pulid_pack.training.cache import Cache
    from pulid_pack.training.prepare import settings_of

    cache = Cache(config.path(config.data.cache))
    cache.open(settings_of(config.data, makers.files()))
    return cache


def prepare(config) -> int:
    """Bring the cache up to date."""
    import torch
    from pulid_pack.training.config import DRAWN
    from pulid_pack.training.prepare import prepare as look_at_all
    from pulid_pack.training.records import list_records
    from pulid_pack.training.studio import FileMakers

    if config.data.source == DRAWN:
        say("drawn people need no preparation")
        return 0
    makers = FileMakers(config)
    entries = list_records(config.path(config.data.source))
    cache = open_cache(config, makers)
    with torch.inference_mode():
        report = look_at_all(entries, cache, makers, config.data, bar())
    say(
        f"{report.kept} pictures to train on, {report.thrown_out} left out; {report.looked_at} "
        f"looked at and {report.texts} captions encoded now. The cache is {cache.folder}."
    )
    if report.thrown_out:
        say("thrown_out.txt and thrown_out_1.jpg there show what was left out and why")
    return 0


def bar() -> Callable[[int, int, str], None]:
    """Return what shows how far the pictures are."""
    from tqdm import tqdm

    shown: dict[str, tqdm] = {}

    def progress(done: int, total: int, what: str) -> None:
        line = shown.setdefault(what, tqdm(total=total, desc=what, disable=None))
        line.update(done - line.n)
        if done == total:
            line.close()

    return progress


def train(config, resume: bool) -> int:
    """Train, alone or as one of several processes."""
    from pulid_pack.training import distributed
    from pulid_pack.training.folder import own_folder

    device = own_device()
    with distributed.group(device, config.digest()) as group:
        if not group.leads:
            logging.getLogger(PACK).setLevel(logging.WARNING)
            return train_in(config, group, resume)
        with own_folder(config.folder):
            return train_in(config, group, resume)


def train_in(config, group, resume: bool) -> int:
    """Load everything and train."""
    import torch
    from pulid_pack.training import loop, studio
    from pulid_pack.training.config import DRAWN
    from pulid_pack.training.dataset import from_cache

    if config.model.base == DRAWN:
        from pulid_pack.micro_world import drawn

        made = drawn.make(config)
        models, pictures = made.models, made.pictures
    else:
        cache = open_cache(config, studio.FileMakers(config))
        pictures = from_cache(cache, config.data.held_out, config.run.seed)
        models = studio.load_models(config)
    say(f"{len(pictures.train)} pictures to train on, {len(pictures.held_out)} held out")
    with torch.inference_mode(False):
        adapter = studio.make_adapter(config, models, pictures, resume)
        file = loop.train(config, models, pictures, adapter, group, resume, asked_to_stop())
    if group.leads:
        say(
            f"{file} is ready: put it into ComfyUI's models/pulid and choose it in Load PuLID Model"
        )
    return 0


def own_device():
    """Return this process's device; of several cards the one with its local rank."""
    import os

    import comfy.model_management
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return comfy.model_management.get_torch_device()


def asked_to_stop() -> Callable[[], bool]:
    """Return what says whether Ctrl-C, or a termination signal, has come."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        asked.append(number)
        signal.signal(number, signal.SIG_DFL)  # the next one ends the process
        say("stopping after this step; once more to end at once")

    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), note)
    return lambda: bool(asked)


def say(text: str, where=None) -> None:
    """Tell the person at the terminal."""
    print(f"[train] {text}", file=where or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
