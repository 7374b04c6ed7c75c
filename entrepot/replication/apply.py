"""Carrying out a plan: bytes and markers to the sites that lack them.

Every write is idempotent where the endpoint keeps the version id we name. Where it does not, a
write depends on the version that was planned against: by the endpoint's own condition if it has
one, else by a look just before (the race in between hides a write under our copy; it stays as a
noncurrent version). Bytes are proved on arrival: the source's ETag of a plain object is the MD5 of
its bytes, so the target refuses others; a multipart object is rebuilt part by part, and what the
target says of the parts must add up to the source's ETag before the object becomes visible.

A lock travels with the bytes where the endpoint keeps what we name, so that no version is ever
there without it; elsewhere it is set after them.

Memory: ``workers`` times 1 MiB, twice that while a batch is sent (small bodies are read whole, once
for all targets; larger ones are streamed).
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from entrepot.errors import (
    AccessDenied,
    BucketNotFound,
    EntrepotError,
    IntegrityError,
    InvalidInput,
    NotFound,
    PermanentError,
    PreconditionFailed,
)
from entrepot.replication.batch import Unit, units
from entrepot.replication.locks import Locks
from entrepot.replication.origins import copy_mark, marked, unmarked
from entrepot.replication.plan import Action, Copy, Mark, Remove, Target
from entrepot.replication.sites import Named, Site
from entrepot.replication.totals import Findings, Totals
from entrepot.replication.workers import side_by_side
from entrepot.store.protocol import (
    NULL_VERSION,
    Attributes,
    Body,
    Capability,
    Item,
    Lock,
    Origin,
    Part,
    Source,
    Version,
)
from entrepot.terms import Travel, fits

SMALL_BYTES = 1024 * 1024
_PLAIN_ETAG = re.compile(r"[0-9a-f]{32}")
_MULTIPART_ETAG = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True)
class Context:
    """Where and how actions are applied, and what is counted while they are.

    ``tagged`` is filled with the tags of what was copied to every other site, by key and version
    id: what the sites agreed on without having been compared. ``minted`` is filled with the marks
    of copies under ids that a site chose: by site, key and that id.
    """

    sites: Sequence[Site]
    bucket: str
    workers: int
    totals: Totals
    findings: Findings
    travels: frozenset[Travel] = frozenset(Travel)
    tag_filter: Mapping[str, str] = field(default_factory=dict)
    locks: Locks = field(default_factory=Locks)
    tagged: dict[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    minted: dict[int, dict[Named, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dressed:
    """What goes along with the bytes; ``lock`` is ``None`` where there is none."""

    attributes: Attributes
    lock: Lock | None = None


async def apply(actions: Sequence[Action], *, context: Context) -> list[Action]:
    """Carry out ``actions`` with a bounded number of workers; returns those that were done.

    An action comes back with the targets that it reached. What fails for good at one target is
    counted and left to the next sweep; an endpoint that cannot be reached, or has no such bucket,
    raises, since every other object would fail too.
    """
    done: list[Action] = []
    plain = [isinstance(each, Copy) and md5_of(each.etag) is not None for each in actions]
    work = units(actions, sites=context.sites, workers=context.workers, plain=plain)
    waiting = iter(work)
    count = min(context.workers, len(work))
    await side_by_side(_work(waiting, done, context) for _ in range(count))
    return done


async def _work(waiting: Iterator[Unit], done: list[Action], context: Context) -> None:
    for action in waiting:
        if isinstance(action, tuple):
            await _copy_batch(action, done, context)
            continue
        if isinstance(action, Remove):
            await _remove(action, done, context)
            continue
        reached: list[Target] = []
        if isinstance(action, Copy):
            await counted(action, _copy(action, reached, context), context)
        else:
            await side_by_side(_mark(action, target, reached, context) for target in action.targets)
        if reached:
            done.append(replace(action, targets=tuple(reached)))


class Keyed(Protocol):
    """Something that is done to a key."""

    @property
    def key(self) -> str: ...


async def counted(action: Keyed, work: Coroutine[Any, Any, None], context: Context) -> bool:
    """Whether ``work`` succeeded; counts what stands in its way for good."""
    try:
        await work
    except BucketNotFound:
        raise
    except (NotFound, PreconditionFailed) as error:
        context.totals.moved += 1
        context.findings.note(key=action.key, what="moved", why=str(error))
    except PermanentError as error:
        context.totals.failed += 1
        context.findings.note(key=action.key, what="failed", why=str(error))
    else:
        return True
    return False


async def _copy(action: Copy, reached: list[Target], context: Context) -> None:
    if _is_small(action):
        content, found = await _whole(action, context)
        works = [_put(action, target, content, found, context) for target in action.targets]
        await side_by_side(
            _reach(action, target, work, reached, context)
            for target, work in zip(action.targets, works, strict=True)
        )
        return
    send = _copy_parts if part_count(action.etag) else _copy_stream
    for target in action.targets:
        await _reach(action, target, send(action, target, context), reached, context)


async def bring(action: Copy, *, context: Context) -> None:
    """One copy to its one target; what stands in its way is raised, and nothing is counted."""
    [target] = action.targets
    if part_count(action.etag):
        await _copy_parts(action, target, context)
    elif _is_small(action):
        await _put(action, target, *await _whole(action, context), context)
    else:
        await _copy_stream(action, target, context)


def _is_small(action: Copy) -> bool:
    return action.size_bytes <= SMALL_BYTES and not part_count(action.etag)


async def _whole(action: Copy, context: Context) -> tuple[bytes, Dressed]:
    async with _open(action, context) as body:
        return await body.read(), await _dress(action, body.version, context)


async def _copy_batch(copies: Sequence[Copy], done: list[Action], context: Context) -> None:
    items: dict[Copy, Item] = {}
    dressed: dict[Copy, Dressed] = {}

    async def fetch(action: Copy) -> None:
        content, found = await _whole(action, context)
        if hashlib.md5(content, usedforsecurity=False).digest() != md5_of(action.etag):
            raise IntegrityError("the source's bytes are not those of its ETag")
        origin = Origin(action.version_id, action.mtime_ms, lock=found.lock)
        items[action] = Item(action.target_key, content, unmarked(found.attributes), origin)
        dressed[action] = found

    for action in copies:
        await counted(action, fetch(action), context)
    reached: dict[Copy, list[Target]] = {action: [] for action in items}
    for index in range(len(copies[0].targets)):
        left = await _send_batch(copies[0].targets[index].site, list(items.values()), context)
        for action, item in items.items():
            target = action.targets[index]
            work = (
                _put(action, target, item.body, dressed[action], context)
                if item.origin.version_id in left
                else asyncio.sleep(0)
            )
            await _reach(action, target, work, reached[action], context)
    done += (replace(action, targets=tuple(done)) for action, done in reached.items() if done)


async def _send_batch(site: int, items: Sequence[Item], context: Context) -> set[str]:
    """Send what can go in one request; returns the version ids of what has to go alone."""
    try:
        left = await context.sites[site].store.batch(context.bucket, items)
    except BucketNotFound:
        raise
    except PermanentError:  # one of them is refused; alone, the others are not
        left = items
    return {item.origin.version_id for item in left}


async def _reach(
    action: Copy,
    target: Target,
    work: Coroutine[Any, Any, None],
    reached: list[Target],
    context: Context,
) -> None:
    if await counted(action, work, context):
        reached.append(target)
        context.totals.copied += 1
        context.totals.copied_bytes += action.size_bytes


def _open(action: Copy, context: Context, **what: int) -> AbstractAsyncContextManager[Body]:
    source = context.sites[action.source].store
    return source.get(context.bucket, action.key, version_id=action.source_version, **what)


@asynccontextmanager
async def _stream(action: Copy, context: Context, **what: int) -> AsyncIterator[Body]:
    async with context.sites[action.source].streams, _open(action, context, **what) as body:
        yield body


async def _copy_stream(action: Copy, target: Target, context: Context) -> None:
    async with _stream(action, context) as body:
        found = await _dress(action, body.version, context)
        await _put(action, target, aiter(body), found, context)


async def _put(
    action: Copy, target: Target, content: Source, found: Dressed, context: Context
) -> None:
    site = context.sites[target.site]
    try:
        stored = await _send_whole(action, target, content, found, context)
    except AccessDenied:
        # A version that is locked is not written again: our own, if an answer was lost.
        if not await _is_there(action, site, context):
            raise
        return
    _check_etag(action, stored.etag)
    _note_minted(action, target, stored.version_id, context)
    await _lock_after(action, site, stored.version_id, found, context)


async def _is_there(action: Copy, site: Site, context: Context) -> bool:
    if not site.keeps_origin:
        return False
    try:
        found = await site.store.head(
            context.bucket, action.target_key, version_id=action.version_id
        )
    except NotFound:
        return False
    return found.etag == action.etag


def _note_minted(action: Copy, target: Target, version_id: str, context: Context) -> None:
    if context.sites[target.site].version_map is not None and version_id != NULL_VERSION:
        named = action.target_key, version_id
        context.minted.setdefault(target.site, {})[named] = copy_mark(action, bucket=context.bucket)


async def _lock_after(
    action: Copy, site: Site, version_id: str, found: Dressed, context: Context
) -> None:
    """Where a lock cannot come with the bytes."""
    if not site.keeps_origin and found.lock is not None:
        where = context.bucket, action.target_key, version_id
        await context.locks.put(site, where, found.lock, context.findings)


async def _send_whole(
    action: Copy, target: Target, content: Source, found: Dressed, context: Context
) -> Version:
    site = context.sites[target.site]
    conditional = not site.keeps_origin and Capability.CONDITIONAL_WRITE in site.capabilities
    if not conditional:
        await _check_unchanged(action.target_key, target, context)
    return await site.store.put(
        context.bucket,
        action.target_key,
        content,
        size_bytes=action.size_bytes,
        attributes=_for_site(action, site, found, context),
        origin=await _origin(action, site, found, context),
        md5=md5_of(action.etag),
        if_match=target.expected_etag if conditional and target.expected_etag else None,
        if_none_match=conditional and not target.expected_etag,
    )


async def _check_unchanged(key: str, target: Target, context: Context) -> None:
    """Where ids are minted and the write cannot be conditional: look before it."""
    site = context.sites[target.site]
    if site.keeps_origin:
        return
    try:
        etag = (await site.store.head(context.bucket, key)).etag
    except BucketNotFound:
        raise
    except NotFound:
        etag = ""
    if etag != target.expected_etag:
        raise PreconditionFailed("the key was written since it was listed", site=site.name)


async def _copy_parts(action: Copy, target: Target, context: Context) -> None:
    site = context.sites[target.site]
    first = await context.sites[action.source].store.head(
        context.bucket, action.key, version_id=action.source_version
    )
    found = await _dress(action, first, context)
    attributes = _for_site(action, site, found, context)
    origin = await _origin(action, site, found, context)
    key = action.target_key
    upload = await site.store.start(context.bucket, key, attributes=attributes, origin=origin)
    try:
        parts = await _send_parts(action, site, upload, context)
        _check_etag(action, _etag_of(parts) or action.etag)
        await _check_unchanged(key, target, context)
        stored = await site.store.complete(context.bucket, key, upload, parts, origin=origin)
        _check_etag(action, stored.etag)
    except BaseException:
        # Also when cancelled: parts of an open upload cost space that no listing shows.
        await asyncio.shield(_abort(site, context.bucket, key, upload))
        raise
    _note_minted(action, target, stored.version_id, context)
    await _lock_after(action, site, stored.version_id, found, context)


async def _send_parts(action: Copy, site: Site, upload: str, context: Context) -> tuple[Part, ...]:
    numbers = range(1, part_count(action.etag) + 1)
    try:
        pieces = [{"part": number} for number in numbers]
        return await _send(pieces, action, site, upload, context)
    except InvalidInput as error:
        if error.fields.get("status") != 416:  # HTTP: there is no such part
            raise
    # The upload skipped numbers, and endpoints say how many parts there are, not which. All but
    # the last are of one length in nearly every upload; where not, the ETag does not add up.
    async with _open(action, context, part=1) as body:
        length = body.length
    pieces = [{"start": number * length - length, "stop": number * length} for number in numbers]
    return await _send(pieces, action, site, upload, context)


async def _send(
    pieces: Sequence[Mapping[str, int]], action: Copy, site: Site, upload: str, context: Context
) -> tuple[Part, ...]:
    parts, left_bytes = [], action.size_bytes
    send = partial(site.store.part, context.bucket, action.target_key, upload)
    for number, piece in enumerate(pieces, start=1):
        if not left_bytes:  # the last part may be empty, and an empty one cannot be read
            parts.append(await send(number, b""))
            continue
        async with _stream(action, context, **piece) as body:
            parts.append(await send(number, aiter(body), size_bytes=body.length))
            left_bytes -= body.length
    return tuple(parts)


async def _abort(site: Site, bucket: str, key: str, upload: str) -> None:
    try:
        await site.store.abort(bucket, key, upload)
    except EntrepotError:
        return  # the endpoint is gone; its own lifecycle removes stale uploads


async def _dress(action: Copy, version: Version, context: Context) -> Dressed:
    found = version.attributes or Attributes()
    source = context.sites[action.source]
    where = context.bucket, action.key, action.source_version
    if found.tag_count and Travel.TAGS in context.travels:
        tags = await source.store.tags(where[0], where[1], version_id=where[2])
        found = replace(found, tags=tags)
    if not fits(found.tags, context.tag_filter):
        raise PreconditionFailed("its tags do not fit the rule now", site=source.name)
    if found.tags and len(action.targets) >= len(context.sites) - 1:
        context.tagged[action.target_key, action.version_id] = found.tags
    lock = await context.locks.get(source, where) if Travel.LOCKS in context.travels else None
    return Dressed(found, lock)


async def _origin(action: Copy, site: Site, found: Dressed, context: Context) -> Origin | None:
    if not site.keeps_origin:
        return None
    lock = found.lock
    if lock is not None and not await context.locks.takes(site, context.bucket):
        context.locks.miss(action.key, site, context.findings)
        lock = None
    return Origin(version_id=action.version_id, mtime_ms=action.mtime_ms, lock=lock)


def _for_site(action: Copy, site: Site, found: Dressed, context: Context) -> Attributes:
    if site.keeps_origin:
        return unmarked(found.attributes)
    return marked(found.attributes, bucket=context.bucket, action=action)


def md5_of(etag: str) -> bytes | None:
    """The MD5 that an ETag is, of a plain object; ``None`` where it is something else."""
    return bytes.fromhex(etag) if _PLAIN_ETAG.fullmatch(etag) else None


def part_count(etag: str) -> int:
    """How many parts a multipart object's ETag names; 0 of any other."""
    found = _MULTIPART_ETAG.fullmatch(etag)
    return int(found[1]) if found else 0


def _etag_of(parts: Sequence[Part]) -> str:
    """The ETag that ``parts`` will have together; "" where theirs are no MD5s."""
    digests = [md5_of(part.etag) for part in parts]
    if None in digests:
        return ""
    whole = hashlib.md5(b"".join(filter(None, digests)), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(parts)}"


def _check_etag(action: Copy, stored: str) -> None:
    if stored != action.etag and (md5_of(action.etag) or part_count(action.etag)):
        raise IntegrityError(
            "the copy has another ETag than its source", source=action.etag, target=stored
        )


async def _mark(action: Mark, target: Target, reached: list[Target], context: Context) -> None:
    site = context.sites[target.site]

    async def write() -> None:
        await _check_unchanged(action.key, target, context)
        origin = Origin(version_id=action.version_id, mtime_ms=action.mtime_ms)
        await site.store.delete(
            context.bucket, action.key, origin=origin if site.keeps_origin else None
        )

    if await counted(action, write(), context):
        reached.append(target)
        context.totals.marked += 1


async def _remove(action: Remove, done: list[Action], context: Context) -> None:
    """Take a version away; one that is locked stays, as a hold is stronger than a removal."""
    store = context.sites[action.site].store

    async def remove() -> None:
        try:
            await store.delete(context.bucket, action.key, version_id=action.version_id)
        except AccessDenied as error:
            context.totals.held += 1
            context.findings.note(key=action.key, what="held", why=str(error))
        else:
            context.totals.removed += 1
            done.append(action)

    await counted(action, remove(), context)
