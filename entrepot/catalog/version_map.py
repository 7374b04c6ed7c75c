"""Which version on an endpoint that mints ids is a copy of which.

Invariant: a row repeats what the version's own metadata says, word for word (``mark``; "" where it
is no copy), so the whole table may be lost. Nobody has to believe a row: a mark proves itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog

Named = tuple[str, str]
"""Key, and the version id that the endpoint gave."""

VERSION_MAX, MARK_MAX = 256, 512
"""Longer ones than a row holds (S3 has none) are read from the object each time."""

CHUNK = 5_000
"""Rows of one statement: five parameters each, of the 65,535 that Postgres takes."""


@dataclass(frozen=True, slots=True)
class VersionMap:
    """The map of one site."""

    catalog: Catalog
    site: str

    async def between(
        self, bucket: str, after: str, last: str, *, prefix: str = ""
    ) -> dict[Named, str]:
        """The marks of versions whose key starts with ``prefix``, is after ``after`` and not after
        ``last`` ("" for no end).
        """
        query = select(t.MappedVersion.key, t.MappedVersion.version_id, t.MappedVersion.mark)
        where = self._within(bucket, after, last, prefix)
        async with self.catalog.begin() as connection:
            rows = await connection.execute(query.where(*where))
            return {(key, version_id): mark for key, version_id, mark in rows}

    async def keep(
        self, bucket: str, marks: Mapping[Named, str], *, gone: Sequence[Named] = ()
    ) -> None:
        """Keep marks in place of those known, and forget versions that are gone."""
        rows = [
            {
                "site": self.site,
                "bucket": bucket,
                "key": key,
                "version_id": version_id,
                "mark": mark,
            }
            for (key, version_id), mark in marks.items()
            if len(version_id) <= VERSION_MAX and len(mark) <= MARK_MAX
        ]
        upsert = insert(t.MappedVersion)
        upsert = upsert.on_conflict_do_update(
            index_elements=["site", "bucket", "key", "version_id"],
            set_={"mark": upsert.excluded.mark},
        )
        named = tuple_(t.MappedVersion.key, t.MappedVersion.version_id)
        async with self.catalog.begin() as connection:
            for start in range(0, len(rows), CHUNK):
                await connection.execute(upsert, rows[start : start + CHUNK])
            for start in range(0, len(gone), CHUNK):
                some = named.in_(gone[start : start + CHUNK])
                statement = delete(t.MappedVersion).where(*self._of(bucket), some)
                await connection.execute(statement)

    async def forget(self, bucket: str, after: str, last: str, *, prefix: str = "") -> None:
        """Forget all of a range, as it is said of ``between``."""
        where = self._within(bucket, after, last, prefix)
        async with self.catalog.begin() as connection:
            await connection.execute(delete(t.MappedVersion).where(*where))

    def _of(self, bucket: str) -> list[ColumnElement[bool]]:
        return [t.MappedVersion.site == self.site, t.MappedVersion.bucket == bucket]

    def _within(self, bucket: str, after: str, last: str, prefix: str) -> list[ColumnElement[bool]]:
        key = t.MappedVersion.key
        where = [*self._of(bucket), key > after, key >= prefix, func.starts_with(key, prefix)]
        return [*where, key <= last] if last else where


async def forget_buckets(connection: AsyncConnection, buckets: Sequence[str]) -> None:
    """Forget what no rule sweeps any more; where another one does, it reads it again."""
    await connection.execute(delete(t.MappedVersion).where(t.MappedVersion.bucket.in_(buckets)))
