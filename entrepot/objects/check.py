"""Catalog and store side by side: rows without objects, objects without rows; and the catalog anew.

Invariant: nothing is removed here. A stored version without a row is taken up, as its mark says
where it has one: it may be all that is left of an acknowledged write. A row without a stored
version is reported, after a look at that very version, since listings may hide keys (MinIO lists
nothing below a key that is an object).

Memory: two pages of 1,000 entries, and of each kind the first 1,000 findings by name.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace

from entrepot.catalog.buckets import Bucket, list_buckets, manage_bucket
from entrepot.catalog.objects.change import add_rows
from entrepot.catalog.objects.effects import being_purged
from entrepot.catalog.objects.facts import Changes, ObjectRow, Place
from entrepot.catalog.objects.intents import raise_floor, under_way
from entrepot.catalog.objects.read import FIRST, known_versions, list_versions
from entrepot.catalog.states import BucketMode
from entrepot.errors import NotFound, PermanentError
from entrepot.objects import internal
from entrepot.objects.ground import Ground
from entrepot.objects.names import shown_key, stored_key
from entrepot.objects.reads import read_in_store, row_of
from entrepot.objects.removal import lock_json
from entrepot.objects.settle import discovery
from entrepot.replication.details import Details
from entrepot.store.protocol import Lock, Page, Version

NAMED_MAX = 1000
_HEADS = 16
"""Looks at a time; a look takes the store a millisecond or two."""


@dataclass(frozen=True, slots=True)
class Named:
    """A version by its names."""

    key: str
    version_id: str


@dataclass(slots=True)
class Findings:
    """What a check of a bucket found. Lists name the first 1,000; counts are of all.

    ``unreadable`` are orphans that could not be taken up: damaged, or their key is gone.
    """

    bucket: str
    versions: int = 0
    orphans: list[Named] = field(default_factory=list)
    orphan_count: int = 0
    missing: list[Named] = field(default_factory=list)
    missing_count: int = 0
    unreadable: list[Named] = field(default_factory=list)
    taken_up: int = 0
    quarantined: int = 0


async def check(
    ground: Ground, bucket: Bucket, *, heal: bool = False, anew: bool = False
) -> Findings:
    """Compare one managed bucket with the store; with ``heal`` take up what has no row.

    ``anew``: most have none, so a listing that tells all is worth what it costs the store.
    """
    found, details = Findings(bucket.name), Details(ground.store, bucket.name)
    async for entries in _orphans(ground, bucket, found, details.pages(details=anew)):
        found.orphan_count += len(entries)
        for entry in entries[: NAMED_MAX - len(found.orphans)]:
            found.orphans.append(Named(shown_key(entry.key), entry.version_id))
        if heal:
            await _take_up(ground, bucket, entries, found, details)
    async for row in _missing(ground, bucket):
        found.missing_count += 1
        if len(found.missing) < NAMED_MAX:
            found.missing.append(Named(row.key, row.version_id))
    return found


async def observe(
    ground: Ground, bucket: Bucket, entries: Sequence[Version], *, tagged: bool = False
) -> int:
    """Record versions of an adopted bucket, as a listing or a notification tells of them.

    Those that are known stay as they are: the stamp that is derived from a version's time is
    frozen when it is first seen. Those that a receiver is bringing, or that were removed here, are
    left out. Returns how many were new. ``tagged``: with the tags that the entries tell, so that
    later changes of these can be told; not of those that have more than they tell.
    """
    seen = []
    for entry in entries:
        row, attributes = row_of(ground.site, bucket, entry), entry.attributes
        if tagged and attributes and attributes.tag_count == len(attributes.tags):
            row = replace(row, attributes={**row.attributes, "tags": dict(attributes.tags)})
        seen.append(row)
    return await _enter(ground, seen, but_known=True)


async def take_up(ground: Ground, bucket: Bucket, entries: Sequence[Version]) -> int:
    """Give stored versions of a managed bucket their rows, as a sweep that brought them asks.

    Those that have one stay as they are; returns how many were new.
    """
    found = Findings(bucket.name)
    await _take_up(ground, bucket, entries, found, Details(ground.store, bucket.name))
    return found.taken_up


async def rebuild(ground: Ground) -> AsyncIterator[Findings]:
    """Make the catalog again from the store: buckets, versions, stamps, usage, the clock's floor.

    What is there already stays as it is. Not in the store, so not here: stamps of delete markers
    (derived ones take their place), audit rows, tags that were changed while the store was away,
    when tags and holds were changed last.
    """
    async for name, how in internal.records(ground):
        await manage_bucket(ground.catalog, name=name, **how)  # type: ignore[arg-type]
    for bucket in await list_buckets(ground.catalog):
        if bucket.mode is BucketMode.MANAGED:
            yield await check(ground, bucket, heal=True, anew=True)


async def _orphans(
    ground: Ground, bucket: Bucket, found: Findings, pages: AsyncIterator[Page]
) -> AsyncIterator[Sequence[Version]]:
    """Stored versions without a row, page by page; not those that are on their way in or out."""
    async for page in pages:
        entries = page.versions
        found.versions += len(entries)
        names = [(shown_key(entry.key), entry.version_id) for entry in entries]
        known = await known_versions(ground.catalog, bucket_id=bucket.id, names=names)
        rest = [entry for entry in entries if entry.version_id not in known]
        if not rest:
            continue
        ids = [entry.version_id for entry in rest]
        # Asked in this order: a write that is committed in between has its row the second time.
        moving = await under_way(ground.catalog, version_ids=ids)
        moving |= await being_purged(ground.catalog, bucket_id=bucket.id, version_ids=ids)
        names = [(shown_key(entry.key), entry.version_id) for entry in rest]
        known = await known_versions(ground.catalog, bucket_id=bucket.id, names=names)
        if rest := [entry for entry in rest if entry.version_id not in known | moving]:
            yield rest


async def _take_up(
    ground: Ground,
    bucket: Bucket,
    entries: Sequence[Version],
    found: Findings,
    details: Details,
) -> None:
    turns = asyncio.Semaphore(_HEADS)

    async def look(entry: Version) -> ObjectRow | None:
        if entry.is_delete_marker:
            return row_of(ground.site, bucket, entry)
        async with turns:
            try:
                version = await details.of(entry)
                row = await read_in_store(ground, bucket, version)
            except NotFound:  # gone since it was listed
                return None
            except PermanentError:  # its key is gone, or it is damaged
                if len(found.unreadable) < NAMED_MAX:
                    found.unreadable.append(Named(shown_key(entry.key), entry.version_id))
                return None
        locked = version.lock if bucket.locked and version.lock != Lock() else None
        told = {"lock": lock_json(locked)} if locked else {}
        return replace(row, attributes={**row.attributes, **told})

    await details.check(entries)
    seen = [row for row in await asyncio.gather(*map(look, entries)) if row]
    found.quarantined += sum(ground.hybrid.is_beyond(row.stamp.time_ms) for row in seen)
    found.taken_up += await _enter(ground, seen)


async def _enter(ground: Ground, seen: Sequence[ObjectRow], *, but_known: bool = False) -> int:
    """Take up what has no row yet; what is beyond the bound is kept and not applied."""
    rows = []
    for row in seen:
        beyond = ground.hybrid.is_beyond(row.stamp.time_ms)
        if not beyond:
            ground.hybrid.observe(row.stamp.time_ms)
        rows.append(replace(row, is_quarantined=beyond))
    if floor_ms := ground.hybrid.next_floor_ms():
        ground.hybrid.floor_ms, _ = await raise_floor(ground.catalog, floor_ms)

    def decide(missing: Iterable[ObjectRow], newest: dict[Place, ObjectRow]) -> Changes:
        return discovery(missing, newest, action="take-up", actor="entrepot")

    return await add_rows(
        ground.catalog, rows, decide, recorder=ground.recorder, but_known=but_known
    )


async def _missing(ground: Ground, bucket: Bucket) -> AsyncIterator[ObjectRow]:
    """Rows whose version the store does not have."""
    stored = _StoredVersions(ground, bucket)
    after, before = "", FIRST
    while rows := await list_versions(
        ground.catalog, bucket_id=bucket.id, after=after, before=before
    ):
        after, before = rows[-1].key, rows[-1].stamp
        seen = await stored.up_to(after)
        for row in rows:
            if row.version_id not in seen and await _is_missing(ground, bucket, row):
                yield row


class _StoredVersions:
    """The ids of stored versions, key by key: those of a page of rows at a time."""

    def __init__(self, ground: Ground, bucket: Bucket) -> None:
        self._pages = ground.store.versions(bucket.name)
        self._ahead: list[tuple[bytes, str]] = []

    async def up_to(self, key: str) -> set[str]:
        """Ids of all stored versions up to this key, less those far before it."""
        last = stored_key(key).encode()
        while not self._ahead or self._ahead[-1][0] <= last:
            page = await anext(self._pages, None)
            if page is None:
                break
            self._ahead += [(entry.key.encode(), entry.version_id) for entry in page.versions]
        seen = {version_id for _, version_id in self._ahead}
        self._ahead = [entry for entry in self._ahead if entry[0] >= last]
        return seen


async def _is_missing(ground: Ground, bucket: Bucket, row: ObjectRow) -> bool:
    try:
        await ground.store.head(bucket.name, stored_key(row.key), version_id=row.version_id)
    except NotFound as error:
        is_marker = error.fields.get("status") == 405
        if is_marker and row.is_delete_marker:
            return False
        names = [(row.key, row.version_id)]  # removed since it was listed?
        return bool(await known_versions(ground.catalog, bucket_id=row.bucket_id, names=names))
    return False
