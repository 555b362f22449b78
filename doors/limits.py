"""How long one attempt may take, and how long it may be silent.  (floor 4)

Numbers on the clock of the door that made it, and nothing that rings: each door has its own way to
wake up. On asyncio a silence also ends when nobody looks at a clock; that timer is in `aio.py`.
"""

from __future__ import annotations

from errors import AttemptTimedOut


class Limit:
    """The end of one attempt. `heard` only moves a number: whoever wakes up looks at `at_s` again.

    Args:
        s: how many seconds it has in all.
        silence_s: how many seconds without content end it too; None for as many as it likes.
        now_s: when it begins.
    """

    __slots__ = ("end_s", "s", "silence_s", "silent_at_s")

    def __init__(self, s: float, silence_s: float | None, now_s: float) -> None:
        self.s, self.silence_s = s, silence_s
        self.end_s = now_s + s
        self.silent_at_s = self.end_s if silence_s is None else now_s + silence_s

    @property
    def at_s(self) -> float:
        """When it is over, if nothing is heard until then."""
        return min(self.end_s, self.silent_at_s)

    def heard(self, now_s: float) -> bool:
        """Content arrived: the silence begins anew. False when this attempt may be silent."""
        if self.silence_s is None:
            return False
        self.silent_at_s = now_s + self.silence_s
        return True

    def error(self) -> AttemptTimedOut:
        """What to raise when it is over."""
        if self.silence_s is not None and self.silent_at_s < self.end_s:
            return AttemptTimedOut(self.silence_s, silent=True)
        return AttemptTimedOut(self.s)


ENDLESS = Limit(float("inf"), None, 0.0)
