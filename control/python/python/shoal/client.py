"""Keys: put, get, ls, info, rm."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from shoal import values
from shoal._pool import Pool
from shoal._shoal import Bytes, Connection, File
from shoal._types import Info, Key, Put
from shoal.chunks import Chunks
from shoal.errors import InvalidInput
from shoal.kv import Kv

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

#: Keys that are asked for at once.
_PAGE = 1000
#: The lowest first.
_PRIORITIES = ("low", "normal", "high", "critical")


class Client:
    """A way to a node, and through it to its cluster. It may be used from several threads at once.

    :param address: ``HOST:PORT``, or the path of the node's local socket, ``<data-dir>/shoal.sock``, through which bytes are
        not copied. Without one, ``SHOAL_NODE``, else the socket of a node that was started without ``--data-dir``.
    :param token: the cluster's token; without one, the content of the file that ``SHOAL_TOKEN_FILE`` names. A local socket
        asks for none.
    :param timeout: seconds that a call may take, all attempts together; without one a call takes as long as it needs.
    :param retries: how often a call is made again when no node could be reached. Reads are; of writes only those that no node
        can have heard of.
    :param allow_pickle: whether values are stored and read with pickle where nothing else fits. Reading one runs whatever
        code its writer chose.
    :param priority: how much what it reads matters beside what else is fetched in the cluster: ``"low"``, ``"normal"``,
        ``"high"`` or ``"critical"``.

    >>> with Client() as client:
    ...     put = client.put("greetings/en", {"text": "hello"})
    ...     client.get("greetings/en")
    {'text': 'hello'}
    """

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
        if retries < 0:
            raise InvalidInput("a call is made again 0 times or more")
        if priority not in _PRIORITIES:
            raise InvalidInput(f"a priority is one of {', '.join(_PRIORITIES)}")
        text = default_address() if address is None else os.fspath(address)
        token = default_token() if token is None else token
        self._pool = Pool(text, token, timeout, retries, priority)
        self._allow_pickle = allow_pickle
        self._again = partial(
            type(self),
            text,
            token=token,
            timeout=timeout,
            retries=retries,
            allow_pickle=allow_pickle,
            priority=priority,
        )
        #: Small values in the catalog.
        self.kv = Kv(self._pool)
        #: The chunks that keys consist of.
        self.chunks = Chunks(self._pool)

    @property
    def address(self) -> str:
        """Where the node is."""
        return self._pool.address

    def close(self) -> None:
        """Ends its connections. What :meth:`get` has returned stays as it is."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def put(
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
        """Makes a value the next version of a key. When it fails, the key is as it was.

        The bytes of arrays, tensors, tables and buffers are copied once. They must not change meanwhile.

        :param volatile: keep it in memory alone; otherwise it is on disk when this returns
        :param digest: name the bytes by their BLAKE3 digest, so that equal bytes are kept and moved once, and can be compared
            from end to end. It takes longer than copying them: unless asked for, what is volatile does without. Pieces have
            checksums in any case
        :param ttl: seconds after which the key expires
        :param if_version: put it only if the key has this version; 0 when it must be absent
        :param labels: what else is said about it

        >>> client = Client()
        >>> client.put("models/scale", [0.5, 0.25]).version
        1
        >>> client.put("models/scale", b"0.75", if_version=9)
        Traceback (most recent call last):
            ...
        shoal.errors.Conflict: ...
        """
        pickled = self._allow_pickle if allow_pickle is None else allow_pickle
        parts, own = values.encode(value, pickled)
        said = {**(labels or {}), **own}
        return self._put_parts(
            key, parts, said, volatile=volatile, digest=digest, ttl=ttl, if_version=if_version
        )

    def _put_parts(
        self,
        key: str,
        parts: list[Buffer],
        labels: dict[str, str],
        *,
        volatile: bool = False,
        digest: bool | None = None,
        ttl: float | None = None,
        if_version: int | None = None,
    ) -> Put:
        hashed = not volatile if digest is None else digest

        def put(connection: Connection, left: float | None) -> Put:
            return Put(*connection.put(key, parts, volatile, hashed, labels, ttl, if_version, left))

        return self._pool.call(put, repeatable=False)

    def get(self, key: str, *, allow_pickle: bool | None = None, consistency: str = "quorum") -> Any:
        """The value of a key, as what it was when it was put. A key that was not put from Python gives its bytes.

        On the node's own host arrays, tensors and bytes from 64 KiB on are not copied: they lie in the memory of the node,
        which keeps them until they are collected. Arrays and bytes cannot be written to; what is written to a tensor nobody
        else sees.

        >>> client = Client()
        >>> _ = client.put("models/name", "seven")
        >>> client.get("models/name")
        'seven'
        >>> client.get("models/nothing")
        Traceback (most recent call last):
            ...
        shoal.errors.NotFound: ...
        """
        pickled = self._allow_pickle if allow_pickle is None else allow_pickle

        def get(connection: Connection, left: float | None) -> tuple[dict[str, str], Bytes]:
            file = connection.open(key, consistency, left, True)
            writable = file.labels.get(values.TYPE) == "safetensors"
            return file.labels, file.bytes(writable, left)

        labels, data = self._pool.call(get, repeatable=True)
        return values.decode(labels, lambda _: data, pickled)

    def get_bytes(self, key: str, *, consistency: str = "quorum") -> Bytes:
        """The bytes of a key that is one file or a stream, whatever they mean.

        >>> client = Client()
        >>> _ = client.put("models/name", "seven")
        >>> bytes(client.get_bytes("models/name"))
        b'"seven"'
        """

        def get(connection: Connection, left: float | None) -> Bytes:
            return connection.open(key, consistency, left, True).bytes(False, left)

        return self._pool.call(get, repeatable=True)

    def get_range(self, key: str, start: int, end: int) -> Bytes:
        """A copy of the bytes from ``start`` to before ``end``, as far as there are any; both may count from the end.

        >>> client = Client()
        >>> _ = client.put("alphabet", b"abcdefgh")
        >>> bytes(client.get_range("alphabet", 2, 4)), bytes(client.get_range("alphabet", -3, 100))
        (b'cd', b'fgh')
        """

        def get(connection: Connection, left: float | None) -> Bytes:
            file: File = connection.open(key, "quorum", left)
            first, last, _ = slice(start, end).indices(file.size)
            return file.read(first, max(last - first, 0), left)

        return self._pool.call(get, repeatable=True)

    def put_files(
        self, key: str, source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, volatile: bool = False
    ) -> Put:
        """Makes a file, a directory with all that is in it, or several of them, the next version of a key."""
        paths = [source] if isinstance(source, (str, os.PathLike)) else list(source)

        def put(connection: Connection, left: float | None) -> Put:
            return Put(*connection.put_paths(key, list(paths), volatile, left))

        return self._pool.call(put, repeatable=False)

    def get_files(self, key: str, destination: str | os.PathLike[str], *, verify: bool = False) -> int:
        """Writes the files of a key to ``destination``, as ``cp -r`` would, each at its place when it is whole; gives the
        version of the key."""

        def get(connection: Connection, left: float | None) -> int:
            return connection.get_paths(key, destination, verify, left)[0]

        return self._pool.call(get, repeatable=True)

    def ls(self, prefix: str = "") -> list[Key]:
        """All keys that begin with ``prefix``, in order.

        >>> client = Client()
        >>> _ = client.put("zoo/ant", 1), client.put("zoo/bee", 2)
        >>> [found.key for found in client.ls("zoo/")]
        ['zoo/ant', 'zoo/bee']
        """
        return list(self.keys(prefix))

    def keys(self, prefix: str = "") -> Iterator[Key]:
        """As :meth:`ls`, a page at a time. A key that is written meanwhile may be missing or not."""
        after, more = "", True
        while more:

            def page(connection: Connection, left: float | None, after: str = after) -> tuple[list[Key], bool]:
                found, more = connection.keys(prefix, after, _PAGE, left)
                return [Key._of(one) for one in found], more

            found, more = self._pool.call(page, repeatable=True)
            more = more and bool(found)
            yield from found
            after = found[-1].key if found else after

    def info(self, key: str) -> Info:
        """All there is to know of a key of files.

        >>> client = Client()
        >>> _ = client.put("models/name", "seven")
        >>> client.info("models/name").labels
        {'type': 'json'}
        """

        def info(connection: Connection, left: float | None) -> Info:
            return Info._of(connection.info(key, left))

        return self._pool.call(info, repeatable=True)

    def rm(self, key: str, *, recursive: bool = False) -> int:
        """Removes a key, and with ``recursive`` every key below it; gives how many.

        >>> client = Client()
        >>> _ = client.put("old/a", 1), client.put("old/b", 2)
        >>> client.rm("old", recursive=True)
        2
        """

        def remove(connection: Connection, left: float | None) -> int:
            return connection.remove(key, recursive, left)

        return self._pool.call(remove, repeatable=False)

    def __reduce__(self) -> tuple[Callable[[], Client], tuple[()]]:
        """Where it is unpickled it connects anew: what has it can go to other processes, with its token."""
        return self._again, ()

    def __repr__(self) -> str:
        return f"shoal.Client({self.address!r})"


def default_address() -> str:
    """The node that ``SHOAL_NODE`` names, else the one whose data directory is the usual one."""
    named = os.environ.get("SHOAL_NODE")
    if named:
        return named
    directory = os.environ.get("SHOAL_DATA_DIR")
    if not directory and os.geteuid() == 0:
        directory = "/var/lib/shoal"
    elif not directory:
        data = os.environ.get("XDG_DATA_HOME")
        directory = os.fspath((Path(data) if data else Path.home() / ".local/share") / "shoal")
    return os.path.join(directory, "shoal.sock")


def default_token() -> str | None:
    """The content of the file that ``SHOAL_TOKEN_FILE`` names."""
    path = os.environ.get("SHOAL_TOKEN_FILE")
    return Path(path).read_text() if path else None
