"""Bars that an analyst rejected."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

REJECTIONS = """
CREATE TABLE bar_rejections (
    symbol      text NOT NULL,
    timeframe   text NOT NULL,
    ts          timestamptz NOT NULL,
    rejected_by text NOT NULL,
    reason      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, timeframe, ts)
);
COMMENT ON TABLE bar_rejections IS
    'bars that an analyst knows to be wrong: kept out of the series, whatever vendors send';
"""


def upgrade() -> None:
    op.execute(REJECTIONS)


def downgrade() -> None:
    op.execute("DROP TABLE bar_rejections")
