"""Chunks: the immutable runs of bytes that keys consist of. The first digits of an id are enough to name one."""

from __future__ import annotations

from shoal._pool import Pool
from shoal._shoal import Connection
from shoal._types import Replica


class Chunks:
    """Where chunks are, and where they shall be.

    >>> client = Client()
    >>> _ = client.put("data/noise", bytes(100_000))
    >>> chunk, size = client.info("data/noise").chunks[0]
    >>> client.chunks.pin(chunk[:16])
    >>> [(replica.size, replica.pinned) for replica in client.chunks.info(chunk)]
    [(100000, True)]
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def ls(self) -> list[Replica]:
        """The replicas of all chunks, on all nodes."""
        return self._replicas(None)

    def info(self, chunk: str) -> list[Replica]:
        """The replicas of one chunk."""
        return self._replicas(chunk)

    def pin(self, chunk: str, *, node: str = "") -> None:
        """Keeps a chunk from being evicted, on one node or wherever it is."""
        self._pool.call(lambda connection, left: connection.pin(chunk, True, node, left), repeatable=True)

    def unpin(self, chunk: str, *, node: str = "") -> None:
        """Lets a chunk be evicted again."""
        self._pool.call(lambda connection, left: connection.pin(chunk, False, node, left), repeatable=True)

    def copy(self, chunk: str, node: str, device: str = "dram") -> None:
        """Copies a chunk to ``"dram"`` or ``"nvme"`` of a node; returns when it is there and verified."""
        self._place(chunk, node, device, False)

    def move(self, chunk: str, node: str, device: str = "dram") -> None:
        """As :meth:`copy`, and drops the other replicas afterwards."""
        self._place(chunk, node, device, True)

    def rm(self, chunk: str, *, node: str = "", device: str | None = None, force: bool = False) -> None:
        """Drops replicas of a chunk; with ``force`` even if a key still refers to it or it is pinned."""

        def remove(connection: Connection, left: float | None) -> None:
            connection.remove_chunk(chunk, node, device, force, left)

        self._pool.call(remove, repeatable=False)

    def _place(self, chunk: str, node: str, device: str, remove_source: bool) -> None:
        def place(connection: Connection, left: float | None) -> None:
            connection.place(chunk, node, device, remove_source, left)

        self._pool.call(place, repeatable=not remove_source)

    def _replicas(self, chunk: str | None) -> list[Replica]:
        def replicas(connection: Connection, left: float | None) -> list[Replica]:
            return [Replica._of(found) for found in connection.replicas(chunk, left)]

        return self._pool.call(replicas, repeatable=True)
