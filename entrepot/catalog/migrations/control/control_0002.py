"""Rules that say more, the budgets that their workers share, and the tokens of the API."""

from alembic import op

from entrepot.errors import Unsupported

revision = "control_0002"
down_revision = "control_0001"

_STATEMENTS = (
    """
    ALTER TABLE rules
        ADD COLUMN mode varchar(64) DEFAULT 'active-active' NOT NULL,
        ADD COLUMN paused boolean DEFAULT false NOT NULL,
        ADD COLUMN paused_until timestamptz,
        ADD COLUMN terms jsonb DEFAULT '{}' NOT NULL,
        ADD CONSTRAINT ck_rules_paused_until CHECK (paused_until IS NULL OR paused),
        ADD CONSTRAINT ck_rules_terms_size CHECK (octet_length((terms)::text) <= 262144)
    """,
    """
    CREATE TABLE rule_budgets (
        rule varchar(64) NOT NULL,
        bytes_until timestamptz NOT NULL,
        requests_until timestamptz NOT NULL,
        CONSTRAINT pk_rule_budgets PRIMARY KEY (rule),
        CONSTRAINT fk_rule_budgets_rule
            FOREIGN KEY(rule) REFERENCES rules (name) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE api_tokens (
        id varchar(64) NOT NULL,
        name varchar(64) NOT NULL,
        scopes text[] NOT NULL,
        token_sha256 varchar(64) NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        expires_at timestamptz NOT NULL,
        revoked_at timestamptz,
        CONSTRAINT pk_api_tokens PRIMARY KEY (id),
        CONSTRAINT uq_api_tokens_name UNIQUE (name),
        CONSTRAINT ck_api_tokens_name_not_empty CHECK (name <> ''),
        CONSTRAINT ck_api_tokens_scopes_count CHECK (cardinality(scopes) BETWEEN 1 AND 20),
        CONSTRAINT ck_api_tokens_scopes_size
            CHECK (octet_length(array_to_string(scopes, '')) <= 1280),
        CONSTRAINT ck_api_tokens_token_sha256 CHECK (token_sha256 ~ '^[0-9a-f]{64}$')
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
