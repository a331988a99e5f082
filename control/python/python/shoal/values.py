"""Values as bytes, and back.

Each type of value is stored as a file of a format that others read too, so that ``shoal get`` writes a file that opens in any
tool, and its type is a label of the key, which ``shoal info`` shows:

============  ===================================================================  ==============================
``type``      values                                                               file
============  ===================================================================  ==============================
``raw``       ``bytes`` and whatever else has the buffer protocol                  the bytes
``json``      ``None``, booleans, numbers, text, and lists and dicts of them       JSON
``npy``       one array or scalar of NumPy                                         ``.npy``
``safetensors``  tensors of torch; lists and dicts with tensors and arrays in them  ``.safetensors``
``arrow``     data frames of pandas, tables of pyarrow                             Arrow IPC
``pickle``    anything else, when that is allowed                                  pickle, protocol 5
============  ===================================================================  ==============================

A value comes back as what it was. What JSON would change (tuples, keys that are no text, NaN) is not stored as JSON.
"""

from __future__ import annotations

import functools
import io
import json
import math
import pickle
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal import safetensors
from shoal.errors import InvalidInput, PickleRefused

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from shoal._shoal import Bytes

#: The label that names the type.
TYPE = "type"
#: The label that tells values of one type apart.
PYTHON = "python"
#: Where a tensor is in the tree of a value.
_TENSOR = "$tensor"
#: How deep lists and dicts may be within each other.
_DEPTH_MAX = 100


def encode(value: object, allow_pickle: bool = False) -> tuple[list[Buffer], dict[str, str]]:
    """The bytes of a value, in parts, and its labels.

    >>> encode({"a": [1, 2.5, None]})
    ([b'{"a":[1,2.5,null]}'], {'type': 'json'})
    >>> encode((1, 2))
    Traceback (most recent call last):
        ...
    shoal.errors.PickleRefused: a tuple has no format of its own here (pass allow_pickle=True to store it with pickle)
    """
    numpy, pandas, arrow = (sys.modules.get(name) for name in ("numpy", "pandas", "pyarrow"))
    if safetensors.is_torch(value):
        return safetensors.parts({"": value}), {TYPE: "safetensors", PYTHON: "torch.Tensor"}
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        if not value.dtype.hasobject and (safetensors.is_numpy(value) or isinstance(value, numpy.generic)):
            return _encode_npy(value)
    elif pandas is not None and type(value) is pandas.DataFrame:
        table = _table_of_frame(value)
        if table is not None:
            return _encode_arrow(table), {TYPE: "arrow", PYTHON: "pandas.DataFrame"}
    elif arrow is not None and hasattr(arrow, "Table") and isinstance(value, arrow.Table):
        return _encode_arrow(value), {TYPE: "arrow", PYTHON: "pyarrow.Table"}
    elif isinstance(value, (dict, list, str, int, float, type(None))):
        encoded = _encode_tree(value)
        if encoded is not None:
            return encoded
    else:
        try:
            return [memoryview(value)], {TYPE: "raw"}  # type: ignore[arg-type]
        except TypeError:
            pass
    if allow_pickle:
        return [pickle.dumps(value, protocol=5)], {TYPE: "pickle"}
    kind = type(value).__name__
    text = f"a {kind} has no format of its own here"
    if isinstance(value, (dict, list)):
        text = f"the {kind} holds something that neither JSON nor safetensors would give back as it was"
    raise PickleRefused(text, hint="pass allow_pickle=True to store it with pickle")


def _encode_npy(value: Any) -> tuple[list[Buffer], dict[str, str]]:
    import numpy

    array = numpy.asarray(value)
    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    header = _npy_header_of(array.dtype, array.shape, is_fortran)
    labels = {TYPE: "npy"}
    if isinstance(value, numpy.generic):
        labels[PYTHON] = "numpy.generic"
    return [header, safetensors.bytes_of_array(array.T if is_fortran else array)], labels


@functools.lru_cache(maxsize=64)
def _npy_header_of(dtype: Any, shape: tuple[int, ...], is_fortran: bool) -> bytes:
    """The header of a file of NumPy, which takes as long to make as a small array takes to copy."""
    import numpy

    described = {"descr": numpy.lib.format.dtype_to_descr(dtype), "fortran_order": is_fortran, "shape": shape}
    header = io.BytesIO()
    try:
        numpy.lib.format.write_array_header_1_0(header, described)
    except ValueError:
        header = io.BytesIO()
        numpy.lib.format.write_array_header_2_0(header, described)
    return header.getvalue()


class _Collected(io.RawIOBase):
    """A file that keeps what is written to it as it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Buffer] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        self.parts.append(data)
        return memoryview(data).nbytes


def _encode_arrow(table: Any) -> list[Buffer]:
    """The file of a table, whose columns are not copied."""
    import pyarrow

    collected = _Collected()
    with pyarrow.ipc.new_file(pyarrow.PythonFile(collected, mode="w"), table.schema) as writer:
        writer.write_table(table)
    return collected.parts


def _table_of_frame(frame: Any) -> Any:
    """The table that becomes this frame again; ``None`` when there is none, or no pyarrow."""
    try:
        import pandas
        import pyarrow
    except ModuleNotFoundError as error:
        raise InvalidInput("a DataFrame is stored with pyarrow", hint="pip install pyarrow") from error
    try:
        with warnings.catch_warnings():
            # What would be changed is found below.
            warnings.simplefilter("ignore")
            table = pyarrow.Table.from_pandas(frame)
            empty = table.schema.empty_table().to_pandas()
        pandas.testing.assert_index_equal(frame.columns, empty.columns)
    except (pyarrow.ArrowException, TypeError, ValueError, AssertionError):
        return None
    if list(frame.index.names) != list(empty.index.names):
        return None
    for at, (kind, other) in enumerate(zip(frame.dtypes, empty.dtypes, strict=True)):
        # The columns of the index come behind those of the frame. Only whole columns tell which categories there are, and
        # of which classes the objects are.
        if isinstance(kind, pandas.CategoricalDtype):
            other = table.column(at).to_pandas().dtype
        if kind != other or (kind == object and not _are_same(frame.iloc[:, at], table.column(at).to_pandas())):
            return None
    times = {f"shoal.{axis}.freq": getattr(getattr(frame, axis), "freqstr", None) for axis in ("index", "columns")}
    notes = {name: freq for name, freq in times.items() if freq is not None}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **notes})


def _are_same(left: Any, right: Any) -> bool:
    """Whether two columns have the same objects of the same classes; what is no number is itself here."""
    return all(
        type(one) is type(other) and (one == other or (one != one and other != other))
        for one, other in zip(left, right, strict=True)
    )


def _encode_tree(value: object) -> tuple[list[Buffer], dict[str, str]] | None:
    """Lists, dicts and plain values, as JSON or with tensors in them; ``None`` when something would not come back."""
    tensors: dict[str, Any] = {}
    try:
        tree = _plain(value, "", tensors, _DEPTH_MAX)
    except _NotPlain:
        return None
    if not tensors:
        return [json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()], {TYPE: "json"}
    is_flat = isinstance(value, dict) and value.keys() == tensors.keys()
    notes = {} if is_flat else {"shoal.tree": json.dumps(tree, separators=(",", ":"))}
    try:
        return safetensors.parts(tensors, notes), {TYPE: "safetensors", PYTHON: type(value).__name__}
    except InvalidInput:
        return None


class _NotPlain(Exception):
    """Something that JSON does not give back as it was."""


def _plain(value: Any, path: str, tensors: dict[str, Any], depth: int) -> Any:
    """The value as JSON has it, its tensors moved to ``tensors``."""
    if safetensors.is_torch(value) or safetensors.is_numpy(value):
        if path in tensors or path == "__metadata__":
            raise _NotPlain
        tensors[path] = value
        return {_TENSOR: path}
    kind = type(value)
    if value is None or kind in (bool, int):
        return value
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _NotPlain from error
        return value
    if kind is float and math.isfinite(value):
        return value
    if depth == 0 or kind not in (dict, list):
        raise _NotPlain
    below = f"{path}." if path else ""
    if kind is list:
        return [_plain(item, f"{below}{at}", tensors, depth - 1) for at, item in enumerate(value)]
    if _TENSOR in value or any(type(name) is not str for name in value):
        raise _NotPlain
    return {
        _plain(name, "", {}, 0): _plain(item, below + name, tensors, depth - 1) for name, item in value.items()
    }


def decode(labels: dict[str, str], read: Callable[[bool], Bytes], allow_pickle: bool = False) -> Any:
    """The value of a key with these labels; ``read`` gives its bytes, writable if it is told so."""
    kind = labels.get(TYPE, "raw")
    decoder = _DECODERS.get(kind)
    if kind == "pickle":
        if not allow_pickle:
            text = "the value was stored with pickle, which runs whatever code the bytes name"
            raise PickleRefused(text, hint="pass allow_pickle=True if you trust who put it")
        return pickle.loads(read(False))
    if decoder is None:
        raise InvalidInput(f"values of type '{kind}' are not known here", hint="get_bytes gives the bytes")
    try:
        return decoder(labels, read)
    except (ValueError, KeyError, IndexError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"the bytes are no {kind}: {error}", hint="get_bytes gives the bytes") from error


def _decode_raw(labels: dict[str, str], read: Callable[[bool], Bytes]) -> Any:
    return read(False)


def _decode_json(labels: dict[str, str], read: Callable[[bool], Bytes]) -> Any:
    return json.loads(bytes(read(False)))


def _npy_start(data: Bytes) -> int:
    """Where the array begins in a file of NumPy, by what the file says; within bounds that its header has."""
    head = bytes(memoryview(data)[:12])
    size = 10 + int.from_bytes(head[8:10], "little") if head[6:7] == b"\1" else 12 + int.from_bytes(head[8:12], "little")
    return min(size, 65536)


@functools.lru_cache(maxsize=64)
def _npy_header(head: bytes) -> tuple[tuple[int, ...], bool, Any, int]:
    """What the header of a file of NumPy says, and where it ends. It is text of Python, which takes as long to read as a small
    array takes to come, and few arrays differ in it."""
    import numpy

    file = io.BytesIO(head)
    version = numpy.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise InvalidInput(f"version {version} of .npy is not known here")
    reader = "read_array_header_1_0" if version == (1, 0) else "read_array_header_2_0"
    shape, is_fortran, dtype = getattr(numpy.lib.format, reader)(file)
    return shape, is_fortran, dtype, file.tell()


def _decode_npy(labels: dict[str, str], read: Callable[[bool], Bytes]) -> Any:
    import numpy

    data = read(False)
    shape, is_fortran, dtype, start = _npy_header(bytes(memoryview(data)[: _npy_start(data)]))
    if dtype.hasobject:
        raise InvalidInput("an array of objects is no plain bytes")
    count = math.prod(shape)
    if count * dtype.itemsize == 0:
        array = numpy.empty(shape, dtype)
    else:
        array = numpy.frombuffer(memoryview(data), dtype, count, start)
        array = array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
    return array[()] if labels.get(PYTHON) == "numpy.generic" else array


def _decode_safetensors(labels: dict[str, str], read: Callable[[bool], Bytes]) -> Any:
    # Torch has no tensors that cannot be written to.
    data = read(True)
    header = safetensors.Header(data, len(data))
    found = safetensors.tensors(data, None, None if "torch" in sys.modules or _has_torch() else "numpy")
    if labels.get(PYTHON) == "torch.Tensor":
        return found[""]
    tree = header.metadata.get("shoal.tree")
    return found if tree is None else _with_tensors(json.loads(tree), found)


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None


def _with_tensors(tree: Any, tensors: dict[str, Any]) -> Any:
    if isinstance(tree, list):
        return [_with_tensors(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if _TENSOR in tree:
        return tensors[tree[_TENSOR]]
    return {name: _with_tensors(item, tensors) for name, item in tree.items()}


def _decode_arrow(labels: dict[str, str], read: Callable[[bool], Bytes]) -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise InvalidInput("values of type 'arrow' need pyarrow", hint="pip install pyarrow") from error
    table = pyarrow.ipc.open_file(pyarrow.py_buffer(read(False))).read_all()
    if labels.get(PYTHON) != "pandas.DataFrame":
        return table
    frame = table.to_pandas()
    for axis in ("index", "columns"):
        freq = (table.schema.metadata or {}).get(f"shoal.{axis}.freq".encode())
        if freq is not None:
            getattr(frame, axis).freq = freq.decode()
    return frame


_DECODERS: dict[str, Callable[[dict[str, str], Callable[[bool], Any]], Any]] = {
    "raw": _decode_raw,
    "json": _decode_json,
    "npy": _decode_npy,
    "safetensors": _decode_safetensors,
    "arrow": _decode_arrow,
}


def is_json(value: object) -> bool:
    """Whether JSON gives a value back as it was.

    >>> is_json({"a": [1, None]}), is_json((1,)), is_json({1: 2})
    (True, False, False)
    """
    tensors: dict[str, Any] = {}
    try:
        _plain(value, "", tensors, _DEPTH_MAX)
    except _NotPlain:
        return False
    return not tensors
