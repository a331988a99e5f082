"""What can go wrong. Every error says what failed, on what, and, in :attr:`ShoalError.hint`, what to do about it."""

from __future__ import annotations


class ShoalError(Exception):
    """An operation failed; unless :attr:`maybe_done` is true, nothing was changed."""

    #: The kind of failure, as HTTP and the command line name it.
    code: str = "failed"
    #: What to do about it, if there is something.
    hint: str | None = None
    #: Whether a write may have been carried out all the same.
    maybe_done: bool = False

    def __init__(self, message: str = "", *, hint: str | None = None, maybe_done: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.maybe_done = maybe_done

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


class NotFound(ShoalError, LookupError):
    """There is no such key, chunk or node."""

    code = "not_found"


class Conflict(ShoalError):
    """A key has another version than was expected, or was written meanwhile."""

    code = "conflict"


class InvalidInput(ShoalError, ValueError):
    """What was asked makes no sense."""

    code = "invalid"


class Unavailable(ShoalError, ConnectionError):
    """No node can help at the moment: it is away, it is stopping, or nobody has the bytes."""

    code = "unavailable"


class ConnectFailed(Unavailable):
    """No node answers at the address. Nothing was asked of it."""

    code = "connect"


class Denied(ShoalError, PermissionError):
    """The node and this client do not belong together: another token, or another version."""

    code = "denied"


class NoSpace(ShoalError):
    """The node has no memory or no disk left for it."""

    code = "no_space"


class Corrupt(ShoalError):
    """Bytes failed their checksum, and nobody has them right."""

    code = "corrupt"


class Gone(ShoalError):
    """What was there is not kept any more: a transaction, or changes that were not read in time."""

    code = "gone"


class Timeout(ShoalError, TimeoutError):
    """It took longer than was allowed."""

    code = "timeout"


class Cancelled(ShoalError):
    """The client was closed meanwhile, or the call was cancelled."""

    code = "cancelled"


class PickleRefused(ShoalError):
    """The value can only be made with pickle, which runs whatever code the bytes name, and nobody asked for that."""

    code = "pickle_refused"


_CLASSES: dict[str, type[ShoalError]] = {
    "not_found": NotFound,
    "conflict": Conflict,
    "invalid": InvalidInput,
    "unavailable": Unavailable,
    "draining": Unavailable,
    "connect": ConnectFailed,
    "denied": Denied,
    "memory_full": NoSpace,
    "disk_full": NoSpace,
    "corrupt": Corrupt,
    "gone": Gone,
    "timeout": Timeout,
    "cancelled": Cancelled,
}


def _build(code: str, message: str, hint: str | None, maybe_done: bool) -> ShoalError:
    """The exception for a failure; the extension module calls it."""
    error = _CLASSES.get(code, ShoalError)(message, hint=hint, maybe_done=maybe_done)
    error.code = code
    return error
