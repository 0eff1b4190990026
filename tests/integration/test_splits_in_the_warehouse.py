"""Splits and stored series: nothing is rewritten, late ones are computed anew, adjusted series are
put back to what was traded.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from enrichment.cli.main import app
from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.corporate_actions import (
    ActionKind,
    Adjustment,
    CorporateAction,
    Splits,
    scaled,
)
from enrichment.domain.model import FetchedBars, Timeframe
from enrichment.pipeline import features
from enrichment.warehouse import corporate_actions
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.bars import BarDownloads
from tests.helpers.fakes import FakeVendor
from tests.helpers.nightly_runs import NightlyRuns, quiet_bars

ROW = 500  # the first bar after the split
RATIO = 4.0


def day(row: int = ROW) -> date:
    return to_datetime(quiet_bars().ts[row]).date()


def as_traded(*rows: int) -> Bars:
    """The quiet bars as traded, if they are adjusted for splits at these rows."""
    bars = quiet_bars()
    splits = Splits.of([(day(row), RATIO) for row in rows or (ROW,)], Timeframe.D1)
    return scaled(bars, 1 / splits.shares(bars.ts))


class Vendor(FakeVendor):
    """Answers bars on the basis that the test sets."""

    adjusted = False

    def fetch(self, *args: object) -> FetchedBars:
        return replace(super().fetch(*args), adjusted=self.adjusted)  # type: ignore[arg-type]


class Nights(NightlyRuns):
    def __init__(self, db: Database, bars: Bars, *, adjusted: bool = False) -> None:
        super().__init__(db, bars)
        self.vendor = Vendor(bars)
        self.vendor.adjusted = adjusted
        self.pipeline._fetcher._source = self.vendor

    def learn(self, *rows: int, covers_from: date | None = None) -> None:
        """The ledger gets splits at these rows, and how far back it is complete."""
        with self.db.begin() as conn:
            corporate_actions.record(
                conn,
                [CorporateAction("AAPL", ActionKind.SPLIT, day(r), "polygon", RATIO) for r in rows],
            )
            if covers_from is not None:
                corporate_actions.note_refresh(
                    conn, "polygon", "AAPL", covers_from, datetime.now(UTC)
                )

    def read(self, adjustment: Adjustment, *columns: str) -> dict[str, np.ndarray]:
        downloads = BarDownloads(self.db)
        extent = downloads.extent("AAPL", Timeframe.D1, adjustment=adjustment)
        table = pa.Table.from_batches(list(downloads.chunks(extent, columns)))
        return {name: table[name].to_numpy() for name in columns}


NUMBERS = [name for name, feature in features.FEATURES.items() if feature.kind == "number"]


def assert_features(nights: Nights, count: int) -> None:
    """Read on today's basis, the stored features are those of the adjusted series."""
    expected = features.compute(quiet_bars().take(slice(count)))
    actual = nights.read(Adjustment.SPLIT, *NUMBERS)
    for name in NUMBERS:
        scale = np.nanmax(np.abs(expected[name])) if name == "obv" else 1e-6
        np.testing.assert_allclose(
            actual[name].astype(float), expected[name], rtol=1e-9, atol=1e-9 * scale, err_msg=name
        )


def test_a_night_with_a_split_costs_one_request_and_rewrites_nothing(db: Database) -> None:
    nights = Nights(db, as_traded())
    nights.learn(ROW)
    nights.run_at(ROW)
    before = nights.rows("SELECT * FROM bars ORDER BY ts")
    nights.run_at(ROW + 1)
    assert nights.rows("SELECT * FROM bars ORDER BY ts")[:ROW] == before
    assert len(nights.vendor.windows) == 2
    assert nights.rows("SELECT count(*) FROM data_corrections") == [(0,)]
    assert nights.rows("SELECT count(*) FROM bar_versions") == [(0,)]
    assert nights.rows("SELECT check_name FROM bar_flags") == []
    assert_features(nights, ROW + 1)
    nights.run_at(800)
    assert_features(nights, 800)
    assert nights.read(Adjustment.NONE, "close")["close"].tolist() == (
        as_traded().close[:800].tolist()
    )


def test_a_split_that_becomes_known_late_is_computed_anew_without_another_fetch(
    db: Database,
) -> None:
    nights = Nights(db, as_traded())
    nights.run_at(ROW + 5)
    flagged = nights.rows("SELECT check_name FROM bar_flags WHERE severity = 'warning'")
    assert flagged == [("split",)]
    nights.learn(ROW)
    nights.run_at(ROW + 6)
    assert len(nights.vendor.windows) == 2
    assert_features(nights, ROW + 6)
    assert nights.rows("SELECT count(*) FROM data_corrections") == [(0,)]


def test_a_withdrawn_split_is_computed_out_again(db: Database) -> None:
    nights = Nights(db, quiet_bars())
    nights.learn(ROW)
    nights.run_at(ROW + 5)
    assert nights.rows("SELECT check_name FROM bar_flags WHERE severity = 'warning'") == [
        ("split_without_step",)
    ]
    with db.begin() as conn:
        key = ("AAPL", day(), "split")
        corporate_actions.withdraw(conn, [key], "polygon", datetime.now(UTC))
        corporate_actions.outdated_symbols(conn, [key])
    nights.run_at(ROW + 6)
    assert_features(nights, ROW + 6)
    assert nights.rows("SELECT check_name FROM bar_flags WHERE severity = 'warning'") == []


def test_the_splits_that_an_answer_reports_are_kept_and_used(db: Database) -> None:
    class Reporting(Vendor):
        def fetch(self, *args: object) -> FetchedBars:
            action = CorporateAction("AAPL", ActionKind.SPLIT, day(), "yahoo", RATIO)
            return replace(super().fetch(*args), actions=[action])

    nights = Nights(db, as_traded())
    nights.pipeline._fetcher._source = Reporting(as_traded())
    nights.run_at(ROW + 5)
    assert_features(nights, ROW + 5)
    assert nights.rows("SELECT source, ratio, applies FROM corporate_actions") == [
        ("yahoo", RATIO, True)
    ]


@pytest.mark.parametrize("rows", [(ROW,), (300, ROW), (ROW, 790)])
def test_an_adjusted_series_is_put_back_once_its_splits_are_known(
    db: Database, rows: tuple[int, ...]
) -> None:
    nights = Nights(db, quiet_bars(), adjusted=True)
    nights.run_at(800)
    nights.vendor.bars, nights.vendor.adjusted = as_traded(*rows), False
    nights.learn(*rows, covers_from=to_datetime(quiet_bars().ts[0]).date())
    nights.run_at(801)
    traded = as_traded(*rows).close[:801]
    np.testing.assert_allclose(nights.read(Adjustment.NONE, "close")["close"], traded, rtol=1e-12)
    assert_features(nights, 801)
    assert nights.rows("SELECT reason, field, new_value FROM data_corrections") == [
        ("as_traded", "factor", pytest.approx(RATIO ** len(rows)))
    ]
    assert nights.rows("SELECT adjusted, adjusted_until FROM enrichment_status") == [(False, None)]
    assert nights.rows("SELECT count(*) > 0 FROM bar_versions") == [(True,)]
    nights.run_at(802)
    assert nights.rows("SELECT count(*) FROM data_corrections") == [(1,)]
    assert_features(nights, 802)


def test_an_adjusted_series_without_splits_is_as_traded_already(db: Database) -> None:
    nights = Nights(db, quiet_bars(), adjusted=True)
    nights.run_at(800)
    nights.vendor.adjusted = False
    nights.learn(covers_from=to_datetime(quiet_bars().ts[0]).date())
    nights.run_at(801)
    assert nights.rows("SELECT adjusted, adjusted_until FROM enrichment_status") == [(False, None)]
    assert nights.rows("SELECT count(*) FROM data_corrections") == [(0,)]
    assert nights.rows("SELECT count(*) FROM bar_versions") == [(0,)]


def test_an_adjusted_series_whose_splits_are_unknown_stays_marked_and_reads_right(
    db: Database,
) -> None:
    """A split after the series was adjusted is known; those before may not be."""
    nights = Nights(db, quiet_bars(), adjusted=True)
    nights.run_at(400)
    nights.vendor.bars, nights.vendor.adjusted = as_traded(), False
    # What was stored before is on the basis of then.
    shares = Splits.of([(day(), RATIO)], Timeframe.D1).shares(quiet_bars().ts[:400])
    with db.begin() as conn:
        conn.exec_driver_sql(
            "UPDATE bars SET open = open * %s, high = high * %s, low = low * %s,"
            " close = close * %s, volume = volume / %s",
            (RATIO,) * 5,
        )
    assert set(shares) == {RATIO}
    nights.learn(ROW)
    nights.run_at(ROW + 5)
    assert nights.rows("SELECT adjusted FROM enrichment_status") == [(True,)]
    close = nights.read(Adjustment.SPLIT, "close")["close"]
    np.testing.assert_allclose(close, quiet_bars().close[: ROW + 5], rtol=1e-12)


def test_vendors_that_disagree_on_a_ratio_are_a_flag_on_the_splits_first_bar(db: Database) -> None:
    nights = Nights(db, as_traded())
    nights.learn(ROW)
    with db.begin() as conn:
        corporate_actions.record(
            conn, [CorporateAction("AAPL", ActionKind.SPLIT, day(), "yahoo", 2 * RATIO)]
        )
    nights.run_at(ROW)
    nights.run_at(ROW + 3)
    assert nights.rows("SELECT check_name, ts, detail FROM bar_flags WHERE severity <> 'info'") == [
        (
            "split_disagreement",
            to_datetime(quiet_bars().ts[ROW]),
            "the ratio of this day's split is disputed: polygon says 4, yahoo says 8",
        )
    ]
    assert_features(nights, ROW + 3)


@pytest.mark.parametrize(("adjust", "expected"), [("none", as_traded()), ("split", quiet_bars())])
def test_bars_are_written_on_the_command_line(
    db: Database,
    db_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    adjust: str,
    expected: Bars,
) -> None:
    nights = Nights(db, as_traded())
    nights.learn(ROW)
    nights.run_at(ROW + 3)
    monkeypatch.setenv("DATABASE_URL", db_url)
    monkeypatch.setenv("ENRICHMENT_HOME", str(tmp_path))
    arguments = ["bars", "aapl", "--columns", "close,volume", "--adjust", adjust]
    file = tmp_path / "bars.csv"
    result = CliRunner().invoke(app, [*arguments, "--output", str(file)])
    assert result.exit_code == 0, result.output
    frame = pd.read_csv(file, parse_dates=["ts"])
    np.testing.assert_allclose(frame.close, expected.close[: ROW + 3], rtol=1e-12)
    np.testing.assert_allclose(frame.volume, expected.volume[: ROW + 3], rtol=1e-12)
