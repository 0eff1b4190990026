"""What an operator can do. API, command line and dashboard share these; each writes its audit row
in the same transaction as its effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from enrichment.domain.clock import utc_now
from enrichment.domain.errors import Conflict, InvalidRequest, NotTracked, UnknownBreaker
from enrichment.domain.model import AssetClass, JobKind, Timeframe, TrackedSymbol, parse_symbol
from enrichment.domain.symbol_csv import parse_csv, parse_tracked
from enrichment.pipeline.quality import assess_quality, without_flag
from enrichment.services.command_checks import (
    known_state,
    not_active,
    nothing_to_run,
    past_window,
    pause_key,
    require_rule,
    window_as_text,
)
from enrichment.warehouse import alerts, resilience_state
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import job_control, jobs, pauses, symbols
from enrichment.warehouse.series import flags_and_gaps, status

__all__ = ["Commands", "TriggerResult", "parse_csv", "parse_tracked"]

MANUAL_PRIORITY = 0
BACKFILL_PRIORITY = 20
OPEN_STATES = ("queued", "running")
COMMAND_REACHES_WORKERS_SECONDS = 2.0
MAX_SILENCE = timedelta(days=30)
BREAKER_ACTIONS = ("force_open", "disable", "reset")


@dataclass(frozen=True, slots=True)
class TriggerResult:
    """A manual job and how many symbols it holds."""

    job_id: UUID
    symbols_to_process: int


class Commands:
    """The one service through which anything is changed."""

    def __init__(self, db: Database) -> None:
        self._db = db

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

        The same idempotency key gives the same job again. Raises NotTracked for unknown symbols and
        InvalidRequest where nothing would be enriched.
        """
        if symbols and asset_class:
            raise Conflict("give either symbols or an asset class, not both")
        wanted = sorted({parse_symbol(symbol) for symbol in symbols}) if symbols else None
        kind = AssetClass.parse(asset_class).value if asset_class else None
        with self._db.begin() as conn:
            if idempotency_key and (known := pauses.job_with_key(conn, idempotency_key)):
                return TriggerResult(*known)
            if wanted and (unknown := not_active(conn, wanted)):
                raise NotTracked(unknown)
            opened = job_control.open_job(
                conn,
                JobKind.MANUAL,
                action="trigger",
                actor=actor,
                reason=reason,
                params={"symbols": wanted, "asset_class": kind},
                symbols=wanted,
                asset_class=kind,
                priority=MANUAL_PRIORITY,
                idempotency_key=idempotency_key,
            )
            if opened is not None:
                if opened[1] == 0:
                    raise Conflict(nothing_to_run(kind))
                return TriggerResult(*opened)
        return self._triggered_elsewhere(idempotency_key)

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
        wanted = sorted({parse_symbol(symbol) for symbol in symbols})
        with self._db.begin() as conn:
            if not wanted or (unknown := not_active(conn, wanted)):
                raise NotTracked(unknown if wanted else "name at least one tracked symbol")
            window = past_window(start, end, pauses.now(conn))
            opened = job_control.open_job(
                conn,
                JobKind.BACKFILL,
                action="backfill",
                actor=actor,
                reason=reason,
                params={"symbols": wanted, **window_as_text(window)},
                symbols=wanted,
                priority=BACKFILL_PRIORITY,
                backfill=window,
            )
            if opened is None:
                raise InvalidRequest("the job could not be opened: try again")
            return TriggerResult(*opened)

    def confirm(
        self, symbol: str, timeframe: str, ts: datetime, *, check: str, reason: str, actor: str
    ) -> float:
        """Mark a flagged bar as real: the flag goes and is not raised again, the score follows.

        Returns the new score; InvalidRequest where there is no such flag.
        """
        name, kind = parse_symbol(symbol), Timeframe.parse(timeframe)
        if not reason.strip():
            raise InvalidRequest("say how you know that the bar is real: the reason is kept")
        with self._db.begin() as conn:
            evidence = status.read_quality_inputs(conn, name, kind)
            found = flags_and_gaps.confirm(
                conn, symbol=name, timeframe=kind, ts=ts, check=check, by=actor, reason=reason
            )
            if not found or evidence is None:
                raise InvalidRequest(
                    f"{name} {kind} has no flag {check!r} at {ts:%Y-%m-%d %H:%M} UTC: "
                    f"see 'enrichment quality {name}'"
                )
            changed = without_flag(evidence, check, ts)
            quality = assess_quality(changed)
            status.reassess(conn, name, kind, quality, changed)
            pauses.audit(
                conn,
                actor=actor,
                action="confirm",
                target=f"{name} {kind} {ts:%Y-%m-%dT%H:%MZ} {check}",
                reason=reason,
            )
            return quality.score

    def _triggered_elsewhere(self, idempotency_key: str | None) -> TriggerResult:
        """The job that a simultaneous request with the same key has just opened."""
        with self._db.begin() as conn:
            known = pauses.job_with_key(conn, idempotency_key or "")
        if known is None:
            raise InvalidRequest("the job could not be opened: try again")
        return TriggerResult(*known)

    def pause(
        self,
        *,
        actor: str,
        scope: str = "global",
        key: str = "",
        reason: str | None = None,
        until: datetime | None = None,
    ) -> None:
        """Keep a scope's items from being claimed until it is resumed, or until `until`.

        scope: global, asset_class, symbol or provider, with its key. What is at work finishes.
        """
        key = pause_key(scope, key)
        with self._db.begin() as conn:
            if scope == "symbol" and symbols.not_active(conn, [key]):
                raise NotTracked.of(key)
            pauses.pause(conn, scope=scope, key=key, by=actor, reason=reason, until=until)
            pauses.audit(
                conn, actor=actor, action="pause", target=f"{scope} {key}".strip(), reason=reason
            )

    def resume(
        self, *, actor: str, scope: str = "global", key: str = "", reason: str | None = None
    ) -> None:
        """Lift a scope's pause."""
        key = pause_key(scope, key)
        with self._db.begin() as conn:
            pauses.resume(conn, scope=scope, key=key)
            pauses.audit(
                conn, actor=actor, action="resume", target=f"{scope} {key}".strip(), reason=reason
            )
            jobs.notify(conn)

    def cancel(self, job_id: UUID, *, actor: str, reason: str | None = None) -> None:
        """End a job: waiting symbols are cancelled now, those at work at their next step."""
        with self._db.begin() as conn:
            state = known_state(job_control.job_state(conn, job_id), job_id)
            if state not in OPEN_STATES:
                raise Conflict(f"job {job_id} is {state} already: nothing to cancel")
            job_control.request_cancel(conn, job_id)
            pauses.audit(conn, actor=actor, action="cancel", target=str(job_id), reason=reason)

    def resume_failed(
        self,
        job_id: UUID,
        *,
        actor: str,
        error_class: str | None = None,
        reason: str | None = None,
    ) -> int:
        """Run a finished job's failed symbols again, all or those of one error class.

        Returns how many there are; InvalidRequest if there are none, or the job still runs.
        """
        with self._db.begin() as conn:
            state = known_state(job_control.job_state(conn, job_id), job_id)
            if state in OPEN_STATES:
                raise Conflict(f"job {job_id} is still {state}: wait for its end")
            count = job_control.reopen_failed(conn, job_id, error_class)
            if count == 0:
                kind = f" with {error_class}" if error_class else ""
                raise Conflict(f"job {job_id} has no failed symbols{kind}: nothing to resume")
            pauses.audit(
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
        """Force a breaker open, disable it, or let it decide again ('reset'), in every worker.

        action: force_open, disable or reset. Forced states outlive restarts, until a reset.
        """
        if action not in BREAKER_ACTIONS:
            raise InvalidRequest(
                f"unknown action {action!r}: choose one of {', '.join(BREAKER_ACTIONS)}"
            )
        with self._db.begin() as conn:
            known = resilience_state.breaker_names(conn)
            if name not in known:
                listed = ", ".join(known) or "none yet: no worker has run"
                raise UnknownBreaker(f"unknown breaker {name!r}: known are {listed}")
            resilience_state.override(conn, name=name, action=action, actor=actor, reason=reason)
            pauses.audit(conn, actor=actor, action=f"breaker_{action}", target=name, reason=reason)
            if action != "force_open":
                job_control.wake_snoozed(conn, COMMAND_REACHES_WORKERS_SECONDS)

    def silence(
        self, rule: str, *, length: timedelta, actor: str, reason: str | None = None
    ) -> datetime:
        """Tell nobody of a rule's alerts for a time; its end. UnknownRule names those there are."""
        if not timedelta(0) < length <= MAX_SILENCE:
            raise InvalidRequest(
                f"a silence lasts from 1 second to {MAX_SILENCE.days} days: "
                "to be rid of a rule, write 'enabled = false' in its file"
            )
        until = utc_now() + length
        with self._db.begin() as conn:
            require_rule(conn, rule)
            alerts.silence(conn, rule=rule, by=actor, reason=reason, until=until)
            pauses.audit(
                conn,
                actor=actor,
                action="silence",
                target=rule,
                reason=reason,
                params={"until": until.isoformat()},
            )
        return until

    def unsilence(self, rule: str, *, actor: str, reason: str | None = None) -> None:
        """End a silence before its time; Conflict if there is none."""
        with self._db.begin() as conn:
            require_rule(conn, rule)
            if not alerts.unsilence(conn, rule=rule):
                raise Conflict(f"{rule} is not silenced: nothing to end")
            pauses.audit(conn, actor=actor, action="unsilence", target=rule, reason=reason)

    def track(
        self, tracked: Sequence[TrackedSymbol], *, actor: str, reason: str | None = None
    ) -> None:
        """Add symbols, or change the asset class and timeframes of existing ones."""
        with self._db.begin() as conn:
            symbols.put(conn, tracked)
            pauses.audit(
                conn,
                actor=actor,
                action="track",
                target=", ".join(t.symbol for t in tracked[:20]),
                reason=reason,
                params={"count": len(tracked)},
            )

    def untrack(self, symbol: str, *, actor: str, reason: str | None = None) -> None:
        """Stop enriching a symbol; what is stored of it stays."""
        name = parse_symbol(symbol)
        with self._db.begin() as conn:
            if not symbols.deactivate(conn, name):
                raise NotTracked.of(name)
            job_control.drop_open_items(conn, name)
            pauses.audit(conn, actor=actor, action="untrack", target=name, reason=reason)
