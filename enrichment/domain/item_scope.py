"""What the requests of one item have in common, for the vendors' side of the pipeline.

>>> from contextvars import copy_context
>>> from enrichment.domain.model import AssetClass, Timeframe
>>> task = Task(UUID(int=1), "AAPL", AssetClass.STOCK, (Timeframe.D1, Timeframe.W1), "worker", 1)
>>> item_scope() is None
True
>>> copy_context().run(lambda: enter_item(task) or item_scope().job_id)
UUID('00000000-0000-0000-0000-000000000001')
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from uuid import UUID

from enrichment.domain.model import Task


@dataclass(frozen=True, slots=True, eq=False)
class ItemScope:
    """One attempt at an item."""

    job_id: UUID
    market_days: bool
    """Whether its days are taken from those that its job fetched of the whole market."""
    several_timeframes: bool
    answers: dict[Any, Any] = field(default_factory=dict)
    """Vendors' answers that further timeframes may be built from, by a key of their own."""
    locks: dict[Any, Lock] = field(default_factory=dict)

    def lock(self, key: Any) -> Lock:
        """Held while the answer of this key is asked for or read."""
        return self.locks.setdefault(key, Lock())


_scope: ContextVar[ItemScope | None] = ContextVar("item_scope", default=None)


def item_scope() -> ItemScope | None:
    """The item that this context works for; None for none."""
    return _scope.get()


def enter_item(task: Task) -> None:
    """Begin the scope of an item, which lasts as long as the context that this is called in."""
    _scope.set(ItemScope(task.job_id, task.market_days, len(task.timeframes) > 1))
