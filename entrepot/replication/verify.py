"""Looking again: what was written must be there, and what a reader gets where ids are minted.

After a batch the targets are read anew, by a listing where the batch is dense in it and by HEAD
where it is sparse (a listed entry costs about a twentieth of a HEAD, measured). A HEAD knows whole
seconds and no delete markers, so what it finds wanting is looked up in a listing of its own. A
version that is noncurrent because somebody wrote since is no fault.
"""

from collections.abc import Iterator, Mapping, Sequence

from entrepot.errors import BucketNotFound, NotFound
from entrepot.replication.apply import Context
from entrepot.replication.plan import Action, Copy, Mark
from entrepot.replication.workers import side_by_side
from entrepot.store.protocol import Version

LIST_PER_HEAD = 20

Name = tuple[str, str]
"""Key and version id; the current version where that is "", as where ids are minted."""

Wanted = Mapping[Name, Copy | Mark]


async def verify(
    actions: Sequence[Action], *, prefix: str, after: str, listed: int, context: Context
) -> None:
    """Count every copy and marker as verified or failed.

    Args:
        actions: what was done, in any order.
        prefix: what all of their keys start with.
        after: a key before all of theirs; ``listed`` the entries between it and the last of them.
    """
    by_site: dict[int, dict[Name, Copy | Mark]] = {}
    for action in actions:
        if isinstance(action, Copy | Mark):
            for target in action.targets:
                is_kept = context.sites[target.site].keeps_origin
                name = action.target_key, action.version_id if is_kept else ""
                by_site.setdefault(target.site, {})[name] = action
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
    for name, action in wanted.items():
        why = _fault(action, found.get(name), is_current=not name[1])
        if why and not by_listing:
            alone = await _by_listing(
                site, {name: action}, prefix=name[0], after="", context=context
            )
            why = _fault(action, alone.get(name), is_current=not name[1])
        if not why:
            context.totals.verified += 1
            continue
        context.totals.failed += 1
        context.findings.note(
            key=name[0], what="failed", why=f"after writing, {context.sites[site].name} {why}"
        )


async def _by_listing(
    site: int, wanted: Wanted, *, prefix: str, after: str, context: Context
) -> dict[Name, Version]:
    last = max(key.encode() for key, _ in wanted)
    found: dict[Name, Version] = {}
    pages = context.sites[site].store.versions(context.bucket, prefix=prefix, after=after)
    async for page in pages:
        for version in page.versions:
            if version.key.encode() > last:
                return found
            name = version.key, version.version_id
            if name in wanted:
                found[name] = version
            if version.is_current:
                found[version.key, ""] = version
    return found


async def _by_head(site: int, wanted: Wanted, *, context: Context) -> dict[Name, Version]:
    found: dict[Name, Version] = {}
    waiting: Iterator[Name] = iter(wanted)

    async def work() -> None:
        for name in waiting:
            try:
                found[name] = await context.sites[site].store.head(
                    context.bucket, name[0], version_id=name[1] or None
                )
            except BucketNotFound:
                raise
            except NotFound:
                continue  # right where a marker was wanted, looked up again where not

    await side_by_side(work() for _ in range(min(context.workers, len(wanted))))
    return found


def _fault(action: Copy | Mark, found: Version | None, *, is_current: bool) -> str:
    """What is wrong with a version found by its id, or with the current one."""
    if found is None:
        return "" if isinstance(action, Mark) and is_current else "does not list it"
    if is_current and found.mtime_ms > action.mtime_ms:
        return ""  # somebody wrote since, or the endpoint gave its own time
    if isinstance(action, Mark) != found.is_delete_marker:
        return "serves a delete marker" if found.is_delete_marker else "still serves it"
    if isinstance(action, Mark):
        return ""
    same = (found.size_bytes, found.etag) == (action.size_bytes, action.etag)
    return "" if same else f"has other bytes in {found.version_id}"
