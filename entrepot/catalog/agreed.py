"""The tags that all sites of a rule had of a version when they were last compared.

Invariant: a row says what every site had at one moment. So a site that has something else by now
changed it since. No row is the same as no tags.
"""

from collections.abc import Mapping

from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog

Named = tuple[str, str]
"""Key, and the version id that is the same at every site."""

Tags = Mapping[str, str]

CHUNK = 5_000
"""Rows of one statement: four parameters each, of the 65,535 that Postgres takes."""


async def tags_between(
    catalog: Catalog, after: str, last: str, *, rule: str, bucket: str
) -> dict[Named, Tags]:
    """What was agreed on for keys after ``after`` up to and with ``last``."""
    of_rule = (t.AgreedTags.rule == rule) & (t.AgreedTags.bucket == bucket)
    query = select(t.AgreedTags.key, t.AgreedTags.version_id, t.AgreedTags.tags).where(
        of_rule, t.AgreedTags.key > after, t.AgreedTags.key <= last
    )
    async with catalog.begin() as connection:
        rows = await connection.execute(query)
        return {(key, version_id): tags for key, version_id, tags in rows}


async def agree_on(
    catalog: Catalog,
    agreed: Mapping[Named, Tags],
    *,
    rule: str,
    bucket: str,
    is_new: bool = False,
) -> None:
    """Keep what is agreed on; of no tags nothing is kept.

    ``is_new``: what is known of a version already stays.
    """
    rows = [
        {"rule": rule, "bucket": bucket, "key": key, "version_id": version_id, "tags": dict(tags)}
        for (key, version_id), tags in agreed.items()
        if tags
    ]
    gone = [] if is_new else [named for named, tags in agreed.items() if not tags]
    upsert = insert(t.AgreedTags)
    index = ["rule", "bucket", "key", "version_id"]
    upsert = (
        upsert.on_conflict_do_nothing(index_elements=index)
        if is_new
        else upsert.on_conflict_do_update(index_elements=index, set_={"tags": upsert.excluded.tags})
    )
    async with catalog.begin() as connection:
        for start in range(0, len(rows), CHUNK):
            await connection.execute(upsert, rows[start : start + CHUNK])
        for start in range(0, len(gone), CHUNK):
            named = tuple_(t.AgreedTags.key, t.AgreedTags.version_id)
            await connection.execute(
                delete(t.AgreedTags).where(
                    t.AgreedTags.rule == rule,
                    t.AgreedTags.bucket == bucket,
                    named.in_(gone[start : start + CHUNK]),
                )
            )
