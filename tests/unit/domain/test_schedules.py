"""Schedules: one slot per local date whatever clocks do, and one schedule per symbol."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from enrichment.domain.errors import ConfigurationError
from enrichment.domain.exchanges import BY_SUFFIX
from enrichment.domain.model import AssetClass
from enrichment.domain.schedule_toml import parse_schedules
from enrichment.domain.schedules import MARKETS, Schedule, market_of, nightly, uncovered

ZONES = (
    *("UTC", "America/New_York", "Europe/London", "Atlantic/Azores", "Australia/Lord_Howe"),
    *("America/Santiago", "Asia/Kolkata", "Africa/Casablanca"),
)
TIMES = [time(hour, minute) for hour in (0, 1, 2, 3, 23) for minute in (0, 15, 45)]
YEARS = pd.date_range("2025-01-01", "2026-12-31", freq="D")

US_AND_CRYPTO = """
[[schedule]]
name = "us"
exchanges = ["XNYS"]
time = "00:45"
zone = "America/New_York"
days = ["Tue", "wednesday", "Thu", "Fri", "Sat"]

[[schedule]]
name = "crypto"
asset_classes = ["crypto"]
time = 00:10:00
"""


@pytest.mark.parametrize("zone", [zone for zone in ZONES if zone != "Australia/Lord_Howe"])
def test_each_local_date_has_the_slot_that_pandas_finds(zone: str) -> None:
    for at in TIMES:
        schedule = Schedule("s", at, ZoneInfo(zone))
        local = YEARS + pd.Timedelta(hours=at.hour, minutes=at.minute)
        first = local.tz_localize(zone, ambiguous=[True] * len(local), nonexistent="shift_forward")
        slots = [schedule.slot(day.date()) for day in YEARS]
        assert [slot.at for slot in slots] == list(first.tz_convert("UTC").to_pydatetime())
        assert all(one.at < other.at for one, other in pairwise(slots))


@pytest.mark.parametrize(
    ("zone", "local", "utc"),
    [
        ("America/New_York", "2026-03-08 02:30", "2026-03-08 07:00"),  # 03:00, there is no 02:30
        ("America/New_York", "2026-11-01 01:30", "2026-11-01 05:30"),  # the first of two
        ("Australia/Lord_Howe", "2025-10-05 02:15", "2025-10-04 15:30"),  # 02:30: half an hour
        ("Pacific/Apia", "2011-12-30 12:00", "2011-12-30 10:00"),  # the whole day was left out
    ],
)
def test_skipped_and_repeated_times(zone: str, local: str, utc: str) -> None:
    at = datetime.fromisoformat(local)
    slot = Schedule("s", at.time(), ZoneInfo(zone)).slot(at.date())
    assert slot.at == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@pytest.mark.parametrize("zone", ZONES)
def test_every_tick_finds_the_newest_slot_and_the_next_one(zone: str) -> None:
    days = (date(2026, month, day) for month in (3, 4, 10, 11) for day in (7, 28))
    schedule = Schedule("s", time(2, 30), ZoneInfo(zone))
    for day in days:
        slots = [schedule.slot(day + timedelta(days=n)) for n in range(-2, 8)]
        now = datetime.combine(day, time(), tzinfo=UTC)
        for _ in range(200):
            before = [slot for slot in slots if slot.at <= now]
            assert schedule.last_slot(now) == before[-1]
            assert schedule.next_slot(now) == slots[len(before)]
            now += timedelta(minutes=30)


def test_a_schedule_of_some_days_runs_on_these_of_its_own_clock() -> None:
    us, _ = parse_schedules(US_AND_CRYPTO)
    newest = list(islice(us.slots_before(datetime(2026, 11, 30, 12, tzinfo=UTC)), 6))
    assert [f"{slot.date:%a %d}" for slot in newest] == [
        *("Sat 28", "Fri 27", "Thu 26", "Wed 25", "Tue 24", "Sat 21"),
    ]
    assert newest[0].at == datetime(2026, 11, 28, 5, 45, tzinfo=UTC)


@pytest.mark.parametrize(
    ("missed_for", "allowed"), [(20, True), (20.01, False)], ids=["20 hours", "later"]
)
def test_a_daily_slot_is_caught_up_for_20_hours(missed_for: float, allowed: bool) -> None:
    slot = nightly().slot(date(2026, 3, 8))
    assert nightly().may_catch_up(slot, slot.at + timedelta(hours=missed_for)) is allowed


def test_a_weekly_slot_is_caught_up_until_the_next_is_near() -> None:
    weekly = Schedule("weekly", time(6), ZoneInfo("UTC"), days=(5,))
    slot = weekly.slot(date(2026, 3, 7))
    assert weekly.may_catch_up(slot, slot.at + timedelta(days=6, hours=20))
    assert not weekly.may_catch_up(slot, slot.at + timedelta(days=6, hours=20, minutes=1))


def test_what_users_write_is_read(tmp_path: Path) -> None:
    us, crypto = parse_schedules(US_AND_CRYPTO)
    assert (us.time, us.zone.key, us.days) == (time(0, 45), "America/New_York", (1, 2, 3, 4, 5))
    assert (us.asset_classes, us.exchanges) == ((AssetClass.STOCK, AssetClass.ETF), ("XNYS",))
    assert (crypto.time, crypto.zone.key, crypto.days) == (time(0, 10), "UTC", tuple(range(7)))
    file = tmp_path / "schedules.toml"
    file.write_text(US_AND_CRYPTO, encoding="utf-8")
    assert parse_schedules(str(file)) == (us, crypto)


def test_a_symbol_is_covered_by_its_exchange_and_asset_class() -> None:
    us, crypto = parse_schedules(US_AND_CRYPTO)
    symbols = ("AAPL", "BRK.B", "VOD.L", "BRK-B.TO")
    assert [us.covers(AssetClass.STOCK, symbol) for symbol in symbols] == [True, True, False, False]
    assert us.covers(AssetClass.ETF, "SPY")
    assert not us.covers(AssetClass.CRYPTO, "X:BTCUSD")
    assert crypto.covers(AssetClass.CRYPTO, "X:BTCUSD")
    tracked = [market_of(AssetClass.STOCK, symbol) for symbol in symbols]
    left_out = uncovered([us, crypto], Counter(tracked))
    assert left_out == {(AssetClass.STOCK, "XLON"): 1, (AssetClass.STOCK, "XTSE"): 1}


def test_the_default_schedule_covers_every_market() -> None:
    assert nightly().markets == MARKETS
    assert {(AssetClass.ETF, exchange.mic) for exchange in BY_SUFFIX.values()} <= MARKETS


def one(**fields: object) -> str:
    """A document with one schedule, and these fields as TOML writes them."""
    written = {"name": '"us"', "time": '"0:45"', **fields}
    return "[[schedule]]\n" + "\n".join(f"{key} = {value}" for key, value in written.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (one(zone='"America/NewYork"'), 'us: zone must be an IANA .* "America/New_York", is'),
        (one(zone='"../etc/passwd"'), "us: zone must be an IANA time zone"),
        (one(zone='"America"'), "us: zone must be an IANA time zone"),
        (one(zone="5"), "us: zone must be an IANA time zone .*, is 5"),
        (one(time='"24:00"'), "us: time must be a time such as \"00:45\", .*, is '24:00'"),
        (one(time="00:45:30"), "us: time must be .*, to the minute, is '00:45:30'"),
        ('schedule = [{name = "us"}]', "us: time must be a time .*, is missing"),
        (one(days='["Tues"]'), "us: days must be a list of Mon, Tue, .*, is"),
        (one(days="[]"), "us: days must be a list"),
        (one(days="[1]"), "us: days must be a list"),
        (one(asset_classes='["forex"]'), "us: asset_classes must be a list of stock, etf, crypto"),
        (one(asset_classes='"stock"'), "us: asset_classes must be a list of .*, is 'stock'"),
        (one(asset_classes="[]"), "us: asset_classes must be a list"),
        (one(exchanges='["NASDAQ"]'), "us: exchanges must be a list of XNYS, .*, is .'NASDAQ'."),
        (one(exchanges="[3]"), "us: exchanges must be a list"),
        (one(exchanges='["XNYS"]', asset_classes='["crypto"]'), "crypto trades on no exchange"),
        (one(hour="3"), "us: unknown field hour: known are name, asset_classes"),
        (one(name='"1st"'), "schedule number 1: name must be a letter, then"),
        (f"{one()}\n{one()}", "two schedules are named 'us': rename one"),
        (
            "\n".join((one(name='"all"'), one(exchanges='["XNYS"]'))),
            "schedules 'all' and 'us' both cover etf of XNYS: .* limit one of them",
        ),
        ("schedule = []", "it has no schedule: write each as"),
        ("schedule = 5", "schedule is not valid"),
        ("shedule = []", "shedule is not valid: write each schedule as"),
        ("[[schedule]\nname = 1", "SCHEDULES: not TOML"),
        ("/no/such/file.toml", "/no/such/file.toml: the schedules can't be read .*correct SCHEDU"),
        ("/", "the schedules can't be read"),
    ],
)
def test_a_wrong_schedule_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        parse_schedules(text)
    assert "\n" not in str(refused.value)
