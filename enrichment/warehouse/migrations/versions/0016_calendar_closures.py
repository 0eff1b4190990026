"""Sessions that exchanges did not hold although their calendars have them."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

CLOSURES = """
CREATE TABLE calendar_closures (
    mic       text NOT NULL,
    day       date NOT NULL,
    reason    text NOT NULL,
    closed_by text NOT NULL,
    closed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (mic, day)
);
COMMENT ON TABLE calendar_closures IS
    'sessions that operators declared closed; no bars are expected in them';
COMMENT ON COLUMN calendar_closures.mic IS 'exchange (ISO 10383)';
"""

RESOLUTIONS = """
ALTER TABLE bar_gaps DROP CONSTRAINT bar_gaps_resolution_check;
ALTER TABLE bar_gaps ADD CONSTRAINT bar_gaps_resolution_check CHECK (resolution IN ({values}))
"""


def upgrade() -> None:
    op.execute(CLOSURES)
    op.execute(RESOLUTIONS.format(values="'filled', 'no_trades', 'closed'"))


def downgrade() -> None:
    op.execute(
        "UPDATE bar_gaps SET resolved_at = NULL, resolution = NULL WHERE resolution = 'closed'"
    )
    op.execute(RESOLUTIONS.format(values="'filled', 'no_trades'"))
    op.execute("DROP TABLE calendar_closures")
