"""Changes of a version that has a row: taken away for good, or given other attributes.

The row first, the store after it: the transaction leaves an effect that says what the store must
still do (``effects``).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from entrepot.catalog.connect import Catalog
from entrepot.catalog.objects.commit import Recorder, lock_keys, newest_of, write
from entrepot.catalog.objects.facts import Changes, Json, ObjectRow, Place
from entrepot.catalog.objects.rows import COLUMNS, to_row

_WHERE = "bucket_id = %(bucket_id)s AND key = %(key)s AND version_id = %(version_id)s"
_ONE = f"SELECT {COLUMNS} FROM versions WHERE {_WHERE}"
_REMOVE = f"DELETE FROM versions WHERE {_WHERE}"
_PURGED = """
    INSERT INTO purges (bucket_id, key, version_id)
    VALUES (%(bucket_id)s, %(key)s, %(version_id)s) ON CONFLICT DO NOTHING
"""
_IS_PURGED = f"SELECT 1 FROM purges WHERE {_WHERE}"
_IS_KNOWN = f"""
    SELECT 1 FROM versions WHERE {_WHERE} UNION ALL SELECT 1 FROM purges WHERE {_WHERE}
    UNION ALL SELECT 1 FROM effects WHERE {_WHERE} AND kind = 'purge'
"""
# A row that came in before its intent went is found as the one or the other: both are under lock.
_IS_KNOWN_OR_COMES = f"{_IS_KNOWN} UNION ALL SELECT 1 FROM intents WHERE {_WHERE}"
_FORGIVEN = f"DELETE FROM purges WHERE {_WHERE}"
_DROP_INTENT = f"DELETE FROM intents WHERE {_WHERE} AND kind = 'replica'"
_ALTER = f"UPDATE versions SET attributes = CAST(%(attributes)s AS jsonb) WHERE {_WHERE}"

Removal = Callable[[ObjectRow, ObjectRow | None, ObjectRow | None], Changes]
Striking = Callable[[ObjectRow | None, ObjectRow | None, ObjectRow | None, bool], Changes]
Alteration = Callable[[ObjectRow], tuple[Json, Changes]]


async def remove_row(
    catalog: Catalog,
    place: Place,
    version_id: str,
    decide: Removal,
    *,
    recorder: Recorder,
    for_good: bool = False,
) -> tuple[ObjectRow, tuple[int, ...]] | None:
    """Take a version's row away; the row and its effects, or None where there is none.

    ``decide`` gets the row, the key's newest version before and the one after; it may refuse by
    raising. ``for_good``: it is not to come here any more, though it never was here; any version
    that was here and is removed stays away without that (``purges``).
    """
    named = {"bucket_id": place[0], "key": place[1], "version_id": version_id}
    async with catalog.transaction() as transaction:
        await lock_keys(transaction, [place])
        [found] = await transaction.at_once((_ONE, named))
        if not found:
            if for_good:
                await transaction.at_once((_PURGED, named), (_DROP_INTENT, named))
            return None
        row = to_row(found[0])
        before = (await newest_of(transaction, [place])).get(place)
        await transaction.at_once((_REMOVE, named), (_PURGED, named))
        after = (await newest_of(transaction, [place])).get(place)
        return row, await write(transaction, decide(row, before, after), recorder=recorder)


async def strike_row(
    catalog: Catalog, place: Place, version_id: str, decide: Striking, *, recorder: Recorder
) -> bool:
    """Record that a version is gone from the store; False where that was known.

    ``decide`` gets the row, or None of a version that never had one, the key's newest version
    before and the one after, and whether the removal was announced (``announce_removal``).
    """
    named = {"bucket_id": place[0], "key": place[1], "version_id": version_id}
    async with catalog.transaction() as transaction:
        await lock_keys(transaction, [place])
        found, announced = await transaction.at_once((_ONE, named), (_IS_PURGED, named))
        if not found and announced:
            return False
        row = to_row(found[0]) if found else None
        before = (await newest_of(transaction, [place])).get(place)
        await transaction.at_once((_REMOVE, named), (_PURGED, named), (_DROP_INTENT, named))
        after = (await newest_of(transaction, [place])).get(place)
        await write(transaction, decide(row, before, after, bool(announced)), recorder=recorder)
        return True


async def announce_removal(catalog: Catalog, place: Place, version_id: str) -> None:
    """Say that a version is about to be removed from the store on another site's behalf."""
    named = {"bucket_id": place[0], "key": place[1], "version_id": version_id}
    async with catalog.transaction() as transaction:
        await lock_keys(transaction, [place])
        await transaction.at_once((_PURGED, named), (_DROP_INTENT, named))


async def revoke_removal(catalog: Catalog, place: Place, version_id: str) -> None:
    """The store refused: the version stays, and may come again."""
    named = {"bucket_id": place[0], "key": place[1], "version_id": version_id}
    async with catalog.transaction() as transaction:
        await transaction.at_once((_FORGIVEN, named))


async def alter_row(
    catalog: Catalog, place: Place, version_id: str, decide: Alteration, *, recorder: Recorder
) -> tuple[ObjectRow, tuple[int, ...]] | None:
    """Give a version other attributes; the new row and its effects, or None where there is none."""
    named = {"bucket_id": place[0], "key": place[1], "version_id": version_id}
    async with catalog.transaction() as transaction:
        await lock_keys(transaction, [place])
        [found] = await transaction.at_once((_ONE, named))
        if not found:
            return None
        attributes, changes = decide(row := to_row(found[0]))
        given = named | {"attributes": json.dumps(dict(attributes))}
        await transaction.at_once((_ALTER, given))
        is_told = changes != Changes()
        effects = await write(transaction, changes, recorder=recorder) if is_told else ()
        return replace(row, attributes=attributes), effects


async def add_rows(
    catalog: Catalog,
    rows: Sequence[ObjectRow],
    decide: Callable[[Iterable[ObjectRow], dict[Place, ObjectRow]], Changes],
    *,
    recorder: Recorder,
    but_known: bool = False,
) -> int:
    """Take up versions that have no row yet; how many there were.

    ``decide`` gets those without a row, and the newest versions of their keys. What was removed
    for good stays out, though the store may have it still, or had it when it was asked.
    ``but_known``: also what a receiver is bringing.
    """
    places = [(row.bucket_id, row.key) for row in rows]
    async with catalog.transaction() as transaction:
        await lock_keys(transaction, places)
        names = [
            {"bucket_id": row.bucket_id, "key": row.key, "version_id": row.version_id}
            for row in rows
        ]
        asked = _IS_KNOWN_OR_COMES if but_known else _IS_KNOWN
        found = await transaction.at_once(*((asked, each) for each in names))
        missing = [row for row, known in zip(rows, found, strict=True) if not known]
        if missing:
            newest = await newest_of(transaction, places)
            await write(transaction, decide(missing, newest), recorder=recorder)
        return len(missing)
