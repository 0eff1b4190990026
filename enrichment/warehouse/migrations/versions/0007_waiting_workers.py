"""The state `waiting` of workers, with what they wait for."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE workers ADD COLUMN note text, DROP CONSTRAINT workers_state_check,"
        " ADD CONSTRAINT workers_state_check"
        " CHECK (state IN ('running', 'waiting', 'draining', 'stopped'))"
    )


def downgrade() -> None:
    op.execute("UPDATE workers SET state = 'running' WHERE state = 'waiting'")
    op.execute(
        "ALTER TABLE workers DROP COLUMN note, DROP CONSTRAINT workers_state_check,"
        " ADD CONSTRAINT workers_state_check CHECK (state IN ('running', 'draining', 'stopped'))"
    )
