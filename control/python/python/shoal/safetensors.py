"""State dicts and files of safetensors, straight between tensors and chunks.

>>> import numpy
>>> client = Client()
>>> _ = save(client, "models/seven", {"w": numpy.ones((2, 3), "<f4"), "b": numpy.zeros(3, "<f4")})
>>> load(client, "models/seven", ["b"])
{'b': array([0., 0., 0.], dtype=float32)}
>>> sorted(load(client, "models/seven"))
['b', 'w']

A file of this format is the length of a header in eight bytes, the header in JSON, and the bytes of all tensors, one behind
the other. :func:`parts` gives these as they lie in memory, for :meth:`shoal.Client.put` to copy once, into the memory of
the node; :func:`tensors` makes tensors of the bytes where they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from shoal.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from shoal._shoal import Bytes, Connection
    from shoal._types import Put
    from shoal.client import Client

#: The names of element types: safetensors, NumPy, torch, bytes of one.
_TYPES = [
    ("F64", "<f8", "float64", 8),
    ("I64", "<i8", "int64", 8),
    ("U64", "<u8", "uint64", 8),
    ("C64", "<c8", "complex64", 8),
    ("F32", "<f4", "float32", 4),
    ("I32", "<i4", "int32", 4),
    ("U32", "<u4", "uint32", 4),
    ("F16", "<f2", "float16", 2),
    ("BF16", None, "bfloat16", 2),
    ("I16", "<i2", "int16", 2),
    ("U16", "<u2", "uint16", 2),
    ("F8_E4M3", None, "float8_e4m3fn", 1),
    ("F8_E5M2", None, "float8_e5m2", 1),
    ("I8", "|i1", "int8", 1),
    ("U8", "|u1", "uint8", 1),
    ("BOOL", "|b1", "bool", 1),
]
_OF_NUMPY = {numpy: (name, size) for name, numpy, _, size in _TYPES if numpy}
_OF_TORCH = {torch: (name, size) for name, _, torch, size in _TYPES}
_NUMPY = {name: numpy for name, numpy, _, _ in _TYPES if numpy}
_TORCH = {name: torch for name, _, torch, _ in _TYPES}
_SIZES = {name: size for name, _, _, size in _TYPES}
#: The bytes of tensors begin at a multiple of this.
_ALIGNMENT = 64
#: The longest header that is read, as in the safetensors library.
_HEADER_MAX = 100_000_000
#: Bytes that are read to find out how long a header is, and mostly have all of it.
_HEAD = 64 << 10


def save(
    client: Client,
    key: str,
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    *,
    volatile: bool = False,
    digest: bool | None = None,
) -> Put:
    """Puts tensors of torch and arrays of NumPy as one file of safetensors. Those in the memory of the host are copied once,
    into the memory of the node. ``volatile`` and ``digest`` are those of :meth:`shoal.Client.put`."""
    said = {"type": "safetensors"}
    return client._put_parts(key, parts(tensors, metadata), said, volatile=volatile, digest=digest)


def load(
    client: Client, key: str, names: Iterable[str] | None = None, *, framework: str | None = None
) -> dict[str, Any]:
    """The tensors of a key that is a file of safetensors, whoever put it.

    All of them share the bytes where :meth:`shoal.Client.get` would; of those that are named, only the bytes are read.

    :param framework: ``"numpy"`` or ``"torch"``; without one, each is what it was when :func:`save` put it, and of other
        files all are tensors of torch
    """

    def read(connection: Connection, left: float | None) -> dict[str, Any]:
        file = connection.open(key, "quorum", left)
        if names is None:
            return tensors(file.bytes(True, left), None, framework)
        head = file.read(0, min(file.size, _HEAD), left)
        length = header_size(memoryview(head).cast("B"))
        if len(head) < length <= file.size:
            head = file.read(0, length, left)
        header = Header(head, file.size)
        found = {}
        for name in names:
            tensor = header.find(name)
            start = header.data_start + tensor.start
            data = file.read(start, tensor.end - tensor.start, left)
            found[name] = make(tensor, data, 0, wants_torch(tensor, framework))
        return found

    return client._pool.call(read, repeatable=True)


def is_torch(value: object) -> bool:
    """Whether it is a tensor of torch, which need not be installed."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def has_type(name: str) -> bool:
    """Whether the format has the type that torch calls so.

    >>> has_type("bfloat16"), has_type("complex128")
    (True, False)
    """
    return name in _OF_TORCH


def is_numpy(value: object) -> bool:
    """Whether it is an array of NumPy, which need not be installed."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(value) in (numpy.ndarray, numpy.memmap)


def parts(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> list[Buffer]:
    """The file of these tensors, arrays of NumPy and tensors of torch, as a list of buffers. Tensors in the memory of the
    host are not copied, wherever their elements lie. What is none of torch is named in the metadata.

    >>> import numpy
    >>> header, *data = parts({"w": numpy.zeros((2, 3), "<f4")})
    >>> len(header) % 64, [memoryview(part).nbytes for part in data]
    (0, [24])
    """
    laid = [(name, *_lay(name, tensor)) for name, tensor in tensors.items()]
    # What is aligned most comes first, so that everything is.
    laid.sort(key=lambda tensor: -tensor[2])
    header: dict[str, Any] = {}
    notes = dict(metadata or {})
    arrays = [name for name, tensor in tensors.items() if not is_torch(tensor)]
    if arrays:
        notes["shoal.numpy"] = json.dumps(arrays)
    if notes:
        header["__metadata__"] = notes
    data: list[Buffer] = []
    end = 0
    for name, kind, _, shape, part in laid:
        start, end = end, end + memoryview(part).nbytes
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        data.append(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *data]


def _lay(name: str, tensor: Any) -> tuple[str, int, list[int], Buffer]:
    """Its type, the size of an element, its shape, and its bytes."""
    if not isinstance(name, str) or name == "__metadata__":
        raise InvalidInput(f"{name!r} cannot be the name of a tensor")
    if is_torch(tensor):
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in _OF_TORCH or str(tensor.layout) != "torch.strided":
            raise InvalidInput(f"tensor {name!r} of {tensor.dtype} cannot be stored")
        return *_OF_TORCH[kind], list(tensor.shape), _bytes_of_tensor(tensor)
    if is_numpy(tensor):
        if tensor.dtype.str not in _OF_NUMPY:
            raise InvalidInput(f"array {name!r} of {tensor.dtype} cannot be stored among others")
        return *_OF_NUMPY[tensor.dtype.str], list(tensor.shape), bytes_of_array(tensor)
    raise InvalidInput(f"{name!r} is neither a tensor nor an array")


def _bytes_of_tensor(tensor: Any) -> Buffer:
    import torch

    if tensor.numel() == 0:
        return b""
    # A lazy negation or conjugation is no bytes yet.
    tensor = tensor.detach().resolve_neg().resolve_conj().to("cpu")
    # NumPy does not know all types of torch, but integers of their sizes.
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return bytes_of_array(tensor.view(integers[tensor.element_size()]).numpy())


def bytes_of_array(array: Any) -> Buffer:
    """The bytes of an array, in C order, wherever they lie."""
    import numpy

    if array.nbytes == 0:
        return b""
    # A buffer has dimensions. Its protocol does not know all types of NumPy, but bytes of any size.
    items: Any = numpy.atleast_1d(array).view(numpy.ndarray).view(f"V{array.itemsize}")
    data: Buffer = items
    return data


class Header:
    """What a file of safetensors says of its tensors.

    :param head: the first bytes of the file, with all of its header
    """

    def __init__(self, head: Buffer, size: int) -> None:
        view = memoryview(head).cast("B")
        self.data_start = header_size(view)
        if self.data_start > min(len(view), size):
            raise InvalidInput("the header of safetensors is cut off")
        try:
            header = json.loads(bytes(view[8 : self.data_start]))
            self.metadata: dict[str, str] = dict(header.pop("__metadata__", {}))
            arrays = set(json.loads(self.metadata.pop("shoal.numpy", "[]")))
            self.tensors = {name: _Laid(name, laid, name in arrays) for name, laid in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidInput(f"this is no header of safetensors: {error}") from error
        for tensor in self.tensors.values():
            if not 0 <= tensor.start <= tensor.end <= size - self.data_start:
                raise InvalidInput(f"tensor {tensor.name!r} is not within the file")


    def find(self, name: str) -> _Laid:
        """A tensor by its name."""
        if name in self.tensors:
            return self.tensors[name]
        raise NotFound(f"there is no tensor {name!r} among {len(self.tensors)}")


class _Laid:
    """Where a tensor lies within the data of a file."""

    def __init__(self, name: str, laid: Any, is_array: bool) -> None:
        self.name = name
        self.kind: str = laid["dtype"]
        self.shape = [int(length) for length in laid["shape"]]
        self.start, self.end = (int(at) for at in laid["data_offsets"])
        self.is_array = is_array
        count = 1
        for length in self.shape:
            count *= length
        self.count = count
        if self.kind not in _SIZES or min(self.shape, default=0) < 0:
            raise ValueError(f"tensor {name!r} has a type or shape that is not known here")
        if self.end - self.start != count * _SIZES[self.kind]:
            raise ValueError(f"tensor {name!r} has another size than its shape")


def header_size(head: memoryview) -> int:
    """Bytes before the data, from the first eight of a file."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > _HEADER_MAX:
        raise InvalidInput("this is no file of safetensors")
    return 8 + length


def make(tensor: _Laid, data: Bytes, at: int, as_torch: bool) -> Any:
    """A tensor of the bytes at ``at``, which it shares."""
    if as_torch:
        import torch

        dtype = getattr(torch, _TORCH[tensor.kind])
        if tensor.count == 0:
            return torch.empty(tensor.shape, dtype=dtype)
        view = memoryview(data)
        if view.readonly:
            # Torch has no tensors that cannot be written to.
            return torch.frombuffer(bytearray(view[at : at + tensor.end - tensor.start]), dtype=dtype).reshape(tensor.shape)
        return torch.frombuffer(data, dtype=dtype, count=tensor.count, offset=at).reshape(tensor.shape)
    import numpy

    if tensor.kind not in _NUMPY:
        raise InvalidInput(f"NumPy has no {tensor.kind}, of which tensor {tensor.name!r} is", hint="install torch")
    dtype = numpy.dtype(_NUMPY[tensor.kind])
    if tensor.count == 0:
        return numpy.empty(tensor.shape, dtype=dtype)
    array = numpy.frombuffer(memoryview(data), dtype=dtype, count=tensor.count, offset=at).reshape(tensor.shape)
    array.flags.writeable = False
    return array


def tensors(data: Bytes, names: Iterable[str] | None = None, framework: str | None = None) -> dict[str, Any]:
    """The tensors of a file, all or those that are named, which share its bytes.

    :param framework: ``"numpy"`` or ``"torch"``; without one, each is what it was when it was put
    """
    header = Header(data, len(data))
    wanted = header.tensors if names is None else {name: header.find(name) for name in names}
    return {
        name: make(tensor, data, header.data_start + tensor.start, wants_torch(tensor, framework))
        for name, tensor in wanted.items()
    }


def wants_torch(tensor: _Laid, framework: str | None) -> bool:
    """Whether a tensor is to be one of torch."""
    if framework not in (None, "numpy", "torch"):
        raise InvalidInput("the framework is 'numpy' or 'torch'")
    return not tensor.is_array if framework is None else framework == "torch"
