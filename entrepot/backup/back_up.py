"""Back up: what changed since the parent is read once and goes to every vault.

Invariant: a snapshot is published when all that it refers to is stored, indexed and seen in the
store's listing; a run that is killed leaves none. Every ``DRAFT_BYTES`` a draft is written, and the
next run reads nothing again that a draft has.

Memory: three pages of the listing (4,096 entries each), ``parallel`` objects on their way with up
to 12 MiB each, and for each vault its index and its writer.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final

from entrepot.backup.parents import Known, Parents, is_same
from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import IntegrityError, LimitExceeded, NotFound
from entrepot.replication.workers import side_by_side
from entrepot.vault.chunks import Chunk
from entrepot.vault.index import Index
from entrepot.vault.intake import Intake
from entrepot.vault.keys import DomainKeys
from entrepot.vault.records import Kind, time_of
from entrepot.vault.repository import Vault, pack_name
from entrepot.vault.snapshots import Entry, Snapshot, Tree, dump_page, pages
from entrepot.vault.source import Source
from entrepot.vault.writer import Writer

DRAFT_BYTES: Final = 4 << 30
"""Of what was read: what a run that is killed has to read again at most."""

HORIZON_S: Final = 7 * 24 * 3600.0
"""A prune waits so long between dooming packs and removing them; no backup may take longer."""


AHEAD: Final = 2
"""Pages on their way behind the one that is waited for."""


@dataclass(slots=True)
class Count:
    """What came of one source in one vault."""

    entries: int = 0
    size_bytes: int = 0
    read: int = 0
    read_bytes: int = 0
    vanished: int = 0
    """Versions that were removed between the listing and the read; they are in no snapshot."""


@dataclass(frozen=True, slots=True)
class Backed:
    """What one vault got: the snapshot, and how much was new. ``vault`` is its id in hex."""

    vault: str
    snapshot: str
    parent: str | None
    counts: Mapping[str, Count]
    new_bytes: int
    stored_bytes: int


@dataclass(slots=True)
class _Target:
    """One vault while it is written to."""

    vault: Vault
    index: Index
    writer: Writer
    parent: str | None
    trees: list[Tree] = field(default_factory=list)
    before: list[Snapshot] = field(default_factory=list)
    """The parent and drafts after it, older first."""
    drafts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Lane:
    """One source on its way into one vault."""

    target: _Target
    keys: DomainKeys
    parents: Parents
    tree: Tree
    count: Count = field(default_factory=Count)
    pages: list[bytes] = field(default_factory=list)

    def made(self) -> Tree:
        """The tree as far as it has come."""
        return replace(
            self.tree,
            entries=self.count.entries,
            size_bytes=self.count.size_bytes,
            pages=tuple(self.pages),
        )


_Page = list[list[Entry | None]]
"""For each entry of a page what became of it in each lane."""


async def back_up(
    vaults: Sequence[Vault],
    sources: Sequence[Source],
    *,
    tags: Mapping[str, str] | None = None,
    points: Mapping[str, Any] | None = None,
    parallel: int = 16,
    draft_bytes: int = DRAFT_BYTES,
    clock: Clock = SYSTEM_CLOCK,
) -> list[Backed]:
    """A snapshot of all ``sources`` in each of ``vaults``; one report a vault.

    Raises what a source or a store raises; then no snapshot is visible. ``LimitExceeded`` where it
    took so long that a prune may have removed what it counted on.
    """
    run = _Run(
        vaults, sources, tags or {}, points or {}, asyncio.Semaphore(parallel), draft_bytes, clock
    )
    return await run.carry_out()


@dataclass(slots=True)
class _Run:
    """One call of ``back_up``."""

    _vaults: Sequence[Vault]
    _sources: Sequence[Source]
    _tags: Mapping[str, str]
    _points: Mapping[str, Any]
    _room: asyncio.Semaphore
    _draft_bytes: int
    _clock: Clock
    _undrafted_bytes: int = 0

    async def carry_out(self) -> list[Backed]:
        started_ms = self._now_ms()
        targets = [await self._target(vault) for vault in self._vaults]
        try:
            counts = [await self._source(source, targets, started_ms) for source in self._sources]
            by_name = [
                dict(zip((source.name for source in self._sources), of_target, strict=True))
                for of_target in zip(*counts, strict=True)
            ]
            published = [await self._publish(target, started_ms) for target in targets]
        finally:
            await asyncio.gather(*(target.writer.abandon() for target in targets))
        return [
            Backed(
                vault=target.vault.file.vault_id.hex(),
                snapshot=snapshot,
                parent=target.parent,
                counts=count,
                new_bytes=target.writer.new_bytes,
                stored_bytes=target.writer.stored_bytes,
            )
            for target, snapshot, count in zip(targets, published, by_name, strict=True)
        ]

    async def _target(self, vault: Vault) -> _Target:
        index = await vault.index()
        wanted = {(s.kind, s.site, s.name, s.prefixes) for s in self._sources}
        target = _Target(vault, index, Writer(vault, index), None)
        for name in reversed(await vault.names(Kind.SNAPSHOT)):
            snapshot = await vault.snapshot(name)
            if wanted & {tree.source for tree in snapshot.trees}:
                target.parent = name
                target.before.append(snapshot)
                break
        for name in await vault.names(Kind.DRAFT):
            if target.parent is None or name > target.parent:
                target.before.append(Snapshot.parse(await vault.read(Kind.DRAFT, name)))
                target.drafts.append(name)
        return target

    async def _source(
        self, source: Source, targets: Sequence[_Target], started_ms: int
    ) -> list[Count]:
        settings = await source.settings()
        async with AsyncExitStack() as stack:
            lanes = []
            for target in targets:
                domain = await target.vault.domain_of(source.tenant)
                tree = Tree(
                    source.kind, source.site, source.name, domain, source.prefixes, settings
                )
                parents = await stack.enter_async_context(Parents())
                for snapshot in target.before:
                    for known in snapshot.trees:
                        if known.source == tree.source:
                            parents.add(target.vault, target.index, known)
                lanes.append(_Lane(target, await target.vault.keys_of(domain), parents, tree))
            done = await stack.enter_async_context(aclosing(self._done(source, lanes)))
            async for page in done:
                await _take(page, lanes)
                if self._undrafted_bytes >= self._draft_bytes:
                    await self._draft(lanes, started_ms)
            for lane in lanes:
                lane.target.trees.append(lane.made())
        return [lane.count for lane in lanes]

    async def _done(self, source: Source, lanes: Sequence[_Lane]) -> AsyncGenerator[_Page, None]:
        """Page by page what came of its entries; the next ones are listed and read meanwhile.

        Without them every page would end with few reads under way, and wait for the listing.
        """
        under_way: deque[asyncio.Task[_Page]] = deque()
        try:
            async for page in pages(source.entries()):
                known = [await lane.parents.known(page) for lane in lanes]
                works = [self._entry(source, entry, lanes, known) for entry in page]
                under_way.append(asyncio.create_task(side_by_side(works)))
                if len(under_way) > AHEAD:
                    yield await under_way.popleft()
            while under_way:
                yield await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _entry(
        self, source: Source, entry: Entry, lanes: Sequence[_Lane], known: Sequence[Known]
    ) -> list[Entry | None]:
        """The entry with its chunks, for each lane; None where it is gone."""
        found: list[Entry | None] = [
            _kept(entry, before.get((entry.key, entry.version_id)), lane)
            for lane, before in zip(lanes, known, strict=True)
        ]
        missing = [n for n, each in enumerate(found) if each is None]
        if not missing:
            return found
        async with self._room:
            try:
                stored = await self._read(source, entry, [lanes[n] for n in missing])
            except NotFound:
                return found
        for n, each in zip(missing, stored, strict=True):
            found[n] = each
        return found

    async def _read(self, source: Source, entry: Entry, lanes: Sequence[_Lane]) -> list[Entry]:
        """Read a version once, into every lane."""
        intakes = [Intake(lane.target.writer, lane.keys) for lane in lanes]
        async with source.open(entry) as pieces:
            async for piece in pieces:
                for intake in intakes:
                    await intake.feed(piece)
        size_bytes = intakes[0].came_bytes
        if size_bytes != entry.size_bytes:
            raise IntegrityError(
                "a version has another length than its listing says",
                key=entry.key,
                version=entry.version_id,
                said=entry.size_bytes,
                came=size_bytes,
            )
        self._undrafted_bytes += size_bytes
        for lane in lanes:
            lane.count.read += 1
            lane.count.read_bytes += size_bytes
        return [
            replace(entry, chunks=await intake.finish(), digest=intake.digest) for intake in intakes
        ]

    async def _draft(self, lanes: Sequence[_Lane], started_ms: int) -> None:
        """Make what was read so far known to the next run, should this one be killed."""
        for lane in lanes:
            await lane.target.writer.finish()
            trees = (*lane.target.trees, lane.made())
            draft = Snapshot(started_ms, self._now_ms(), trees, lane.target.parent)
            name = await lane.target.vault.write(Kind.DRAFT, draft.dump())
            lane.target.drafts.append(name)
        self._undrafted_bytes = 0

    async def _publish(self, target: _Target, started_ms: int) -> str:
        await target.writer.finish()
        await check_stored(target.vault, target.index)
        now_ms = self._now_ms()
        if now_ms - started_ms > HORIZON_S * 1000:
            raise LimitExceeded(
                "the backup took longer than a prune waits",
                hint="run it again: what it stored is there; back up fewer buckets at a time",
                hours=(now_ms - started_ms) // 3_600_000,
            )
        snapshot = Snapshot(
            started_ms, now_ms, tuple(target.trees), target.parent, self._tags, self._points
        )
        name = await target.vault.write(Kind.SNAPSHOT, snapshot.dump())
        for draft in target.drafts:
            if time_of(draft) <= time_of(name):
                await target.vault.place.remove(f"{Kind.DRAFT.folder}/{draft}")
        return name

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


async def _take(page: _Page, lanes: Sequence[_Lane]) -> None:
    """Count and store a page whose entries are done, in each lane."""
    for lane, entries in zip(lanes, zip(*page, strict=True), strict=True):
        kept = [entry for entry in entries if entry is not None]
        lane.count.entries += len(kept)
        lane.count.size_bytes += sum(entry.size_bytes for entry in kept)
        lane.count.vanished += len(entries) - len(kept)
        if kept:
            chunks = await asyncio.to_thread(_page_chunks, kept, lane)
            lane.pages += await lane.target.writer.store(chunks, lane.keys)


def _page_chunks(entries: Sequence[Entry], lane: _Lane) -> list[Chunk]:
    """A page, in one chunk unless it is longer than any may be."""
    data, most = dump_page(entries), lane.target.writer.cutting.max_bytes
    cut = (data[at : at + most] for at in range(0, len(data), most))
    return [Chunk(lane.keys.chunk_id(each), each) for each in cut]


def _kept(entry: Entry, known: Entry | None, lane: _Lane) -> Entry | None:
    """The entry with the chunks that the vault has of it; None where it is to be read."""
    if entry.is_delete_marker or not entry.size_bytes:
        return entry
    if known is None or not is_same(entry, known) or not known.chunks:
        return None
    if any(chunk not in lane.target.index for chunk in known.chunks):
        return None
    return replace(entry, chunks=known.chunks, digest=known.digest)


async def check_stored(vault: Vault, index: Index) -> None:
    """That the store lists every pack that was counted on or added, in its length."""
    listed = await vault.listed()
    for pack in index.packs:
        if listed.get(pack_name(pack.id)) != pack.size_bytes:
            raise IntegrityError(
                "a pack of the vault went missing during the backup",
                hint="run it again, which stores it anew",
                pack=pack.id.hex(),
            )
