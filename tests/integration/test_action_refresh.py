"""Corporate actions from the sandbox in Polygon's place: the market, new symbols, late splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import text

from enrichment.domain.corporate_actions import ActionKind, CorporateAction
from enrichment.domain.errors import ProviderUnavailable
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.sandbox import create_app, running
from enrichment.services.action_refresh import ActionRefresh
from enrichment.services.commands import Commands
from enrichment.vendors.http import HttpClient
from enrichment.vendors.polygon_actions import PolygonActions
from enrichment.warehouse.database import Database
from tests.helpers.fake_transport import direct

NOW = datetime(2024, 12, 26, 12, tzinfo=UTC)


class Announced:
    """A source whose actions the test sets."""

    source = "polygon"

    def __init__(self, *actions: CorporateAction) -> None:
        self.actions = list(actions)
        self.asked: list[tuple[date, list[str] | None]] = []
        self.error: Exception | None = None

    def fetch_actions(
        self, since: date, symbols: Sequence[str] | None = None
    ) -> list[CorporateAction]:
        self.asked.append((since, None if symbols is None else list(symbols)))
        if self.error is not None:
            raise self.error
        named = [a for a in self.actions if symbols is None or a.symbol in symbols]
        return [action for action in named if action.effective_date >= since]


def split(symbol: str, day: date, ratio: float = 2.0) -> CorporateAction:
    return CorporateAction(symbol, ActionKind.SPLIT, day, "polygon", ratio, vendor_id=f"{day}")


@pytest.fixture
def clock() -> list[datetime]:
    return [NOW]


@pytest.fixture
def commands(db: Database) -> Commands:
    commands = Commands(db)
    commands.track([parse_tracked("AAPL", "stock", "1d")], actor="test")
    return commands


def refresh(db: Database, source: Announced, clock: list[datetime]) -> ActionRefresh:
    return ActionRefresh(db, [source], history_days=365, now=lambda: clock[0])


def rows(db: Database, query: str) -> list[tuple[object, ...]]:
    with db.begin() as conn:
        return [tuple(row) for row in conn.execute(text(query))]


def store_series(db: Database, first: str, last: str) -> None:
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)"
                " SELECT 'AAPL', '1d', ts, 10, 10, 10, 10, 1 FROM generate_series("
                "CAST(:first AS timestamptz), CAST(:last AS timestamptz), '1 day') AS ts"
            ),
            {"first": first, "last": last},
        )
        conn.execute(
            text(
                "INSERT INTO enrichment_status (symbol, timeframe, status, bars, first_ts, last_ts,"
                " last_success_at) VALUES ('AAPL', '1d', 'healthy', 5, :first, :last, :last)"
            ),
            {"first": first, "last": last},
        )


@pytest.fixture(scope="module")
def sandbox() -> Iterator[HttpClient]:
    headers = {"Authorization": "Bearer key"}
    with (
        running(create_app(clock=lambda: NOW)) as url,
        HttpClient(url, call=direct, headers=headers) as client,
    ):
        yield client


def test_the_market_and_a_symbols_past_come_from_the_vendor(
    db: Database, commands: Commands, sandbox: HttpClient, clock: list[datetime]
) -> None:
    source = PolygonActions(sandbox, "sandbox")
    action_refresh = ActionRefresh(db, [source], history_days=6000, now=lambda: clock[0])
    (result,) = action_refresh.refresh_all()
    assert (result.source, result.error) == ("sandbox", None)
    splits = rows(
        db, "SELECT ratio, applies FROM corporate_actions WHERE symbol = 'AAPL' AND kind = 'split'"
    )
    assert splits == [(2.0, True), (2.0, True)]
    dividends = rows(
        db,
        "SELECT count(*), min(amount) > 0, bool_and(currency = 'USD') FROM corporate_actions"
        " WHERE symbol = 'AAPL' AND kind = 'cash_dividend' AND applies",
    )
    assert dividends == [(3, True, True)]
    (again,) = action_refresh.refresh_all()
    assert (again.changed, again.withdrawn) == (0, 0)


def test_it_is_due_before_each_night_once_for_all_workers(
    db: Database, clock: list[datetime]
) -> None:
    source = Announced(split("NVDA", date(2024, 12, 30), 10.0))
    workers = [refresh(db, source, clock) for _ in range(3)]

    def results() -> int:
        return sum(worker.refresh_if_due(source) is not None for worker in workers)

    assert results() == 1
    clock[0] = NOW + timedelta(hours=2)
    assert results() == 0
    clock[0] = datetime(2024, 12, 27, 1, 14, tzinfo=UTC)
    assert results() == 0
    clock[0] = datetime(2024, 12, 27, 1, 15, tzinfo=UTC)
    assert results() == 1
    assert [since for since, _ in source.asked] == [date(2024, 11, 26), date(2024, 11, 26)]


def test_a_failure_is_noted_and_tried_again_later(db: Database, clock: list[datetime]) -> None:
    source = Announced(split("NVDA", date(2024, 12, 30)))
    source.error = ProviderUnavailable("the vendor does not answer")
    worker = refresh(db, source, clock)
    result = worker.refresh_if_due(source)
    assert result is not None
    assert result.error == "the vendor does not answer"
    assert worker.refresh_if_due(source) is None
    source.error = None
    clock[0] += timedelta(minutes=15)
    result = worker.refresh_if_due(source)
    assert result is not None
    assert (result.error, result.changed) == (None, 1)


def test_a_new_symbols_past_is_asked_for_at_once(
    db: Database, commands: Commands, clock: list[datetime]
) -> None:
    source = Announced(split("AAPL", date(2024, 2, 1)), split("MSFT", date(2024, 2, 1)))
    worker = refresh(db, source, clock)
    assert worker.refresh_if_due(source) is not None
    assert source.asked[1:] == [(date(2023, 12, 27), ["AAPL"])]
    clock[0] += timedelta(minutes=2)
    assert worker.refresh_if_due(source) is None
    commands.track([parse_tracked("MSFT", "stock", "1d")], actor="test")
    assert worker.refresh_if_due(source) is not None
    assert source.asked[2:] == [(date(2023, 12, 27), ["MSFT"])]  # not the market again
    known = rows(db, "SELECT symbol FROM corporate_actions ORDER BY symbol")
    assert known == [("AAPL",), ("MSFT",)]


def test_a_split_known_late_clears_its_flags_and_enriches_the_symbol_again(
    db: Database, commands: Commands, clock: list[datetime]
) -> None:
    store_series(db, "2024-12-16T00:00Z", "2024-12-24T00:00Z")
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bar_flags (symbol, timeframe, ts, check_name, severity, detail) VALUES"
                " ('AAPL', '1d', '2024-12-20T00:00Z', 'split', 'warning', ''),"
                " ('AAPL', '1d', '2024-12-19T00:00Z', 'outlier', 'warning', ''),"
                " ('AAPL', '1d', '2024-12-20T00:00Z', 'volume_spike', 'info', '')"
            )
        )
    source = Announced(split("AAPL", date(2024, 12, 20)), split("AAPL", date(2024, 12, 30)))
    (result,) = refresh(db, source, clock).refresh_all()
    assert result.enriched_again == ("AAPL",)
    assert rows(db, "SELECT kind, requested_by, total FROM enrichment_jobs") == [
        ("manual", "corporate-actions", 1)
    ]
    assert rows(db, "SELECT check_name FROM bar_flags ORDER BY 1") == [
        ("outlier",),
        ("volume_spike",),
    ]
    (result,) = refresh(db, source, clock).refresh_all()
    assert result.enriched_again == ()


def test_an_announced_split_that_is_withdrawn_or_moved(db: Database, clock: list[datetime]) -> None:
    source = Announced(split("NVDA", date(2024, 12, 30)), split("IBM", date(2024, 12, 30)))
    worker = refresh(db, source, clock)
    worker.refresh_all()
    source.actions = [split("IBM", date(2025, 1, 6))]
    (result,) = worker.refresh_all()
    assert result.withdrawn == 2
    listed = rows(
        db,
        "SELECT symbol, effective_date::text, withdrawn_at IS NULL FROM corporate_actions"
        " ORDER BY symbol, effective_date",
    )
    assert listed == [
        ("IBM", "2024-12-30", False),
        ("IBM", "2025-01-06", True),
        ("NVDA", "2024-12-30", False),
    ]


def test_an_answer_that_lacks_most_actions_withdraws_none(
    db: Database, clock: list[datetime]
) -> None:
    source = Announced(*(split(f"S{n}", date(2024, 12, 30)) for n in range(50)))
    worker = refresh(db, source, clock)
    worker.refresh_all()
    source.actions = source.actions[:5]
    (result,) = worker.refresh_all()
    assert result.withdrawn == 0
