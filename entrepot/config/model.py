"""``Config``, the whole of ``config.yaml``, and what is derived from it.

A ``Config`` is frozen and complete: every key has a value. Secrets are ``SecretStr`` and stay
masked in ``repr``, ``str`` and JSON.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from pydantic import BaseModel, Field, SecretStr

from entrepot.config.backup import Backup, Cluster
from entrepot.config.fields import Section
from entrepot.config.sections import (
    Caching,
    CompleteRegion,
    Compliance,
    Database,
    Encryption,
    Minio,
    Monitoring,
    Multitenancy,
    Prefect,
    Region,
    Replication,
    Security,
    Server,
    complete,
)
from entrepot.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """One site with everything that reaching it takes.

    ``region`` is what requests are signed for, ``database`` the name of the site catalog's
    database, ``database_url`` its SQLAlchemy URL.
    """

    name: str
    endpoint: str
    access_key: str
    secret_key: SecretStr
    region: str
    rank: int
    database: str
    database_url: SecretStr
    notify_token: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """One vault with everything that reaching it takes. ``prefix`` is empty or ends with a slash.

    ``site`` is "" where it lies at none of the sites.
    """

    name: str
    site: str
    endpoint: str
    access_key: str
    secret_key: SecretStr
    region: str
    bucket: str
    prefix: str


class Config(Section):
    """Every setting."""

    server: Server = Field(Server(), description=Server.__doc__)
    minio: Minio = Field(Minio(), description=Minio.__doc__)
    multitenancy: Multitenancy = Field(Multitenancy(), description=Multitenancy.__doc__)
    caching: Caching = Field(Caching(), description=Caching.__doc__)
    replication: Replication = Field(Replication(), description=Replication.__doc__)
    encryption: Encryption = Field(Encryption(), description=Encryption.__doc__)
    monitoring: Monitoring = Field(Monitoring(), description=Monitoring.__doc__)
    security: Security = Field(Security(), description=Security.__doc__)
    database: Database = Field(Database(), description=Database.__doc__)
    compliance: Compliance = Field(Compliance(), description=Compliance.__doc__)
    prefect: Prefect = Field(Prefect(), description=Prefect.__doc__)
    backup: Backup = Field(Backup(), description=Backup.__doc__)

    def database_url(self, name: str | None = None) -> SecretStr:
        """SQLAlchemy URL (psycopg 3) of database ``name``, else of the control catalog.

        Raises ``ConfigError`` for a name that such a URL cannot carry.
        """
        database = self.database
        path = name or database.name
        if quote(path, safe="") != path:
            raise ConfigError(
                "the name of a database has letters, digits, '_', '-' and '.' only",
                hint="rename it, and set database.name (or the region's database) to the new name",
                name=path,
            )
        login = quote(database.user, safe="")
        if database.password is not None:
            login += ":" + quote(database.password.get_secret_value(), safe="")
        timeout_s = -(-database.connection_timeout // 1000)
        place, query = f"{database.host}:{database.port}", f"connect_timeout={timeout_s}"
        if database.host.startswith("/"):
            place, query = "", f"host={database.host}&port={database.port}&{query}"
        elif ":" in database.host:
            place = f"[{database.host}]:{database.port}"
        return SecretStr(f"postgresql+psycopg://{login}@{place}/{path}?{query}")

    def sites(self) -> tuple[SiteSettings, ...]:
        """The sites by rank; the minio section alone where ``replication.regions`` is empty.

        Raises ``ConfigError`` where a site has no credentials.
        """
        own = Region(name=self.minio.region, endpoint=self.minio.endpoint)
        regions = complete(self.replication.regions or (own,))
        return tuple(sorted(map(self._site, regions), key=lambda site: site.rank))

    def vault(self, name: str) -> VaultSettings:
        """A vault by its name; ``ConfigError`` where there is none, or its site is not there."""
        found = next((each for each in self.backup.vaults if each.name == name), None)
        if found is None:
            known = ", ".join(each.name for each in self.backup.vaults)
            raise ConfigError(
                "there is no vault of that name",
                hint=f"one of: {known}" if known else "add it to backup.vaults in config.yaml",
                vault=name,
            )
        site = next((each for each in self.sites() if each.name == found.site), None)
        if site is None and found.endpoint is None:
            raise ConfigError(
                "the vault's site is none of the sites",
                hint="entrepot site list names them",
                vault=name,
                site=found.site,
            )
        own_keys = found.access_key and found.secret_key
        return VaultSettings(
            name=found.name,
            site=found.site or "",
            endpoint=found.endpoint or (site.endpoint if site else ""),
            access_key=found.access_key or (site.access_key if site else ""),
            secret_key=found.secret_key if own_keys and found.secret_key else _secret_of(site),
            region=found.region or (site.region if site else "us-east-1"),
            bucket=found.bucket,
            prefix=found.prefix,
        )

    def cluster(self, name: str | None = None) -> Cluster:
        """A Postgres server by its name, the only one by default; ``ConfigError``."""
        clusters = self.backup.clusters
        found = [each for each in clusters if name in (None, each.name)]
        if len(found) != 1:
            known = ", ".join(each.name for each in clusters)
            raise ConfigError(
                "there is no such Postgres cluster" if name or not found else "which cluster?",
                hint=f"--cluster, one of: {known}"
                if known
                else "add it to backup.clusters in config.yaml",
                cluster=name,
            )
        return found[0]

    def secrets(self) -> tuple[SecretStr, ...]:
        """Every secret that is set, for masking."""
        return tuple(_secrets(self))

    def _site(self, region: CompleteRegion) -> SiteSettings:
        access_key = region.access_key or self.minio.access_key
        secret_key = region.secret_key or self.minio.secret_key
        if access_key is None or secret_key is None:
            raise ConfigError(
                "a site has no credentials",
                hint="set minio.access_key and minio.secret_key in config.yaml",
                site=region.name,
            )
        return SiteSettings(
            name=region.name,
            endpoint=region.endpoint,
            access_key=access_key,
            secret_key=secret_key,
            region=region.region,
            rank=region.rank,
            database=region.database,
            database_url=self.database_url(region.database),
            notify_token=region.notify_token,
        )


def _secret_of(site: SiteSettings | None) -> SecretStr:
    return site.secret_key if site else SecretStr("")


def _secrets(section: BaseModel) -> Iterator[SecretStr]:
    for _, value in section:
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, SecretStr):
                yield item
            elif isinstance(item, BaseModel):
                yield from _secrets(item)
