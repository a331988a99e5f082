"""How much what a client reads matters beside other transfers."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
from collections.abc import Iterator

import pytest
from node import Node

import shoal
import shoal.aio

PRIORITIES = ("low", "normal", "high", "critical")


@pytest.fixture(scope="module")
def head() -> Iterator[Node]:
    """A node of this module alone: one that others share would miss the second for a while when it has gone."""
    head = Node()
    yield head
    head.stop()


@pytest.fixture(scope="module")
def member(head: Node) -> Iterator[Node]:
    """A second node, to which chunks of the first must be fetched."""
    member = Node("--name", "member", "--join", head.address)
    yield member
    member.stop()


@pytest.fixture
def local(head: Node) -> Iterator[shoal.Client]:
    """A client of the first node."""
    with shoal.Client(head.socket) as client:
        yield client


def fetches(node: Node) -> dict[str, int]:
    """How often the node was to fetch something, by priority."""
    counters = json.loads(node.cli("status", "--json").stdout)["counters"]
    return {priority: counters[f"fetches_{priority}"] for priority in PRIORITIES}


def test_an_unknown_priority_is_refused_before_anything_is_connected() -> None:
    for unknown in ("urgent", "HIGH", "", "1"):
        with pytest.raises(shoal.InvalidInput) as caught:
            shoal.Client("/nowhere", priority=unknown)
        assert "a priority is one of low, normal, high, critical" in str(caught.value)
        with pytest.raises(shoal.InvalidInput):
            shoal.aio.Client("/nowhere", priority=unknown)


@pytest.mark.parametrize("way", ["local", "tcp"])
@pytest.mark.parametrize("priority", PRIORITIES)
def test_a_get_matters_as_much_as_the_client_says(
    member: Node, local: shoal.Client, priority: str, way: str
) -> None:
    key, value = f"priorities/{priority}/{way}", os.urandom(2 << 20)
    local.put(key, value)
    before = fetches(member)
    address = member.socket if way == "local" else member.address
    with shoal.Client(address, priority=priority) as reader:
        assert bytes(reader.get(key)) == value
    after = fetches(member)
    assert [name for name in PRIORITIES if after[name] != before[name]] == [priority]


def test_a_client_that_was_pickled_or_is_awaited_has_its_priority(member: Node, local: shoal.Client) -> None:
    before = fetches(member)
    local.put("priorities/pickled", os.urandom(2 << 20))
    with shoal.Client(member.socket, priority="high") as first, pickle.loads(pickle.dumps(first)) as second:
        second.get("priorities/pickled")

    async def read() -> None:
        async with shoal.aio.Client(member.socket, priority="critical") as reader:
            await reader.get("priorities/awaited")

    local.put("priorities/awaited", os.urandom(2 << 20))
    asyncio.run(read())
    after = fetches(member)
    assert [name for name in PRIORITIES if after[name] != before[name]] == ["high", "critical"]
