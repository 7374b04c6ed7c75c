"""Looking again: what was written must be what a reader now gets.

After a batch the targets are read anew, by a listing where the batch is dense in it and by HEAD
where it is sparse (a listed entry costs about a twentieth of a HEAD, measured). A HEAD knows whole
seconds and no delete markers, so what it finds wanting is looked up in a listing of its own. A
newer version that somebody wrote since is no fault.
"""

from collections.abc import Iterator, Mapping, Sequence

from entrepot.errors import BucketNotFound, NotFound
from entrepot.replication.apply import Context
from entrepot.replication.plan import Action, Copy, Mark
from entrepot.replication.workers import side_by_side
from entrepot.store.protocol import Version

LIST_PER_HEAD = 20

Wanted = Mapping[str, Copy | Mark]


async def verify(
    actions: Sequence[Action], *, prefix: str, after: str, listed: int, context: Context
) -> None:
    """Count every copy and marker as verified or failed.

    Args:
        actions: what was done, in any order.
        prefix: what all of their keys start with.
        after: a key before all of theirs; ``listed`` the entries between it and the last of them.
    """
    by_site: dict[int, dict[str, Copy | Mark]] = {}
    for action in actions:
        if isinstance(action, Copy | Mark):
            for target in action.targets:
                by_site.setdefault(target.site, {})[action.key] = action
    await side_by_side(
        _verify_site(site, wanted, prefix=prefix, after=after, listed=listed, context=context)
        for site, wanted in by_site.items()
    )


async def _verify_site(
    site: int, wanted: Wanted, *, prefix: str, after: str, listed: int, context: Context
) -> None:
    by_listing = listed <= LIST_PER_HEAD * len(wanted)
    if by_listing:
        found = await _by_listing(site, wanted, prefix=prefix, after=after, context=context)
    else:
        found = await _by_head(site, wanted, context=context)
    keeps_origin = context.sites[site].keeps_origin
    for key, action in wanted.items():
        why = _fault(action, found.get(key), keeps_origin=keeps_origin)
        if why and not by_listing:
            alone = await _by_listing(site, {key: action}, prefix=key, after="", context=context)
            why = _fault(action, alone.get(key), keeps_origin=keeps_origin)
        if not why:
            context.totals.verified += 1
            continue
        context.totals.failed += 1
        context.findings.note(
            key=key, what="failed", why=f"after writing, {context.sites[site].name} {why}"
        )


async def _by_listing(
    site: int, wanted: Wanted, *, prefix: str, after: str, context: Context
) -> dict[str, Version]:
    last = max(wanted, key=str.encode).encode()
    found: dict[str, Version] = {}
    pages = context.sites[site].store.versions(context.bucket, prefix=prefix, after=after)
    async for page in pages:
        for version in page.versions:
            if version.key.encode() > last:
                return found
            if version.is_current and version.key in wanted:
                found[version.key] = version
    return found


async def _by_head(site: int, wanted: Wanted, *, context: Context) -> dict[str, Version]:
    found: dict[str, Version] = {}
    waiting: Iterator[str] = iter(wanted)

    async def work() -> None:
        for key in waiting:
            try:
                found[key] = await context.sites[site].store.head(context.bucket, key)
            except BucketNotFound:
                raise
            except NotFound:
                continue  # right where a marker was wanted, looked up again where not

    await side_by_side(work() for _ in range(min(context.workers, len(wanted))))
    return found


def _fault(action: Copy | Mark, found: Version | None, *, keeps_origin: bool) -> str:
    if found is None:
        return "" if isinstance(action, Mark) else "does not list it"
    if found.mtime_ms > action.mtime_ms:
        return ""  # somebody wrote since, or the endpoint gave its own time
    if isinstance(action, Mark):
        return "" if found.is_delete_marker else "still serves it"
    if found.is_delete_marker:
        return "serves a delete marker"
    same = (found.size_bytes, found.etag) == (action.size_bytes, action.etag)
    if not same or (keeps_origin and found.version_id != action.version_id):
        return f"serves another version, {found.version_id}"
    return ""
