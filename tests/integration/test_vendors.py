"""The vendors' hours: the rollups against the log that they sum up, and their protection by
provider.
"""

from __future__ import annotations

import pytest
from sqlalchemy import text

from enrichment.dashboard.data.providers import provider_states
from enrichment.domain.errors import QuotaExceeded, Snooze
from enrichment.vendors.guard import VendorGuard
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.resilience_state import ResilienceStore
from enrichment.warehouse.series import rollups
from resilience import init_resilience_manager
from tests.helpers.api_client import track_symbols
from tests.helpers.seeded_warehouse import log_fetches

YESTERDAY = """
UPDATE enrichment_fetch_hourly SET hour = date_trunc('day', now()) - interval '1 day'
    + total * interval '1 hour' WHERE source = 'polygon'
"""


def test_the_rollups_say_what_the_log_says(db: Database) -> None:
    track_symbols(db)
    log_fetches(db, "polygon", 5, 20, 300, 20_000, hours_ago=2)
    log_fetches(db, "yahoo", 40, hours_ago=2)
    log_fetches(db, "polygon", 30, hours_ago=1)
    log_fetches(db, None, 40, hours_ago=1)
    with db.begin() as conn:
        rollups.roll_up(conn)
    reader = ReadModels(db).vendors
    hours = {(f.source, f.total): list(f.buckets) for f in reader.fetches(24)}
    assert hours == {
        ("none", 1): [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        ("polygon", 4): [1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1],
        ("polygon", 1): [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        ("yahoo", 1): [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    }
    answered = [(a.asset_class, a.source, a.answered) for a in reader.answers(24)]
    assert answered == [("stock", "polygon", 4), ("stock", "polygon", 1), ("stock", "yahoo", 1)]
    with db.begin() as conn:
        conn.execute(text(YESTERDAY))
        conn.execute(text("DELETE FROM enrichment_fetch_log"))
    (day,) = (f for f in reader.fetches(240) if f.source == "polygon")
    assert (day.total, list(day.buckets)) == (5, [1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1])


@pytest.mark.parametrize("rolled_up", [False, True])
def test_fetches_that_are_not_rolled_up_yet_are_counted(db: Database, rolled_up: bool) -> None:
    track_symbols(db)
    log_fetches(db, "polygon", 5, 20, hours_ago=2)
    log_fetches(db, "polygon", 30, hours_ago=0)
    if rolled_up:
        with db.begin() as conn:
            rollups.roll_up(conn)
    log_fetches(db, "polygon", 40, 300, hours_ago=0)
    log_fetches(db, None, 40, hours_ago=0)
    reader = ReadModels(db).vendors
    assert [(f.source, f.total, f.successful, list(f.buckets)) for f in reader.fetches(24)] == [
        ("none", 1, 0, [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("polygon", 2, 2, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("polygon", 3, 3, [0, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0]),
    ]
    assert [a.answered for a in reader.answers(24)] == [2, 3]


def test_answers_of_429_are_counted_also_without_a_retry_after(db: Database) -> None:
    manager = init_resilience_manager(publisher=ResilienceStore(db, "w1"))
    guard = VendorGuard(manager, "polygon", per_minute=600)

    def refuse() -> None:
        raise QuotaExceeded("answered 429")

    for _ in range(3):
        guard(lambda: None)
    with pytest.raises(Snooze):
        guard(refuse)
    manager.close()
    (provider,) = provider_states(ReadModels(db).resilience())
    assert (provider.requests, provider.refusals, provider.refused_percent) == (4, 1, 25.0)
    assert (provider.name, provider.breaker) == ("polygon", "closed")
    assert (provider.quota_left, provider.quota) == (596, 600)
    assert (provider.active, provider.concurrency) == (0, 10)
