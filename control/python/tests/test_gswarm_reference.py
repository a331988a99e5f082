"""What gswarm's reference shows: its Python blocks, and a client that knows nothing but the text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node import START_MAX, Node
from reference_blocks import blocks

ALONE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]


def test_python_blocks(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    pytest.importorskip("requests")
    if shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody have a network of their own (unshare)")
    script = Path(__file__).with_name("reference_blocks.py")
    # The node must end with the test, which a process in a namespace of its own cannot see to by itself.
    ran = subprocess.run(
        [*ALONE, "--kill-child", sys.executable, script, tmp_path],
        capture_output=True,
        text=True,
        timeout=10 * START_MAX,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = ran.stdout.splitlines()
    assert all(any(line.startswith(title) for line in said) for title in blocks()), ran.stdout


class Answer(Exception):
    """What a server answers that is no success."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail = status, detail


class Reader:
    """A client as somebody writes it who has read the reference and nothing else."""

    def __init__(self, host: str) -> None:
        self.base = f"http://{host}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=START_MAX) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise Answer(error.code, json.loads(error.read())["detail"]) from error

    def refused(self, method: str, path: str, body: Any = None) -> Answer:
        with pytest.raises(Answer) as caught:
            self.ask(method, path, body)
        assert caught.value.detail, "an error has a descriptive message"
        return caught.value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[tuple[Reader, str]]:
    """A client of one server, and the address of another of the same cluster."""
    first = Node("--name", "node1", "--allow-source", str(folder))
    second = Node("--name", "node2", "--join", first.address)
    yield Reader(first.address), second.address
    second.stop()
    first.stop()


def test_keys_by_the_reference(servers: tuple[Reader, str]) -> None:
    reader, other = servers
    for persist in (True, False):
        for value in ("john_doe", {"name": "john", "age": 30}, [1, 2.5, None], "", 0, False, "ключ ☃"):
            reader.ask("POST", "/write", {"key": "user:123", "value": value, "persist": persist})
            assert reader.ask("GET", "/read/user:123")["value"] == value
    serialized = {"type": "pickle", "data": "gASVBQAAAAAAAABLKi4="}
    reader.ask("POST", "/write_extended", {"key": "a/b", "serialized_value": serialized, "persist": True})
    assert reader.ask("GET", "/read_extended/a/b")["serialized_value"] == serialized
    reader.ask("POST", "/send", {"key": "user:123", "url": other})
    assert Reader(other).ask("GET", "/read/user:123")["value"] == "ключ ☃"
    stats = reader.ask("GET", "/stats")
    stats = stats.get("stats", stats)
    assert stats["total_keys"] == stats["persistent_keys"] + stats["volatile_keys"] and "usage_percent" in stats
    assert 0 <= stats["current_size"] <= stats["max_size"]
    reader.ask("POST", f"/set_max_memory/{96 << 20}")
    stats = reader.ask("GET", "/stats")
    assert stats.get("stats", stats)["max_size"] == 96 << 20
    reader.ask("DELETE", "/release/user:123")
    assert reader.refused("DELETE", "/release/user:123").status == 404
    assert reader.ask("GET", "/read/user:123").get("value") is None
    assert reader.refused("POST", "/write", {"value": 1}).status in (400, 422)


def test_chunks_by_the_reference(servers: tuple[Reader, str], folder: Path) -> None:
    reader, _ = servers
    (folder / "data.bin").write_bytes(os.urandom(3 << 20))
    create = {"source": str(folder / "data.bin"), "device": "dram", "type": "input", "format": "tensor"}
    chunk_id = reader.ask("POST", "/api/v1/data", create)["chunk_id"]
    assert chunk_id in json.dumps(reader.ask("GET", "/api/v1/data?device=dram&type=input")["chunks"])
    assert chunk_id not in json.dumps(reader.ask("GET", "/api/v1/data?type=output")["chunks"])
    info = reader.ask("GET", f"/api/v1/data/{chunk_id}")
    assert info["chunk_id"] == chunk_id and info["size"] == 3 << 20
    reader.ask("POST", f"/api/v1/data/{chunk_id}/move", {"target_device": "disk", "priority": "high"})
    sent = {"target_node": "node2", "target_device": "dram", "delete_source": False}
    until = time.monotonic() + START_MAX
    while not isinstance(_tried(reader, chunk_id, sent), dict):
        assert time.monotonic() < until
        time.sleep(0.1)
    nowhere = reader.refused("POST", f"/api/v1/data/{chunk_id}/move", {"target_device": "tape"})
    assert nowhere.status == 400 and "dram" in nowhere.detail
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/move")):
        body = {"target_device": "dram"} if method == "POST" else None
        assert reader.refused(method, f"/api/v1/data/chunk_none{path}", body).status == 404
    missing = {**create, "source": str(folder / "none.bin")}
    assert 400 <= reader.refused("POST", "/api/v1/data", missing).status < 500
    reader.ask("DELETE", f"/api/v1/data/{chunk_id}?force=true")
    assert reader.refused("GET", f"/api/v1/data/{chunk_id}").status == 404


def _tried(reader: Reader, chunk_id: str, body: Any) -> Any:
    """What a transfer is answered, or why it is not to be had while the chunk moves."""
    try:
        return reader.ask("POST", f"/api/v1/data/{chunk_id}/transfer", body)
    except Answer as answer:
        assert answer.status in (400, 409), answer
        return None
