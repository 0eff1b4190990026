"""What operators know better about the market: corporate actions, and days without trading."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import date

from enrichment.domain import calendars
from enrichment.domain.corporate_actions import CorporateAction
from enrichment.domain.errors import Conflict, InvalidRequest, UnknownAction
from enrichment.domain.exchanges import EXCHANGES, Exchange
from enrichment.domain.symbols import parse_symbol
from enrichment.services.action_refresh import enrich_again
from enrichment.services.command_checks import parse_action_kind, require_reason
from enrichment.warehouse import closures, corporate_actions
from enrichment.warehouse.database import Connection, Database
from enrichment.warehouse.queue import audit

_WHERE_ANNOUNCED = "where it was announced, for example"


class MarketCommands:
    """The part of `Commands` that corrects corporate actions and calendars."""

    _db: Database

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

    def close_session(self, mic: str, day: date, *, reason: str, actor: str) -> None:
        """Declare that an exchange did not trade on a day that its calendar has.

        Its bars are not expected any more, and their gaps are resolved. InvalidRequest for an
        unknown exchange, Conflict without a reason or for a day without a session.
        """
        exchange = _exchange(mic)
        require_reason(reason, _WHERE_ANNOUNCED)
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


def _exchange(mic: str) -> Exchange:
    exchange = EXCHANGES.get(mic.strip().upper())
    if exchange is None:
        raise InvalidRequest(f"unknown exchange {mic!r}: choose one of {', '.join(EXCHANGES)}")
    return exchange
