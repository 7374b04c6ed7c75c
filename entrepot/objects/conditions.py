"""Conditions of a request, as RFC 9110 (13.1) and S3 have them.

A write is checked against the version that it would replace, a read against the one it would open.
A delete marker is no version for either. ETags are compared without quotes; ``*`` means any.
"""

from dataclasses import dataclass
from typing import Any, Self

from entrepot.catalog.objects.facts import ObjectRow
from entrepot.errors import NotFound, NotModified, PreconditionFailed


@dataclass(frozen=True, slots=True)
class Condition:
    """``if_match`` and ``if_none_match`` are ETags or ``*``; times are Unix milliseconds."""

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()
    if_modified_since_ms: int | None = None
    if_unmodified_since_ms: int | None = None

    def __bool__(self) -> bool:
        return self != Condition()

    def holds(self, row: ObjectRow | None) -> bool:
        """Whether a write may replace ``row``."""
        live = None if row is None or row.is_delete_marker else row
        if self.if_match and not (live and _matches(self.if_match, live.etag)):
            return False
        if self.if_none_match and live and _matches(self.if_none_match, live.etag):
            return False
        since = self.if_unmodified_since_ms
        return since is None or live is None or live.stamp.time_ms // 1000 <= since // 1000

    def check_write(self, row: ObjectRow | None) -> None:
        """``PreconditionFailed`` where the write may not go on.

        Where ``if_match`` meets no object, S3 says ``NotFound``.
        """
        if self.holds(row):
            return
        if self.if_match and (row is None or row.is_delete_marker):
            raise NotFound("there is no object to match")
        raise PreconditionFailed("the object is not the one that was asked for")

    def check_read(self, row: ObjectRow) -> None:
        """``PreconditionFailed``, or ``NotModified``; in the order of RFC 9110, 13.2.2."""
        seconds = row.stamp.time_ms // 1000
        since = None if self.if_match else self.if_unmodified_since_ms
        if self.if_match and not _matches(self.if_match, row.etag):
            raise PreconditionFailed("the object is not the one that was asked for")
        if since is not None and seconds > since // 1000:
            raise PreconditionFailed("the object was written since")
        since = None if self.if_none_match else self.if_modified_since_ms
        if self.if_none_match and _matches(self.if_none_match, row.etag):
            raise NotModified("the reader has this object")
        if since is not None and seconds <= since // 1000:
            raise NotModified("the object was not written since")

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads; a write that is recovered keeps its condition."""
        return {
            "if_match": self.if_match,
            "if_none_match": self.if_none_match,
            "if_unmodified_since_ms": self.if_unmodified_since_ms,
        }

    @classmethod
    def from_json(cls, given: dict[str, Any] | None) -> Self:
        """The inverse; None is no condition."""
        given = given or {}
        return cls(
            if_match=tuple(given.get("if_match", ())),
            if_none_match=tuple(given.get("if_none_match", ())),
            if_unmodified_since_ms=given.get("if_unmodified_since_ms"),
        )


def _matches(etags: tuple[str, ...], etag: str) -> bool:
    return "*" in etags or etag in etags
