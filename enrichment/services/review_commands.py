"""What operators know better about single bars: confirmed flags and rejected bars."""

from __future__ import annotations

from datetime import datetime, timedelta

from enrichment.domain import calendars
from enrichment.domain.errors import Conflict, InvalidRequest
from enrichment.domain.model import AssetClass, JobKind, Severity, Timeframe
from enrichment.domain.series import QualityInputs
from enrichment.domain.statuses import ItemPriority
from enrichment.pipeline.quality import (
    assess_quality,
    counts_against_score,
    with_flag,
    without_flag,
)
from enrichment.pipeline.validation import CHECKS
from enrichment.services.command_checks import require_reason, require_tracked
from enrichment.services.command_results import TriggerResult
from enrichment.warehouse import closures
from enrichment.warehouse.database import Connection, Database
from enrichment.warehouse.queue import audit, job_control
from enrichment.warehouse.queue import symbols as tracked_symbols
from enrichment.warehouse.series import review


class ReviewCommands:
    """The part of `Commands` that reviews bars."""

    _db: Database

    def confirm(
        self, symbol: str, timeframe: str, ts: datetime, *, check: str, reason: str, actor: str
    ) -> float:
        """Confirm that a flagged bar is correct: its flag is removed and not raised again.

        Returns the series' new quality score; Conflict if there is no such flag.
        """
        kind = Timeframe.parse(timeframe)
        require_reason(reason, "how you know that the bar is correct")
        with self._db.begin() as conn:
            [name] = tracked_symbols.stored_as(conn, [symbol])
            inputs = review.read_quality_inputs(conn, name, kind)
            removed = review.confirm(
                conn, symbol=name, timeframe=kind, ts=ts, check=check, by=actor, reason=reason
            )
            if not removed or inputs is None:
                raise Conflict(
                    f"{name} {kind} has no flag {check!r} at {ts:%Y-%m-%d %H:%M} UTC: "
                    f"see 'enrichment quality {name}'"
                )
            target = f"{_bar(name, kind, ts)} {check}"
            audit.record(conn, actor=actor, action="confirm", target=target, reason=reason)
            return _reassess(conn, name, kind, without_flag(inputs, check, ts))

    def unconfirm(
        self, symbol: str, timeframe: str, ts: datetime, *, check: str, reason: str, actor: str
    ) -> float:
        """Take a confirmation back: the bar is flagged again.

        Returns the series' new quality score; Conflict if there is no such confirmation.
        """
        kind = Timeframe.parse(timeframe)
        require_reason(reason, "why the bar is not known to be correct")
        severity = CHECKS[check].severity if check in CHECKS else Severity.WARNING
        with self._db.begin() as conn:
            [name] = tracked_symbols.stored_as(conn, [symbol])
            inputs = review.read_quality_inputs(conn, name, kind)
            flagged = review.unconfirm(
                conn,
                symbol=name,
                timeframe=kind,
                ts=ts,
                check=check,
                severity=severity,
                reason=reason,
            )
            if not flagged or inputs is None:
                raise Conflict(
                    f"{name} {kind} has no confirmation of {check!r} at {ts:%Y-%m-%d %H:%M} UTC: "
                    f"see 'enrichment quality {name}'"
                )
            if counts_against_score(check, severity):
                inputs = with_flag(inputs, check, ts)
            target = f"{_bar(name, kind, ts)} {check}"
            audit.record(conn, actor=actor, action="unconfirm", target=target, reason=reason)
            return _reassess(conn, name, kind, inputs)

    def reject(
        self, symbol: str, timeframe: str, ts: datetime, *, reason: str, actor: str
    ) -> TriggerResult:
        """Keep a wrong bar out of its series, and open a job that computes the features again.

        Raises Conflict if it is not stored.
        """
        kind = Timeframe.parse(timeframe)
        require_reason(reason, "how you know that the bar is wrong")
        with self._db.begin() as conn:
            [name] = tracked_symbols.stored_as(conn, [symbol])
            require_tracked(conn, [name])
            closures.refresh(conn)
            rejected = review.reject(
                conn,
                symbol=name,
                timeframe=kind,
                ts=ts,
                by=actor,
                reason=reason,
                expected=_is_expected(name, kind, ts),
            )
            if not rejected:
                raise Conflict(f"{name} {kind} has no bar at {ts:%Y-%m-%d %H:%M} UTC")
            return _reviewed(conn, "reject", name, _bar(name, kind, ts), actor, reason)

    def unreject(
        self, symbol: str, timeframe: str, ts: datetime, *, reason: str, actor: str
    ) -> TriggerResult:
        """Take a rejection back, and open a job that fetches the bar again.

        Raises Conflict if it was not rejected.
        """
        kind = Timeframe.parse(timeframe)
        require_reason(reason, "why the bar is not wrong after all")
        with self._db.begin() as conn:
            [name] = tracked_symbols.stored_as(conn, [symbol])
            if not review.unreject(conn, symbol=name, timeframe=kind, ts=ts):
                raise Conflict(f"{name} {kind} has no rejected bar at {ts:%Y-%m-%d %H:%M} UTC")
            return _reviewed(conn, "unreject", name, _bar(name, kind, ts), actor, reason)


def _reviewed(
    conn: Connection, action: str, symbol: str, target: str, actor: str, reason: str
) -> TriggerResult:
    """Record the review of a bar and open a job for its symbol."""
    audit.record(conn, actor=actor, action=action, target=target, reason=reason)
    opened = job_control.open_job(
        conn,
        JobKind.MANUAL,
        action="trigger",
        actor=actor,
        reason=reason,
        params={"symbols": [symbol]},
        symbols=[symbol],
        priority=ItemPriority.MANUAL,
    )
    if opened is None:
        raise InvalidRequest("the job could not be opened: try again")
    return TriggerResult(*opened)


def _reassess(conn: Connection, symbol: str, timeframe: Timeframe, inputs: QualityInputs) -> float:
    """Replace a series' score by that of these inputs; returns it."""
    quality = assess_quality(inputs)
    review.reassess(conn, symbol, timeframe, quality, inputs)
    return quality.score


def _bar(symbol: str, timeframe: Timeframe, ts: datetime) -> str:
    """A bar as the audit names it."""
    return f"{symbol} {timeframe} {ts:%Y-%m-%dT%H:%MZ}"


def _is_expected(symbol: str, timeframe: Timeframe, ts: datetime) -> bool:
    """Whether the calendar has a bar that starts then."""
    crypto = symbol.startswith("X:")
    asset_class = AssetClass.CRYPTO if crypto else AssetClass.STOCK
    market = calendars.market_of(symbol, asset_class, timeframe)
    end = ts + timedelta(microseconds=1)
    return len(calendars.bar_starts(market, timeframe, ts, end)) > 0
