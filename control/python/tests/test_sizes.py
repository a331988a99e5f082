"""Values of every size, type and order through every way in: files, small values, and gswarm's calls."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from node import Node
from strategies import ARRAYS, JSON, KEYS, RELAXED, noise, same

import shoal
from shoal.compat import gswarm

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.fixture(scope="module")
def server(node: Node) -> Iterator[gswarm.DataServer]:
    yield gswarm.DataServer(node.address)


@RELAXED
@given(key=KEYS, size=st.integers(0, 3 * MIB), volatile=st.booleans())
@example(key="empty", size=0, volatile=False)
@example(key="one", size=1, volatile=False)
@example(key="below", size=64 * KIB - 1, volatile=False)
@example(key="inline", size=64 * KIB, volatile=True)
@example(key="above", size=64 * KIB + 1, volatile=True)
@example(key="almost", size=MIB - 1, volatile=True)
@example(key="piece", size=MIB, volatile=False)
@example(key="pieces", size=MIB + 1, volatile=False)
@example(key="ключ/鍵 ☃/~", size=16 * MIB, volatile=True)
def test_bytes(client: shoal.Client, key: str, size: int, volatile: bool) -> None:
    value = noise(size, size).tobytes()
    assert client.put(f"s/{key}", value, volatile=volatile).size == size
    got = client.get(f"s/{key}")
    assert bytes(got) == value and client.info(f"s/{key}").size == size
    del got
    client.rm(f"s/{key}")


@RELAXED
@given(key=KEYS, size=st.integers(0, 64 * KIB))
@example(key="empty", size=0)
@example(key="largest", size=64 * KIB)
def test_small_values(client: shoal.Client, key: str, size: int) -> None:
    value = noise(size, size).tobytes()
    client.kv.put(f"s/{key}", value)
    entry = client.kv.get(f"s/{key}")
    assert entry is not None and entry.value == value and entry.key == f"s/{key}"
    assert client.kv.delete(f"s/{key}")
    with pytest.raises(shoal.InvalidInput):
        client.kv.put(f"s/{key}", bytes(64 * KIB + 1))


@RELAXED
@given(key=st.one_of(KEYS, st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)), value=JSON, persist=st.booleans())
def test_plain_values_over_gswarm(server: gswarm.DataServer, key: str, value: object, persist: bool) -> None:
    assert server.write(key, value, persist=persist)
    assert same(server.read(key), value)
    assert server.release(key) and server.read(key) is None


@settings(parent=RELAXED, max_examples=20)
@given(array=ARRAYS, fortran=st.booleans(), persist=st.booleans())
def test_arrays_over_gswarm(server: gswarm.DataServer, array: np.ndarray, fortran: bool, persist: bool) -> None:
    # Pickled times are in the byte order of the machine.
    assume(array.dtype.kind != "M" or array.dtype.isnative)
    array = np.asfortranarray(array) if fortran and array.ndim else array
    value = {"weights": array, "nested": [array, {"config": (1, "два")}]}
    assert server.write("s/array", value, persist=persist)
    got = server.read("s/array")
    assert same(got["weights"], array) and same(got["nested"][0], array) and got["nested"][1] == {"config": (1, "два")}


@settings(parent=RELAXED, max_examples=10)
@given(size=st.integers(0, MIB), persist=st.booleans())
@example(size=0, persist=True)
@example(size=64 * KIB - 1, persist=False)
@example(size=64 * KIB + 1, persist=True)
@example(size=MIB + 1, persist=False)
@example(size=16 * MIB, persist=True)
def test_bytes_over_gswarm(server: gswarm.DataServer, size: int, persist: bool) -> None:
    value = noise(size, size).tobytes()
    assert server.write("s/bytes", value, persist=persist)
    assert server.read("s/bytes") == value


SLICES = st.builds(slice, st.none() | st.integers(-9, 9), st.none() | st.integers(-9, -1), st.sampled_from([1, 2, 3, -1, -2]))


@settings(parent=RELAXED, max_examples=25)
@given(
    dtype=st.sampled_from(["u1", "<u2", "S3", ">f4", "<f8", "<M8[s]", "c16", "V24"]),
    slices=st.tuples(SLICES, SLICES, SLICES),
    axes=st.permutations(range(3)),
)
def test_views_of_arrays_over_several_pieces(
    local: shoal.Client, dtype: str, slices: tuple[slice, ...], axes: list[int]
) -> None:
    """Elements that lie anywhere are gathered on their way into the memory of the node."""
    item = np.dtype(dtype).itemsize
    whole = np.frombuffer(noise(item * 40 * 50 * max(2000 // item, 30), item), dtype).reshape(40, 50, -1)
    view = whole[slices].transpose(axes)
    local.put("s/view", view, volatile=True)
    got = local.get("s/view")
    assert got.dtype == view.dtype and got.shape == view.shape and got.tobytes() == view.tobytes()
    if view.size:
        repeated = np.broadcast_to(view[:1, :1], (3, 2, view.shape[2]))
        local.put("s/repeated", repeated, volatile=True)
        assert local.get("s/repeated").tobytes() == repeated.tobytes()


def test_a_gigabyte(node: Node) -> None:
    """Four times the memory of the node; less where the machine has no room for it."""
    free = shutil.disk_usage(node.data).free
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if Path("/proc/meminfo").exists():
        (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
        available = int(line.split()[1]) * KIB
    size = GIB if min(free, available) > 4 * GIB else 300 * MIB
    array = np.zeros(size, np.uint8)
    array[:: 1 << 12] = np.arange(size >> 12, dtype=np.uint8)
    with shoal.Client(node.socket) as client:
        client.put("s/large", array)
        assert np.array_equal(client.get("s/large"), array)
        client.rm("s/large")
