"""Circuit breaker, rate limiter, retry and bulkhead for calls of unreliable services.

>>> from resilience import init_resilience_manager
>>> manager = init_resilience_manager()
>>> vendor = manager.pipeline(
...     breaker=manager.register_circuit_breaker("vendor"),
...     limiter=manager.register_rate_limiter("vendor", rate=5, interval=60, burst=5, strict=True),
...     retry=manager.register_retry_policy("vendor"),
... )
>>> vendor.execute(len, "abc")
3
"""

from resilience.bulkhead import Bulkhead, BulkheadStatus, remaining
from resilience.circuit_breaker import CircuitBreaker, CircuitBreakerStatus, Mode, State
from resilience.clock import Sleeper
from resilience.errors import (
    BulkheadFull,
    CircuitOpen,
    RateLimited,
    ResilienceError,
    WrongCallStyle,
)
from resilience.events import (
    CallRejected,
    Event,
    LimiterPaused,
    LimiterResumed,
    Listener,
    RetriesStopped,
    RetryScheduled,
    SharedLimitChanged,
    SlotOverrun,
    StateChanged,
)
from resilience.manager import ResilienceManager, init_resilience_manager
from resilience.pattern import Status
from resilience.pipeline import Pipeline
from resilience.priority import Priority, current_priority, with_priority
from resilience.publishing import (
    BreakerAction,
    CommandSource,
    OperatorCommand,
    Snapshot,
    StatusPublisher,
)
from resilience.rate_limiter import RateLimiter, RateLimiterStatus, waiting_up_to
from resilience.retry import RetryPolicy, RetryStatus, retry_after_of
from resilience.shared_limit import Limit, Reservation, SharedLimiter

__all__ = [
    "BreakerAction",
    "Bulkhead",
    "BulkheadFull",
    "BulkheadStatus",
    "CallRejected",
    "CircuitBreaker",
    "CircuitBreakerStatus",
    "CircuitOpen",
    "CommandSource",
    "Event",
    "Limit",
    "LimiterPaused",
    "LimiterResumed",
    "Listener",
    "Mode",
    "OperatorCommand",
    "Pipeline",
    "Priority",
    "RateLimited",
    "RateLimiter",
    "RateLimiterStatus",
    "Reservation",
    "ResilienceError",
    "ResilienceManager",
    "RetriesStopped",
    "RetryPolicy",
    "RetryScheduled",
    "RetryStatus",
    "SharedLimitChanged",
    "SharedLimiter",
    "Sleeper",
    "SlotOverrun",
    "Snapshot",
    "State",
    "StateChanged",
    "Status",
    "StatusPublisher",
    "WrongCallStyle",
    "current_priority",
    "init_resilience_manager",
    "remaining",
    "retry_after_of",
    "waiting_up_to",
    "with_priority",
]
