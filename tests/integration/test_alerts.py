"""Alerts from metric to receiver: one notification per change of state, whatever fails between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from enrichment.config import Settings
from enrichment.domain.errors import Conflict, InvalidRequest, ProviderUnavailable, UnknownRule
from enrichment.services.alerts.evaluation import next_state
from enrichment.services.alerts.metrics import METRICS, AlertInputs
from enrichment.services.alerts.rules import DEFAULT_RULES, Rule
from enrichment.services.alerts.service import AlertService
from enrichment.services.commands import Commands
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.alerts import AlertStore, Delivery
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.alerts import AlertEvent, AlertReports
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring.alerts import build_alert_service, read_inputs
from resilience import init_resilience_manager
from tests.helpers.waiting import until
from tests.helpers.webhook_receiver import WebhookReceiver, webhook_receiver

SCHEDULER_RULE = DEFAULT_RULES[0]
FAST_PROTECTION = VendorProtection(
    max_retries=1, initial_delay=0.01, max_delay=0.01, recovery_timeout=0.05
)


@contextmanager
def alert_service(
    db: Database,
    receiver: WebhookReceiver | None = None,
    *,
    rules: tuple[Rule, ...] = (replace(SCHEDULER_RULE, keep_firing_for=timedelta(0)),),
    interval: float = 0.0,
    **options: Any,
) -> Iterator[AlertService]:
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]  # an argument of pydantic-settings
        alert_webhook_url=None if receiver is None else f"{receiver.url}/hook?secret=1",
        **options,
    )
    manager = init_resilience_manager()
    try:
        yield build_alert_service(
            settings,
            db,
            manager,
            evaluator="test",
            interval=interval,
            rules=rules,
            protection=FAST_PROTECTION,
        )
    finally:
        manager.close()


def set_scheduler_running(db: Database, running: bool) -> None:
    """A worker ticked just now, or an hour ago."""
    with db.begin() as conn:
        registered = conn.execute(text("SELECT 1 FROM workers")).first()
    registry = WorkerRegistry(db, "w")
    if not registered:
        registry.register(host="here", pid=1, version="test", threads=5)
    registry.ticked(None)
    if not running:
        with db.begin() as conn:
            conn.execute(text("UPDATE workers SET ticked_at = now() - interval '1 hour'"))


def make_due(db: Database) -> None:
    """Make every postponed delivery due now."""
    with db.begin() as conn:
        conn.execute(text("UPDATE alert_deliveries SET next_attempt_at = now()"))


def deliver_all(db: Database, service: AlertService) -> None:
    for _ in range(20):
        make_due(db)
        service.deliver()
        if not undelivered(db):
            return
        threading.Event().wait(0.06)  # an open breaker tries again after 0.05 s
    raise AssertionError("not delivered")


def undelivered(db: Database) -> int:
    with db.begin() as conn:
        return int(
            conn.execute(
                text("SELECT count(*) FROM alert_deliveries WHERE delivered_at IS NULL")
            ).scalar_one()
        )


def events(db: Database) -> list[AlertEvent]:
    return AlertReports(db).history(100)


def test_every_change_is_delivered_exactly_once_though_the_receiver_fails(
    db: Database,
) -> None:
    with (
        webhook_receiver(500, 503, 429, 500, 500) as receiver,
        alert_service(db, receiver) as service,
    ):
        for running in (False, False, True, True, False):
            set_scheduler_running(db, running)
            assert service.evaluate()
            service.deliver()
        deliver_all(db, service)
        assert receiver.states() == [
            ("SchedulerNotRunning", "firing"),
            ("SchedulerNotRunning", "resolved"),
            ("SchedulerNotRunning", "firing"),
        ]
        assert receiver.requests == 5 + 3
        assert [r.key for r in receiver.delivered] == [str(e.event_id) for e in events(db)[::-1]]
        assert receiver.delivered[0].body | {"event_id": "", "episode": "", "at": ""} == {
            "event_id": "",
            "episode": "",
            "at": "",
            "rule": "SchedulerNotRunning",
            "severity": "critical",
            "state": "firing",
            "value": 0.0,
            "condition": "scheduler.running == false",
            "detail": receiver.delivered[0].body["detail"],
        }
        assert "scheduler.running is 0" in receiver.delivered[0].body["detail"]
        make_due(db)
        assert service.deliver() == 0


def test_a_permanent_rejection_is_retried_too_and_shows_no_secret(db: Database) -> None:
    with webhook_receiver(401, 404) as receiver, alert_service(db, receiver) as service:
        service.evaluate()
        service.deliver()
        (event,) = events(db)
        (delivery,) = event.deliveries
        assert delivery.attempts == 1
        assert delivery.last_error is not None
        assert "401" in delivery.last_error
        assert "ALERT_WEBHOOK_URL" in delivery.last_error
        assert "hook" not in delivery.last_error
        deliver_all(db, service)
        assert receiver.states() == [("SchedulerNotRunning", "firing")]


class Crash(Exception):
    """The process ends here."""


@dataclass
class CrashingChannel:
    """A channel whose process crashes once, before or after the notification was accepted."""

    after: bool
    accepted: list[Delivery] = field(default_factory=list)
    crashed: bool = False

    def send(self, delivery: Delivery) -> None:
        if not self.crashed:
            self.crashed = True
            if self.after:
                self.accepted.append(delivery)
            raise Crash
        self.accepted.append(delivery)


def inputs_of(db: Database) -> Callable[[], AlertInputs]:
    return read_inputs(ReadModels(db))


def service_with(db: Database, channels: dict[str, Any], evaluator: str = "test") -> AlertService:
    return AlertService(
        AlertStore(db),
        inputs_of(db),
        (SCHEDULER_RULE,),
        channels,
        evaluator=evaluator,
        interval=0.0,
    )


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_between_a_change_and_its_delivery_loses_nothing(db: Database, after: bool) -> None:
    channel = CrashingChannel(after)
    first = service_with(db, {"c": channel})
    first.evaluate()
    with pytest.raises(Crash):
        first.deliver()
    second = service_with(db, {"c": channel}, "another")
    assert second.deliver() == 0  # the crashed one's lease has not expired
    make_due(db)
    assert second.deliver() == 1
    # Sent twice only if it was accepted right before the crash, and then with the same id.
    assert len(channel.accepted) == 1 + after
    assert {d.event_id for d in channel.accepted} == {events(db)[0].event_id}


def test_a_crash_within_an_evaluation_changes_nothing(db: Database) -> None:
    store = AlertStore(db)

    def crash_during_evaluation() -> None:
        with store.evaluation("crashing", 60.0) as evaluation:
            assert evaluation is not None
            step = next_state(SCHEDULER_RULE, None, 0.0, evaluation.now, uuid4)
            evaluation.record(
                step.state, "firing", severity="critical", condition="", value=0.0, detail=""
            )
            evaluation.enqueue(step.state, "firing", ["c"])
            raise Crash

    with pytest.raises(Crash):
        crash_during_evaluation()
    assert events(db) == []
    assert undelivered(db) == 0
    with store.evaluation("next", 60.0) as evaluation:
        assert evaluation is not None  # the crashed evaluation does not count


def test_one_evaluator_at_a_time_and_one_per_interval(db: Database) -> None:
    store = AlertStore(db)
    with store.evaluation("a", 60.0) as first:
        assert first is not None
        with store.evaluation("b", 0.0) as concurrent:
            assert concurrent is None
    with store.evaluation("b", 60.0) as too_early:
        assert too_early is None
    evaluated: list[bool] = []

    def compete(name: str) -> None:
        with alert_service(db, interval=30.0) as service:
            evaluated.append(service.evaluate())

    with db.begin() as conn:
        conn.execute(text("UPDATE alert_evaluation SET evaluated_at = now() - interval '1 hour'"))
    threads = [threading.Thread(target=compete, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(evaluated) == [False, False, False, True]


def test_a_dead_worker_is_noticed_by_the_api(db: Database) -> None:
    """The API evaluates if no worker has done so for two minutes."""
    set_scheduler_running(db, True)
    with alert_service(db, interval=120.0) as watcher:
        with alert_service(db, interval=60.0) as worker:
            assert worker.evaluate()
        assert not watcher.evaluate()
        set_scheduler_running(db, False)
        with db.begin() as conn:
            conn.execute(
                text("UPDATE alert_evaluation SET evaluated_at = now() - interval '121 seconds'")
            )
        assert watcher.evaluate()
    (alert,) = AlertReports(db).report().alerts
    assert (alert.rule, alert.state, alert.value) == ("SchedulerNotRunning", "firing", 0.0)


def test_a_flapping_alert_is_notified_once(db: Database) -> None:
    with (
        webhook_receiver() as receiver,
        alert_service(db, receiver, rules=(SCHEDULER_RULE,)) as service,
    ):
        for running in (False, True, False, True, False, True):
            set_scheduler_running(db, running)
            service.evaluate()
            service.deliver()
        assert receiver.states() == [("SchedulerNotRunning", "firing")]
        with db.begin() as conn:
            conn.execute(text("UPDATE alert_states SET clear_since = now() - interval '3 minutes'"))
        service.evaluate()
        service.deliver()
        assert receiver.states()[1:] == [("SchedulerNotRunning", "resolved")]


def test_a_silenced_alert_is_notified_when_the_silence_ends(db: Database) -> None:
    commands = Commands(db)
    with webhook_receiver() as receiver, alert_service(db, receiver) as service:
        commands.silence(
            "SchedulerNotRunning", length=timedelta(hours=2), actor="ops", reason="new machine"
        )
        service.evaluate()
        assert (service.deliver(), receiver.requests) == (0, 0)
        (alert,) = AlertReports(db).report().alerts
        assert (alert.state, alert.silenced_by, alert.silence_reason) == (
            "firing",
            "ops",
            "new machine",
        )
        assert events(db)[0].silenced
        with db.begin() as conn:
            conn.execute(text("UPDATE alert_silences SET until = now()"))
        service.evaluate()
        service.deliver()
        service.evaluate()
        service.deliver()
        assert receiver.states() == [("SchedulerNotRunning", "firing")]
        assert len(events(db)) == 1
    with db.begin() as conn:
        audited = conn.execute(text("SELECT actor, action, target, reason FROM operator_actions"))
        assert [tuple(row) for row in audited] == [
            ("ops", "silence", "SchedulerNotRunning", "new machine")
        ]


def test_an_alert_resolved_during_a_pause_is_only_recorded(db: Database) -> None:
    commands = Commands(db)
    with webhook_receiver() as receiver, alert_service(db, receiver) as service:
        commands.pause(actor="ops", reason="maintenance")
        set_scheduler_running(db, False)
        service.evaluate()
        set_scheduler_running(db, True)
        service.evaluate()
        commands.resume(actor="ops")
        service.evaluate()
        assert (service.deliver(), receiver.requests) == (0, 0)
    assert [(e.state, e.silenced) for e in events(db)] == [("resolved", True), ("firing", True)]


def test_the_end_of_a_notified_alert_is_notified_even_during_a_silence(db: Database) -> None:
    with webhook_receiver() as receiver, alert_service(db, receiver) as service:
        service.evaluate()
        Commands(db).silence("SchedulerNotRunning", length=timedelta(hours=1), actor="ops")
        set_scheduler_running(db, True)
        service.evaluate()
        service.deliver()
        assert [state for _, state in receiver.states()] == ["firing", "resolved"]


def test_a_silence_needs_a_known_rule_and_a_limited_time(db: Database) -> None:
    commands = Commands(db)
    with pytest.raises(UnknownRule, match="EnrichmentJobFailed"):
        commands.silence("Nonsense", length=timedelta(hours=1), actor="ops")
    with pytest.raises(InvalidRequest, match="enabled = false"):
        commands.silence("LongDuration", length=timedelta(days=31), actor="ops")
    with pytest.raises(Conflict):
        commands.unsilence("LongDuration", actor="ops")


def test_pagerduty_and_slack_get_their_own_payloads(db: Database) -> None:
    with webhook_receiver() as receiver:
        options = {
            "alert_webhook_format": "slack",
            "pagerduty_routing_key": "R0",
            "pagerduty_base_url": receiver.url,
        }
        with alert_service(db, receiver, **options) as service:
            service.evaluate()
            set_scheduler_running(db, True)
            service.evaluate()
            assert service.deliver() == 4
        pager = [r.body for r in receiver.delivered if r.path == "/v2/enqueue"]
        slack = [r.body for r in receiver.delivered if r.path == "/hook?secret=1"]
    assert [event["event_action"] for event in pager] == ["trigger", "resolve"]
    assert {event["routing_key"] for event in pager} == {"R0"}
    assert len({event["dedup_key"] for event in pager}) == 1
    assert pager[0]["payload"]["severity"] == "critical"
    assert pager[0]["payload"]["summary"].startswith("SchedulerNotRunning: ")
    assert [message["attachments"][0]["color"] for message in slack] == ["danger", "good"]
    assert "*SchedulerNotRunning* firing" in slack[0]["text"]


def test_an_alert_whose_rule_was_removed_is_resolved(db: Database) -> None:
    with webhook_receiver() as receiver:
        with alert_service(db, receiver) as service:
            service.evaluate()
        with alert_service(db, receiver, rules=()) as service:
            service.evaluate()
            assert len(events(db)) == 1  # another process may still have the rule
            with db.begin() as conn:
                conn.execute(text("UPDATE alert_states SET updated_at = now() - interval '2 h'"))
            service.evaluate()
            service.deliver()
        assert [state for _, state in receiver.states()] == ["firing", "resolved"]


def test_without_a_channel_alerts_are_only_recorded(db: Database) -> None:
    with alert_service(db) as service:
        service.evaluate()
        assert service.deliver() == 0
    assert [(e.state, e.deliveries) for e in events(db)] == [("firing", [])]


def test_every_metric_has_a_value_or_is_unknown_on_an_empty_installation(db: Database) -> None:
    inputs = inputs_of(db)()
    values = {name: metric(inputs) for name, metric in METRICS.items()}
    assert values["scheduler.running"] == 0.0
    assert values["last_job.failure_rate"] is None
    assert values["health.level"] == 2
    assert values["workers.alive"] == 0


def test_the_thread_evaluates_and_delivers(db: Database) -> None:
    with webhook_receiver() as receiver, alert_service(db, receiver) as service:
        service.start()
        try:
            until(lambda: receiver.delivered, "the notification is delivered")
        finally:
            service.stop()
        assert receiver.states()[0] == ("SchedulerNotRunning", "firing")


def test_a_failing_channel_does_not_delay_the_others(db: Database) -> None:
    class FailingChannel:
        def send(self, delivery: Delivery) -> None:
            raise ProviderUnavailable("down")

    accepted: list[Delivery] = []

    class AcceptingChannel:
        def send(self, delivery: Delivery) -> None:
            accepted.append(delivery)

    service = service_with(db, {"a": FailingChannel(), "b": AcceptingChannel()})
    service.evaluate()
    assert service.deliver() == 1
    assert [d.channel for d in accepted] == ["b"]
    assert undelivered(db) == 1


class HangingChannel:
    """A channel that never answers until it is released."""

    def __init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()

    def send(self, delivery: Delivery) -> None:
        self.entered.set()
        self.released.wait(60)


class CountingChannel:
    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, delivery: Delivery) -> None:
        self.sent.append(delivery.rule)


def test_a_channel_that_hangs_delays_neither_the_evaluation_nor_other_channels(
    db: Database,
) -> None:
    set_scheduler_running(db, False)
    hanging, counting = HangingChannel(), CountingChannel()
    rule = replace(SCHEDULER_RULE, keep_firing_for=timedelta(0))
    service = AlertService(
        AlertStore(db),
        read_inputs(ReadModels(db)),
        (rule,),
        {"hanging": hanging, "counting": counting},
        evaluator="test",
        interval=0.0,
        poll_seconds=0.01,
    )
    service.start()
    try:
        assert hanging.entered.wait(10)
        until(lambda: counting.sent, "the other channel gets the notification")
        set_scheduler_running(db, True)
        until(lambda: len(counting.sent) == 2, "the alert is evaluated again, and resolved")
    finally:
        hanging.released.set()
        service.stop()
