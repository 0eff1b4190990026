"""Polygon's aggregates in the sandbox, through Flask's test client."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from enrichment.sandbox import create_app

NOW = datetime(2024, 12, 26, 12, tzinfo=UTC)
KEY = {"Authorization": "Bearer any"}
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
            [milliseconds(2024, 7, 3, h) for h in (12, 16)],
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
        assert url is None or url.startswith("http://localhost/v2/aggs/ticker/AAPL/range/1/day/")
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


def test_recorded_prices_are_never_called_adjusted() -> None:
    for asked in ("true", "false"):
        dates = "2024-12-23/2024-12-24"
        assert (
            get(f"/v2/aggs/ticker/AAPL/range/1/day/{dates}?adjusted={asked}")["adjusted"] is False
        )
        simulated = get(f"/v2/aggs/ticker/SIM1/range/1/day/{dates}?adjusted={asked}")
        assert simulated["adjusted"] is (asked == "true")


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
    first = get(RANGE.format("AAPL", "1/day", "2000-01-01", "2013-12-31") + "?limit=1", via)
    assert first["results"][0]["c"] == 130.31
    assert via.put("/_sandbox/replay", json={"shifted": "no"}).status_code == 400
    assert via.put("/_sandbox/replay", json={"anchor": "soon"}).status_code == 400
    assert via.put("/_sandbox/replay", json={"anchor": "2020-06-01"}).json == {
        "anchor": "2020-06-01T00:00:00+00:00",
        "shifted": False,
    }
