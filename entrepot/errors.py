"""One tree of errors; whether trying again can help is a branch of it.

    EntrepotError
    ├── PermanentError
    │   ├── InvalidInput
    │   │   ├── ConfigError
    │   │   ├── PartTooSmall
    │   │   └── WrongPart
    │   ├── NotFound
    │   │   ├── BucketNotFound
    │   │   └── DeleteMarker
    │   ├── AlreadyExists
    │   ├── PreconditionFailed
    │   │   └── NotModified
    │   ├── AccessDenied
    │   ├── IntegrityError
    │   ├── Unsupported
    │   ├── LimitExceeded
    │   ├── Fenced
    │   └── SetupError
    └── RetryableError
        ├── Unavailable
        ├── Throttled
        ├── Busy
        └── Paused

Messages are lower case and have no full stop. ``hint`` is the command to type or the setting to
change. Extra fields (``bucket=``, ``key=``, ``version=``, ...) are kept in ``fields``. All of it
survives pickling, because Prefect carries errors between processes.
"""

from collections.abc import Mapping
from typing import Any


class EntrepotError(Exception):
    """Root of the tree.

    Args:
        message: what went wrong, lower case, no full stop.
        hint: what the reader should do, best a command to type; "" when there is nothing to do.
        fields: where it went wrong: ``bucket``, ``key``, ``version``, ``site``, ``path``, ...
    """

    def __init__(self, message: str, /, *, hint: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields: Mapping[str, Any] = fields

    def __str__(self) -> str:
        where = ", ".join(f"{name} {value!r}" for name, value in self.fields.items())
        return f"{self.message} ({where})" if where else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, dict(self.fields))


def _rebuild(
    kind: type[EntrepotError], message: str, hint: str, fields: dict[str, Any]
) -> EntrepotError:
    return kind(message, hint=hint, **fields)


class PermanentError(EntrepotError):
    """Trying again gives the same answer."""


class InvalidInput(PermanentError):
    """A caller gave something that has no meaning here."""


class ConfigError(InvalidInput):
    """A setting is unknown, malformed or missing; names file and line."""


class PartTooSmall(InvalidInput):
    """A part that is not the last has less than 5 MiB (S3's EntityTooSmall)."""


class WrongPart(InvalidInput):
    """A part is named that was not uploaded, or with another ETag, or out of order."""


class NotFound(PermanentError):
    """The object, version or row is not there."""


class BucketNotFound(NotFound):
    """The bucket is not there."""


class DeleteMarker(NotFound):
    """The version is a delete marker; ``fields["version"]`` is its id."""


class AlreadyExists(PermanentError):
    """The name is taken."""


class PreconditionFailed(PermanentError):
    """The thing moved since it was looked at (HTTP 412)."""


class NotModified(PreconditionFailed):
    """The reader has this version already (HTTP 304)."""


class AccessDenied(PermanentError):
    """The credentials are wrong or do not suffice."""


class IntegrityError(PermanentError):
    """Bytes are not what their checksum says."""


class Unsupported(PermanentError):
    """The endpoint lacks a capability that the request needs."""


class LimitExceeded(PermanentError):
    """A stated limit was passed."""


class Fenced(PermanentError):
    """Another holder took the job over; this one must stop writing."""


class SetupError(PermanentError):
    """A server of the local stack cannot be had or started."""


class RetryableError(EntrepotError):
    """Trying again later may succeed."""


class Unavailable(RetryableError):
    """Refused, reset, timed out or answered 5xx."""


class Throttled(RetryableError):
    """Asked to slow down (HTTP 429, 503 SlowDown)."""


class Busy(RetryableError):
    """Somebody else holds the lease."""


class Paused(RetryableError):
    """The rule rests: paused, disabled or in a maintenance window."""


def is_retryable(error: BaseException) -> bool:
    """The one predicate that the retry wrapper and Prefect's ``retry_condition_fn`` ask."""
    return isinstance(error, RetryableError)
