"""Where a soaked database's bytes are: every table grows with something that is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text

from enrichment.warehouse.database import Database
from tests.benchmarks.report import Figure


@dataclass(frozen=True)
class Growing:
    """A table with rows of every night. most: rows a slot and symbol, where that is certain."""

    why: str
    most: float | None = None


@dataclass(frozen=True)
class Size:
    rows: int
    bytes: int


Sizes = Mapping[str, Size]

GROWING: Mapping[str, Growing] = {
    "enrichment_job_items": Growing("one a symbol and night", 1.0),
    "enrichment_fetch_log": Growing("one a series and attempt", 4.0),
    "enrichment_compute_log": Growing("one a series that was computed", 4.0),
    "data_corrections": Growing("one a bar or history that a vendor restated, there and back"),
    "bar_versions": Growing("every bar that was replaced by it"),
    "bar_quarantine": Growing("every bar kept out, as corrupt ones are"),
    "resilience_transitions": Growing("every change of a breaker"),
}
A_SLOT = {"enrichment_jobs": "one a night", "enrichment_job_endings": "one a night"}

# Their rows are overwritten, however many nights there were; but for what time brings (an hour, a
# day, a new bar) and what is killed (a worker and its breakers).
STANDING = (
    *("alembic_version", "tracked_symbols", "pauses", "operator_actions", "workers"),
    *("bars", "bar_flags", "bar_gaps", "bar_confirmations", "enrichment_status"),
    *("data_quality_metrics", "resilience_state", "resilience_limits", "resilience_overrides"),
    *("enrichment_fetch_hourly", "enrichment_compute_hourly", "enrichment_fetch_answers"),
    *("enrichment_fetch_settled", "enrichment_compute_settled"),
    *("alert_states", "alert_evaluation", "alert_events", "alert_deliveries", "alert_silences"),
)
STANDING_MAY_GROW_MB = 4.0


def measured(db: Database) -> Sizes:
    """Rows and bytes, with indexes, of every table; partitions together."""
    with db.begin() as conn:
        names = conn.execute(text(_TABLES)).scalars().all()
        return {
            name: Size(
                conn.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one(),
                int(conn.execute(text(_BYTES), {"name": name}).scalar_one()),
            )
            for name in names
        }


def figures(sizes: Sequence[Sizes], slots: int, symbols: int) -> Iterator[Figure]:
    """sizes: in the middle and at the end, `slots` slots apart."""
    middle, end = sizes[0], sizes[-1]
    explained = {*GROWING, *A_SLOT, *STANDING}
    yield Figure("tables that nobody explains", len(end.keys() - explained), "", "≤", 0)
    for name, why in A_SLOT.items():
        yield from _growing(name, Growing(why, 1 / symbols), middle, end, slots, symbols)
    for name, growing in GROWING.items():
        yield from _growing(name, growing, middle, end, slots, symbols)
    for name in sorted(end.keys() & {*STANDING}, key=lambda name: -end[name].bytes)[:3]:
        yield Figure(f"{name} (overwritten)", end[name].bytes / 1e6, "MB")
    grown = sum(end[name].bytes - middle[name].bytes for name in end.keys() & {*STANDING}) / 1e6
    words = "all tables that are overwritten, growth over the second half"
    yield Figure(words, grown, "MB", "≤", STANDING_MAY_GROW_MB)


def _growing(
    name: str, growing: Growing, middle: Sizes, end: Sizes, slots: int, symbols: int
) -> Iterator[Figure]:
    yield Figure(f"{name} ({growing.why})", end[name].bytes / 1e6, "MB")
    if slots:
        rows = (end[name].rows - middle[name].rows) / slots
        limit = () if growing.most is None else ("≤", growing.most * symbols)
        yield Figure(f"{name}, rows a slot", rows, "", *limit)


_TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
"""

_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(relid)), pg_total_relation_size(to_regclass(:name)))
FROM pg_partition_tree(to_regclass(:name))
"""
