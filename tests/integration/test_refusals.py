"""Whatever is wrong: one line that names cause and fix, exit code ≠ 0, no traceback, no secret."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enrichment.warehouse.database import parse_url
from tests.helpers.database_servers import debian_server, run_as_admin
from tests.helpers.memory_folder import memory_folder
from tests.helpers.refusals import Refusal, outcomes

NO_JOB = "00000000-0000-0000-0000-000000000000"
ARGUMENTS = [
    Refusal(["nonsense"], "enrichment --help"),
    Refusal(["symbols", "ad", "AAPL"], "Did you mean 'add'"),
    Refusal(["bars"], "Missing argument 'symbol'"),
    Refusal(["bars", "AAPL", "--nope"], "--nope"),
    Refusal(["history", "--limit", "0"], "greater than or equal to 1"),
    Refusal(["cancel", "x"], "UUID"),
    Refusal(["symbols", "add", "'; DROP TABLE bars"], "malformed symbol"),
    Refusal(["symbols", "add", "AAPL", "--timeframes", "7m"], "5m, 15m, 30m, 1h, 4h"),
    Refusal(["symbols", "add", "AAPL", "--asset-class", "bond"], "stock, etf, crypto"),
    Refusal(["symbols", "remove", "AAPL"], "enrichment symbols list"),
    Refusal(["symbols", "import", "utf16.csv"], "CSV UTF-8"),
    Refusal(["symbols", "import", "latin1.csv"], "CSV UTF-8"),
    Refusal(["symbols", "import", "empty.csv"], "symbol,asset_class,timeframes"),
    Refusal(["symbols", "import", "missing.csv"], "does not exist"),
    Refusal(["trigger", "AAPL"], "symbols add AAPL"),
    Refusal(["trigger"], "symbols add AAPL"),
    Refusal(["status", "AAPL"], "enrichment symbols list"),
    Refusal(["cancel", NO_JOB], "enrichment history"),
    Refusal(["resume", "--job", NO_JOB], "enrichment history"),
    Refusal(["pause", "--symbol", "NOPE"], "NOPE"),
    Refusal(["pause", "--for", "soon"], "30m"),
    Refusal(["pause", "--for", "99999999999d"], "30m"),
    Refusal(["pause", "--symbol", "A", "--provider", "yahoo"], "give one of"),
    Refusal(["breaker", "nasdaq_api", "reset"], "nasdaq_api"),
    Refusal(["limiter", "nasdaq_api", "reset"], "nasdaq_api"),
    Refusal(["limiter", "nasdaq_api", "open"], "'reset'"),
    Refusal(["backfill", "AAPL", "--from", "2090-01-01"], "symbols add AAPL"),
    Refusal(["bars", "AAPL"], "enrichment symbols list"),
    Refusal(["bars", "AAPL", "--from", "20x"], "YYYY-MM-DD"),
    Refusal(["bars", "AAPL", "--adjust", "dividends"], "none, split, total"),
    Refusal(["bars", "AAPL", "--format", "xlsx"], "json, csv, arrow, parquet"),
    Refusal(["bars", "AAPL", "--columns", "closes"], "open, high, low, close"),
    Refusal(["findings", "flags", "--symbol", "AAPL"], "enrichment symbols list"),
    Refusal(["findings", "flags", "--timeframe", "9x"], "5m, 15m"),
    Refusal(["quality", "AAPL"], "enrichment symbols list"),
    Refusal(["confirm", "AAPL", "2026-01-05", "--check", "spike", "--reason", "x"], "AAPL"),
    Refusal(["reject", "AAPL", "2026-01-05", "--reason", "x"], "AAPL"),
    Refusal(["actions", "add", "A", "split", "2024-06-10", "--reason", "x"], "ratio is missing"),
    Refusal(["actions", "add", "A", "merger", "2024-06-10", "--reason", "x"], "split, stock_div"),
    Refusal(["actions", "refute", "A", "split", "10.6.24", "--reason", "x"], "YYYY-MM-DD"),
    Refusal(["calendar", "close", "XXXX", "2026-01-05", "--reason", "x"], "XNYS"),
    Refusal(["calendar", "close", "XNYS", "2026-13-05", "--reason", "x"], "YYYY-MM-DD"),
    Refusal(["calendar", "reopen", "XNYS", "2026-01-05"], "nothing to reopen"),
    Refusal(["repair"], "--all"),
    Refusal(["repair", "--all", "--yes"], "--reason"),
    Refusal(["repair", "--all", "--kind", "rust", "--dry-run"], "after_close"),
    Refusal(["repair", "NOPE", "--dry-run"], "symbols add NOPE"),
    Refusal(["alerts", "silence", "Nope"], "LowDataQuality"),
    Refusal(["alerts", "test"], "ALERT_WEBHOOK_URL"),
    Refusal(["sandbox", "--fault", "AAPL:nonsense"], "nonsense"),
    Refusal(["sandbox", "--anchor", "yesterday"], "YYYY-MM-DD"),
    Refusal(["api", "--host", "0.0.0.0"], "ENRICHMENT_API_TOKEN"),
    Refusal(["db", "dump", "/nowhere/dump"], "choose another file"),
    Refusal(["db", "restore", "/nowhere/dump"], "enrichment db dump"),
    Refusal(["db", "restore", "empty.csv"], "empty database"),
    Refusal(["units", "/proc/1/units"], "another folder"),
    Refusal(["export", "grafana", "--output", "/nowhere/x"], "another --output"),
    Refusal(["logs"], "'enrichment up' writes it"),
]
SETTINGS = [
    ("DATABASE_URL", "postgresql://me:geheim@127.0.0.1:1/x", "check DATABASE_URL"),
    ("DATABASE_URL", "postgresql://me:geheim@127.0.0.1:1,127.0.0.1:2/x", "check DATABASE_URL"),
    ("DATABASE_URL", "mysql://me:geheim@127.0.0.1/x", "postgresql://"),
    ("DATABASE_URL", "nonsense", "postgresql://USER:PASSWORD@HOST"),
    ("DATABASE_URL", "postgresql://me:geheim@h:99999/x", "port 99999"),
    ("DATABASE_URL", "postgresql://me:geheim@h/x?conect_timeout=1", "conect_timeout"),
    ("ENRICHMENT_HOUR", "25", "ENRICHMENT_HOUR='25'"),
    ("PROVIDERS_STOCK", "bloomberg", "polygon"),
    ("ENRICHMENT_EXECUTOR", "tcp://127.0.0.1", "tcp://"),
    ("LOG_FORMAT", "xml", "'text' or 'json'"),
    ("ENRICHMENT_API_ORIGINS", "*", "https://app.example.com"),
    ("TRUSTED_PROXIES", "nonsense", "127.0.0.1"),
]
DATABASES = {
    "no_create": ("REVOKE CREATE ON SCHEMA public FROM app", "GRANT CREATE, USAGE"),
    "no_schema": ("ALTER ROLE app IN DATABASE no_schema SET search_path = nowhere", "search_path"),
    "newer": (
        "CREATE TABLE alembic_version (version_num text); GRANT ALL ON alembic_version TO app;"
        " INSERT INTO alembic_version VALUES ('9999')",
        "update the package",
    ),
    "foreign_tables": (
        "CREATE TABLE alembic_version (other int); GRANT ALL ON alembic_version TO app",
        "only this program",
    ),
    "read_only": (
        "ALTER DATABASE read_only SET default_transaction_read_only = on",
        "the primary",
    ),
}
"""Name → how it refuses an upgrade, and what the message says."""


@contextmanager
def refusing_databases() -> Iterator[list[Refusal]]:
    """Upgrades of databases of somebody else, and a command on one without a schema."""
    with debian_server() as admin_url:
        server = parse_url(admin_url)
        run_as_admin(admin_url, "CREATE ROLE app LOGIN", "CREATE DATABASE fresh")
        fresh = server.set(database="fresh", username="app").render_as_string(False)
        refusals = [Refusal(["history"], "enrichment db upgrade", {"DATABASE_URL": fresh})]
        for name, (statements, expected) in DATABASES.items():
            run_as_admin(admin_url, f"CREATE DATABASE {name}")
            admin = server.set(database=name)
            grant = "GRANT CREATE, USAGE ON SCHEMA public TO app"
            run_as_admin(admin.render_as_string(False), grant, *statements.split("; "))
            url = admin.set(username="app").render_as_string(False)
            refusals.append(Refusal(["db", "upgrade"], expected, {"DATABASE_URL": url}))
        for name in ("nobody", "no_database"):
            wrong = server.set(username=name) if name == "nobody" else server.set(database=name)
            url = wrong.render_as_string(False)
            refusals.append(Refusal(["worker"], "does not exist", {"DATABASE_URL": url}))
        yield refusals


def files(folder: Path) -> list[Refusal]:
    """What is wrong with files and folders."""
    (folder / "utf16.csv").write_text("symbol,asset_class,timeframes\n", encoding="utf-16")
    (folder / "latin1.csv").write_bytes(b"symbol,asset_class,timeframes\n\xfc,stock,1d\n")
    (folder / "empty.csv").write_text("")
    (folder / "rules.toml").write_text("[[rule]")
    rules, embedded = str(folder / "rules.toml"), {"DATABASE_URL": ""}
    return [
        Refusal(["alerts", "list"], "not TOML", {"ALERT_RULES_FILE": rules}),
        Refusal(["alerts", "list"], "ALERT_RULES_FILE", {"ALERT_RULES_FILE": "/nowhere"}),
        Refusal(["status"], "another ENRICHMENT_HOME", {**embedded, "ENRICHMENT_HOME": rules}),
    ]


def test_every_error_is_one_line_with_its_cause_and_its_fix(db_url: str, tmp_path: Path) -> None:
    settings = [Refusal(["history"], expected, {n: v}) for n, v, expected in SETTINGS]
    with refusing_databases() as databases, socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = [
            Refusal([command, f"--{part}-port={port}"], f"port {port}")
            for command, part in (("up", "api"), ("up", "dashboard"), ("demo", "sandbox"))
        ]
        refusals = [*ARGUMENTS, *settings, *files(tmp_path), *databases, *ports]
        shown = outcomes(refusals, db_url, tmp_path)
    assert len(shown) == len(refusals)
    wrong = [
        (refusal.arguments, refusal.expected, code, errors)
        for refusal, (code, _, errors) in zip(refusals, shown, strict=True)
        if code not in (1, 2) or not _is_one_line(errors, refusal.expected) or "geheim" in errors
    ]
    assert wrong == []


def _is_one_line(errors: str, expected: str) -> bool:
    """Whether it is one line of an error, after the line with which a process starts."""
    lines = [line for line in errors.splitlines() if " starts; database: " not in line]
    return len(lines) == 1 and lines[0].startswith("error: ") and expected in lines[0]


def test_a_mistyped_home_is_named_before_an_empty_warehouse_is_made() -> None:
    with memory_folder() as folder:
        environment = {"DATABASE_URL": "", "ENRICHMENT_HOME": str(folder / "typo")}
        first, second = outcomes([Refusal(["history"], "", environment)] * 2, "", folder)
    assert f"creating an empty warehouse in {folder / 'typo'}" in first[2]
    assert second[2] == ""
