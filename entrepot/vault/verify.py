"""Whether a vault is as it was written: from a listing to every byte of every pack.

Levels: *listing* the vault file, slots and records open, and the packs that indexes name are there
with their lengths; *closure* also, all that a snapshot names is in an index and its pages open;
*read* also, packs are read again: name, directory, and the id of every chunk.

What is damaged is reported, what cannot be asked just now is raised: an endpoint that is away
(``RetryableError``) says nothing of a vault. A pack whose domain has no key (any more) is compared
with its name alone. Indexes are read before packs are listed, so a backup that runs meanwhile
looks at worst like packs without an index.

Memory: the index, 2 bytes a chunk, ``READ_AHEAD`` packs and one; at most ``LISTED`` findings of a
kind are named, the others counted.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np

from entrepot.errors import IntegrityError, InvalidInput, NotFound, PermanentError, SetupError
from entrepot.vault import index as index_records
from entrepot.vault.index import Index, PackInfo
from entrepot.vault.keys import Domain, DomainKeys, check_slot
from entrepot.vault.packs import TRAILER, PackOpener, layout, pack_id, rows
from entrepot.vault.place import VAULT_FILE
from entrepot.vault.reader import read_chunks
from entrepot.vault.records import Kind
from entrepot.vault.repository import (
    Vault,
    doomed_packs,
    is_ring_slot,
    pack_name,
    read_file,
    read_slot,
    ring_slot,
)
from entrepot.vault.snapshots import Entry, Snapshot, Tree, parse_page

READ_AHEAD: Final = 2
PAGES: Final = 8
"""Pages of a snapshot that are held at a time."""

LISTED: Final = 1000


class Level(IntEnum):
    """How much is checked; each contains those before it."""

    LISTING = 1
    CLOSURE = 2
    READ = 3


class Finding(NamedTuple):
    """What is wrong with an object of the vault, named as it lies there."""

    name: str
    what: str


@dataclass(frozen=True, slots=True)
class Budget:
    """Which packs are read: part ``part`` of ``parts``, behind ``after``, for about ``max_bytes``.

    ``after`` is the ``cursor`` of an earlier report, "" from the start.
    """

    part: int = 1
    parts: int = 1
    max_bytes: int | None = None
    after: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.part <= self.parts <= 1 << 16:
            raise InvalidInput("a part is from 1 to the number of parts, 65,536 at most")
        if self.max_bytes is not None and self.max_bytes <= 0:
            raise InvalidInput("a budget has at least one byte")


ALL: Final = Budget()


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found. A vault is sound where nothing is damaged or missing.

    ``missing`` are packs, and chunks that an entry or a tree names. ``unreferenced`` are packs
    that no index names, of a backup that was killed or runs now or what a lost index named, and
    slots of vaults that were never finished.
    ``unreadable`` are domains whose key is not to be had: shredded, or of a ring that is not here.
    ``unlisted`` counts findings that are not named for their number. ``cursor`` is "" where the
    reading came to the end of its part.
    """

    level: Level
    snapshots: int = 0
    packs: int = 0
    pack_bytes: int = 0
    chunks: int = 0
    used_chunks: int = 0
    read_packs: int = 0
    read_bytes: int = 0
    proven_bytes: int = 0
    damaged: tuple[Finding, ...] = ()
    missing: tuple[Finding, ...] = ()
    unreferenced: tuple[str, ...] = ()
    unreadable: tuple[Domain, ...] = ()
    unlisted: int = 0
    cursor: str = ""

    @property
    def is_sound(self) -> bool:
        return not self.damaged and not self.missing

    @property
    def proven_share(self) -> float:
        """Of the packs' bytes, those that were read and found right; 1 for a vault without any."""
        return self.proven_bytes / self.pack_bytes if self.pack_bytes else 1.0


@dataclass(slots=True)
class _Notes:
    """Findings as they come."""

    damaged: dict[str, Finding] = field(default_factory=dict)
    missing: dict[str, Finding] = field(default_factory=dict)
    unreferenced: list[str] = field(default_factory=list)
    unreadable: set[Domain] = field(default_factory=set)
    unlisted: int = 0

    def damage(self, name: str, what: str) -> None:
        """An object that is not as it was written."""
        self._note(self.damaged, Finding(name, what))

    def miss(self, name: str, what: str) -> None:
        """An object or a chunk that is named and not there."""
        self._note(self.missing, Finding(name, what))

    def fail(self, name: str, error: PermanentError) -> None:
        """What the look at an object raised."""
        is_gone = isinstance(error, NotFound | SetupError)
        (self.miss if is_gone else self.damage)(name, error.message)

    def orphan(self, name: str) -> None:
        """A pack that no index names."""
        if len(self.unreferenced) < LISTED:
            self.unreferenced.append(name)
        else:
            self.unlisted += 1

    def _note(self, known: dict[str, Finding], found: Finding) -> None:
        if len(known) < LISTED:
            known.setdefault(found.name, found)
        elif found.name not in known:
            self.unlisted += 1

    def said(self) -> dict[str, Any]:
        """As the fields of a report."""
        return {
            "damaged": tuple(self.damaged.values()),
            "missing": tuple(self.missing.values()),
            "unreferenced": tuple(self.unreferenced),
            "unreadable": tuple(sorted(self.unreadable)),
            "unlisted": self.unlisted,
        }


def check_pack(info: PackInfo, data: bytes, secrets: DomainKeys | None) -> list[str]:
    """What is wrong with a pack whose bytes are ``data``; pure, blocks for some ms a MiB.

    Without ``secrets``, the keys of its domain, only name, length and header are compared.
    """
    wrong = []
    if pack_id(data) != info.id:
        wrong.append("its bytes have another BLAKE3 than its name says")
    if len(data) != info.size_bytes:
        wrong.append(f"it has {len(data)} bytes, and its index says {info.size_bytes}")
    if data[: len(info.header)] != info.header:
        wrong.append("its header is not the one that its index has")
    if secrets:
        opener, view = PackOpener(info.header, secrets), memoryview(data)
        wrong += [*_wrong_directory(info, view, opener), *_wrong_chunks(info, view, opener)]
    return wrong


def _wrong_directory(info: PackInfo, data: memoryview, opener: PackOpener) -> Iterator[str]:
    try:
        found = layout(data[-TRAILER.size :], pack_bytes=len(data))
        said = opener.directory(data[found.directory_start : found.directory_stop])
        stop = found.header_bytes + sum(row.stored_bytes for row in rows(said, start=0))
    except IntegrityError as error:
        yield f"its directory: {error.message}"
        return
    if said != info.rows:
        yield "its directory is not the one that its index has"
    if found.header_bytes != len(info.header) or stop != found.directory_start:
        yield "its parts do not fill it"


def _wrong_chunks(info: PackInfo, data: memoryview, opener: PackOpener) -> Iterator[str]:
    try:
        for number, row in enumerate(rows(info.rows, start=len(info.header))):
            blob = data[row.offset : row.offset + row.stored_bytes]
            try:
                opener.chunk(row, blob, number=number)
            except IntegrityError as error:
                yield f"chunk {row.id.hex()}: {error.message}"
    except IntegrityError as error:
        yield f"its rows: {error.message}"


def pack_of(data: bytes, secrets: DomainKeys) -> PackInfo:
    """What an index has to say of a pack, from the pack itself; ``IntegrityError``.

    For a vault whose indexes are lost. ``secrets`` are those of the domain in its header
    (``packs.domain_of``).
    """
    view = memoryview(data)
    found = layout(view[-TRAILER.size :], pack_bytes=len(data))
    head = data[: found.header_bytes]
    sealed = view[found.directory_start : found.directory_stop]
    return PackInfo(pack_id(data), len(data), head, PackOpener(head, secrets).directory(sealed))


def planned(packs: Iterable[PackInfo], budget: Budget) -> tuple[list[PackInfo], str]:
    """The packs that a budget reads, by id, and the cursor behind them: "" if they are the last.

    At least one is read, however small the budget.
    """
    after = bytes.fromhex(budget.after)
    ours = (each for each in packs if each.id > after and _is_in_part(each.id, budget))
    found: list[PackInfo] = []
    left = budget.max_bytes
    for pack in sorted(ours, key=lambda each: each.id):
        if left is not None:
            if found and pack.size_bytes > left:
                return found, found[-1].id.hex()
            left -= pack.size_bytes
        found.append(pack)
    return found, ""


def _is_in_part(pack: bytes, budget: Budget) -> bool:
    """Ids are evenly spread, so each part has about as many packs."""
    return 1 + (int.from_bytes(pack[:4], "big") * budget.parts >> 32) == budget.part


async def verify(vault: Vault, level: Level = Level.READ, budget: Budget = ALL) -> Report:
    """Check a vault up to ``level``; of its packs, those of ``budget`` are read."""
    notes = _Notes()
    await _check_file_and_slots(vault, notes)
    named = await _check_indexes(vault, notes)
    doomed = await _check_dooms(vault, notes)
    packs = [pack for pack in named.values() if pack.id not in doomed]
    listed = await _check_listing(vault, packs, doomed, notes)
    lost = {pack.id for pack in packs if listed.get(pack.id) != pack.size_bytes}
    index = await asyncio.to_thread(Index, packs, without=lost)
    await _check_drafts(vault, notes)
    closure = _Closure(vault, index, notes)
    names = await vault.names(Kind.SNAPSHOT)
    for name in names:
        await closure.check(name, deep=level >= Level.CLOSURE)
    reading, cursor = planned(packs, budget) if level >= Level.READ else ([], "")
    proven_bytes = await _check_packs(vault, [p for p in reading if p.id in listed], notes)
    return Report(
        level,
        snapshots=len(names),
        packs=len(packs),
        pack_bytes=sum(pack.size_bytes for pack in packs),
        chunks=len(index),
        used_chunks=closure.used_chunks,
        read_packs=len(reading),
        read_bytes=sum(pack.size_bytes for pack in reading),
        proven_bytes=proven_bytes,
        cursor=cursor,
        **notes.said(),
    )


async def _check_file_and_slots(vault: Vault, notes: _Notes) -> None:
    try:
        if await read_file(vault.place) != vault.file:
            notes.damage(VAULT_FILE, "it is another than when the vault was opened")
    except PermanentError as error:
        notes.fail(VAULT_FILE, error)
    count = 0
    async for found in vault.place.list("slots"):
        if is_ring_slot(found.name) and found.name != ring_slot(vault.file):
            notes.orphan(found.name)  # a vault was begun here and never finished
            continue
        count += 1
        try:
            check_slot(await read_slot(vault.place, found.name), vault.file, vault_key=vault.key)
        except PermanentError as error:
            notes.fail(found.name, error)
    if not count:
        notes.miss("slots", "nobody can open the vault any more")


async def _records(vault: Vault, kind: Kind, notes: _Notes) -> AsyncIterator[tuple[str, bytes]]:
    """Name and content of each record that opens."""
    for name in await vault.names(kind):
        try:
            yield name, await vault.read(kind, name)
        except NotFound:  # a prune has removed it since
            continue
        except PermanentError as error:
            notes.fail(f"{kind.folder}/{name}", error)


async def _check_indexes(vault: Vault, notes: _Notes) -> dict[bytes, PackInfo]:
    """The packs that indexes name, by id; of one that several name, what the first says."""
    found: dict[bytes, PackInfo] = {}
    async for name, content in _records(vault, Kind.INDEX, notes):
        try:
            for pack in index_records.parse(content):
                found.setdefault(pack.id, pack)
        except IntegrityError as error:
            notes.fail(f"{Kind.INDEX.folder}/{name}", error)
    return found


async def _check_dooms(vault: Vault, notes: _Notes) -> frozenset[bytes]:
    found: set[bytes] = set()
    async for name, content in _records(vault, Kind.DOOM, notes):
        try:
            found.update(doomed_packs(content))
        except IntegrityError as error:
            notes.fail(f"{Kind.DOOM.folder}/{name}", error)
    return frozenset(found)


async def _check_drafts(vault: Vault, notes: _Notes) -> None:
    """Whether they open: what they name is of backups that may never be finished."""
    async for name, content in _records(vault, Kind.DRAFT, notes):
        try:
            Snapshot.parse(content)
        except PermanentError as error:
            notes.fail(f"{Kind.DRAFT.folder}/{name}", error)


async def _check_listing(
    vault: Vault, packs: Sequence[PackInfo], doomed: Set[bytes], notes: _Notes
) -> dict[bytes, int]:
    """Compare what indexes name with what lies there; the lengths of packs that do, by id."""
    left = {pack_name(pack.id): pack for pack in packs}
    passed_over = {pack_name(pack) for pack in doomed}
    there: dict[bytes, int] = {}
    async for found in vault.place.list("packs"):
        pack = left.pop(found.name, None)
        if pack is None:
            if found.name not in passed_over:
                notes.orphan(found.name)
            continue
        there[pack.id] = found.size_bytes
        if pack.size_bytes != found.size_bytes:
            notes.damage(found.name, f"it has {found.size_bytes} bytes of {pack.size_bytes}")
    for name in left:
        notes.miss(name, "an index names the pack, and it is not there")
    return there


class _Closure:
    """Whether all that snapshots name is there. A page that several have is read once."""

    def __init__(self, vault: Vault, index: Index, notes: _Notes) -> None:
        self._vault = vault
        self._index = index
        self._notes = notes
        self._used = np.zeros(len(index), np.bool_)
        self._read = np.zeros(len(index), np.bool_)

    @property
    def used_chunks(self) -> int:
        return int(self._used.sum())

    async def check(self, name: str, *, deep: bool) -> None:
        """One snapshot; ``deep``: also what it names."""
        try:
            snapshot = await self._vault.snapshot(name)
        except NotFound:  # a prune has removed it since
            return
        except PermanentError as error:
            self._notes.fail(f"{Kind.SNAPSHOT.folder}/{name}", error)
            return
        for tree in snapshot.trees if deep else ():
            await self._check_tree(f"snapshots/{name} {tree.kind} {tree.site}/{tree.name}", tree)

    async def _check_tree(self, where: str, tree: Tree) -> None:
        pages = [page for page in tree.pages if self._is_new_page(where, page)]
        if await _secrets_of(self._vault, tree.domain, self._notes) is None:
            return
        for at in range(0, len(pages), PAGES):
            async for page, data in self._opened(where, pages[at : at + PAGES]):
                try:
                    for entry in parse_page(data):
                        self._check_entry(where, entry)
                except IntegrityError as error:
                    self._notes.fail(f"{where} page {page.hex()}", error)

    def _is_new_page(self, where: str, page: bytes) -> bool:
        at = self._index.ordinal(page)
        if at is None:
            self._notes.miss(f"{where} page {page.hex()}", "it is in no pack that an index names")
            return False
        is_new = not self._read[at]
        self._used[at] = self._read[at] = True
        return is_new

    async def _opened(
        self, where: str, pages: Sequence[bytes]
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Pages with their bytes: together, or one by one if one of them does not open."""
        try:
            found = [data async for data in read_chunks(self._vault, self._index, pages)]
        except PermanentError as error:
            if len(pages) == 1:
                self._notes.fail(f"{where} page {pages[0].hex()}", error)
                return
            for page in pages:
                async for each in self._opened(where, [page]):
                    yield each
            return
        for pair in zip(pages, found, strict=True):
            yield pair

    def _check_entry(self, where: str, entry: Entry) -> None:
        size_bytes = 0
        for chunk in entry.chunks:
            at = self._index.ordinal(chunk)
            if at is None:
                self._notes.miss(
                    f"{where} {entry.key!r} {entry.version_id}",
                    f"chunk {chunk.hex()} is in no pack that an index names",
                )
                return
            self._used[at] = True
            size_bytes += self._index.plain_bytes(at)
        if size_bytes != entry.size_bytes:
            self._notes.damage(
                f"{where} {entry.key!r} {entry.version_id}",
                f"its chunks have {size_bytes} bytes of {entry.size_bytes}",
            )


async def _secrets_of(vault: Vault, domain: Domain, notes: _Notes) -> DomainKeys | None:
    """The keys of a domain, or ``None`` and a note that they are not to be had."""
    try:
        return await vault.keys_of(domain)
    except PermanentError:
        notes.unreadable.add(domain)
        return None


async def _check_packs(vault: Vault, packs: Iterable[PackInfo], notes: _Notes) -> int:
    """Read packs again; bytes of those that are right."""
    ahead: deque[tuple[PackInfo, asyncio.Task[bytes]]] = deque()
    proven_bytes = 0
    try:
        for pack in packs:
            ahead.append((pack, asyncio.create_task(vault.place.read(pack_name(pack.id)))))
            if len(ahead) > READ_AHEAD:
                proven_bytes += await _check_next(vault, ahead, notes)
        while ahead:
            proven_bytes += await _check_next(vault, ahead, notes)
    finally:
        for _, task in ahead:
            task.cancel()
        await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)
    return proven_bytes


async def _check_next(
    vault: Vault, ahead: deque[tuple[PackInfo, asyncio.Task[bytes]]], notes: _Notes
) -> int:
    pack, task = ahead[0]
    try:
        data = await task
    except PermanentError as error:
        notes.fail(pack_name(pack.id), error)
        return 0
    finally:
        ahead.popleft()
    secrets = await _secrets_of(vault, pack.domain, notes)
    if wrong := await asyncio.to_thread(check_pack, pack, data, secrets):
        more = f"; {len(wrong) - 1} more findings" if len(wrong) > 1 else ""
        notes.damage(pack_name(pack.id), wrong[0] + more)
        return 0
    return len(data)
