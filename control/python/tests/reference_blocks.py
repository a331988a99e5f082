"""Runs the Python blocks of gswarm's reference as they stand there, on a machine of their own.

They name ports and a path of their own choice. So this runs within a network and a file tree that nobody else has:

    unshare --user --map-root-user --net --mount python reference_blocks.py FOLDER

It prints the title of each block that it has run, and the reason in place of one that cannot run here.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import socket
import struct
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

from node import Node

from shoal.compat import gswarm

REFERENCE = Path(__file__).with_name("gswarm_reference.md")
#: `SIOCGIFFLAGS`, `SIOCSIFFLAGS`, `IFF_UP` (netdevice(7)).
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1


def blocks() -> dict[str, str]:
    """The Python blocks by the titles above them."""
    found = {}
    for section in re.split(r"^### ", REFERENCE.read_text(), flags=re.MULTILINE)[1:]:
        for block in re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
            found[section.splitlines()[0]] = block
    return found


def bring_loopback_up() -> None:
    with socket.socket() as some:
        request = bytearray(struct.pack("16sh22x", b"lo", 0))
        fcntl.ioctl(some, GET_FLAGS, request)
        (flags,) = struct.unpack_from("h", request, 16)
        struct.pack_into("h", request, 16, flags | UP)
        fcntl.ioctl(some, SET_FLAGS, request)


def add_to_tree(folder: Path, path: str, data: bytes) -> None:
    """Enters a file tree that has everything that this one has, and one file more."""
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    for entry in os.scandir("/"):
        if entry.is_symlink():
            (folder / entry.name).symlink_to(os.readlink(entry.path))
        elif entry.is_dir():
            (folder / entry.name).mkdir()
            subprocess.run(["mount", "--rbind", entry.path, folder / entry.name], check=True)
    place = folder / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    os.chroot(folder)
    os.chdir("/")


def run(title: str, shared: dict[str, Any]) -> None:
    exec(compile(blocks()[title], title, "exec"), shared)
    print(title)


def follow_requests(seen: list[tuple[str, str, int]]) -> None:
    """Notes what `requests` is answered."""
    import requests

    send = requests.Session.send

    def noted(self: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        response = send(self, request, **options)
        seen.append((request.method or "", request.path_url, response.status_code))
        return response

    requests.Session.send = noted  # type: ignore[method-assign]


def main(folder: Path) -> None:
    bring_loopback_up()
    (folder / "tree").mkdir()
    add_to_tree(folder / "tree", "/path/to/data.bin", bytes(range(256)) * 5000)
    # The one line that a user of gswarm changes.
    sys.modules["gswarm"] = types.ModuleType("gswarm")
    sys.modules["gswarm.data"] = gswarm

    help_text = subprocess.run([os.environ["SHOAL_BINARY"], "serve", "--help"], capture_output=True, text=True).stdout
    gpus = ["--emulate-gpus", "1"] if "--emulate-gpus" in help_text else []
    flags = ["--allow-source", "/path/to", *gpus]
    first = Node("--name", "node1", *flags, listen="127.0.0.1:9015", memory="1GiB")
    second = Node("--name", "node2", "--join", "127.0.0.1:9015", *flags, listen="127.0.0.1:9016", memory="1GiB")
    shared: dict[str, Any] = {}
    try:
        run("Basic KV Storage Operations", shared)
        assert shared["user_data"] == {"name": "john", "age": 30} and shared["cache_data"] == [1, 2, 3, 4, 5]
        assert shared["success"] and shared["client"].read("temp:cache") is None
        if importlib.util.find_spec("torch") is None:
            print("Advanced KV Storage with Complex Types: torch is not installed")
        else:
            run("Advanced KV Storage with Complex Types", shared)
            config = shared["retrieved_config"]
            assert config["name"] == "llama-7b" and (config["weights"] == shared["data"]).all()
            assert shared["torch"].equal(config["tensor_data"], shared["tensor"])
        run("Direct Storage Access (for embedded use)", shared)
        assert shared["value"] == "value1" and shared["stats"]["max_size"] == 16 << 30
        if gpus:
            answers: list[tuple[str, str, int]] = []
            follow_requests(answers)
            run("Data Pool Operations via HTTP", shared)
            assert [method for method, _, _ in answers] == ["GET", "POST", "GET", "POST", "POST", "DELETE"]
            assert all(200 <= status < 300 for _, _, status in answers), answers
        else:
            print("Data Pool Operations via HTTP: the node has no GPU")
        run("Memory Management", shared)
        shared["check_memory_usage"]()
        assert shared["client"].get_stats()["max_size"] == 32 << 30
    finally:
        second.stop()
        first.stop()
    os.environ["SHOAL_DATA_DIR"] = str(folder / "own")
    run("Starting the Server Programmatically", shared)
    assert shared["client"].read("test") == "Hello, World!"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
