"""Distributed checkpoints of torch, saved and loaded by as many ranks as there happen to be."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node import START_MAX, Node

import shoal

torch = pytest.importorskip("torch")
dcp = pytest.importorskip("torch.distributed.checkpoint")

from torch.distributed.checkpoint.api import CheckpointException  # noqa: E402
from torch.distributed.checkpoint.metadata import MetadataIndex  # noqa: E402
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, ReadItem  # noqa: E402

from shoal import checkpoint  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def state(seed: int = 1) -> dict[str, object]:
    """Tensors of many kinds, and what is none."""
    torch.manual_seed(seed)
    wide = torch.randn(300, 1000)
    return {
        "w": wide,
        "turned": wide.T[::3],
        "bits": {"bf16": torch.randn(70_000).bfloat16(), "f8": torch.ones(9).to(torch.float8_e4m3fn)},
        "complex": torch.randn(5, dtype=torch.complex128),
        "conjugated": torch.randn(5, dtype=torch.complex64).conj(),
        "scalar": torch.tensor(seed),
        "none": torch.empty(0, 7),
        "bools": torch.tensor([True, False]),
        "step": seed,
        "names": ["a", {"b": 1.5, "c": None}],
    }


def empty() -> dict[str, object]:
    """The same with nothing in it."""

    def clear(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return torch.zeros(value.shape, dtype=value.dtype)
        return {name: clear(item) for name, item in value.items()} if isinstance(value, dict) else None

    return {**clear(state()), "names": [None, {"b": None, "c": None}]}


def same(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and left.tolist() == right.tolist()
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    return left == right


@pytest.fixture
def prefix() -> str:
    return f"checkpoints/{uuid.uuid4().hex}"


def test_a_checkpoint_comes_back(client: shoal.Client, prefix: str) -> None:
    dcp.save(state(), storage_writer=checkpoint.ShoalWriter(prefix, client))
    found = empty()
    places = {name: value.data_ptr() for name, value in found.items() if isinstance(value, torch.Tensor)}
    dcp.load(found, storage_reader=checkpoint.ShoalReader(f"shoal://{prefix}", client))
    assert same(found, state())
    assert places == {name: found[name].data_ptr() for name in places}, "they are loaded into the tensors that there are"
    assert [key.key.removeprefix(f"{prefix}/")[:9] for key in client.ls(prefix)] == [".metadata", "rank-0000"]


def test_a_tensor_is_loaded_into_another_type_or_order(local: shoal.Client, prefix: str) -> None:
    dcp.save({"w": state()["w"]}, storage_writer=checkpoint.ShoalWriter(prefix, local))
    found = {"w": torch.zeros(1000, 300).T}
    dcp.load(found, storage_reader=checkpoint.ShoalReader(prefix, local))
    assert torch.equal(found["w"], state()["w"])
    found = {"w": torch.zeros(300, 1000, dtype=torch.float64)}
    dcp.load(found, storage_reader=checkpoint.ShoalReader(prefix, local))
    assert torch.equal(found["w"], state()["w"].double())


def test_what_is_there_is_replaced_only_when_asked(local: shoal.Client, prefix: str) -> None:
    writer = checkpoint.ShoalWriter(prefix, local)
    dcp.save(state(1), storage_writer=writer)
    with pytest.raises(CheckpointException, match="overwrite=True"):
        dcp.save(state(2), storage_writer=writer)
    dcp.save(state(3), storage_writer=checkpoint.ShoalWriter(prefix, local, overwrite=True))
    found = empty()
    dcp.load(found, storage_reader=checkpoint.ShoalReader(prefix, local))
    assert same(found, state(3)) and len(local.ls(prefix)) == 2
    local.put(f"{prefix}/rank-notes", 1)
    dcp.save(state(4), storage_writer=checkpoint.ShoalWriter(prefix, local, overwrite=True))
    assert len(local.ls(prefix)) == 3, "keys of others stay"


def test_half_a_checkpoint_is_none(local: shoal.Client, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(dcp.DefaultSavePlanner):
        def resolve_data(self, item):
            if "scalar" in item.index.fqn:
                raise RuntimeError("no")
            return super().resolve_data(item)

    monkeypatch.setattr(checkpoint, "_COPIES_MAX", 1)
    with pytest.raises(CheckpointException):
        dcp.save(state(), storage_writer=checkpoint.ShoalWriter(prefix, local), planner=Broken())
    assert local.ls(f"{prefix}/rank-"), "some of it was put"
    with pytest.raises(CheckpointException, match="there is no checkpoint"):
        dcp.load(empty(), storage_reader=checkpoint.ShoalReader(prefix, local))
    left = {key.key for key in local.ls(prefix)}
    dcp.save(state(), storage_writer=checkpoint.ShoalWriter(prefix, local))
    assert not left & {key.key for key in local.ls(prefix)}, "what was left is removed by who succeeds"
    found = empty()
    dcp.load(found, storage_reader=checkpoint.ShoalReader(prefix, local))
    assert same(found, state())


def test_two_savers_do_not_mix(local: shoal.Client, prefix: str) -> None:
    class Slow(dcp.DefaultSavePlanner):
        def finish_plan(self, plan):
            dcp.save(state(2), storage_writer=checkpoint.ShoalWriter(prefix, local))
            return super().finish_plan(plan)

    with pytest.raises(CheckpointException, match="somebody else"):
        dcp.save(state(1), storage_writer=checkpoint.ShoalWriter(prefix, local), planner=Slow())
    found = empty()
    dcp.load(found, storage_reader=checkpoint.ShoalReader(prefix, local))
    assert same(found, state(2))


def test_plans_are_cached(local: shoal.Client, prefix: str) -> None:
    for seed in (1, 2, 3):
        writer = checkpoint.ShoalWriter(prefix, local, overwrite=True)
        dcp.save(state(seed), storage_writer=writer, planner=dcp.DefaultSavePlanner(enable_plan_caching=True))
        found = empty()
        dcp.load(found, storage_reader=checkpoint.ShoalReader(prefix, local))
        assert same(found, state(seed))


def test_saving_goes_on_beside(local: shoal.Client, prefix: str) -> None:
    # Torch's copy of a tensor that is conjugated lazily is the other one.
    current = {name: value for name, value in state(1).items() if name != "conjugated"}
    saved = dcp.async_save(current, storage_writer=checkpoint.ShoalWriter(prefix, local))
    getattr(saved, "upload_completion", saved).result(timeout=START_MAX)
    found = {name: value for name, value in empty().items() if name in current}
    dcp.load(found, storage_reader=checkpoint.ShoalReader(prefix, local))
    assert same(found, current)


def test_pickle_is_only_used_when_asked_for(local: shoal.Client, prefix: str) -> None:
    value = uuid.UUID(int=7)
    dcp.save({"id": value}, storage_writer=checkpoint.ShoalWriter(prefix, local))
    with pytest.raises(CheckpointException, match="allow_pickle"):
        dcp.load({"id": None}, storage_reader=checkpoint.ShoalReader(prefix, local))
    found = {"id": None}
    dcp.load(found, storage_reader=checkpoint.ShoalReader(prefix, local, allow_pickle=True))
    assert found == {"id": value}
    for what, match in ((os.system, "allow_pickle"), ([1, 2], "is no checkpoint"), (None, "is no checkpoint")):
        local._put_parts(f"{prefix}/.metadata", [pickle.dumps(what)], {})
        with pytest.raises(shoal.ShoalError, match=match):
            checkpoint.ShoalReader(prefix, local).read_metadata()
    local.put(f"{prefix}/.metadata", b"\x80")
    with pytest.raises(shoal.InvalidInput, match="describes no checkpoint"):
        checkpoint.ShoalReader(prefix, local).read_metadata()
    with pytest.raises(shoal.InvalidInput, match="prefix"):
        checkpoint.ShoalReader("shoal://", local)


BOXES = st.lists(st.integers(1, 6), max_size=4).flatmap(
    lambda shape: st.tuples(
        st.just(tuple(shape)),
        st.tuples(*(st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted) for size in shape)),
    )
)


@settings(
    deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(box=BOXES, turned=st.booleans())
def test_any_part_of_a_tensor(local: shoal.Client, monkeypatch: pytest.MonkeyPatch, box, turned: bool) -> None:
    """Whatever part of a stored tensor a planner wants, wherever it wants it."""
    shape, ranges = box
    offsets, lengths = tuple(low for low, _ in ranges), tuple(high - low for low, high in ranges)
    tensor = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    monkeypatch.setattr(checkpoint, "_STAGED_MAX", 100)
    dcp.save({"t": tensor}, storage_writer=checkpoint.ShoalWriter("boxes", local, overwrite=True, volatile=True))
    target = torch.full(lengths, -1.0)
    if turned:
        target = torch.full(tuple(reversed(lengths)), -1.0).permute(tuple(reversed(range(len(shape)))))

    class Planner:
        committed = 0

        def resolve_tensor(self, item):
            return target

        def commit_tensor(self, item, tensor):
            self.committed += 1

    reader, planner = checkpoint.ShoalReader("boxes", local), Planner()
    reader.set_up_storage_reader(reader.read_metadata(), True)
    (index,) = reader._stored
    zeros = torch.Size([0] * len(shape))
    item = ReadItem(
        LoadItemType.TENSOR, MetadataIndex("t"), zeros, index, torch.Size(offsets), torch.Size(lengths)
    )
    reader.read_data(LoadPlan([item]), planner).wait()
    wanted = tensor[tuple(slice(low, high) for low, high in ranges)] if shape else tensor
    assert torch.equal(target, wanted) and planner.committed == 1


RANK = """
import os, sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
import shoal
from shoal.checkpoint import ShoalReader, ShoalWriter

def main():
    torch.manual_seed(5)
    whole = {name: torch.randn(101, 67) for name in ("rows", "columns", "all")}
    rank = int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    client = shoal.Client(sys.argv[3])

    def spread(rows, columns):
        laid = {"rows": [Shard(rows)], "columns": [Shard(columns)], "all": [Replicate()]}
        return {name: distribute_tensor(tensor.clone(), mesh, laid[name]) for name, tensor in whole.items()}

    state = {**spread(0, 1), "step": 9, "own": torch.full((3,), rank)}
    dcp.save(state, storage_writer=ShoalWriter("ranks", client))
    found = spread(1, 0)
    for tensor in found.values():
        tensor.to_local().zero_()
    dcp.load(found, storage_reader=ShoalReader("ranks", client))
    for name, tensor in whole.items():
        assert torch.equal(found[name].full_tensor(), tensor), name
    try:
        dcp.save(state, storage_writer=ShoalWriter("ranks", client))
    except CheckpointException as error:
        assert "overwrite=True" in str(error)
    else:
        raise AssertionError("a checkpoint was overwritten")
    for way in dcp.state_dict_saver.AsyncCheckpointerType:
        saved = dcp.async_save(
            state,
            storage_writer=ShoalWriter("ranks", client, overwrite=True),
            async_checkpointer_type=way,
        )
        getattr(saved, "upload_completion", saved).result()
        assert shoal.Client(sys.argv[3]).info("ranks/.metadata").version == 2 + list(type(way)).index(way)
    dist.destroy_process_group()

if __name__ == "__main__":
    # The process that saves begins with what this file defines.
    main()
"""


def test_two_ranks_save_and_one_loads(own_node: Node, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", tmp_path / "rank.py", tmp_path / "meet", str(rank), own_node.socket],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [(rank.communicate(timeout=10 * START_MAX)[0], rank.returncode) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(code == 0 for _, code in ended), ended
    torch.manual_seed(5)
    whole = {name: torch.randn(101, 67) for name in ("rows", "columns", "all")}
    with shoal.Client(own_node.socket) as client:
        found = {**{name: torch.zeros(101, 67) for name in whole}, "step": 0, "own": torch.zeros(3, dtype=torch.int64)}
        dcp.load(found, storage_reader=checkpoint.ShoalReader("ranks", client), no_dist=True)
        assert all(torch.equal(found[name], tensor) for name, tensor in whole.items()) and found["step"] == 9
        assert {key.key[:16] for key in client.ls("ranks/")} == {"ranks/.metadata", "ranks/rank-00000", "ranks/rank-00001"}
        # Anything else reads what each rank has put.
        shards = [shoal.safetensors.load(client, key.key) for key in client.ls("ranks/rank-")]
        assert torch.equal(torch.cat([shard[name] for shard in shards for name in shard if "rows" in name]), whole["rows"])
