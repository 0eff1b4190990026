"""Polygon's aggregates in the sandbox, through Flask's test client."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from enrichment.sandbox import create_app

NOW = datetime(2024, 12, 26, 12, tzinfo=UTC)
KEY = {"Authorization": "Bearer any"}
OTHER_HOST = "https://api.massive.com"
RANGE = "/v2/aggs/ticker/{}/range/{}/{}/{}"


class Clock:
    """A wall clock that tests set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def client(**options: Any) -> FlaskClient:
    return create_app(**{"clock": Clock(), **options}).test_client()


def get(url: str, via: FlaskClient | None = None) -> dict[str, Any]:
    answer = (via or client()).get(url, headers=KEY)
    assert answer.status_code == 200, answer.text
    assert answer.content_type == "application/json"
    body: dict[str, Any] = answer.json
    return body


def milliseconds(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1000)


def test_the_body_is_polygons() -> None:
    body = get(RANGE.format("SIM1", "1/day", "2024-12-23", "2024-12-24"))
    results = body.pop("results")
    assert re.fullmatch(r"[0-9a-f]{32}", body.pop("request_id"))
    assert body == {
        "ticker": "SIM1",
        "queryCount": 2,
        "resultsCount": 2,
        "adjusted": True,
        "status": "OK",
        "count": 2,
    }
    assert [set(row) for row in results] == [set("vochltn") | {"vw"}] * 2
    # midnight in New York is 05:00 UTC in winter
    assert [row["t"] for row in results] == [
        milliseconds(2024, 12, 23, 5),
        milliseconds(2024, 12, 24, 5),
    ]


@pytest.mark.parametrize(
    ("ticker", "span", "dates", "stamps"),
    [
        ("SIM1", "1/day", "2024-07-02/2024-07-02", [milliseconds(2024, 7, 2, 4)]),
        ("SIM1", "1/week", "2024-06-30/2024-07-06", [milliseconds(2024, 6, 30, 4)]),
        ("X:SIM1USD", "1/day", "2024-07-02/2024-07-02", [milliseconds(2024, 7, 2)]),
        ("X:SIM1USD", "1/week", "2024-06-30/2024-07-06", [milliseconds(2024, 6, 30)]),
        (
            "SIM1",
            "4/hour",
            "2024-07-03/2024-07-03",
            [milliseconds(2024, 7, 3, h) for h in (8, 12, 16, 20)],
        ),
        ("AAPL", "1/week", "2024-12-22/2024-12-28", [milliseconds(2024, 12, 22, 5)]),
    ],
)
def test_bars_are_stamped_as_polygon_stamps_them(
    ticker: str, span: str, dates: str, stamps: list[int]
) -> None:
    body = get(f"/v2/aggs/ticker/{ticker}/range/{span}/{dates}?limit=50000")
    assert [row["t"] for row in body["results"]] == stamps


def test_milliseconds_bound_the_range_on_both_sides() -> None:
    first, last = milliseconds(2024, 12, 23, 14, 30), milliseconds(2024, 12, 23, 14, 40)
    body = get(f"/v2/aggs/ticker/SIM1/range/5/minute/{first}/{last}")
    assert [row["t"] for row in body["results"]] == [first, first + 300_000, last]
    assert "results" not in get(f"/v2/aggs/ticker/SIM1/range/5/minute/{first + 1}/{first + 2}")


@pytest.mark.parametrize("sort", ["asc", "desc"])
@pytest.mark.parametrize("limit", [7, 20, 5000])
def test_pages_make_up_the_whole_range(sort: str, limit: int) -> None:
    via = client()
    url: str | None = RANGE.format("AAPL", "1/day", "2024-10-01", "2024-12-24") + (
        f"?sort={sort}&limit={limit}"
    )
    rows: list[dict[str, Any]] = []
    while url is not None:
        body = get(url, via)
        assert 0 < body["resultsCount"] == len(body["results"]) <= limit
        rows += body["results"]
        url = body.get("next_url")
        assert url is None or url.startswith(f"{OTHER_HOST}/v2/aggs/ticker/AAPL/range/1/day/")
    stamps = [row["t"] for row in rows]
    assert stamps == sorted(set(stamps), reverse=sort == "desc")
    assert len(stamps) == 60


def test_the_limit_counts_minutes_and_the_key_stays_out_of_the_next_address() -> None:
    answer = client().get(
        RANGE.format("X:SIM1USD", "1/hour", "2024-12-01", "2024-12-20") + "?limit=600&apiKey=s3cret"
    )
    assert answer.json["resultsCount"] == 10
    assert answer.json["queryCount"] == 600
    assert "s3cret" not in answer.text


@pytest.mark.parametrize(("asked", "adjusted"), [("", True), ("true", True), ("false", False)])
def test_prices_are_adjusted_for_splits_unless_that_is_refused(asked: str, adjusted: bool) -> None:
    path = "/v2/aggs/ticker/AAPL/range/1/day/2012-01-03/2012-04-30?sort=asc&adjusted=" + asked
    body = get(path.removesuffix("&adjusted="))
    assert body["adjusted"] is adjusted
    (split,) = get("/stocks/v1/splits?ticker=AAPL&execution_date.lte=2012-12-31")["results"]
    closes = {row["t"] // 86_400_000: row["c"] for row in body["results"]}
    day = datetime.fromisoformat(split["execution_date"]).timestamp() // 86_400
    before = max(t for t in closes if t < day)
    ratio = closes[before] / closes[day]
    assert (ratio < 1.2) is adjusted


def test_an_unknown_ticker_is_ok_and_empty() -> None:
    body = get(RANGE.format("NOPE", "1/day", "2024-12-23", "2024-12-24"))
    assert body["status"] == "OK"
    assert body["resultsCount"] == 0
    assert "results" not in body


@pytest.mark.parametrize(
    "url",
    [
        "/v2/aggs/ticker/SIM1/range/2/day/2024-01-01/2024-02-01",
        "/v2/aggs/ticker/SIM1/range/x/day/2024-01-01/2024-02-01",
        "/v2/aggs/ticker/SIM1/range/1/moon/2024-01-01/2024-02-01",
        "/v2/aggs/ticker/SIM1/range/1/day/2024-13-01/2024-02-01",
        "/v2/aggs/ticker/SIM1/range/1/day/yesterday/2024-02-01",
        "/v2/aggs/ticker/SIM1/range/1/day/2024-03-01/2024-02-01",
        "/v2/aggs/ticker/SIM1/range/1/day/2024-01-01/2024-02-01?limit=0",
        "/v2/aggs/ticker/SIM1/range/1/day/2024-01-01/2024-02-01?limit=50001",
        "/v2/aggs/ticker/SIM1/range/1/day/2024-01-01/2024-02-01?limit=many",
        "/v2/aggs/ticker/SIM1/range/1/day/2024-01-01/2024-02-01?sort=up",
        "/v2/aggs/ticker/SIM1/range/1/day/2024-01-01/2024-02-01?adjusted=maybe",
        "/v2/aggs/ticker/SIM1/range/1/day/2024-01-01/2024-02-01?cursor=%C3%A9",
        f"/v2/aggs/ticker/SIM1/range/1/day/2024-01-01/{'9' * 30}",
    ],
)
def test_bad_parameters_are_a_400_in_polygons_format(url: str) -> None:
    answer = client().get(url, headers=KEY)
    assert answer.status_code == 400
    assert answer.json["status"] == "ERROR"
    assert answer.json["error"]
    assert answer.json["request_id"]


def test_extreme_ranges_are_served() -> None:
    via = client()
    assert (
        get(f"/v2/aggs/ticker/SIM1/range/1/day/0/{10**14}?limit=50000", via)["resultsCount"] > 6000
    )
    assert get(f"/v2/aggs/ticker/SIM1/range/1/day/{-(10**13)}/0", via)["resultsCount"] == 0


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({}, "", 401),
        ({"Authorization": "Bearer "}, "", 401),
        ({"Authorization": "Bearer wrong"}, "", 401),
        ({}, "?apiKey=wrong", 401),
        ({"Authorization": "Bearer right"}, "", 200),
        ({}, "?apiKey=right", 200),
    ],
)
def test_a_configured_key_is_the_only_one(headers: dict[str, str], query: str, status: int) -> None:
    url = RANGE.format("SIM1", "1/day", "2024-12-23", "2024-12-24") + query
    answer = client(api_key="right").get(url, headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json["status"] == "ERROR"
        assert answer.json["error"] == "Unknown API Key"


def test_a_quota_answers_429_until_the_minute_has_passed() -> None:
    clock = Clock()
    via = client(clock=clock, quota_per_minute=2)
    url = RANGE.format("SIM1", "1/day", "2024-12-23", "2024-12-24")
    statuses = []
    for seconds in (0, 10, 20, 59, 60):
        clock.now = NOW + timedelta(seconds=seconds)
        answer = via.get(url, headers=KEY)
        statuses.append((answer.status_code, answer.headers.get("Retry-After")))
    assert statuses == [(200, None), (200, None), (429, "40"), (429, "1"), (200, None)]
    assert via.get(url, headers={"Authorization": "Bearer other"}).status_code == 200


def test_the_replay_can_be_set_anew() -> None:
    via = client()
    answer = via.put("/_sandbox/replay", json={"shifted": False})
    assert answer.json["shifted"] is False
    path = RANGE.format("AAPL", "1/day", "2000-01-01", "2013-12-31")
    first = get(path + "?limit=1&adjusted=false", via)
    assert first["results"][0]["c"] == 130.31
    assert via.put("/_sandbox/replay", json={"shifted": "no"}).status_code == 400
    assert via.put("/_sandbox/replay", json={"anchor": "soon"}).status_code == 400
    assert via.put("/_sandbox/replay", json={"anchor": "2020-06-01"}).json == {
        "anchor": "2020-06-01T00:00:00+00:00",
        "shifted": False,
    }


def clock_at(text: str) -> Clock:
    clock = Clock()
    clock.now = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return clock


def hours_of(day: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = get(RANGE.format("SIM1", "1/hour", day, day))["results"]
    return rows


@pytest.mark.parametrize(("day", "first"), [("2024-12-23", 9), ("2024-07-02", 8)])
def test_stocks_hours_run_from_four_to_eight_in_new_york(day: str, first: int) -> None:
    """04:00 there is 09:00 UTC in winter, 08:00 in summer."""
    year, month, number = map(int, day.split("-"))
    start = milliseconds(year, month, number, first)
    assert [row["t"] for row in hours_of(day)] == [start + 3_600_000 * n for n in range(16)]


def test_the_hour_of_the_opening_mixes_trades_before_and_after_it() -> None:
    nine = hours_of("2024-12-23")[5]
    first, last = milliseconds(2024, 12, 23, 14), milliseconds(2024, 12, 23, 14, 59)
    halves = get(f"/v2/aggs/ticker/SIM1/range/30/minute/{first}/{last}")["results"]
    assert [row["t"] for row in halves] == [first, first + 1_800_000]
    assert nine["o"] == halves[0]["o"]
    assert nine["c"] == halves[1]["c"]
    assert nine["v"] == halves[0]["v"] + halves[1]["v"]
    assert halves[0]["v"] < halves[1]["v"] / 10


def test_a_bar_of_extended_hours_does_not_depend_on_the_page() -> None:
    url: str | None = RANGE.format("SIM1", "30/minute", "2024-12-20", "2024-12-23") + "?limit=210"
    via, rows = client(), []
    while url is not None:
        body = get(url, via)
        rows += body["results"]
        url = body.get("next_url")
    whole = get(RANGE.format("SIM1", "30/minute", "2024-12-20", "2024-12-23") + "?limit=50000")
    assert rows == whole["results"]
    assert len(rows) == 2 * 32


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        ("2020-01-01", "2024-12-23", "2022-12-27", "2024-12-23"),  # clipped to two years
        ("2024-12-20", "2024-12-26", "2024-12-20", "2024-12-24"),  # without the running day
        ("2024-12-20", "2024-12-27", "2024-12-20", "2024-12-24"),
    ],
)
def test_the_free_plan_clips_a_range(start: str, end: str, first: str, last: str) -> None:
    via = client(plan="free", clock=clock_at("2024-12-26T23:00"))
    rows = get(RANGE.format("SIM1", "1/day", start, end), via)["results"]
    days = [datetime.fromtimestamp(row["t"] / 1000, UTC).date().isoformat() for row in rows]
    assert (days[0], days[-1]) == (first, last)


@pytest.mark.parametrize(
    ("now", "start", "end", "status"),
    [
        ("2024-12-26T23:00", "2020-01-01", "2020-12-31", 403),
        ("2024-12-26T23:00", "2024-12-26", "2024-12-26", 403),
        ("2024-12-27T04:59", "2024-12-26", "2024-12-26", 403),  # a minute before midnight there
        ("2024-12-27T05:00", "2024-12-26", "2024-12-26", 200),
    ],
)
def test_the_free_plan_refuses_what_it_does_not_hold(
    now: str, start: str, end: str, status: int
) -> None:
    via = client(plan="free", clock=clock_at(now))
    answer = via.get(RANGE.format("SIM1", "1/day", start, end), headers=KEY)
    assert answer.status_code == status
    assert (answer.json["status"] == "NOT_AUTHORIZED") is (status == 403)


def test_a_burst_on_the_free_plan_blocks_the_key_for_minutes() -> None:
    clock = Clock()
    via = client(plan="free", clock=clock)
    url = RANGE.format("SIM1", "1/day", "2024-12-20", "2024-12-23")
    statuses = {}
    for seconds in (0, 0, 0, 0, 0, 1, 61, 149, 182):
        clock.now = NOW + timedelta(seconds=seconds)
        answer = via.get(url, headers=KEY)
        statuses[seconds] = answer.status_code
        assert "Retry-After" not in answer.headers
    assert statuses == {0: 200, 1: 429, 61: 429, 149: 429, 182: 200}


@pytest.mark.parametrize(
    ("ticker", "count"),
    [("BRK.B", 1), ("BACpL", 1), ("BRK-B", 0), ("BACPL", 0), ("BAC-PL", 0), ("sim1", 0)],
)
def test_tickers_are_case_sensitive_and_another_spelling_is_empty(ticker: str, count: int) -> None:
    assert get(RANGE.format(ticker, "1/day", "2024-12-23", "2024-12-23"))["resultsCount"] == count


def test_a_grouped_day_holds_the_rows_of_all_stocks() -> None:
    via = client(listed=3)
    body = get("/v2/aggs/grouped/locale/us/market/stocks/2024-12-24?adjusted=false", via)
    tickers = ["AAPL", "FB", "GOOG", "IBM", "MSFT", "BRK.B", "BACpL", "SIM1", "SIM2", "SIM3"]
    assert sorted(row["T"] for row in body["results"]) == sorted(tickers)
    assert body["resultsCount"] == body["queryCount"] == 10
    assert body["adjusted"] is False
    for row in body["results"]:
        # the day's bar is stamped at the close: 13:00 in New York, a half day
        assert row.pop("t") == milliseconds(2024, 12, 24, 18)
        (day,) = get(RANGE.format(row.pop("T"), "1/day", "2024-12-24", "2024-12-24"), via)[
            "results"
        ]
        del day["t"]
        assert row == day


def test_a_grouped_day_without_a_session_is_empty() -> None:
    body = get("/v2/aggs/grouped/locale/us/market/stocks/2024-12-25")
    assert body["resultsCount"] == 0
    assert "results" not in body


def test_a_grouped_day_has_a_stocks_restated_bar() -> None:
    via = client(listed=1)
    url = "/v2/aggs/grouped/locale/us/market/stocks/2024-12-24"
    before = {row["T"]: row["c"] for row in get(url, via)["results"]}
    fault = {"ticker": "SIM1", "kind": "restated", "bars": ["2024-12-24"], "factor": 1.5}
    assert via.post("/_sandbox/faults", json=[fault]).status_code == 200
    after = {row["T"]: row["c"] for row in get(url, via)["results"]}
    assert after.pop("SIM1") == pytest.approx(before.pop("SIM1") * 1.5)
    assert after == before


def test_the_free_plan_has_no_grouped_day_before_midnight() -> None:
    via = client(plan="free", listed=1, clock=clock_at("2024-12-27T01:30"))
    path = "/v2/aggs/grouped/locale/us/market/stocks/2024-12-{}"
    statuses = [via.get(path.format(day), headers=KEY).status_code for day in (24, 26)]
    assert statuses == [200, 403]
    assert via.get(path.format("x"), headers=KEY).status_code == 400


def unshifted(**options: Any) -> FlaskClient:
    return client(shifted=False, clock=clock_at("2013-03-05T12:00"), **options)


def test_splits() -> None:
    body = get("/stocks/v1/splits?ticker=AAPL&sort=execution_date.asc", unshifted())
    rows = [{k: v for k, v in row.items() if k != "id"} for row in body["results"]]
    assert rows == [
        {
            "ticker": "AAPL",
            "execution_date": day,
            "adjustment_type": "forward_split",
            "split_from": 1.0,
            "split_to": 2.0,
            "historical_adjustment_factor": factor,
        }
        for day, factor in (("2000-06-21", 0.25), ("2005-02-28", 0.5))
    ]
    recent = get(
        "/stocks/v1/splits?execution_date.gte=2003-01-01&limit=5000&ticker.lt=SIM", unshifted()
    )
    assert [(row["ticker"], row["execution_date"]) for row in recent["results"]] == [
        ("AAPL", "2005-02-28"),
        ("MSFT", "2003-02-18"),
    ]
    assert get("/stocks/v1/splits?ticker.lt=SIM", unshifted(plan="free"))["results"] == []


def test_dividends_are_paged() -> None:
    via, dates = unshifted(), []
    url: str | None = "/stocks/v1/dividends?ticker.any_of=AAPL,FB&limit=2"
    while url is not None:
        body = get(url, via)
        assert len(body["results"]) <= 2
        dates += [row["ex_dividend_date"] for row in body["results"]]
        url = body.get("next_url")
        assert url is None or url.startswith(f"{OTHER_HOST}/stocks/v1/dividends?")
    assert dates == ["2013-02-07", "2012-11-07", "2012-08-09"]
    (row,) = get("/stocks/v1/dividends?ticker=IBM&ex_dividend_date=2012-08-08", via)["results"]
    assert row["cash_amount"] == pytest.approx(0.85, rel=0.01)  # as IBM paid
    assert row["split_adjusted_cash_amount"] == row["cash_amount"]
    assert via.get("/stocks/v1/dividends?sort=odd", headers=KEY).status_code == 400


def test_a_ticker_is_described() -> None:
    details = get("/v3/reference/tickers/BACpL")["results"]
    assert (details["ticker"], details["market"], details["type"]) == ("BACpL", "stocks", "PFD")
    assert get("/v3/reference/tickers/X:SIM1USD")["results"]["market"] == "crypto"
    unknown = client().get("/v3/reference/tickers/BAC-PL", headers=KEY)
    assert (unknown.status_code, unknown.json["status"]) == (404, "NOT_FOUND")
