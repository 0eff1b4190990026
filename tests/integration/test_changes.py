"""What is a change of a stored bar: noise, settling volume, and restatements."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.errors import InvalidRequest
from enrichment.warehouse.database import Database
from tests.helpers.api_client import ROOT, api_client, json_body
from tests.helpers.fakes import recorded_bars
from tests.helpers.nightly_runs import NightlyRuns, assert_stored, quiet_bars

NIGHT = 800  # sessions that are stored


def nights(db: Database, **changed: np.ndarray) -> NightlyRuns:
    """After one night; the vendor then serves the changed columns."""
    night = NightlyRuns(db, quiet_bars())
    night.run_at(NIGHT)
    night.vendor.bars = replace(quiet_bars(), **changed)
    night.vendor.windows.clear()
    return night


def corrections(night: NightlyRuns) -> list[tuple[object, ...]]:
    return night.rows("SELECT ts, field, reason FROM data_corrections ORDER BY ts, field")


def multiplied(name: str, row: int, factor: float) -> dict[str, np.ndarray]:
    column = getattr(quiet_bars(), name).copy()
    column[row] *= factor
    return {name: column}


@pytest.mark.parametrize("relative", [8e-8, -8e-8, 4e-7])
def test_noise_of_all_prices_changes_nothing(db: Database, relative: float) -> None:
    random = np.random.default_rng(1)
    columns = {
        name: getattr(quiet_bars(), name) * (1 + relative * random.uniform(-1, 1, 900))
        for name in ("open", "high", "low", "close")
    }
    night = nights(db, **columns)
    before = night.rows("SELECT ctid::text, ts FROM bars ORDER BY ts")
    night.run_at(NIGHT)
    night.run_at(NIGHT + 1)
    assert len(night.vendor.windows) == 2
    assert corrections(night) == []
    assert night.rows("SELECT count(*) FROM bar_versions") == [(0,)]
    assert night.rows("SELECT ctid::text, ts FROM bars ORDER BY ts")[:NIGHT] == before
    kept = quiet_bars().take(slice(NIGHT))
    new = night.vendor.bars.take(slice(NIGHT, NIGHT + 1))
    assert_stored(night, kept.concat(new))


@pytest.mark.parametrize("cents", [0.01, -0.01, 1e-4])
@pytest.mark.parametrize("row", [NIGHT - 10, NIGHT - 4, NIGHT - 1])
def test_a_cent_is_a_correction(db: Database, cents: float, row: int) -> None:
    bars = quiet_bars()
    high, close = bars.high.copy(), bars.close.copy()
    close[row] += cents
    high[row] = max(high[row], close[row])
    low = np.minimum(bars.low, close)
    night = nights(db, high=high, low=low, close=close)
    night.run_at(NIGHT)
    ts = to_datetime(bars.ts[row])
    assert (ts, "close", "source_updated") in corrections(night)
    assert_stored(night, night.vendor.bars.take(slice(NIGHT)))


@pytest.mark.parametrize(
    ("sessions_ago", "factor", "correction"),
    [
        (0, 1.05, False),
        (1, 1.1, False),
        (1, 1.11, True),
        (0, 0.99, True),
        (2, 1.05, True),
    ],
)
def test_the_volume_of_a_new_session_may_settle(
    db: Database, sessions_ago: int, factor: float, correction: bool
) -> None:
    row = NIGHT - 1 - sessions_ago
    night = nights(db, **multiplied("volume", row, factor))
    night.run_at(NIGHT)
    ts = to_datetime(quiet_bars().ts[row])
    assert corrections(night) == [(ts, "volume", "source_updated")] * correction
    old = quiet_bars().volume[row]
    assert night.rows("SELECT ts, volume FROM bar_versions") == [(ts, old)]
    assert_stored(night, night.vendor.bars.take(slice(NIGHT)))


def test_a_settled_volume_takes_a_restated_price_for_one(db: Database) -> None:
    bars: Bars = quiet_bars()
    row = NIGHT - 1
    high = bars.high.copy()
    high[row] += 0.01
    night = nights(db, **multiplied("volume", row, 1.02), high=high)
    night.run_at(NIGHT)
    assert corrections(night) == [(to_datetime(bars.ts[row]), "high", "source_updated")]


def without(*rows: int) -> Bars:
    return quiet_bars().take(np.setdiff1d(np.arange(900), rows))


def with_holiday_bar(row: int) -> Bars:
    """The bars with one on the day after a session on which there was none."""
    bars = quiet_bars()
    columns = {name: np.insert(c, row + 1, c[row]) for name, c in bars.columns().items()}
    columns["ts"][row + 1] += np.timedelta64(1, "D")
    assert columns["ts"][row + 1] not in bars.ts
    columns["close"][row + 1] *= 1.02
    columns["high"][row + 1] *= 1.03
    return Bars(**columns)


def friday_before(row: int) -> int:
    ts = quiet_bars().ts
    gaps = np.flatnonzero(np.diff(ts[:row]) > np.timedelta64(1, "D"))
    return int(gaps[-1])


def test_a_bar_of_a_day_without_a_session_is_withdrawn_at_once(db: Database) -> None:
    row = friday_before(NIGHT)
    night = NightlyRuns(db, with_holiday_bar(row))
    night.run_at(row + 3)
    stray = night.bars().take(slice(row + 1, row + 2))
    assert stray.ts[0] == with_holiday_bar(row).ts[row + 1]
    night.vendor.bars = quiet_bars()
    night.run_at(row + 3)
    assert_stored(night, quiet_bars().take(slice(row + 3)))
    returned = night.rows("SELECT return_1 FROM bars ORDER BY ts")[row + 1][0]
    close = quiet_bars().close
    assert returned == pytest.approx(close[row + 1] / close[row] - 1, rel=1e-12)
    ts = to_datetime(stray.ts[0])
    assert corrections(night) == [(ts, "bars", "withdrawn")]
    assert night.rows("SELECT ts, close FROM bar_versions") == [(ts, stray.close[0])]
    assert night.rows(
        "SELECT ts, bar ->> 'close' FROM bar_quarantine WHERE check_name = 'withdrawn'"
    ) == [(ts, str(stray.close[0]))]
    assert night.rows("SELECT bars FROM enrichment_status") == [(row + 3,)]


def test_a_session_that_is_missing_twice_in_a_row_is_withdrawn(db: Database) -> None:
    row = NIGHT - 3
    night = NightlyRuns(db, quiet_bars())
    night.run_at(NIGHT)
    night.vendor.bars = without(row)
    night.run_at(NIGHT + 1, at=quiet_bars())
    assert_stored(night, quiet_bars().take(slice(NIGHT + 1)))
    assert corrections(night) == []
    night.run_at(NIGHT + 2, at=quiet_bars())
    assert_stored(night, without(row).take(slice(NIGHT + 1)))
    assert corrections(night) == [(to_datetime(quiet_bars().ts[row]), "bars", "withdrawn")]
    night.run_at(NIGHT + 3, at=quiet_bars())
    assert len(corrections(night)) == 1
    night.vendor.bars = quiet_bars()  # sent again after all
    night.run_at(NIGHT + 4)
    assert_stored(night, quiet_bars().take(slice(NIGHT + 4)))


def test_a_session_that_is_missing_once_stays(db: Database) -> None:
    night = NightlyRuns(db, quiet_bars())
    night.run_at(NIGHT)
    for session, sent in enumerate(
        (without(NIGHT - 3), quiet_bars(), without(NIGHT - 3)), NIGHT + 1
    ):
        night.vendor.bars = sent
        night.run_at(session, at=quiet_bars())
        assert_stored(night, quiet_bars().take(slice(session)))
    assert corrections(night) == []


def test_an_incomplete_answer_withdraws_nothing(db: Database) -> None:
    night = NightlyRuns(db, quiet_bars())
    night.run_at(NIGHT)
    for session in (NIGHT + 1, NIGHT + 2, NIGHT + 3):
        night.vendor.bars = without(*range(session - 9, session - 1))
        night.run_at(session, at=quiet_bars())
    assert corrections(night) == []
    assert night.rows("SELECT count(*) FROM bar_versions") == [(0,)]


def run_open_job(night: NightlyRuns) -> None:
    tasks = night.claim()
    assert len(tasks) == 1
    for task, enrich in zip(tasks, night.pipeline.prepare_batch(tasks), strict=True):
        enrich(task, lambda step: None)
    night.queue.close_finished_jobs()


@pytest.mark.parametrize("row", [300, NIGHT - 5, NIGHT - 1], ids=["old", "overlap", "newest"])
def test_a_rejected_bar_is_out_until_that_is_taken_back(db: Database, row: int) -> None:
    night = NightlyRuns(db, quiet_bars())
    night.run_at(NIGHT)
    ts = to_datetime(quiet_bars().ts[row])
    night.commands.reject("aapl", "1d", ts, reason="a test print", actor="ann")
    run_open_job(night)
    rest = without(row)
    assert_stored(night, rest.take(slice(NIGHT - 1)))
    assert corrections(night) == [(ts, "bars", "rejected")]
    assert night.rows("SELECT ts FROM bar_versions") == [(ts,)]
    [gap] = night.rows("SELECT ts, cause FROM bar_gaps WHERE resolved_at IS NULL")
    assert gap == (ts, "quarantined")
    night.run_at(NIGHT + 1)  # the vendor sends it still
    assert_stored(night, rest.take(slice(NIGHT)))
    night.commands.unreject("AAPL", "1d", ts, reason="it was real", actor="ann")
    run_open_job(night)
    assert_stored(night, quiet_bars().take(slice(NIGHT + 1)))
    assert night.rows("SELECT status, bars FROM enrichment_status") == [("healthy", NIGHT + 1)]
    said = night.rows("SELECT action, reason FROM operator_actions WHERE action LIKE '%reject'")
    assert said == [("reject", "a test print"), ("unreject", "it was real")]


def test_only_stored_bars_can_be_rejected_and_only_rejected_ones_restored(db: Database) -> None:
    night = NightlyRuns(db, quiet_bars())
    night.run_at(NIGHT)
    ts = to_datetime(quiet_bars().ts[NIGHT + 10])
    with pytest.raises(InvalidRequest, match="no bar"):
        night.commands.reject("AAPL", "1d", ts, reason="x", actor="ann")
    with pytest.raises(InvalidRequest, match="no rejected bar"):
        night.commands.unreject("AAPL", "1d", ts, reason="x", actor="ann")
    with pytest.raises(InvalidRequest, match="reason"):
        night.commands.reject("AAPL", "1d", ts, reason=" ", actor="ann")


def test_a_confirmation_can_be_taken_back(db: Database) -> None:
    night = NightlyRuns(db, recorded_bars())
    night.run_at(400)
    crash = datetime(2000, 9, 29, tzinfo=UTC)
    [(before,)] = night.rows("SELECT quality_score FROM enrichment_status")
    night.commands.confirm("AAPL", "1d", crash, check="outlier", reason="a warning", actor="ann")
    score = night.commands.unconfirm(
        "AAPL", "1d", crash, check="outlier", reason="another day", actor="ann"
    )
    assert score == pytest.approx(before, abs=1e-12)  # type: ignore[arg-type]
    assert night.rows("SELECT ts FROM bar_flags WHERE check_name = 'outlier'") == [(crash,)]
    with pytest.raises(InvalidRequest, match="no confirmation"):
        night.commands.unconfirm("AAPL", "1d", crash, check="outlier", reason="x", actor="ann")


def test_bars_are_reviewed_through_the_api(db: Database) -> None:
    night = NightlyRuns(db, recorded_bars())
    night.run_at(400)
    client = api_client(db)

    def post(path: str, status: int, **body: str) -> dict[str, object]:
        bar = {"symbol": "AAPL", "ts": "2000-09-29", "reason": "seen elsewhere", **body}
        found: dict[str, object] = json_body(client.post(f"{ROOT}/bars/{path}", json=bar), status)
        return found

    confirmed = post("confirm", 200, check="outlier")["quality_score"]
    flagged = post("unconfirm", 200, check="outlier")["quality_score"]
    assert isinstance(confirmed, float)
    assert isinstance(flagged, float)
    assert confirmed > flagged
    post("unconfirm", 409, check="outlier")
    post("unreject", 409)
    post("reject", 404, symbol="ZZZZ")
    post("reject", 202)
    run_open_job(night)
    assert len(night.bars()) == 399
    post("unreject", 202)
    run_open_job(night)
    assert_stored(night, recorded_bars().take(slice(400)))


MONTH = 22  # sessions: at least 30 days


def compared(night: NightlyRuns, sessions: range) -> int:
    """Run a night after each of the sessions; how many fetched the whole history."""
    night.vendor.windows.clear()
    for session in sessions:
        night.run_at(session, quiet_bars())
    first = to_datetime(quiet_bars().ts[0])
    return sum(window.start <= first for window in night.vendor.windows)


def test_old_history_that_its_vendor_fixes_is_found_within_a_month(db: Database) -> None:
    row = 100  # far behind the overlap
    night = nights(db, **multiplied("close", row, 1.0001))
    assert compared(night, range(NIGHT + 1, NIGHT + 2 * MONTH)) in (1, 2)
    assert len(night.vendor.windows) == 2 * MONTH - 1  # a comparison takes the night's request
    ts = to_datetime(quiet_bars().ts[row])
    assert corrections(night) == [(ts, "close", "source_updated")]
    assert_stored(night, night.vendor.bars.take(slice(NIGHT + 2 * MONTH - 1)))


def test_a_comparison_without_a_difference_writes_nothing(db: Database) -> None:
    night = nights(db)
    before = night.rows("SELECT ctid::text, ts FROM bars ORDER BY ts")
    assert compared(night, range(NIGHT + 1, NIGHT + 2 * MONTH)) in (1, 2)
    assert night.rows("SELECT ctid::text, ts FROM bars ORDER BY ts")[:NIGHT] == before
    assert corrections(night) == []


def test_an_old_session_that_its_vendor_takes_back_is_withdrawn(db: Database) -> None:
    row = 100
    night = nights(db)
    night.vendor.bars = without(row)
    compared(night, range(NIGHT + 1, NIGHT + 2 * MONTH))
    assert corrections(night) == [(to_datetime(quiet_bars().ts[row]), "bars", "withdrawn")]
    assert_stored(night, without(row).take(slice(NIGHT + 2 * MONTH - 2)))


def test_a_night_compares_a_share_of_the_histories(db: Database) -> None:
    symbols = [f"S{number}" for number in range(60)]
    night = NightlyRuns(db, quiet_bars().take(slice(700, 900)), *symbols)
    night.run_at(150)
    night.vendor.windows.clear()
    start = to_datetime(night.vendor.bars.ts[0])
    counts = []
    for session in range(170, 173):
        night.run_at(session)
        counts.append(sum(window.start <= start for window in night.vendor.windows))
        night.vendor.windows.clear()
    assert 0 < sum(counts) <= 18
