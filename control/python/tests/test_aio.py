"""The client for asyncio."""

from __future__ import annotations

import asyncio
import socket

import pytest
from node import Node

import shoal.aio


def test_calls_run_at_once(node: Node) -> None:
    async def main() -> None:
        async with shoal.aio.Client(node.socket) as client:
            await asyncio.gather(*(client.put(f"aio/{at}", [at], volatile=True) for at in range(40)))
            assert await asyncio.gather(*(client.get(f"aio/{at}") for at in range(40))) == [[at] for at in range(40)]
            assert len(await client.ls("aio/")) == 40 and await client.rm("aio", recursive=True) == 40
            await client.kv.put("aio/kv", b"1")
            async with await client.kv.transaction() as transaction:
                assert (await transaction.get("aio/kv")).value == b"1"
                await transaction.put("aio/kv", b"2")
            assert (await client.kv.get("aio/kv")).value == b"2"
            with pytest.raises(shoal.NotFound):
                await client.get("aio/none")

    asyncio.run(main())


def test_changes_are_followed(node: Node) -> None:
    async def main() -> None:
        async with shoal.aio.Client(node.socket) as client:
            start = await client.kv.put("aio/w0", b"")
            revision = (await client.kv.get("aio/w0")).revision
            assert start
            for at in range(3):
                await client.kv.put(f"aio/w/{at}", b"")
            seen = []
            async for change in client.kv.watch(prefix="aio/w/", after=revision):
                seen.append(change.key)
                if len(seen) == 3:
                    break
            assert seen == ["aio/w/0", "aio/w/1", "aio/w/2"]

    asyncio.run(main())


def test_a_cancelled_task_ends_its_call(node: Node) -> None:
    async def main(address: str) -> None:
        async with shoal.aio.Client(address, retries=0) as client:
            task = asyncio.create_task(client.ls())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with shoal.aio.Client(node.socket) as client:

            async def follow() -> None:
                async for _ in client.kv.watch("aio/never"):
                    pass

            task = asyncio.create_task(follow())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.kv.count("aio/never") == 0

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        asyncio.run(main(f"127.0.0.1:{silent.getsockname()[1]}"))
