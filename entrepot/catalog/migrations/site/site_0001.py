"""The first tables of a site catalog."""

from alembic import op

from entrepot.errors import Unsupported

revision = "site_0001"
down_revision = None

_STATEMENTS = (
    """
    CREATE TABLE buckets (
        name varchar(63) NOT NULL,
        tenant_id varchar(64) NOT NULL,
        mode varchar(16) NOT NULL,
        adopted_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_buckets PRIMARY KEY (name),
        CONSTRAINT ck_buckets_name_not_empty CHECK (name <> ''),
        CONSTRAINT ck_buckets_tenant_id_not_empty CHECK (tenant_id <> ''),
        CONSTRAINT ck_buckets_mode CHECK (mode IN ('adopted', 'managed'))
    )
    """,
    """
    CREATE TABLE usage_runs (
        id uuid NOT NULL,
        as_of timestamptz NOT NULL,
        buckets bigint NOT NULL,
        finished_at timestamptz NOT NULL,
        CONSTRAINT pk_usage_runs PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX ix_usage_runs_as_of ON usage_runs (as_of, finished_at)",
    """
    CREATE TABLE usage_rows (
        run_id uuid NOT NULL,
        tenant_id varchar(64) NOT NULL,
        bucket varchar(63) NOT NULL,
        prefix text NOT NULL,
        current_bytes bigint NOT NULL,
        total_bytes bigint NOT NULL,
        objects bigint NOT NULL,
        versions bigint NOT NULL,
        delete_markers bigint NOT NULL,
        CONSTRAINT pk_usage_rows PRIMARY KEY (run_id, tenant_id, bucket, prefix),
        CONSTRAINT ck_usage_rows_prefix_size CHECK (octet_length(prefix) <= 1024),
        CONSTRAINT ck_usage_rows_bytes CHECK (current_bytes BETWEEN 0 AND total_bytes),
        CONSTRAINT ck_usage_rows_objects CHECK (objects BETWEEN 0 AND versions),
        CONSTRAINT ck_usage_rows_delete_markers CHECK (delete_markers >= 0),
        CONSTRAINT fk_usage_rows_run_id
            FOREIGN KEY(run_id) REFERENCES usage_runs (id) ON DELETE CASCADE
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
