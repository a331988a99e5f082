"""A real node for tests."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

#: Seconds that a node may take to answer; machines that build something else meanwhile are slow.
START_MAX = 120.0


class Node:
    """A `shoal serve` of its own, with a data directory that goes with it."""

    def __init__(
        self, *flags: str, cores: int = 1, memory: str = "256MiB", listen: str = "127.0.0.1:0"
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="shoal-py-")
        self.data = Path(self._directory.name)
        self.binary = os.environ["SHOAL_BINARY"]
        self._flags = ["--max-memory", memory, "--listen", listen, "--cores", str(cores), *flags]
        self.socket = str(self.data / "shoal.sock")
        self.start()

    def start(self) -> None:
        log = open(self.data / "log", "ab")
        command = [self.binary, "serve", "--data-dir", str(self.data), f"--exit-with-parent={os.getpid()}", *self._flags]
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        until = time.monotonic() + START_MAX
        while self.cli("status", check=False).returncode != 0:
            text = (self.data / "log").read_text()
            assert self.process.poll() is None and time.monotonic() < until, f"the node does not start: {text}"
            time.sleep(0.05)

    @property
    def address(self) -> str:
        """Where it listens for TCP."""
        return (self.data / "address").read_text().strip()

    def cli(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [self.binary, "--node", self.socket, *words]
        return subprocess.run(command, check=check, capture_output=True, text=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        self._directory.cleanup()
