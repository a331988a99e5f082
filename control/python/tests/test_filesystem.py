"""Keys as files, for fsspec and what stands on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from node import Node

import shoal

fsspec = pytest.importorskip("fsspec")
filesystem = pytest.importorskip("shoal.filesystem")


@pytest.fixture
def files(node: Node, request: pytest.FixtureRequest):
    files = filesystem.ShoalFileSystem(node.socket)
    with_keys = shoal.Client(node.socket)
    for top in ("fs",):
        if with_keys.ls(top):
            with_keys.rm(top, recursive=True)
    return files


def test_files_and_directories(files, tmp_path: Path) -> None:
    files.pipe({"fs/a": b"aaaa", "fs/b/c": b"ccc", "fs/b/d/e": b"e"})
    assert files.ls("shoal://fs", detail=False) == ["fs/a", "fs/b"]
    assert [(entry["name"], entry["type"], entry["size"]) for entry in files.ls("fs")] == [
        ("fs/a", "file", 4),
        ("fs/b", "directory", 0),
    ]
    assert files.find("fs") == ["fs/a", "fs/b/c", "fs/b/d/e"]
    assert files.find("fs/a") == ["fs/a"]
    assert files.isdir("fs/b") and files.isfile("fs/b/c") and not files.exists("fs/x")
    assert files.glob("fs/**/e") == ["fs/b/d/e"]
    assert files.cat_ranges(["fs/a", "fs/b/c"], [1, 0], [3, 2]) == [b"aa", b"cc"]
    assert files.cat_file("fs/a", -2) == b"aa"
    for missing in (files.cat_file, files.info, files.rm_file):
        with pytest.raises(FileNotFoundError):
            missing("fs/x")
    with pytest.raises(FileNotFoundError):
        files.open("fs/x")
    files.get("fs", str(tmp_path / "copy"), recursive=True)
    assert (tmp_path / "copy" / "b" / "d" / "e").read_bytes() == b"e"
    files.put(str(tmp_path / "copy"), "fs/again", recursive=True)
    assert files.find("fs/again") == ["fs/again/a", "fs/again/b/c", "fs/again/b/d/e"]
    files.copy("fs/a", "fs/copy")
    files.rm("fs/b", recursive=True)
    assert files.find("fs") == ["fs/a", "fs/again/a", "fs/again/b/c", "fs/again/b/d/e", "fs/copy"]


def test_open_files(files) -> None:
    with files.open("fs/f", "wb") as file:
        file.write(b"hello ")
        file.write(bytes(3 << 20))
    with files.open("fs/f") as file:
        assert file.read(5) == b"hello" and file.tell() == 5
        assert file.seek(-2, 2) and file.read() == b"\0\0"
    with pytest.raises(RuntimeError), files.open("fs/f", "wb") as file:
        file.write(b"half")
        raise RuntimeError
    assert files.size("fs/f") == 6 + (3 << 20)
    with pytest.raises(FileExistsError), files.open("fs/f", "xb") as file:
        file.write(b"other")
    with files.open("fs/text", "w") as file:
        file.write("line\n")
    with files.open("fs/text", "r") as file:
        assert file.readlines() == ["line\n"]


def test_the_entry_point_is_known(node: Node) -> None:
    assert "shoal" in fsspec.available_protocols()
    with fsspec.open("shoal://fs/entry", "wb", address=node.socket) as file:
        file.write(b"x")
    assert fsspec.filesystem("shoal", address=node.socket).cat("fs/entry") == b"x"


def test_arrays_and_frames_stand_on_it(files, node: Node) -> None:
    with files.open("fs/array.npy", "wb") as file:
        np.save(file, np.arange(10))
    with files.open("fs/array.npy") as file:
        assert np.load(file).sum() == 45
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2]})
    options = {"address": node.socket}
    frame.to_csv("shoal://fs/frame.csv", index=False, storage_options=options)
    assert pandas.read_csv("shoal://fs/frame.csv", storage_options=options).equals(frame)
    pytest.importorskip("pyarrow")
    frame.to_parquet("shoal://fs/frame.parquet", storage_options=options)
    assert pandas.read_parquet("shoal://fs/frame.parquet", storage_options=options).equals(frame)


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_torch(files, node: Node) -> None:
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    spec = pytest.importorskip("torch.distributed.checkpoint._fsspec_filesystem")
    torch = pytest.importorskip("torch")
    state = {"w": torch.randn(300, 1000), "deep": {"n": torch.arange(10)}, "step": 7}
    checkpoint.save(state, storage_writer=spec.FsspecWriter("shoal://fs/checkpoint", address=node.socket))
    found = {"w": torch.zeros(300, 1000), "deep": {"n": torch.zeros(10, dtype=torch.int64)}, "step": 0}
    checkpoint.load(found, storage_reader=spec.FsspecReader("shoal://fs/checkpoint", address=node.socket))
    assert torch.equal(found["w"], state["w"]) and torch.equal(found["deep"]["n"], state["deep"]["n"])
    assert found["step"] == 7 and "fs/checkpoint/.metadata" in files.find("fs/checkpoint")
