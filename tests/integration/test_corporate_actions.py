"""The ledger of corporate actions and the factors that follow from it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import text

from enrichment.domain.corporate_actions import ActionKind, CorporateAction
from enrichment.warehouse import corporate_actions
from enrichment.warehouse.database import Database

NOW = datetime(2024, 7, 1, tzinfo=UTC)
SPLIT_DAY, EX_DAY = date(2024, 6, 10), date(2024, 6, 11)


def split(ratio: float | None, source: str = "polygon", day: date = SPLIT_DAY) -> CorporateAction:
    return CorporateAction("NVDA", ActionKind.SPLIT, day, source, ratio)


def dividend(
    amount: float | None,
    source: str = "polygon",
    day: date = EX_DAY,
    kind: ActionKind = ActionKind.CASH_DIVIDEND,
    **details: Any,
) -> CorporateAction:
    return CorporateAction("NVDA", kind, day, source, amount=amount, **details)


def store_closes(
    db: Database,
    closes: dict[str, float],
    adjusted_until: str | None = None,
    *,
    timeframe: str = "1d",
    symbol: str = "NVDA",
) -> None:
    """Bars with these closes, by their start in UTC or their date."""
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)"
                " VALUES (:symbol, :timeframe, :ts, :close, :close, :close, :close, 1)"
            ),
            [
                {"ts": f"{start}Z", "close": close, "symbol": symbol, "timeframe": timeframe}
                for start, close in closes.items()
            ],
        )
        conn.execute(
            text(
                "INSERT INTO enrichment_status (symbol, timeframe, status, adjusted_until)"
                " VALUES (:symbol, :timeframe, 'healthy', :until)"
            ),
            {"until": adjusted_until, "symbol": symbol, "timeframe": timeframe},
        )


def record(db: Database, *actions: CorporateAction) -> set[corporate_actions.Key]:
    with db.begin() as conn:
        return corporate_actions.record(conn, actions)


def factors(db: Database, symbol: str = "NVDA") -> list[tuple[str, str, float, float]]:
    with db.begin() as conn:
        rows = conn.execute(
            text(
                "SELECT valid_from::text AS since, valid_to::text AS until, split_factor,"
                " total_factor FROM adjustment_factors WHERE symbol = :symbol ORDER BY valid_from"
            ),
            {"symbol": symbol},
        )
        return [tuple(row) for row in rows]


def ledger(db: Database) -> list[Any]:
    with db.begin() as conn:
        return list(
            conn.execute(text("SELECT * FROM corporate_actions ORDER BY effective_date, kind"))
        )


def test_a_split_halves_the_prices_of_before(db: Database) -> None:
    record(db, split(10.0))
    assert factors(db) == [
        ("-infinity", "2024-06-10", 0.1, 0.1),
        ("2024-06-10", "infinity", 1.0, 1.0),
    ]


def test_a_dividend_takes_its_share_of_the_close_before_off_the_total_factor(db: Database) -> None:
    store_closes(db, {"2024-06-07": 1208.88, "2024-06-10": 121.79})
    record(db, split(10.0), dividend(0.01))
    kept = 1 - 0.01 / 121.79
    assert factors(db) == [
        ("-infinity", "2024-06-10", 0.1, pytest.approx(kept / 10, rel=1e-15)),
        ("2024-06-10", "2024-06-11", 1.0, pytest.approx(kept, rel=1e-15)),
        ("2024-06-11", "infinity", 1.0, 1.0),
    ]


def test_a_dividend_on_a_splits_day_is_one_for_new_shares(db: Database) -> None:
    store_closes(db, {"2024-06-07": 1208.88})
    record(db, split(10.0), dividend(0.01, day=SPLIT_DAY))
    assert factors(db)[0][3] == pytest.approx((1 - 0.01 / 120.888) / 10, rel=1e-15)


def test_closes_adjusted_in_advance_are_put_back_before_a_dividend_is_compared(
    db: Database,
) -> None:
    store_closes(db, {"2024-06-07": 120.888}, adjusted_until="2024-07-01T00:00Z")
    record(db, split(10.0), dividend(0.1, day=date(2024, 6, 8)))
    assert factors(db)[0][3] == pytest.approx((1 - 0.1 / 1208.88) / 10, rel=1e-12)


def test_a_dividend_of_a_symbol_without_days_is_compared_with_its_last_close(db: Database) -> None:
    hours = {"2024-06-10 18:00": 122.0, "2024-06-10 19:00": 121.79, "2024-06-11 13:00": 120.0}
    store_closes(db, hours, timeframe="1h")
    store_closes(db, {"2024-06-10 16:00": 1.0}, timeframe="4h")
    store_closes(db, {"2024-06-03": 1208.88, "2024-06-10": 130.0}, timeframe="1w")
    record(db, split(10.0), dividend(0.01))
    assert factors(db)[1][3] == pytest.approx(1 - 0.01 / 121.79, rel=1e-15)
    with db.begin() as conn:
        conn.execute(text("DELETE FROM bars WHERE timeframe <> '1w'"))
    assert factors(db)[1][3] == pytest.approx(1 - 0.01 / 120.888, rel=1e-15)


def test_a_session_in_sydney_begins_on_the_day_before_in_utc(db: Database) -> None:
    hours = {"2024-02-12 04:00": 60.0, "2024-02-12 23:00": 50.0}  # of 12 and 13 February
    store_closes(db, hours, timeframe="1h", symbol="BHP.AX")
    paid = CorporateAction(
        "BHP.AX", ActionKind.CASH_DIVIDEND, date(2024, 2, 13), "yahoo", amount=0.6
    )
    record(db, paid)
    assert factors(db, "BHP.AX")[0][3] == pytest.approx(0.99, rel=1e-15)


def test_two_splits_in_a_week_multiply(db: Database) -> None:
    record(db, split(2.0), split(0.1, day=date(2024, 6, 13)))
    assert [row[2] for row in factors(db)] == [pytest.approx(5.0), 10.0, 1.0]


def test_a_dividend_larger_than_the_price_is_left_out_of_the_factors(db: Database) -> None:
    store_closes(db, {"2024-06-10": 3.0})
    record(db, dividend(5.0, kind=ActionKind.SPECIAL_DIVIDEND))
    assert [row[3] for row in factors(db)] == [1.0, 1.0]


def test_an_announced_split_changes_nothing_before_its_day(db: Database) -> None:
    record(db, split(10.0, day=date(2999, 1, 1)))
    assert factors(db) == []


def test_a_split_that_its_only_source_drops_is_withdrawn_and_kept(db: Database) -> None:
    (key,) = record(db, split(10.0))
    with db.begin() as conn:
        assert corporate_actions.withdraw(conn, [key], "polygon", NOW) == {key}
    (row,) = ledger(db)
    assert (row.applies, row.withdrawn_at is not None) == (False, True)
    assert factors(db) == []
    assert record(db, split(10.0)) == {key}  # listed again
    assert ledger(db)[0].withdrawn_at is None
    assert len(factors(db)) == 2


def test_a_split_that_one_of_two_sources_drops_still_applies(db: Database) -> None:
    (key,) = record(db, split(10.0), split(10.0, "yahoo"))
    with db.begin() as conn:
        corporate_actions.withdraw(conn, [key], "polygon", NOW)
    (row,) = ledger(db)
    assert (row.applies, row.source, row.withdrawn_at) == (True, "yahoo", None)


def test_sources_that_disagree_are_one_row_and_the_leading_ones_account_applies(
    db: Database,
) -> None:
    record(db, split(20.0, "yahoo"))
    record(db, split(10.0, "polygon"))
    (row,) = ledger(db)
    assert (row.ratio, row.source) == (10.0, "polygon")
    assert row.disagreement == "polygon says 10, yahoo says 20"
    assert sorted(row.accounts) == ["polygon", "yahoo"]
    record(db, split(20.0, corporate_actions.MANUAL))
    assert factors(db)[0][2] == 1 / 20


def test_a_source_that_adds_special_and_regular_dividends_agrees_with_one_that_does_not(
    db: Database,
) -> None:
    store_closes(db, {"2024-06-10": 100.0})
    special = ActionKind.SPECIAL_DIVIDEND
    record(db, dividend(0.22), dividend(5.0, kind=special), dividend(5.22, "yahoo"))
    assert [(row.kind, row.amount, row.disagreement) for row in ledger(db)] == [
        ("cash_dividend", 0.22, None),
        ("special_dividend", 5.0, None),
    ]
    assert factors(db)[0][3] == pytest.approx(1 - 0.0522, rel=1e-15)


def test_one_dividend_of_two_kinds_is_paid_once(db: Database) -> None:
    store_closes(db, {"2024-06-10": 100.0})
    record(db, dividend(5.0, "yahoo"), dividend(5.0, kind=ActionKind.SPECIAL_DIVIDEND))
    assert factors(db)[0][3] == pytest.approx(0.95, rel=1e-15)


def test_two_dividends_of_one_kind_and_day_add_up_however_often_they_are_recorded(
    db: Database,
) -> None:
    two = (dividend(0.25, vendor_id="D1"), dividend(0.5, vendor_id="D2"))
    assert len(record(db, *two)) == 1
    assert record(db, *two) == set()
    assert ledger(db)[0].amount == 0.75


@pytest.mark.parametrize("ratio", [0.0, None, -2.0, float("nan"), float("inf"), 1e6])
def test_a_ratio_that_is_none_is_kept_with_the_reason_and_not_applied(
    db: Database, ratio: float | None
) -> None:
    record(db, split(ratio))
    (row,) = ledger(db)
    assert not row.applies
    assert row.problem.startswith("not applied: ")
    assert factors(db) == []


def test_a_dividend_in_another_currency_is_not_applied(db: Database) -> None:
    store_closes(db, {"2024-06-10": 100.0})
    record(db, dividend(5.0, currency="CAD"))
    (row,) = ledger(db)
    assert row.problem == "not applied: paid in CAD, and the prices are in USD"
    assert factors(db) == []


def test_dates_out_of_order_are_said_and_the_action_applies(db: Database) -> None:
    store_closes(db, {"2024-06-10": 100.0})
    record(db, dividend(5.0, declared_date=date(2024, 6, 20)))
    (row,) = ledger(db)
    assert row.applies
    assert row.problem == "declared on 2024-06-20, after it was effective on 2024-06-11"
    assert factors(db)[0][3] == 0.95


def test_a_split_on_a_holiday_takes_effect_with_the_next_session(db: Database) -> None:
    record(db, split(2.0, day=date(2024, 6, 19)))  # Juneteenth
    assert factors(db)[0][:2] == ("-infinity", "2024-06-19")


def test_an_operator_refutes_an_action_and_takes_that_back(db: Database) -> None:
    (key,) = record(db, split(10.0))
    with db.begin() as conn:
        assert corporate_actions.refute(conn, key, "announced for another class")
    record(db, split(10.0))  # the vendor still lists it
    assert factors(db) == []
    with db.begin() as conn:
        assert corporate_actions.remove_manual(conn, key)
        assert not corporate_actions.remove_manual(conn, key)
    assert len(factors(db)) == 2
