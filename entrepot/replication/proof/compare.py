"""How one key differs between sites: pure, and the same whichever site is named first.

Words: *states* the facts of one key by site name.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from entrepot.replication.proof.record import Fact, Facts

SHOWN_MAX: Final = 200
"""Characters of a value that a difference shows."""

_ABSENT: Final = "absent"
_PRESENT: Final = "present"

States = Mapping[str, Facts]


class Kind(StrEnum):
    """What about a key differs."""

    MISSING_VERSION = "missing-version"
    EXTRA_MARKER = "extra-marker"
    OTHER_BYTES = "other-bytes"
    OTHER_TIME = "other-time"
    OTHER_CURRENT = "other-current"
    OTHER_METADATA = "other-metadata"
    OTHER_TAGS = "other-tags"
    OTHER_LOCK = "other-lock"


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One thing about a key in which sites differ; ``sites`` says what each has, by site name."""

    key: str
    version_id: str
    kind: Kind
    sites: tuple[tuple[str, str], ...]


def differences(key: str, states: States) -> tuple[Difference, ...]:
    """All differences of a key, in order; none where its states are equal."""
    found: set[Difference] = set()
    by_site = {site: {fact.version_id: fact for fact in facts} for site, facts in states.items()}
    for version_id in set().union(*by_site.values()):
        facts = {site: known.get(version_id) for site, known in by_site.items()}
        found.update(_of_version(key, version_id, facts))
    current = {site: _current(facts) for site, facts in states.items()}
    if any(_ids(by_site)) and len(set(current.values())) > 1:
        found.add(_difference(key, "", Kind.OTHER_CURRENT, current))
    return tuple(sorted(found))


def _ids(by_site: Mapping[str, Mapping[str, Fact]]) -> Iterator[str]:
    """Version ids, all empty where the current version is all there is to compare."""
    return (version_id for known in by_site.values() for version_id in known)


def _current(facts: Facts) -> str:
    return next((fact.version_id for fact in facts if fact.is_current), _ABSENT)


def _of_version(
    key: str, version_id: str, facts: Mapping[str, Fact | None]
) -> Iterator[Difference]:
    present = {site: fact for site, fact in facts.items() if fact is not None}
    if len(present) < len(facts):
        has_object = any(not fact.is_delete_marker for fact in present.values())
        kind = Kind.MISSING_VERSION if has_object else Kind.EXTRA_MARKER
        where = {site: _PRESENT if site in present else _ABSENT for site in facts}
        yield _difference(key, version_id, kind, where)
    for kind, shown in (
        (Kind.OTHER_BYTES, _shown_bytes),
        (Kind.OTHER_TIME, _shown_time),
        (Kind.OTHER_METADATA, _shown_metadata),
        (Kind.OTHER_TAGS, _shown_tags),
        (Kind.OTHER_LOCK, _shown_lock),
    ):
        if len({_raw(fact, kind) for fact in present.values()}) > 1:
            texts = {site: shown(fact) for site, fact in present.items()}
            yield _difference(key, version_id, kind, texts)


def _raw(fact: Fact, kind: Kind) -> object:
    match kind:
        case Kind.OTHER_BYTES:
            return fact.is_delete_marker, fact.size_bytes, fact.content
        case Kind.OTHER_TIME:
            return fact.mtime_ms
        case Kind.OTHER_METADATA:
            return fact.metadata
        case Kind.OTHER_TAGS:
            return fact.tags
        case _:
            return fact.lock


def _difference(key: str, version_id: str, kind: Kind, sites: Mapping[str, str]) -> Difference:
    shown = {site: text[:SHOWN_MAX] for site, text in sites.items()}
    return Difference(key, version_id, kind, tuple(sorted(shown.items())))


def _shown_bytes(fact: Fact) -> str:
    if fact.is_delete_marker:
        return "delete marker"
    return f"{fact.size_bytes} bytes, {fact.content}"


def _shown_time(fact: Fact) -> str:
    when = datetime.fromtimestamp(fact.mtime_ms / 1000, UTC)
    return when.isoformat(timespec="milliseconds")


def _shown_metadata(fact: Fact) -> str:
    content_type, rest = _text(fact.metadata)
    headers, rest = _pairs(rest)
    metadata, _ = _pairs(rest)
    return json.dumps({"content-type": content_type} | headers | metadata, ensure_ascii=False)


def _shown_tags(fact: Fact) -> str:
    return json.dumps(_pairs(fact.tags)[0], ensure_ascii=False)


def _shown_lock(fact: Fact) -> str:
    flags, until_s = struct.unpack(">BQ", fact.lock)
    words = [word for bit, word in ((1, "governance"), (2, "compliance")) if flags & bit]
    words += [f"until {datetime.fromtimestamp(until_s, UTC):%Y-%m-%dT%H:%M:%SZ}"] if until_s else []
    words += ["held"] if flags & 4 else []
    return " ".join(words) or "none"


def _text(raw: bytes) -> tuple[str, bytes]:
    (size,) = struct.unpack_from(">H", raw)
    return raw[2 : 2 + size].decode(), raw[2 + size :]


def _pairs(raw: bytes) -> tuple[dict[str, str], bytes]:
    (count,) = struct.unpack_from(">H", raw)
    found, raw = {}, raw[2:]
    for _ in range(count):
        name, raw = _text(raw)
        found[name], raw = _text(raw)
    return found, raw
