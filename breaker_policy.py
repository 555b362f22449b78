"""What a circuit breaker is told: when to open, for how long, what closes it again.  (floor 1)

The defaults judge by failures in a row. A window judges by the last N calls:

        oldest ┌───┬───┬───┬───┬───┬───┬───┬───┐ newest      failure rate 3/8
     falls out │   │ F │   │ S │ F │   │ F │ S │ comes in    slow rate    2/8
               └───┴───┴───┴───┴───┴───┴───┴───┘

A row sees a dependency that is down. It is blind to one that fails every other call for hours,
since each success ends the row, and to one that answers too late to be of use. A window of the
last N calls sees both (resilience4j's COUNT_BASED sliding window, and its names). It is a ring:
a call costs the same however large it is. One that is slow and failed counts for both rates.

    BreakerPolicy(window=CountWindow(size=50, slow_s=2.0), open_s_growth=2.0, open_s_jitter=0.5)

What this deliberately does not do: forget with time (a quiet night proves nothing), lock (the
breaker that owns it does), or count calls that say nothing about the dependency.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from errors import ConfigurationError

_GROWTHS_MAX = 32  # beyond this any open time has reached any sane cap; keeps the power finite


class WindowCounts(NamedTuple):
    """What stands in a window at one moment."""

    calls: int = 0
    failed: int = 0
    slow: int = 0

    @property
    def failure_rate(self) -> float:
        """The share of failed calls, 0 to 1; 0 when there are none."""
        return self.failed / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """The share of slow calls, 0 to 1; 0 when there are none."""
        return self.slow / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class CountWindow:
    """How many of the last calls may fail or be slow. Raises ConfigurationError for numbers without sense."""

    size: int = 100
    """Calls looked at. resilience4j: 100."""
    failure_rate: float = 0.5
    """The share of failed calls, above 0 up to 1, from which on the circuit opens. resilience4j: 50 %."""
    slow_rate: float = 0.5
    """The same for slow calls. resilience4j's 100 % would let one quick call in a hundred excuse the rest."""
    slow_s: float = math.inf
    """Calls that take this many seconds or longer are slow; inf: none is, and no call is timed."""
    calls_min: int = 20
    """With fewer calls in the window nothing is judged: one failure of two calls is no rate."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigurationError(f"size must be at least 1, not {self.size}")
        if not 1 <= self.calls_min <= self.size:
            raise ConfigurationError(f"calls_min must be between 1 and size ({self.size}), not {self.calls_min}")
        for name in ("failure_rate", "slow_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigurationError(f"{name} must be above 0 and at most 1, not {getattr(self, name)}")
        if not self.slow_s > 0:
            raise ConfigurationError(f"slow_s must be more than 0 seconds, not {self.slow_s}")

    def too_much(self, counts: WindowCounts) -> str:
        """What is too much in these calls, in words; "" when nothing is, or too few are there to judge."""
        if counts.calls < self.calls_min:
            return ""
        if counts.failure_rate >= self.failure_rate:
            return f"{counts.failed} of its last {counts.calls} calls failed"
        if counts.slow_rate >= self.slow_rate:
            return f"{counts.slow} of its last {counts.calls} calls took {self.slow_s:g} s or longer"
        return ""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open, for how long, and what closes again. The defaults are for production.

    Raises ConfigurationError for values that make no sense.
    """

    failure_threshold: int = 5
    """Failures in a row that open the circuit. gobreaker and pybreaker: 5."""
    open_s: float = 60.0
    """Seconds of refusing before the first probe. gobreaker and pybreaker: 60."""
    success_threshold: int = 1
    """Probes that must succeed to close; a probe that fails opens again at once."""
    max_probes: int = 1
    """Calls let through at the same time while half-open."""
    open_s_max: float = 300.0
    """The longest open time a server's Retry-After can ask for or growth can reach, in seconds."""
    lease_s: float = 150.0
    """Seconds a probe keeps its place when `acquire` is not told: the longest call (120) and a grace."""
    window: CountWindow | None = None
    """Judge by the rates of the last calls; `failure_threshold` then counts for nothing."""
    open_s_growth: float = 1.0
    """By what the open time grows each time a probe fails; a close begins anew. 1: not at all."""
    open_s_jitter: float = 0.0
    """The share of the open time, 0 to 1, of which a random part is taken off. 0: none."""

    def __post_init__(self) -> None:
        for name in ("failure_threshold", "success_threshold", "max_probes"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("open_s", "open_s_max"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} must be a number of seconds, not {getattr(self, name)}")
        if not self.lease_s > 0:
            raise ConfigurationError(f"lease_s must be more than 0 seconds, not {self.lease_s}")
        if not 1 <= self.open_s_growth <= 100:
            raise ConfigurationError(f"open_s_growth must be between 1 and 100, not {self.open_s_growth}")
        if not 0 <= self.open_s_jitter <= 1:
            raise ConfigurationError(f"open_s_jitter must be between 0 and 1, not {self.open_s_jitter}")

    def opening_s(self, failed_probes: int, draw: Callable[[], float]) -> float:
        """How long to stay open after so many failed probes since the last close; jitter after the cap."""
        grown_s = self.open_s * self.open_s_growth ** min(failed_probes, _GROWTHS_MAX)
        capped_s = min(grown_s, max(self.open_s, self.open_s_max))
        return capped_s * (1.0 - self.open_s_jitter * draw()) if self.open_s_jitter else capped_s


VOICE = BreakerPolicy(failure_threshold=3, open_s=30.0)
"""For spoken conversations: nobody stays on the line for five failures."""


class LastCalls:
    """The ring of the last calls. `counts` is replaced, never changed: it can be read without a lock."""

    __slots__ = ("_calls", "_window", "counts")

    def __init__(self, window: CountWindow) -> None:
        self._window = window
        self._calls: deque[tuple[bool, bool]] = deque()
        self.counts = WindowCounts()

    def add(self, *, failed: bool, slow: bool) -> str:
        """Put one call in; the oldest falls out when the window is full.

        Returns what is too much now, in words; "" when nothing is, or too few calls are there to judge.
        """
        calls, failures, slows = self.counts
        if calls == self._window.size:
            old_failed, old_slow = self._calls.popleft()
            calls, failures, slows = calls - 1, failures - old_failed, slows - old_slow
        self._calls.append((failed, slow))
        counts = WindowCounts(calls + 1, failures + failed, slows + slow)
        too_much = self._window.too_much(counts)
        if not too_much:  # else the circuit opens: who saw these counts would still be let through
            self.counts = counts
        return too_much
