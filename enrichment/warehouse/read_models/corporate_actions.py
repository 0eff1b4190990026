"""The ledger of corporate actions, the latest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from enrichment.warehouse.database import Reader


@dataclass(frozen=True, slots=True)
class ListedAction:
    """One action, as its leading source describes it."""

    symbol: str
    kind: str
    effective_date: date
    ratio: float | None  # new shares for one old
    amount: float | None  # for one share
    currency: str | None
    declared_date: date | None
    record_date: date | None
    pay_date: date | None
    new_symbol: str | None
    source: str
    sources: list[str]  # all that list it
    applies: bool  # whether it is part of the adjustment of prices
    problem: str | None
    disagreement: str | None
    first_seen: datetime
    last_seen: datetime
    withdrawn_at: datetime | None

    @property
    def value(self) -> str:
        """The ratio or the amount in words; '–' for an action without."""
        if self.amount is not None:
            return f"{self.amount:g} {self.currency or ''}".strip()
        return "–" if self.ratio is None else f"{self.ratio:g} for 1"

    @property
    def note(self) -> str:
        """Why it is not applied, or what is doubtful about it; empty if nothing is."""
        withdrawn = f"withdrawn {self.withdrawn_at:%Y-%m-%d}" if self.withdrawn_at else None
        return "; ".join(filter(None, (withdrawn, self.problem, self.disagreement)))

    @property
    def cursor(self) -> str:
        return f"{self.effective_date.toordinal()}_{self.symbol}_{self.kind}"


class CorporateActions(Reader):
    """Reads pages of the ledger."""

    def listed(
        self,
        limit: int,
        *,
        symbol: str | None = None,
        kind: str | None = None,
        since: date | None = None,
        until: date | None = None,
        withdrawn: bool = True,
        before: str | None = None,
    ) -> list[ListedAction]:
        """Actions of a symbol, or of all, that come after the one that a cursor names."""
        day, name, last_kind = (before or "__").split("_", 2)
        return self._all(
            ListedAction,
            _LISTED,
            limit=limit,
            symbol=symbol,
            kind=kind,
            since=since,
            until=until,
            withdrawn=withdrawn,
            day=date.fromordinal(int(day)) if day else None,
            name=name,
            last_kind=last_kind,
        )


_LISTED = """
SELECT symbol, kind, effective_date, ratio, amount, currency, declared_date, record_date, pay_date,
    new_symbol, source, ARRAY(SELECT jsonb_object_keys(accounts) ORDER BY 1) AS sources, applies,
    problem, disagreement, first_seen, last_seen, withdrawn_at
FROM corporate_actions
WHERE (CAST(:symbol AS text) IS NULL OR symbol = :symbol)
    AND (CAST(:kind AS text) IS NULL OR kind = :kind)
    AND (CAST(:since AS date) IS NULL OR effective_date >= :since)
    AND (CAST(:until AS date) IS NULL OR effective_date <= :until)
    AND (:withdrawn OR withdrawn_at IS NULL)
    AND (CAST(:day AS date) IS NULL OR effective_date < CAST(:day AS date)
        OR effective_date = CAST(:day AS date) AND (symbol, kind) > (:name, :last_kind))
ORDER BY effective_date DESC, symbol, kind LIMIT :limit
"""
