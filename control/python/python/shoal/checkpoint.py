"""Distributed checkpoints of torch, straight between tensors and chunks.

:class:`ShoalWriter` and :class:`ShoalReader` are the storage of ``torch.distributed.checkpoint``; its planners decide who writes
what, and who reads what of it into which part of which tensor, so that a checkpoint of any number of ranks is loaded by any other.

A checkpoint is a prefix of keys. Each rank puts its tensors as files of safetensors, copied once, from where they lie into the
memory of the node. When all ranks have, the coordinator puts ``PREFIX/.metadata``, torch's own description with the place of every
tensor: without it there is no checkpoint, so that nobody sees half of one. Reading copies once as well, from the memory of the node
to where the tensor wants its part.

What is no tensor was pickled by torch's planner, and torch's own reader unpickles whatever it finds. :class:`ShoalReader` passes on
what torch's safe unpickler knows, such as numbers, text, lists and dicts; everything else takes ``allow_pickle=True``.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint import StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from shoal import safetensors, values
from shoal.client import Client
from shoal.errors import Conflict, InvalidInput, NotFound, PickleRefused

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from shoal._shoal import Connection, File

#: The key, below the prefix, that makes a checkpoint one.
_METADATA = ".metadata"
#: The other keys: the rank, what tells one save from another, and a number.
_FILE = re.compile(r"rank-\d{5,}-[0-9a-f]{32}-\d+\.safetensors")
#: Bytes of copies that wait to be put, such as those of tensors on other devices.
_COPIES_MAX = 256 << 20
#: Bytes of parts of tensors that are read at once and then put where they belong.
_STAGED_MAX = 64 << 20


@dataclass(frozen=True)
class Stored:
    """Where a tensor, or a part of one, is within a checkpoint."""

    #: The name of the key, below the prefix of the checkpoint.
    file: str
    #: Bytes before it in the file.
    offset: int
    #: Bytes of it.
    length: int
    #: Its type, as torch calls it; empty of what is no tensor.
    dtype: str
    #: How many elements it has each way.
    shape: tuple[int, ...]


class ShoalWriter(StorageWriter):
    """Where ``torch.distributed.checkpoint.save`` and ``async_save`` put a checkpoint.

    Tensors must not change until the save is over; ``async_save`` sees to that with copies of its own.

    :param prefix: the prefix of its keys, also as ``shoal://PREFIX``
    :param client: the way to the node, by default the one of this machine
    :param overwrite: replace a checkpoint that is there. It stays as it is until the other is complete, and those who read it
        until then get an error rather than parts of both.
    :param volatile: keep it in memory alone
    """

    def __init__(
        self,
        prefix: str | os.PathLike[str],
        client: Client | None = None,
        *,
        overwrite: bool = False,
        volatile: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_id = _prefix(prefix)
        self._client = Client() if client is None else client
        self._overwrite, self._volatile = overwrite, volatile
        self._save, self._rank, self._replaced = uuid.uuid4().hex, 0, 0

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begins another checkpoint, below another prefix if one is given."""
        if checkpoint_id:
            self.checkpoint_id = _prefix(checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Learns which rank this is. The coordinator looks whether there is a checkpoint already."""
        if not kwargs.get("use_collectives", True):
            raise InvalidInput(
                "a checkpoint becomes visible when all ranks have written their part, for which they must talk to each other",
                hint="save with use_collectives=True",
            )
        # Keys of two saves are never the same, whatever became of the other.
        self._save, self._rank = uuid.uuid4().hex, kwargs.get("rank") or 0
        if is_coordinator:
            self._replaced = _version(self._client, f"{self.checkpoint_id}/{_METADATA}")
            if self._replaced and not self._overwrite:
                raise Conflict(f"there is a checkpoint {self.checkpoint_id!r}", hint="pass overwrite=True to replace it")

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """The plans as they are."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Puts what the plan has for this rank. It is done when this returns."""
        results: list[WriteResult] = []
        for number, batch in enumerate(_batches(plan.items, planner)):
            results += self._put(f"rank-{self._rank:05}-{self._save}-{number}.safetensors", batch)
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def _put(self, file: str, batch: list[tuple[WriteItem, Any]]) -> list[WriteResult]:
        """Puts one file of tensors; gives what became of each."""
        tensors: dict[str, Any] = {}
        names = []
        for item, tensor in batch:
            names.append(_name(item, tensors))
            tensors[names[-1]] = tensor if _has_name(tensor.dtype) else _as_bytes(tensor)
        parts = safetensors.parts(tensors)
        size = sum(memoryview(part).nbytes for part in parts)
        header = safetensors.Header(parts[0], size)
        self._client._put_parts(f"{self.checkpoint_id}/{file}", parts, {values.TYPE: "safetensors"}, volatile=self._volatile)
        results = []
        for name, (item, tensor) in zip(names, batch, strict=True):
            laid = header.find(name)
            is_tensor = item.type != WriteItemType.BYTE_IO
            dtype = str(tensor.dtype).removeprefix("torch.") if is_tensor else ""
            length = laid.end - laid.start
            stored = Stored(file, header.data_start + laid.start, length, dtype, tuple(tensor.shape))
            results.append(WriteResult(item.index, length, stored))
        return results

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Puts the metadata, from which moment on the checkpoint is there, and removes what is left of others."""
        metadata.storage_data = {result.index: result.storage_data for rank in results for result in rank}
        metadata.storage_meta = self.storage_meta()
        key = f"{self.checkpoint_id}/{_METADATA}"
        data = pickle.dumps(metadata, protocol=5)
        try:
            self._client._put_parts(
                key, [data], {values.TYPE: "pickle"}, volatile=self._volatile, if_version=self._replaced
            )
        except Conflict as error:
            raise Conflict(f"somebody else has saved a checkpoint {self.checkpoint_id!r} meanwhile") from error
        kept = {stored.file for stored in metadata.storage_data.values()}
        _remove_files(self._client, self.checkpoint_id, kept)

    def storage_meta(self) -> StorageMeta:
        """What planners are told of the storage."""
        return StorageMeta(checkpoint_id=self.checkpoint_id, save_id=self._save)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it names a prefix of keys."""
        return os.fspath(checkpoint_id).startswith("shoal://")


class ShoalReader(StorageReader):
    """Where ``torch.distributed.checkpoint.load`` finds a checkpoint that :class:`ShoalWriter` has put.

    :param prefix: the prefix of its keys, also as ``shoal://PREFIX``
    :param client: the way to the node, by default the one of this machine
    :param allow_pickle: pass everything that is no tensor on to torch's planner, which unpickles it: that runs whatever code who
        saved the checkpoint chose
    """

    def __init__(
        self, prefix: str | os.PathLike[str], client: Client | None = None, *, allow_pickle: bool = False
    ) -> None:
        super().__init__()
        self.checkpoint_id = _prefix(prefix)
        self._client = Client() if client is None else client
        self._allow_pickle = allow_pickle
        self._stored: dict[Any, Stored] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Turns to another checkpoint, if one is given."""
        self._stored = {}
        if checkpoint_id:
            self.checkpoint_id = _prefix(checkpoint_id)

    def read_metadata(self) -> Metadata:
        """What torch has described of the checkpoint."""
        try:
            data = self._client.get_bytes(f"{self.checkpoint_id}/{_METADATA}")
        except NotFound as error:
            raise NotFound(f"there is no checkpoint {self.checkpoint_id!r}, or not all of it") from error
        unpickler = pickle.Unpickler if self._allow_pickle else _MetadataUnpickler
        try:
            metadata = unpickler(io.BytesIO(data)).load()
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise InvalidInput(f"{self.checkpoint_id}/{_METADATA} describes no checkpoint: {error}") from error
        found = metadata.storage_data if isinstance(metadata, Metadata) else None
        if not isinstance(found, dict) or not all(isinstance(stored, Stored) for stored in found.values()):
            raise InvalidInput(
                f"{self.checkpoint_id!r} is no checkpoint of ShoalWriter",
                hint="torch's FsspecReader reads those that its FsspecWriter has written to shoal://",
            )
        return metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool) -> None:
        """Learns where everything is."""
        self._stored = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """The plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads what the plan has for this rank. It is done when this returns."""
        files: dict[str, list[tuple[ReadItem, Stored]]] = {}
        for item in plan.items:
            stored = self._stored[item.storage_index]
            files.setdefault(stored.file, []).append((item, stored))
        for file, items in files.items():
            self._read(file, items, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, file: str, items: list[tuple[ReadItem, Stored]], planner: LoadPlanner) -> None:
        """Reads what is wanted of one file, what lies in order straight to where it belongs."""
        straight: list[tuple[int, Buffer]] = []
        staged: list[tuple[Stored, ReadItem, Any]] = []
        opaque: list[tuple[ReadItem, bytearray]] = []
        filled = []
        for item, stored in items:
            if item.type == LoadItemType.BYTE_IO:
                opaque.append((item, bytearray(stored.length)))
                straight.append((stored.offset, opaque[-1][1]))
                continue
            target = planner.resolve_tensor(item).detach()
            if target.shape != item.lengths:
                raise InvalidInput(
                    f"{item.storage_index.fqn!r} is to be loaded into {tuple(target.shape)} elements,"
                    f" of which the plan has {tuple(item.lengths)}"
                )
            filled.append((item, target))
            run = _run(stored, item)
            if run is not None and _takes_bytes(target, stored):
                straight.append((stored.offset + run * target.element_size(), _bytes_of(target)))
            else:
                staged.append((stored, item, target))
        key = f"{self.checkpoint_id}/{file}"

        def read(connection: Connection, left: float | None) -> None:
            opened = connection.open(key, "quorum", left)
            opened.read_into(straight, left)
            for stored, item, target in staged:
                _read_staged(opened, stored, item, target, left)

        self._client._pool.call(read, repeatable=True)
        for item, target in filled:
            planner.commit_tensor(item, target)
        for item, data in opaque:
            planner.load_bytes(item, self._checked(item, data))

    def _checked(self, item: ReadItem, data: bytearray) -> io.BytesIO:
        """What was pickled, if torch's planner may have it."""
        if not self._allow_pickle:
            try:
                torch.load(io.BytesIO(data), weights_only=True)
            except Exception as error:
                text = f"{item.storage_index.fqn!r} can only be made with pickle, which runs whatever code the bytes name"
                raise PickleRefused(text, hint="pass allow_pickle=True if you trust who saved the checkpoint") from error
        return io.BytesIO(data)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it names a prefix of keys."""
        return os.fspath(checkpoint_id).startswith("shoal://")


def _prefix(prefix: str | os.PathLike[str]) -> str:
    """The prefix of keys that somebody means."""
    name = os.fspath(prefix).removeprefix("shoal://").strip("/")
    if not name:
        raise InvalidInput("a checkpoint needs a prefix for its keys", hint="pass something like 'checkpoints/1000'")
    return name


def _version(client: Client, key: str) -> int:
    """The version of a key; 0 when there is none."""
    try:
        return client.info(key).version
    except NotFound:
        return 0


def _remove_files(client: Client, prefix: str, kept: set[str]) -> None:
    """Removes the files of other saves below a prefix: of what was replaced, and of saves that came to no end."""
    for key in client.ls(f"{prefix}/rank-"):
        name = key.key.removeprefix(f"{prefix}/")
        if name not in kept and _FILE.fullmatch(name):
            try:
                client.rm(key.key)
            except NotFound:
                # Somebody else has removed it.
                continue


def _batches(items: Iterable[WriteItem], planner: SavePlanner) -> Iterator[list[tuple[WriteItem, Any]]]:
    """Items with their tensors, in the memory of the host. Not many bytes are copied for one batch: those of tensors that are
    elsewhere, or of types that files of safetensors do not have and whose elements do not lie in order."""
    batch: list[tuple[WriteItem, Any]] = []
    copied = 0
    for item in items:
        found = planner.resolve_data(item)
        if isinstance(found, io.BytesIO):
            data = found.getbuffer()
            tensor = torch.frombuffer(data, dtype=torch.uint8) if data.nbytes else torch.empty(0, dtype=torch.uint8)
        else:
            tensor = found.detach()
            if tensor.layout != torch.strided or tensor.is_quantized:
                raise InvalidInput(f"tensor {item.index.fqn!r} is sparse or quantized, which cannot be stored")
            tensor = tensor.resolve_neg().resolve_conj().to("cpu")
            if not _has_name(tensor.dtype):
                tensor = tensor.contiguous()
            if tensor.data_ptr() != found.data_ptr():
                copied += tensor.nbytes
        batch.append((item, tensor))
        if copied >= _COPIES_MAX:
            yield batch
            batch, copied = [], 0
    if batch:
        yield batch


def _name(item: WriteItem, taken: dict[str, Any]) -> str:
    """What an item is called in the file."""
    name: str = item.index.fqn
    if item.type == WriteItemType.SHARD and item.index.offset is not None:
        name += str(list(item.index.offset))
    while name in taken or name == "__metadata__":
        name += "+"
    return name


def _has_name(dtype: torch.dtype) -> bool:
    """Whether files of safetensors have this type."""
    return safetensors.has_type(str(dtype).removeprefix("torch."))


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _bytes_of(tensor: torch.Tensor) -> Buffer:
    """The bytes of a tensor that is contiguous and in the memory of the host, to be written to."""
    if tensor.numel() == 0:
        return bytearray()
    data: Buffer = _as_bytes(tensor).numpy()
    return data


def _takes_bytes(target: torch.Tensor, stored: Stored) -> bool:
    """Whether bytes can be put into a tensor as they are stored."""
    is_plain = not target.is_neg() and not target.is_conj()
    is_same = target.dtype == getattr(torch, stored.dtype)
    return target.device.type == "cpu" and target.is_contiguous() and is_plain and is_same


def _run(stored: Stored, item: ReadItem) -> int | None:
    """Elements before the part that is wanted, if the part lies in order."""
    start, is_run = 0, True
    below = 1
    # From the last dimension on, the first that is not wanted whole may still be wanted in part; those before it not.
    for size, offset, length in zip(
        reversed(stored.shape), reversed(item.storage_offsets), reversed(item.lengths), strict=True
    ):
        if not is_run and length != 1:
            return None
        is_run = is_run and length == size
        start += offset * below
        below *= size
    return start


def _read_staged(
    opened: File, stored: Stored, item: ReadItem, target: torch.Tensor, left: float | None
) -> None:
    """Reads a part that does not lie in order, or a tensor that does not take bytes, a few rows at a time."""
    dtype = getattr(torch, stored.dtype)
    if target.numel() == 0:
        return
    # A tensor without dimensions is a row of one.
    shape, offsets, lengths = stored.shape or (1,), tuple(item.storage_offsets) or (0,), tuple(item.lengths) or (1,)
    row = prod(shape[1:]) * dtype.itemsize
    rows = max(_STAGED_MAX // row, 1)
    into = target.reshape(lengths) if target.dim() == 0 else target
    for first in range(0, lengths[0], rows):
        count = min(rows, lengths[0] - first)
        staged = torch.empty((count, *shape[1:]), dtype=dtype)
        opened.read_into([(stored.offset + (offsets[0] + first) * row, _bytes_of(staged))], left)
        for dimension in range(1, len(shape)):
            staged = staged.narrow(dimension, offsets[dimension], lengths[dimension])
        into[first : first + count].copy_(staged)


class _MetadataUnpickler(pickle.Unpickler):
    """Knows what the metadata of torch consists of, and nothing else."""

    _TORCH = frozenset(
        ("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")
    ) | {"TensorStorageMetadata", "_MEM_FORMAT_ENCODING"}

    def find_class(self, module: str, name: str) -> Any:
        """One of the classes of torch's description, a type of elements, or a layout."""
        is_known = (
            (module == "torch.distributed.checkpoint.metadata" and name in self._TORCH)
            or (module, name) in ((__name__, "Stored"), ("torch", "Size"), ("torch.serialization", "_get_layout"))
            or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype))
        )
        if is_known:
            return super().find_class(module, name)
        text = f"the checkpoint's metadata has a {module}.{name} in it"
        raise PickleRefused(text, hint="pass allow_pickle=True if you trust who saved the checkpoint")
