"""Keys as files, for fsspec: ``shoal://checkpoints/7/weights.bin`` is the key ``checkpoints/7/weights.bin``.

It is registered by an entry point, so that installing the package is enough:

>>> import fsspec
>>> with fsspec.open("shoal://notes/today", "wb") as file:
...     _ = file.write(b"hello")
>>> fsspec.filesystem("shoal").cat("notes/today")
b'hello'

A key is a file, and a directory is what keys have in common before a slash: it is there while there are keys below it. The
arguments of :class:`shoal.Client` are storage options.
"""

from __future__ import annotations

import io
import os
from typing import Any

from fsspec.spec import AbstractFileSystem

from shoal.client import Client
from shoal.errors import Conflict, InvalidInput, NotFound


class ShoalFileSystem(AbstractFileSystem):
    """Keys as files.

    :param address: where a node is, as for :class:`shoal.Client`
    :param volatile: keep what is written in memory alone
    """

    protocol = "shoal"
    root_marker = ""
    # Instances are shared between threads, and connections are made by each process for itself.
    cachable = True

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        *,
        token: str | None = None,
        timeout: float | None = None,
        retries: int = 3,
        volatile: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._client = Client(address, token=token, timeout=timeout, retries=retries)
        self._volatile = volatile

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = os.fspath(path).removeprefix("shoal://")
        return text.strip("/")

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """What is in a directory, or the file itself."""
        path = self._strip_protocol(path)
        prefix = f"{path}/" if path else ""
        found: dict[str, dict[str, Any]] = {}
        for key in self._client.keys(prefix):
            name, slash, _ = key.key[len(prefix) :].partition("/")
            full = prefix + name
            if slash:
                found.setdefault(full, _directory(full))
            else:
                found[full] = _file(full, key.size, key.created)
        if not found and path:
            found[path] = self._file_info(path)
        entries = [found[name] for name in sorted(found)]
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """What is at a path."""
        path = self._strip_protocol(path)
        if not path:
            return _directory("")
        try:
            return self._file_info(path)
        except FileNotFoundError:
            if next(self._client.keys(f"{path}/"), None) is None:
                raise
            return _directory(path)

    def _file_info(self, path: str) -> dict[str, Any]:
        for key in self._client.keys(path):
            if key.key == path:
                return _file(path, key.size, key.created)
            break
        raise FileNotFoundError(path)

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **options: Any,
    ) -> Any:
        """All files below a path, with one listing."""
        if maxdepth is not None or withdirs:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **options)
        path = self._strip_protocol(path)
        prefix = f"{path}/" if path else ""
        found = {key.key: _file(key.key, key.size, key.created) for key in self._client.keys(prefix)}
        if not found and path and self.isfile(path):
            found[path] = self._file_info(path)
        return found if detail else sorted(found)

    def created(self, path: str) -> Any:
        """When the key's version was written."""
        from datetime import UTC, datetime

        return datetime.fromtimestamp(self.info(path)["created"], UTC)

    modified = created

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """The bytes of a file, or of a part of it."""
        try:
            if start is None and end is None:
                return bytes(self._client.get_bytes(self._strip_protocol(path)))
            last = 2**62 if end is None else end
            return bytes(self._client.get_range(self._strip_protocol(path), start or 0, last))
        except NotFound as error:
            raise FileNotFoundError(path) from error

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **options: Any) -> None:
        """Makes bytes a file."""
        version = 0 if mode == "create" else None
        try:
            self._client.put(self._strip_protocol(path), memoryview(value), volatile=self._volatile, if_version=version)
        except Conflict as error:
            raise FileExistsError(path) from error

    def put_file(self, lpath: Any, rpath: str, callback: Any = None, **options: Any) -> None:
        """Puts a local file."""
        if os.path.isdir(lpath):
            return
        self._client.put_files(self._strip_protocol(rpath), lpath, volatile=self._volatile)

    def get_file(self, rpath: str, lpath: Any, callback: Any = None, outfile: Any = None, **options: Any) -> None:
        """Gets a file, which appears when it is whole."""
        if self.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
            return
        if outfile is not None or hasattr(lpath, "write"):
            (outfile or lpath).write(self.cat_file(rpath))
            return
        try:
            self._client.get_files(self._strip_protocol(rpath), lpath)
        except NotFound as error:
            raise FileNotFoundError(rpath) from error

    def rm_file(self, path: str) -> None:
        """Removes a file."""
        try:
            self._client.rm(self._strip_protocol(path))
        except NotFound as error:
            raise FileNotFoundError(path) from error

    _rm = rm_file

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Removes files, and with ``recursive`` what is below directories."""
        for one in self.expand_path(path, recursive=recursive, maxdepth=maxdepth):
            if self.isfile(one):
                self.rm_file(one)
            elif not recursive:
                raise IsADirectoryError(one)

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        """Copies a file; its chunks are not stored again."""
        if self.isdir(path1):
            return
        try:
            data = self._client.get_bytes(self._strip_protocol(path1))
        except NotFound as error:
            raise FileNotFoundError(path1) from error
        self._client.put(self._strip_protocol(path2), data, volatile=self._volatile)

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        """Nothing: a directory is there when there is something in it."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """As :meth:`mkdir`."""

    def rmdir(self, path: str) -> None:
        """Nothing: a directory that is empty is not there."""

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        key = self._strip_protocol(path)
        if mode == "rb":
            try:
                return _Reader(self._client.get_bytes(key))
            except NotFound as error:
                raise FileNotFoundError(path) from error
        if mode in ("wb", "xb"):
            return _Writer(self, key, "create" if mode == "xb" else "overwrite")
        raise InvalidInput(f"files are opened with mode rb, wb or xb, not {mode}")


def _file(name: str, size: int, created: float) -> dict[str, Any]:
    return {"name": name, "size": size, "type": "file", "created": created}


def _directory(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}


class _Reader(io.RawIOBase):
    """A file that is read. Where the node shares its memory, the file is that memory."""

    def __init__(self, data: Any) -> None:
        self._view = memoryview(data)
        self._at = 0
        self.size = len(self._view)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise InvalidInput("a file begins at 0")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        part = self._view[self._at : self._at + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)

    def read(self, size: int | None = -1) -> bytes:
        end = self.size if size is None or size < 0 else self._at + size
        part = bytes(self._view[self._at : end])
        self._at += len(part)
        return part

    def readall(self) -> bytes:
        return self.read()


class _Writer(io.BytesIO):
    """A file that is written, and put when it is closed without an error."""

    def __init__(self, files: ShoalFileSystem, key: str, mode: str) -> None:
        super().__init__()
        self._files = files
        self._key = key
        self._mode = mode

    def close(self) -> None:
        if not self.closed:
            try:
                self._files.pipe_file(self._key, self.getvalue(), self._mode)
            finally:
                super().close()

    def discard(self) -> None:
        """Closes it, and puts nothing."""
        super().close()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        # What nobody has closed is not whole.
        self.discard()
