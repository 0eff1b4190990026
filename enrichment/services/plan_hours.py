"""Whether the hours of the schedules fit the plan on which a vendor serves.

A plan itself is not known before the vendor shows it: by the bars that it sends between the close
and midnight in New York. At other times the quota of the settings tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from enrichment.domain import calendars
from enrichment.domain.exchanges import NEW_YORK
from enrichment.domain.model import AssetClass, Timeframe
from enrichment.domain.schedules import DEFAULT_NAME, Schedule
from enrichment.vendors.registry import VendorSpec

CLOSE_HOUR = 16  # of New York, on a whole day
SETTLED = timedelta(hours=1)  # after which also a plan without delay has the day
FITTING_HOUR = 6  # UTC: past midnight in New York in summer and in winter
_YEAR = timedelta(days=366)
_NEW_YORK = ZoneInfo(NEW_YORK.timezone)


def plan_advice(
    vendor: VendorSpec,
    requests_per_minute: int,
    schedules: Sequence[Schedule],
    now: datetime,
    newest: date | None = None,
) -> str | None:
    """What to change so that each night has the newest session; None if nothing.

    Args:
        vendor: The one that is asked first for US stocks.
        requests_per_minute: Its quota in the settings.
        schedules: When jobs start.
        now: Timezone-aware.
        newest: Session of the newest daily bar that it has just sent; None if it was not asked.
    """
    reason = _is_withheld(vendor, requests_per_minute, now, newest)
    late = [schedule for schedule in schedules if starts_before_midnight(schedule, now)]
    if reason is None or not late:
        return None
    names = ", ".join(f"{schedule.name} ({schedule.when})" for schedule in late)
    fix = f"ENRICHMENT_HOUR={FITTING_HOUR} fits"
    if late[0].name != DEFAULT_NAME:
        fix = 'time = "00:45" and zone = "America/New_York" fit'
    return (
        f"{vendor.name} publishes a day of US stocks after midnight in New York on your plan "
        f"({reason}): {names} stores each session one run late; {fix}"
    )


def starts_before_midnight(schedule: Schedule, now: datetime) -> bool:
    """Whether a run of the next year that covers US stocks starts on the evening of a session."""
    if not {(AssetClass.STOCK, NEW_YORK.mic), (AssetClass.ETF, NEW_YORK.mic)} & schedule.markets:
        return False
    at = now
    while at < now + _YEAR:
        at = schedule.next_slot(at).at
        local = at.astimezone(_NEW_YORK)
        if local.hour >= CLOSE_HOUR and local.weekday() < 5:
            return True
    return False


def _is_withheld(
    vendor: VendorSpec, requests_per_minute: int, now: datetime, newest: date | None
) -> str | None:
    """Why the vendor is taken to withhold the day; None if it is not."""
    if vendor.end_of_day_rate is None:
        return None
    today = now.astimezone(_NEW_YORK).date()
    if newest is not None and _newest_session(now - SETTLED) == today:
        return f"it has just sent nothing of {today}" if newest < today else None
    if requests_per_minute > vendor.end_of_day_rate:
        return None
    return (
        f"taken for the free one, as {vendor.rate.name.upper()} is {requests_per_minute}: "
        "set the quota of yours if it is another"
    )


def _newest_session(now: datetime) -> date:
    session = calendars.last_complete(AssetClass.STOCK, Timeframe.D1, now)
    day: date = session.astype("datetime64[D]").item()
    return day
