"""gswarm's Python interface to its data server, over the same HTTP.

``from gswarm.data import DataServer`` becomes ``from shoal.compat.gswarm import DataServer``; the server may be a Shoal node or
one of gswarm's own. As there, what is no JSON is pickled by this side, and what was pickled is unpickled when it is read:
a program should read only from servers whose writers it trusts.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import pickle
import shutil
import subprocess
import threading
import time
from collections import OrderedDict
from typing import Any
from urllib.parse import quote, urlsplit

from shoal.errors import ConnectFailed, InvalidInput, ShoalError, Unavailable
from shoal.values import is_json

#: Seconds that a server may take for an answer: values may be large.
_TIMEOUT = 300.0
#: Seconds that a server which does not listen is waited for, and one that this process is starting.
_REFUSED_MAX = 1.0
_STARTING_MAX = 120.0
_PAUSE = 0.05
#: Memory of a storage within this process, as the server's own default.
_MEMORY = 16 << 30


class DataServer:
    """A data server elsewhere.

    :param url: ``host:port``, or with ``http://`` before it
    :param use_extended_api: store what is no JSON too, with pickle
    """

    def __init__(self, url: str = "localhost:9015", use_extended_api: bool = True) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or parts.hostname is None:
            raise InvalidInput(f"{url!r} is no address of a data server", hint="write HOST:PORT")
        self.url = f"http://{parts.hostname}:{parts.port or 9015}"
        self.use_extended_api = use_extended_api
        self._host, self._port = parts.hostname, parts.port or 9015
        self._threads = threading.local()

    def write(self, key: str, value: Any, persist: bool = True) -> bool:
        """Stores a value; false when the server has no room for it."""
        body: dict[str, Any] = {"key": key, "persist": persist}
        if not self.use_extended_api:
            path, body["value"] = "/write", value
        else:
            path, body["serialized_value"] = "/write_extended", _serialized(value)
        status, answer = self._ask("POST", path, body)
        return _accept(status, answer, refused=(507,))

    def read(self, key: str) -> Any:
        """The value of a key; ``None`` when there is none."""
        if not self.use_extended_api:
            answer = self._fine("GET", f"/read/{_quoted(key)}")
            return answer.get("value") if answer.get("found") else None
        answer = self._fine("GET", f"/read_extended/{_quoted(key)}")
        serialized = answer.get("serialized_value")
        if not answer.get("found") or serialized is None:
            return None
        return _value(serialized)

    def release(self, key: str) -> bool:
        """Removes a key; false when there was none."""
        return _accept(*self._ask("DELETE", f"/release/{_quoted(key)}"), refused=(404,))

    def send(self, key: str, target_url: str) -> bool:
        """Sends a key to another server; false when there is no such key, or the other does not take it."""
        status, answer = self._ask("POST", "/send", {"key": key, "url": target_url})
        return _accept(status, answer, refused=(404, 500, 502, 504, 507))

    def get_stats(self) -> dict[str, Any]:
        """How much is stored, and how much may be."""
        stats = self._fine("GET", "/stats")
        found: dict[str, Any] = stats.get("stats", stats)
        return found

    def set_max_memory(self, max_size: int) -> bool:
        """Sets how many bytes the server may keep in memory."""
        return _accept(*self._ask("POST", f"/set_max_memory/{int(max_size)}"), refused=())

    def _fine(self, method: str, path: str) -> dict[str, Any]:
        status, answer = self._ask(method, path)
        _accept(status, answer, refused=())
        return answer

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        begun = time.monotonic()
        while True:
            try:
                return self._exchange(method, path, data, headers)
            except ConnectFailed:
                # Nothing was asked. A server that was started a moment ago, as by start_server in a thread, listens soon.
                patience = _STARTING_MAX if self._port in _own_ports else _REFUSED_MAX
                if time.monotonic() - begun >= patience:
                    raise
            time.sleep(_PAUSE)

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, dict[str, Any]]:
        connection: http.client.HTTPConnection | None = getattr(self._threads, "connection", None)
        # A server may have closed a connection that was idle; what was asked on it is asked again only when that does no harm.
        for reused in (True, False) if connection is not None else (False,):
            if not reused:
                connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT)
            assert connection is not None
            try:
                connection.request(method, path, data, headers)
                response = connection.getresponse()
                status, text = response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._threads.connection = None
                if reused and isinstance(error, (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)):
                    continue
                failed = ConnectFailed if isinstance(error, ConnectionRefusedError) else Unavailable
                raise failed(f"the data server at {self.url} does not answer: {error}") from error
            self._threads.connection = connection
            try:
                answer = json.loads(text)
            except ValueError:
                answer = {"detail": text.decode(errors="replace")[:200]}
            return status, answer if isinstance(answer, dict) else {"detail": answer}
        raise AssertionError("the last attempt returns or raises")


def _accept(status: int, answer: dict[str, Any], refused: tuple[int, ...]) -> bool:
    if 200 <= status < 300:
        return True
    if status in refused:
        return False
    text = f"the data server answers {status}: {answer.get('detail')}"
    raise InvalidInput(text) if status in (400, 413, 422) else ShoalError(text)


def _quoted(key: str) -> str:
    return quote(key, safe="/")


def _serialized(value: Any) -> dict[str, Any]:
    if is_json(value):
        return {"type": "json", "data": value}
    return {"type": "pickle", "data": base64.b64encode(pickle.dumps(value, protocol=5)).decode()}


def _value(serialized: dict[str, Any]) -> Any:
    if serialized["type"] == "pickle":
        return pickle.loads(base64.b64decode(serialized["data"]))
    return serialized["data"]


class DataStorage:
    """Values in the memory of this process: volatile ones go when room is needed, the one that was used longest ago first."""

    def __init__(self, max_memory: int = _MEMORY) -> None:
        self._lock = threading.Lock()
        self._values: OrderedDict[str, tuple[bytes, bool]] = OrderedDict()
        self._size = 0
        self._max_memory = max_memory

    def write(self, key: str, value: Any, persist: bool = True) -> bool:
        """Stores a value; false when there is no room for it, and the key has what it had."""
        data = pickle.dumps(value, protocol=5)
        with self._lock:
            old = self._values.get(key)
            size = _size(key, data)
            kept = sum(_size(name, held) for name, (held, keep) in self._values.items() if keep and name != key)
            if kept + size > self._max_memory:
                return False
            if old is not None:
                self._drop(key)
            self._evict(self._max_memory - size)
            self._values[key] = (data, persist)
            self._size += size
            return True

    def read(self, key: str) -> Any:
        """The value of a key; ``None`` when there is none."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
        return pickle.loads(found[0])

    def release(self, key: str) -> bool:
        """Removes a key; false when there was none."""
        with self._lock:
            if key not in self._values:
                return False
            self._drop(key)
            return True

    def set_max_memory(self, max_size: int) -> None:
        """Sets how many bytes it may keep; volatile values go until that is so."""
        if max_size <= 0:
            raise InvalidInput("a storage has room for a byte at least")
        with self._lock:
            self._max_memory = max_size
            self._evict(max_size)

    def get_stats(self) -> dict[str, Any]:
        """How much is stored, and how much may be."""
        with self._lock:
            persistent = sum(keep for _, keep in self._values.values())
            total, size, most = len(self._values), self._size, self._max_memory
        return {
            "max_size": most,
            "current_size": size,
            "usage_percent": 100 * size / most,
            "persistent_keys": persistent,
            "volatile_keys": total - persistent,
            "total_keys": total,
            "memory_info": _memory_info(),
        }

    def _evict(self, left: int) -> None:
        for key in [key for key, (_, keep) in self._values.items() if not keep]:
            if self._size <= left:
                return
            self._drop(key)

    def _drop(self, key: str) -> None:
        data, _ = self._values.pop(key)
        self._size -= _size(key, data)


def _size(key: str, data: bytes) -> int:
    return len(key.encode()) + len(data)


def _memory_info() -> dict[str, Any]:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    return {"available": free, "total": total, "percent": round(100 * (total - free) / total, 1)}


_storage = DataStorage()
#: The ports of servers that this process runs.
_own_ports: set[int] = set()


def get_storage() -> DataStorage:
    """The storage of this process.

    >>> set_max_memory(1 << 20)
    >>> storage = get_storage()
    >>> storage.write("key1", "value1", persist=True)
    True
    >>> storage.read("key1")
    'value1'
    >>> storage.release("key1")
    True
    """
    return _storage


def set_max_memory(max_size: int) -> None:
    """Sets how many bytes the storage of this process may keep."""
    _storage.set_max_memory(max_size)


def start_server(host: str = "0.0.0.0", port: int = 9015, max_mem_size: int = _MEMORY) -> None:
    """Runs a server until it ends: the program ``shoal``, which ``SHOAL_BINARY`` names or the search path has. Beyond
    loopback, as gswarm's own, it lets everybody in."""
    program = os.environ.get("SHOAL_BINARY") or shutil.which("shoal")
    if program is None:
        raise ShoalError("there is no program 'shoal' to run", hint="cargo install --path control/cli --locked")
    command = [program, "serve", "--listen", f"{host}:{port}", "--max-memory", str(max_mem_size)]
    if host not in ("localhost", "::1") and not host.startswith("127."):
        command.append("--insecure")
    command.append(f"--exit-with-parent={os.getpid()}")
    _own_ports.add(port)
    try:
        ended = subprocess.run(command, check=False)
    finally:
        _own_ports.discard(port)
    if ended.returncode != 0:
        raise ShoalError(f"the server ended with {ended.returncode}; what it wrote says why")
