"""Keys, errors, retries, interruptions."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node import Node

import shoal


def test_keys_are_listed_described_and_removed(client: shoal.Client) -> None:
    client.put("k/a", 1)
    client.put("k/a", 2)
    client.put("k/b", b"12345", labels={"team": "a"}, ttl=3600)
    listed = {key.key: key for key in client.ls("k/")}
    assert list(listed) == ["k/a", "k/b"] and listed["k/b"].size == 5
    info = client.info("k/b")
    assert info.labels == {"team": "a", "type": "raw"} and info.shape == "stream" and len(info.chunks) == 1
    assert info.expires is not None and abs(info.expires - time.time() - 3600) < 600
    version = client.info("k/a").version
    with pytest.raises(shoal.Conflict):
        client.put("k/a", 3, if_version=version + 1)
    assert client.put("k/a", 3, if_version=version).version == version + 1
    assert client.rm("k", recursive=True) == 2 and client.ls("k/") == []
    with pytest.raises(shoal.NotFound) as caught:
        client.get("k/a")
    assert caught.value.code == "not_found" and "shoal ls" in (caught.value.hint or "")
    with pytest.raises(LookupError):
        client.info("k/a")
    with pytest.raises(shoal.InvalidInput):
        client.put("", 1)


def test_what_is_volatile_has_no_digest_unless_asked_for(client: shoal.Client) -> None:
    value = os.urandom(3 << 20)

    def put(**how: bool) -> str:
        client.put("k/named", value, **how)
        ((chunk, size),) = client.info("k/named").chunks
        assert size == len(value) and bytes(client.get("k/named")) == value
        return chunk

    digest = put()
    assert put(volatile=True, digest=True) == digest == put(volatile=False, digest=True)
    first, second = put(volatile=True), put(digest=False)
    assert len({digest, first, second}) == 3
    with pytest.raises(shoal.InvalidInput) as caught:
        client.get_files("k/named", "/nowhere", verify=True)
    assert "without a digest" in str(caught.value)


def test_a_chunk_without_a_digest_is_verified_where_it_is_moved_to(own_node: Node) -> None:
    second = Node("--name", "second", "--join", own_node.address)
    try:
        with shoal.Client(own_node.socket) as client, shoal.Client(second.socket) as other:
            value = os.urandom(5 << 20)
            client.put("k/moved", value, volatile=True)
            ((chunk, _),) = client.info("k/moved").chunks
            client.chunks.move(chunk, "second")
            assert [replica.node for replica in client.chunks.info(chunk)] == ["second"]
            assert bytes(other.get("k/moved")) == value == bytes(client.get("k/moved"))
            client.rm("k/moved")
    finally:
        second.stop()


def test_files(client: shoal.Client, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "a").write_bytes(b"aaa")
    assert client.put_files("k/tree", tree).size == 3
    client.get_files("k/tree", tmp_path / "copy", verify=True)
    assert (tmp_path / "copy" / "below" / "a").read_bytes() == b"aaa"
    assert client.info("k/tree").files == [("below/a", 3)]
    with pytest.raises(shoal.InvalidInput):
        client.get("k/tree")


def test_nobody_at_the_address(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(shoal.ConnectFailed) as caught:
        shoal.Client(str(tmp_path / "nothing.sock"), retries=2).ls()
    assert "shoal serve" in (caught.value.hint or "") and time.monotonic() - started > 0.05
    with pytest.raises(shoal.InvalidInput):
        shoal.Client("no address").ls()


def test_a_wrong_token_is_denied(tmp_path: Path) -> None:
    token = "right " * 8
    (tmp_path / "token").write_text(token)
    (tmp_path / "token").chmod(0o600)
    node = Node("--token-file", str(tmp_path / "token"))
    try:
        assert shoal.Client(node.address, token=token).ls() == []
        with pytest.raises(shoal.Denied):
            shoal.Client(node.address, token="wrong").ls()
    finally:
        node.stop()


def test_reads_are_made_again_after_a_restart(own_node: Node) -> None:
    with shoal.Client(own_node.socket, retries=60, timeout=240) as client:
        client.put("k", [1])
        own_node.kill()
        starting = threading.Thread(target=own_node.start)
        starting.start()
        try:
            assert client.get("k") == [1]
        finally:
            starting.join()


@pytest.fixture
def silent() -> str:
    """The address of somebody who accepts and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_call_ends_at_its_timeout(silent: str, node: Node) -> None:
    with pytest.raises(shoal.Timeout):
        shoal.Client(silent, timeout=0.2).ls()
    with shoal.Client(node.socket, timeout=1e-9) as client, pytest.raises((shoal.Timeout, TimeoutError)):
        client.ls()


@pytest.mark.parametrize("waits_for", ["a node", "a change"])
def test_an_interrupt_ends_a_call(waits_for: str, silent: str, node: Node) -> None:
    waiting = {
        "a node": f"shoal.Client({silent!r}).ls()",
        "a change": f"next(shoal.Client({node.socket!r}).kv.watch('k/never'))",
    }
    program = f"""
import shoal, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    print("ready", flush=True)
    {waiting[waits_for]}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    until = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < until:
        child.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert child.stdout.read() == "interrupted\n"
    child.stdout.close()


def test_a_call_to_a_node_that_falls_silent_ends_at_its_timeout_or_an_interrupt(own_node: Node) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    asks: list[Callable[[shoal.Client], object]] = [
        lambda client: client.kv.get("k/silent"),
        lambda client: client.put("k/silent", bytes(1 << 20), volatile=True),
    ]
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for ask in asks:
            with shoal.Client(own_node.socket, retries=0, timeout=0.3) as client:
                client.ls()
                own_node.process.send_signal(signal.SIGSTOP)
                with pytest.raises(shoal.Timeout):
                    ask(client)
                own_node.process.send_signal(signal.SIGCONT)
            with shoal.Client(own_node.socket, retries=0, timeout=600) as client:
                client.ls()
                own_node.process.send_signal(signal.SIGSTOP)
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                with pytest.raises(KeyboardInterrupt):
                    ask(client)
                own_node.process.send_signal(signal.SIGCONT)
    finally:
        own_node.process.send_signal(signal.SIGCONT)
        signal.signal(signal.SIGALRM, before)


def test_many_threads_share_a_client(local: shoal.Client) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for round in range(20):
                local.put(f"k/thread/{number}", [number, round], volatile=True)
                assert local.get(f"k/thread/{number}") == [number, round]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_child_process_has_connections_of_its_own(local: shoal.Client) -> None:
    local.put("k/fork", bytes(1 << 20), volatile=True)
    held = local.get("k/fork")
    child = os.fork()
    if child == 0:
        try:
            same = bytes(local.get("k/fork")) == bytes(1 << 20) == bytes(held)
            del held
            os._exit(0 if same else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert held.is_held and bytes(local.get("k/fork")) == bytes(held)


def test_chunks_are_placed(local: shoal.Client) -> None:
    local.put("k/chunk", bytes(range(256)) * 1000)
    chunk, size = local.info("k/chunk").chunks[0]
    assert size == 256_000
    local.chunks.pin(chunk[:16])
    (replica,) = local.chunks.info(chunk)
    assert replica.pinned and replica in local.chunks.ls()
    local.chunks.unpin(chunk)
    local.chunks.copy(chunk, replica.node, "nvme")
    local.chunks.rm(chunk, device="dram", force=True)
    assert local.chunks.info(chunk)[0].dram_pieces == 0
    with pytest.raises(shoal.InvalidInput):
        local.chunks.copy(chunk, replica.node, "tape")
    with pytest.raises(shoal.NotFound):
        local.chunks.info("00000000000000000000")
    assert bytes(local.get("k/chunk")) == bytes(range(256)) * 1000


def test_a_closed_client_says_so(node: Node) -> None:
    client = shoal.Client(node.socket)
    client.close()
    with pytest.raises(shoal.Cancelled, match="closed"):
        client.ls()
