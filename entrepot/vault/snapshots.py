"""Snapshots: what was backed up, as trees of pages of entries. Pure: bytes and values.

Invariant: where pages end follows from the keys, so a change of one key changes one page, and what
did not change has the chunks that it had.
"""

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from blake3 import blake3

from entrepot.errors import IntegrityError, InvalidInput, Unsupported
from entrepot.vault.keys import OWN, Domain

FORMAT: Final = 1
PAGE_ENTRIES_MAX: Final = 4096
_ENDS_BELOW: Final = 256
"""Of the 65,536 values of two bytes: one key in 256 ends a page, some 50 KB of entries."""


@dataclass(frozen=True, slots=True)
class EntryLock:
    """What keeps a version; ``until_s`` is Unix time or 0."""

    mode: str = ""
    until_s: int = 0
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A version of a key, or a delete marker, as the format has it."""

    key: str
    version_id: str
    mtime_ms: int
    size_bytes: int = 0
    etag: str = ""
    is_delete_marker: bool = False
    chunks: tuple[bytes, ...] = ()
    digest: bytes = b""
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    lock: EntryLock = EntryLock()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def dump(self) -> bytes:
        """Its line, without the end of the line."""
        lock = self.lock
        said = {
            "k": self.key,
            "v": self.version_id,
            "t": self.mtime_ms,
            "s": self.size_bytes,
            "e": self.etag,
            "m": self.is_delete_marker,
            "c": [each.hex() for each in self.chunks],
            "b": self.digest.hex(),
            "y": self.content_type,
            "u": dict(self.metadata),
            "h": dict(self.headers),
            "g": dict(self.tags),
            "l": [lock.mode, lock.until_s, lock.hold] if lock != EntryLock() else [],
            "x": dict(self.extra),
        }
        return dump_json({name: value for name, value in said.items() if value or name in "kvt"})

    @classmethod
    def parse(cls, line: bytes) -> "Entry":
        """``IntegrityError`` for what is no entry."""
        try:
            said = json.loads(line)
            return cls(
                key=said["k"],
                version_id=said["v"],
                mtime_ms=said["t"],
                size_bytes=said.get("s", 0),
                etag=said.get("e", ""),
                is_delete_marker=said.get("m", False),
                chunks=tuple(bytes.fromhex(each) for each in said.get("c", ())),
                digest=bytes.fromhex(said.get("b", "")),
                content_type=said.get("y", ""),
                metadata=said.get("u", {}),
                headers=said.get("h", {}),
                tags=said.get("g", {}),
                lock=EntryLock(*said.get("l", ())),
                extra=said.get("x", {}),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError("a page of a snapshot is malformed") from error


def ends_page(key: str) -> bool:
    """Whether a page ends behind this key."""
    return int.from_bytes(blake3(key.encode()).digest(length=2), "big") < _ENDS_BELOW


async def pages(entries: AsyncIterable[Entry]) -> AsyncIterator[list[Entry]]:
    """Entries, sorted already, page by page. Memory: one page, and the versions of one key."""
    page: list[Entry] = []
    async for entry in entries:
        is_full = len(page) >= PAGE_ENTRIES_MAX
        if page and entry.key != page[-1].key and (is_full or ends_page(page[-1].key)):
            yield page
            page = []
        page.append(entry)
    if page:
        yield page


def dump_page(entries: Iterable[Entry]) -> bytes:
    """The bytes of a page."""
    return b"".join(entry.dump() + b"\n" for entry in entries)


def parse_page(data: bytes) -> Iterator[Entry]:
    """The entries of a page."""
    return (Entry.parse(line) for line in data.splitlines())


@dataclass(frozen=True, slots=True)
class Tree:
    """One thing that was backed up: a bucket of a site, or the files of a directory."""

    kind: str
    site: str
    name: str
    domain: Domain = OWN
    prefixes: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    entries: int = 0
    size_bytes: int = 0
    pages: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def source(self) -> tuple[str, str, str, tuple[str, ...]]:
        """What it is a tree of: equal for trees of one series."""
        return self.kind, self.site, self.name, self.prefixes

    def to_json(self) -> dict[str, Any]:
        """As the format has it."""
        return {
            **{name: getattr(self, name) for name in ("kind", "site", "name", "entries")},
            "domain": list(self.domain),
            "prefixes": list(self.prefixes),
            "settings": dict(self.settings),
            "bytes": self.size_bytes,
            "pages": [page.hex() for page in self.pages],
        }

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> "Tree":
        """The inverse; ``KeyError``, ``TypeError``, ``ValueError`` for what is none."""
        return cls(
            kind=said["kind"],
            site=said["site"],
            name=said["name"],
            domain=Domain(*said["domain"]),
            prefixes=tuple(said["prefixes"]),
            settings=said["settings"],
            entries=said["entries"],
            size_bytes=said["bytes"],
            pages=tuple(bytes.fromhex(page) for page in said["pages"]),
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one backup kept."""

    started_ms: int
    ended_ms: int
    trees: tuple[Tree, ...]
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[str, Any] = field(default_factory=dict)

    def dump(self) -> bytes:
        """The content of its record."""
        said = {name: value for name, value in asdict(self).items() if name != "trees"}
        return dump_json({"format": FORMAT, **said, "trees": [t.to_json() for t in self.trees]})

    @classmethod
    def parse(cls, content: bytes) -> "Snapshot":
        """``IntegrityError`` for what is no snapshot, ``Unsupported`` for a newer format."""
        try:
            said = json.loads(content)
            if said.pop("format") > FORMAT:
                raise Unsupported(
                    "the snapshot has a newer format",
                    hint="read it with the version that wrote it, or a later one",
                )
            trees = tuple(Tree.of_json(tree) for tree in said.pop("trees"))
            return cls(trees=trees, **said)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError("a snapshot is malformed") from error

    @property
    def size_bytes(self) -> int:
        """Of all that it kept, before chunks that are shared."""
        return sum(tree.size_bytes for tree in self.trees)


def dump_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; ``InvalidInput`` for texts that are no Unicode."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("a backup keeps texts of Unicode only") from error
