"""Successful fetches by asset class, source and hour, to show how often a fallback was used."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ANSWERS = """
CREATE TABLE enrichment_fetch_answers (
    hour        timestamptz NOT NULL,
    asset_class text NOT NULL,
    source      text NOT NULL,
    answered    integer NOT NULL,
    PRIMARY KEY (hour, asset_class, source)
);
COMMENT ON TABLE enrichment_fetch_answers IS
    'successful fetches by who answered them; the order of providers says which were fallbacks';

INSERT INTO enrichment_fetch_answers
SELECT date_trunc('hour', l.at), t.asset_class, l.source, count(*)
FROM enrichment_fetch_log l JOIN tracked_symbols t USING (symbol)
WHERE l.success AND l.source IS NOT NULL GROUP BY 1, 2, 3;
"""


def upgrade() -> None:
    op.execute(ANSWERS)


def downgrade() -> None:
    op.execute("DROP TABLE enrichment_fetch_answers")
