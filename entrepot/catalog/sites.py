"""Sites: S3 endpoints, and what each was found able to do.

Invariant: capabilities belong to the endpoint that was probed; a site that moves to another
endpoint has none until it is probed again. Credentials are not kept here.

Words: *rank* a site's place when two writes tie, lower wins; no two sites share one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, literal, null, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.errors import NotFound


@dataclass(frozen=True, slots=True)
class Site:
    """One site; ``capabilities`` is what the last probe wrote, empty before it."""

    name: str
    endpoint: str
    region: str
    rank: int
    capabilities: Mapping[str, Any]
    probed_at: datetime | None

    def can(self, capability: str) -> bool:
        """Whether the last probe saw the endpoint do it."""
        found = self.capabilities.get(capability)
        # A mere yes is what the first version of the probe left.
        return found is True or (isinstance(found, Mapping) and found.get("can") is True)

    def saw(self, capability: str) -> str:
        """What the last probe saw of it."""
        found = self.capabilities.get(capability)
        return str(found.get("saw", "")) if isinstance(found, Mapping) else "not probed"


async def upsert_site(
    catalog: Catalog, *, name: str, endpoint: str, region: str, rank: int
) -> Site:
    """Add the site or change it; ``AlreadyExists`` where another one has that rank."""
    new = insert(t.Site).values(name=name, endpoint=endpoint, region=region, rank=rank)
    same = t.Site.endpoint == new.excluded.endpoint
    statement = new.on_conflict_do_update(
        index_elements=[t.Site.name],
        set_={
            "endpoint": new.excluded.endpoint,
            "region": new.excluded.region,
            "rank": new.excluded.rank,
            "capabilities": case((same, t.Site.capabilities), else_=literal({}, JSONB)),
            "probed_at": case((same, t.Site.probed_at), else_=null()),
        },
    ).returning(*t.Site.__table__.c)
    async with catalog.begin() as connection:
        return Site(**(await connection.execute(statement)).one()._mapping)


async def get_site(catalog: Catalog, *, name: str) -> Site:
    """The site, or ``NotFound``."""
    async with catalog.begin() as connection:
        row = (await connection.execute(select(t.Site).where(t.Site.name == name))).one_or_none()
    if row is None:
        raise _unknown(name)
    return Site(**row._mapping)


async def list_sites(catalog: Catalog) -> tuple[Site, ...]:
    """All sites by rank; there are few."""
    async with catalog.begin() as connection:
        rows = await connection.execute(select(t.Site).order_by(t.Site.rank))
        return tuple(Site(**row._mapping) for row in rows)


async def set_capabilities(
    catalog: Catalog, *, name: str, capabilities: Mapping[str, Any], probed_at: datetime
) -> None:
    """Store what a probe found (JSON, at most 64 KiB); ``NotFound`` without such a site."""
    statement = (
        update(t.Site)
        .where(t.Site.name == name)
        .values(capabilities=dict(capabilities), probed_at=probed_at)
    )
    async with catalog.begin() as connection:
        if (await connection.execute(statement)).rowcount == 0:
            raise _unknown(name)


def _unknown(name: str) -> NotFound:
    return NotFound("no such site", hint="entrepot site list", site=name)
