"""One absolute end for a question or a call, so that no layer adds its own minutes.  (floor 0)

A deadline is a point on the monotonic clock, computed once and handed down. Layers ask
what is left; nobody restarts it. The numbers below keep timeouts truthful: when an outer
timer and an inner one end together, the outer cancels the inner and a dead dependency is
booked as "cancelled". So the outer timer runs `OUTER_GRACE_S` longer, and no attempt
starts that could not finish anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

OUTER_GRACE_S = 0.1
"""How much later an outer timer fires than the deadline its inner attempts obey."""

START_S_MIN = 0.2
"""No attempt starts with less than this left: it would only be killed."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """An end on the monotonic clock, in seconds. `Deadline.after(now_s, 10)` or `NEVER`."""

    at_s: float

    @classmethod
    def after(cls, now_s: float, s: float) -> Deadline:
        """The deadline `s` seconds after `now_s`."""
        return cls(now_s + s)

    def left_s(self, now_s: float) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at_s - now_s)

    def allows_start(self, now_s: float) -> bool:
        """Whether enough is left for one more attempt to make sense."""
        return self.left_s(now_s) >= START_S_MIN

    def fits(self, now_s: float, wait_s: float) -> bool:
        """Whether one can wait `wait_s` and still start an attempt."""
        return self.left_s(now_s) - wait_s >= START_S_MIN

    def earlier(self, now_s: float, s: float) -> Deadline:
        """The earlier one of this deadline and `s` seconds from now."""
        return Deadline(min(self.at_s, now_s + s))


NEVER = Deadline(math.inf)
