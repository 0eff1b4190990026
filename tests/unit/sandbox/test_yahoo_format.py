"""Yahoo's charts in the sandbox, as recorded from Yahoo, through Flask's test client."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from enrichment.sandbox import create_app
from tests.helpers.recorded_series import daily_stocks

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36"
)
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def answer(via: FlaskClient, symbol: str, interval: str, start: str, end: str) -> TestResponse:
    query = {
        "interval": interval,
        "period1": str(int(at(start).timestamp())),
        "period2": str(int(at(end).timestamp())),
        "events": "div,splits",
    }
    url = f"/v8/finance/chart/{symbol}"
    return via.get(url, query_string=query, headers={"User-Agent": CHROME})


def client(now: str) -> FlaskClient:
    return create_app(clock=lambda: at(now)).test_client()


def chart(now: str, interval: str, start: str, end: str, symbol: str = "SIM1") -> dict[str, Any]:
    response = answer(client(now), symbol, interval, start, end)
    assert response.status_code == 200, response.text
    (result,) = response.json["chart"]["result"]
    return dict(result)


def stamps(result: dict[str, Any]) -> list[str]:
    moments = (datetime.fromtimestamp(t, UTC) for t in result["timestamp"])
    return [f"{moment:%a %m-%d %H:%M:%S}" for moment in moments]


def column(result: dict[str, Any], name: str) -> list[float]:
    values: list[float] = result["indicators"]["quote"][0][name]
    return values


@pytest.mark.parametrize(("first", "weekday"), [("2024-08-12", "Mon"), ("2024-08-14", "Wed")])
def test_weeks_begin_on_the_weekday_of_period1(first: str, weekday: str) -> None:
    """As AAPL's weeks on 2024-09-18 after the close: the last day is a row of its own."""
    result = chart("2024-09-18T22:00", "1wk", f"{first}T04:00", "2024-09-19")
    *weeks, live = stamps(result)
    assert {stamp.split()[0] for stamp in weeks} == {weekday}
    assert weeks[0].endswith("04:00:00")
    assert live == "Wed 09-18 20:00:02"
    assert result["meta"]["dataGranularity"] == "1wk"


def test_the_running_week_lacks_its_last_day() -> None:
    days = chart("2024-09-19T12:00", "1d", "2024-09-16", "2024-09-19")
    weeks = chart("2024-09-18T22:00", "1wk", "2024-09-16T04:00", "2024-09-19")
    assert column(weeks, "close") == pytest.approx(column(days, "close")[1:], rel=1e-6)
    assert column(weeks, "volume")[0] == sum(column(days, "volume")[:2])


@pytest.mark.parametrize(
    ("now", "newest"),
    [
        ("2024-09-18T12:00", ["Tue 09-17 13:30:00"]),
        ("2024-09-18T15:12:33", ["Tue 09-17 13:30:00", "Wed 09-18 15:12:33"]),
        ("2024-09-18T20:30", ["Tue 09-17 13:30:00", "Wed 09-18 20:00:02"]),
        ("2024-09-19T01:30", ["Wed 09-18 13:30:00", "Wed 09-18 20:00:02"]),
        ("2024-09-19T12:00", ["Tue 09-17 13:30:00", "Wed 09-18 13:30:00"]),
    ],
)
def test_the_newest_day_is_a_live_quote_until_midnight_there(now: str, newest: list[str]) -> None:
    result = chart(now, "1d", "2024-09-10", "2024-09-20")
    assert stamps(result)[-len(newest) :] == newest


def test_the_volume_of_the_evening_grows_until_the_next_day() -> None:
    evening = column(chart("2024-09-18T21:00", "1d", "2024-09-10", "2024-09-20"), "volume")
    morning = column(chart("2024-09-19T12:00", "1d", "2024-09-10", "2024-09-20"), "volume")
    assert evening[:-1] == morning[: len(evening) - 1]
    assert 0.9 < evening[-1] / morning[-1] < 1


@pytest.mark.parametrize(
    ("now", "close"),
    [("2024-05-03T22:00", "Fri 05-03 20:00:00"), ("2024-11-29T20:00", "Fri 11-29 18:00:00")],
)
def test_an_intraday_answer_ends_with_a_flat_row_at_the_close(now: str, close: str) -> None:
    """As NVDA's hours of 2024-05-03; the second day is a half day."""
    day = now[:10]
    result = chart(now, "60m", day, now)
    assert stamps(result)[-1] == close
    assert stamps(result)[0].endswith("30:00")
    assert column(result, "volume")[-1] == 0
    (flat,) = {column(result, name)[-1] for name in ("open", "high", "low", "close")}
    assert flat == pytest.approx(column(result, "close")[-2], rel=5e-7)
    assert result["meta"]["dataGranularity"] == "1h"


def test_prices_are_float32_and_differ_in_the_7th_digit() -> None:
    via = client("2024-09-19T12:00")
    answers = [
        answer(via, "SIM1", "1d", "2024-01-01", "2024-09-19").json["chart"]["result"][0]
        for _ in range(2)
    ]
    first, second = (np.array(column(result, "close")) for result in answers)
    assert (first == first.astype(np.float32)).all()
    assert (first != second).any()
    np.testing.assert_allclose(first, second, rtol=5e-7)
    again = answer(client("2024-09-19T12:00"), "SIM1", "1d", "2024-01-01", "2024-09-19")
    assert again.json["chart"]["result"][0]["indicators"] == answers[0]["indicators"]


@pytest.mark.parametrize(
    ("interval", "days", "status"),
    [("30m", 59, 200), ("30m", 61, 422), ("5m", 61, 422), ("60m", 729, 200), ("60m", 731, 422)],
)
def test_the_reach_is_60_or_730_days(interval: str, days: int, status: int) -> None:
    now = at("2024-09-19T12:00")
    start = (now - timedelta(days=days)).isoformat()[:19]
    response = answer(client("2024-09-19T12:00"), "SIM1", interval, start, "2024-09-19")
    assert response.status_code == status
    if status == 422:
        assert response.json["chart"]["error"]["code"] == "Unprocessable Entity"


@pytest.mark.parametrize(
    ("agent", "status"),
    [
        (CHROME, 200),
        (FIREFOX, 200),
        (CHROME.replace(" Safari/537.36", ""), 429),
        ("Mozilla/5.0", 429),
        ("python-requests/2.32.3", 429),
        ("", 429),
    ],
)
def test_clients_that_do_not_look_like_a_browser_get_a_429(agent: str, status: int) -> None:
    url = "/v8/finance/chart/SIM1?period1=1726000000&period2=1726600000"
    response = client("2024-09-19T12:00").get(url, headers={"User-Agent": agent})
    assert response.status_code == status
    assert "Retry-After" not in response.headers


def test_events_are_splits_and_dividends_until_the_windows_end() -> None:
    via = create_app(clock=lambda: at("2013-03-02"), shifted=False).test_client()
    result = answer(via, "AAPL", "1d", "2000-03-01", "2013-03-02").json["chart"]["result"][0]
    splits = result["events"]["splits"].values()
    assert [(split["splitRatio"], split["date"]) for split in splits] == [
        ("2:1", int(at("2000-06-21T13:30").timestamp())),
        ("2:1", int(at("2005-02-28T14:30").timestamp())),
    ]
    paid = [datetime.fromtimestamp(d["date"], UTC) for d in result["events"]["dividends"].values()]
    assert [f"{day:%Y-%m-%d}" for day in paid] == ["2012-08-09", "2012-11-07", "2013-02-07"]
    early = answer(via, "AAPL", "1d", "2000-03-01", "2005-02-28").json["chart"]["result"][0]
    assert len(early["events"]["splits"]) == 1


def test_adjusted_closes_follow_the_recorded_ones() -> None:
    """In proportion: the recorded column is adjusted for what came after 2013, too."""
    recorded = daily_stocks()["MSFT"].adjusted_close
    via = create_app(clock=lambda: at("2013-03-04"), shifted=False).test_client()
    result = answer(via, "MSFT", "1d", "2000-03-01", "2013-03-02").json["chart"]["result"][0]
    adjusted = np.array(result["indicators"]["adjclose"][0]["adjclose"])
    assert len(adjusted) == len(recorded)
    np.testing.assert_allclose(adjusted / adjusted[-1], recorded / recorded[-1], rtol=2e-3)
