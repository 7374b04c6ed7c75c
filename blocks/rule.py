"""A replication rule as a block: a form in Prefect's UI that ends as a row in Postgres.

Postgres decides: a rule that is stored there is used as it stands there. A rule that exists as a
block only is stored when a run first names it. Its fields are those of ``RuleSpec``, one by one.
"""

from copy import copy
from typing import Any, ClassVar

from prefect.blocks.core import Block
from pydantic import model_validator

from entrepot.catalog.connect import Catalog
from entrepot.catalog.rule import Drift, RuleSpec, rule_spec
from entrepot.catalog.rules import Rule, get_rule, put_rule
from entrepot.catalog.sites import list_sites
from entrepot.errors import NotFound
from entrepot.replication.promises import check_promises
from entrepot.terms import Mode, Travel
from entrepot.units import Size


def _as_in_the_rule(name: str) -> Any:
    """Default, bounds and description of the field of that name."""
    return copy(RuleSpec.model_fields[name])


class ReplicationRule(Block):
    """Which buckets and prefix are kept equal across which sites, and how."""

    _block_type_name: ClassVar[str] = "Entrepot rule"
    _block_type_slug: ClassVar[str] = "entrepot-rule"
    _description: ClassVar[str] = "Buckets that Entrepot keeps equal across sites."

    buckets: list[str] = _as_in_the_rule("buckets")
    sites: list[str] = _as_in_the_rule("sites")
    prefix: str = _as_in_the_rule("prefix")
    tag_filter: dict[str, str] = _as_in_the_rule("tag_filter")
    mode: Mode = _as_in_the_rule("mode")
    source: str | None = _as_in_the_rule("source")
    drift: Drift = _as_in_the_rule("drift")
    travels: list[Travel] = _as_in_the_rule("travels")
    conflict: dict[str, str] = _as_in_the_rule("conflict")
    peer_reads: bool = _as_in_the_rule("peer_reads")
    rpo_s: int = _as_in_the_rule("rpo_s")
    max_delete_share: float = _as_in_the_rule("max_delete_share")
    max_delete_count: int = _as_in_the_rule("max_delete_count")
    tombstone_horizon_s: int = _as_in_the_rule("tombstone_horizon_s")
    bytes_per_s: Size | None = _as_in_the_rule("bytes_per_s")
    requests_per_s: int | None = _as_in_the_rule("requests_per_s")
    timetable: list[str] = _as_in_the_rule("timetable")
    maintenance: list[str] = _as_in_the_rule("maintenance")
    time_zone: str = _as_in_the_rule("time_zone")

    @model_validator(mode="after")
    def _is_a_rule(self) -> "ReplicationRule":
        self.spec()
        return self

    def spec(self) -> RuleSpec:
        """What it says, checked; ``InvalidInput`` names the fields that are wrong."""
        said = self.model_dump(include=set(RuleSpec.model_fields) & self.model_fields_set)
        return rule_spec(said)

    async def store(self, name: str, *, catalog: Catalog) -> Rule:
        """Write this rule to the control catalog; ``Unsupported`` where a site cannot keep it."""
        spec = self.spec()
        check_promises(spec, await list_sites(catalog))
        return await put_rule(catalog, name=name, spec=spec)


async def find_rule(name: str, *, catalog: Catalog) -> Rule:
    """The rule in Postgres, or else the block of that name, stored now.

    Raises:
        NotFound: neither exists.
    """
    try:
        return await get_rule(catalog, name=name)
    except NotFound:
        try:
            block: object = await ReplicationRule.aload(name)
        except ValueError as missing:
            raise NotFound(
                "there is no such rule",
                hint=f"entrepot replicate rule add {name} --bucket BUCKET --site SITE --site SITE",
                rule=name,
            ) from missing
        assert isinstance(block, ReplicationRule)
        return await block.store(name, catalog=catalog)
