"""What versions on endpoints that mint ids are copies of."""

from alembic import op

from entrepot.errors import Unsupported

revision = "control_0007"
down_revision = "control_0006"


def upgrade() -> None:
    """Create the table."""
    op.execute(
        """
        CREATE TABLE version_map (
            site varchar(64) NOT NULL,
            bucket varchar(63) NOT NULL,
            key text COLLATE "C" NOT NULL,
            version_id varchar(256) NOT NULL,
            mark varchar(512) NOT NULL,
            CONSTRAINT pk_version_map PRIMARY KEY (site, bucket, key, version_id),
            CONSTRAINT ck_version_map_key_size CHECK (octet_length(key) <= 1024)
        )
        """
    )


def downgrade() -> None:
    """Refused: dropping tables is not a way back."""
    raise Unsupported("catalogs only go forward", hint="restore a backup of the catalog")
