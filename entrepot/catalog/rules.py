"""Rules as they stand: which buckets are kept equal across which sites, how, and whether now.

Invariant: a rule names known sites, and what is stored is a whole ``RuleSpec``. Pausing and
enabling are apart from what a rule says, so editing it neither starts nor stops it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, Update, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from entrepot.catalog import tables as t
from entrepot.catalog.connect import Catalog
from entrepot.catalog.rule import RuleName, RuleSpec, check_rule_name, rule_spec
from entrepot.catalog.version_map import forget_buckets
from entrepot.errors import AlreadyExists, NotFound

_COLUMNS: Final = ("buckets", "prefix", "sites", "mode")  # asked for in SQL; the rest are terms


class Rule(RuleSpec):
    """One rule; ``paused_until`` ends a pause by itself, without it only a person does."""

    name: RuleName
    enabled: bool
    paused: bool = False
    paused_until: datetime | None = None
    created_at: datetime
    updated_at: datetime


async def save_rule(
    catalog: Catalog,
    *,
    name: str,
    buckets: Sequence[str],
    sites: Sequence[str],
    enabled: bool = True,
    **terms: Any,
) -> Rule:
    """Add the rule or replace it; ``terms`` are the other fields of ``RuleSpec``.

    Raises ``InvalidInput`` naming each field that is wrong, ``NotFound`` for an unknown site.
    """
    spec = rule_spec({"buckets": tuple(buckets), "sites": tuple(sites), **terms})
    return await put_rule(catalog, name=name, spec=spec, enabled=enabled)


async def put_rule(
    catalog: Catalog, *, name: str, spec: RuleSpec, enabled: bool = True, new: bool = False
) -> Rule:
    """Add the rule or replace what it says; ``new``: ``AlreadyExists`` where there is one."""
    check_rule_name(name)
    values = {**_values(spec), "enabled": enabled}
    adding = insert(t.Rule).values(name=name, **values)
    changing = {**values, "updated_at": func.now()}
    statement = adding.on_conflict_do_nothing()
    if not new:
        statement = adding.on_conflict_do_update(index_elements=[t.Rule.name], set_=changing)
    async with catalog.begin() as connection:
        await _check_sites(connection, spec, rule=name)
        answer = await connection.execute(statement.returning(*t.Rule.__table__.c))
        row = answer.one_or_none()
        if row is None:
            raise AlreadyExists(
                "there is such a rule already", hint=f"entrepot replicate rule edit {name}"
            )
        return _rule(row)


async def change_rule(
    catalog: Catalog, *, name: str, change: Callable[[Rule], RuleSpec]
) -> tuple[Rule, Rule]:
    """Let ``change`` say it anew; the rule before and after. Two changes come one by one."""
    async with catalog.begin() as connection:
        query = select(t.Rule).where(t.Rule.name == name).with_for_update()
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise _unknown(name)
        before = _rule(row)
        spec = change(before)
        await _check_sites(connection, spec, rule=name)
        await forget_buckets(connection, sorted(set(before.buckets) - set(spec.buckets)))
        return before, _rule((await connection.execute(_update(name, **_values(spec)))).one())


async def set_enabled(catalog: Catalog, *, name: str, enabled: bool) -> Rule:
    """Switch the rule on or off; ``NotFound`` without such a rule."""
    return await _set(catalog, name, enabled=enabled)


async def pause(catalog: Catalog, *, name: str, until: datetime | None = None) -> Rule:
    """Let the rule rest until then, or until ``resume``; an earlier pause is replaced."""
    return await _set(catalog, name, paused=True, paused_until=until)


async def resume(catalog: Catalog, *, name: str) -> Rule:
    """End a pause; nothing happens where there is none."""
    return await _set(catalog, name, paused=False, paused_until=None)


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
        gone = delete(t.Rule).where(t.Rule.name == name).returning(t.Rule.buckets)
        buckets = (await connection.execute(gone)).scalar_one_or_none()
        if buckets is None:
            raise _unknown(name)
        await forget_buckets(connection, buckets)
        await connection.execute(delete(t.AgreedTags).where(t.AgreedTags.rule == name))


async def _check_sites(connection: AsyncConnection, spec: RuleSpec, *, rule: str) -> None:
    known = await connection.scalars(select(t.Site.name).where(t.Site.name.in_(spec.sites)))
    for site in sorted(set(spec.sites) - set(known)):
        raise NotFound("no such site", hint="entrepot site list", site=site, rule=rule)


async def _set(catalog: Catalog, name: str, **values: Any) -> Rule:
    async with catalog.begin() as connection:
        row = (await connection.execute(_update(name, **values))).one_or_none()
    if row is None:
        raise _unknown(name)
    return _rule(row)


def _update(name: str, **values: Any) -> Any:
    statement: Update = update(t.Rule).where(t.Rule.name == name)
    return statement.values(**values, updated_at=func.now()).returning(*t.Rule.__table__.c)


def _unknown(name: str) -> NotFound:
    return NotFound("no such rule", hint="entrepot replicate rule list", rule=name)


def _values(spec: RuleSpec) -> dict[str, Any]:
    said = spec.model_dump(mode="json", include=set(RuleSpec.model_fields))
    columns = {name: said.pop(name) for name in _COLUMNS}
    return {**columns, "terms": said}


def _rule(row: Row[Any]) -> Rule:
    fields = dict(row._mapping)
    return Rule(**{**fields.pop("terms"), **fields})
