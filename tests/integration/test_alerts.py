"""Alerts from figure to receiver: once per change of state, whatever fails in between."""

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
from enrichment.domain.errors import InvalidRequest, ProviderUnavailable, UnknownRule
from enrichment.services.alerts.evaluation import next_state
from enrichment.services.alerts.metrics import FIGURES, AlertInputs
from enrichment.services.alerts.rules import DEFAULT_RULES, Rule
from enrichment.services.alerts.service import AlertService
from enrichment.services.commands import Commands
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.alert_rows import AlertEvent, Delivery
from enrichment.warehouse.alerts import AlertStore
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring import alerts as alerting
from resilience import init_resilience_manager
from tests.helpers.waiting import until
from tests.helpers.webhook_receiver import WebhookReceiver, webhook_receiver

SCHEDULER = DEFAULT_RULES[0]
IMPATIENT = VendorProtection(
    max_retries=1, initial_delay=0.01, max_delay=0.01, recovery_timeout=0.05
)


@contextmanager
def service_of(
    db: Database,
    receiver: WebhookReceiver | None = None,
    *,
    rules: tuple[Rule, ...] = (replace(SCHEDULER, keep_firing_for=timedelta(0)),),
    interval: float = 0.0,
    **options: Any,
) -> Iterator[AlertService]:
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]  # an argument of pydantic-settings
        alert_webhook_url=None if receiver is None else f"{receiver.url}/hook?secret=1",
        **options,
    )
    manager = init_resilience_manager()
    reader = ReadModels(db, hour=1, minute=30, enabled=True)
    try:
        yield alerting.build_alert_service(
            settings,
            reader,
            manager,
            evaluator="test",
            interval=interval,
            rules=rules,
            protection=IMPATIENT,
        )
    finally:
        manager.close()


def scheduler_runs(db: Database, running: bool) -> None:
    """Let a worker's clock tick, or have ticked long ago."""
    with db.begin() as conn:
        known = conn.execute(text("SELECT 1 FROM workers")).first()
    registry = WorkerRegistry(db, "w")
    if not known:
        registry.register(host="here", pid=1, version="test", threads=5)
    registry.ticked()
    if not running:
        with db.begin() as conn:
            conn.execute(text("UPDATE workers SET ticked_at = now() - interval '1 hour'"))


def hurry(db: Database) -> None:
    """Let postponed deliveries be due."""
    with db.begin() as conn:
        conn.execute(text("UPDATE alert_deliveries SET next_attempt_at = now()"))


def deliver_all(db: Database, service: AlertService) -> None:
    for _ in range(20):
        hurry(db)
        service.deliver()
        if not waiting(db):
            return
        threading.Event().wait(0.06)  # an open breaker tries again after 0.05 s
    raise AssertionError("not delivered")


def waiting(db: Database) -> int:
    with db.begin() as conn:
        return int(
            conn.execute(
                text("SELECT count(*) FROM alert_deliveries WHERE delivered_at IS NULL")
            ).scalar_one()
        )


def events(db: Database) -> list[AlertEvent]:
    return AlertStore(db).history(100)


def test_every_change_of_state_arrives_exactly_once_though_the_receiver_fails(
    db: Database,
) -> None:
    with webhook_receiver(500, 503, 429, 500, 500) as receiver, service_of(db, receiver) as service:
        for running in (False, False, True, True, False):
            scheduler_runs(db, running)
            assert service.evaluate()
            service.deliver()
        deliver_all(db, service)
        assert receiver.states() == [
            ("SchedulerNotRunning", "firing"),
            ("SchedulerNotRunning", "resolved"),
            ("SchedulerNotRunning", "firing"),
        ]
        assert receiver.asked == 5 + 3
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
            "detail": "scheduler.running is 0; scheduler.running == false holds",
        }
        hurry(db)
        assert service.deliver() == 0


def test_a_refusal_for_good_is_tried_again_too_and_shows_no_secret(db: Database) -> None:
    with webhook_receiver(401, 404) as receiver, service_of(db, receiver) as service:
        service.evaluate()
        service.deliver()
        (event,) = events(db)
        (delivery,) = event.deliveries
        assert delivery.attempts == 1
        assert delivery.last_error is not None
        assert "127.0.0.1 answered 401" in delivery.last_error
        assert "ALERT_WEBHOOK_URL" in delivery.last_error
        assert "hook" not in delivery.last_error
        deliver_all(db, service)
        assert receiver.states() == [("SchedulerNotRunning", "firing")]


class Crash(Exception):
    """The process ends here."""


@dataclass
class Breaking:
    """A channel whose process ends before, or right after, the other side takes a delivery."""

    after: bool
    taken: list[Delivery] = field(default_factory=list)
    broken: bool = False

    def send(self, delivery: Delivery) -> None:
        if not self.broken:
            self.broken = True
            if self.after:
                self.taken.append(delivery)
            raise Crash
        self.taken.append(delivery)


def readings_of(db: Database) -> Callable[[], AlertInputs]:
    return alerting.read_inputs(ReadModels(db, hour=1, minute=30, enabled=True))


def bare(db: Database, channels: dict[str, Any], evaluator: str = "test") -> AlertService:
    return AlertService(
        AlertStore(db),
        readings_of(db),
        (SCHEDULER,),
        channels,
        evaluator=evaluator,
        interval=0.0,
    )


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_between_a_change_and_its_delivery_loses_nothing(db: Database, after: bool) -> None:
    channel = Breaking(after)
    first = bare(db, {"c": channel})
    first.evaluate()
    with pytest.raises(Crash):
        first.deliver()
    second = bare(db, {"c": channel}, "another")
    assert second.deliver() == 0  # the lease of the dead one has not run out
    hurry(db)
    assert second.deliver() == 1
    # Sent twice only if the crash hid that it was taken, and then under one id.
    assert len(channel.taken) == 1 + after
    assert {d.event_id for d in channel.taken} == {events(db)[0].event_id}


def test_a_crash_within_an_evaluation_changes_nothing(db: Database) -> None:
    store = AlertStore(db)

    def die_in_the_middle() -> None:
        with store.evaluation("dying", 60.0) as evaluation:
            assert evaluation is not None
            done = next_state(SCHEDULER, None, 0.0, evaluation.now, uuid4)
            evaluation.record(
                done.state, "firing", severity="critical", condition="", value=0.0, detail=""
            )
            evaluation.enqueue(done.state, "firing", ["c"])
            raise Crash

    with pytest.raises(Crash):
        die_in_the_middle()
    assert events(db) == []
    assert waiting(db) == 0
    with store.evaluation("next", 60.0) as evaluation:
        assert evaluation is not None  # the dead one's turn was given back


def test_one_evaluator_at_a_time_and_one_per_interval(db: Database) -> None:
    store = AlertStore(db)
    with store.evaluation("a", 60.0) as held:
        assert held is not None
        with store.evaluation("b", 0.0) as other:
            assert other is None
    with store.evaluation("b", 60.0) as soon:
        assert soon is None
    turns: list[bool] = []

    def compete(name: str) -> None:
        with service_of(db, interval=30.0) as service:
            turns.append(service.evaluate())

    with db.begin() as conn:
        conn.execute(text("UPDATE alert_evaluation SET evaluated_at = now() - interval '1 hour'"))
    threads = [threading.Thread(target=compete, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(turns) == [False, False, False, True]


def test_a_dead_worker_is_noticed_by_the_one_who_watches(db: Database) -> None:
    """The API's process evaluates once no worker has for two minutes."""
    scheduler_runs(db, True)
    with service_of(db, interval=120.0) as watcher:
        with service_of(db, interval=60.0) as worker:
            assert worker.evaluate()
        assert not watcher.evaluate()
        scheduler_runs(db, False)
        with db.begin() as conn:
            conn.execute(
                text("UPDATE alert_evaluation SET evaluated_at = now() - interval '121 seconds'")
            )
        assert watcher.evaluate()
    (alert,) = AlertStore(db).report().alerts
    assert (alert.rule, alert.state, alert.value) == ("SchedulerNotRunning", "firing", 0.0)


def test_flapping_is_told_once(db: Database) -> None:
    with webhook_receiver() as receiver, service_of(db, receiver, rules=(SCHEDULER,)) as service:
        for running in (False, True, False, True, False, True):
            scheduler_runs(db, running)
            service.evaluate()
            service.deliver()
        assert receiver.states() == [("SchedulerNotRunning", "firing")]
        with db.begin() as conn:
            conn.execute(text("UPDATE alert_states SET clear_since = now() - interval '3 minutes'"))
        service.evaluate()
        service.deliver()
        assert receiver.states()[1:] == [("SchedulerNotRunning", "resolved")]


def test_a_silence_tells_nobody_and_its_end_tells_what_still_fires(db: Database) -> None:
    commands = Commands(db)
    with webhook_receiver() as receiver, service_of(db, receiver) as service:
        commands.silence(
            "SchedulerNotRunning", length=timedelta(hours=2), actor="ops", reason="new machine"
        )
        service.evaluate()
        assert (service.deliver(), receiver.asked) == (0, 0)
        (alert,) = AlertStore(db).report().alerts
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


def test_what_came_and_went_in_silence_is_history_only(db: Database) -> None:
    commands = Commands(db)
    with webhook_receiver() as receiver, service_of(db, receiver) as service:
        commands.pause(actor="ops", reason="maintenance")
        scheduler_runs(db, False)
        service.evaluate()
        scheduler_runs(db, True)
        service.evaluate()
        commands.resume(actor="ops")
        service.evaluate()
        assert (service.deliver(), receiver.asked) == (0, 0)
    assert [(e.state, e.silenced) for e in events(db)] == [("resolved", True), ("firing", True)]


def test_what_was_told_is_told_to_be_over_even_in_silence(db: Database) -> None:
    with webhook_receiver() as receiver, service_of(db, receiver) as service:
        service.evaluate()
        Commands(db).silence("SchedulerNotRunning", length=timedelta(hours=1), actor="ops")
        scheduler_runs(db, True)
        service.evaluate()
        service.deliver()
        assert [state for _, state in receiver.states()] == ["firing", "resolved"]


def test_silences_are_for_known_rules_and_limited_times(db: Database) -> None:
    commands = Commands(db)
    with pytest.raises(UnknownRule, match="known are EnrichmentJobFailed"):
        commands.silence("Nonsense", length=timedelta(hours=1), actor="ops")
    with pytest.raises(InvalidRequest, match="enabled = false"):
        commands.silence("LongDuration", length=timedelta(days=31), actor="ops")
    with pytest.raises(InvalidRequest, match="not silenced"):
        commands.unsilence("LongDuration", actor="ops")


def test_pagerduty_and_slack_get_their_own_forms(db: Database) -> None:
    with webhook_receiver() as receiver:
        options = {
            "alert_webhook_format": "slack",
            "pagerduty_routing_key": "R0",
            "pagerduty_base_url": receiver.url,
        }
        with service_of(db, receiver, **options) as service:
            service.evaluate()
            scheduler_runs(db, True)
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


def test_an_alert_whose_rule_is_gone_is_resolved(db: Database) -> None:
    with webhook_receiver() as receiver:
        with service_of(db, receiver) as service:
            service.evaluate()
        with service_of(db, receiver, rules=()) as service:
            service.evaluate()
            assert len(events(db)) == 1  # another evaluator may know the rule
            with db.begin() as conn:
                conn.execute(text("UPDATE alert_states SET updated_at = now() - interval '2 h'"))
            service.evaluate()
            service.deliver()
        assert [state for _, state in receiver.states()] == ["firing", "resolved"]


def test_without_a_channel_there_is_history_and_nothing_to_deliver(db: Database) -> None:
    with service_of(db) as service:
        service.evaluate()
        assert service.deliver() == 0
    assert [(e.state, e.deliveries) for e in events(db)] == [("firing", [])]


def test_every_figure_has_a_value_or_is_unknown_on_an_empty_installation(db: Database) -> None:
    readings = readings_of(db)()
    values = {name: figure(readings) for name, figure in FIGURES.items()}
    assert values["scheduler.running"] == 0.0
    assert values["last_job.failure_rate"] is None
    assert values["health.level"] == 2
    assert values["workers.alive"] == 0


def test_the_thread_evaluates_and_delivers_by_itself(db: Database) -> None:
    with webhook_receiver() as receiver, service_of(db, receiver) as service:
        service.start()
        try:
            until(lambda: receiver.delivered, "the receiver has taken it")
        finally:
            service.stop()
        assert receiver.states()[0] == ("SchedulerNotRunning", "firing")


def test_a_channel_that_fails_does_not_hold_up_the_other(db: Database) -> None:
    class Refusing:
        def send(self, delivery: Delivery) -> None:
            raise ProviderUnavailable("down")

    taken: list[Delivery] = []

    class Taking:
        def send(self, delivery: Delivery) -> None:
            taken.append(delivery)

    service = bare(db, {"a": Refusing(), "b": Taking()})
    service.evaluate()
    assert service.deliver() == 1
    assert [d.channel for d in taken] == ["b"]
    assert waiting(db) == 1
