"""Lines of ``jobs.jsonl`` become work: prompts, and the files they need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pulid_client import workflows
from pulid_client.identities import LOAD, Inputs, take_out
from pulid_client.uploads import IDENTITIES, hashed_name
from pulid_client.workflows import PLACES, Prompt, copied, node_titled

from .target import read

FIELDS = {"id", "workflow", "settings", *PLACES}


@dataclass(frozen=True)
class File:
    """A file that a prompt names: where it is, its name on a server, and the folder there."""

    path: str
    name: str
    subfolder: str = ""


@dataclass
class Work:
    """One thing for one server: encode an identity, or make a job's pictures.

    key: of the identity or the job; line: of the job in its file, 0 for an identity; needs: keys
    of identities; attempts: how often it failed for reasons of its own, and faults for its
    servers'; tried: addresses where it failed.
    """

    key: str
    prompt: Prompt
    files: tuple[File, ...] = ()
    line: int = 0
    name: str = ""
    needs: frozenset[str] = frozenset()
    output: str = ""
    attempts: int = 0
    faults: int = 0
    tried: set[str] = field(default_factory=set)

    @property
    def encodes(self) -> bool:
        """Return whether this makes an identity."""
        return not self.line


@dataclass(frozen=True)
class BadLine:
    """A line that cannot become work, and why."""

    key: str
    line: int
    name: str
    error: str


class Reader:
    """Reads jobs one by one, so that a file of any length takes no more memory than a short one."""

    def __init__(self, path: Path, shipped: Mapping[str, Prompt], known: Inputs):
        """Read ``path``. shipped: the pack's workflows by name; known: see ``take_out``."""
        self.path = path
        self.folder = path.parent
        self.shipped = shipped
        self.known = known
        self.names: dict[str, tuple[tuple, str]] = {}  # path -> (size and time, name on a server)
        self.files: dict[str, Prompt] = {}

    def __iter__(self) -> Iterator[tuple[Work, dict[str, Work]] | BadLine]:
        """Yield each job with the work that encodes its identities, by key; or what is wrong."""
        with self.path.open(encoding="utf-8") as lines:
            for number, text in enumerate(lines, 1):
                if not text.strip():
                    continue
                try:
                    spec = json.loads(text)
                    if not isinstance(spec, dict):
                        raise ValueError("it is not a JSON object.")
                    yield self.work(number, spec)
                except (ValueError, OSError, KeyError, TypeError) as error:
                    key = hashlib.sha256(text.strip().encode()).hexdigest()[:32]
                    yield BadLine(key, number, name_of(text), f"Line {number}: {error}")

    def work(self, number: int, spec: dict) -> tuple[Work, dict[str, Work]]:
        """Return a job's work and that of its identities; ValueError, OSError if it is wrong."""
        if unknown := sorted(set(spec) - FIELDS):
            known = ", ".join(sorted(FIELDS))
            raise ValueError(f"it has the unknown {', '.join(unknown)}; known are {known}.")
        prompt, files = self.prompt(spec)
        output = node_titled(prompt, workflows.SAVE)
        plain = {
            node: [entry["class_type"], entry["inputs"]] for node, entry in sorted(prompt.items())
        }
        content = json.dumps([spec.get("id"), plain], sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()[:32]
        prompt, encodings = take_out(prompt, self.known)
        made = {each: Work(each, p, files_of(p, files)) for each, p in encodings.items()}
        needs = frozenset(encodings)
        name = str(spec.get("id") or "")
        job = Work(key, prompt, files_of(prompt, files), number, name, needs, output)
        return job, made

    def prompt(self, spec: dict) -> tuple[Prompt, dict[str, File]]:
        """Return a job's prompt and its files by their name on a server."""
        prompt = self.workflow(spec.get("workflow"))
        named = {name: spec.get(name) for name in PLACES}
        settings = {**workflows.places(prompt, named), **(spec.get("settings") or {})}
        files: dict[str, File] = {}
        for where, value in settings.items():
            given = isinstance(value, Mapping) and value.get("file")
            photo = where in workflows.places(prompt, {"photo": named["photo"]})
            if given or photo:
                node = prompt[node_titled(prompt, where.rpartition(".")[0])]
                folder = IDENTITIES if node["class_type"] == LOAD else ""
                file = self.file(given or value, folder)
                files[file.name] = file
                settings[where] = file.name
        workflows.set_inputs(prompt, settings)
        return prompt, files

    def workflow(self, name: Any) -> Prompt:
        """Return a workflow of the pack's, or of a file beside the jobs, to change."""
        if name in self.shipped:
            return copied(self.shipped[name])
        if isinstance(name, str) and name.endswith(".json"):
            if name not in self.files:
                self.files[name] = json.loads((self.folder / name).read_text("utf-8"))
            return copied(self.files[name])
        raise ValueError(f"no workflow {name!r}.{workflows.similar(str(name), self.shipped)}")

    def file(self, path: str, subfolder: str) -> File:
        """Return a file with a name made from its content, which is read once."""
        stamp: tuple = ()
        if "://" not in path:
            status = (self.folder / path).stat()
            stamp = (status.st_size, status.st_mtime_ns)
        known = self.names.get(path)
        if known is None or known[0] != stamp:
            known = stamp, hashed_name(path, read(path, self.folder))
            self.names[path] = known
        where = path if "://" in path else str((self.folder / path).resolve())
        return File(where, known[1], subfolder)


def files_of(prompt: Prompt, files: Mapping[str, File]) -> tuple[File, ...]:
    """Return the files that a prompt names."""
    values = {v for n in prompt.values() for v in n["inputs"].values() if isinstance(v, str)}
    return tuple(file for name, file in files.items() if name in values)


def name_of(text: str) -> str:
    """Return the id that a line gives itself, if it can be read."""
    try:
        return str(json.loads(text).get("id") or "")
    except (ValueError, AttributeError):
        return ""
