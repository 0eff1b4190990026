"""Every vendor's format of one series gives the same bars: those that pandas computes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import exchange_calendars
import numpy as np
import pandas as pd
import pytest

from enrichment.domain.bars import Bars, to_datetime64
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox import create_app, running
from enrichment.sandbox.market import Market
from enrichment.vendors.canonical import CanonicalProvider
from enrichment.vendors.http import HttpClient
from enrichment.vendors.registry import VENDORS
from tests.helpers.fake_transport import direct

NEW_YORK = "America/New_York"
FREQUENCIES = {
    Timeframe.M5: "5min",
    Timeframe.M15: "15min",
    Timeframe.M30: "30min",
    Timeframe.H1: "1h",
    Timeframe.H4: "4h",
    Timeframe.D1: "1D",
}
RULES = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
NOISE = 1e-6  # Yahoo sends prices as float32, changing in the 7th digit
SETTLING = 0.03  # on the evening of a day, Yahoo's volume lacks some of it
HEADERS = {
    "Authorization": "Bearer any",
    "APCA-API-KEY-ID": "any",
    "APCA-API-SECRET-KEY": "any",
    **VENDORS["yahoo"].headers,
}
MOMENTS = [
    "2024-12-27T01:30",  # winter, evening; a half day and a holiday before
    "2025-01-04T12:00",  # the weeks around the year's end
    "2024-07-05T02:00",  # summer; a half day and a holiday
    "2024-11-29T19:00",  # an hour after the close of a half day
    "2024-03-16T12:00",  # the week of the change to daylight saving time
    "2024-11-09T12:00",  # and of the change back
    "2024-09-07T12:00",  # a week that begins with a holiday
]
SYMBOLS = {AssetClass.STOCK: "SIM1", AssetClass.CRYPTO: "X:SIM1USD"}


@pytest.fixture(scope="module", params=MOMENTS)
def moment(request: pytest.FixtureRequest) -> datetime:
    return datetime.fromisoformat(request.param).replace(tzinfo=UTC)


@pytest.fixture(scope="module")
def http(moment: datetime) -> Iterator[HttpClient]:
    with (
        running(create_app(clock=lambda: moment)) as address,
        HttpClient(address, call=direct, headers=HEADERS, now=lambda: moment) as client,
    ):
        yield client


def window_of(timeframe: Timeframe, now: datetime) -> Window:
    """Whole weeks up to now."""
    monday = now.replace(hour=0, minute=0) - timedelta(days=now.weekday())
    return Window(monday - timedelta(weeks=8 if timeframe is Timeframe.W1 else 2), now)


def expected(
    asset_class: AssetClass, window: Window, now: datetime, timeframe: Timeframe
) -> pd.DataFrame:
    """The series' five-minute bars, resampled on New York's clock or, for crypto, in UTC."""
    zone = "UTC" if asset_class is AssetClass.CRYPTO else NEW_YORK
    series = Market(now).series(SYMBOLS[asset_class])
    assert series is not None
    bars = series.bars(Timeframe.M5, window, now)
    frame = pd.DataFrame(
        {name: getattr(bars, name) for name in RULES},
        index=pd.DatetimeIndex(bars.ts).tz_localize("UTC"),
    )
    local = frame.tz_convert(zone).tz_localize(None)
    daily = local.resample("1D").agg(RULES).dropna(subset=["open"])
    if timeframe is Timeframe.D1:
        return daily.tz_localize("UTC")
    if timeframe is Timeframe.W1:
        return daily.resample("W-MON", label="left", closed="left").agg(RULES).tz_localize("UTC")
    out = local.resample(FREQUENCIES[timeframe], origin="start_day").agg(RULES)
    return out.dropna(subset=["open"]).tz_localize(zone).tz_convert("UTC")


def end_of_week(label: pd.Timestamp) -> pd.Timestamp:
    """The last close of a stock's week."""
    calendar = exchange_calendars.get_calendar("XNYS", start="2023-01-01", end="2025-12-31")
    monday = label.tz_localize(None)
    return calendar.session_close(
        calendar.sessions_in_range(monday, monday + pd.Timedelta(days=6))[-1]
    )


def ended(
    frame: pd.DataFrame, asset_class: AssetClass, timeframe: Timeframe, now: datetime
) -> pd.DataFrame:
    """Without the bars that are still forming."""
    if asset_class is AssetClass.CRYPTO:
        return frame[frame.index + timeframe.duration <= pd.Timestamp(now)]
    if timeframe is Timeframe.W1:
        return frame[[end_of_week(label) <= pd.Timestamp(now) for label in frame.index]]
    return frame  # at all of these moments, the exchange is closed


def test_the_series_has_every_session_of_the_exchange(moment: datetime) -> None:
    calendar = exchange_calendars.get_calendar("XNYS", start="2023-01-01", end="2025-12-31")
    window = window_of(Timeframe.W1, moment)
    days = expected(AssetClass.STOCK, window, moment, Timeframe.D1)
    first, last = (pd.Timestamp(t.date()) for t in (window.start, window.end))
    labels = calendar.sessions_in_range(first, last)
    over = [calendar.session_close(label) <= pd.Timestamp(moment) for label in labels]
    assert list(days.index.tz_localize(None)) == list(labels[over])


@pytest.mark.parametrize("timeframe", list(Timeframe))
@pytest.mark.parametrize(
    ("name", "asset_class"),
    [(spec.name, kind) for spec in VENDORS for kind in SYMBOLS if kind in spec.coverage],
)
def test_the_bars_are_those_that_pandas_computes(
    http: HttpClient, moment: datetime, name: str, asset_class: AssetClass, timeframe: Timeframe
) -> None:
    window = window_of(timeframe, moment)
    frame = ended(expected(asset_class, window, moment, timeframe), asset_class, timeframe, moment)
    provider = CanonicalProvider(VENDORS[name].build(http, name), now=lambda: moment)
    bars = provider.fetch(SYMBOLS[asset_class], asset_class, timeframe, window).bars
    if asset_class is AssetClass.CRYPTO:
        bars = bars.take(bars.ts + np.timedelta64(timeframe.duration) <= to_datetime64(moment))
    assert_same(bars, frame, 0.0 if timeframe.intraday else SETTLING)


def assert_same(bars: Bars, frame: pd.DataFrame, settling: float) -> None:
    assert len(frame) > 5
    ts = frame.index.tz_localize(None).to_numpy(dtype="datetime64[us]")
    np.testing.assert_array_equal(bars.ts, ts)
    for name in ("open", "high", "low", "close"):
        np.testing.assert_allclose(getattr(bars, name), frame[name], rtol=NOISE, err_msg=name)
    np.testing.assert_allclose(bars.volume[:-1], frame["volume"][:-1], rtol=1e-12)
    np.testing.assert_allclose(bars.volume[-1], frame["volume"].iloc[-1], rtol=settling or 1e-12)
