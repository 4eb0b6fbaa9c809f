"""Run a real ComfyUI server with this pack for the demo, the tests and the bench, and talk to it.

    with Server(host, models) as server:
        result = server.queue(prompt)

The server has a folder of its own for everything it writes, listens on a free port of this
machine only, and is ended by its process id on every way out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import hosting
from blocking import Blocking
from hosting import ROOT, Host
from pulid_client import OnEvent, Result

PACK_NAME = "pulid-flux-native"
NOT_THE_PACK = (".*", "bench", "client", "output", "tests", "__pycache__")
START_LIMIT = 180.0  # seconds; about 12 on two cores
STOP_LIMIT = 10.0
LOG_TAIL = 4000  # characters of the server's log shown with an error


class Server(Blocking):
    """A ComfyUI process with this pack, as a context manager, and the client for it."""

    def __init__(
        self,
        host: Host,
        models: Path | None = None,
        packs: Sequence[Path] = (),
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ):
        """Describe the server.

        models: a ComfyUI models folder, searched besides the server's own empty one; packs:
        further custom node packs; arguments and environment: additions for the process.
        """
        super().__init__(f"http://127.0.0.1:{free_port()}")
        self.host = host
        self.models = models
        self.packs = {PACK_NAME: ROOT} | {pack.name: pack for pack in packs}
        self.arguments = list(arguments)
        self.environment = hosting.sharing()
        self.environment |= {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", **(environment or {})}
        self.process: subprocess.Popen | None = None
        self.old_handlers: dict[int, object] = {}

    def __enter__(self) -> Server:
        """Start the server and wait until it answers; raise RuntimeError if it does not."""
        self.base = Path(tempfile.mkdtemp(prefix="comfyui-"))
        self.log = self.base / "server.log"
        try:
            self.catch_signals()
            self.place_packs()
            self.place_pictures()
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process and remove its folder."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)
        self.old_handlers.clear()
        self.remove_packs()
        shutil.rmtree(self.base, ignore_errors=True)

    def catch_signals(self) -> None:
        """Turn a termination signal into SystemExit, so that ``__exit__`` runs."""

        def leave(number: int, frame: FrameType | None) -> None:
            raise SystemExit(128 + number)

        for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None:
                try:
                    self.old_handlers[number] = signal.signal(number, leave)
                except ValueError:  # not the main thread: signals are somebody else's
                    return

    def place_packs(self) -> None:
        """Link the packs into ``custom_nodes``; copy them where links are not allowed."""
        folder = self.base / "custom_nodes"
        folder.mkdir()
        for name, source in self.packs.items():
            try:
                (folder / name).symlink_to(source, target_is_directory=True)
            except OSError:
                ignore = shutil.ignore_patterns(*NOT_THE_PACK)
                shutil.copytree(source, folder / name, ignore=ignore)

    def place_pictures(self) -> None:
        """Copy the pictures that a fresh ComfyUI has in ``input``."""
        if (shipped := self.host.path / "input").is_dir():
            shutil.copytree(shipped, self.base / "input")

    def remove_packs(self) -> None:
        """Remove the links themselves first, so that no clean-up ever follows one."""
        for name in self.packs:
            entry = self.base / "custom_nodes" / name
            if entry.is_symlink():
                entry.unlink()

    def start(self) -> None:
        """Start ``main.py`` on a free port, its output in ``server.log``."""
        command = [str(self.host.python), str(self.host.path / "main.py")]
        command += ["--base-directory", str(self.base), "--listen", "127.0.0.1"]
        command += [
            "--port",
            self.url.rpartition(":")[2],
            "--disable-auto-launch",
            "--disable-api-nodes",
        ]
        command += ["--database-url", "sqlite:///:memory:", "--disable-all-custom-nodes"]
        command += ["--whitelist-custom-nodes", *self.packs]
        if self.models is not None:
            command += ["--extra-model-paths-config", str(self.write_model_paths())]
        if not has_accelerator():
            command.append("--cpu")
        groups = {"start_new_session": True}  # a Ctrl-C at the terminal is for us alone
        if os.name == "nt":
            groups = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.base,
                env=self.environment,
                **groups,
            )

    def write_model_paths(self) -> Path:
        """Write an ``extra_model_paths.yaml`` that names every folder of ``models``."""
        if not self.models.is_dir():
            raise FileNotFoundError(f"There is no models folder {self.models}.")
        kinds = sorted(entry.name for entry in self.models.iterdir() if entry.is_dir())
        base = {"base_path": str(self.models.resolve())}
        path = self.base / "extra_model_paths.yaml"  # JSON is YAML
        path.write_text(json.dumps({"models": base | {k: k for k in kinds}}), encoding="utf-8")
        return path

    def wait_until_ready(self) -> None:
        """Wait for the first answer, then look in the log for packs that failed to import."""
        deadline = time.monotonic() + START_LIMIT
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self.process.returncode}.{self.tail()}")
            try:
                self.get("/system_stats")
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    message = f"ComfyUI did not answer within {START_LIMIT:.0f} s ({error})."
                    raise RuntimeError(message + self.tail()) from error
            time.sleep(0.2)
        names = "|".join(re.escape(name) for name in self.packs)
        log = self.log.read_text(encoding="utf-8", errors="replace")
        if failed := re.search(rf"IMPORT FAILED.*[\\/]({names})\b", log):
            before = log[: failed.end()][-LOG_TAIL:]  # some hosts go on with much else
            message = f"ComfyUI could not import {failed[1]}. Its log until then:\n"
            raise RuntimeError(message + before)

    def queue(
        self, prompt: Mapping[str, dict], on_event: OnEvent | None = None, limit: float = 600.0
    ) -> Result:
        """Run ``prompt`` as ``Blocking.queue`` does; a dead server is shown with its log."""
        try:
            return super().queue(prompt, on_event, limit)
        except TimeoutError:
            raise
        except OSError as error:
            raise RuntimeError(f"ComfyUI went away ({error}).{self.tail()}") from error

    def tail(self) -> str:
        """Return the end of the log, for an error message."""
        log = self.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
        return f" The end of its log:\n{log}"


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_accelerator() -> bool:
    """Return whether ComfyUI will find a GPU here; without one it has to be told so."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()
