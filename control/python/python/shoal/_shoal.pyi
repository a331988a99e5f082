from os import PathLike
from typing import Any, TypedDict, final

from typing_extensions import Buffer

_Put = tuple[str, bytes, int | None, str | None, dict[str, str]]
_Expire = tuple[str, str, int]
_Step = _Put | _Expire | str
_Path = str | PathLike[str]

class _Entry(TypedDict):
    key: str
    version: int
    revision: int
    created_ms: int
    updated_ms: int
    expires_ms: int | None
    owner: str | None
    labels: dict[str, str]
    size: int
    files: int
    value: bytes | None

class _Change(TypedDict):
    key: str
    revision: int
    at_ms: int
    kind: str
    version: int
    entry: _Entry | None

class _Key(TypedDict):
    key: str
    version: int
    created_ms: int
    size: int
    files: int

class _Info(TypedDict):
    key: str
    version: int
    revision: int
    created_ms: int
    expires_ms: int | None
    labels: dict[str, str]
    shape: str
    size: int
    files: list[tuple[str, int]]
    chunks: list[tuple[str, int]]

class _Replica(TypedDict):
    chunk: str
    size: int
    node: str
    pieces: int
    dram_pieces: int
    nvme_pieces: int
    gpu_pieces: dict[str, int]
    pinned: bool
    fetching: bool

@final
class Bytes(Buffer):
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def is_copy(self) -> bool: ...
    @property
    def is_held(self) -> bool: ...
    @property
    def address(self) -> int: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

@final
class File:
    @property
    def version(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def labels(self) -> dict[str, str]: ...
    def bytes(self, writable: bool = False, timeout: float | None = None) -> Bytes: ...
    def read(self, offset: int, length: int, timeout: float | None = None) -> Bytes: ...
    def read_into(self, parts: list[tuple[int, Buffer]], timeout: float | None = None) -> None: ...

@final
class Transaction:
    def get(self, key: str) -> _Entry | None: ...
    def scan(
        self, prefix: str, after: str | None, limit: int, contents: bool
    ) -> tuple[list[_Entry], str | None]: ...
    def write(self, steps: list[_Step]) -> None: ...
    def commit(self) -> tuple[int, list[int]]: ...
    def rollback(self) -> None: ...

@final
class Watch:
    def next(self, timeout: float | None = None) -> _Change | None: ...
    def close(self) -> None: ...

@final
class Connection:
    def __new__(
        cls, address: str, token: str | None = None, timeout: float | None = None, priority: str = "normal"
    ) -> Connection: ...
    @property
    def node(self) -> str: ...
    @property
    def is_open(self) -> bool: ...
    def cancel(self) -> None: ...
    def put(
        self,
        key: str,
        parts: list[Buffer],
        volatile: bool,
        digest: bool,
        labels: dict[str, str],
        ttl: float | None,
        if_version: int | None,
        timeout: float | None,
    ) -> tuple[int, int, int, int]: ...
    def put_paths(
        self, key: str, paths: list[_Path], volatile: bool, timeout: float | None
    ) -> tuple[int, int, int, int]: ...
    def get_paths(
        self, key: str, destination: _Path, verify: bool, timeout: float | None
    ) -> tuple[int, int, int]: ...
    def open(self, key: str, level: str, timeout: float | None, whole: bool = False) -> File: ...
    def keys(
        self, prefix: str, after: str, limit: int, timeout: float | None
    ) -> tuple[list[_Key], bool]: ...
    def info(self, key: str, timeout: float | None) -> _Info: ...
    def remove(self, key: str, recursive: bool, timeout: float | None) -> int: ...
    def kv_get(self, keys: list[str], level: str, timeout: float | None) -> list[_Entry | None]: ...
    def kv_write(
        self,
        versions: list[tuple[str, int]],
        unchanged: list[tuple[str, bool, int]],
        steps: list[_Step],
        timeout: float | None,
    ) -> tuple[int, list[int]]: ...
    def kv_scan(
        self,
        prefix: str,
        after: str | None,
        limit: int,
        contents: bool,
        level: str,
        timeout: float | None,
    ) -> tuple[list[_Entry], str | None]: ...
    def kv_count(self, prefix: str, timeout: float | None) -> int: ...
    def begin(self, isolation: str, life: float, timeout: float | None) -> Transaction: ...
    def watch(
        self,
        kind: str,
        text: str,
        after: int | None,
        since_ms: int | None,
        timeout: float | None,
    ) -> Watch: ...
    def replicas(self, prefix: str | None, timeout: float | None) -> list[_Replica]: ...
    def pin(self, prefix: str, pinned: bool, node: str, timeout: float | None) -> None: ...
    def place(
        self, prefix: str, node: str, device_name: str, remove_source: bool, timeout: float | None
    ) -> None: ...
    def remove_chunk(
        self, prefix: str, node: str, device_name: str | None, force: bool, timeout: float | None
    ) -> None: ...
