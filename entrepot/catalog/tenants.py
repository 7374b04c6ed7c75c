"""Tenants: for now an id, which never changes, and a name, which may."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.errors import NotFound


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who owns buckets."""

    id: str
    name: str


async def save_tenant(catalog: Catalog, *, id: str, name: str) -> Tenant:
    """Add the tenant or rename it."""
    statement = (
        insert(t.Tenant)
        .values(id=id, name=name)
        .on_conflict_do_update(index_elements=[t.Tenant.id], set_={"name": name})
    )
    async with catalog.begin() as connection:
        await connection.execute(statement)
    return Tenant(id, name)


async def get_tenant(catalog: Catalog, *, id: str) -> Tenant:
    """The tenant, or ``NotFound``."""
    async with catalog.begin() as connection:
        row = (await connection.execute(select(t.Tenant).where(t.Tenant.id == id))).one_or_none()
    if row is None:
        raise NotFound("no such tenant", hint=f"entrepot tenant add {id}", tenant=id)
    return Tenant(**row._mapping)


async def list_tenants(catalog: Catalog) -> tuple[Tenant, ...]:
    """All tenants by id. Memory: some 300 bytes each."""
    async with catalog.begin() as connection:
        rows = await connection.execute(select(t.Tenant).order_by(t.Tenant.id))
        return tuple(Tenant(**row._mapping) for row in rows)
