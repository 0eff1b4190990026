"""On servers of others: least privileges, poolers, other encodings, and wrong addresses."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from enrichment.domain.errors import ConfigurationError, DatabaseUnavailable
from enrichment.warehouse import reader_role
from enrichment.warehouse.database import Database, encoding_limit, parse_url
from enrichment.warehouse.queue.jobs import CHANNEL
from enrichment.warehouse.queue.notify import JobListener
from enrichment.wiring.database import open_reader, upgrade_schema
from tests.helpers.database_servers import debian_server, embedded_server, pooler, run_as_admin
from tests.helpers.waiting import until


@pytest.fixture(scope="module", params=["15 of Debian", "18 embedded"])
def admin_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with debian_server() if request.param.startswith("15") else embedded_server() as url:
        yield url


@pytest.fixture(scope="module")
def debian_url() -> Iterator[str]:
    with debian_server() as url:
        yield url


@contextmanager
def owned_database(admin_url: str, rights: str) -> Iterator[tuple[str, str]]:
    """A database on which 'app', a user of these rights, may create tables, for app and admin."""
    server = parse_url(admin_url)
    run_as_admin(admin_url, f"CREATE ROLE app LOGIN {rights}", "CREATE DATABASE owned")
    admin = server.set(database="owned").render_as_string(False)
    run_as_admin(admin, "GRANT CREATE, USAGE ON SCHEMA public TO app")
    try:
        yield server.set(database="owned", username="app").render_as_string(False), admin
    finally:
        run_as_admin(
            admin_url,
            "DROP DATABASE owned WITH (FORCE)",
            f"DROP ROLE IF EXISTS {reader_role.READER}",
            "DROP ROLE app",
        )


def upgraded(url: str) -> Database:
    db = Database(url, pool_size=1)
    upgrade_schema(db)
    return db


def reads_as(db: Database) -> str:
    with open_reader(db, pool_size=1, application="test", timeout_seconds=5) as reader:
        with reader.begin() as conn:
            user: str = conn.execute(
                text("SELECT current_user FROM bars RIGHT JOIN (SELECT 1) one ON true")
            ).scalar_one()
        with pytest.raises(DatabaseUnavailable, match="read-only"), reader.begin() as conn:
            conn.execute(text("DELETE FROM bars"))
    db.close()
    return user


def test_an_owner_that_may_create_roles_reads_as_the_reader(admin_url: str) -> None:
    with owned_database(admin_url, "CREATEROLE") as (url, _):
        db = upgraded(url)
        assert reader_role.missing(db) is None
        assert reads_as(db) == reader_role.READER


def test_the_statements_of_the_message_let_a_plain_owner_read_as_the_reader(
    admin_url: str,
) -> None:
    with owned_database(admin_url, "") as (url, admin):
        db = upgraded(url)
        problem = reader_role.missing(db)
        assert problem is not None
        assert reads_as(db) == "app"
        statements = re.search("'(CREATE ROLE.*?)'", problem)
        assert statements is not None
        run_as_admin(admin, *statements[1].split("; "))
        assert reads_as(upgraded(url)) == reader_role.READER


def test_a_role_that_may_not_read_a_table_is_not_read_with(admin_url: str) -> None:
    with owned_database(admin_url, "CREATEROLE") as (url, admin):
        db = upgraded(url)
        run_as_admin(admin, f"REVOKE SELECT ON bars FROM {reader_role.READER}")
        assert reads_as(db) == "app"


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_settings_hold_through_a_pooler_and_reach_nobody_else(debian_url: str, mode: str) -> None:
    shown = text(
        "SELECT current_setting('TimeZone'), current_setting('statement_timeout'),"
        " current_setting('transaction_read_only')"
    )
    with pooler(debian_url, mode) as url:
        ours = Database(url, pool_size=1, statement_timeout_ms=1234, read_only=True)
        for _ in range(3):
            with ours.begin() as conn:
                assert conn.execute(shown).one() == ("UTC", "1234ms", "on")
        ours.close()
        other = Database(f"{url}?application_name=other", pool_size=1)
        with other.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            assert conn.execute(text("SHOW TimeZone")).scalar_one() == "Asia/Kolkata"
        other.close()


def test_through_a_pooler_workers_poll_unless_the_direct_address_is_given(
    debian_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    woken = threading.Event()
    with pooler(debian_url, "transaction") as url:
        pooled, direct = Database(url, pool_size=1), Database(debian_url, pool_size=1)
        polling = JobListener(pooled, woken.set)
        listening = JobListener(direct, woken.set)
        for listener in (polling, listening):
            listener.start()
        until(lambda: "found by polling" in caplog.text)
        until(lambda: notified(pooled, woken), "the notification arrives")
        for listener in (polling, listening):
            listener.stop()
        pooled.close()
        direct.close()
    assert "DIRECT_DATABASE_URL" in caplog.text


def notified(db: Database, woken: threading.Event) -> bool:
    with db.begin() as conn:
        conn.execute(text(f"NOTIFY {CHANNEL}"))
    return woken.wait(0.1)


@pytest.mark.parametrize(
    ("encoding", "stored"),
    [("UTF8", "a€é"), ("SQL_ASCII", "a€é"), ("LATIN1", "a\\u20acé")],
)
def test_texts_are_stored_in_any_encoding_and_without_nul(
    debian_url: str, encoding: str, stored: str
) -> None:
    name = f"in_{encoding.lower()}"
    run_as_admin(debian_url, f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0")
    db = upgraded(parse_url(debian_url).set(database=name).render_as_string(False))
    with db.begin() as conn:
        kept = conn.execute(
            text("SELECT :text, CAST(:json AS jsonb) ->> 'k'"),
            {"text": "a\0€é", "json": r'{"k": "x\u0000y"}'},
        ).one()
    assert kept == (stored, "xy")
    assert (encoding_limit(db) is None) == (encoding == "UTF8")
    db.close()
    run_as_admin(debian_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://h:99999/d", "port 99999"),
        ("postgresql://h:abc/d", "can't be read"),
        ("postgresql://h/d?conect_timeout=1", "'conect_timeout'"),
        ("postgresql://h1:5432,h2:99999/d", "can't be read"),
    ],
)
def test_a_wrong_address_is_named(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("postgresql://u:p%2C@h1:1,h2/d", ("h1,h2", "1,5432", "read-write")),
        ("postgres://h1,[::1]:2/d?target_session_attrs=any", ("h1,::1", "5432,2", "any")),
    ],
)
def test_several_servers_are_read_as_libpq_does(url: str, servers: tuple[str, ...]) -> None:
    parsed = parse_url(url)
    assert tuple(parsed.query[n] for n in ("host", "port", "target_session_attrs")) == servers
    assert parsed.database == "d"
