"""The examples in docstrings and documents run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from node import Node

import shoal


def forget_files() -> None:
    """Lets file systems be made again, for the node of the test."""
    if "shoal.filesystem" in sys.modules:
        sys.modules["shoal.filesystem"].ShoalFileSystem.clear_instance_cache()


MODULES = ["shoal", *(module.name for module in pkgutil.walk_packages(shoal.__path__, "shoal."))]


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"shoal._shoal"}))
def test_docstrings(name: str, monkeypatch: pytest.MonkeyPatch, own_node: Node) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"it needs {error.name}")
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    if not tests:
        return
    monkeypatch.setenv("SHOAL_NODE", own_node.socket)
    forget_files()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        for key in (key.key for key in shoal.Client().ls()):
            shoal.Client().rm(key)
        for entry in shoal.Client().kv.scan(values=False):
            shoal.Client().kv.delete(entry.key)
        test.globs.setdefault("Client", shoal.Client)
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


ROOT = Path(__file__).parents[3]
BLOCKS = [
    pytest.param(path, at, id=f"{path.name}:{text[: at.start()].count(chr(10)) + 1}")
    for path in (ROOT / "docs/python.md", ROOT / "README.md")
    for text in [path.read_text()]
    for at in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize(("path", "block"), BLOCKS)
def test_documents(path: Path, block: re.Match[str], monkeypatch: pytest.MonkeyPatch, own_node: Node) -> None:
    if "import torch" in block[1]:
        pytest.importorskip("torch")
    monkeypatch.setenv("SHOAL_NODE", own_node.socket)
    forget_files()
    exec(compile(block[1], str(path), "exec"), {"__name__": "example"})


def test_types() -> None:
    pytest.importorskip("mypy")
    # Beside other packages, mypy would take those for part of this one.
    package = ROOT / "control/python/python/shoal"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file"]
    checked = subprocess.run(
        [*command, ROOT / "control/python/pyproject.toml", package],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
