"""The conflict ledger, removed versions, and saved plans."""

from alembic import op

from entrepot.errors import Unsupported

revision = "control_0005"
down_revision = "control_0004"

_STATEMENTS = (
    """
    CREATE TABLE conflicts (
        id bigint GENERATED ALWAYS AS IDENTITY,
        rule varchar(64) NOT NULL,
        bucket varchar(63) NOT NULL,
        key text NOT NULL,
        names varchar(64) NOT NULL,
        contenders jsonb NOT NULL,
        winner bigint NOT NULL,
        policy varchar(256) NOT NULL,
        reason varchar(512) NOT NULL,
        is_ambiguous boolean NOT NULL,
        serves varchar(64) NOT NULL,
        job_id uuid NOT NULL,
        detected_at timestamptz DEFAULT now() NOT NULL,
        resolved_at timestamptz,
        resolved_by varchar(256),
        taken bigint,
        CONSTRAINT pk_conflicts PRIMARY KEY (id),
        CONSTRAINT uq_conflicts_bucket_key_names UNIQUE (bucket, key, names),
        CONSTRAINT ck_conflicts_key_size CHECK (octet_length(key) <= 1024),
        CONSTRAINT ck_conflicts_contenders_size
            CHECK (octet_length((contenders)::text) <= 65536),
        CONSTRAINT ck_conflicts_winner CHECK (winner >= 0),
        CONSTRAINT ck_conflicts_resolved CHECK ((resolved_at IS NULL) = (taken IS NULL))
    )
    """,
    "CREATE INDEX ix_conflicts_rule ON conflicts (rule, id)",
    """
    CREATE TABLE removals (
        bucket varchar(63) NOT NULL,
        key text NOT NULL,
        version_id varchar(256) NOT NULL,
        site varchar(64) NOT NULL,
        removed_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_removals PRIMARY KEY (bucket, key, version_id, site),
        CONSTRAINT ck_removals_key_size CHECK (octet_length(key) <= 1024)
    )
    """,
    "CREATE INDEX ix_removals_removed_at ON removals (removed_at)",
    """
    CREATE TABLE plans (
        id uuid NOT NULL,
        rule varchar(64) NOT NULL,
        bucket varchar(63) NOT NULL,
        prefix text NOT NULL,
        sha256 varchar(64) NOT NULL,
        totals jsonb DEFAULT '{}' NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        applied_at timestamptz,
        CONSTRAINT pk_plans PRIMARY KEY (id),
        CONSTRAINT ck_plans_prefix_size CHECK (octet_length(prefix) <= 1024),
        CONSTRAINT ck_plans_sha256 CHECK (sha256 ~ '^[0-9a-f]{64}$'),
        CONSTRAINT ck_plans_totals_size CHECK (octet_length((totals)::text) <= 65536)
    )
    """,
    """
    CREATE TABLE plan_pages (
        job_id uuid NOT NULL,
        shard bigint NOT NULL,
        number bigint NOT NULL,
        body bytea NOT NULL,
        CONSTRAINT pk_plan_pages PRIMARY KEY (job_id, shard, number),
        CONSTRAINT ck_plan_pages_number CHECK (shard >= 0 AND number >= 0),
        CONSTRAINT ck_plan_pages_body_size CHECK (octet_length(body) <= 4194304)
    )
    """,
)


def upgrade() -> None:
    """Create them."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refused: dropping tables is not a way back."""
    raise Unsupported("catalogs only go forward", hint="restore a backup of the catalog")
