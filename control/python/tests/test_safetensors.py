"""Files of safetensors: others read ours, and theirs are read."""

from __future__ import annotations

import numpy as np
import pytest
from node import Node

import shoal
from shoal import safetensors


def test_tensors_are_saved_and_loaded(client: shoal.Client) -> None:
    tensors = {"w": np.arange(300_000, dtype="<f4").reshape(3, -1), "b": np.ones(3, "<f8"), "none": np.empty((0, 2))}
    safetensors.save(client, "st/a", tensors, {"step": "7"})
    for found in (safetensors.load(client, "st/a"), safetensors.load(client, "st/a", tensors)):
        assert found.keys() == tensors.keys()
        for name, array in tensors.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
    assert list(safetensors.load(client, "st/a", ["b"])) == ["b"]
    with pytest.raises(shoal.NotFound, match="'x'"):
        safetensors.load(client, "st/a", ["x"])
    client.put("st/other", b"no such thing")
    with pytest.raises(shoal.InvalidInput):
        safetensors.load(client, "st/other", framework="numpy")


def test_a_long_header_is_read(local: shoal.Client) -> None:
    tensors = {f"layer.{at}.weight": np.full(3, at, "<i4") for at in range(5000)}
    safetensors.save(local, "st/long", tensors, volatile=True)
    assert safetensors.load(local, "st/long", ["layer.4999.weight"])["layer.4999.weight"].tolist() == [4999] * 3


def test_the_library_reads_and_writes_the_same(node: Node, local: shoal.Client, tmp_path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    tensors = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "i": np.arange(3)}
    safetensors.save(local, "st/lib", tensors)
    node.cli("get", "st/lib", "--dest", str(tmp_path / "a.safetensors"))
    found = library.load_file(tmp_path / "a.safetensors")
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    library.save_file(tensors, tmp_path / "b.safetensors")
    local.put_files("st/theirs", tmp_path / "b.safetensors")
    found = safetensors.load(local, "st/theirs", framework="numpy")
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)


def test_torch(local: shoal.Client) -> None:
    torch = pytest.importorskip("torch")
    tensors = {"w": torch.randn(100, 300).to(torch.bfloat16), "n": np.arange(5)}
    safetensors.save(local, "st/torch", tensors)
    found = safetensors.load(local, "st/torch")
    assert torch.equal(found["w"], tensors["w"]) and np.array_equal(found["n"], tensors["n"])
    assert torch.equal(safetensors.load(local, "st/torch", ["w"])["w"], tensors["w"])
