"""Certificates of rules."""

from alembic import op

from entrepot.errors import Unsupported

revision = "control_0003"
down_revision = "control_0002"

_STATEMENTS = (
    """
    CREATE TABLE certificates (
        id uuid NOT NULL,
        rule varchar(64) NOT NULL,
        finished_at timestamptz NOT NULL,
        identical boolean NOT NULL,
        document text NOT NULL,
        CONSTRAINT pk_certificates PRIMARY KEY (id),
        CONSTRAINT ck_certificates_rule_not_empty CHECK (rule <> ''),
        CONSTRAINT ck_certificates_document_size CHECK (octet_length(document) <= 8388608)
    )
    """,
    "CREATE INDEX ix_certificates_rule ON certificates (rule, finished_at)",
)


def upgrade() -> None:
    """Create the table."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refused: dropping tables is not a way back."""
    raise Unsupported("catalogs only go forward", hint="restore a backup of the catalog")
