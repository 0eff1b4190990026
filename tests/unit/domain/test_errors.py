"""Pickling of errors, as between processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from enrichment.domain import errors
from enrichment.domain.errors import (
    EnrichmentError,
    ProviderUnavailable,
    QuotaExceeded,
    RequestRefused,
    Snooze,
    StepFailed,
)
from enrichment.engine.dask_worker import to_portable

ARGUMENTS: dict[type[EnrichmentError], tuple[object, ...]] = {
    QuotaExceeded: ("wait", 7.0),
    RequestRefused: ("no", 404),
    Snooze: ("later", 2.5),
    StepFailed: ("fetch", "1d", 12.5),
}


def tree(kind: type[EnrichmentError] = EnrichmentError) -> Iterator[type[EnrichmentError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


def pickled_and_loaded(exc: Exception) -> Exception:
    arrived: Exception = pickle.loads(pickle.dumps(to_portable(exc)))  # noqa: S301 — made here
    return arrived


@pytest.mark.parametrize("kind", [kind for kind in tree() if kind.__module__ == errors.__name__])
def test_every_error_survives_pickling_with_its_cause(kind: type[EnrichmentError]) -> None:
    error = kind(*ARGUMENTS.get(kind, ("what went wrong",)))
    failed = StepFailed("store", None, 3.0)
    failed.__cause__ = error
    arrived = pickled_and_loaded(failed)
    assert isinstance(arrived, StepFailed)
    assert (arrived.step, arrived.timeframe, arrived.duration_ms) == ("store", None, 3.0)
    cause = arrived.__cause__
    assert type(cause) is kind
    assert (str(cause), vars(cause), cause.permanent) == (str(error), vars(error), error.permanent)


def test_the_cause_of_a_cause_is_not_pickled() -> None:
    failed, unavailable = StepFailed("fetch", "1d", 1.0), ProviderUnavailable("reset")
    unavailable.__cause__ = ConnectionError("http://vendor?apiKey=secret")
    failed.__cause__ = unavailable
    assert b"secret" not in pickle.dumps(to_portable(failed))
    assert pickled_and_loaded(failed).__cause__.__cause__ is None  # type: ignore[union-attr]  # just seen


def test_foreign_errors_keep_their_type_or_their_name() -> None:
    class Unimportable(Exception):
        """Of a class that no other process can import."""

    failed = StepFailed("compute", "1d", 1.0)
    failed.__cause__ = KeyError("close")
    assert isinstance(pickled_and_loaded(failed).__cause__, KeyError)
    failed.__cause__ = Unimportable("never")
    assert str(pickled_and_loaded(failed).__cause__) == "Unimportable: never"
