"""The pictures of a training set and their captions, as they lie on the disk.

A folder of pictures with a .txt beside each; a file of JSON lines; or WebDataset's tar shards. Only
names are read here, so that a million pictures are listed in minutes.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
KINDS = "a folder of pictures, a .jsonl file, or a folder of WebDataset's .tar shards"
NO_NAME, TWICE = "no picture is named", "the name stands for another picture already"


@dataclass(frozen=True)
class Record:
    """One picture of the set: where its bytes are, and what is said about it."""

    name: str  # below the source, as messages and lists call it
    file: Path
    caption: str = ""
    person: str = ""  # pictures of one person stay on one side of the split; "": its own
    offset: int = 0  # of the bytes in the file
    size: int | None = None  # number of bytes; None: the whole file

    def read(self) -> bytes:
        """Return the picture's file as bytes."""
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.size is None else self.size)

    def stamp(self) -> str:
        """Return what changes with the picture's bytes, without reading them."""
        status = self.file.stat()
        return f"{status.st_size}:{status.st_mtime_ns}:{self.offset}:{self.size or 0}"


@dataclass(frozen=True)
class Refused:
    """An entry of the set that is no picture to train on, and why."""

    name: str
    reason: str


def list_records(source: Path) -> tuple[list[Record], list[Refused]]:
    """Return the pictures of ``source`` in a fixed order, and the entries that are none.

    Two entries of one name: the first is taken. Raises FileNotFoundError if there is no such
    source, ValueError if it holds no picture.
    """
    if not source.exists():
        raise FileNotFoundError(f"There are no training pictures at {source}. Expected {KINDS}.")
    reader = from_folder
    if source.is_file():
        reader = from_lines
    elif any(source.glob("*.tar")):
        reader = from_shards
    records: dict[str, Record] = {}
    refused: list[Refused] = []
    for one in reader(source):
        if isinstance(one, Record) and one.name in records:
            known = records[one.name].file.name
            one = Refused(f"{one.name} ({one.file.name})", f"{TWICE} ({known})")
        if isinstance(one, Refused):
            refused.append(one)
        else:
            records[one.name] = one
    if not records:
        why = f" ({refused[0].name}: {refused[0].reason})" if refused else ""
        raise ValueError(f"{source} holds no picture to train on{why}. Expected {KINDS}.")
    return list(records.values()), refused


def from_folder(source: Path) -> Iterator[Record | Refused]:
    """Yield the pictures below a folder, in the order of their names.

    The name is without its ending: a picture and its caption are one entry, and a.jpg beside a.png
    would share one caption.
    """
    for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES):
        text = path.with_suffix(".txt")
        caption = read_text(text) if text.is_file() else ""
        name = path.relative_to(source).with_suffix("").as_posix()
        yield Record(name, path, caption)


def from_lines(source: Path) -> Iterator[Record | Refused]:
    """Yield what a file of JSON lines names: image (or file_name), caption (or text), person."""
    for number, line in enumerate(read_text(source).splitlines(), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            yield Refused(where, f"not JSON ({error})")
            continue
        image = isinstance(values, dict) and (values.get("image") or values.get("file_name"))
        if not image or not isinstance(image, str):
            yield Refused(where, f"{NO_NAME} under image or file_name")
            continue
        path = source.parent / image
        if not path.is_file():
            yield Refused(image, "the file does not exist")
            continue
        caption = values.get("caption") or values.get("text") or ""
        yield Record(image, path, str(caption).strip(), str(values.get("person") or ""))


def from_shards(source: Path) -> Iterator[Record | Refused]:
    """Yield the pictures of WebDataset's shards: KEY.jpg, KEY.txt and KEY.json stand together."""
    for shard in sorted(source.glob("*.tar")):
        try:
            with tarfile.open(shard) as archive:
                yield from in_shard(shard, archive)
        except (tarfile.TarError, EOFError, OSError) as error:
            yield Refused(shard.name, f"the archive ends early or is damaged ({error})")


def in_shard(shard: Path, archive: tarfile.TarFile) -> Iterator[Record | Refused]:
    """Yield the pictures of one shard."""
    key, parts = "", {}
    for member in archive:
        if not member.isfile():
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")  # WebDataset's rule: the ending begins at the first
        if (folder + stem) != key:
            if parts:
                yield in_parts(shard, key, parts, archive.extractfile)
            key, parts = folder + stem, {}
        parts[ending.lower()] = member
    if parts:
        yield in_parts(shard, key, parts, archive.extractfile)


def in_parts(
    shard: Path, key: str, parts: dict[str, tarfile.TarInfo], open_part: Callable
) -> Record | Refused:
    """Return the entry that the files of one key make."""
    picture = next((m for ending, m in parts.items() if f".{ending}" in SUFFIXES), None)
    if picture is None:
        return Refused(f"{shard.name}:{key}", f"{NO_NAME}, only {', '.join(sorted(parts))}")
    values: dict = {}
    if "json" in parts:
        try:
            values = json.loads(open_part(parts["json"]).read())
        except ValueError as error:
            return Refused(key, f"its .json is not JSON ({error})")
    text = open_part(parts["txt"]).read().decode("utf-8", "replace") if "txt" in parts else ""
    caption = text.strip() or str(values.get("caption") or values.get("text") or "").strip()
    person = str(values.get("person") or "")
    return Record(key, shard, caption, person, picture.offset_data, picture.size)


def read_text(path: Path) -> str:
    """Return a text file; bytes that are no UTF-8 are replaced, a mark at its start goes."""
    return path.read_text(encoding="utf-8-sig", errors="replace").strip()
