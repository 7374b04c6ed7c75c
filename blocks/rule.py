"""A replication rule as a block: a form in Prefect's UI that ends as a row in Postgres.

Postgres decides: a rule that is stored there is used as it stands there. A rule that exists as a
block only is stored when a run first names it.
"""

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field

from entrepot.catalog.connect import Catalog
from entrepot.catalog.rules import Rule, get_rule, save_rule
from entrepot.errors import NotFound


class ReplicationRule(Block):
    """Which buckets and prefix are kept equal across which sites."""

    _block_type_name: ClassVar[str] = "Entrepot rule"
    _block_type_slug: ClassVar[str] = "entrepot-rule"
    _description: ClassVar[str] = "Buckets that Entrepot keeps equal across sites."

    buckets: list[str] = Field(description="Bucket names, the same at every site")
    sites: list[str] = Field(description="Names of two or more site blocks")
    prefix: str = Field(default="", description="Only keys that start with this; empty for all")

    async def store(self, name: str, *, catalog: Catalog) -> Rule:
        """Write this rule to the control catalog."""
        return await save_rule(
            catalog, name=name, buckets=self.buckets, sites=self.sites, prefix=self.prefix
        )


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
