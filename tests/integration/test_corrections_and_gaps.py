"""Versions and corrections of bars, retries and causes of gaps, backfills and confirmations."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import text

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.errors import InvalidRequest, NotTracked, ProviderUnavailable, StepFailed
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.quality_symbol import QualityReports
from enrichment.warehouse.series.rollups import explain_gaps_by_outages
from enrichment.warehouse.series.warehouse import Warehouse
from tests.helpers.api_client import api_client
from tests.helpers.fakes import FakeVendor, recorded_bars
from tests.helpers.nightly_runs import NightlyRuns, after_split, assert_stored, quiet_bars


def test_a_split_of_an_adjusted_series_is_one_correction_and_both_versions_stay(
    db: Database,
) -> None:
    night = NightlyRuns(db, quiet_bars())
    night.run_at(800)
    before, known_on = night.bars(), night.rows("SELECT clock_timestamp()")[0][0]
    assert isinstance(known_on, datetime)
    after = after_split(quiet_bars()).take(slice(800)).concat(quiet_bars().take(slice(800, None)))
    night.vendor.bars = after
    night.run_at(801)
    assert night.rows("SELECT field, old_value, new_value, reason, ts FROM data_corrections") == [
        ("factor", 1.0, 0.5, "rebased", to_datetime(quiet_bars().ts[800]))
    ]
    assert_stored(night, after.take(slice(801)))
    then = night.bars(known_on)
    for name, column in before.columns().items():
        np.testing.assert_array_equal(then.columns()[name], column, err_msg=name)
    night.run_at(802)
    assert night.rows("SELECT count(*) FROM data_corrections") == [(1,)]
    assert night.rows("SELECT bars FROM enrichment_status") == [(802,)]


def test_a_restated_bar_is_a_correction_field_by_field(db: Database) -> None:
    night = NightlyRuns(db, quiet_bars())
    night.run_at(800)
    known_on = night.rows("SELECT clock_timestamp()")[0][0]
    restated = replace(quiet_bars(), close=quiet_bars().close.copy())
    restated.close[797] = restated.low[797]
    night.vendor.bars = restated
    night.run_at(801)
    assert night.rows("SELECT field, old_value, new_value, reason, ts FROM data_corrections") == [
        (
            "close",
            quiet_bars().close[797],
            quiet_bars().low[797],
            "source_updated",
            to_datetime(quiet_bars().ts[797]),
        )
    ]
    assert_stored(night, restated.take(slice(801)))
    assert isinstance(known_on, datetime)
    assert night.bars(known_on).close[797] == quiet_bars().close[797]
    assert len(night.bars(known_on)) == 800


def test_a_gap_is_fetched_again_with_growing_delays(db: Database) -> None:
    whole = quiet_bars()
    night = NightlyRuns(db, whole.take(np.setdiff1d(np.arange(900), [500])))
    ledger = (
        "SELECT attempts, cause, extract(epoch FROM next_try_at - tried_at) / 86400,"
        " resolution FROM bar_gaps"
    )
    night.run_at(799)
    assert night.rows(ledger) == [(1, "unexplained", 0, None)]
    expected = [(2, 1), (3, 2), (4, 4)]
    for attempts, days in expected:
        night.run_at(799)
        assert night.rows(ledger) == [(attempts, "unexplained", days, None)]
        asked = len(night.vendor.windows)
        night.run_at(799)
        assert len(night.vendor.windows) == asked + 1  # the main window only: it is not due
        with db.begin() as conn:
            conn.execute(text("UPDATE bar_gaps SET next_try_at = now()"))
    night.vendor.bars = whole
    night.run_at(800)
    assert night.rows("SELECT resolution FROM bar_gaps") == [("filled",)]
    assert_stored(night, whole.take(slice(800)))


def test_the_same_bar_missing_from_many_symbols_is_an_outage(db: Database) -> None:
    symbols = ("AAPL", "IBM", "MSFT", "GOOG")
    night = NightlyRuns(db, quiet_bars().take(np.setdiff1d(np.arange(900), [500])), *symbols)
    night.run_at(799)
    with db.begin() as conn:
        conn.execute(text("DELETE FROM bar_gaps WHERE symbol = 'IBM'"))
        conn.execute(
            text(
                "INSERT INTO bar_gaps (symbol, timeframe, ts)"
                " VALUES ('IBM', '1d', '2008-07-01'), ('AAPL', '1d', '2008-07-01')"
            )
        )
        assert explain_gaps_by_outages(conn) == 3
        assert explain_gaps_by_outages(conn) == 0
    assert night.rows(
        "SELECT symbol, cause FROM bar_gaps WHERE ts <> '2008-07-01' ORDER BY symbol"
    ) == [(symbol, "vendor_outage") for symbol in ("AAPL", "GOOG", "MSFT")]


def test_new_features_are_computed_for_what_is_stored(db: Database) -> None:
    night = NightlyRuns(db, quiet_bars())
    night.run_at(800)
    with db.begin() as conn:
        conn.execute(text("UPDATE bars SET sma_20 = NULL"))
        conn.execute(text("UPDATE enrichment_status SET feature_set = 'of an older version'"))
    night.run_at(801)
    assert_stored(night, quiet_bars().take(slice(801)))
    assert night.rows("SELECT count(*) FROM data_corrections") == [(0,)]
    assert len(night.vendor.windows) == 2


class Failing(FakeVendor):
    """Answers a number of requests, then none until it is repaired."""

    def __init__(self, bars: Bars, answers: int) -> None:
        super().__init__(bars)
        self.answers = answers

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        if len(self.windows) == self.answers:
            raise ProviderUnavailable("answered 500")
        return super().fetch(symbol, asset_class, timeframe, window)


def test_an_interrupted_backfill_resumes_at_its_chunk(db: Database) -> None:
    night = NightlyRuns(db, recorded_bars())
    night.pipeline = EnrichmentPipeline(
        night.vendor, Warehouse(db), history_days=365, now=lambda: night.now
    )
    night.run_at(3270)
    start, end = datetime(2001, 1, 1, tzinfo=UTC), datetime(2003, 1, 1, tzinfo=UTC)
    night.commands.backfill(["aapl"], start, end, actor="test", reason="study")
    failing = Failing(recorded_bars(), answers=2)
    pipeline = EnrichmentPipeline(
        failing, Warehouse(db), history_days=365, now=lambda: night.now, bars_per_chunk=1000
    )
    (task,) = night.claim()
    assert (task.backfill, task.remaining) == (Window(start, end), ())
    with pytest.raises(StepFailed):
        pipeline.enrich(task)
    night.queue.release(task)
    asked, failing.answers = list(failing.windows), 99
    (again,) = night.claim()
    assert again.remaining == ((Timeframe.D1, asked[-1].start),)
    pipeline.enrich(again)
    assert failing.windows[2].end == asked[-1].start
    assert failing.windows[-1].start == start
    wanted = recorded_bars().take(recorded_bars().ts >= np.datetime64("2001-01-01"))
    assert_stored(night, wanted)
    night.queue.close_finished_jobs()
    assert night.rows("SELECT state, inserted FROM enrichment_jobs WHERE kind = 'backfill'") == [
        ("completed", len(wanted) - 250)
    ]
    assert night.rows("SELECT action, reason FROM operator_actions WHERE action = 'backfill'") == [
        ("backfill", "study")
    ]
    assert Warehouse(db).snapshot("AAPL", Timeframe.D1).history_from == start


@pytest.mark.parametrize(
    ("symbols", "start", "end", "error", "says"),
    [
        (["NOPE"], "2001-01-01", "2002-01-01", NotTracked, "symbols add NOPE"),
        (["AAPL"], "2002-01-01", "2001-01-01", InvalidRequest, "before the end"),
        (["AAPL"], "2999-01-01", "2999-02-01", InvalidRequest, "in the past"),
    ],
)
def test_an_empty_backfill_is_refused(
    db: Database, symbols: list[str], start: str, end: str, error: type[Exception], says: str
) -> None:
    night = NightlyRuns(db, quiet_bars())
    first, last = (datetime.fromisoformat(t).replace(tzinfo=UTC) for t in (start, end))
    with pytest.raises(error, match=says):
        night.commands.backfill(symbols, first, last, actor="test")
    assert night.rows("SELECT count(*) FROM enrichment_jobs") == [(0,)]


def test_a_confirmed_bar_is_not_flagged_again_and_raises_the_score(db: Database) -> None:
    """The crash of 2000-09-29 is real."""
    night = NightlyRuns(db, recorded_bars())
    night.run_at(400)
    crash = datetime(2000, 9, 29, tzinfo=UTC)
    (report,) = QualityReports(db).of("AAPL") or []
    raised = [flag.check for flag in report.flags if flag.timestamp == crash]
    assert "outlier" in raised
    assert report.score is not None
    score = night.commands.confirm(
        "aapl", "1d", crash, check="outlier", reason="profit warning", actor="test"
    )
    assert score > report.score
    for _ in range(2):
        (after,) = QualityReports(db).of("AAPL") or []
        assert crash not in [flag.timestamp for flag in after.flags if flag.check == "outlier"]
        assert after.score == pytest.approx(score, abs=1e-12)
        assert [(c.check, c.reason) for c in after.confirmations] == [("outlier", "profit warning")]
        with db.begin() as conn:  # the next run looks at the whole history again
            conn.execute(text("UPDATE enrichment_status SET history_from = '2009-01-01'"))
        night.run_at(400)
    with pytest.raises(InvalidRequest, match="no flag 'outlier'"):
        night.commands.confirm("AAPL", "1d", crash, check="outlier", reason="again", actor="test")
    assert night.rows("SELECT count(*) FROM operator_actions WHERE action = 'confirm'") == [(1,)]


def test_the_api_returns_the_quality_of_a_symbol_by_day(db: Database) -> None:
    night = NightlyRuns(db, quiet_bars().take(np.setdiff1d(np.arange(900), [500, 501])))
    for sessions in (797, 798, 798):
        night.run_at(sessions)
    app = api_client(db)
    with db.begin() as conn:  # the recorded nights become yesterday and today
        conn.execute(
            text(
                "UPDATE data_quality_metrics m SET date = now()::date - (r.rank - 1)::int FROM ("
                " SELECT date, rank() OVER (ORDER BY date DESC) FROM data_quality_metrics) r"
                " WHERE r.date = m.date"
            )
        )
    found = app.get("/api/v1/data/quality/aapl?days=7").get_json()
    assert (found["symbol"], found["period_days"]) == ("AAPL", 7)
    days = found["daily_metrics"]
    assert len(days) == 2
    assert set(days[0]) == {
        "date", "total_records", "validated_records", "validation_rate", "gaps_detected",
        "anomalies_detected", "avg_quality_score", "data_completeness",
    }  # fmt: skip
    assert found["summary"] == {
        "avg_validation_rate": 100.0,
        "avg_quality_score": pytest.approx(sum(d["avg_quality_score"] for d in days) / 2),
        "total_gaps_detected": sum(d["gaps_detected"] for d in days),
        "total_anomalies": 0,
        "days": 2,
    }
    assert days[0]["data_completeness"] == pytest.approx(1 - 2 / 800)
    newest = found["recent_fetch_logs"][0]
    assert (newest["success"], newest["source"], newest["timeframe"]) == (True, "memory", "1d")
    assert app.get("/api/v1/data/quality/NOPE").status_code == 404
    assert "whole number" in app.get("/api/v1/data/quality/AAPL?days=x").get_json()["detail"]
    assert app.get("/api/v1/data/quality/AAPL?days=0").status_code == 400


def test_a_gap_counts_on_the_day_it_was_found_first(db: Database) -> None:
    night = NightlyRuns(db, quiet_bars().take(np.setdiff1d(np.arange(900), [795])))
    night.run_at(799)
    seen = "SELECT gaps_detected FROM data_quality_metrics ORDER BY date"
    assert night.rows(seen) == [(1,)]
    with db.begin() as conn:
        conn.execute(text("UPDATE bar_gaps SET found_at = now() - interval '1 day'"))
    night.run_at(800)
    assert night.rows(seen) == [(1,), (0,)]
