"""The ledger of corporate actions: what each source says, which account applies, what differs.

One row is one action. It keeps every source's account; the leading source's is applied: an
operator's first, then vendors in the order of `SOURCES`. An action that its sources no longer list
is withdrawn, never deleted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection

from enrichment.domain.corporate_actions import ActionKind, CorporateAction, Split
from enrichment.domain.exchanges import exchange_of
from enrichment.warehouse.database import Database, JsonRows, fetch_all, sql

MANUAL = "manual"
SOURCES = (MANUAL, "polygon", "alpaca", "yahoo")  # the leading one first; others after them
_BATCH = 5_000
_RETRY_MINUTES = 15
_RATIO_TOLERANCE, _AMOUNT_TOLERANCE = 1e-3, 1e-2  # between the accounts of two sources
_FIELDS = (
    "ratio",
    "amount",
    "currency",
    "declared_date",
    "record_date",
    "pay_date",
    "vendor_id",
    "new_symbol",
)

Account = Mapping[str, Any]
"""A source's account as JSON: fields of CorporateAction; `withdrawn_at`, since when the source does
not list the action; `refuted`, if an operator says that it did not take place."""

Key = tuple[str, date, str]
"""Symbol, effective date and kind."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One action with the accounts of all sources."""

    symbol: str
    kind: str
    effective_date: date
    accounts: Mapping[str, Account]

    @property
    def key(self) -> Key:
        return self.symbol, self.effective_date, self.kind

    @property
    def family(self) -> str:
        """Kinds of one family on one day are the same action, in the words of other sources."""
        kind = ActionKind(self.kind)
        return "shares" if kind.changes_shares else "cash" if kind.pays else kind.value

    @property
    def live(self) -> dict[str, Account]:
        """Source → account of the sources that list the action."""
        return {s: account for s, account in self.accounts.items() if not account["withdrawn_at"]}


def record(conn: Connection, actions: Iterable[CorporateAction]) -> set[Key]:
    """Write the accounts of sources into the ledger; returns the actions that changed."""
    accounts: dict[Key, dict[str, Account]] = defaultdict(dict)
    for action in actions:
        of_key = accounts[key_of(action)]
        of_key[action.source] = _account(action, of_key.get(action.source))
    return _merge(conn, accounts)


def withdraw(conn: Connection, keys: Iterable[Key], source: str, now: datetime) -> set[Key]:
    """Note that a source no longer lists these actions; returns those that changed."""
    at = {"withdrawn_at": now.isoformat()}
    return _merge(
        conn,
        {
            key: {source: {**row.accounts[source], **at}}
            for key, row in _stored(conn, keys).items()
            if source in row.live
        },
    )


def refute(conn: Connection, key: Key, reason: str) -> bool:
    """An operator's account that an action did not take place; False if it is not in the ledger."""
    if key not in _stored(conn, [key]):
        return False
    account = {**dict.fromkeys(_FIELDS), "problem": None, "doubt": reason, "withdrawn_at": None}
    _merge(conn, {key: {MANUAL: {**account, "refuted": True}}})
    return True


def remove_manual(conn: Connection, key: Key) -> bool:
    """Take an operator's account of an action back; False if there is none."""
    row = _stored(conn, [key]).get(key)
    if row is None or MANUAL not in row.accounts:
        return False
    if len(row.accounts) == 1:
        conn.execute(sql(_DELETE), dict(zip(("symbol", "day", "kind"), key, strict=True)))
    else:
        _merge(conn, {key: {MANUAL: None}})
    return True


def key_of(action: CorporateAction) -> Key:
    """The key of an action in the ledger."""
    return action.symbol, action.effective_date, action.kind.value


def claim_refresh(conn: Connection, source: str, due_since: datetime, now: datetime) -> bool | None:
    """Whether a source is to be asked now, by this process: None if not.

    It is for the market (True) if it was not asked since `due_since`, and for the past of tracked
    symbols alone (False) if that is unknown; no one has tried within the last minutes.
    """
    values = {"source": source, "due_since": due_since, "now": now, "wait": _RETRY_MINUTES}
    due: bool | None = conn.execute(sql(_CLAIM), values).scalar()
    return due


def last_refresh(conn: Connection, source: str) -> datetime | None:
    """When a source was last asked for the whole market."""
    at: datetime | None = conn.execute(sql(_LAST_REFRESH), {"source": source}).scalar()
    return at


def note_refresh(
    conn: Connection, source: str, symbol: str, covers_from: date, now: datetime
) -> None:
    """Note that a source was asked, of a symbol or ('') of the market."""
    values = {"source": source, "symbol": symbol, "covers_from": covers_from, "now": now}
    conn.execute(sql(_REFRESHED), values)


def note_failure(conn: Connection, source: str, error: str, now: datetime) -> None:
    """Note that a source could not be asked."""
    conn.execute(sql(_FAILED), {"source": source, "error": error, "now": now})


def symbols_without_past(conn: Connection, source: str, since: date) -> dict[str, date]:
    """Tracked shares → the first day of their bars, where a source was not asked that far back.

    since: for those without bars.
    """
    rows = conn.execute(sql(_WITHOUT_PAST), {"source": source, "since": since})
    return {row.symbol: row.since for row in rows}


def outdated_symbols(conn: Connection, changed: Iterable[Key]) -> list[str]:
    """The active symbols with stored bars on both sides of a changed split.

    Flags that were raised on the step of that day are removed.
    """
    rows = [
        {"symbol": symbol, "effective_date": day, "kind": kind}
        for symbol, day, kind in changed
        if ActionKind(kind).changes_shares
    ]
    if not rows:
        return []
    values = _KEYS.bind(rows)
    conn.execute(sql(_CLEAR_STEP_FLAGS), values)
    return list(conn.execute(sql(_OUTDATED), values).scalars())


class LedgerSplits:
    """The splits of a symbol that apply today, from the ledger."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def __call__(self, symbol: str) -> list[Split]:
        with self._db.begin() as conn:
            rows = conn.execute(sql(_SPLITS), {"symbol": symbol})
            return [(row.effective_date, row.ratio) for row in rows]


def listed_by(
    conn: Connection,
    source: str,
    since: date,
    until: date | None = None,
    symbols: Sequence[str] | None = None,
) -> set[Key]:
    """The actions of since ≤ date < until that a source lists, of these symbols or of all."""
    values = {
        "source": source,
        "since": since,
        "until": until,
        "symbols": None if symbols is None else list(symbols),
    }
    rows = conn.execute(sql(_LISTED_BY), values)
    return {(row.symbol, row.effective_date, row.kind) for row in rows}


def _account(action: CorporateAction, earlier: Account | None) -> Account:
    """The account of an action; a source's several amounts of one kind on one day add up."""
    account = {name: _json(getattr(action, name)) for name in _FIELDS}
    account |= {"problem": action.rejection, "doubt": action.doubt, "withdrawn_at": None}
    if earlier is None or action.vendor_id in (None, earlier["vendor_id"]):
        return account
    if action.kind.pays and earlier["amount"] is not None and action.amount is not None:
        account["amount"] = earlier["amount"] + action.amount
    return account


def _json(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value


def _stored(conn: Connection, keys: Iterable[Key]) -> dict[Key, LedgerRow]:
    """The rows of the keys' symbols and days, locked, whatever their kind."""
    rows = [{"symbol": s, "effective_date": d, "kind": k} for s, d, k in keys]
    return {row.key: row for row in fetch_all(conn, LedgerRow, _STORED, _KEYS.bind(rows))}


def _merge(conn: Connection, accounts: Mapping[Key, Mapping[str, Account | None]]) -> set[Key]:
    """Lay accounts over the stored ones (None: take it away) and decide anew which apply."""
    changed: set[Key] = set()
    items = sorted(accounts.items())
    for batch in (items[n : n + _BATCH] for n in range(0, len(items), _BATCH)):
        stored = _stored(conn, [key for key, _ in batch])
        rows = dict(stored)
        for key, added in batch:
            row = rows.get(key) or LedgerRow(key[0], key[2], key[1], {})
            merged = {s: account for s, account in {**row.accounts, **added}.items() if account}
            rows[key] = replace(row, accounts=merged)
            if merged != row.accounts:
                changed.add(key)
        families: dict[tuple[str, date, str], list[LedgerRow]] = defaultdict(list)
        for row in rows.values():
            families[row.symbol, row.effective_date, row.family].append(row)
        decided = [values for family in families.values() for values in _decided(family)]
        conn.execute(sql(_WRITE), _ROWS.bind(decided))
    return changed


def _decided(group: Sequence[LedgerRow]) -> list[dict[str, object]]:
    """The rows of one family on one day as they are to be written."""
    sources = sorted({source for row in group for source in row.live}, key=_precedence)
    leading = sources[0] if sources else None
    disagreement = _disagreement(group, sources)
    written = []
    for row in group:
        source = min(row.live or row.accounts, key=_precedence)
        account = row.accounts[source]
        problem = _problem(row, account)
        withdrawn = bool(account.get("refuted")) or not row.live
        applies = source == leading and not withdrawn and account["problem"] is None
        written.append(
            {
                "symbol": row.symbol,
                "kind": row.kind,
                "effective_date": row.effective_date,
                **{name: account[name] for name in _FIELDS},
                "source": source,
                "accounts": row.accounts,
                "applies": applies and not problem.startswith(_NOT_APPLIED),
                "problem": problem or None,
                "disagreement": disagreement,
                "withdrawn": withdrawn,
            }
        )
    return written


_NOT_APPLIED = "not applied: "


def _problem(row: LedgerRow, account: Account) -> str:
    if account["problem"] is not None:
        return f"{_NOT_APPLIED}{account['problem']}"
    currency = exchange_of(row.symbol).currency
    if row.family == "cash" and account["currency"] not in (None, currency):
        return f"{_NOT_APPLIED}paid in {account['currency']}, and the prices are in {currency}"
    return account["doubt"] or ""


def _disagreement(group: Sequence[LedgerRow], sources: Sequence[str]) -> str | None:
    """How the accounts of the sources differ; None if they agree."""
    said = {source: _said(group, source) for source in sources}
    if len(said) < 2:
        return None
    tolerance = _RATIO_TOLERANCE if group[0].family == "shares" else _AMOUNT_TOLERANCE
    first = said[sources[0]]
    if all(abs(value - first) <= tolerance * abs(first) for value in said.values()):
        return None
    return ", ".join(f"{source} says {value:g}" for source, value in said.items())


def _said(group: Sequence[LedgerRow], source: str) -> float:
    """A source's ratio of the day, or the sum of its amounts."""
    accounts = [row.live[source] for row in group if source in row.live]
    ratios = [account["ratio"] for account in accounts if account["ratio"] is not None]
    amounts = [account["amount"] for account in accounts if account["amount"] is not None]
    if group[0].family != "shares":
        return float(sum(amounts))
    product = 1.0
    for ratio in ratios:
        product *= ratio
    return product


def _precedence(source: str) -> tuple[int, str]:
    name = source.removeprefix("sandbox:")
    name = "polygon" if name == "sandbox" else name
    return (SOURCES.index(name) if name in SOURCES else len(SOURCES), source)


_KEYS = JsonRows("keys", "symbol text, effective_date date, kind text")

# All rows of the days of the keys: kinds of one family are decided together.
_STORED = f"""
SELECT symbol, kind, effective_date, accounts FROM corporate_actions
WHERE (symbol, effective_date) IN (SELECT symbol, effective_date FROM {_KEYS.table})
FOR UPDATE
"""

_LISTED_BY = """
SELECT symbol, effective_date, kind FROM corporate_actions
WHERE accounts ? :source AND accounts -> :source ->> 'withdrawn_at' IS NULL
    AND effective_date >= :since
    AND (CAST(:until AS date) IS NULL OR effective_date < :until)
    AND (CAST(:symbols AS text[]) IS NULL OR symbol = ANY(:symbols))
"""

_ROWS = JsonRows(
    "actions",
    "symbol text, kind text, effective_date date, ratio float8, amount float8, currency text,"
    " declared_date date, record_date date, pay_date date, vendor_id text, new_symbol text,"
    " source text, accounts jsonb, applies boolean, problem text, disagreement text,"
    " withdrawn boolean",
)

_LISTED = ", ".join((*_FIELDS, *["source", "accounts", "applies", "problem", "disagreement"]))

_WRITE = f"""
INSERT INTO corporate_actions AS a (symbol, kind, effective_date, {_LISTED}, withdrawn_at)
SELECT symbol, kind, effective_date, {_LISTED}, CASE WHEN withdrawn THEN now() END
FROM {_ROWS.table}
ON CONFLICT (symbol, effective_date, kind) DO UPDATE SET
    ({_LISTED}, last_seen, withdrawn_at) = (
        {", ".join(f"EXCLUDED.{name}" for name in _LISTED.split(", "))}, now(),
        CASE WHEN EXCLUDED.withdrawn_at IS NOT NULL
            THEN coalesce(a.withdrawn_at, EXCLUDED.withdrawn_at) END)
"""

APPLIED_SPLITS = """
SELECT effective_date, product(ratio) AS ratio, min(disagreement) AS disagreement
FROM corporate_actions
WHERE symbol = {symbol} AND applies AND kind IN ('split', 'stock_dividend')
    AND effective_date <= (now() AT TIME ZONE 'UTC')::date
GROUP BY effective_date ORDER BY effective_date
"""

_SPLITS = APPLIED_SPLITS.format(symbol=":symbol")

_LAST_REFRESH = """
SELECT refreshed_at FROM corporate_action_refreshes WHERE source = :source AND symbol = ''
"""

_TRACKED_SHARES = """
SELECT t.symbol, least(coalesce(min(least(s.wanted_from, s.first_ts))::date, :since),
    :since) AS since, min(r.covers_from) AS covers_from
FROM tracked_symbols t
LEFT JOIN enrichment_status s USING (symbol)
LEFT JOIN corporate_action_refreshes r ON r.source = :source AND r.symbol = t.symbol
WHERE t.active AND t.asset_class IN ('stock', 'etf')
GROUP BY t.symbol
"""

_WITHOUT_PAST = f"""
SELECT symbol, since FROM ({_TRACKED_SHARES}) shares
WHERE covers_from IS NULL OR covers_from > since ORDER BY symbol
"""

_CLAIM = """
INSERT INTO corporate_action_refreshes AS r (source, symbol, attempted_at)
VALUES (:source, '', :now)
ON CONFLICT (source, symbol) DO UPDATE SET attempted_at = EXCLUDED.attempted_at
WHERE r.attempted_at <= EXCLUDED.attempted_at - make_interval(mins => :wait)
    AND (r.refreshed_at IS NULL OR r.refreshed_at < :due_since OR r.error IS NOT NULL)
    OR r.error IS NULL AND r.attempted_at <= EXCLUDED.attempted_at - interval '1 minute'
        AND EXISTS (
            SELECT FROM tracked_symbols t WHERE t.active AND t.asset_class IN ('stock', 'etf')
                AND NOT EXISTS (SELECT FROM corporate_action_refreshes p
                    WHERE p.source = :source AND p.symbol = t.symbol))
RETURNING refreshed_at IS NULL OR refreshed_at < :due_since OR error IS NOT NULL AS due
"""

_REFRESHED = """
INSERT INTO corporate_action_refreshes AS r (source, symbol, covers_from, attempted_at,
    refreshed_at)
VALUES (:source, :symbol, :covers_from, :now, :now)
ON CONFLICT (source, symbol) DO UPDATE SET error = NULL, refreshed_at = EXCLUDED.refreshed_at,
    covers_from = least(r.covers_from, EXCLUDED.covers_from)
"""

_FAILED = """
INSERT INTO corporate_action_refreshes (source, attempted_at, error) VALUES (:source, :now, :error)
ON CONFLICT (source, symbol) DO UPDATE SET error = EXCLUDED.error
"""

# The first bar on or after a split, up to a week later: where its step shows.
_CLEAR_STEP_FLAGS = f"""
DELETE FROM bar_flags f USING {_KEYS.table}
WHERE f.symbol = keys.symbol AND f.check_name IN ('split', 'split_without_step', 'outlier')
    AND f.ts >= keys.effective_date - interval '6 days' AND f.ts = (
        SELECT min(b.ts) FROM bars b WHERE b.symbol = f.symbol AND b.timeframe = f.timeframe
            AND b.ts >= keys.effective_date - CASE f.timeframe WHEN '1w' THEN interval '6 days'
                ELSE interval '0' END
            AND b.ts < keys.effective_date + interval '7 days')
"""

_OUTDATED = f"""
SELECT DISTINCT keys.symbol FROM {_KEYS.table}
JOIN tracked_symbols t ON t.symbol = keys.symbol AND t.active
JOIN enrichment_status s ON s.symbol = keys.symbol
WHERE s.first_ts < keys.effective_date AND s.last_ts >= keys.effective_date
    AND (s.adjusted_until IS NULL OR s.adjusted_until < keys.effective_date)
ORDER BY keys.symbol
"""

_DELETE = """
DELETE FROM corporate_actions WHERE (symbol, effective_date, kind) = (:symbol, :day, :kind)
"""
