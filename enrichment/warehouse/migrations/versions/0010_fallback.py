"""Which series were last served by a fallback."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE enrichment_status ADD COLUMN fallback boolean NOT NULL DEFAULT false")
    op.execute(
        "COMMENT ON COLUMN enrichment_status.fallback IS"
        " 'whether a preferred vendor could not be asked in the last run'"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE enrichment_status DROP COLUMN fallback")
