"""Injected faults: their descriptions, when they apply, and what they do to a response."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from enrichment.domain.errors import InvalidRequest
from enrichment.sandbox import Fault, create_app, parse_fault
from enrichment.sandbox.faults import FaultRegistry

NOW = datetime(2024, 12, 26, 12, tzinfo=UTC)
DAYS = "/v2/aggs/ticker/SIM1/range/1/day/2024-12-01/2024-12-20"
KEY = {"Authorization": "Bearer any"}


def client(*faults: str) -> FlaskClient:
    return create_app(clock=lambda: NOW, faults=map(parse_fault, faults)).test_client()


def rows(*faults: str, url: str = DAYS) -> list[dict[str, Any]]:
    answer = client(*faults).get(url, headers=KEY)
    assert answer.status_code == 200
    results: list[dict[str, Any]] = answer.json.get("results", [])
    return results


def changed(*faults: str) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
    """Stamp → the bar without and with the faults, where they differ."""
    pairs = zip(rows(), rows(*faults), strict=True)
    return {a["t"]: (a, b) for a, b in pairs if a != b}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("AAPL:reset", Fault("AAPL", "reset")),
        ("*:latency:seconds=1.5", Fault("*", "latency", seconds=1.5)),
        (
            "AAPL:server_error:times=3,status=503",
            Fault("AAPL", "server_error", times=3, status=503),
        ),
        ("x:sim1usd:hang", Fault("X:SIM1USD", "hang", seconds=3600)),
        (
            "SIM1:missing:bars=2024-12-03|2024-12-04T14:30:00",
            Fault(
                "SIM1",
                "missing",
                bars=(
                    datetime(2024, 12, 3, tzinfo=UTC),
                    datetime(2024, 12, 4, 14, 30, tzinfo=UTC),
                ),
            ),
        ),
    ],
)
def test_the_command_line_form(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("AAPL", "write TICKER:KIND"),
        ("AAPL:earthquake", "choose one of latency"),
        ("AAPL:reset:status=500", "use ticker, kind, vendor, probability, times"),
        ("AAPL:hang:seconds", "write name=value"),
        ("AAPL:hang:seconds=-1", "seconds from 0"),
        ("AAPL:hang:seconds=nan", "seconds from 0"),
        ("AAPL:reset:times=1.5", "a whole number"),
        ("AAPL:reset:probability=2", "a number from 0 to 1"),
        ("AAPL:missing:bars=soon", "ISO timestamps"),
        ("AAPL:corrupt:mode=odd", "one of inverted"),
        ("AAPL:restated:factor=0", "a number above 0"),
    ],
)
def test_a_bad_description_is_refused_with_the_remedy(text: str, remedy: str) -> None:
    with pytest.raises(InvalidRequest, match=remedy):
        parse_fault(text)


@given(st.text(max_size=40))
def test_any_text_is_a_fault_or_refused(text: str) -> None:
    try:
        fault = parse_fault(text)
    except InvalidRequest:
        return
    described = json.loads(json.dumps(fault.describe(), default=str))
    assert Fault.of(described) == fault


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=4))
def test_any_json_value_of_a_parameter_is_accepted_or_refused(value: object) -> None:
    for name in ("ticker", "probability", "times", "bars", "n", "mode"):
        with suppress(InvalidRequest):
            Fault.of({"kind": "corrupt", name: value})


def test_a_fault_applies_to_the_given_number_of_requests() -> None:
    via = client("SIM1:server_error:times=2,status=503")
    assert [via.get(DAYS, headers=KEY).status_code for _ in range(4)] == [503, 503, 200, 200]


def test_a_fault_applies_to_its_ticker_only() -> None:
    via = client("AAPL:server_error")
    assert via.get(DAYS, headers=KEY).status_code == 200
    assert via.get(DAYS.replace("SIM1", "AAPL"), headers=KEY).status_code == 500


def test_probability_is_seeded() -> None:
    def applied(seed: int) -> list[bool]:
        registry = FaultRegistry([Fault("*", "reset", probability=0.3)], seed)
        return [bool(registry.draw("AAPL", "polygon")[0]) for _ in range(1000)]

    assert applied(1) == applied(1) != applied(2)
    assert 250 < sum(applied(1)) < 350


def test_a_fault_behind_one_that_ends_the_request_is_not_used_up() -> None:
    via = client("SIM1:server_error:times=1", "SIM1:rate_limit:times=1,seconds=7")
    first, second = via.get(DAYS, headers=KEY), via.get(DAYS, headers=KEY)
    assert [first.status_code, second.status_code] == [500, 429]
    assert second.headers["Retry-After"] == "7"


@pytest.mark.parametrize(
    ("fault", "status", "word"),
    [
        ("*:unauthorized", 401, "Unknown API Key"),
        ("*:forbidden", 403, "NOT_AUTHORIZED"),
        ("*:html", 502, "<html>"),
        ("*:html:status=200", 200, "<html>"),
    ],
)
def test_refusals_and_pages(fault: str, status: int, word: str) -> None:
    answer = client(fault).get(DAYS, headers=KEY)
    assert answer.status_code == status
    assert word in answer.text


def test_truncated_json_is_cut() -> None:
    whole, cut = (client(*f).get(DAYS, headers=KEY).data for f in ((), ("*:truncated",)))
    assert whole.startswith(cut)
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut)


def test_empty_has_no_results() -> None:
    assert rows("SIM1:empty") == []


def test_given_and_seeded_bars_are_missing_from_any_window() -> None:
    stamps = [row["t"] for row in rows()]
    given_gone = [row["t"] for row in rows("SIM1:missing:bars=2024-12-03|2024-12-05")]
    assert [t for t in stamps if t not in given_gone] == [stamps[1], stamps[3]]
    seeded = [row["t"] for row in rows("SIM1:missing:n=4")]
    assert len(seeded) == len(stamps) - 4
    assert seeded == [row["t"] for row in rows("SIM1:missing:n=4")]


def test_seeded_bars_are_missing_once_over_all_pages() -> None:
    via, url, count = client("SIM1:missing:n=3"), f"{DAYS}?limit=4", 0
    while url:
        body = via.get(url, headers=KEY).json
        count, url = count + body["resultsCount"], body.get("next_url")
    assert count == len(rows()) - 3


def test_duplicates_and_disorder() -> None:
    stamps = [row["t"] for row in rows()]
    doubled = [row["t"] for row in rows("SIM1:duplicate:n=2")]
    assert sorted(set(doubled)) == stamps
    assert len(doubled) == len(stamps) + 2
    for bar in ("2024-12-05", "2024-12-20"):
        moved = [row["t"] for row in rows(f"SIM1:out_of_order:bars={bar}")]
        assert sorted(moved) == stamps != moved


@pytest.mark.parametrize(
    ("mode", "is_bad"),
    [
        ("inverted", lambda row: row["h"] < row["l"]),
        ("null", lambda row: row["c"] is None),
        ("negative_volume", lambda row: row["v"] < 0),
        ("zero_price", lambda row: row["c"] == 0),
        ("text", lambda row: row["c"] == "oops"),
    ],
)
def test_corrupt_bars(mode: str, is_bad: Any) -> None:
    found = changed(f"SIM1:corrupt:mode={mode},bars=2024-12-04")
    ((before, after),) = found.values()
    assert is_bad(after)
    assert not is_bad(before)


def test_a_bare_nan_is_not_json() -> None:
    text = client("SIM1:corrupt:mode=nan,n=2").get(DAYS, headers=KEY).text
    assert text.count('"c":NaN') == 2


def test_a_restated_close_leaves_a_valid_bar() -> None:
    found = changed("SIM1:restated:factor=1.2,n=2")
    assert list(found) == [row["t"] for row in rows()][-2:]
    for before, after in found.values():
        assert after["c"] == pytest.approx(before["c"] * 1.2)
        assert after["l"] <= after["c"] <= after["h"]
        assert after["o"] == before["o"]


def test_a_restated_history_changes_by_one_factor() -> None:
    found = changed("SIM1:restated:factor=0.5,n=1000,columns=all")
    assert len(found) == len(rows())
    for before, after in found.values():
        assert [after[k] / before[k] for k in "ohlc"] == pytest.approx([0.5] * 4)
        assert after["v"] == before["v"]


def test_the_control_endpoint() -> None:
    via = client()
    fault = {"ticker": "SIM1", "kind": "server_error", "times": 1, "status": 503}
    assert via.post("/_sandbox/faults", json=[fault]).status_code == 200
    assert via.get(DAYS, headers=KEY).status_code == 503
    assert via.get("/_sandbox/faults").json == [{**fault, "probability": 1.0, "struck": 1}]
    assert via.get(DAYS, headers=KEY).status_code == 200
    via.get(DAYS)
    assert via.get("/_sandbox/requests").json == {
        "total": 3,
        "by_ticker": {"SIM1": 3},
        "by_outcome": {"server_error": 1, "ok": 1, "unauthorized": 1},
        "requests": [
            {"ticker": "SIM1", "outcome": "ok", "count": 1},
            {"ticker": "SIM1", "outcome": "server_error", "count": 1},
            {"ticker": "SIM1", "outcome": "unauthorized", "count": 1},
        ],
    }
    assert via.delete("/_sandbox/faults").json == []
    assert via.delete("/_sandbox/requests").json["total"] == 0
    assert via.get("/_sandbox/health").json["status"] == "ok"


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "[1]",
        "[",
        '[{"kind": "reset"}, {"kind": "odd"}]',
        '[{"kind": "reset"}, {"kind": "reset", "vendor": "bloomberg"}]',
    ],
)
def test_the_control_endpoint_adds_all_faults_or_none(body: str) -> None:
    via = client()
    answer = via.post("/_sandbox/faults", data=body)
    assert answer.status_code == 400
    assert answer.json["error"]
    assert via.get("/_sandbox/faults").json == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 400),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 400),
        ({"Content-Type": "application/json", "Origin": "http://evil.example"}, 403),
        ({"Content-Type": "application/json", "Host": "evil.example"}, 400),
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "application/json", "Origin": "http://localhost"}, 200),
    ],
)
def test_pages_of_other_sites_can_not_control_the_sandbox(
    headers: dict[str, str], status: int
) -> None:
    via = create_app().test_client()
    assert via.post("/_sandbox/faults", data=b"[]", headers=headers).status_code == status
