"""Schedules as users write them, in TOML.

[[schedule]]
name = "us"
exchanges = ["XNYS"]                       # or asset_classes, or both; neither: everything
time = "00:45"
zone = "America/New_York"                  # not given: UTC
days = ["Tue", "Wed", "Thu", "Fri", "Sat"]  # not given: every day

>>> (schedule,) = parse_schedules('schedule = [{name = "all", time = "6:00"}]')
>>> schedule.name, str(schedule.time), schedule.zone.key
('all', '06:00:00', 'UTC')
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import time
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from enrichment.domain.errors import ConfigurationError, InvalidRequest
from enrichment.domain.exchanges import EXCHANGES
from enrichment.domain.model import AssetClass
from enrichment.domain.schedules import WEEKDAYS, Schedule, overlap
from enrichment.domain.toml_tables import invalid_field, read_tables, read_text, require_known

SETTING = "SCHEDULES"
_DAYS = {
    form: number
    for number, name in enumerate(
        ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    )
    for form in (name, name[:3])
}
_FIELDS = ("name", "asset_classes", "exchanges", "time", "zone", "days")


def parse_schedules(text: str) -> tuple[Schedule, ...]:
    """The schedules of a TOML document, or of the file with that path.

    A text with `=`, which every document needs, is a document.

    Raises:
        ConfigurationError: It names the file, the schedule and how to fix it.
    """
    source = SETTING if "=" in text else text
    document = text if "=" in text else read_text(Path(text), "schedules", SETTING)
    tables = read_tables(source, document, "schedule")
    if not tables:
        raise ConfigurationError(
            f"{source}: it has no schedule: write each as [[schedule]], or remove {SETTING}"
        )
    schedules = tuple(_schedule(source, n, table) for n, table in enumerate(tables, 1))
    names = [schedule.name for schedule in schedules]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{source}: two schedules are named {name!r}: rename one")
    if found := overlap(schedules):
        one, other, (kind, mic) = found
        market = f"{kind} of {mic}" if mic else kind
        raise ConfigurationError(
            f"{source}: the schedules {one.name!r} and {other.name!r} both cover {market}: each "
            "symbol belongs to one schedule, limit one of them by asset_classes or exchanges"
        )
    return schedules


def _schedule(source: str, position: int, table: Mapping[str, Any]) -> Schedule:
    name = table.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w-]{0,39}", name):
        expected = "a letter, then letters, digits, '_' and '-'"
        raise _invalid(source, f"number {position}", "name", expected, name)
    require_known(source, f"schedule {name}", table, _FIELDS)

    def listed(field: str, parse: Callable[[str], Any], expected: str) -> list[Any]:
        values = table.get(field)
        if not isinstance(values, list) or not values:
            raise _invalid(source, name, field, expected, values)
        try:
            return [parse(value) for value in values]
        except (KeyError, AttributeError, InvalidRequest):
            raise _invalid(source, name, field, expected, values) from None

    classes, exchanges, days = list(AssetClass), [], list(range(7))
    if "exchanges" in table:
        codes = f"a list of {', '.join(EXCHANGES)} (XNYS is all of the United States)"
        exchanges = listed("exchanges", lambda code: EXCHANGES[code.strip().upper()].mic, codes)
        classes = [AssetClass.STOCK, AssetClass.ETF]
    if "asset_classes" in table:
        classes = listed("asset_classes", AssetClass.parse, f"a list of {', '.join(AssetClass)}")
    if exchanges and AssetClass.CRYPTO in classes:
        raise ConfigurationError(
            f"{source}: schedule {name}: crypto trades on no exchange: give it a schedule of its "
            "own, or leave out exchanges"
        )
    if "days" in table:
        days = listed("days", _weekday, f"a list of {', '.join(WEEKDAYS)}")
    return Schedule(
        name,
        _time(source, name, table.get("time")),
        _zone(source, name, table.get("zone", "UTC")),
        tuple(sorted(set(days))),
        tuple(kind for kind in AssetClass if kind in classes),
        tuple(dict.fromkeys(exchanges)),
    )


def _weekday(text: str) -> int:
    """The number of a weekday by its name or the first three letters of it."""
    return _DAYS[text.strip().lower()]


def _time(source: str, name: str, value: object) -> time:
    """A time as text, or as TOML writes it."""
    if isinstance(value, time) and value == value.replace(second=0, microsecond=0):
        return value
    match = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", value if type(value) is str else "")
    if match is None:
        raise _invalid(source, name, "time", 'a time such as "00:45", to the minute', value)
    return time(int(match[1]), int(match[2]))


def _zone(source: str, name: str, value: object) -> ZoneInfo:
    try:
        return ZoneInfo(value if isinstance(value, str) else "")
    except (KeyError, ValueError, OSError):
        close = get_close_matches(str(value), available_timezones(), 1)
        example = close[0] if close else "America/New_York"
        expected = f'an IANA time zone such as "{example}"'
        raise _invalid(source, name, "zone", expected, value) from None


def _invalid(
    source: str, schedule: str, field: str, expected: str, value: object
) -> ConfigurationError:
    value = str(value) if isinstance(value, time) else value
    return invalid_field(source, f"schedule {schedule}", field, expected, value)
