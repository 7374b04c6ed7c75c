"""The first tables of the control catalog."""

from alembic import op

from entrepot.errors import Unsupported

revision = "control_0001"
down_revision = None

_STATEMENTS = (
    """
    CREATE TABLE jobs (
        id uuid NOT NULL,
        kind varchar(64) NOT NULL,
        subject varchar(256) NOT NULL,
        flow_run_id varchar(64),
        epoch bigint NOT NULL,
        holder varchar(256) NOT NULL,
        lease_until timestamptz NOT NULL,
        state varchar(16) NOT NULL,
        started_at timestamptz NOT NULL,
        finished_at timestamptz,
        report jsonb DEFAULT '{}' NOT NULL,
        CONSTRAINT pk_jobs PRIMARY KEY (id),
        CONSTRAINT ck_jobs_epoch CHECK (epoch > 0),
        CONSTRAINT ck_jobs_finished CHECK ((state = 'running') = (finished_at IS NULL)),
        CONSTRAINT ck_jobs_report_size CHECK (octet_length((report)::text) <= 1048576),
        CONSTRAINT ck_jobs_state CHECK (state IN ('running', 'completed', 'failed', 'cancelled'))
    )
    """,
    "CREATE INDEX ix_jobs_started_at ON jobs (started_at)",
    "CREATE INDEX ix_jobs_subject ON jobs (kind, subject, epoch)",
    "CREATE UNIQUE INDEX uq_jobs_running ON jobs (kind, subject) WHERE state = 'running'",
    """
    CREATE TABLE rules (
        name varchar(64) NOT NULL,
        buckets text[] NOT NULL,
        prefix text NOT NULL,
        sites text[] NOT NULL,
        enabled boolean NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_rules PRIMARY KEY (name),
        CONSTRAINT ck_rules_name_not_empty CHECK (name <> ''),
        CONSTRAINT ck_rules_buckets_count CHECK (cardinality(buckets) BETWEEN 1 AND 1000),
        CONSTRAINT ck_rules_buckets_size
            CHECK (octet_length(array_to_string(buckets, '')) <= 64000),
        CONSTRAINT ck_rules_sites_count CHECK (cardinality(sites) BETWEEN 2 AND 100),
        CONSTRAINT ck_rules_sites_size CHECK (octet_length(array_to_string(sites, '')) <= 6400),
        CONSTRAINT ck_rules_prefix_size CHECK (octet_length(prefix) <= 1024)
    )
    """,
    """
    CREATE TABLE sites (
        name varchar(64) NOT NULL,
        endpoint varchar(2048) NOT NULL,
        region varchar(64) NOT NULL,
        rank bigint NOT NULL,
        capabilities jsonb DEFAULT '{}' NOT NULL,
        probed_at timestamptz,
        CONSTRAINT pk_sites PRIMARY KEY (name),
        CONSTRAINT uq_sites_rank UNIQUE (rank),
        CONSTRAINT ck_sites_rank CHECK (rank >= 0),
        CONSTRAINT ck_sites_name_not_empty CHECK (name <> ''),
        CONSTRAINT ck_sites_capabilities_size CHECK (octet_length((capabilities)::text) <= 65536)
    )
    """,
    """
    CREATE TABLE tenants (
        id varchar(64) NOT NULL,
        name varchar(256) NOT NULL,
        CONSTRAINT pk_tenants PRIMARY KEY (id),
        CONSTRAINT ck_tenants_id_not_empty CHECK (id <> '')
    )
    """,
    """
    CREATE TABLE webhooks (
        name varchar(64) NOT NULL,
        deployment varchar(256) NOT NULL,
        allowed_parameters text[] NOT NULL,
        secret_encrypted bytea NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        enabled boolean NOT NULL,
        CONSTRAINT pk_webhooks PRIMARY KEY (name),
        CONSTRAINT ck_webhooks_name_not_empty CHECK (name <> ''),
        CONSTRAINT ck_webhooks_allowed_parameters_count
            CHECK (cardinality(allowed_parameters) BETWEEN 0 AND 100),
        CONSTRAINT ck_webhooks_allowed_parameters_size
            CHECK (octet_length(array_to_string(allowed_parameters, '')) <= 6400),
        CONSTRAINT ck_webhooks_secret_encrypted_size CHECK (octet_length(secret_encrypted) <= 4096)
    )
    """,
    """
    CREATE TABLE job_shards (
        job_id uuid NOT NULL,
        number bigint NOT NULL,
        start_after text NOT NULL,
        stop_at text NOT NULL,
        cursor text NOT NULL,
        done boolean DEFAULT false NOT NULL,
        counters jsonb DEFAULT '{}' NOT NULL,
        CONSTRAINT pk_job_shards PRIMARY KEY (job_id, number),
        CONSTRAINT ck_job_shards_number CHECK (number >= 0),
        CONSTRAINT ck_job_shards_start_after_size CHECK (octet_length(start_after) <= 1024),
        CONSTRAINT ck_job_shards_stop_at_size CHECK (octet_length(stop_at) <= 1024),
        CONSTRAINT ck_job_shards_cursor_size CHECK (octet_length(cursor) <= 1024),
        CONSTRAINT ck_job_shards_counters_size CHECK (octet_length((counters)::text) <= 65536),
        CONSTRAINT fk_job_shards_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE webhook_deliveries (
        webhook varchar(64) NOT NULL,
        delivery_id varchar(256) NOT NULL,
        received_at timestamptz NOT NULL,
        flow_run_id varchar(64),
        state varchar(16) NOT NULL,
        body_sha256 varchar(64) NOT NULL,
        CONSTRAINT pk_webhook_deliveries PRIMARY KEY (webhook, delivery_id),
        CONSTRAINT ck_webhook_deliveries_delivery_id_not_empty CHECK (delivery_id <> ''),
        CONSTRAINT ck_webhook_deliveries_body_sha256 CHECK (body_sha256 ~ '^[0-9a-f]{64}$'),
        CONSTRAINT fk_webhook_deliveries_webhook
            FOREIGN KEY(webhook) REFERENCES webhooks (name) ON DELETE CASCADE,
        CONSTRAINT ck_webhook_deliveries_state CHECK (state IN ('received', 'started', 'failed'))
    )
    """,
    "CREATE INDEX ix_webhook_deliveries_received_at ON webhook_deliveries (received_at)",
)


def upgrade() -> None:
    """Create them."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refused: dropping tables is not a way back."""
    raise Unsupported("catalogs only go forward", hint="restore a backup of the catalog")
