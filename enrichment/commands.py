"""What an operator can do. API, command line and dashboard share these; each writes its audit row
in the same transaction as its effect."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from enrichment.alerts.rules import DEFAULT_RULES
from enrichment.clock import utc_now
from enrichment.domain import (
    PROVIDER_NAMES,
    AssetClass,
    JobKind,
    Timeframe,
    TrackedSymbol,
    parse_symbol,
)
from enrichment.errors import InvalidRequest, NotTracked, UnknownJob, UnknownRule
from enrichment.storage import alerts, job_control, jobs, operations, resilience_state, symbols
from enrichment.storage.database import Connection, Database

MANUAL_PRIORITY = 0
OPEN_STATES = ("queued", "running")
PAUSE_SCOPES = ("global", "asset_class", "symbol", "provider")
COMMAND_REACHES_WORKERS_SECONDS = 2.0
LONGEST_SILENCE = timedelta(days=30)
BREAKER_ACTIONS = ("force_open", "disable", "reset")


@dataclass(frozen=True, slots=True)
class Triggered:
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
    ) -> Triggered:
        """Open a manual job for these symbols, for an asset class, or for all active symbols.

        The same idempotency key gives the same job again. Raises NotTracked for unknown symbols and
        InvalidRequest where nothing would be enriched.
        """
        if symbols and asset_class:
            raise InvalidRequest("give either symbols or an asset class, not both")
        wanted = sorted({parse_symbol(symbol) for symbol in symbols}) if symbols else None
        kind = AssetClass.parse(asset_class).value if asset_class else None
        with self._db.begin() as conn:
            if idempotency_key and (known := operations.job_with_key(conn, idempotency_key)):
                return Triggered(*known)
            if wanted and (unknown := _not_active(conn, wanted)):
                raise NotTracked(unknown)
            params = {"symbols": wanted, "asset_class": kind}
            job_id = jobs.insert_job(
                conn,
                kind=JobKind.MANUAL,
                requested_by=actor,
                params=json.dumps(params),
                reason=reason,
                idempotency_key=idempotency_key,
            )
            if job_id is not None:
                count = jobs.snapshot_items(
                    conn, job_id, symbols=wanted, asset_class=kind, priority=MANUAL_PRIORITY
                )
                if count == 0:
                    raise InvalidRequest(_nothing_to_do(kind))
                operations.audit(
                    conn,
                    actor=actor,
                    action="trigger",
                    target=str(job_id),
                    reason=reason,
                    params=params,
                )
                return Triggered(job_id, count)
        return self._triggered_elsewhere(idempotency_key)

    def _triggered_elsewhere(self, idempotency_key: str | None) -> Triggered:
        """The job that a simultaneous request with the same key has just opened."""
        with self._db.begin() as conn:
            known = operations.job_with_key(conn, idempotency_key or "")
        if known is None:
            raise InvalidRequest("the job could not be opened: try again")
        return Triggered(*known)

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
        key = _pause_key(scope, key)
        with self._db.begin() as conn:
            if scope == "symbol" and symbols.not_active(conn, [key]):
                raise NotTracked(f"{key} is not tracked: see 'enrichment symbols list'")
            operations.pause(conn, scope=scope, key=key, by=actor, reason=reason, until=until)
            operations.audit(
                conn, actor=actor, action="pause", target=f"{scope} {key}".strip(), reason=reason
            )

    def resume(
        self, *, actor: str, scope: str = "global", key: str = "", reason: str | None = None
    ) -> None:
        """Lift a scope's pause."""
        key = _pause_key(scope, key)
        with self._db.begin() as conn:
            operations.resume(conn, scope=scope, key=key)
            operations.audit(
                conn, actor=actor, action="resume", target=f"{scope} {key}".strip(), reason=reason
            )
            jobs.notify(conn)

    def cancel(self, job_id: UUID, *, actor: str, reason: str | None = None) -> None:
        """End a job: waiting symbols are cancelled now, those at work at their next step."""
        with self._db.begin() as conn:
            state = _known_state(job_control.job_state(conn, job_id), job_id)
            if state not in OPEN_STATES:
                raise InvalidRequest(f"job {job_id} is {state} already: nothing to cancel")
            job_control.request_cancel(conn, job_id)
            operations.audit(conn, actor=actor, action="cancel", target=str(job_id), reason=reason)

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
            state = _known_state(job_control.job_state(conn, job_id), job_id)
            if state in OPEN_STATES:
                raise InvalidRequest(f"job {job_id} is still {state}: wait for its end")
            count = job_control.reopen_failed(conn, job_id, error_class)
            if count == 0:
                kind = f" with {error_class}" if error_class else ""
                raise InvalidRequest(f"job {job_id} has no failed symbols{kind}: nothing to resume")
            operations.audit(
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
                raise InvalidRequest(f"unknown breaker {name!r}: known are {listed}")
            resilience_state.override(conn, name=name, action=action, actor=actor, reason=reason)
            operations.audit(
                conn, actor=actor, action=f"breaker_{action}", target=name, reason=reason
            )
            if action != "force_open":
                job_control.wake_snoozed(conn, COMMAND_REACHES_WORKERS_SECONDS)

    def silence(
        self, rule: str, *, length: timedelta, actor: str, reason: str | None = None
    ) -> datetime:
        """Tell nobody of a rule's alerts for a time; its end. UnknownRule names those there are."""
        if not timedelta(0) < length <= LONGEST_SILENCE:
            raise InvalidRequest(
                f"a silence lasts from 1 second to {LONGEST_SILENCE.days} days: "
                "to be rid of a rule, write 'enabled = false' in its file"
            )
        until = utc_now() + length
        with self._db.begin() as conn:
            _require_rule(conn, rule)
            alerts.silence(conn, rule=rule, by=actor, reason=reason, until=until)
            operations.audit(
                conn,
                actor=actor,
                action="silence",
                target=rule,
                reason=reason,
                params={"until": until.isoformat()},
            )
        return until

    def unsilence(self, rule: str, *, actor: str, reason: str | None = None) -> None:
        """End a silence before its time; InvalidRequest if there is none."""
        with self._db.begin() as conn:
            _require_rule(conn, rule)
            if not alerts.unsilence(conn, rule=rule):
                raise InvalidRequest(f"{rule} is not silenced: nothing to end")
            operations.audit(conn, actor=actor, action="unsilence", target=rule, reason=reason)

    def track(self, tracked: Sequence[TrackedSymbol], *, actor: str) -> None:
        """Add symbols, or change the asset class and timeframes of existing ones."""
        with self._db.begin() as conn:
            symbols.put(conn, tracked)
            operations.audit(
                conn,
                actor=actor,
                action="track",
                target=", ".join(t.symbol for t in tracked[:20]),
                params={"count": len(tracked)},
            )

    def untrack(self, symbol: str, *, actor: str) -> None:
        """Stop enriching a symbol; what is stored of it stays."""
        name = parse_symbol(symbol)
        with self._db.begin() as conn:
            if not symbols.deactivate(conn, name):
                raise NotTracked(f"{name} is not tracked: see 'enrichment symbols list'")
            job_control.forget_symbol(conn, name)
            operations.audit(conn, actor=actor, action="untrack", target=name)


def parse_tracked(symbol: str, asset_class: str, timeframes: str) -> TrackedSymbol:
    """A symbol with its settings, from their texts."""
    return TrackedSymbol(
        parse_symbol(symbol), AssetClass.parse(asset_class), Timeframe.parse_list(timeframes)
    )


def parse_csv(content: str) -> list[TrackedSymbol]:
    """Symbols from CSV with the header symbol,asset_class,timeframes (timeframes separated by '|').

    All lines are checked before anything is changed; the error names every bad line.
    """
    reader = csv.DictReader(io.StringIO(content.lstrip("\ufeff")))
    if not {"symbol", "asset_class", "timeframes"} <= set(reader.fieldnames or ()):
        raise InvalidRequest("the first line must be: symbol,asset_class,timeframes")
    found: list[TrackedSymbol] = []
    problems: list[str] = []
    for row in reader:
        try:
            found.append(
                parse_tracked(
                    row["symbol"] or "", row["asset_class"] or "", row["timeframes"] or ""
                )
            )
        except InvalidRequest as exc:
            problems.append(f"line {reader.line_num}: {exc}")
    if problems:
        raise InvalidRequest("; ".join(problems))
    if not found:
        raise InvalidRequest("the file names no symbol")
    return list({tracked.symbol: tracked for tracked in found}.values())


def _known_state(state: str | None, job_id: UUID) -> str:
    if state is None:
        raise UnknownJob(f"there is no job {job_id}: see 'enrichment history'")
    return state


def _require_rule(conn: Connection, rule: str) -> None:
    known = {*alerts.rule_names(conn), *(rule.name for rule in DEFAULT_RULES)}
    if rule not in known:
        raise UnknownRule(f"there is no alert rule {rule!r}: known are {', '.join(sorted(known))}")


def _pause_key(scope: str, key: str) -> str:
    """The key of a pause in its usual spelling; InvalidRequest where scope and key do not fit."""
    if scope == "global":
        if key:
            raise InvalidRequest("a global pause takes no key: name the scope it is meant for")
        return ""
    if scope == "asset_class":
        return AssetClass.parse(key).value
    if scope == "symbol":
        return parse_symbol(key)
    if scope == "provider":
        if key not in PROVIDER_NAMES:
            raise InvalidRequest(f"unknown provider {key!r}: choose {', '.join(PROVIDER_NAMES)}")
        return key
    raise InvalidRequest(f"unknown scope {scope!r}: choose one of {', '.join(PAUSE_SCOPES)}")


def _not_active(conn: Connection, wanted: Sequence[str]) -> str | None:
    unknown = symbols.not_active(conn, wanted)
    if not unknown:
        return None
    listed = ", ".join(unknown[:10]) + (" …" if len(unknown) > 10 else "")
    verb = "is" if len(unknown) == 1 else "are"
    return (
        f"{listed} {verb} not tracked: add with "
        f"'enrichment symbols add {unknown[0]} --asset-class stock --timeframes 1d'"
    )


def _nothing_to_do(asset_class: str | None) -> str:
    what = f"no active {asset_class} symbols are" if asset_class else "no symbols are"
    return f"{what} tracked: add one with 'enrichment symbols add AAPL --asset-class stock'"
