"""A site as a block: endpoint, rank, credentials, and what the endpoint was probed to do."""

from functools import lru_cache
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from entrepot.replication.run import Address
from entrepot.store.protocol import Capability


class S3Site(Block):
    """One S3 endpoint of the platform, named after its region."""

    _block_type_name: ClassVar[str] = "Entrepot site"
    _block_type_slug: ClassVar[str] = "entrepot-site"
    _description: ClassVar[str] = "An S3 endpoint that Entrepot replicates, counts and backs up."

    endpoint: str = Field(description="http://host:port or https://host:port of the S3 server")
    region: str = Field(default="us-east-1", description="Region that requests are signed for")
    rank: int = Field(ge=0, le=999, description="Decides between equal times: the lowest wins")
    access_key: str = Field(description="Access key of a user that may read and write")
    secret_key: SecretStr = Field(description="Secret key of that user")
    capabilities: list[str] = Field(
        default_factory=list,
        description="What the endpoint was probed to do; written by `entrepot deploy`",
    )

    def address(self, name: str) -> Address:
        """What replication needs to reach this site."""
        return Address(
            name=name,
            rank=self.rank,
            endpoint=self.endpoint,
            region=self.region,
            access_key=self.access_key,
            secret_key=self.secret_key,
            capabilities=frozenset(Capability(name) for name in self.capabilities),
        )


@lru_cache(maxsize=64)  # a flow run is one process, and its sites do not change while it runs
def load_address(name: str) -> Address:
    """The address in the block ``entrepot-site/NAME``."""
    block = S3Site.load(name)
    assert isinstance(block, S3Site)
    return block.address(name)
