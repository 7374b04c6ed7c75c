"""Versions that were removed by their id, and where: what absence alone does not say.

Invariant: a row says that the version was removed at the site and is not to be brought back there;
where a rule has version deletes travel, nor to be kept anywhere else. Rows are kept as long as the
longest horizon of a rule, and pruned after that.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog


async def record_removals(
    catalog: Catalog, removed: Sequence[tuple[str, str]], *, bucket: str, site: str
) -> None:
    """Record that versions (key, version id) were removed at a site; again changes nothing."""
    rows = [
        {"bucket": bucket, "key": key, "version_id": version_id, "site": site}
        for key, version_id in removed
    ]
    if rows:
        async with catalog.begin() as connection:
            await connection.execute(insert(t.Removal).on_conflict_do_nothing(), rows)


async def removals_of(
    catalog: Catalog, keys: Sequence[str], *, bucket: str
) -> dict[str, Mapping[str, frozenset[str]]]:
    """By key and version id, the sites where that version was removed."""
    query = select(t.Removal.key, t.Removal.version_id, t.Removal.site).where(
        t.Removal.bucket == bucket, t.Removal.key.in_(keys)
    )
    found: dict[str, dict[str, frozenset[str]]] = {}
    async with catalog.begin() as connection:
        for key, version_id, site in await connection.execute(query):
            versions = found.setdefault(key, {})
            versions[version_id] = versions.get(version_id, frozenset()) | {site}
    return dict(found)


async def any_removals(catalog: Catalog, *, bucket: str) -> bool:
    """Whether any is recorded for the bucket: most have none, and then nobody asks by key."""
    query = select(t.Removal.key).where(t.Removal.bucket == bucket).limit(1)
    async with catalog.begin() as connection:
        return (await connection.execute(query)).first() is not None


async def prune_removals(catalog: Catalog, *, older_than: timedelta) -> int:
    """Forget removals that were recorded that long ago; returns how many."""
    statement = delete(t.Removal).where(t.Removal.removed_at < func.clock_timestamp() - older_than)
    async with catalog.begin() as connection:
        return (await connection.execute(statement)).rowcount
