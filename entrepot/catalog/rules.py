"""Rules: which buckets, under which prefix, are kept equal across which sites.

Invariant: a rule names two or more known sites and one or more buckets, each once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.errors import InvalidInput, NotFound


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; ``prefix`` "" means whole buckets."""

    name: str
    buckets: tuple[str, ...]
    prefix: str
    sites: tuple[str, ...]
    enabled: bool
    created_at: datetime
    updated_at: datetime


async def save_rule(
    catalog: Catalog,
    *,
    name: str,
    buckets: Sequence[str],
    sites: Sequence[str],
    prefix: str = "",
    enabled: bool = True,
) -> Rule:
    """Add the rule or replace it; ``NotFound`` names a site that is not known."""
    _check_distinct("buckets", buckets, least=1)
    _check_distinct("sites", sites, least=2)
    values = {"buckets": list(buckets), "sites": list(sites), "prefix": prefix, "enabled": enabled}
    statement = (
        insert(t.Rule)
        .values(name=name, **values)
        .on_conflict_do_update(
            index_elements=[t.Rule.name], set_={**values, "updated_at": func.now()}
        )
        .returning(*t.Rule.__table__.c)
    )
    async with catalog.begin() as connection:
        known = await connection.scalars(select(t.Site.name).where(t.Site.name.in_(sites)))
        for site in sorted(set(sites) - set(known)):
            raise NotFound("no such site", hint="entrepot site list", site=site, rule=name)
        return _rule((await connection.execute(statement)).one())


async def get_rule(catalog: Catalog, *, name: str) -> Rule:
    """The rule, or ``NotFound``."""
    async with catalog.begin() as connection:
        row = (await connection.execute(select(t.Rule).where(t.Rule.name == name))).one_or_none()
    if row is None:
        raise _unknown(name)
    return _rule(row)


async def list_rules(catalog: Catalog) -> tuple[Rule, ...]:
    """All rules by name."""
    async with catalog.begin() as connection:
        rows = await connection.execute(select(t.Rule).order_by(t.Rule.name))
        return tuple(map(_rule, rows))


async def delete_rule(catalog: Catalog, *, name: str) -> None:
    """Forget the rule, touching no object; ``NotFound`` without such a rule."""
    async with catalog.begin() as connection:
        result = await connection.execute(delete(t.Rule).where(t.Rule.name == name))
        if result.rowcount == 0:
            raise _unknown(name)


def _check_distinct(what: str, names: Sequence[str], *, least: int) -> None:
    if len(set(names)) != len(names) or len(names) < least or not all(map(_is_name, names)):
        raise InvalidInput(
            f"a rule needs {least} or more {what}, each once",
            hint=f"--{what[:-1]} may be given several times",
            given=list(names),
        )


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 63  # S3's limit for a bucket; sites bear it too


def _unknown(name: str) -> NotFound:
    return NotFound("no such rule", hint="entrepot replicate rule list", rule=name)


def _rule(row: Row[Any]) -> Rule:
    fields = dict(row._mapping)
    return Rule(**{**fields, "buckets": tuple(row.buckets), "sites": tuple(row.sites)})
