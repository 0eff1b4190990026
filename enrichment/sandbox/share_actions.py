"""Splits and dividends of simulated stocks.

SIM91 to SIM99 have both: every other year a split, in turn forward and reverse, and a dividend a
quarter, on the second Wednesday of a month, which never was a holiday. A split divides the price
and multiplies the volume of the bars from its day on; what is traded does not depend on later ones.

>>> actions = ShareActions.of("SIM91")
>>> [f"{day.astype('datetime64[D]')}: {ratio:g}" for day, ratio in actions.splits.items()][:2]
['2003-02-12: 2', '2005-02-09: 0.5']
>>> ShareActions.of("SIM90").splits
{}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from enrichment.domain.bars import Floats, Timestamps

_FIRST, _LAST = 91, 99  # numbers of the simulated stocks with actions
_RATIOS = (2.0, 3.0, 4.0, 1.5, 10.0, 1.25, 5.0, 7.0, 20.0)
_YEARS = range(2003, 2060)
_QUARTERS = (3, 6, 9, 12)
_WEDNESDAY = 6  # days from a Thursday, 1 January 1970, to a Wednesday

Events = Mapping[np.datetime64, float]


@dataclass(frozen=True, slots=True)
class ShareActions:
    """What happens to the shares of a simulated stock, whenever that is."""

    splits: Events = field(default_factory=dict)
    """First day on the new basis → new shares for an old one."""
    yields: Events = field(default_factory=dict)
    """Ex-date of a dividend → its share of the stock's usual price."""

    @classmethod
    def of(cls, ticker: str) -> ShareActions:
        """Those of a simulated ticker; none for most."""
        number = int(ticker[3:]) if ticker[:3] == "SIM" and ticker[3:].isdigit() else 0
        if not _FIRST <= number <= _LAST:
            return cls()
        n = number - _FIRST
        splits = {
            second_wednesday(year, n + 2): _RATIOS[n] if turn % 2 == 0 else 1 / _RATIOS[n]
            for turn, year in enumerate(_YEARS[::2])
        }
        yields = {second_wednesday(year, m): 0.005 for year in _YEARS for m in _QUARTERS}
        return cls(splits, yields)

    def shares(self, days: Timestamps) -> Floats:
        """What one share of before all splits has become on each day."""
        dates = np.array(sorted(self.splits), "datetime64[us]")
        products = np.cumprod([1.0, *(self.splits[day] for day in dates)])
        return np.asarray(products[dates.searchsorted(days, side="right")])


def second_wednesday(year: int, month: int) -> np.datetime64:
    """00:00 of that day."""
    first = np.datetime64(f"{year}-{month:02}-01", "D")
    offset = (_WEDNESDAY - first.astype(int)) % 7
    return np.datetime64(first + offset + 7, "us")


def in_force(events: Events, now: np.datetime64) -> Events:
    """Those that have taken effect by `now`."""
    return {day: value for day, value in events.items() if day <= now}
