"""The stream: who follows a bucket, what was removed for good, what could not be shipped.

A replica's intent has a stamp that another site gave, so it stands outside of the index that keeps
this site's own stamps a millisecond apart.
"""

from alembic import op

from entrepot.errors import Unsupported

revision = "site_0003"
down_revision = "site_0002"

_INTENTS = (
    "DROP INDEX uq_intents_key_stamp_ms",
    """
    CREATE UNIQUE INDEX uq_intents_key_stamp_ms ON intents (bucket_id, key, stamp_ms)
        WHERE kind <> 'replica'
    """,
)

_OUTBOX = (
    # A consumer is named after a rule and a site, each of 63 signs at most.
    "ALTER TABLE outbox ALTER COLUMN consumer TYPE varchar(160)",
    "ALTER TABLE outbox_consumers ALTER COLUMN name TYPE varchar(160)",
    """
    ALTER TABLE outbox_consumers
        ADD COLUMN prefix text COLLATE "C" DEFAULT '' NOT NULL
            CHECK (octet_length(prefix) <= 1024),
        ADD COLUMN replicas boolean DEFAULT true NOT NULL
    """,
    """
    CREATE FUNCTION outbox_has_more() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM added) THEN
            PERFORM pg_notify('outbox', '');
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER outbox_has_more AFTER INSERT ON outbox REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION outbox_has_more()
    """,
    """
    CREATE TABLE outbox_progress (
        consumer varchar(160) PRIMARY KEY,
        shipped bigint DEFAULT 0 NOT NULL,
        shipped_bytes bigint DEFAULT 0 NOT NULL,
        errors bigint DEFAULT 0 NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL
    )
    """,
    """
    CREATE TABLE dead_letters (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        consumer varchar(160) NOT NULL,
        bucket_id bigint NOT NULL,
        key text COLLATE "C" NOT NULL,
        version_id varchar(1024) NOT NULL,
        kind varchar(16) NOT NULL,
        stamp varchar(256) NOT NULL,
        since timestamptz NOT NULL,
        tries bigint NOT NULL,
        reason text NOT NULL CHECK (octet_length(reason) <= 4096),
        failed_at timestamptz DEFAULT clock_timestamp() NOT NULL
    )
    """,
    "CREATE INDEX ix_dead_letters_consumer ON dead_letters (consumer, id)",
)

_PURGES = (
    """
    CREATE TABLE purges (
        bucket_id bigint NOT NULL,
        key text COLLATE "C" NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 1024),
        version_id varchar(1024) NOT NULL,
        at timestamptz DEFAULT now() NOT NULL,
        PRIMARY KEY (bucket_id, key, version_id)
    )
    """,
    "CREATE INDEX ix_purges_at ON purges (at)",
)


def upgrade() -> None:
    """Create them."""
    for statement in (*_INTENTS, *_OUTBOX, *_PURGES):
        op.execute(statement)


def downgrade() -> None:
    """Refused: dropping tables is not a way back."""
    raise Unsupported("catalogs only go forward", hint="restore a backup of the catalog")
