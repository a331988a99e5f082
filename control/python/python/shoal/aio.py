"""The client for asyncio.

>>> import asyncio
>>> async def main():
...     async with shoal.aio.Client() as client:
...         await client.put("async/a", [1, 2])
...         return await client.get("async/a")
>>> asyncio.run(main())
[1, 2]

Calls run in threads that wait without the interpreter's lock. A task that is cancelled ends its call: its connection is
closed, and a write that was under way may have been carried out or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import shoal
from shoal import client as _client
from shoal import kv as _kv
from shoal._pool import Cancel
from shoal._shoal import Bytes
from shoal._types import Change, Entry, Info, Key, Put, Replica

if TYPE_CHECKING:
    from typing_extensions import Self

P = ParamSpec("P")
T = TypeVar("T")

#: Calls of one client that are under way at once; more wait.
_CALLS_MAX = 32


class _Runner:
    """Runs calls in threads, and ends those whose tasks are cancelled."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_CALLS_MAX, "shoal-aio")

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        cancel = Cancel()

        def work() -> T:
            with cancel.scope():
                return call(*args, **kwargs)

        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            cancel.set()
            # The thread ends soon; what it ends with nobody wants.
            with contextlib.suppress(Exception):
                await asyncio.shield(future)
            raise

    def close(self) -> None:
        self._threads.shutdown(wait=False)


class Client:
    """As :class:`shoal.Client`, with methods that are awaited."""

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        *,
        token: str | None = None,
        timeout: float | None = None,
        retries: int = 3,
        allow_pickle: bool = False,
        priority: str = "normal",
    ) -> None:
        self._client = _client.Client(
            address,
            token=token,
            timeout=timeout,
            retries=retries,
            allow_pickle=allow_pickle,
            priority=priority,
        )
        self._runner = _Runner()
        #: Small values in the catalog.
        self.kv = Kv(self._client.kv, self._runner)
        #: The chunks that keys consist of.
        self.chunks = Chunks(self._client.chunks, self._runner)

    async def close(self) -> None:
        """Ends its connections."""
        self._client.close()
        self._runner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def put(
        self,
        key: str,
        value: object,
        *,
        volatile: bool = False,
        digest: bool | None = None,
        ttl: float | None = None,
        if_version: int | None = None,
        labels: dict[str, str] | None = None,
        allow_pickle: bool | None = None,
    ) -> Put:
        """As :meth:`shoal.Client.put`."""
        return await self._runner.run(
            self._client.put,
            key,
            value,
            volatile=volatile,
            digest=digest,
            ttl=ttl,
            if_version=if_version,
            labels=labels,
            allow_pickle=allow_pickle,
        )

    async def get(self, key: str, *, allow_pickle: bool | None = None, consistency: str = "quorum") -> Any:
        """As :meth:`shoal.Client.get`."""
        return await self._runner.run(
            self._client.get, key, allow_pickle=allow_pickle, consistency=consistency
        )

    async def get_bytes(self, key: str, *, consistency: str = "quorum") -> Bytes:
        """As :meth:`shoal.Client.get_bytes`."""
        return await self._runner.run(self._client.get_bytes, key, consistency=consistency)

    async def get_range(self, key: str, start: int, end: int) -> Bytes:
        """As :meth:`shoal.Client.get_range`."""
        return await self._runner.run(self._client.get_range, key, start, end)

    async def put_files(
        self,
        key: str,
        source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        volatile: bool = False,
    ) -> Put:
        """As :meth:`shoal.Client.put_files`."""
        return await self._runner.run(self._client.put_files, key, source, volatile=volatile)

    async def get_files(self, key: str, destination: str | os.PathLike[str], *, verify: bool = False) -> int:
        """As :meth:`shoal.Client.get_files`."""
        return await self._runner.run(self._client.get_files, key, destination, verify=verify)

    async def ls(self, prefix: str = "") -> list[Key]:
        """As :meth:`shoal.Client.ls`."""
        return await self._runner.run(self._client.ls, prefix)

    async def info(self, key: str) -> Info:
        """As :meth:`shoal.Client.info`."""
        return await self._runner.run(self._client.info, key)

    async def rm(self, key: str, *, recursive: bool = False) -> int:
        """As :meth:`shoal.Client.rm`."""
        return await self._runner.run(self._client.rm, key, recursive=recursive)


class Kv:
    """As :class:`shoal.kv.Kv`, with methods that are awaited."""

    def __init__(self, kv: _kv.Kv, runner: _Runner) -> None:
        self._kv = kv
        self._runner = runner

    async def get(self, key: str, *, consistency: str = "quorum") -> Entry | None:
        """As :meth:`shoal.kv.Kv.get`."""
        return await self._runner.run(self._kv.get, key, consistency=consistency)

    async def get_many(self, keys: Sequence[str], *, consistency: str = "quorum") -> list[Entry | None]:
        """As :meth:`shoal.kv.Kv.get_many`."""
        return await self._runner.run(self._kv.get_many, keys, consistency=consistency)

    async def put(
        self,
        key: str,
        value: bytes | str,
        *,
        ttl: float | None = None,
        owner: str | None = None,
        labels: dict[str, str] | None = None,
    ) -> int:
        """As :meth:`shoal.kv.Kv.put`."""
        return await self._runner.run(self._kv.put, key, value, ttl=ttl, owner=owner, labels=labels)

    async def cas(
        self,
        key: str,
        value: bytes | str,
        version: int,
        *,
        ttl: float | None = None,
        owner: str | None = None,
        labels: dict[str, str] | None = None,
    ) -> int:
        """As :meth:`shoal.kv.Kv.cas`."""
        return await self._runner.run(self._kv.cas, key, value, version, ttl=ttl, owner=owner, labels=labels)

    async def delete(self, key: str, *, version: int | None = None) -> int:
        """As :meth:`shoal.kv.Kv.delete`."""
        return await self._runner.run(self._kv.delete, key, version=version)

    async def scan(self, prefix: str = "", *, values: bool = True, limit: int | None = None) -> list[Entry]:
        """As :meth:`shoal.kv.Kv.scan`, all at once."""
        return await self._runner.run(lambda: list(self._kv.scan(prefix, values=values, limit=limit)))

    async def count(self, prefix: str = "") -> int:
        """As :meth:`shoal.kv.Kv.count`."""
        return await self._runner.run(self._kv.count, prefix)

    async def ttl(self, key: str) -> float | None:
        """As :meth:`shoal.kv.Kv.ttl`."""
        return await self._runner.run(self._kv.ttl, key)

    async def expire(self, key: str, seconds: float) -> int:
        """As :meth:`shoal.kv.Kv.expire`."""
        return await self._runner.run(self._kv.expire, key, seconds)

    async def extend(self, key: str, seconds: float) -> int:
        """As :meth:`shoal.kv.Kv.extend`."""
        return await self._runner.run(self._kv.extend, key, seconds)

    async def persist(self, key: str) -> int:
        """As :meth:`shoal.kv.Kv.persist`."""
        return await self._runner.run(self._kv.persist, key)

    async def transaction(self, isolation: str = "snapshot", *, life: float = 30.0) -> Transaction:
        """As :meth:`shoal.kv.Kv.transaction`: ``async with await kv.transaction() as transaction``."""
        begun = await self._runner.run(self._kv.transaction, isolation, life=life)
        return Transaction(begun, self._runner)

    async def watch(
        self,
        key: str | None = None,
        *,
        prefix: str | None = None,
        glob: str | None = None,
        after: int | None = None,
        since: float | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Change]:
        """As :meth:`shoal.kv.Kv.watch`: ``async for change in kv.watch(prefix="jobs/")``. It begins when the first change is
        awaited."""
        watch = await self._runner.run(
            self._kv.watch, key, prefix=prefix, glob=glob, after=after, since=since, timeout=timeout
        )
        try:
            while True:
                # A thread that waits for a change looks up from time to time, so that the program can end.
                change = await self._next(watch, timeout)
                if change is None:
                    return
                yield change
        finally:
            watch.close()

    async def _next(self, watch: shoal.Watch, timeout: float | None) -> Change | None:
        next = asyncio.ensure_future(self._runner.run(watch.next, timeout))
        try:
            return await asyncio.shield(next)
        except asyncio.CancelledError:
            watch.close()
            with contextlib.suppress(Exception):
                await next
            raise


class Transaction:
    """As :class:`shoal.kv.Transaction`, with methods that are awaited."""

    def __init__(self, transaction: _kv.Transaction, runner: _Runner) -> None:
        self._transaction = transaction
        self._runner = runner

    async def get(self, key: str) -> Entry | None:
        """As :meth:`shoal.kv.Transaction.get`."""
        return await self._runner.run(self._transaction.get, key)

    async def scan(self, prefix: str = "", *, values: bool = True) -> list[Entry]:
        """As :meth:`shoal.kv.Transaction.scan`, all at once."""
        return await self._runner.run(lambda: list(self._transaction.scan(prefix, values=values)))

    async def put(
        self,
        key: str,
        value: bytes | str,
        *,
        ttl: float | None = None,
        owner: str | None = None,
        labels: dict[str, str] | None = None,
    ) -> None:
        """As :meth:`shoal.kv.Transaction.put`."""
        await self._runner.run(self._transaction.put, key, value, ttl=ttl, owner=owner, labels=labels)

    async def delete(self, key: str) -> None:
        """As :meth:`shoal.kv.Transaction.delete`."""
        await self._runner.run(self._transaction.delete, key)

    async def commit(self) -> int:
        """As :meth:`shoal.kv.Transaction.commit`."""
        return await self._runner.run(self._transaction.commit)

    async def rollback(self) -> None:
        """As :meth:`shoal.kv.Transaction.rollback`."""
        await self._runner.run(self._transaction.rollback)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.run(self._transaction.__exit__, kind, error, trace)


class Chunks:
    """As :class:`shoal.chunks.Chunks`, with methods that are awaited."""

    def __init__(self, chunks: shoal.chunks.Chunks, runner: _Runner) -> None:
        self._chunks = chunks
        self._runner = runner

    async def ls(self) -> list[Replica]:
        """As :meth:`shoal.chunks.Chunks.ls`."""
        return await self._runner.run(self._chunks.ls)

    async def info(self, chunk: str) -> list[Replica]:
        """As :meth:`shoal.chunks.Chunks.info`."""
        return await self._runner.run(self._chunks.info, chunk)

    async def pin(self, chunk: str, *, node: str = "") -> None:
        """As :meth:`shoal.chunks.Chunks.pin`."""
        await self._runner.run(self._chunks.pin, chunk, node=node)

    async def unpin(self, chunk: str, *, node: str = "") -> None:
        """As :meth:`shoal.chunks.Chunks.unpin`."""
        await self._runner.run(self._chunks.unpin, chunk, node=node)

    async def copy(self, chunk: str, node: str, device: str = "dram") -> None:
        """As :meth:`shoal.chunks.Chunks.copy`."""
        await self._runner.run(self._chunks.copy, chunk, node, device)

    async def move(self, chunk: str, node: str, device: str = "dram") -> None:
        """As :meth:`shoal.chunks.Chunks.move`."""
        await self._runner.run(self._chunks.move, chunk, node, device)

    async def rm(self, chunk: str, *, node: str = "", device: str | None = None, force: bool = False) -> None:
        """As :meth:`shoal.chunks.Chunks.rm`."""
        await self._runner.run(self._chunks.rm, chunk, node=node, device=device, force=force)
