"""The tables of both catalogs; what a column may hold is bounded here and nowhere else.

Invariant: every text, array and JSON column has a stated largest size, every instant is a
``timestamptz``, and the migrated schema equals these tables (``tests/catalog`` compares them).
The tables of one database never refer to the other's: a site must work while it is cut off.

Words: *control* tables stand once a domain, *site* tables once a site. Classes here are used for
building statements only; what the other modules return are frozen dataclasses.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from entrepot.catalog.states import BucketMode, DeliveryState, JobState

KEY_MAX_BYTES = 1024
"""The longest S3 key, so also the longest prefix, range end and cursor."""

NAME_MAX_BYTES = 64
BUCKETS_MAX = 1000
SITES_MAX = 100
PARAMETERS_MAX = 100
REPORT_MAX_BYTES = 1 << 20
SMALL_JSON_MAX_BYTES = 64 << 10
SECRET_MAX_BYTES = 4096
CERTIFICATE_MAX_BYTES = 8 << 20
SCOPES_MAX = 20
TERMS_MAX_BYTES = 256 << 10
"""Prefixes with a policy of their own may be as long as keys."""
PAGE_MAX_BYTES = 4 << 20


_CONSTRAINT_NAMES = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
}


def _states(kind: type[StrEnum], name: str) -> Enum:
    # Text with a check, not a native enum: a new state is then one changed constraint.
    return Enum(
        kind,
        native_enum=False,
        length=16,
        create_constraint=True,
        name=name,
        values_callable=lambda states: [state.value for state in states],
    )


_COLUMN_TYPES: dict[Any, Any] = {
    datetime: DateTime(timezone=True),
    dict[str, Any]: JSONB(),
    dict[str, int]: JSONB(),
    int: BigInteger(),
    JobState: _states(JobState, "state"),
    DeliveryState: _states(DeliveryState, "state"),
    BucketMode: _states(BucketMode, "mode"),
}

Name = Annotated[str, mapped_column(String(64))]
BucketName = Annotated[str, mapped_column(String(63))]  # S3's own limit
Line = Annotated[str, mapped_column(String(256))]
Key = Annotated[str, mapped_column(Text)]  # in bytes, so its bound is a check
ServerTime = Annotated[datetime, mapped_column(server_default=func.now())]
JsonObject = Annotated[dict[str, Any], mapped_column(server_default=text("'{}'"))]
Counters = Annotated[dict[str, int], mapped_column(server_default=text("'{}'"))]


def _at_most(column: str, size_bytes: int) -> CheckConstraint:
    return CheckConstraint(f"octet_length({column}) <= {size_bytes}", name=f"{column}_size")


def _json_at_most(column: str, size_bytes: int) -> CheckConstraint:
    size = f"octet_length(({column})::text)"
    return CheckConstraint(f"{size} <= {size_bytes}", name=f"{column}_size")


def _names(column: str, least: int, most: int) -> tuple[CheckConstraint, CheckConstraint]:
    # Not varchar(n)[]: a parameter is cast to the column's type, and that cast cuts silently.
    size = f"octet_length(array_to_string({column}, ''))"
    return (
        CheckConstraint(
            f"cardinality({column}) BETWEEN {least} AND {most}", name=f"{column}_count"
        ),
        CheckConstraint(f"{size} <= {NAME_MAX_BYTES * most}", name=f"{column}_size"),
    )


def _not_empty(column: str) -> CheckConstraint:
    return CheckConstraint(f"{column} <> ''", name=f"{column}_not_empty")


class ControlBase(DeclarativeBase):
    """Root of the control catalog's tables."""

    metadata = MetaData(naming_convention=_CONSTRAINT_NAMES)
    type_annotation_map = _COLUMN_TYPES


class SiteBase(DeclarativeBase):
    """Root of a site catalog's tables."""

    metadata = MetaData(naming_convention=_CONSTRAINT_NAMES)
    type_annotation_map = _COLUMN_TYPES


class Site(ControlBase):
    """An S3 endpoint; a lower rank wins ties."""

    __tablename__ = "sites"
    __table_args__ = (
        UniqueConstraint("rank"),
        CheckConstraint("rank >= 0", name="rank"),
        _not_empty("name"),
        _json_at_most("capabilities", SMALL_JSON_MAX_BYTES),
    )
    name: Mapped[Name] = mapped_column(primary_key=True)
    endpoint: Mapped[str] = mapped_column(String(2048))
    region: Mapped[Name]
    rank: Mapped[int]
    capabilities: Mapped[JsonObject]
    probed_at: Mapped[datetime | None]


class Tenant(ControlBase):
    """Who owns buckets."""

    __tablename__ = "tenants"
    __table_args__ = (_not_empty("id"),)
    id: Mapped[Name] = mapped_column(primary_key=True)
    name: Mapped[Line]


class Rule(ControlBase):
    """Which buckets and prefix are kept equal across which sites."""

    __tablename__ = "rules"
    __table_args__ = (
        _not_empty("name"),
        *_names("buckets", 1, BUCKETS_MAX),
        *_names("sites", 2, SITES_MAX),
        _at_most("prefix", KEY_MAX_BYTES),
        CheckConstraint("paused_until IS NULL OR paused", name="paused_until"),
        _json_at_most("terms", TERMS_MAX_BYTES),
    )
    name: Mapped[Name] = mapped_column(primary_key=True)
    buckets: Mapped[list[str]] = mapped_column(ARRAY(Text))
    prefix: Mapped[Key]
    sites: Mapped[list[str]] = mapped_column(ARRAY(Text))
    enabled: Mapped[bool]
    created_at: Mapped[ServerTime]
    updated_at: Mapped[ServerTime]
    mode: Mapped[Name] = mapped_column(server_default=text("'active-active'"))
    paused: Mapped[bool] = mapped_column(server_default=text("false"))
    paused_until: Mapped[datetime | None]
    terms: Mapped[JsonObject]  # the rest of what ``catalog.rule`` lets a rule say


class RuleBudget(ControlBase):
    """Until when the bytes and requests of a rule are given out, over all workers."""

    __tablename__ = "rule_budgets"
    rule: Mapped[Name] = mapped_column(
        ForeignKey("rules.name", ondelete="CASCADE"), primary_key=True
    )
    bytes_until: Mapped[datetime]
    requests_until: Mapped[datetime]


class ApiToken(ControlBase):
    """Who may call the API; of the token itself only a digest is kept."""

    __tablename__ = "api_tokens"
    __table_args__ = (
        _not_empty("name"),
        UniqueConstraint("name"),
        *_names("scopes", 1, SCOPES_MAX),
        CheckConstraint("token_sha256 ~ '^[0-9a-f]{64}$'", name="token_sha256"),
    )
    id: Mapped[Name] = mapped_column(primary_key=True)
    name: Mapped[Name]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    token_sha256: Mapped[Name]
    created_at: Mapped[ServerTime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Job(ControlBase):
    """One piece of orchestrated work; ``epoch`` fences every write in its name."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("epoch > 0", name="epoch"),
        CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished"),
        _json_at_most("report", REPORT_MAX_BYTES),
        Index(
            "uq_jobs_running",
            "kind",
            "subject",
            unique=True,
            postgresql_where=text("state = 'running'"),
        ),
        Index("ix_jobs_subject", "kind", "subject", "epoch"),
        Index("ix_jobs_started_at", "started_at"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[Name]
    subject: Mapped[Line]
    flow_run_id: Mapped[Name | None]
    epoch: Mapped[int]
    holder: Mapped[Line]
    lease_until: Mapped[datetime]
    state: Mapped[JobState]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    report: Mapped[JsonObject]


class JobShard(ControlBase):
    """A range of keys of a job: after ``start_after`` up to and with ``stop_at`` ("": no end)."""

    __tablename__ = "job_shards"
    __table_args__ = (
        CheckConstraint("number >= 0", name="number"),
        _at_most("start_after", KEY_MAX_BYTES),
        _at_most("stop_at", KEY_MAX_BYTES),
        _at_most("cursor", KEY_MAX_BYTES),
        _json_at_most("counters", SMALL_JSON_MAX_BYTES),
    )
    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    start_after: Mapped[Key]
    stop_at: Mapped[Key]
    cursor: Mapped[Key]
    done: Mapped[bool] = mapped_column(server_default=text("false"))
    counters: Mapped[Counters]


class Certificate(ControlBase):
    """What a comparison of a rule's sites came to, as it was signed."""

    __tablename__ = "certificates"
    __table_args__ = (
        _not_empty("rule"),
        _at_most("document", CERTIFICATE_MAX_BYTES),
        Index("ix_certificates_rule", "rule", "finished_at"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True)
    rule: Mapped[Name]  # no foreign key: what was proved of a rule outlives it
    finished_at: Mapped[datetime]
    identical: Mapped[bool]
    document: Mapped[str] = mapped_column(Text)


class Webhook(ControlBase):
    """A name under ``/webhooks/`` and the deployment that it starts."""

    __tablename__ = "webhooks"
    __table_args__ = (
        _not_empty("name"),
        *_names("allowed_parameters", 0, PARAMETERS_MAX),
        _at_most("secret_encrypted", SECRET_MAX_BYTES),
    )
    name: Mapped[Name] = mapped_column(primary_key=True)
    deployment: Mapped[Line]
    allowed_parameters: Mapped[list[str]] = mapped_column(ARRAY(Text))
    secret_encrypted: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[ServerTime]
    enabled: Mapped[bool]


class WebhookDelivery(ControlBase):
    """One delivery id of a webhook and the flow run that it started."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        _not_empty("delivery_id"),
        CheckConstraint("body_sha256 ~ '^[0-9a-f]{64}$'", name="body_sha256"),
        Index("ix_webhook_deliveries_received_at", "received_at"),
    )
    webhook: Mapped[Name] = mapped_column(
        ForeignKey("webhooks.name", ondelete="CASCADE"), primary_key=True
    )
    delivery_id: Mapped[Line] = mapped_column(primary_key=True)
    received_at: Mapped[datetime]
    flow_run_id: Mapped[Name | None]
    state: Mapped[DeliveryState]
    body_sha256: Mapped[Name]


class Conflict(ControlBase):
    """Writes of one key of which neither knew of the other; ``contenders`` are by time.

    ``names`` is the SHA-256 of what they are called everywhere: what makes a conflict the same one.
    """

    __tablename__ = "conflicts"
    __table_args__ = (
        UniqueConstraint("bucket", "key", "names"),
        _at_most("key", KEY_MAX_BYTES),
        _json_at_most("contenders", SMALL_JSON_MAX_BYTES),
        CheckConstraint("winner >= 0", name="winner"),
        CheckConstraint("(resolved_at IS NULL) = (taken IS NULL)", name="resolved"),
        Index("ix_conflicts_rule", "rule", "id"),
    )
    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    rule: Mapped[Name]
    bucket: Mapped[BucketName]
    key: Mapped[Key]
    names: Mapped[Name]
    contenders: Mapped[dict[str, Any]]
    winner: Mapped[int]
    policy: Mapped[Line]
    reason: Mapped[str] = mapped_column(String(512))
    is_ambiguous: Mapped[bool]
    serves: Mapped[Name]
    job_id: Mapped[UUID]
    detected_at: Mapped[ServerTime]
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[Line | None]
    taken: Mapped[int | None]


class AgreedTags(ControlBase):
    """The tags that every site of a rule had of a version when they were last compared."""

    __tablename__ = "agreed_tags"
    __table_args__ = (
        _at_most("key", KEY_MAX_BYTES),
        _json_at_most("tags", SMALL_JSON_MAX_BYTES),
    )
    rule: Mapped[Name] = mapped_column(primary_key=True)
    bucket: Mapped[BucketName] = mapped_column(primary_key=True)
    # Read by ranges of keys, in the order in which endpoints list them.
    key: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    version_id: Mapped[str] = mapped_column(String(256), primary_key=True)
    tags: Mapped[dict[str, Any]]


class MappedVersion(ControlBase):
    """What a version on an endpoint that mints ids is a copy of, as its own metadata says."""

    __tablename__ = "version_map"
    __table_args__ = (_at_most("key", KEY_MAX_BYTES),)
    site: Mapped[Name] = mapped_column(primary_key=True)
    bucket: Mapped[BucketName] = mapped_column(primary_key=True)
    # Read by ranges of keys, in the order in which endpoints list them.
    key: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    version_id: Mapped[str] = mapped_column(String(256), primary_key=True)
    mark: Mapped[str] = mapped_column(String(512))


class Removal(ControlBase):
    """A version that was removed by its id at a site: it is not to be brought back there."""

    __tablename__ = "removals"
    __table_args__ = (
        _at_most("key", KEY_MAX_BYTES),
        Index("ix_removals_removed_at", "removed_at"),
    )
    bucket: Mapped[BucketName] = mapped_column(primary_key=True)
    key: Mapped[Key] = mapped_column(primary_key=True)
    version_id: Mapped[str] = mapped_column(String(256), primary_key=True)
    site: Mapped[Name] = mapped_column(primary_key=True)
    removed_at: Mapped[ServerTime]


class Plan(ControlBase):
    """What a dry run would do to a bucket, to be applied exactly so; its id is that of the job."""

    __tablename__ = "plans"
    __table_args__ = (
        _at_most("prefix", KEY_MAX_BYTES),
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
        _json_at_most("totals", SMALL_JSON_MAX_BYTES),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True)
    rule: Mapped[Name]
    bucket: Mapped[BucketName]
    prefix: Mapped[Key]
    sha256: Mapped[Name]
    totals: Mapped[JsonObject]
    created_at: Mapped[ServerTime]
    applied_at: Mapped[datetime | None]


class PlanPage(ControlBase):
    """A piece of a plan: keys and their actions as JSON lines, compressed."""

    __tablename__ = "plan_pages"
    __table_args__ = (
        CheckConstraint("shard >= 0 AND number >= 0", name="number"),
        _at_most("body", PAGE_MAX_BYTES),
    )
    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    shard: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class Bucket(SiteBase):
    """A bucket that we look after, and its owner."""

    __tablename__ = "buckets"
    __table_args__ = (_not_empty("name"), _not_empty("tenant_id"), UniqueConstraint("id"))
    name: Mapped[BucketName] = mapped_column(primary_key=True)
    tenant_id: Mapped[Name]
    mode: Mapped[BucketMode]
    adopted_at: Mapped[ServerTime]
    id: Mapped[int] = mapped_column(Identity(always=True))
    encrypted: Mapped[bool] = mapped_column(server_default=text("false"))
    compressed: Mapped[bool] = mapped_column(server_default=text("false"))
    locked: Mapped[bool] = mapped_column(server_default=text("false"))


class UsageRun(SiteBase):
    """One complete account of a site at an instant."""

    __tablename__ = "usage_runs"
    __table_args__ = (Index("ix_usage_runs_as_of", "as_of", "finished_at"),)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    as_of: Mapped[datetime]
    buckets: Mapped[int]
    finished_at: Mapped[datetime]


class UsageRow(SiteBase):
    """What one tenant holds under one prefix of one bucket."""

    __tablename__ = "usage_rows"
    __table_args__ = (
        _at_most("prefix", KEY_MAX_BYTES),
        CheckConstraint("current_bytes BETWEEN 0 AND total_bytes", name="bytes"),
        CheckConstraint("objects BETWEEN 0 AND versions", name="objects"),
        CheckConstraint("delete_markers >= 0", name="delete_markers"),
    )
    run_id: Mapped[UUID] = mapped_column(
        ForeignKey("usage_runs.id", ondelete="CASCADE"), primary_key=True
    )
    tenant_id: Mapped[Name] = mapped_column(primary_key=True)
    bucket: Mapped[BucketName] = mapped_column(primary_key=True)
    prefix: Mapped[Key] = mapped_column(primary_key=True)
    current_bytes: Mapped[int]
    total_bytes: Mapped[int]
    objects: Mapped[int]
    versions: Mapped[int]
    delete_markers: Mapped[int]
