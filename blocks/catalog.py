"""A catalog as a block: the address of one Postgres database."""

from functools import lru_cache
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from entrepot.errors import NotFound

CONTROL = "control"
"""Name of the block of the control catalog; site catalogs are named after their sites."""


class CatalogBlock(Block):
    """One Postgres database of the platform."""

    _block_type_name: ClassVar[str] = "Entrepot catalog"
    _block_type_slug: ClassVar[str] = "entrepot-catalog"
    _description: ClassVar[str] = "A Postgres database in which Entrepot keeps what it knows."

    dsn: SecretStr = Field(description="postgresql+psycopg://user:password@host:port/database")


@lru_cache(maxsize=64)  # see blocks.s3_site
def load_dsn(name: str = CONTROL) -> SecretStr:
    """The address in the block ``entrepot-catalog/NAME``; ``NotFound`` where there is none."""
    try:
        block = CatalogBlock.load(name)
    except ValueError as missing:
        raise NotFound(
            "there is no such catalog", hint="entrepot deploy", catalog=name
        ) from missing
    assert isinstance(block, CatalogBlock)
    return block.dsn
