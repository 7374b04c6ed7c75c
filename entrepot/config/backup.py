"""The section ``backup`` of ``config.yaml``: where backups go."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from entrepot.config.fields import SITE_NAME, Endpoint, Secret, Section, Text, conflict

BUCKET_NAME = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
PREFIX = r"^([^/]+/)*$"


class Vault(Section):
    """One backup repository: a prefix of a bucket, at a site or elsewhere."""

    name: str = Field(description="Name of the vault.", pattern=SITE_NAME)
    bucket: str = Field(description="Bucket that it lies in.", pattern=BUCKET_NAME)
    prefix: str = Field(
        "", pattern=PREFIX, max_length=512, description="Where in the bucket; ends with a slash."
    )
    site: str | None = Field(
        None, pattern=SITE_NAME, description="Site of the bucket; null where endpoint is given."
    )
    endpoint: Endpoint | None = Field(
        None, description="S3 endpoint of the bucket, where it is at none of the sites."
    )
    access_key: Text | None = Field(None, description="Access key; null takes the site's.")
    secret_key: Secret | None = Field(None, description="Secret key; null takes the site's.")
    region: Text | None = Field(
        None, description="Region that requests are signed for; null takes the site's."
    )

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if (self.site is None) == (self.endpoint is None):
            raise conflict("is required, or endpoint is, and not both", "site")
        missing = [name for name in ("access_key", "secret_key") if getattr(self, name) is None]
        if len(missing) == 1 or (missing and self.endpoint):
            raise conflict("is required with the endpoint, or with the other key", missing[0])
        return self


class Cluster(Section):
    """One Postgres server, whose WAL and base backups go to a vault."""

    name: str = Field(description="Name of the cluster, in the vault too.", pattern=SITE_NAME)
    vault: str = Field(description="Vault that it goes to.", pattern=SITE_NAME)
    conninfo: Secret = Field(description="How a superuser reaches it: libpq's connection string.")
    socket: Path | None = Field(
        None, description="Socket of the WAL helper; null takes wal/NAME in the data directory."
    )


class Backup(Section):
    """Where backups go."""

    vaults: tuple[Vault, ...] = Field((), max_length=100, description="The vaults, by name.")
    clusters: tuple[Cluster, ...] = Field(
        (), max_length=100, description="The Postgres servers, by name."
    )

    @model_validator(mode="after")
    def _differ(self) -> Self:
        vaults = [each.name for each in self.vaults]
        clusters = [each.name for each in self.clusters]
        for kind, names in (("vault", vaults), ("cluster", clusters)):
            for n, name in enumerate(names):
                if name in names[:n]:
                    raise conflict(f"{name} is taken by another {kind}", f"{kind}s", n, "name")
        return self
