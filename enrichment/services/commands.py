"""Everything that an operator can do; the API, the command line and the dashboard share it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from uuid import UUID

from enrichment.domain import calendars
from enrichment.domain.clock import utc_now
from enrichment.domain.corporate_actions import CorporateAction
from enrichment.domain.errors import Conflict, InvalidRequest, NotTracked, UnknownAction
from enrichment.domain.exchanges import EXCHANGES, Exchange
from enrichment.domain.model import AssetClass, JobKind, Severity, Timeframe, TrackedSymbol
from enrichment.domain.series import QualityInputs
from enrichment.domain.statuses import OPEN_JOB_STATES, PauseScope
from enrichment.domain.symbols import parse_symbol
from enrichment.pipeline.quality import (
    assess_quality,
    counts_against_score,
    with_flag,
    without_flag,
)
from enrichment.pipeline.validation import CHECKS
from enrichment.services.action_refresh import enrich_again
from enrichment.services.command_checks import (
    backfill_window,
    damage_kinds,
    listed,
    no_symbols_message,
    parse_action_kind,
    pause_key,
    require_breaker,
    require_job,
    require_limiter,
    require_reason,
    require_rule,
    require_tracked,
    unserved_reason,
)
from enrichment.services.repairs import RepairPlan, plan_repair
from enrichment.warehouse import alerts, closures, corporate_actions, resilience_state
from enrichment.warehouse.database import Connection, Database, database_now
from enrichment.warehouse.queue import audit, job_control, jobs, pauses
from enrichment.warehouse.queue import symbols as tracked_symbols
from enrichment.warehouse.read_models import damage
from enrichment.warehouse.series import review
from resilience import BreakerAction

MANUAL_PRIORITY = 0
BACKFILL_PRIORITY = 20
OVERRIDE_DELAY_SECONDS = 2.0
"""Every worker has applied a breaker's override after this time."""
MAX_SILENCE = timedelta(days=30)
MAX_SYMBOLS_IN_AUDIT = 200
_WHERE_ANNOUNCED = "where the action was announced, for example"


@dataclass(frozen=True, slots=True)
class TriggerResult:
    """A job that was opened, and its number of symbols."""

    job_id: UUID
    symbols_to_process: int


@dataclass(frozen=True, slots=True)
class RepairResult:
    """A repair that was opened, its number of symbols, and what it will do."""

    job_id: UUID
    symbols_to_process: int
    plan: RepairPlan


class Commands:
    """The only service that changes anything.

    A command's audit row is written in the transaction of its effect. Arguments that all take:
    `actor`, who gives the command, and `reason`, both for the audit. Errors are InvalidRequest or
    one of its subclasses.
    """

    def __init__(
        self,
        db: Database,
        providers: Mapping[str, Sequence[str]] | None = None,
        quotas: Mapping[str, int | None] | None = None,
    ) -> None:
        """Build the service.

        Args:
            db: Where to read and write.
            providers: Those of each asset class; None to track symbols that none of them serves.
            quotas: Requests a minute of each provider, for how long repairs take.
        """
        self._db, self._providers, self._quotas = db, providers, quotas or {}

    def trigger(
        self,
        *,
        actor: str,
        symbols: Sequence[str] | None = None,
        asset_class: str | None = None,
        idempotency_key: str | None = None,
        reason: str | None = None,
    ) -> TriggerResult:
        """Open a manual job for these symbols, for an asset class, or for all active symbols.

        The same idempotency key returns the same job. Raises NotTracked for unknown symbols and
        Conflict if there is nothing to enrich.
        """
        if symbols and asset_class:
            raise Conflict("give either symbols or an asset class, not both")
        kind = AssetClass.parse(asset_class).value if asset_class else None
        with self._db.begin() as conn:
            if idempotency_key and (existing := jobs.find_by_key(conn, idempotency_key)):
                return TriggerResult(*existing)
            names = _stored(conn, symbols) if symbols else None
            if names:
                require_tracked(conn, names)
            opened = job_control.open_job(
                conn,
                JobKind.MANUAL,
                action="trigger",
                actor=actor,
                reason=reason,
                params={"symbols": names, "asset_class": kind},
                symbols=names,
                asset_class=kind,
                priority=MANUAL_PRIORITY,
                idempotency_key=idempotency_key,
            )
            if opened is not None:
                if opened[1] == 0:
                    raise Conflict(no_symbols_message(kind))
                return TriggerResult(*opened)
        return self._opened_concurrently(idempotency_key)

    def backfill(
        self,
        symbols: Sequence[str],
        start: datetime,
        end: datetime | None,
        *,
        actor: str,
        reason: str | None = None,
    ) -> TriggerResult:
        """Open a job that fetches [start, end) of these symbols (end None: up to now)."""
        if not symbols:
            raise NotTracked("name at least one tracked symbol")
        with self._db.begin() as conn:
            names = _stored(conn, symbols)
            require_tracked(conn, names)
            window = backfill_window(start, end, database_now(conn))
            opened = job_control.open_job(
                conn,
                JobKind.BACKFILL,
                action="backfill",
                actor=actor,
                reason=reason,
                params={
                    "symbols": names,
                    "from": window.start.isoformat(),
                    "to": window.end.isoformat(),
                },
                symbols=names,
                priority=BACKFILL_PRIORITY,
                backfill=window,
            )
            if opened is None:
                raise InvalidRequest("the job could not be opened: try again")
            return TriggerResult(*opened)

    def plan_repair(
        self, symbols: Sequence[str] | None = None, kinds: Sequence[str] = ()
    ) -> RepairPlan:
        """What is damaged and what `repair` would do about it; nothing is changed.

        Args:
            symbols: Only these; None for all active ones.
            kinds: Only this damage, values of DamageKind; empty for all.
        """
        with self._db.begin() as conn:
            damage.use_snapshot(conn)
            return self._plan_repair(conn, symbols, kinds)

    def repair(
        self,
        symbols: Sequence[str] | None = None,
        kinds: Sequence[str] = (),
        *,
        actor: str,
        reason: str,
    ) -> RepairResult:
        """Open a job that fetches damaged parts of series again and replaces them.

        Arguments as for `plan_repair`. Raises Conflict without a reason, if nothing is damaged or
        if a repair is running.
        """
        require_reason(reason, "why the stored bars are to be replaced")
        with self._db.begin() as conn:
            plan = self._plan_repair(conn, symbols, kinds)
            if not plan.series:
                raise Conflict("nothing to repair: 'enrichment doctor --data' finds nothing")
            if (running := job_control.open_repair(conn)) is not None:
                raise Conflict(f"job {running} repairs already: wait for it, or cancel it")
            opened = job_control.open_job(
                conn,
                JobKind.BACKFILL,
                action="repair",
                actor=actor,
                reason=reason,
                params={
                    "repair": True,
                    "symbols": list(plan.symbols)[:MAX_SYMBOLS_IN_AUDIT],
                    "kinds": sorted({finding.kind for finding in plan.findings}),
                    "series": len(plan.series),
                    "requests": dict(plan.requests),
                },
                symbols=None,
                priority=BACKFILL_PRIORITY,
                repairs=plan.symbols,
            )
            if opened is None:
                raise InvalidRequest("the job could not be opened: try again")
            return RepairResult(*opened, plan)

    def _plan_repair(
        self, conn: Connection, symbols: Sequence[str] | None, kinds: Sequence[str]
    ) -> RepairPlan:
        chosen = damage_kinds(kinds)
        names = _stored(conn, symbols) if symbols else None
        if names:
            require_tracked(conn, names)
        findings = [f for f in damage.find(conn, names) if f.kind in chosen]
        return plan_repair(findings, database_now(conn), self._providers or {}, self._quotas)

    def confirm(
        self, symbol: str, timeframe: str, ts: datetime, *, check: str, reason: str, actor: str
    ) -> float:
        """Confirm that a flagged bar is correct: its flag is removed and not raised again.

        Returns the series' new quality score; Conflict if there is no such flag.
        """
        kind = Timeframe.parse(timeframe)
        require_reason(reason, "how you know that the bar is correct")
        with self._db.begin() as conn:
            [name] = _stored(conn, [symbol])
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

    def add_action(
        self,
        symbol: str,
        kind: str,
        day: date,
        *,
        ratio: float | None = None,
        amount: float | None = None,
        currency: str | None = None,
        reason: str,
        actor: str,
    ) -> bool:
        """Add a corporate action, or correct the vendors' account of one.

        Returns whether a job was opened since features of stored bars have to change.
        """
        action = replace(
            _manual_action(symbol, kind, day), ratio=ratio, amount=amount, currency=currency
        )
        if action.rejection is not None:
            raise Conflict(f"{_title(action)}: {action.rejection}")
        require_reason(reason, _WHERE_ANNOUNCED)
        with self._db.begin() as conn:
            changed = corporate_actions.record(conn, [action])
            values = {"ratio": ratio, "amount": amount, "currency": currency}
            return _action_changed(conn, "add_action", action, changed, reason, actor, values)

    def refute_action(self, symbol: str, kind: str, day: date, *, reason: str, actor: str) -> bool:
        """State that an action did not take place, whatever vendors report; as `add_action`.

        Raises UnknownAction if the ledger does not have it.
        """
        action = _manual_action(symbol, kind, day)
        require_reason(reason, _WHERE_ANNOUNCED)
        with self._db.begin() as conn:
            if not corporate_actions.refute(conn, key := corporate_actions.key_of(action), reason):
                raise UnknownAction.of(_title(action), action.symbol)
            return _action_changed(conn, "refute_action", action, [key], reason, actor)

    def restore_action(self, symbol: str, kind: str, day: date, *, reason: str, actor: str) -> bool:
        """Take an operator's account of an action back; as `add_action`.

        Raises UnknownAction if there is none.
        """
        action = _manual_action(symbol, kind, day)
        require_reason(reason, _WHERE_ANNOUNCED)
        with self._db.begin() as conn:
            if not corporate_actions.remove_manual(conn, key := corporate_actions.key_of(action)):
                raise UnknownAction.of(f"an operator's account of {_title(action)}", action.symbol)
            return _action_changed(conn, "restore_action", action, [key], reason, actor)

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
            [name] = _stored(conn, [symbol])
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
            [name] = _stored(conn, [symbol])
            require_tracked(conn, [name])
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
            [name] = _stored(conn, [symbol])
            if not review.unreject(conn, symbol=name, timeframe=kind, ts=ts):
                raise Conflict(f"{name} {kind} has no rejected bar at {ts:%Y-%m-%d %H:%M} UTC")
            return _reviewed(conn, "unreject", name, _bar(name, kind, ts), actor, reason)

    def close_session(self, mic: str, day: date, *, reason: str, actor: str) -> None:
        """Declare that an exchange did not trade on a day that its calendar has.

        Its bars are not expected any more, and their gaps are resolved. InvalidRequest for an
        unknown exchange, Conflict without a reason or for a day without a session.
        """
        exchange = _exchange(mic)
        require_reason(reason, "where the closure was announced, for example")
        if not calendars.is_session(exchange, day):
            raise Conflict(f"{exchange.mic} has no session on {day}: nothing to close")
        with self._db.begin() as conn:
            if not closures.close(conn, mic=exchange.mic, day=day, reason=reason, by=actor):
                raise Conflict(f"{exchange.mic} {day} is closed already")
            self._audit_closure(conn, "close_session", exchange, day, reason, actor)

    def reopen_session(self, mic: str, day: date, *, reason: str | None = None, actor: str) -> None:
        """Take a closure back; Conflict if there is none."""
        exchange = _exchange(mic)
        with self._db.begin() as conn:
            if not closures.reopen(conn, mic=exchange.mic, day=day):
                raise Conflict(f"{exchange.mic} {day} is not declared closed: nothing to reopen")
            self._audit_closure(conn, "reopen_session", exchange, day, reason, actor)

    def _audit_closure(
        self,
        conn: Connection,
        name: str,
        exchange: Exchange,
        day: date,
        reason: str | None,
        actor: str,
    ) -> None:
        target = f"{exchange.mic} {day}"
        audit.record(conn, actor=actor, action=name, target=target, reason=reason)
        closures.refresh(conn, max_age=0.0)

    def _opened_concurrently(self, idempotency_key: str | None) -> TriggerResult:
        """The job that another request with the same key has opened meanwhile."""
        with self._db.begin() as conn:
            existing = jobs.find_by_key(conn, idempotency_key or "")
        if existing is None:
            raise InvalidRequest("the job could not be opened: try again")
        return TriggerResult(*existing)

    def pause(
        self,
        *,
        actor: str,
        scope: str = PauseScope.GLOBAL,
        key: str = "",
        reason: str | None = None,
        until: datetime | None = None,
    ) -> None:
        """Start no items of a scope until it is resumed, or until `until`; running ones finish.

        key: the asset class, symbol or provider; empty for the global scope.
        """
        with self._db.begin() as conn:
            key = pause_key(conn, scope, key)
            if scope == PauseScope.SYMBOL:
                require_tracked(conn, [key])
            pauses.pause(conn, scope=scope, key=key, by=actor, reason=reason, until=until)
            audit.record(
                conn, actor=actor, action="pause", target=f"{scope} {key}".strip(), reason=reason
            )

    def resume(
        self,
        *,
        actor: str,
        scope: str = PauseScope.GLOBAL,
        key: str = "",
        reason: str | None = None,
    ) -> None:
        """Remove a scope's pause."""
        with self._db.begin() as conn:
            key = pause_key(conn, scope, key)
            pauses.resume(conn, scope=scope, key=key)
            audit.record(
                conn, actor=actor, action="resume", target=f"{scope} {key}".strip(), reason=reason
            )
            jobs.notify(conn)

    def cancel(self, job_id: UUID, *, actor: str, reason: str | None = None) -> None:
        """Cancel a job: waiting symbols at once, running ones at their next step."""
        with self._db.begin() as conn:
            state = require_job(conn, job_id)
            if state not in OPEN_JOB_STATES:
                raise Conflict(f"job {job_id} is {state} already: nothing to cancel")
            job_control.request_cancel(conn, job_id)
            audit.record(conn, actor=actor, action="cancel", target=str(job_id), reason=reason)

    def resume_failed(
        self,
        job_id: UUID,
        *,
        actor: str,
        error_class: str | None = None,
        reason: str | None = None,
    ) -> int:
        """Run a finished job's failed symbols again, all or those of one error class.

        Returns their number; Conflict if there are none, or the job is still running.
        """
        with self._db.begin() as conn:
            state = require_job(conn, job_id)
            if state in OPEN_JOB_STATES:
                raise Conflict(f"job {job_id} is still {state}: wait until it has finished")
            count = job_control.reopen_failed(conn, job_id, error_class)
            if count == 0:
                suffix = f" with {error_class}" if error_class else ""
                raise Conflict(f"job {job_id} has no failed symbols{suffix}: nothing to resume")
            audit.record(
                conn,
                actor=actor,
                action="resume_failed",
                target=str(job_id),
                reason=reason,
                params={"error_class": error_class, "symbols": count},
            )
            return count

    def override_breaker(
        self, name: str, action: str, *, actor: str, reason: str | None = None
    ) -> None:
        """Override a breaker in every worker, until a reset and across restarts.

        action: one of BreakerAction.
        """
        if action not in list(BreakerAction):
            raise InvalidRequest(
                f"unknown action {action!r}: choose one of {', '.join(BreakerAction)}"
            )
        with self._db.begin() as conn:
            require_breaker(conn, name)
            resilience_state.override(conn, name=name, action=action, actor=actor, reason=reason)
            audit.record(conn, actor=actor, action=f"breaker_{action}", target=name, reason=reason)
            if action != BreakerAction.FORCE_OPEN:
                job_control.wake_snoozed(conn, OVERRIDE_DELAY_SECONDS)

    def reset_limiter(self, name: str, *, actor: str, reason: str | None = None) -> None:
        """End the pause of a vendor's rate limiter, such as after a 429, in every worker."""
        with self._db.begin() as conn:
            require_limiter(conn, name)
            resilience_state.resume_limiter(conn, name=name, actor=actor, reason=reason)
            audit.record(conn, actor=actor, action="limiter_reset", target=name, reason=reason)
            job_control.wake_snoozed(conn, OVERRIDE_DELAY_SECONDS)

    def silence(
        self, rule: str, *, length: timedelta, actor: str, reason: str | None = None
    ) -> datetime:
        """Send no notifications of a rule's alerts for `length`; returns when the silence ends."""
        if not timedelta(0) < length <= MAX_SILENCE:
            raise InvalidRequest(
                f"a silence lasts from 1 second to {MAX_SILENCE.days} days: "
                "to disable a rule, set 'enabled = false' in the rules file"
            )
        until = utc_now() + length
        with self._db.begin() as conn:
            require_rule(conn, rule)
            alerts.silence(conn, rule=rule, by=actor, reason=reason, until=until)
            audit.record(
                conn,
                actor=actor,
                action="silence",
                target=rule,
                reason=reason,
                params={"until": until.isoformat()},
            )
        return until

    def unsilence(self, rule: str, *, actor: str, reason: str | None = None) -> None:
        """End a silence early; Conflict if there is none."""
        with self._db.begin() as conn:
            require_rule(conn, rule)
            if not alerts.unsilence(conn, rule=rule):
                raise Conflict(f"{rule} is not silenced: nothing to end")
            audit.record(conn, actor=actor, action="unsilence", target=rule, reason=reason)

    def track(
        self, tracked: Sequence[TrackedSymbol], *, actor: str, reason: str | None = None
    ) -> None:
        """Track symbols; those that are tracked already get the timeframes in addition.

        Raises InvalidRequest, and tracks none, if no vendor in use serves one of them.
        """
        self._put(tracked, "track", actor, reason, keep_timeframes=True)

    def require_served(self, tracked: TrackedSymbol) -> None:
        """Conflict, with what to do, if no vendor in use serves one of its timeframes."""
        if self._providers is not None and tracked.active:
            refusal = unserved_reason(tracked, self._providers[tracked.asset_class])
            if refusal is not None:
                raise Conflict(refusal)

    def change(self, tracked: TrackedSymbol, *, actor: str, reason: str | None = None) -> None:
        """Bring a symbol to these settings; timeframes that are not named are not enriched."""
        self._put([tracked], "change", actor, reason, keep_timeframes=False)

    def _put(
        self,
        tracked: Sequence[TrackedSymbol],
        action: str,
        actor: str,
        reason: str | None,
        *,
        keep_timeframes: bool,
    ) -> None:
        for symbol in tracked:
            self.require_served(symbol)
        with self._db.begin() as conn:
            names = tracked_symbols.stored_as(conn, [t.symbol for t in tracked])
            tracked = [replace(t, symbol=name) for t, name in zip(tracked, names, strict=True)]
            tracked_symbols.put(conn, tracked, keep_timeframes=keep_timeframes)
            audit.record(
                conn,
                actor=actor,
                action=action,
                target=listed([t.symbol for t in tracked]),
                reason=reason,
                params={"count": len(tracked), "symbols": [t.symbol for t in tracked]},
            )

    def untrack(self, symbol: str, *, actor: str, reason: str | None = None) -> None:
        """Stop enriching a symbol; its stored data stays."""
        with self._db.begin() as conn:
            [name] = _stored(conn, [symbol])
            if not tracked_symbols.deactivate(conn, name):
                raise NotTracked.of(name)
            job_control.cancel_symbol(conn, name)
            audit.record(conn, actor=actor, action="untrack", target=name, reason=reason)


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
        priority=MANUAL_PRIORITY,
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


def _manual_action(symbol: str, kind: str, day: date) -> CorporateAction:
    """An operator's account of an action, without its values."""
    source = corporate_actions.MANUAL
    return CorporateAction(parse_symbol(symbol), parse_action_kind(kind), day, source)


def _title(action: CorporateAction) -> str:
    return f"{action.symbol} {action.kind} {action.effective_date}"


def _action_changed(
    conn: Connection,
    name: str,
    action: CorporateAction,
    changed: Collection[corporate_actions.Key],
    reason: str,
    actor: str,
    values: Mapping[str, object] | None = None,
) -> bool:
    """Record the command; returns whether stored features have to change, in a job of their own."""
    target = _title(action)
    audit.record(conn, actor=actor, action=name, target=target, reason=reason, params=values)
    return bool(enrich_again(conn, changed))


def _is_expected(symbol: str, timeframe: Timeframe, ts: datetime) -> bool:
    """Whether the calendar has a bar that starts then."""
    crypto = symbol.startswith("X:")
    market = calendars.market_of(symbol, AssetClass.CRYPTO if crypto else AssetClass.STOCK)
    end = ts + timedelta(microseconds=1)
    return len(calendars.bar_starts(market, timeframe, ts, end)) > 0


def _exchange(mic: str) -> Exchange:
    exchange = EXCHANGES.get(mic.strip().upper())
    if exchange is None:
        raise InvalidRequest(f"unknown exchange {mic!r}: choose one of {', '.join(EXCHANGES)}")
    return exchange


def _stored(conn: Connection, symbols: Sequence[str]) -> list[str]:
    """The symbols as they are stored, each once, sorted."""
    return sorted(set(tracked_symbols.stored_as(conn, symbols)))
