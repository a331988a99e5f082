"""Every value comes back as what it was, in any size, over every way."""

from __future__ import annotations

import subprocess
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from node import Node
from strategies import ARRAYS, JSON, LITTLE, RELAXED, same

import shoal

MIB = 1 << 20


@RELAXED
@given(value=JSON)
def test_plain_values(client: shoal.Client, value: object) -> None:
    client.put("v/json", value, volatile=True)
    assert same(client.get("v/json"), value)
    assert client.info("v/json").labels == {"type": "json"}


@RELAXED
@given(array=ARRAYS, fortran=st.booleans())
def test_arrays(client: shoal.Client, array: np.ndarray, fortran: bool) -> None:
    array = np.asfortranarray(array) if fortran and array.ndim else array
    client.put("v/npy", array, volatile=True)
    got = client.get("v/npy")
    assert same(got, array)
    assert not got.flags.writeable or got.size == 0 or got.itemsize == 0
    client.put("v/strided", array[::2] if array.ndim else array, volatile=True)
    assert same(client.get("v/strided"), array[::2] if array.ndim else array)


@RELAXED
@given(
    tensors=st.dictionaries(
        st.text(max_size=5).filter(lambda name: name not in ("__metadata__", "$tensor")),
        LITTLE.flatmap(lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, max_side=4))),
        max_size=4,
    ),
    rest=JSON,
)
def test_dicts_with_arrays(local: shoal.Client, tensors: dict[str, np.ndarray], rest: object) -> None:
    local.put("v/flat", tensors, volatile=True)
    got = local.get("v/flat")
    assert got.keys() == tensors.keys() and all(same(got[name], tensors[name]) for name in tensors)
    value = {"tensors": tensors, "rest": [rest, *tensors.values()]}
    local.put("v/tree", value, volatile=True)
    assert same(local.get("v/tree"), value)


@pytest.mark.parametrize("size", [0, 1, 4095, 65535, 65536, MIB - 1, MIB, MIB + 1, 5 * MIB + 7, 40 * MIB])
def test_bytes_of_any_size(client: shoal.Client, size: int) -> None:
    value = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    put = client.put("v/raw", value, volatile=True)
    assert put.size == size
    got = client.get("v/raw")
    assert isinstance(got, shoal.Bytes) and len(got) == size and bool(got) == bool(size)
    assert bytes(got) == value and memoryview(got).readonly
    middle = size // 2
    assert bytes(client.get_range("v/raw", middle, middle + 100)) == value[middle : middle + 100]
    assert bytes(client.get_range("v/raw", -7, size)) == value[-7:]
    assert bytes(client.get_range("v/raw", size, size + 9)) == b""


def test_scalars_and_buffers(local: shoal.Client) -> None:
    for value in (np.float32(1.5), np.int64(-3), np.bool_(True), np.datetime64("2026-11-21")):
        local.put("v/scalar", value)
        assert same(local.get("v/scalar"), value)
    for buffer in (bytearray(b"abc"), memoryview(b"abc"), memoryview(b"abc").cast("B", (3, 1))):
        local.put("v/buffer", buffer)
        assert bytes(local.get("v/buffer")) == b"abc"


def test_pickle_is_only_used_when_asked_for(node: Node, local: shoal.Client) -> None:
    for value in ((1, 2), {1: 2}, [float("nan")], np.array([object()]), uuid.UUID(int=1), {"a": (np.zeros(2),)}):
        with pytest.raises(shoal.PickleRefused, match="allow_pickle"):
            local.put("v/any", value)
    value = uuid.UUID(int=7)
    local.put("v/any", value, allow_pickle=True)
    with pytest.raises(shoal.PickleRefused):
        local.get("v/any")
    assert local.get("v/any", allow_pickle=True) == value
    with shoal.Client(node.socket, allow_pickle=True) as trusting:
        assert trusting.get("v/any") == value


def test_others_see_files_of_usual_formats(node: Node, local: shoal.Client, tmp_path) -> None:
    array = np.arange(12.0).reshape(3, 4)
    local.put("v/file", array, labels={"team": "a"})
    node.cli("get", "v/file", "--dest", str(tmp_path / "a.npy"))
    assert same(np.load(tmp_path / "a.npy"), array)
    shown = node.cli("info", "v/file").stdout
    assert "type=npy" in shown and "team=a" in shown
    (tmp_path / "plain").write_bytes(b"text")
    node.cli("put", "v/plain", "--src", str(tmp_path / "plain"))
    assert bytes(local.get("v/plain")) == b"text"


def test_bytes_that_lie_about_their_type_are_refused(local: shoal.Client) -> None:
    for kind in ("json", "npy", "safetensors"):
        for data in (b"", b"x", b"\xff" * 100, b"\x93NUMPY\x01\x00\xff\xff", (10).to_bytes(8, "little") + b'{"a":{}}  '):
            local.put("v/lie", data)
            raw = local._pool
            parts = [memoryview(data)]
            raw.call(
                lambda connection, left: connection.put("v/lie", parts, False, True, {"type": kind}, None, None, left),
                repeatable=False,
            )
            with pytest.raises(shoal.InvalidInput):
                local.get("v/lie")
    with pytest.raises(shoal.InvalidInput, match="not known here"):
        local.put("v/new", b"")
        raw.call(lambda c, left: c.put("v/new", [], False, True, {"type": "hologram"}, None, None, left), repeatable=False)
        local.get("v/new")


@pytest.mark.filterwarnings("error")
def test_tensors(local: shoal.Client) -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn):
        for shape in ((), (0,), (3, 5), (700, 300)):
            tensor = torch.ones(shape).to(dtype)
            local.put("v/tensor", tensor, volatile=True)
            got = local.get("v/tensor")
            assert got.dtype == dtype and got.shape == tensor.shape
            assert torch.equal(got.to(torch.float32), tensor.to(torch.float32))
    big = torch.arange(1_000_000.0)
    local.put("v/tensor", {"t": big, "n": np.ones(3), "lr": 0.5, "deep": [big[::2]]})
    got = local.get("v/tensor")
    assert torch.equal(got["t"], big) and torch.equal(got["deep"][0], big[::2])
    assert isinstance(got["n"], np.ndarray) and got["lr"] == 0.5
    # What is written to a tensor nobody else sees.
    got["t"][0] = 5
    assert local.get("v/tensor")["t"][0] == 0
