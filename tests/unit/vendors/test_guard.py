"""A vendor's guard: the pause after a 429."""

from collections.abc import Iterator

import pytest

from enrichment.domain.errors import AccessDenied, ProviderUnavailable, QuotaExceeded, Snooze
from enrichment.domain.statuses import SnoozeCause
from enrichment.vendors.guard import VendorGuard, VendorProtection
from resilience import BreakerAction, OperatorCommand, ResilienceManager, init_resilience_manager


class Clock:
    """Monotonic time that tests set, and that waits let pass."""

    seconds = 1000.0

    def ns(self) -> int:
        return int(self.seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def manager(clock: Clock) -> Iterator[ResilienceManager]:
    manager = init_resilience_manager(clock=clock.ns, sleep=clock.sleep)
    yield manager
    manager.close()


@pytest.fixture
def guard(manager: ResilienceManager, clock: Clock) -> VendorGuard:
    return VendorGuard(
        manager,
        "polygon",
        per_minute=600,
        protection=VendorProtection(max_wait=0.0, max_wait_with_answers=0.0),
        clock=lambda: clock.seconds,
    )


def wait(guard: VendorGuard, retry_after: float | None = None) -> float:
    """Seconds until the item is tried again, after a 429."""

    def refuse() -> None:
        raise QuotaExceeded("answered 429", retry_after)

    with pytest.raises(Snooze) as caught:
        guard(refuse)
    return caught.value.seconds


def test_the_pause_after_a_429_grows_to_an_hour_and_ends_with_an_answer(
    guard: VendorGuard, clock: Clock
) -> None:
    pauses = []
    for _ in range(8):
        pauses.append(wait(guard))
        clock.seconds += pauses[-1]
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert guard(lambda: "bars") == "bars"
    assert wait(guard) == 60


def test_nobody_asks_during_the_pause(guard: VendorGuard, clock: Clock) -> None:
    wait(guard)
    clock.seconds += 10
    asked = []
    with pytest.raises(Snooze) as caught:
        guard(lambda: asked.append(1))
    assert asked == []
    assert caught.value.seconds == pytest.approx(50, abs=1)


def test_several_refusals_of_one_burst_are_one_pause(guard: VendorGuard, clock: Clock) -> None:
    def burst() -> None:
        with pytest.raises(Snooze):
            guard(lambda: inner())
        raise QuotaExceeded("answered 429")

    def inner() -> None:
        raise QuotaExceeded("answered 429")

    with pytest.raises(Snooze) as caught:
        guard(burst)
    assert caught.value.seconds == 60
    clock.seconds += 60
    assert wait(guard) == 120


def test_a_time_that_the_vendor_names_is_kept(guard: VendorGuard, clock: Clock) -> None:
    assert [wait(guard, 7.0)] == [7.0]
    clock.seconds += 7
    assert wait(guard) == 60


class Refusals:
    """A request that is turned away until `accepted`."""

    def __init__(self) -> None:
        self.accepted, self.requests = False, 0

    def __call__(self) -> str:
        self.requests += 1
        if not self.accepted:
            raise QuotaExceeded("answered 429")
        return "bars"


@pytest.fixture
def blocking(manager: ResilienceManager, clock: Clock) -> VendorGuard:
    return VendorGuard(manager, "yahoo", per_minute=60, blocks=True, clock=lambda: clock.seconds)


def test_a_block_is_failed_over_with_a_growing_pause_and_ends_the_night(
    blocking: VendorGuard, clock: Clock
) -> None:
    request = Refusals()
    for pause in (300, 3600):
        with pytest.raises(Snooze) as caught:
            blocking(request)
        assert (caught.value.seconds, caught.value.cause) == (pause, SnoozeCause.OUTAGE)
        asked = request.requests
        with pytest.raises(Snooze, match="yahoo turned this address away"):
            blocking(request)
        assert request.requests == asked
        clock.seconds += pause
    for _ in range(3):
        with pytest.raises(AccessDenied, match=r"3 times: not asked for 8.0 h; install"):
            blocking(request)
    assert request.requests == 3
    clock.seconds += 20 * 3600
    request.accepted = True
    assert blocking(request) == "bars"
    request.accepted = False
    clock.seconds += 1
    with pytest.raises(Snooze) as caught:
        blocking(request)
    assert caught.value.seconds == 300


def test_an_answer_in_between_does_not_shorten_the_pauses_of_a_night(
    blocking: VendorGuard, clock: Clock
) -> None:
    request = Refusals()
    pauses = []
    for _ in range(2):
        with pytest.raises(Snooze) as caught:
            blocking(request)
        pauses.append(caught.value.seconds)
        clock.seconds += pauses[-1]
        request.accepted = True
        assert blocking(request) == "bars"
        request.accepted = False
    assert pauses == [300, 3600]


def test_a_vendor_that_does_not_answer_is_not_waited_for_all_night(
    blocking: VendorGuard, clock: Clock
) -> None:
    def hang() -> None:
        raise ProviderUnavailable("no answer in time")

    outcomes = []
    for _ in range(100):
        try:
            blocking(hang)
        except (Snooze, ProviderUnavailable) as exc:
            outcomes.append((clock.seconds - 1000, exc))
        clock.seconds += 61
    waits = [at for at, exc in outcomes if isinstance(exc, Snooze)]
    assert waits
    assert max(waits) < 5000
    assert "does not answer" in str(outcomes[-1][1]) or "no answer" in str(outcomes[-1][1])


def test_an_operator_ends_the_pause_after_a_429(
    guard: VendorGuard, manager: ResilienceManager
) -> None:
    assert wait(guard, 3000.0) == 3000
    with pytest.raises(Snooze):
        guard(lambda: "bars")
    command = OperatorCommand("polygon_api", BreakerAction.RESET, "rate_limiter")
    assert manager.apply(command)
    assert guard(lambda: "bars") == "bars"
    assert not manager.apply(OperatorCommand("none", BreakerAction.RESET, "rate_limiter"))
