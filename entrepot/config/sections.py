"""The sections of ``config.yaml``: one frozen model each, with defaults, bounds and meanings.

Keys and spelling are the guide's. Defaults are closed: loopback only, nothing optional switched on.
``later`` marks what no code reads yet.
"""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from entrepot.config.fields import (
    SITE_NAME,
    Endpoint,
    Secret,
    Section,
    Text,
    Url,
    WebOrigin,
    conflict,
    later,
)
from entrepot.units import DurationMs, Size

Port = Annotated[int, Field(ge=1, le=65_535)]
_SECOND = 1000
_HOUR = 3600 * _SECOND
_DAY = 24 * _HOUR
_MI = 1024**2
_GI = 1024**3


class ServerTls(Section):
    """TLS of our own listener."""

    enabled: bool = later(False, description="Serve HTTPS instead of HTTP.")
    cert_file: Path | None = later(None, description="PEM file with the certificate chain.")
    key_file: Path | None = later(None, description="PEM file with the private key.")

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        for name in ("cert_file", "key_file"):
            if self.enabled and getattr(self, name) is None:
                raise conflict("is required where server.tls.enabled is true", name)
        return self


class Server(Section):
    """Where the gateway, the API and the webhooks listen."""

    host: Text = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 is every network.")
    port: Port = Field(8080, description="TCP port to listen on.")
    public_url: Url | None = Field(
        None, description="URL that others reach us by, where it is not http://host:port."
    )
    tls: ServerTls = Field(ServerTls(), description="TLS of our own listener.")


class Minio(Section):
    """The object store, and the credentials that sites share unless they have their own."""

    endpoint: Endpoint = Field(
        "http://127.0.0.1:9000", description="S3 endpoint; its scheme decides whether TLS is used."
    )
    access_key: Text | None = Field(None, description="Access key of the object store.")
    secret_key: Secret | None = Field(None, description="Secret key of the object store.")
    use_ssl: bool | None = Field(
        None, description="Checked against the scheme of endpoint; null takes what the scheme says."
    )
    region: str = Field(
        "us-east-1", pattern=SITE_NAME, description="Region that requests are signed for."
    )
    max_connections: int = Field(
        256, ge=1, le=100_000, description="Most connections of one process to one endpoint."
    )
    connection_pool_size: int = Field(
        64, ge=1, le=10_000, description="Most idle connections kept open to one endpoint."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        is_https = self.endpoint.startswith("https:")
        if self.use_ssl is not None and self.use_ssl != is_https:
            scheme = "https" if is_https else "http"
            raise conflict(f"contradicts minio.endpoint, which is {scheme}", "use_ssl")
        if self.connection_pool_size > self.max_connections:
            size, most = self.connection_pool_size, self.max_connections
            raise conflict(f"{size} is above minio.max_connections, {most}", "connection_pool_size")
        return self


class Multitenancy(Section):
    """Tenants and how far they are kept apart."""

    enabled: bool = later(True, description="Check tenant, quota and policy on each request.")
    isolation_level: Literal["strict", "shared", "network"] = later(
        "strict", description="What tenants may share: nothing, buckets, or a network only."
    )
    audit_all_operations: bool = later(True, description="Audit reads as well as changes.")


class CacheL1(Section):
    """The memory tier."""

    max_size: Size = later(256 * _MI, ge=0, le=2**50, description="Memory for cached objects.")
    eviction_policy: Literal["lru", "arc"] = later(
        "lru", description="Which object goes first: least recently used, or adaptive (ARC)."
    )


class CacheL2(Section):
    """The local disk tier."""

    max_size: Size = later(10 * _GI, ge=0, le=2**50, description="Disk space for cached objects.")
    ttl: DurationMs = later(
        _DAY, ge=_SECOND, le=3650 * _DAY, description="Age at which an entry is dropped."
    )
    backend: Literal["nvme", "ssd", "hdd"] = later("nvme", description="Kind of disk.")


class CacheL3(Section):
    """The nearby bucket tier."""

    max_size: Size = later(100 * _GI, ge=0, le=2**60, description="Bucket space for the cache.")
    ttl: DurationMs = later(
        7 * _DAY, ge=_SECOND, le=3650 * _DAY, description="Age at which an entry is dropped."
    )
    backend: Literal["s3"] = later("s3", description="Kind of store.")


class Compression(Section):
    """Compression of objects that shrink."""

    enabled: bool = Field(False, description="Compress in new managed buckets what shrinks.")
    codec: Literal["zstd"] = Field("zstd", description="Compression method.")
    min_size: Size = Field(
        1_000_000, ge=0, le=2**40, description="Smaller objects are left as they are."
    )


class Caching(Section):
    """Tiers of cached objects: memory, local disk, a nearby bucket."""

    enabled: bool = later(False, description="Keep hot objects in the tiers below.")
    l1: CacheL1 = Field(CacheL1(), description="The memory tier.")
    l2: CacheL2 = Field(CacheL2(), description="The local disk tier.")
    l3: CacheL3 = Field(CacheL3(), description="The nearby bucket tier.")
    compression: Compression = Field(Compression(), description="Compression of objects.")
    prefetch_distance: int = later(
        5, ge=0, le=1000, description="Objects fetched ahead of a reader that goes in key order."
    )


class Region(Section):
    """One site to keep in step with the others."""

    name: str = Field(description="Name of the site.", pattern=SITE_NAME)
    endpoint: Endpoint = Field(description="S3 endpoint of the site.")
    access_key: Text | None = Field(None, description="Access key; null takes the minio section's.")
    secret_key: Secret | None = Field(
        None, description="Secret key; null takes the minio section's."
    )
    region: Text | None = Field(
        None, description="Region that requests are signed for; null takes the site's name."
    )
    rank: int | None = Field(
        None, ge=0, le=999, description="The smallest wins a tie; null takes the place in the list."
    )
    database: str | None = Field(
        None,
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="Site catalog's database; null takes entrepot_site_ and the name, - as _.",
    )
    notify_token: Secret | None = Field(
        None, min_length=16, description="Token of its bucket notifications; null takes none."
    )

    @model_validator(mode="after")
    def _has_both_keys(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            missing = "access_key" if self.access_key is None else "secret_key"
            raise conflict("is required where the other key of the site is given", missing)
        return self


class CompleteRegion(Region):
    """A region with the defaults that depend on its name and its place in the list."""

    region: str
    rank: int
    database: str


def complete(regions: Sequence[Region]) -> tuple[CompleteRegion, ...]:
    """``regions`` with nothing left open but credentials."""
    return tuple(CompleteRegion(**dict(site) | _derived(n, site)) for n, site in enumerate(regions))


def _derived(place: int, site: Region) -> dict[str, str | int]:
    return {
        "region": site.region or site.name,
        "rank": place if site.rank is None else site.rank,
        "database": site.database or f"entrepot_site_{site.name.replace('-', '_')}",
    }


class RetryPolicy(Section):
    """How often and how soon a failed copy is tried again."""

    max_retries: int = Field(3, ge=0, le=100, description="Tries after the first.")
    initial_backoff: DurationMs = Field(
        100, ge=1, le=_HOUR, description="Wait before the first retry; doubles with each."
    )
    max_backoff: DurationMs = Field(
        5 * _SECOND, ge=1, le=_DAY, description="Longest wait before a retry."
    )

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.initial_backoff > self.max_backoff:
            raise conflict("is above max_backoff", "initial_backoff")
        return self


class Replication(Section):
    """Which sites are kept equal, and how fast."""

    enabled: bool = Field(True, description="Run the replication flows.")
    mode: Literal["active-active", "active-passive"] = later(
        "active-active", description="Whether every site takes writes, or the first of the list."
    )
    regions: tuple[Region, ...] = Field(
        (), max_length=32, description="The sites; none means the minio section is the only one."
    )
    conflict_resolution: Literal["last-write-wins"] = later(
        "last-write-wins", description="Which of two concurrent writes becomes current."
    )
    max_replication_delay: DurationMs = Field(
        100, ge=1, le=_DAY, description="Lag that the stream aims at; above it an alert is due."
    )
    retry_policy: RetryPolicy = Field(RetryPolicy(), description="Retries of a failed copy.")
    worker_threads: int = Field(
        32, ge=1, le=1024, description="Objects copied at once by one stream."
    )
    batch_size: int = Field(1000, ge=1, le=10_000, description="Objects in one batch of copies.")
    batch_timeout: DurationMs = Field(
        100,
        ge=1,
        le=60 * _SECOND,
        description="Longest wait of the stream to fill a batch.",
    )

    @model_validator(mode="after")
    def _is_unambiguous(self) -> Self:
        taken: set[tuple[str, object]] = set()
        for n, site in enumerate(complete(self.regions)):
            for what in ("name", "rank", "database"):
                value = getattr(site, what)
                if (what, value) in taken:
                    raise conflict(f"{value} is taken by another site", "regions", n, what)
                taken.add((what, value))
        return self


class LocalRootKey(Section):
    """A root key that this machine keeps: a file, a passphrase or a credential of systemd."""

    path: Path | None = Field(
        None, description="File of 32 random bytes, mode 0600; null takes root.key in the data dir."
    )
    passphrase: Secret | None = Field(None, description="Passphrase that the key is made from.")
    credential: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}$",
        description="Name of the credential that systemd hands the service.",
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) > 1:
            raise conflict(f"is one root key too many beside {given[0]}", given[1])
        return self


class Vault(Section):
    """A HashiCorp Vault or OpenBao server whose transit engine keeps the root key."""

    address: Endpoint | None = Field(None, description="URL of the server.")
    token: Secret | None = Field(None, description="Token that may encrypt and decrypt there.")
    token_file: Path | None = Field(
        None, description="File, mode 0600, that an agent keeps a current token in."
    )
    key_name: str = Field(
        "entrepot",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}$",
        description="Name of the transit key.",
    )
    mount: str = Field(
        "transit",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$",
        max_length=255,
        description="Where the transit engine is mounted.",
    )
    namespace: Text | None = Field(None, description="Namespace of the server, where it has them.")
    ca_file: Path | None = Field(
        None, description="PEM file with the server's authority; null takes the system's."
    )

    @model_validator(mode="after")
    def _has_one_token(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise conflict("is one token too many beside token", "token_file")
        return self


class Kms(Section):
    """A key management service that speaks AWS KMS."""

    endpoint: Url | None = Field(None, description="URL of the key management service.")
    key_id: Text | None = Field(None, description="Id, ARN or alias of the root key there.")
    region: Text | None = Field(
        None, description="Region that requests are signed for; null takes minio.region."
    )
    access_key: Text | None = Field(
        None, description="Access key; null takes what the environment or the machine's role gives."
    )
    secret_key: Secret | None = Field(None, description="Secret key of access_key.")

    @model_validator(mode="after")
    def _has_both_keys(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            missing = "access_key" if self.access_key is None else "secret_key"
            raise conflict("is required where the other key is given", missing)
        return self


class Encryption(Section):
    """Encryption of objects before they are stored, and who keeps the keys."""

    enabled: bool = Field(False, description="Encrypt the objects of new managed buckets.")
    algorithm: Literal["AES-256-GCM"] = Field("AES-256-GCM", description="Authenticated cipher.")
    key_management: Literal["kms", "vault", "local"] = Field(
        "local", description="Who keeps the root key."
    )
    ring: Path | None = Field(
        None, description="Directory of the wrapped keys; null takes keys in the data directory."
    )
    cache_ttl: DurationMs = Field(
        300 * _SECOND,
        ge=_SECOND,
        le=_DAY,
        description="How long a key is used without asking the root key's keeper.",
    )
    local: LocalRootKey = Field(LocalRootKey(), description="A root key that this machine keeps.")
    vault: Vault = Field(Vault(), description="A Vault or OpenBao that keeps the root key.")
    kms: Kms = Field(Kms(), description="A service that keeps the root key.")

    @model_validator(mode="after")
    def _has_root(self) -> Self:
        if self.enabled and self.key_management == "kms":
            for name in ("endpoint", "key_id"):
                if getattr(self.kms, name) is None:
                    raise conflict("is required where key_management is kms", "kms", name)
        if self.enabled and self.key_management == "vault":
            if self.vault.address is None:
                raise conflict("is required where key_management is vault", "vault", "address")
            if self.vault.token is None and self.vault.token_file is None:
                raise conflict("or token_file is required with vault", "vault", "token")
        return self


class Monitoring(Section):
    """Metrics, traces and logs."""

    metrics_enabled: bool = Field(True, description="Serve /metrics.")
    metrics_port: Port = later(9090, description="Port of a separate metrics listener.")
    metrics_interval: DurationMs = later(
        5 * _SECOND, ge=100, le=_HOUR, description="Time between refreshes of computed metrics."
    )
    tracing_enabled: bool = later(False, description="Send traces.")
    jaeger_endpoint: Url | None = later(None, description="URL that takes the traces.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe record that is logged."
    )
    detailed_audit: bool = later(False, description="Audit request headers and conditions too.")
    detailed_logs: bool = later(False, description="Log each request, not only failures.")

    @model_validator(mode="after")
    def _has_trace_target(self) -> Self:
        if self.tracing_enabled and self.jaeger_endpoint is None:
            raise conflict("is required where tracing_enabled is true", "jaeger_endpoint")
        return self


class Cors(Section):
    """Browsers of other origins."""

    enabled: bool = later(False, description="Answer CORS requests of the allowed origins.")
    allow_headers: tuple[Text, ...] = later(
        (), max_length=100, description="Request headers that browsers may send; * is any."
    )


class RateLimiting(Section):
    """Requests a tenant may make."""

    enabled: bool = later(True, description="Refuse requests above the limit (503 SlowDown).")
    default_limit: int = later(
        1000, ge=1, le=10_000_000, description="Requests per second of a tenant without its own."
    )


class Security(Section):
    """Who may call us, and the key that protects stored secrets."""

    tls_min_version: Literal["1.2", "1.3"] = later("1.3", description="Oldest TLS that we speak.")
    allowed_origins: tuple[WebOrigin, ...] = later(
        (), max_length=100, description="Web origins that CORS lets in."
    )
    cors: Cors = Field(Cors(), description="Browsers of other origins.")
    rate_limiting: RateLimiting = Field(RateLimiting(), description="Requests a tenant may make.")
    secrets_key: Secret | None = Field(
        None, description="Fernet key that encrypts webhook secrets in Postgres."
    )

    @field_validator("secrets_key", mode="after")
    @classmethod
    def _is_fernet_key(cls, value: SecretStr | None) -> SecretStr | None:
        keys = value.get_secret_value().split(",") if value is not None else []
        try:
            are_keys = all(len(base64.urlsafe_b64decode(key.strip())) == 32 for key in keys)
        except (binascii.Error, ValueError):
            are_keys = False
        if not are_keys:
            raise PydanticCustomError(
                "fernet", "not a Fernet key (32 bytes in URL-safe base64), or several with commas"
            )
        return value


class Database(Section):
    """The Postgres server of the control catalog and, unless said otherwise, of the sites'."""

    type: Literal["postgresql"] = Field("postgresql", description="Kind of database.")
    host: str = Field(
        "127.0.0.1",
        pattern=r"^(/[^\s?#&%]*|[A-Za-z0-9._:-]+)$",
        max_length=255,
        description="Host name, address, or directory of a socket.",
    )
    port: Port = Field(5432, description="TCP port.")
    name: str = Field(
        "entrepot", min_length=1, max_length=63, description="Database of the control catalog."
    )
    user: Text = Field("entrepot", description="Role to log in as.")
    password: Secret | None = Field(None, description="Its password; null where none is asked for.")
    max_connections: int = Field(
        20, ge=1, le=10_000, description="Most connections of one process to one database."
    )
    connection_timeout: DurationMs = Field(
        30 * _SECOND, ge=_SECOND, le=600 * _SECOND, description="Longest wait for a connection."
    )


class Gdpr(Section):
    """General Data Protection Regulation."""

    enabled: bool = later(False, description="Collect evidence and offer erasure.")
    data_residency: Text | None = later(None, description="Where personal data may lie, as in EU.")


class Regime(Section):
    """One set of rules that is on or off."""

    enabled: bool = later(False, description="Collect evidence for it.")


class Compliance(Section):
    """Rules to prove adherence to."""

    gdpr: Gdpr = Field(Gdpr(), description="General Data Protection Regulation.")
    hipaa: Regime = Field(Regime(), description="US health records.")
    pci_dss: Regime = Field(Regime(), description="Payment cards.")
    sox: Regime = Field(Regime(), description="US financial reporting.")


class Prefect(Section):
    """The Prefect server that runs the flows."""

    api_url: Url = Field("http://127.0.0.1:4200/api", description="URL of Prefect's API.")
    auth_string: Secret | None = Field(
        None, description="user:password that the server asks for; null where it asks for none."
    )
    work_pool: Text = Field("entrepot", description="Work pool that flow runs go to.")
