"""What commands are given, checked: each function gives the value or says how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from enrichment.domain.errors import InvalidRequest, UnknownJob, UnknownRule
from enrichment.domain.model import AssetClass, Window, parse_symbol
from enrichment.services.alerts.rules import DEFAULT_RULES
from enrichment.vendors.registry import VENDORS
from enrichment.warehouse import alerts
from enrichment.warehouse.database import Connection
from enrichment.warehouse.queue import symbols

PAUSE_SCOPES = ("global", "asset_class", "symbol", "provider")


def past_window(start: datetime, end: datetime | None, now: datetime) -> Window:
    end = now if end is None else min(end, now)
    if start >= end:
        raise InvalidRequest(
            f"nothing to fetch from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC: "
            "the first moment must be in the past and before the last"
        )
    return Window(start, end)


def window_as_text(window: Window) -> dict[str, str]:
    return {"from": window.start.isoformat(), "to": window.end.isoformat()}


def known_state(state: str | None, job_id: UUID) -> str:
    if state is None:
        raise UnknownJob.of(job_id)
    return state


def pause_key(scope: str, key: str) -> str:
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
        return VENDORS[key].name
    raise InvalidRequest(f"unknown scope {scope!r}: choose one of {', '.join(PAUSE_SCOPES)}")


def not_active(conn: Connection, wanted: Sequence[str]) -> str | None:
    unknown = symbols.not_active(conn, wanted)
    if not unknown:
        return None
    listed = ", ".join(unknown[:10]) + (" …" if len(unknown) > 10 else "")
    verb = "is" if len(unknown) == 1 else "are"
    return (
        f"{listed} {verb} not tracked: add with "
        f"'enrichment symbols add {unknown[0]} --asset-class stock --timeframes 1d'"
    )


def nothing_to_run(asset_class: str | None) -> str:
    what = f"no active {asset_class} symbols are" if asset_class else "no symbols are"
    return f"{what} tracked: add one with 'enrichment symbols add AAPL --asset-class stock'"


def require_rule(conn: Connection, rule: str) -> None:
    """UnknownRule, with those there are, unless the rule is one of them."""
    known = {*alerts.rule_names(conn), *(rule.name for rule in DEFAULT_RULES)}
    if rule not in known:
        raise UnknownRule(f"there is no alert rule {rule!r}: known are {', '.join(sorted(known))}")
