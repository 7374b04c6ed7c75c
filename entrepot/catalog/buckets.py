"""Buckets of a site, and whose they are.

Invariant: a bucket has one owner, and adopting never changes it. Tenants live in the control
catalog, which may be out of reach, so the owner is an id that is not checked here.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.states import BucketMode
from entrepot.errors import AlreadyExists, BucketNotFound


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket; the store decides what is current where ``mode`` is adopted."""

    name: str
    tenant_id: str
    mode: BucketMode
    adopted_at: datetime


async def adopt_bucket(catalog: Catalog, *, name: str, tenant_id: str) -> Bucket:
    """Look after a bucket that others write to as well; again is no error.

    ``AlreadyExists`` where it belongs to another tenant.
    """
    statement = (
        insert(t.Bucket)
        .values(name=name, tenant_id=tenant_id, mode=BucketMode.ADOPTED)
        .on_conflict_do_nothing(index_elements=[t.Bucket.name])
    )
    async with catalog.begin() as connection:
        await connection.execute(statement)
        row = (await connection.execute(select(t.Bucket).where(t.Bucket.name == name))).one()
    if row.tenant_id != tenant_id:
        raise AlreadyExists(
            "the bucket belongs to another tenant", hint="entrepot bucket list", bucket=name
        )
    return Bucket(**row._mapping)


async def list_buckets(catalog: Catalog, *, tenant_id: str | None = None) -> tuple[Bucket, ...]:
    """Buckets by name, of one tenant or all. Memory: some 500 bytes each."""
    query = select(t.Bucket).order_by(t.Bucket.name)
    if tenant_id is not None:
        query = query.where(t.Bucket.tenant_id == tenant_id)
    async with catalog.begin() as connection:
        return tuple(Bucket(**row._mapping) for row in await connection.execute(query))


async def owner_of(catalog: Catalog, *, name: str) -> str:
    """The tenant's id, or ``BucketNotFound``."""
    query = select(t.Bucket.tenant_id).where(t.Bucket.name == name)
    async with catalog.begin() as connection:
        owner = (await connection.execute(query)).scalar_one_or_none()
    if owner is None:
        raise BucketNotFound("nobody looks after this bucket", bucket=name)
    return owner
