"""Bytes in the memory of the node: not copied, held while they are looked at, and never other ones."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from node import Node

import shoal

MIB = 1 << 20


def noise(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def memory_used(client: shoal.Client) -> int:
    return sum(replica.dram_pieces for replica in client.chunks.ls())


def test_views_share_an_address_and_keep_it(local: shoal.Client) -> None:
    array = noise(9 * MIB + 123)
    local.put("w/a", array.tobytes(), volatile=True)
    data = local.get("w/a")
    assert not data.is_copy and data.is_held
    view = np.frombuffer(data, np.uint8)
    linked = np.from_dlpack(data)
    assert view.ctypes.data == linked.ctypes.data == data.address
    assert not view.flags.writeable and not linked.flags.writeable
    with pytest.raises((TypeError, ValueError)):
        memoryview(data)[0] = 1  # type: ignore[index]
    del data, view
    gc.collect()
    assert np.array_equal(linked, array)
    local.put("w/n", array.reshape(-1, 1), volatile=True)
    assert np.array_equal(local.get("w/n")[:, 0], array)


def test_bytes_stay_when_their_key_goes(own_node: Node) -> None:
    """The node needs all of its memory for others meanwhile."""
    array = noise(64 * MIB)
    with shoal.Client(own_node.socket) as client:
        client.put("w", array, volatile=True)
        held = client.get("w")
        client.put("w", noise(MIB, 1), volatile=True)
        client.rm("w")
        for seed in range(12):
            client.put(f"other/{seed}", noise(32 * MIB, seed), volatile=False)
        assert np.array_equal(held, array)
        (data,) = [base for base in _bases(held) if isinstance(base, shoal.Bytes)]
        assert data.is_held
        own_node.kill()
        assert np.array_equal(held, array), "bytes went with their node"


def _bases(array: object) -> list[object]:
    found = []
    while array is not None:
        found.append(array)
        array = getattr(array, "base", None) if isinstance(array, np.ndarray) else getattr(array, "obj", None)
    return found


def test_memory_comes_back_when_views_go(own_node: Node) -> None:
    """More is looked at, one after the other, than the node has memory."""
    with shoal.Client(own_node.socket) as client:
        for seed in range(10):
            array = noise(100 * MIB, seed)
            client.put("w", array, volatile=True)
            held = client.get("w")
            assert np.array_equal(held, array)
            del held, array
            gc.collect()


def test_many_views_at_once_are_copied_in_the_end(own_node: Node) -> None:
    with shoal.Client(own_node.socket) as client:
        arrays = [noise(20 * MIB, seed) for seed in range(10)]
        for number, array in enumerate(arrays):
            client.put(f"w/{number}", array.tobytes())
        held = [client.get(f"w/{number}") for number in range(10)]
        assert {data.is_copy for data in held} == {False, True}
        for data, array in zip(held, arrays, strict=True):
            assert np.array_equal(np.frombuffer(data, np.uint8), array)


def test_bytes_on_disk_alone_are_brought_back(local: shoal.Client) -> None:
    array = noise(6 * MIB)
    local.put("w/disk", array.tobytes())
    chunk, _ = local.info("w/disk").chunks[0]
    local.chunks.rm(chunk, device="dram", force=True)
    data = local.get("w/disk")
    assert not data.is_copy and np.array_equal(np.frombuffer(data, np.uint8), array)


def test_over_tcp_bytes_are_copied(node: Node) -> None:
    with shoal.Client(node.address) as client:
        client.put("w/tcp", noise(3 * MIB).tobytes(), volatile=True)
        assert client.get("w/tcp").is_copy


def test_bytes_of_another_node_are_brought_at_once_and_stay(own_node: Node) -> None:
    """The version that was opened stays, while its key is written, removed, and its node is gone."""
    far = Node("--name", "far", "--join", own_node.address)
    try:
        with shoal.Client(own_node.socket) as near, shoal.Client(far.socket) as client:
            for number, size in enumerate([1, 1000, 65536, 3 * MIB, 8 * MIB + 77]):
                array = noise(size, number)
                near.put("w", array, volatile=True)
                held = client.get("w")
                near.put("w", noise(size, number + 100), volatile=True)
                near.rm("w")
                assert np.array_equal(held, array)
                with pytest.raises(shoal.NotFound):
                    client.get("w")
            own_node.kill()
            assert np.array_equal(held, array)
    finally:
        far.stop()
