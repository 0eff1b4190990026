"""What the checks find of injected faults, on fewer series and with other seeds than measured."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks import detection


@pytest.mark.parametrize("seed", [11, 12])
def test_faults_are_found_and_clean_bars_are_not_flagged(seed: int) -> None:
    checks, plain = detection.measure(series=30, faults=5, seed=seed)
    found, by_z_score = detection.total(checks), detection.total(plain)
    assert (found.faults, found.recall > 0.98) == (150, True)
    assert found.false <= 1
    assert found.recall > by_z_score.recall
    assert found.false < by_z_score.false


def test_every_kind_of_fault_is_found_in_some_series() -> None:
    checks, _ = detection.measure(series=20, faults=3, seed=13)
    assert {kind for kind, count in checks.items() if count.recall < 0.8} == set()


@pytest.mark.parametrize("by", [0.12, 0.2])
def test_a_day_on_which_the_market_falls_is_no_outlier(by: float) -> None:
    assert detection.flags_on_a_crash(50, seed=14, by=by) <= 1


def test_one_that_falls_alone_is_an_outlier() -> None:
    random = np.random.default_rng(15)
    market = detection.Market.of(random)
    alone = detection.simulated(random, market.crashing(0.4))
    assert detection.flagged_on(alone, detection.SESSIONS[detection.CRASH], 0.0)
