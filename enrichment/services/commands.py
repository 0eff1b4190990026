"""Everything that an operator can do; the API, the command line and the dashboard share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from enrichment.domain.clock import utc_now
from enrichment.domain.errors import Conflict, InvalidRequest, NotTracked
from enrichment.domain.model import JobKind, TrackedSymbol
from enrichment.domain.statuses import OPEN_JOB_STATES, ItemPriority, PauseScope
from enrichment.services.command_checks import (
    backfill_window,
    damage_kinds,
    listed,
    no_symbols_message,
    pause_key,
    require_breaker,
    require_job,
    require_limiter,
    require_reason,
    require_rule,
    require_tracked,
    trigger_class,
    unserved_reason,
)
from enrichment.services.command_results import RepairResult, TriggerResult
from enrichment.services.market_commands import MarketCommands
from enrichment.services.repairs import RepairPlan, plan_repair
from enrichment.services.request_plan import (
    RequestPlan,
    RequestSettings,
    plan_backfill,
    plan_requests,
)
from enrichment.services.review_commands import ReviewCommands
from enrichment.warehouse import alerts, resilience_state
from enrichment.warehouse.database import Connection, Database, database_now
from enrichment.warehouse.queue import audit, job_control, jobs, pauses
from enrichment.warehouse.queue import symbols as tracked_symbols
from enrichment.warehouse.read_models import damage
from resilience import BreakerAction

OVERRIDE_DELAY_SECONDS = 2.0
"""Every worker has applied a breaker's override after this time."""
MAX_SILENCE = timedelta(days=30)
MAX_SYMBOLS_IN_AUDIT = 200


class Commands(ReviewCommands, MarketCommands):
    """The only service that changes anything.

    A command's audit row is written in the transaction of its effect. Arguments that all take:
    `actor`, who gives the command, and `reason`, both for the audit. Errors are InvalidRequest or
    one of its subclasses.
    """

    def __init__(self, db: Database, settings: RequestSettings | None = None) -> None:
        """Build the service.

        Args:
            db: Where to read and write.
            settings: That requests depend on; None to track symbols that no provider serves.
        """
        self._db, self._tracks_any = db, settings is None
        self._settings = settings or RequestSettings({})

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
        kind = trigger_class(symbols, asset_class)
        with self._db.begin() as conn:
            if idempotency_key and (existing := jobs.find_by_key(conn, idempotency_key)):
                return TriggerResult(*existing)
            names = _tracked(conn, symbols) if symbols else None
            opened = job_control.open_job(
                conn,
                JobKind.MANUAL,
                action="trigger",
                actor=actor,
                reason=reason,
                params={"symbols": names, "asset_class": kind},
                symbols=names,
                asset_class=kind,
                priority=ItemPriority.MANUAL,
                idempotency_key=idempotency_key,
            )
            if opened is not None:
                if opened[1] == 0:
                    raise Conflict(no_symbols_message(kind))
                return TriggerResult(*opened)
        return self._opened_concurrently(idempotency_key)

    def plan_trigger(
        self, symbols: Sequence[str] | None = None, asset_class: str | None = None
    ) -> RequestPlan:
        """What `trigger` with these arguments would ask of the vendors; nothing is changed.

        It raises what `trigger` raises.
        """
        kind = trigger_class(symbols, asset_class)
        with self._db.begin() as conn:
            names = _tracked(conn, symbols) if symbols else None
            items = tracked_symbols.select(conn, names, kind)
            if not any(item.active for item in items):
                raise Conflict(no_symbols_message(kind))
            now = database_now(conn)
            plan = plan_requests(conn, items, now=now, settings=self._settings)
            queued = tracked_symbols.queued(conn)
            return replace(plan, in_other_jobs=sum(i.active and i.symbol in queued for i in items))

    def plan_backfill(
        self, symbols: Sequence[str], start: datetime, end: datetime | None
    ) -> RequestPlan:
        """The same of `backfill`."""
        with self._db.begin() as conn:
            names = _tracked(conn, symbols)
            now = database_now(conn)
            window = backfill_window(start, end, now)
            items = tracked_symbols.select(conn, names)
            return plan_backfill(conn, items, window, now=now, settings=self._settings)

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
        with self._db.begin() as conn:
            names = _tracked(conn, symbols)
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
                priority=ItemPriority.BACKFILL,
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
                priority=ItemPriority.BACKFILL,
                repairs=plan.symbols,
            )
            if opened is None:
                raise InvalidRequest("the job could not be opened: try again")
            return RepairResult(*opened, plan)

    def _plan_repair(
        self, conn: Connection, symbols: Sequence[str] | None, kinds: Sequence[str]
    ) -> RepairPlan:
        chosen = damage_kinds(kinds)
        names = _tracked(conn, symbols) if symbols else None
        findings = [f for f in damage.find(conn, names) if f.kind in chosen]
        return plan_repair(
            findings, database_now(conn), self._settings.providers, self._settings.quotas
        )

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
        if tracked.active and not self._tracks_any:
            refusal = unserved_reason(tracked, self._settings.providers[tracked.asset_class])
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
            [name] = tracked_symbols.stored_as(conn, [symbol])
            if not tracked_symbols.deactivate(conn, name):
                raise NotTracked.of(name)
            job_control.cancel_symbol(conn, name)
            audit.record(conn, actor=actor, action="untrack", target=name, reason=reason)


def _tracked(conn: Connection, symbols: Sequence[str]) -> list[str]:
    """The symbols as they are stored, each once, sorted.

    Raises NotTracked if one of them is not active, or if there is none.
    """
    if not symbols:
        raise NotTracked("name at least one tracked symbol")
    names = sorted(set(tracked_symbols.stored_as(conn, symbols)))
    require_tracked(conn, names)
    return names
