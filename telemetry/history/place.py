"""Where a history is: a folder or a bucket, its files by day, each written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec

UNFINISHED = ".part"
DOWNLOADS = 16  # at once
EXTRAS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}
# What tells two versions of a file apart, by kind of storage.
_MARKS = ("ETag", "etag", "md5Hash", "mtime", "ino", "created", "LastModified", "updated")


class HistoryError(ValueError):
    """A history that cannot be used: one line with where, what was found, what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The root of a history. Paths below are relative to it, with slashes."""

    url: str
    root: str  # as the file system has it, without its protocol
    files: Any  # an fsspec file system

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine."""
        return "file" in _protocols(self.files)

    def read(self, path: str) -> bytes:
        """A file's bytes. Raises FileNotFoundError."""
        return bytes(self.files.cat_file(self._full(path)))

    def write(self, path: str, content: bytes) -> None:
        """Put a file there, in place of one that is: readers see the old one or the new one."""
        if self.local:
            _write_whole(Path(self._full(path)), content)
        else:  # an object of a bucket appears when it is complete
            self.files.pipe_file(self._full(path), content)

    def remove(self, path: str) -> None:
        """Take a file away, or a folder with all in it; gone is gone."""
        if self.files.exists(self._full(path)):
            self.files.rm(self._full(path), recursive=True)
        self.files.invalidate_cache()

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return bool(self.files.exists(self._full(path)))

    def found(self, folder: str) -> Mapping[str, str]:
        """All Parquet files below a folder, each with a mark that changes when it is rewritten."""
        return {path: _mark(info) for path, info in self._infos(folder).items()}

    def size_bytes(self, folder: str) -> int:
        """Of all Parquet files below a folder."""
        return sum(int(info.get("size") or 0) for info in self._infos(folder).values())

    def days(self, folder: str) -> tuple[date, ...]:
        """The days that a folder has, in order."""
        if not self.files.exists(self._full(folder)):
            return ()
        self.files.invalidate_cache()
        names = (str(name).rstrip("/") for name in self.files.ls(self._full(folder), detail=False))
        return tuple(sorted(day for name in names if (day := _day(name)) is not None))

    def on_disk(self, paths: Iterable[str], folder: Path) -> list[str]:
        """The files as paths of this machine: of a bucket, copies in ``folder``.

        A file system in Python under DuckDB's threads is no way: both wait for the interpreter.
        """
        if self.local:
            return [self._full(path) for path in paths]
        with ThreadPoolExecutor(DOWNLOADS) as several:
            return list(several.map(lambda path: self._copied(path, folder), paths))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else writes meanwhile, on this machine; of a bucket, each node writes its own."""
        if not self.local:
            yield
            return
        import fcntl

        Path(self.root).mkdir(parents=True, exist_ok=True)
        with (Path(self.root) / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _sweep(Path(self.root))
            yield

    def _copied(self, path: str, folder: Path) -> str:
        copy = folder / quote(path, safe="")
        copy.write_bytes(self.read(path))
        return str(copy)

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    def _infos(self, folder: str) -> dict[str, dict[str, Any]]:
        self.files.invalidate_cache()
        if not self.files.exists(self._full(folder)):
            return {}
        found = self.files.find(self._full(folder), detail=True)
        whole = {str(path): info for path, info in found.items() if str(path).endswith(".parquet")}
        start = len(self.root) + 1
        return {path[start:]: whole[path] for path in sorted(whole)}


def place(url: str) -> Place:
    """The history at a URL of fsspec: a path, file://, s3://, gs://, memory://.

    Raises HistoryError where the scheme is unknown or its driver is missing.
    """
    scheme = url.split("://", 1)[0] if "://" in url else "file"
    try:
        files, root = fsspec.url_to_fs(url)
    except ImportError:
        driver = EXTRAS.get(scheme, f"the fsspec driver of {scheme}")
        raise HistoryError(
            f"{url}: found no driver for {scheme}://, which needs {driver}: pip install {driver}"
        ) from None
    except ValueError as error:
        raise HistoryError(
            f"{url}: found {error}, allowed: a path, or a URL such as s3://BUCKET/FOLDER"
        ) from None
    return Place(url=url, root=str(root).rstrip("/"), files=files)


def _day(folder: str) -> date | None:
    """The day of a folder's name; None where it names none, as others' folders do."""
    try:
        return date.fromisoformat(folder.rpartition("/day=")[2])
    except ValueError:
        return None


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _mark(info: Mapping[str, Any]) -> str:
    return " ".join(str(info[name]) for name in ("size", *_MARKS) if info.get(name) is not None)


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}{UNFINISHED}")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _sweep(root: Path) -> None:
    """What a writer that was killed has left: nobody else writes now."""
    for left in root.glob(f"*/day=*/**/*{UNFINISHED}"):
        left.unlink(missing_ok=True)
