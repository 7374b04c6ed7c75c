"""Buckets of a site, and whose they are.

Invariant: a bucket has one owner, and adopting never changes it. Tenants live in the control
catalog, which may be out of reach, so the owner is an id that is not checked here.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.silence import HASTY_S
from entrepot.catalog.states import BucketMode
from entrepot.errors import AlreadyExists, BucketNotFound, PreconditionFailed


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket; the store decides what is current where ``mode`` is adopted.

    ``encrypted`` and ``compressed`` say what becomes of new objects, ``locked`` whether versions
    can be kept from being removed; all three are of managed buckets.
    """

    name: str
    tenant_id: str
    mode: BucketMode
    adopted_at: datetime
    id: int
    encrypted: bool = False
    compressed: bool = False
    locked: bool = False


async def adopt_bucket(catalog: Catalog, *, name: str, tenant_id: str) -> Bucket:
    """Look after a bucket that others write to as well; again is no error.

    ``AlreadyExists`` where it belongs to another tenant.
    """
    return await _save(catalog, name=name, tenant_id=tenant_id, mode=BucketMode.ADOPTED)


async def manage_bucket(
    catalog: Catalog,
    *,
    name: str,
    tenant_id: str,
    encrypted: bool = False,
    compressed: bool = False,
    locked: bool = False,
) -> Bucket:
    """Record a bucket that is written through us only; again is no error and changes nothing.

    ``AlreadyExists`` where it belongs to another tenant or is adopted.
    """
    how = {"encrypted": encrypted, "compressed": compressed, "locked": locked}
    return await _save(catalog, name=name, tenant_id=tenant_id, mode=BucketMode.MANAGED, **how)


async def _save(
    catalog: Catalog, *, name: str, tenant_id: str, mode: BucketMode, **how: bool
) -> Bucket:
    statement = (
        insert(t.Bucket)
        .values(name=name, tenant_id=tenant_id, mode=mode, **how)
        .on_conflict_do_nothing(index_elements=[t.Bucket.name])
    )
    async with catalog.begin() as connection:
        await connection.execute(statement)
        row = (await connection.execute(select(t.Bucket).where(t.Bucket.name == name))).one()
    if row.tenant_id != tenant_id:
        raise AlreadyExists(
            "the bucket belongs to another tenant", hint="entrepot bucket list", bucket=name
        )
    if row.mode != mode:
        raise AlreadyExists(
            f"the bucket is {row.mode}", hint=f"entrepot bucket show {name}", bucket=name
        )
    return Bucket(**row._mapping)


async def get_bucket(catalog: Catalog, *, name: str) -> Bucket:
    """One bucket, or ``BucketNotFound``."""
    async with catalog.begin(within_s=HASTY_S) as connection:
        query = select(t.Bucket).where(t.Bucket.name == name)
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise BucketNotFound(
            "nobody looks after this bucket", hint=f"entrepot bucket create {name}", bucket=name
        )
    return Bucket(**row._mapping)


async def forget_bucket(catalog: Catalog, *, name: str) -> None:
    """Look after a bucket no longer; its usage counts as nothing from now on.

    ``PreconditionFailed`` where the catalog holds versions of it, or writes are under way.
    """
    async with catalog.begin() as connection:
        query = select(t.Bucket).where(t.Bucket.name == name).with_for_update()
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            return
        if row.mode is BucketMode.MANAGED:
            held = await connection.execute(_HELD, {"bucket_id": row.id})
            if held.scalar_one():
                raise PreconditionFailed(
                    "the bucket is not empty",
                    hint=f"entrepot object versions {name}",
                    bucket=name,
                )
        for statement in _FORGET:
            await connection.execute(statement, {"bucket_id": row.id})
        await connection.execute(delete(t.Bucket).where(t.Bucket.name == name))


_HELD = text("""
    SELECT EXISTS (SELECT FROM versions WHERE bucket_id = :bucket_id)
        OR EXISTS (SELECT FROM intents WHERE bucket_id = :bucket_id)
        OR EXISTS (SELECT FROM uploads WHERE bucket_id = :bucket_id)
""")
_FORGET = tuple(
    text(f"DELETE FROM {table} WHERE bucket_id = :bucket_id")  # noqa: S608 - our own names
    for table in (
        *("versions", "objects", "usage_counters", "outbox_consumers", "effects"),
        *("purges", "outbox", "dead_letters"),
    )
)


async def list_buckets(catalog: Catalog, *, tenant_id: str | None = None) -> tuple[Bucket, ...]:
    """Buckets by name, of one tenant or all. Memory: some 500 bytes each."""
    query = select(t.Bucket).order_by(t.Bucket.name)
    if tenant_id is not None:
        query = query.where(t.Bucket.tenant_id == tenant_id)
    async with catalog.begin() as connection:
        return tuple(Bucket(**row._mapping) for row in await connection.execute(query))


async def owner_of(catalog: Catalog, *, name: str) -> str:
    """The tenant's id, or ``BucketNotFound``."""
    return (await get_bucket(catalog, name=name)).tenant_id
