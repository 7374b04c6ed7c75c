"""The tags that the sites of a rule agreed on."""

from alembic import op

from entrepot.errors import Unsupported

revision = "control_0006"
down_revision = "control_0005"


def upgrade() -> None:
    """Create the table."""
    op.execute(
        """
        CREATE TABLE agreed_tags (
            rule varchar(64) NOT NULL,
            bucket varchar(63) NOT NULL,
            key text COLLATE "C" NOT NULL,
            version_id varchar(256) NOT NULL,
            tags jsonb NOT NULL,
            CONSTRAINT pk_agreed_tags PRIMARY KEY (rule, bucket, key, version_id),
            CONSTRAINT ck_agreed_tags_key_size CHECK (octet_length(key) <= 1024),
            CONSTRAINT ck_agreed_tags_tags_size CHECK (octet_length((tags)::text) <= 65536)
        )
        """
    )


def downgrade() -> None:
    """Refused: dropping tables is not a way back."""
    raise Unsupported("catalogs only go forward", hint="restore a backup of the catalog")
