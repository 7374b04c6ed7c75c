"""The stream's windows: what it did and how far behind it was, for a day; and who waits for it."""

from alembic import op

from entrepot.errors import Unsupported

revision = "control_0004"
down_revision = "control_0003"

_STATEMENTS = (
    """
    CREATE TABLE stream_heirs (
        rule varchar(64) PRIMARY KEY,
        waiting_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE stream_windows (
        rule varchar(64) NOT NULL,
        at timestamptz DEFAULT clock_timestamp() NOT NULL,
        seconds double precision NOT NULL CHECK (seconds >= 0),
        shipped bigint NOT NULL,
        shipped_bytes bigint NOT NULL,
        errors bigint NOT NULL,
        depth bigint NOT NULL,
        dead bigint NOT NULL,
        lag_ms bigint NOT NULL,
        PRIMARY KEY (rule, at)
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
