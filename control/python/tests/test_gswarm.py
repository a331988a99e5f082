"""gswarm's Python interface: the examples of its reference run with one import line changed."""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from node import START_MAX, Node

import shoal
from shoal.compat import gswarm


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    """The addresses of two servers."""
    nodes = [Node(), Node()]
    try:
        with urllib.request.urlopen(f"http://{nodes[0].address}/stats"):
            yield nodes[0].address, nodes[1].address
    except urllib.error.HTTPError:
        pytest.skip("the node does not answer gswarm's calls")
    finally:
        for node in nodes:
            node.stop()


def test_basic_operations(servers: tuple[str, str]) -> None:
    client = gswarm.DataServer(servers[0])
    assert client.write("user:123", {"name": "john", "age": 30}, persist=True)
    assert client.write("temp:cache", [1, 2, 3, 4, 5], persist=False)
    assert client.read("user:123") == {"name": "john", "age": 30}
    assert client.read("temp:cache") == [1, 2, 3, 4, 5]
    assert client.read("none") is None
    stats = client.get_stats()
    assert stats["usage_percent"] >= 0 and stats["total_keys"] >= 2
    assert client.send("user:123", servers[1])
    assert gswarm.DataServer(f"http://{servers[1]}").read("user:123") == {"name": "john", "age": 30}
    assert not client.send("none", servers[1])
    assert client.release("temp:cache") and not client.release("temp:cache")
    assert client.set_max_memory(64 << 20)
    assert client.get_stats()["max_size"] == 64 << 20


def test_values_of_any_type(servers: tuple[str, str]) -> None:
    client = gswarm.DataServer(servers[0], use_extended_api=True)
    data = np.random.default_rng(1).random((300, 300))
    config = {"name": "llama-7b", "layers": 32, "weights": data, "shape": (1, 2), "id": uuid.UUID(int=1)}
    for value in (data, config, None, "", 0, (1,), {1: 2}, b"\x00\xff"):
        assert client.write("model:value/with slashes", value, persist=False)
        got = client.read("model:value/with slashes")
        assert type(got) is type(value)
        if isinstance(value, np.ndarray):
            assert np.array_equal(got, value)
        elif value is config:
            assert np.array_equal(got.pop("weights"), data) and got["shape"] == (1, 2)
        else:
            assert got == value
    plain = gswarm.DataServer(servers[0], use_extended_api=False)
    assert plain.write("plain", [1, None], persist=False) and plain.read("plain") == [1, None]


def test_storage_of_this_process() -> None:
    gswarm.set_max_memory(1 << 20)
    storage = gswarm.get_storage()
    assert storage is gswarm.get_storage()
    assert storage.write("key1", "value1", persist=True) and storage.read("key1") == "value1"
    for at in range(20):
        assert storage.write(f"volatile/{at}", bytes(100_000), persist=False)
    stats = storage.get_stats()
    assert stats["current_size"] <= 1 << 20 and 0 < stats["volatile_keys"] < 20 and stats["persistent_keys"] == 1
    assert storage.read("volatile/0") is None and storage.read("volatile/19") == bytes(100_000)
    assert not storage.write("key1", bytes(2 << 20)) and storage.read("key1") == "value1"
    gswarm.set_max_memory(1000)
    assert storage.get_stats()["volatile_keys"] == 0
    assert storage.release("key1") and not storage.release("key1")


def test_nobody_answers() -> None:
    with pytest.raises(shoal.ConnectFailed):
        gswarm.DataServer("127.0.0.1:1").read("k")
    with pytest.raises(shoal.InvalidInput):
        gswarm.DataServer("ftp://there")


def test_a_server_is_started(servers: tuple[str, str], tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_DATA_DIR", str(tmp_path))
    started = os.times().elapsed
    serve = threading.Thread(
        target=gswarm.start_server, kwargs={"host": "localhost", "port": 0, "max_mem_size": 64 << 20}, daemon=True
    )
    serve.start()
    while not (tmp_path / "address").exists():
        assert serve.is_alive() and os.times().elapsed - started < START_MAX
        time.sleep(0.05)
    client = gswarm.DataServer((tmp_path / "address").read_text().strip())
    assert client.write("test", "Hello, World!") and client.read("test") == "Hello, World!"
