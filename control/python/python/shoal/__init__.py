"""Keys, values, tensors and chunks of a Shoal cluster.

>>> import shoal
>>> client = shoal.Client()
>>> put = client.put("greeting", {"text": "hello"})
>>> client.get("greeting")
{'text': 'hello'}

:mod:`shoal.aio` has the same for asyncio, :mod:`shoal.kv` small values, :mod:`shoal.errors` what can go wrong.
"""

from shoal._shoal import Bytes
from shoal._types import Change, Entry, Info, Key, Put, Replica
from shoal.client import Client
from shoal.errors import (
    Cancelled,
    Conflict,
    ConnectFailed,
    Corrupt,
    Denied,
    Gone,
    InvalidInput,
    NoSpace,
    NotFound,
    PickleRefused,
    ShoalError,
    Timeout,
    Unavailable,
)
from shoal.kv import Transaction, Watch

__all__ = [
    "Bytes",
    "Cancelled",
    "Change",
    "Client",
    "Conflict",
    "ConnectFailed",
    "Corrupt",
    "Denied",
    "Entry",
    "Gone",
    "Info",
    "InvalidInput",
    "Key",
    "NoSpace",
    "NotFound",
    "PickleRefused",
    "Put",
    "Replica",
    "ShoalError",
    "Timeout",
    "Transaction",
    "Unavailable",
    "Watch",
]
