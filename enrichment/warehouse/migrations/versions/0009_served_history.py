"""How far back a series was served, beside how far back it was asked for."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE enrichment_status
    ADD COLUMN wanted_from        timestamptz,
    ADD COLUMN history_limit      text CHECK (history_limit IN ('plan', 'vendor')),
    ADD COLUMN history_checked_at timestamptz;
COMMENT ON COLUMN enrichment_status.history_from IS 'earliest start that was served';
COMMENT ON COLUMN enrichment_status.wanted_from IS 'earliest start that was asked for';
COMMENT ON COLUMN enrichment_status.history_limit IS
    'why less was served than asked for; NULL: it is asked for again';
COMMENT ON COLUMN enrichment_status.history_checked_at IS
    'when vendors last said so; they are asked again after a month';
"""

# Until now the column held what was asked for. A series that begins later is asked for once more.
SERVED = """
UPDATE enrichment_status SET wanted_from = history_from, history_from = CASE
    WHEN first_ts > history_from + interval '7 days' THEN first_ts ELSE history_from END
"""

# Closed gaps are asked for once more, a month after they were closed.
CLOSED_GAPS = """
UPDATE bar_gaps SET next_try_at = resolved_at + interval '30 days' WHERE resolution = 'no_trades'
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    op.execute(SERVED)
    op.execute(CLOSED_GAPS)


def downgrade() -> None:
    op.execute("UPDATE enrichment_status SET history_from = wanted_from")
    op.execute(
        "ALTER TABLE enrichment_status DROP COLUMN wanted_from, DROP COLUMN history_limit,"
        " DROP COLUMN history_checked_at"
    )
