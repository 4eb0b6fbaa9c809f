"""Where pictures and identities go: a folder, or any address that fsspec knows."""

from __future__ import annotations

from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pulid_client.files import write_whole


class Target:
    """A folder at ``address``, such as ``out/`` or ``s3://bucket/run7``."""

    def __init__(self, address: str):
        self.address = address
        self.files, self.root = fsspec.core.url_to_fs(address)
        self.local = isinstance(self.files, LocalFileSystem)
        self.root = self.root.rstrip("/")

    def path(self, name: str) -> str:
        """Return where ``name`` lies in the file system."""
        return f"{self.root}/{name}"

    def put(self, name: str, content: bytes) -> None:
        """Write a file completely or not at all; object stores do that by themselves."""
        if not self.local:
            self.files.pipe_file(self.path(name), content)
            return
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)

    def get(self, name: str) -> bytes:
        """Return a file's content; FileNotFoundError if there is none."""
        return self.files.cat_file(self.path(name))

    def names(self, folder: str = "") -> set[str]:
        """Return the names of the files in a folder, in one request."""
        where = self.path(folder).rstrip("/")
        self.files.invalidate_cache()
        try:
            found = self.files.ls(where, detail=False)
        except FileNotFoundError:
            return set()
        return {name.rstrip("/").rpartition("/")[2] for name in found}


def read(path: str, folder: Path) -> bytes:
    """Return a photo's bytes: an address that fsspec knows, or a file beside the jobs."""
    if "://" in path:
        with fsspec.open(path, "rb") as file:
            return file.read()
    return (folder / path).read_bytes()
