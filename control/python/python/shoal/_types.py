"""What the methods of a client return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal import _shoal


@dataclass(frozen=True, slots=True)
class Put:
    """A key that was put."""

    #: The version that the key has, counted from 1.
    version: int
    #: Bytes.
    size: int
    #: How many chunks.
    chunks: int
    #: Bytes of those chunks that no key referred to before.
    new_bytes: int


@dataclass(frozen=True, slots=True)
class Key:
    """A key in a listing; times are seconds since 1970."""

    key: str
    version: int
    created: float
    size: int
    files: int

    @staticmethod
    def _of(found: _shoal._Key) -> Key:
        return Key(found["key"], found["version"], found["created_ms"] / 1000, found["size"], found["files"])


@dataclass(frozen=True, slots=True)
class Info:
    """All there is to know of a key; times are seconds since 1970."""

    key: str
    version: int
    revision: int
    created: float
    expires: float | None
    #: What its writer said of it; ``type`` is the type of a value that was put from Python.
    labels: dict[str, str]
    #: ``"file"``, ``"directory"`` or ``"stream"``.
    shape: str
    size: int
    #: The files with their sizes.
    files: list[tuple[str, int]]
    #: The chunks with their sizes.
    chunks: list[tuple[str, int]]

    @staticmethod
    def _of(found: _shoal._Info) -> Info:
        expires = found["expires_ms"]
        return Info(
            key=found["key"],
            version=found["version"],
            revision=found["revision"],
            created=found["created_ms"] / 1000,
            expires=None if expires is None else expires / 1000,
            labels=found["labels"],
            shape=found["shape"],
            size=found["size"],
            files=found["files"],
            chunks=found["chunks"],
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of the catalog, with its small value if it has one; times are seconds since 1970."""

    key: str
    version: int
    revision: int
    created: float
    updated: float
    expires: float | None
    owner: str | None
    #: Bytes of the value, or of all files.
    size: int
    #: How many files; 0 of a value.
    files: int
    #: The value; absent of files, and where only keys were asked for.
    value: bytes | None
    labels: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def _of(found: _shoal._Entry) -> Entry:
        expires = found["expires_ms"]
        return Entry(
            key=found["key"],
            version=found["version"],
            revision=found["revision"],
            created=found["created_ms"] / 1000,
            updated=found["updated_ms"] / 1000,
            expires=None if expires is None else expires / 1000,
            owner=found["owner"],
            size=found["size"],
            files=found["files"],
            value=found["value"],
            labels=found["labels"],
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One key that a write has changed."""

    key: str
    #: The revision of the write.
    revision: int
    #: When, in seconds since 1970.
    at: float
    #: ``"put"``, ``"delete"``, ``"expire"`` or ``"owner_ended"``.
    kind: str
    #: The version that it has, or had.
    version: int
    #: What it is since then, of a put.
    entry: Entry | None

    @staticmethod
    def _of(found: _shoal._Change) -> Change:
        entry = found["entry"]
        return Change(
            key=found["key"],
            revision=found["revision"],
            at=found["at_ms"] / 1000,
            kind=found["kind"],
            version=found["version"],
            entry=None if entry is None else Entry._of(entry),
        )


@dataclass(frozen=True, slots=True)
class Replica:
    """A copy of a chunk on a node."""

    chunk: str
    size: int
    node: str
    pieces: int
    #: Pieces in memory, and on NVMe.
    dram_pieces: int
    nvme_pieces: int
    #: Pieces on each GPU that has any, by names such as ``gpu:0``.
    gpu_pieces: dict[str, int]
    pinned: bool
    #: Whether a transfer to this node is under way.
    fetching: bool

    @staticmethod
    def _of(found: _shoal._Replica) -> Replica:
        return Replica(**found)
