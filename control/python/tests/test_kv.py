"""Small values."""

from __future__ import annotations

import threading
import time

import pytest

import shoal


def test_values_have_versions_and_labels(client: shoal.Client) -> None:
    kv = client.kv
    kv.delete("kv/a")
    version = kv.put("kv/a", "one", labels={"x": "y"})
    entry = kv.get("kv/a")
    assert entry is not None and (entry.value, entry.version, entry.labels) == (b"one", version, {"x": "y"})
    assert kv.get("kv/none") is None
    assert kv.get_many(["kv/none", "kv/a"]) == [None, entry]
    with pytest.raises(shoal.Conflict):
        kv.cas("kv/a", b"two", version + 1)
    assert kv.cas("kv/a", b"\x00\xff", version) == version + 1
    with pytest.raises(shoal.Conflict):
        kv.delete("kv/a", version=version)
    assert kv.delete("kv/a") == version + 1 and kv.delete("kv/a") == 0
    with pytest.raises(shoal.InvalidInput):
        kv.put("kv/a", bytes(70_000))


def test_values_are_scanned_and_counted(local: shoal.Client) -> None:
    for at in range(25):
        local.kv.put(f"kv/s/{at:02}", str(at))
    assert local.kv.count("kv/s/") == 25
    found = list(local.kv.scan("kv/s/"))
    assert [entry.value for entry in found] == [str(at).encode() for at in range(25)]
    assert [entry.key for entry in local.kv.scan("kv/s/", values=False, limit=3)] == ["kv/s/00", "kv/s/01", "kv/s/02"]


def test_values_expire(local: shoal.Client) -> None:
    local.kv.put("kv/t", b"x", ttl=1000)
    left = local.kv.ttl("kv/t")
    assert left is not None and 500 < left < 1500
    local.kv.extend("kv/t", 1000)
    assert (local.kv.ttl("kv/t") or 0) > 1500
    local.kv.persist("kv/t")
    assert local.kv.ttl("kv/t") is None
    local.kv.expire("kv/t", 0.001)
    until = time.monotonic() + 60
    while local.kv.get("kv/t") is not None:
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(shoal.NotFound):
        local.kv.ttl("kv/t")


def test_transactions_are_all_or_nothing(local: shoal.Client) -> None:
    kv = local.kv
    kv.put("kv/x", b"1")
    with kv.transaction("serializable") as transaction:
        seen = transaction.get("kv/x")
        transaction.put("kv/y", b"2")
        assert [entry.key for entry in transaction.scan("kv/y")] == ["kv/y"]
        assert kv.get("kv/y") is None and seen is not None
    assert kv.get("kv/y") is not None
    with pytest.raises(shoal.Conflict), kv.transaction("serializable") as transaction:
        transaction.get("kv/x")
        transaction.put("kv/z", b"3")
        kv.put("kv/x", b"other")
    assert kv.get("kv/z") is None
    with pytest.raises(ZeroDivisionError), kv.transaction() as transaction:
        transaction.delete("kv/x")
        raise ZeroDivisionError
    assert kv.get("kv/x") is not None
    with pytest.raises(shoal.InvalidInput, match="over"):
        transaction.get("kv/x")
    kv.delete("kv/y")


def test_watches_see_every_change_once(client: shoal.Client) -> None:
    name = f"kv/w/{len(client.address)}/"
    start = client.kv.put("kv/w0", b"") and client.kv.get("kv/w0")
    assert start is not None

    def write() -> None:
        for at in range(300):
            client.kv.put(f"{name}{at}", str(at))
        client.kv.delete(f"{name}0")

    writer = threading.Thread(target=write)
    with client.kv.watch(prefix=name, timeout=60) as watch:
        writer.start()
        changes = [next(watch) for _ in range(301)]
    writer.join()
    assert [change.key for change in changes[:300]] == [f"{name}{at}" for at in range(300)]
    assert (changes[300].kind, changes[300].entry) == ("delete", None)
    with client.kv.watch(glob=f"{name}*", after=start.revision, timeout=60) as again:
        assert next(again) == changes[0]
    with client.kv.watch(f"{name}none", timeout=0.05) as quiet:
        assert list(quiet) == []
    with pytest.raises(shoal.InvalidInput):
        client.kv.watch()


def test_a_watch_that_is_closed_ends(local: shoal.Client) -> None:
    watch = local.kv.watch("kv/never")
    closing = threading.Timer(0.2, watch.close)
    closing.start()
    assert list(watch) == []
    closing.join()
