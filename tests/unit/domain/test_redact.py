"""No place in which a secret can stand lets it through."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.config import Settings
from enrichment.domain.errors import ConfigurationError, EnrichmentError, ProviderUnavailable
from enrichment.domain.redact import Redactor, redact
from enrichment.warehouse.database import Database, parse_url

SECRET = "hunter2-Zx9"  # noqa: S105
PLACES = (
    "postgresql://me:{}@db.example:5432/x",
    "postgresql+psycopg2://me:{}@/x?host=/run",
    "postgresql://db/x?user=me&password={}",
    "postgresql://db/x?PASSWORD={}&sslmode=require",
    "postgresql://db/x?sslpassword={}",
    "connection to server failed: host=db password={} user=me",
    "host=db password='{}' user=me",
    "https://user:{}@proxy:3128/path",
    "amqp://a:{}@host",
    "GET /v2/aggs/AAPL?apiKey={}&limit=5 answered 500",
    "GET /v2/aggs/AAPL?limit=5&api_key={}: timed out",
    "GET /x?access_token={} HTTP/1.1",
    "GET /x?sig={}",
    "Authorization: Bearer {}",
    "authorization: basic {}==",
    "{{'Authorization': 'Bearer {}', 'Accept': '*/*'}}",
    "{{'X-Api-Key': '{}'}}",
    'headers={{"APCA-API-SECRET-KEY": "{}"}}',
    'the body {{"routing_key": "{}", "event_action": "trigger"}} was refused',
    "POLYGON_API_KEY={}",
    "ENRICHMENT_API_TOKEN='{}': too short",
    "ENRICHMENT_DASHBOARD_PASSWORD={}",
    "https://hooks.slack.com/services/T000/B000/{} answered 404",
    "APCA-API-SECRET-KEY: {}",
)


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_is_found_by_its_place(place: str) -> None:
    text = place.format(SECRET)
    assert SECRET not in redact(text)
    assert "***" in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "AAPL: /v2/aggs answered 500 (internal error)",
        "keys: 3, tokens: 5 of 5, secrets are masked",
        "https://api.polygon.io/v2/aggs?limit=5000&sort=asc",
        "set POLYGON_API_KEY, or ENRICHMENT_SANDBOX=true",
        "check POLYGON_API_KEY and the plan it belongs to",
        "postgresql://postgres:@/postgres?host=/tmp/x",
        "write postgresql://USER:PASSWORD@HOST:5432/DATABASE",
        "send the header 'Authorization: Bearer <token>'",
        "11:30 done: key levels at 5:30@close",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@given(st.text(max_size=400))
def test_any_text_is_redacted_in_time_and_without_an_error(text: str) -> None:
    redact(text)


def test_long_texts_take_linear_time() -> None:
    for hostile in ("a" * 500_000, "password" * 60_000, "a://" * 120_000, "x:" * 200_000):
        redact(hostile)


def test_a_known_value_is_found_anywhere_and_in_the_spelling_of_urls() -> None:
    known = Redactor()
    known.add("p@ss/w:rd+1", "abc")
    text = "x p@ss/w:rd+1 y p%40ss%2Fw%3Ard%2B1 z"
    assert known.redact(text) == "x *** y *** z"
    assert known.redact("abc") == "abc"  # too short to be a secret in every word


def test_a_short_value_is_not_masked_within_words() -> None:
    known = Redactor()
    known.add("test")
    assert known.redact("the latest test") == "the latest ***"


def test_a_webhook_is_masked_by_its_address_and_by_the_parts_of_its_path() -> None:
    known = Redactor()
    known.add_url("https://chat.example/hook/f00ba12345678901deadbeef?k=v1234", secret_path=True)
    masked = known.redact("POST /hook/f00ba12345678901deadbeef failed; k was v1234")
    assert masked == "POST /hook/*** failed; k was ***"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in {
        "DATABASE_URL": "postgresql://me@db/x?password=tablePass1",
        "POLYGON_API_KEY": "polyKey123",
        "ENRICHMENT_API_TOKEN": "apiToken123",
        "ENRICHMENT_DASHBOARD_PASSWORD": "dashPass123",
        "PAGERDUTY_ROUTING_KEY": "pagerKey123",
        "ALERT_WEBHOOK_URL": "https://chat.example/hook/f00ba12345678901deadbeef",
    }.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


def test_every_secret_setting_is_masked_in_errors(loaded: Settings) -> None:
    secrets = ("tablePass1", "polyKey123", "apiToken123", "dashPass123", "pagerKey123")
    for secret in (*secrets, "f00ba12345678901deadbeef"):
        assert str(EnrichmentError(f"the reply was {secret}!")) == "the reply was ***!"
        assert secret not in str(ProviderUnavailable(f"x {secret}"))


def test_errors_have_no_control_characters() -> None:
    assert str(ConfigurationError("a\x1b]0;x\x07b\x00\u202ec")) == "a]0;xbc"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:tablePass1@db/x",
        "postgresql://me@db/x?password=tablePass1",
        "postgresql://db/x?user=me&password=tablePass1&sslpassword=tablePass1",
    ],
)
def test_a_databases_address_has_no_password_but_still_connects_with_it(url: str) -> None:
    database = Database(url)
    assert "tablePass1" not in database.address
    assert parse_url(url).password == "tablePass1"  # noqa: S105
    database.close()


PROGRAM = """
import logging, threading
from enrichment.domain.redact import redact_logs, redactor
logging.basicConfig(format="%(message)s")
redactor.add("knownSecret1")
redact_logs()
log = logging.getLogger("any.library")
log.warning("key %s, \\x1b[31mred", "knownSecret1")
try:
    raise ValueError("postgresql://me:urlSecret1@h/d knownSecret1")
except ValueError:
    log.exception("failed")
def fail():
    raise ValueError("knownSecret1 in a thread")
thread = threading.Thread(target=fail); thread.start(); thread.join()
"""


def test_logs_tracebacks_and_threads_of_any_library_are_masked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert "knownSecret1" not in done.stderr
    assert "urlSecret1" not in done.stderr
    assert "\x1b" not in done.stderr
    assert "key ***, [31mred" in done.stderr
    assert "ValueError: postgresql://me:***@h/d ***" in done.stderr
    assert "ValueError: *** in a thread" in done.stderr


def test_the_password_of_an_example_is_shown() -> None:
    example = "write postgresql://USER:PASSWORD@HOST:5432/DATABASE"
    assert redact(example) == example
    assert redact("postgresql://USER:password@HOST/D") == "postgresql://USER:***@HOST/D"
