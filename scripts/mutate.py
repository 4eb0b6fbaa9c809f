"""Change the method's code in one place at a time and see whether its fast tests notice.

    python scripts/mutate.py                                  300 mutants, drawn with a fixed seed
    python scripts/mutate.py --jobs 4 --count 1000 --seed 7
    python scripts/mutate.py --file identity/window.py

The changes are cosmic-ray's (``pip install -r requirements-tools.txt`` into the host's
environment). ComfyUI and torch are imported once; then a child is forked for each mutant, which
runs pytest on a copy of the pack. Results go to ``output/mutants.json`` and ``output/mutants.md``.
It is no part of CI, and needs ``os.fork``: Linux or macOS. Exits with 1 where fewer than 90 % die.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import hosting
from mutants import FILES, Mutant, Result, draw, reason_of, table

ROOT = hosting.ROOT
GOAL = 0.9
LEAST_S, TIMES = 60.0, 10  # a mutant that takes longer than both hangs
# What the tests import beside the pack: paid once here, and not by each child.
HEAVY = (
    "_pytest.assertion.rewrite hypothesis PIL.Image safetensors.torch onnx onnxruntime cv2",
    "skimage.data timm open_clip insightface.app insightface.app.common insightface.model_zoo",
    "facexlib.detection.retinaface facexlib.parsing.bisenet comfy.sd comfy.samplers comfy.sample",
    "comfy.model_base comfy.supported_models comfy.ldm.flux.model comfy_api.latest folder_paths",
    "nodes comfy_extras.nodes_model_advanced comfy_extras.nodes_custom_sampler server",
)


def import_once() -> None:
    """Import ComfyUI as tests/real_host.py does, and what the tests need, but not the pack."""
    host = hosting.prepare()
    hosting.run_inside(host, Path(__file__).resolve(), sys.argv[1:])
    # the copies have no .host/ of their own
    os.environ.update(COMFYUI_PATH=str(host.path), COMFYUI_PYTHON=str(host.python))
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # as encoders/packages.py imports insightface
    sys.path[0] = str(host.path)
    options = importlib.import_module("comfy.options")
    options.enable_args_parsing(False)
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)  # threads do not survive a fork
    args = importlib.import_module("comfy.cli_args").args
    args.cpu, args.use_pytorch_cross_attention = True, True
    importlib.import_module("utils.install_util")
    for name in " ".join(HEAVY).split():
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"{name} is imported by every child: {error}")


def copy_tree(folder: Path) -> Path:
    """Copy the pack without what git leaves out; symlinks and compiled files stay behind."""
    ignored = shutil.ignore_patterns(".git", ".host", "output", "__pycache__", ".*_cache")
    return Path(shutil.copytree(ROOT, folder / "copy", ignore=ignored))


def run_tests(tree: Path, source: str, log: Path, compiled: bool) -> int:
    """Fork a child that runs the tests of ``source`` in ``tree``; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()  # a session of its own, so that what it starts can be ended with it
        with log.open("wb") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        os.chdir(tree)
        sys.dont_write_bytecode = not compiled
        files, wanted = FILES[source]
        options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=1"]
        names = [f"tests/{name}" for name in files.split()]
        pytest = importlib.import_module("pytest")
        code = int(pytest.main([*options, *names, "-k", wanted]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid: int, limit: float) -> int | None:
    """Return the exit code of a child, None if it ran into the time limit."""
    end, done = time.monotonic() + limit, 0
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        return None
    finally:
        if not done:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def baseline(tree: Path, source: str) -> float:
    """Run a file's tests on the unchanged pack; return the seconds they take.

    Raises RuntimeError if they fail there, since every mutant would seem to die.
    """
    start, log = time.monotonic(), tree.parent / "log"
    code = wait(run_tests(tree, source, log, compiled=True), 900)
    if code != 0:
        raise RuntimeError(f"The tests of {source} fail without a change:\n{log.read_text()}")
    return time.monotonic() - start


def judge(mutant: Mutant, tree: Path, limit: float) -> Result:
    """Write the mutant into ``tree``, run its tests and put the file back."""
    path = tree / mutant.file
    original = path.read_text(encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()
    path.write_text(mutant.code, encoding="utf-8")
    start = time.monotonic()
    code = wait(run_tests(tree, mutant.file, tree.parent / "log", compiled=False), limit)
    path.write_text(original, encoding="utf-8")
    how = {None: "time limit", 0: "survived"}.get(code, "killed")
    return Result(mutant, how, time.monotonic() - start)


def worker(files: Sequence[Sequence[Mutant]], folder: Path, pipe: int) -> None:
    """Judge the mutants of whole files, each a line of JSON in ``pipe``."""
    tree = copy_tree(folder)
    for mutants in files:
        seconds = baseline(tree, mutants[0].file)
        print(f"{mutants[0].file}: its tests take {seconds:.1f} s", flush=True)
        for mutant in mutants:
            result = judge(mutant, tree, max(LEAST_S, TIMES * seconds))
            line = json.dumps([result.how, result.seconds, mutant.number])
            os.write(pipe, line.encode() + b"\n")  # short lines are written whole


def deal(mutants: Sequence[Mutant], jobs: int) -> list[list[list[Mutant]]]:
    """Deal the mutants to ``jobs`` workers, a file always to one: its tests are timed once."""
    by_file: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_file.setdefault(mutant.file, []).append(mutant)
    hands: list[list[list[Mutant]]] = [[] for _ in range(jobs)]
    for own in by_file.values():
        min(hands, key=lambda hand: sum(map(len, hand))).append(own)
    return [hand for hand in hands if hand]


def judge_all(mutants: Sequence[Mutant], jobs: int) -> Iterator[Result]:
    """Judge ``mutants`` in ``jobs`` processes, each with a copy of the pack of its own."""
    by_number = {m.number: m for m in mutants}
    workers: set[int] = set()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        reading, writing = os.pipe()
        try:
            for hand in deal(mutants, jobs):
                folder = Path(tempfile.mkdtemp(dir=scratch))
                pid = os.fork()
                if not pid:
                    os.close(reading)  # so that writing fails when the parent is gone
                    work(hand, folder, writing)
                workers.add(pid)
            os.close(writing)
            with os.fdopen(reading) as lines:
                for line in lines:
                    how, took, number = json.loads(line)
                    mutant = by_number[number]
                    yield Result(mutant, how, took, reason_of(mutant) if how == "survived" else "")
            for pid in list(workers):
                workers.remove(pid)
                if os.waitpid(pid, 0)[1]:
                    raise RuntimeError("A worker has stopped; its message stands above.")
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)


def work(hand: Sequence[Sequence[Mutant]], folder: Path, pipe: int) -> NoReturn:
    """Be a worker process, and never return into the code of the parent."""
    code = 1
    try:
        worker(hand, folder, pipe)
        code = 0
    except BaseException:  # it is told here, where it can still be seen
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def main() -> int:
    """Draw, judge, write the tables; return 1 where fewer than the goal die."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--file", choices=FILES, action="append", help="this file alone")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # workers and copies go with it
    import_once()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mutant's odd comparison is no news
        mutants = draw(ROOT, options.file or list(FILES), options.count, options.seed)
    (ROOT / "output").mkdir(exist_ok=True)
    results: list[Result] = []
    for r in judge_all(mutants, options.jobs):
        results.append(r)
        m = r.mutant
        print(
            f"{len(results)}/{len(mutants)} {r.how} {r.seconds:.1f} s {m.file}:{m.line} "
            f"{m.operator}",
            flush=True,
        )
        rows = [{**asdict(one), "mutant": one.mutant.row()} for one in results]
        (ROOT / "output" / "mutants.json").write_text(json.dumps(rows, indent=1))
        (ROOT / "output" / "mutants.md").write_text(table(ROOT, results, options.seed))
    print(table(ROOT, results, options.seed))
    dead = sum(r.how != "survived" for r in results)
    return int(dead < GOAL * len(results))


if __name__ == "__main__":
    sys.exit(main())
