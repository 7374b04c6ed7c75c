"""Managed buckets: writes under way, versions, current objects, usage, audit and outbox.

These tables have no twin in ``tables.py``: they are split, and what touches them is SQL written by
hand in ``entrepot/catalog/objects``. ``versions`` and ``objects`` are split by bucket, so no index
grows with the whole site; ``audit`` by month, so old rows go by dropping a table.

``objects`` holds live keys only, and its one index covers what a listing shows: listing 1,000 keys
of 100 million reads index pages and nothing else. Keys sort by their bytes (collation "C").
"""

from alembic import op

from entrepot.errors import Unsupported

revision = "site_0002"
down_revision = "site_0001"

_PARTITIONS = 16

_BUCKETS = (
    "ALTER TABLE buckets ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE buckets ADD CONSTRAINT uq_buckets_id UNIQUE (id)",
    "ALTER TABLE buckets ADD COLUMN encrypted boolean DEFAULT false NOT NULL",
    "ALTER TABLE buckets ADD COLUMN compressed boolean DEFAULT false NOT NULL",
    "ALTER TABLE buckets ADD COLUMN locked boolean DEFAULT false NOT NULL",
)

_WRITES = (
    """
    CREATE TABLE site_clock (
        id smallint PRIMARY KEY CHECK (id = 1),
        floor_ms bigint NOT NULL
    )
    """,
    "INSERT INTO site_clock VALUES (1, 0)",
    # One stamp a millisecond and key, so that the store's order is ours.
    """
    CREATE TABLE intents (
        write_id uuid PRIMARY KEY,
        bucket_id bigint NOT NULL,
        key text COLLATE "C" NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 1024),
        kind varchar(16) NOT NULL,
        version_id varchar(1024) NOT NULL,
        stamp_ms bigint NOT NULL,
        site varchar(64) NOT NULL,
        writer varchar(64) NOT NULL,
        parent varchar(256),
        details jsonb NOT NULL CHECK (octet_length(details::text) <= 262144),
        expires_at timestamptz NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX uq_intents_key_stamp_ms ON intents (bucket_id, key, stamp_ms)",
    "CREATE INDEX ix_intents_expires_at ON intents (expires_at)",
    """
    CREATE TABLE uploads (
        upload_id uuid PRIMARY KEY,
        bucket_id bigint NOT NULL,
        key text COLLATE "C" NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 1024),
        started_at timestamptz DEFAULT now() NOT NULL,
        store_upload_id varchar(1024) NOT NULL,
        details jsonb NOT NULL CHECK (octet_length(details::text) <= 65536)
    )
    """,
    "CREATE INDEX ix_uploads_key ON uploads (bucket_id, key, upload_id)",
    """
    CREATE TABLE upload_parts (
        upload_id uuid NOT NULL REFERENCES uploads ON DELETE CASCADE,
        number integer NOT NULL CHECK (number BETWEEN 1 AND 10000),
        uploaded_at timestamptz DEFAULT now() NOT NULL,
        size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
        etag varchar(256) NOT NULL,
        details jsonb NOT NULL CHECK (octet_length(details::text) <= 4096),
        PRIMARY KEY (upload_id, number)
    )
    """,
)

_VERSIONS = (
    """
    CREATE TABLE versions (
        bucket_id bigint NOT NULL,
        key text COLLATE "C" NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 1024),
        version_id varchar(1024) NOT NULL,
        stamp_ms bigint NOT NULL,
        site varchar(64) COLLATE "C" NOT NULL,
        writer varchar(64) COLLATE "C" NOT NULL,
        parent varchar(256),
        write_id uuid NOT NULL,
        is_delete_marker boolean NOT NULL,
        is_quarantined boolean NOT NULL,
        size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
        stored_bytes bigint NOT NULL CHECK (stored_bytes >= 0),
        etag varchar(256) NOT NULL,
        seal varchar(256) NOT NULL,
        attributes jsonb NOT NULL CHECK (octet_length(attributes::text) <= 262144),
        PRIMARY KEY (bucket_id, key, version_id)
    ) PARTITION BY HASH (bucket_id)
    """,
    """
    CREATE UNIQUE INDEX uq_versions_key_stamp ON versions
        (bucket_id, key, stamp_ms DESC, site DESC, writer DESC)
    """,
    """
    CREATE TABLE objects (
        bucket_id bigint NOT NULL,
        key text COLLATE "C" NOT NULL,
        version_id varchar(1024) NOT NULL,
        stamp_ms bigint NOT NULL,
        size_bytes bigint NOT NULL,
        etag varchar(256) NOT NULL,
        PRIMARY KEY (bucket_id, key) INCLUDE (version_id, stamp_ms, size_bytes, etag)
    ) PARTITION BY HASH (bucket_id)
    """,
    *(
        f"CREATE TABLE {table}_{number:02} PARTITION OF {table}"
        f" FOR VALUES WITH (MODULUS {_PARTITIONS}, REMAINDER {number})"
        for table in ("versions", "objects")
        for number in range(_PARTITIONS)
    ),
    # What the store must still be told of a version whose row has changed or gone.
    """
    CREATE TABLE effects (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        bucket_id bigint NOT NULL,
        key text COLLATE "C" NOT NULL,
        version_id varchar(1024) NOT NULL,
        kind varchar(16) NOT NULL,
        details jsonb NOT NULL CHECK (octet_length(details::text) <= 65536),
        since timestamptz DEFAULT now() NOT NULL
    )
    """,
    "CREATE INDEX ix_effects_version ON effects (bucket_id, key, version_id)",
)

_RECORDS = (
    """
    CREATE TABLE usage_counters (
        bucket_id bigint NOT NULL,
        slot smallint NOT NULL,
        objects bigint NOT NULL,
        versions bigint NOT NULL,
        delete_markers bigint NOT NULL,
        current_bytes bigint NOT NULL,
        total_bytes bigint NOT NULL,
        stored_bytes bigint NOT NULL,
        PRIMARY KEY (bucket_id, slot)
    )
    """,
    """
    CREATE TABLE outbox_consumers (
        name varchar(64) NOT NULL,
        bucket_id bigint NOT NULL,
        PRIMARY KEY (bucket_id, name)
    )
    """,
    """
    CREATE TABLE outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        consumer varchar(64) NOT NULL,
        bucket_id bigint NOT NULL,
        key text COLLATE "C" NOT NULL,
        version_id varchar(1024) NOT NULL,
        kind varchar(16) NOT NULL,
        stamp varchar(256) NOT NULL,
        since timestamptz DEFAULT now() NOT NULL
    )
    """,
    "CREATE INDEX ix_outbox_consumer ON outbox (consumer, id)",
    """
    CREATE TABLE audit_chains (
        chain uuid PRIMARY KEY,
        writer varchar(64) NOT NULL,
        key_number integer NOT NULL,
        started_at timestamptz DEFAULT now() NOT NULL,
        length bigint NOT NULL,
        head bytea NOT NULL
    )
    """,
    """
    CREATE TABLE audit (
        at timestamptz NOT NULL,
        chain uuid NOT NULL,
        number bigint NOT NULL,
        record jsonb NOT NULL CHECK (octet_length(record::text) <= 16384),
        mac bytea NOT NULL CHECK (octet_length(mac) = 32),
        PRIMARY KEY (chain, number, at)
    ) PARTITION BY RANGE (at)
    """,
    "CREATE TABLE audit_rest PARTITION OF audit DEFAULT",
    """
    CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'audit rows are only added' USING ERRCODE = 'insufficient_privilege';
    END $$
    """,
    """
    CREATE TRIGGER audit_rows BEFORE UPDATE OR DELETE ON audit
        FOR EACH ROW EXECUTE FUNCTION audit_is_append_only()
    """,
    """
    CREATE TRIGGER audit_table BEFORE TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()
    """,
)


def upgrade() -> None:
    """Create them."""
    for statement in (*_BUCKETS, *_WRITES, *_VERSIONS, *_RECORDS):
        op.execute(statement)


def downgrade() -> None:
    """Refused: dropping tables is not a way back."""
    raise Unsupported("catalogs only go forward", hint="restore a backup of the catalog")
