"""Arrays put and got from Python, beside `numpy.copyto`, Redis and a plain TCP stream of the same bytes in the same rounds.

    cargo xtask bench --python [-- --rounds 9 --sizes 8MB,1GiB]

It runs the nodes that SHOAL_BINARY names, and Redis where `redis-server` is on the search path or REDIS_SERVER names one. Each round
does everything in turn, with bytes of its own, what is small several times, and before each thing its yardstick; shown are the medians, and
the least, median and largest ratio to the yardstick right before. Reads are checked outside the measured time, and Python collects
garbage between rounds alone. What is touched and what is fresh:

- `copy` writes to memory that was touched before, as `put` does: its node has taken its memory at the start. `copy, fresh` and
  `put, fresh` write to memory that nobody has touched: a new array, and a node that was just started. `put, digest` computes BLAKE3
  as well, and so does `put, durable`, which is on disk.
- `get` copies nothing and touches nothing; `get, sum` reads every byte, beside a copy and a sum of it.
- `remote get` is the get of a node that does not have the bytes, over TCP from one that does; `tcp stream` is one process that sends
  as many bytes over loopback to another, which receives them into memory that was touched before.
- Redis takes at most 512 MiB for a value: what is larger is written in as many parts. Its values are copied out of the socket twice.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "control/python/tests"))
from node import Node  # noqa: E402

import shoal  # noqa: E402

UNITS = {"MB": 10**6, "MiB": 1 << 20, "GB": 10**9, "GiB": 1 << 30}
#: The largest value that Redis takes.
REDIS_VALUE_MAX = 512 << 20
STEP = 1 << 20
#: What is small is done again until so many bytes were moved, as programs do, but no more often than this.
REPEATED = 256 << 20
REPEATS_MAX = 8

#: What is measured, with the yardstick of each.
YARDSTICKS = {
    "copy": None,
    "put": "copy",
    "put, digest": "copy",
    "put, durable": "copy",
    "redis set": "copy",
    "copy, fresh": None,
    "put, fresh": "copy, fresh",
    "get": "copy",
    "redis get": "copy",
    "copy, sum": None,
    "get, sum": "copy, sum",
    "tcp stream": None,
    "remote get": "tcp stream",
}


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


class Redis:
    """A Redis that keeps nothing on disk, on a socket of its own."""

    def __init__(self, program: str, memory: int) -> None:
        import redis

        self._folder = tempfile.TemporaryDirectory(prefix="shoal-redis-")
        path = f"{self._folder.name}/socket"
        command = [program, "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no"]
        command += ["--proto-max-bulk-len", str(REDIS_VALUE_MAX), "--maxmemory", str(memory), "--dir", self._folder.name]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._client = redis.Redis(unix_socket_path=path)
        until = time.monotonic() + 30
        while True:
            try:
                self.version = self._client.info("server")["redis_version"]
                return
            except redis.exceptions.ConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def set(self, array: np.ndarray) -> None:
        for number, start in enumerate(range(0, array.nbytes, REDIS_VALUE_MAX)):
            self._client.set(f"a{number}", memoryview(array[start : start + REDIS_VALUE_MAX]))

    def get(self, size: int) -> list[np.ndarray]:
        parts = range(-(-size // REDIS_VALUE_MAX))
        return [np.frombuffer(self._client.get(f"a{number}"), np.uint8) for number in parts]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


@contextmanager
def sender(size: int) -> Iterator[tuple[str, int]]:
    """A process that sends as many bytes to whoever connects; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            data = memoryview(np.ones(size, np.uint8))
            while True:
                peer, _ = listener.accept()
                with peer:
                    for start in range(0, size, STEP):
                        peer.sendall(data[start : start + STEP])

        process = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
        process.start()
        try:
            yield listener.getsockname()
        finally:
            process.kill()
            process.join()


def receive(address: tuple[str, int], target: np.ndarray) -> None:
    view, done = memoryview(target), 0
    with socket.create_connection(address) as stream:
        while done < len(view):
            done += stream.recv_into(view[done:])


def put_fresh(source: np.ndarray, memory: str) -> float:
    """Puts into a node that was just started."""
    node = Node(memory=memory, cores=1)
    try:
        with shoal.Client(node.socket) as client:
            client.ls()
            return seconds(lambda: client.put("fresh", source, volatile=True))[0]
    finally:
        node.stop()


class Times:
    """What everything took, each with its yardstick right before it."""

    def __init__(self) -> None:
        #: In seconds.
        self.taken: dict[str, list[float]] = {}
        #: The yardstick's time by that of what was measured beside it.
        self.ratios: dict[str, list[float]] = {}

    def measure(self, name: str, yardstick: Callable[[], Any], work: Callable[[], Any], check: Callable[[Any], bool] = lambda _: True) -> None:
        self.add(name, seconds(yardstick)[0], *seconds(work), check)

    def add(self, name: str, beside: float, took: float, result: Any = None, check: Callable[[Any], bool] = lambda _: True) -> None:
        assert check(result), f"{name}: other bytes came than were written"
        self.taken.setdefault(YARDSTICKS[name], []).append(beside)
        self.taken.setdefault(name, []).append(took)
        self.ratios.setdefault(name, []).append(beside / took)

    def clear(self) -> None:
        self.taken, self.ratios = {}, {}


def rounds(size: int, count: int) -> Times:
    source = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    words = source[: size // 8 * 8].view(np.uint64)
    target = np.zeros_like(source)
    memory = f"{max(5 * size // 2, 256 << 20)}B"
    repeats, times = max(1, min(REPEATS_MAX, REPEATED // size)), Times()
    with ExitStack() as stack:
        near = Node("--prefault", "--transports", "tcp", memory=memory)
        stack.callback(near.stop)
        far = Node("--prefault", "--transports", "tcp", "--name", "far", "--join", near.address, memory=memory)
        stack.callback(far.stop)
        client = stack.enter_context(shoal.Client(near.socket))
        other = stack.enter_context(shoal.Client(far.socket))
        stream = stack.enter_context(sender(size))
        program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
        redis = stack.enter_context(closing(Redis(program, 4 * size + (256 << 20)))) if program else None
        stamps = itertools.count()

        def change() -> Any:
            # Bytes that are there already are not stored again.
            words[:: 1 << 10] = next(stamps)
            return words.sum()

        def copy() -> None:
            np.copyto(target, source)

        def is_source(array: np.ndarray) -> bool:
            return np.array_equal(array, source)

        def volatile() -> None:
            total = change()
            times.measure("put", copy, lambda: client.put("array", source, volatile=True))
            times.measure("get", copy, lambda: client.get("array"), is_source)
            times.measure(
                "get, sum",
                lambda: (np.copyto(target, source), target[: words.nbytes].view(np.uint64).sum()),
                lambda: client.get("array")[: words.nbytes].view(np.uint64).sum(),
                lambda sum: sum == total,
            )
            times.measure("remote get", lambda: receive(stream, target), lambda: other.get("array"), is_source)
            client.rm("array")

        def digest() -> None:
            change()
            times.measure("put, digest", copy, lambda: client.put("array", source, volatile=True, digest=True))
            client.rm("array")

        def durable() -> None:
            change()
            times.measure("put, durable", copy, lambda: client.put("array", source))
            client.rm("array")

        def through_redis() -> None:
            if redis is not None:
                change()
                times.measure("redis set", copy, lambda: redis.set(source))
                times.measure("redis get", copy, lambda: redis.get(size), lambda parts: is_source(np.concatenate(parts)))

        for number in range(count + 1):
            gc.collect()
            for block in (volatile, digest, durable, through_redis):
                for _ in range(repeats):
                    block()
            copied = seconds(lambda: np.copyto(np.empty_like(source), source))[0]
            times.add("put, fresh", copied, put_fresh(source, memory))
            if number == 0:
                # The first round is a warm-up.
                times.clear()
    return times


def show(name: str, times: Times) -> None:
    print(f"| {name} | median, ms | beside | ratio of rates: min / median / max |\n|---|---|---|---|")
    for step, yardstick in YARDSTICKS.items():
        if step not in times.taken:
            continue
        shown = ""
        if yardstick is not None:
            ratios = times.ratios[step]
            shown = f"{min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"
        print(f"| {step} | {1000 * statistics.median(times.taken[step]):.2f} | {yardstick or ''} | {shown} |")
    print(flush=True)


def size_of(text: str) -> int:
    number = text.rstrip("GMiB")
    return int(number) * UNITS[text[len(number) :]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how many rounds count (default: %(default)s)")
    parser.add_argument("--sizes", default="8MB,1GiB", help="separated by commas (default: %(default)s)")
    arguments = parser.parse_args()
    gc.disable()
    for text in arguments.sizes.split(","):
        show(text, rounds(size_of(text), arguments.rounds))


if __name__ == "__main__":
    main()
