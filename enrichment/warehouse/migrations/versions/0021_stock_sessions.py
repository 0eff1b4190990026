"""Extended hours of stocks and ETFs: which symbols have them, and which series hold them."""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

SESSIONS = """
ALTER TABLE tracked_symbols ADD COLUMN session text CHECK (session IN ('regular', 'extended'));
COMMENT ON COLUMN tracked_symbols.session IS
    'hours of its intraday bars; NULL: those of STOCK_SESSION';
ALTER TABLE enrichment_status ADD COLUMN session text NOT NULL DEFAULT 'regular'
    CHECK (session IN ('regular', 'extended'));
COMMENT ON COLUMN enrichment_status.session IS
    'hours of the stored bars; where the symbol has others, the next run fetches the series anew'
"""


def upgrade() -> None:
    op.execute(SESSIONS)


def downgrade() -> None:
    op.execute("ALTER TABLE enrichment_status DROP COLUMN session")
    op.execute("ALTER TABLE tracked_symbols DROP COLUMN session")
