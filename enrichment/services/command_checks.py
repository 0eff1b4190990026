"""Checks of the commands' arguments; each error's message says how to fix the argument."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from enrichment.domain.calendars import market_of, stock_session_of
from enrichment.domain.corporate_actions import ActionKind
from enrichment.domain.damage import DamageKind
from enrichment.domain.errors import (
    Conflict,
    InvalidRequest,
    NotTracked,
    UnknownBreaker,
    UnknownJob,
    UnknownLimiter,
    UnknownRule,
)
from enrichment.domain.exchanges import NEW_YORK
from enrichment.domain.model import AssetClass, StockSession, TrackedSymbol, Window
from enrichment.domain.statuses import PauseScope
from enrichment.domain.symbols import SymbolKind, parse_instrument
from enrichment.services.alerts.rules import DEFAULT_RULES
from enrichment.vendors.registry import VENDORS, VendorSpec
from enrichment.warehouse import alerts, resilience_state
from enrichment.warehouse.database import Connection
from enrichment.warehouse.queue import job_control, symbols

NAMED = 10  # names that a message lists


def backfill_window(start: datetime, end: datetime | None, now: datetime) -> Window:
    """[start, end) up to `now`; InvalidRequest if it is empty."""
    end = now if end is None else min(end, now)
    if start >= end:
        raise InvalidRequest(
            f"nothing to fetch from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC: "
            "the start must be in the past and before the end"
        )
    return Window(start, end)


def damage_kinds(names: Sequence[str]) -> frozenset[DamageKind]:
    """The kinds of damage of these names, all without names; InvalidRequest for an unknown one."""
    for name in names:
        if name not in list(DamageKind):
            raise InvalidRequest(
                f"unknown kind of damage {name!r}: choose from {', '.join(DamageKind)}"
            )
    return frozenset(map(DamageKind, names or DamageKind))


def parse_action_kind(text: str) -> ActionKind:
    """The kind of a corporate action; InvalidRequest with those there are."""
    try:
        return ActionKind(text.strip().lower())
    except ValueError:
        raise InvalidRequest(
            f"unknown kind of action {text!r}: choose one of {', '.join(ActionKind)}"
        ) from None


def pause_key(conn: Connection, scope: str, key: str) -> str:
    """The normalized key of a pause; InvalidRequest if it does not fit the scope."""
    if scope == PauseScope.GLOBAL:
        if key:
            raise InvalidRequest("a global pause takes no key: name the scope that the key is of")
        return ""
    if scope == PauseScope.ASSET_CLASS:
        return AssetClass.parse(key).value
    if scope == PauseScope.SYMBOL:
        return symbols.stored_as(conn, [key])[0]
    if scope == PauseScope.PROVIDER:
        return VENDORS[key].name
    raise InvalidRequest(f"unknown scope {scope!r}: choose one of {', '.join(PauseScope)}")


def require_reason(reason: str, advice: str) -> None:
    """Conflict without a reason; `advice` says what it is to state."""
    if not reason.strip():
        raise Conflict(f"give a reason: {advice}")


def require_tracked(conn: Connection, names: Sequence[str]) -> None:
    """NotTracked, naming those that are not tracked or not active."""
    unknown = symbols.not_active(conn, names)
    if unknown:
        names = listed(unknown)
        verb = "is" if len(unknown) == 1 else "are"
        raise NotTracked(
            f"{names} {verb} not tracked: add with "
            f"'enrichment symbols add {unknown[0]} --asset-class stock --timeframes 1d'"
        )


def trigger_class(symbols: Sequence[str] | None, asset_class: str | None) -> str | None:
    """The asset class that a trigger is limited to, if it is; Conflict beside symbols."""
    if symbols and asset_class:
        raise Conflict("give either symbols or an asset class, not both")
    return AssetClass.parse(asset_class).value if asset_class else None


def unserved_reason(tracked: TrackedSymbol, providers: Sequence[str]) -> str | None:
    """Why none of these vendors serves a series of the symbol, and what to do; None if one does.

    >>> symbol = TrackedSymbol("VOD.L", AssetClass.STOCK, (Timeframe.D1,))
    >>> unserved_reason(symbol, ["polygon"])
    'VOD.L: polygon serves US stocks only; add yahoo to PROVIDERS_STOCK'
    """
    mismatch = _mismatch(tracked)
    if mismatch is not None:
        return f"{tracked.symbol}: {mismatch}"
    for timeframe in tracked.timeframes:
        extended = timeframe.intraday and _has_extended_hours(tracked)
        series = tracked.symbol, tracked.asset_class, timeframe
        refusals = [VENDORS[name].refusal(*series, extended=extended) for name in providers]
        reasons = [reason for reason in refusals if reason is not None]
        if len(reasons) == len(providers):
            able = [spec for spec in VENDORS if spec.refusal(*series, extended=extended) is None]
            return f"{tracked.symbol}: {', '.join(reasons)}; {_remedy(able, tracked.asset_class)}"
    return None


def _mismatch(tracked: TrackedSymbol) -> str | None:
    kind = parse_instrument(tracked.symbol).kind
    if tracked.asset_class is not AssetClass.CRYPTO and kind is SymbolKind.PAIR:
        return "a pair of currencies is of asset class crypto"
    if tracked.asset_class is AssetClass.CRYPTO and kind not in (SymbolKind.PAIR, SymbolKind.OTHER):
        return "not a pair of currencies: write X:BASEQUOTE, such as X:BTCUSD"
    if tracked.session is StockSession.EXTENDED and not _is_of_new_york(tracked):
        return "only US stocks and ETFs have extended hours: leave the session out"
    return None


def _is_of_new_york(tracked: TrackedSymbol) -> bool:
    return market_of(tracked.symbol, tracked.asset_class) is NEW_YORK


def _has_extended_hours(tracked: TrackedSymbol) -> bool:
    session = tracked.session or stock_session_of(tracked.symbol)
    return session is StockSession.EXTENDED and _is_of_new_york(tracked)


def _remedy(able: Sequence[VendorSpec], asset_class: AssetClass) -> str:
    if not able:
        return "no vendor serves it"
    keys = {spec.name: " and ".join(c.name.upper() for c in spec.credentials) for spec in able}
    names = [f"{name} (with {key})" if key else name for name, key in keys.items()]
    return f"add {' or '.join(names)} to PROVIDERS_{asset_class.upper()}"


def listed(names: Sequence[str]) -> str:
    """The names, or the first of them and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def require_job(conn: Connection, job_id: UUID) -> str:
    """The job's state, locked for this transaction; UnknownJob if there is no such job."""
    state = job_control.job_state(conn, job_id)
    if state is None:
        raise UnknownJob.of(job_id)
    return state


def require_breaker(conn: Connection, name: str) -> None:
    """UnknownBreaker, listing the known ones, if no worker has published a breaker of this name."""
    names = resilience_state.breaker_names(conn)
    if name not in names:
        listed = ", ".join(names) or "none yet: no worker has run"
        raise UnknownBreaker(f"unknown breaker {name!r}: known are {listed}")


def require_limiter(conn: Connection, name: str) -> None:
    """UnknownLimiter, listing the known ones, if no worker has published one of this name."""
    names = resilience_state.limiter_names(conn)
    if name not in names:
        listed = ", ".join(names) or "none yet: no worker has run"
        raise UnknownLimiter(f"unknown rate limiter {name!r}: known are {listed}")


def require_rule(conn: Connection, name: str) -> None:
    """UnknownRule, listing the known ones, if there is no alert rule of this name."""
    names = {*alerts.rule_names(conn), *(rule.name for rule in DEFAULT_RULES)}
    if name not in names:
        raise UnknownRule(f"there is no alert rule {name!r}: known are {', '.join(sorted(names))}")


def no_symbols_message(asset_class: str | None) -> str:
    what = f"no active {asset_class} symbols are" if asset_class else "no symbols are"
    return f"{what} tracked: add one with 'enrichment symbols add AAPL --asset-class stock'"
