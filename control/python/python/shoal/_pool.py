"""Connections to one node: one for each call that is under way, kept for the next."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from shoal import _shoal
from shoal.errors import Cancelled, ConnectFailed, ShoalError, Timeout, Unavailable

T = TypeVar("T")

#: Connections that are kept while nobody uses them.
_IDLE_MAX = 8
#: The first and the longest pause before a call is made again, in seconds.
_PAUSE_MIN = 0.05
_PAUSE_MAX = 2.0


class Cancel:
    """Ends, from any thread, the calls that a thread makes within ``with cancel.scope()``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: _shoal.Connection | None = None
        self._set = threading.Event()

    def set(self) -> None:
        with self._lock:
            self._set.set()
            if self._connection is not None:
                self._connection.cancel()

    @contextmanager
    def scope(self) -> Iterator[None]:
        _thread.cancel = self
        try:
            yield
        finally:
            _thread.cancel = None

    def watch(self, connection: _shoal.Connection | None) -> None:
        """From here on the connection is what has to be cancelled."""
        with self._lock:
            self._connection = connection
            if self._set.is_set():
                raise Cancelled("the call was cancelled")

    def rest(self, seconds: float) -> None:
        """Waits so long, or until it is set."""
        if self._set.wait(seconds):
            raise Cancelled("the call was cancelled")


class _Thread(threading.local):
    cancel: Cancel | None = None


_thread = _Thread()


class Pool:
    """Carries calls out, each on a connection of its own, and again where that is safe."""

    def __init__(
        self, address: str, token: str | None, timeout: float | None, retries: int, priority: str
    ) -> None:
        self.address = address
        self.timeout = timeout
        self._token = token
        self._retries = retries
        self._priority = priority
        self._lock = threading.Lock()
        self._idle: list[_shoal.Connection] = []
        self._process = os.getpid()
        self._closed = False

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        del idle

    def connect(self, timeout: float | None) -> _shoal.Connection:
        """A connection that nobody else uses."""
        with self._lock:
            if self._closed:
                raise Cancelled("the client is closed", hint="make another one")
            if self._process != os.getpid():
                # The connections of the parent of this process are its own.
                self._idle, self._process = [], os.getpid()
            while self._idle:
                connection = self._idle.pop()
                # A node that was restarted has ended them.
                if connection.is_open:
                    return connection
        return _shoal.Connection(self.address, self._token, timeout, self._priority)

    def fresh(self) -> _shoal.Connection:
        """A connection of the caller's own."""
        return _shoal.Connection(self.address, self._token, self.timeout, self._priority)

    def give_back(self, connection: _shoal.Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)

    def call(
        self,
        work: Callable[[_shoal.Connection, float | None], T],
        *,
        repeatable: bool,
    ) -> T:
        """Carries ``work`` out; with ``repeatable`` it is made again when the node was not to be reached, else only when
        nothing can have been asked of it."""
        until = None if self.timeout is None else time.monotonic() + self.timeout
        pause, cancel = _PAUSE_MIN, _thread.cancel or Cancel()
        for attempt in range(self._retries + 1):
            try:
                return self._once(work, until, cancel)
            except Unavailable as error:
                is_safe = repeatable or isinstance(error, ConnectFailed)
                left = None if until is None else until - time.monotonic()
                if not is_safe or attempt == self._retries or (left is not None and left <= pause):
                    raise
            # Clients that lost the same node shall not all come back at the same moment.
            cancel.rest(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _PAUSE_MAX)
        raise AssertionError("the last attempt returns or raises")

    def _once(
        self,
        work: Callable[[_shoal.Connection, float | None], T],
        until: float | None,
        cancel: Cancel,
    ) -> T:
        connection = self.connect(_left(until))
        try:
            cancel.watch(connection)
            done = work(connection, _left(until))
        except (Unavailable, Cancelled, Timeout):
            # The connection is not what it was.
            raise
        except ShoalError:
            # The node has answered, and the connection is as good as before.
            self._end(connection, cancel)
            raise
        self._end(connection, cancel)
        return done

    def _end(self, connection: _shoal.Connection, cancel: Cancel) -> None:
        try:
            cancel.watch(None)
        except Cancelled:
            return
        self.give_back(connection)


def _left(until: float | None) -> float | None:
    return None if until is None else max(until - time.monotonic(), 0.0)
