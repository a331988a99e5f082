"""Small values in the catalog: versions, lives, changes, transactions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from shoal._pool import Pool
from shoal._shoal import Connection
from shoal._shoal import Transaction as _Transaction
from shoal._shoal import Watch as _Watch
from shoal._types import Change, Entry
from shoal.errors import Cancelled, InvalidInput, NotFound

if TYPE_CHECKING:
    from typing_extensions import Self

    from shoal._shoal import _Step

#: Entries that are asked for at once.
_PAGE = 1000


class Kv:
    """Values of up to 64 KiB, kept by the catalog. Any node answers.

    >>> kv = Client().kv
    >>> kv.put("jobs/7/state", b"running", labels={"team": "a"})
    1
    >>> kv.get("jobs/7/state").value
    b'running'
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def get(self, key: str, *, consistency: str = "quorum") -> Entry | None:
        """What a key has; ``None`` when there is no such key."""
        return self.get_many([key], consistency=consistency)[0]

    def get_many(self, keys: Sequence[str], *, consistency: str = "quorum") -> list[Entry | None]:
        """What up to 1024 keys have, all at one revision.

        :param consistency: ``"one"`` may be what the node has read before, while the head is away; ``"quorum"``,
            ``"serial"`` and ``"all"`` are not
        """

        def get(connection: Connection, left: float | None) -> list[Entry | None]:
            found = connection.kv_get(list(keys), consistency, left)
            return [None if entry is None else Entry._of(entry) for entry in found]

        return self._pool.call(get, repeatable=True)

    def put(
        self,
        key: str,
        value: bytes | str,
        *,
        ttl: float | None = None,
        owner: str | None = None,
        labels: dict[str, str] | None = None,
    ) -> int:
        """Puts a value, text as UTF-8; what is not named is cleared. Gives the new version.

        :param ttl: seconds after which it expires
        :param owner: the service that takes it along when it ends
        """
        return self._write([], [_put(key, value, ttl, owner, labels)])[0]

    def cas(
        self,
        key: str,
        value: bytes | str,
        version: int,
        *,
        ttl: float | None = None,
        owner: str | None = None,
        labels: dict[str, str] | None = None,
    ) -> int:
        """Puts a value only if the key has this version, 0 when it must be absent; else :class:`shoal.Conflict` is raised.

        >>> kv = Client().kv
        >>> kv.cas("lock", b"me", 0)
        1
        >>> kv.cas("lock", b"you", 0)
        Traceback (most recent call last):
            ...
        shoal.errors.Conflict: ...
        """
        return self._write([(key, version)], [_put(key, value, ttl, owner, labels)])[0]

    def delete(self, key: str, *, version: int | None = None) -> int:
        """Deletes a key, with ``version`` only that one; gives the version that was there, 0 when there was none."""
        return self._write([] if version is None else [(key, version)], [key])[0]

    def scan(self, prefix: str = "", *, values: bool = True, limit: int | None = None) -> Iterator[Entry]:
        """Entries whose keys begin with ``prefix``, in order, read a page at a time: one that is written meanwhile is seen
        as it was or as it is.

        >>> kv = Client().kv
        >>> _ = kv.put("a/1", b"x"), kv.put("a/2", b"y")
        >>> [(entry.key, entry.value) for entry in kv.scan("a/")]
        [('a/1', b'x'), ('a/2', b'y')]
        """
        after: str | None = None
        left = limit
        while left is None or left > 0:

            def page(
                connection: Connection,
                time_left: float | None,
                after: str | None = after,
                count: int = _PAGE if left is None else min(left, _PAGE),
            ) -> tuple[list[Entry], str | None]:
                found, more = connection.kv_scan(prefix, after, count, values, "quorum", time_left)
                return [Entry._of(entry) for entry in found], more

            entries, after = self._pool.call(page, repeatable=True)
            yield from entries
            left = None if left is None else left - len(entries)
            if after is None:
                return

    def count(self, prefix: str = "") -> int:
        """How many keys begin with ``prefix``."""
        return self._pool.call(lambda connection, left: connection.kv_count(prefix, left), repeatable=True)

    def ttl(self, key: str) -> float | None:
        """Seconds until a key expires; ``None`` when it does not. The clocks of this machine and the head are compared."""
        entry = self.get(key)
        if entry is None:
            raise NotFound(f"there is no key '{key}'")
        return None if entry.expires is None else max(entry.expires - time.time(), 0.0)

    def expire(self, key: str, seconds: float) -> int:
        """Lets a key expire so long from now; gives its version, which grows by that."""
        return self._write([], [(key, "in", _milliseconds(seconds))])[0]

    def extend(self, key: str, seconds: float) -> int:
        """Lets a key that expires do so later by this; gives its version, which grows by that."""
        return self._write([], [(key, "later", _milliseconds(seconds))])[0]

    def persist(self, key: str) -> int:
        """Lets a key live for ever; gives its version, which grows by that."""
        return self._write([], [(key, "never", 0)])[0]

    def transaction(self, isolation: str = "snapshot", *, life: float = 30.0) -> Transaction:
        """Begins a transaction: ``with`` commits it at the end, or rolls it back when the block raises.

        :param isolation: ``"read_committed"``, ``"snapshot"``, or ``"serializable"``, which also fails when somebody wrote
            what was read
        :param life: seconds after which it is rolled back by itself

        >>> kv = Client().kv
        >>> _ = kv.put("counter", "1")
        >>> with kv.transaction("serializable") as transaction:
        ...     count = int(transaction.get("counter").value)
        ...     transaction.put("counter", str(count + 1))
        >>> kv.get("counter").value
        b'2'
        """

        def begin(connection: Connection, left: float | None) -> _Transaction:
            return connection.begin(isolation, life, left)

        return Transaction(self._pool.call(begin, repeatable=True))

    def watch(
        self,
        key: str | None = None,
        *,
        prefix: str | None = None,
        glob: str | None = None,
        after: int | None = None,
        since: float | None = None,
        timeout: float | None = None,
    ) -> Watch:
        """Follows the changes of a key, of those that begin with a prefix, or of those that a pattern matches.

        :param after: begin after this revision; without it, and without ``since``, with the next change
        :param since: begin with what was written from this time on, in seconds since 1970
        :param timeout: end when nothing has changed for so many seconds

        >>> kv = Client().kv
        >>> with kv.watch(prefix="jobs/", timeout=10) as changes:
        ...     _ = kv.put("jobs/8", b"done")
        ...     change = next(changes)
        >>> change.kind, change.key, change.entry.value
        ('put', 'jobs/8', b'done')
        """
        named = [(kind, text) for kind, text in (("key", key), ("prefix", prefix), ("glob", glob)) if text is not None]
        if len(named) != 1:
            raise InvalidInput("a watch wants one of a key, a prefix, or a glob")
        (kind, text), since_ms = named[0], None if since is None else int(since * 1000)
        pool = self._pool
        # It has a connection of its own, which ends with it.
        connection = pool.fresh()
        return Watch(connection.watch(kind, text, after, since_ms, pool.timeout), timeout)

    def _write(self, versions: list[tuple[str, int]], steps: list[_Step]) -> list[int]:
        def write(connection: Connection, left: float | None) -> list[int]:
            return connection.kv_write(versions, [], steps, left)[1]

        return self._pool.call(write, repeatable=False)


def _put(
    key: str, value: bytes | str, ttl: float | None, owner: str | None, labels: dict[str, str] | None
) -> _Step:
    raw = value.encode() if isinstance(value, str) else bytes(value)
    return key, raw, None if ttl is None else _milliseconds(ttl), owner, labels or {}


def _milliseconds(seconds: float) -> int:
    if not 0 <= seconds < 2**53:
        raise InvalidInput(f"{seconds} is no time that a key can live")
    return round(seconds * 1000)


class Transaction:
    """Reads and writes that are committed together. Reads see what it has written itself; nobody else does before."""

    def __init__(self, open: _Transaction) -> None:
        self._open = open
        self._is_over = False

    def get(self, key: str) -> Entry | None:
        """What a key has; ``None`` when there is no such key."""
        found = self._open.get(key)
        return None if found is None else Entry._of(found)

    def scan(self, prefix: str = "", *, values: bool = True) -> Iterator[Entry]:
        """Entries whose keys begin with ``prefix``, in order."""
        after: str | None = None
        while True:
            found, after = self._open.scan(prefix, after, _PAGE, values)
            yield from map(Entry._of, found)
            if after is None:
                return

    def put(
        self,
        key: str,
        value: bytes | str,
        *,
        ttl: float | None = None,
        owner: str | None = None,
        labels: dict[str, str] | None = None,
    ) -> None:
        """Puts a value, once it is committed."""
        self._open.write([_put(key, value, ttl, owner, labels)])

    def delete(self, key: str) -> None:
        """Deletes a key, once it is committed."""
        self._open.write([key])

    def commit(self) -> int:
        """Carries everything out at once and gives the revision; or raises :class:`shoal.Conflict`, and nothing happens."""
        self._is_over = True
        return self._open.commit()[0]

    def rollback(self) -> None:
        """Ends it without a trace."""
        self._is_over = True
        self._open.rollback()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_over:
            return
        if error is None:
            self.commit()
        else:
            self.rollback()


class Watch:
    """Changes as they come, each once, in the order of their revisions. It goes on by itself after a lost connection; when
    it has fallen so far behind that changes were missed, it raises :class:`shoal.Gone`."""

    def __init__(self, watch: _Watch, timeout: float | None) -> None:
        self._watch = watch
        self._timeout = timeout
        self._is_closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        change = self.next(self._timeout)
        if change is None:
            raise StopIteration
        return change

    def next(self, timeout: float | None = None) -> Change | None:
        """The next change; ``None`` when none comes within ``timeout`` seconds, or the watch was closed."""
        try:
            found = self._watch.next(timeout)
        except Cancelled:
            if self._is_closed:
                return None
            raise
        return None if found is None else Change._of(found)

    def close(self) -> None:
        """Ends it, from any thread."""
        self._is_closed = True
        self._watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
