"""Nodes for the tests, and the way to one for the examples in docstrings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from node import Node

import shoal


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """One node that all tests share, each with keys of its own."""
    node = Node()
    yield node
    node.stop()


@pytest.fixture
def own_node() -> Iterator[Node]:
    """A node that the test may kill."""
    node = Node()
    yield node
    node.stop()


@pytest.fixture(params=["local", "tcp"])
def client(node: Node, request: pytest.FixtureRequest) -> Iterator[shoal.Client]:
    """A client over each way to the node."""
    with shoal.Client(node.socket if request.param == "local" else node.address) as client:
        yield client


@pytest.fixture
def local(node: Node) -> Iterator[shoal.Client]:
    """A client that shares the node's memory."""
    with shoal.Client(node.socket) as client:
        yield client
